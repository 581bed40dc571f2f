"""AC/DC: alternating compressed and decompressed training."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxprune import _tree, masks
from jaxprune._checks import check_fraction, check_steps
from jaxprune._scoring import Scores, Scoring
from jaxprune._targets import check_not_sparser
from jaxprune._tree import PyTree, Where
from jaxprune.masks import Allocation, Pattern
from jaxprune.transforms import _mask_state, _moments, _moving, _wrap
from jaxprune.transforms._regrow import like_mask


def ac_dc(
    inner: Any,
    sparsity: float | None,
    *,
    total_steps: int,
    warmup_steps: int,
    compressed_steps: int,
    decompressed_steps: int | None = None,
    final_steps: int,
    reset_moments: bool = True,
    scores: Scores | None = None,
    allocation: Allocation | None = None,
    pattern: Pattern | None = None,
    where: Where | None = None,
    stacked: masks.Stacked | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Alternating compressed/decompressed training (AC/DC): prunes, lets all grow back, repeats.

    After $w$ dense steps, phases of $c$ compressed steps and $d$ decompressed ones alternate; the
    last $f$ of the $T$ steps are compressed. A compressed phase begins by pruning to the target
    sparsity, by default the globally smallest magnitudes; its mask has nothing to do with the one
    before. In a decompressed phase all weights train: those that were pruned start from zero
    without moments, the others go on. Inside a phase it is `fixed_mask`.

    Where a decompressed phase begins, the optimizer's moments of **all** parameters begin anew, as
    the authors' training scripts have it (their ``reset_momentum_after_recycling``): what ``inner``
    keeps for each parameter is what its ``init`` makes of the weights of that time. Counts, and so
    learning rates and bias corrections, go on. With ``reset_moments=False`` kept weights keep their
    moments, as in the paper's algorithm, which names none.

    Prunings come after steps $w + j (c + d)$ for all $j \ge 0$ for which that phase and the
    decompressed one after it end by step $T - f$, each undone after $c$ more steps, and after step
    $T - f$. So the last decompressed phase may be longer than $d$. In epochs, the schedule of the
    paper for ImageNet, ``total_steps=100, warmup_steps=10, compressed_steps=5, final_steps=15``,
    prunes after 10, 20, ..., 70 and 85, and is dense from 75 to 85.

    Position: outermost, around the whole chain, as `fixed_mask`. Under a `MultiSteps` outside,
    steps are those that happen: one in k calls. Divide the lengths by k, or put it inside.

    Args:
      inner: an optax optimizer, or anything with ``init`` and ``update``.
      sparsity: fraction removed in compressed phases, in [0, 1); `None` with an N:M pattern.
      total_steps: T, the length of training in steps.
      warmup_steps: w, dense steps before the first pruning; at least 1.
      compressed_steps: c, steps of a compressed phase.
      decompressed_steps: d, steps of a decompressed phase; ``compressed_steps`` if omitted.
      final_steps: f, steps of the last phase, compressed.
      reset_moments: whether moments of all parameters begin anew with a decompressed phase.
      scores: as for `prune_at`.
      allocation: as for `prune_at`.
      pattern: as for `prune_at`.
      where: as for `prune_at`.
      stacked: where leaves hold several layers: rules from paths to axes, see
        `jaxprune.masks.make`.

    Returns:
      The transformation. Its state is a `MovingMaskState`, its ``update`` needs ``params``. In
      dense phases the mask is True everywhere; `freeze` there leaves the network dense.

    Raises:
      TypeError: as `prune_at`, or if ``reset_moments`` is no bool.
      ValueError: if the sparsity lies outside [0, 1), or no compressed and decompressed phase fit
        between warm-up and the last phase. From ``init``: as `prune_at`.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> from jaxprune import transforms
      >>> params = {"kernel": jnp.array([[1.0, 2.0, 3.0, 4.0]])}
      >>> tx = transforms.ac_dc(
      ...     optax.sgd(1.0), 0.5, total_steps=6, warmup_steps=1, compressed_steps=2, final_steps=1
      ... )
      >>> state = tx.init(params)
      >>> for _ in range(6):
      ...     updates, state = tx.update({"kernel": -jnp.ones((1, 4))}, state, params)
      ...     params = optax.apply_updates(params, updates)
      ...     print(params["kernel"])
      [[0. 0. 4. 5.]]
      [[0. 0. 5. 6.]]
      [[0. 0. 6. 7.]]
      [[1. 1. 7. 8.]]
      [[0. 0. 8. 9.]]
      [[ 0.  0.  9. 10.]]

    References:
      Peste, Iofinova, Vladu, Alistarh, AC/DC: Alternating Compressed/DeCompressed Training of Deep
      Neural Networks, NeurIPS 2021, and the configurations of its code.
    """
    target = None if sparsity is None else check_fraction("sparsity", sparsity)
    steps = _phases(
        check_steps("total_steps", total_steps),
        check_steps("warmup_steps", warmup_steps),
        check_steps("compressed_steps", compressed_steps),
        check_steps(
            "decompressed_steps",
            compressed_steps if decompressed_steps is None else decompressed_steps,
        ),
        check_steps("final_steps", final_steps),
    )
    if not isinstance(reset_moments, bool):
        raise TypeError(f"reset_moments is True or False; got {reset_moments!r}.")
    rules: dict[str, Any] = {"allocation": allocation, "pattern": pattern, "stacked": stacked}
    scoring = Scoring(scores, where, **rules)

    def plan(shapes: PyTree) -> masks.Plan:
        return masks.plan(shapes, (target,), **rules)

    def first_mask(params: PyTree) -> PyTree:
        shapes = scoring.shapes(params)
        plan(shapes)
        mask = _moving.dense_or(None, shapes, params)
        check_not_sparser(mask, params, (target,), name="ac_dc")
        return mask

    def move(now: _moving.Move) -> PyTree:
        def compressed() -> PyTree:
            scored = like_mask(
                scoring(now.params, grads=now.grads, **now.extra_args), now.mask, name="ac_dc"
            )
            return plan(scored).make(scored, 0)

        def dense() -> PyTree:
            return jax.tree.map(jnp.ones_like, now.mask)

        return jax.lax.cond(now.number % 2 == 0, compressed, dense)

    if target == 0:  # nothing is compressed, so nothing begins anew
        steps, reset_moments = (), False
    tx = _moving.moving(inner, name="ac_dc", steps=steps, first_mask=first_mask, move=move)
    return _with_reset(tx, inner, steps[1::2]) if reset_moments else tx


def _with_reset(
    tx: optax.GradientTransformationExtraArgs, inner: Any, begins: tuple[int, ...]
) -> optax.GradientTransformationExtraArgs:
    """``tx``, with the moments of ``inner`` made anew after the given steps."""
    inner = _wrap.as_transformation(inner, name="ac_dc")

    def update(
        updates: PyTree, state: Any, params: PyTree | None = None, **extra_args: Any
    ) -> tuple[PyTree, _moving.MovingMaskState]:
        updates, state = tx.update(updates, state, params, **extra_args)
        assert params is not None
        due = jnp.any(jnp.asarray(begins, jnp.int32) == state.step) & ~state.frozen
        if _tree.is_traced(due) or due:
            fresh = inner.init(optax.apply_updates(params, updates))
            mask = _mask_state.align(state.mask.tree, _wrap.network_of(params))
            kept = _anew(inner, state.inner_state, fresh, mask, due)
            state = state._replace(inner_state=kept)
        return updates, state

    return optax.GradientTransformationExtraArgs(tx.init, update)


def _phases(
    total: int, warmup: int, compressed: int, decompressed: int, final: int
) -> tuple[int, ...]:
    """The steps after which the mask moves: pruned, undone, pruned, ..., pruned for good.

    Raises:
      ValueError: if nothing alternates.
    """
    last = total - final
    both = compressed + decompressed
    starts = range(warmup, last - both + 1, both)
    if not starts:
        raise ValueError(
            f"no compressed phase fits: {warmup} warm-up steps, {compressed} compressed, "
            f"{decompressed} decompressed and the final {final} are {warmup + both + final}, more "
            f"than total_steps={total}. Shorten them; to prune only once, use one_shot."
        )
    return (*(t for start in starts for t in (start, start + compressed)), last)


def _anew(inner: Any, old: PyTree, fresh: PyTree, mask: PyTree, due: jax.Array) -> PyTree:
    """The state ``old``; where a reset is due, with the parts of ``fresh`` that are per parameter.

    Not zeros: schedule-free and lookahead optimizers keep weights there.
    """

    def visit(x: Any, y: Any) -> Any:
        if not isinstance(x, _moments.Copy):
            return x
        return jax.tree.map(lambda a, b: jnp.where(due, b.astype(a.dtype), a), x.tree, y.tree)

    marked = (_moments.mark(inner, state, mask).state for state in (old, fresh))
    return jax.tree.map(visit, *marked)
