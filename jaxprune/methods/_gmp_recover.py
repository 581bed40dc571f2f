"""GMP with recovery as a recipe."""

from typing import Any

from jaxprune import parametrizations
from jaxprune.methods._defaults import tenth
from jaxprune.methods._method import Method


def gmp_recover(
    sparsity: float, *, total_steps: int, interval: int | None = None, **options: Any
) -> Method:
    """GMP in which weights can come back: `jaxprune.parametrizations.gmp_recover`.

    BIMP's code also sets the momentum of pruned weights to zero at every pruning. A parametrization
    does not see the optimizer's state, so the recipe leaves it: the stored weights of what was
    just pruned move on for some steps, while the forward pass sees zeros. A loop of your own can
    call `jaxprune.transforms.zero_pruned` there.

    Args:
      sparsity: fraction removed in the end, in (0, 1).
      total_steps: the length of training in steps.
      interval: steps between prunings; a tenth of training if omitted.
      **options: further options of the parametrization.

    Returns:
      The method.

    Raises:
      TypeError: as the parametrization.
      ValueError: as the parametrization.

    Example:
      >>> gmp_recover(0.9, total_steps=1000).sparsity
      0.9

    References:
      Zimmer, Spiegel, Pokutta, How I Learned to Stop Worrying and Love Retraining, ICLR 2023 (their
      code's option to allow recovering).
    """
    interval = tenth(total_steps) if interval is None else interval
    p = parametrizations.gmp_recover(
        sparsity, total_steps=total_steps, interval=interval, **options
    )
    return Method("gmp_recover", sparsity, total_steps, parametrization=p)
