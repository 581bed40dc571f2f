"""When soft pruning sets weights to zero, and from when on they stay there."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune._checks import check_steps


def window(
    every: int, begin: int, end: int | None, total: int | None
) -> tuple[int, int, int | None]:
    """The checked interval, begin and end.

    Raises:
      TypeError: if one of them is not a static integer.
      ValueError: if nothing could grow back, or the end comes after training.
    """
    largest = np.iinfo(np.int32).max
    every = check_steps("every", every, below=largest)
    begin = check_steps("begin_step", begin, at_least=0, below=largest)
    if total is not None:
        total = check_steps("total_steps", total, below=largest)
    end = total if end is None else check_steps("end_step", end, below=largest)
    if end is not None and total is not None and end > total:
        raise ValueError(
            f"end_step={end} of soft lies after the end of training, total_steps={total}: the "
            "network would not end sparse."
        )
    if end is not None and begin + every >= end:
        raise ValueError(
            f"soft lets nothing grow back: every={every} from begin_step={begin} on leaves no "
            f"reset before the final one, after step {end}. Shorten it; to prune only once, use "
            "one_shot."
        )
    return every, begin, end


def times(
    count: jax.Array, frozen: jax.Array, every: int, begin: int, end: int | None
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Whether step ``count`` ends with a reset, takes place under the mask, and is the last."""
    final = hard = jnp.zeros((), jnp.bool_)
    due = (count > begin) & ((count - begin) % every == 0)
    if end is not None:
        final, hard = count == end, count > end
        due = (due & ~hard) | final
    return due & ~frozen, hard | frozen, final
