"""RigL: drop what is small, grow where gradients are large."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxprune import _tree, masks
from jaxprune._scoring import Scores, Scoring
from jaxprune._tree import PyTree, Where
from jaxprune.masks import Allocation, Pattern
from jaxprune.transforms import _regrow
from jaxprune.transforms._moving import Move


def rigl(
    inner: Any,
    sparsity: float | None,
    *,
    key: jax.Array,
    within: PyTree | None = None,
    total_steps: int,
    interval: int = 100,
    drop_fraction: float = 0.3,
    end_step: int | None = None,
    step_too: bool = False,
    scores: Scores | None = None,
    grow: Scores | None = None,
    allocation: Allocation | None = None,
    pattern: Pattern | None = None,
    where: Where | None = None,
    stacked: masks.Stacked | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Rigging the lottery (RigL): drops small weights, grows as many where gradients are large.

    Training starts from a random sparse network. At steps $t = I, 2I, \dots < T_{end}$ every leaf,
    of which $K_l$ weights are kept, drops the $k_l = \mathrm{round}(f(t) K_l)$ kept weights
    smallest in magnitude, with

    $$f(t) = \frac{\alpha}{2} \left(1 + \cos \frac{\pi t}{T_{end}}\right),$$

    and grows the $k_l$ positions of largest gradient magnitude among all that are not kept after
    the drop. A grown weight starts at zero without moments; one that is dropped and grown at once
    keeps its value and its moments, as in the authors' code. No move changes the number of weights
    of a leaf; between moves it is `fixed_mask`.

    The authors' code truncates $f(t) K_l$, and moves the mask for the first time at step 0, before
    any training; here it moves first at step $I$.

    The counts are those of the first mask, by Erdős–Rényi unless ``allocation`` or ``within`` says
    otherwise. A mask put in by `set_mask` holds until the next move, which brings every leaf back
    to its count; to go on from another mask with its own counts, make the transformation anew
    ``within`` it.

    In the paper's algorithm a move takes the place of the optimizer's step: at those steps the
    optimizer sees nothing and its own counts rest. That is the default; with ``step_too=True`` the
    step is taken first, and the mask moves after it by the same gradients.

    With ``pattern=jp.masks.nm(n, m, ...)`` and ``sparsity=None`` every group of m holds n weights
    at all times: the first mask is random N:M, weights are dropped over the whole leaf as above,
    and each group grows back to n by largest gradients.

    Gradients have to be dense: those given to ``update``, taken at the masked weights, are
    those of all weights in JAX. Gradients of another batch, as in the paper's large-batch variant,
    are passed as an extra argument that ``grow`` asks for by name.

    Position: outermost, around the whole chain, as `fixed_mask`: gradient clipping belongs inside.
    Under a `MultiSteps` outside, gradients are the accumulated ones, and steps are those that
    happen: one in k calls. Divide the lengths by k, or put it inside. The first update sets the
    weights outside the first mask to zero; to start exactly sparse, apply
    ``jp.apply_mask(params, get_mask(state))`` before the first step.

    Args:
      inner: an optax optimizer, or anything with ``init`` and ``update``.
      sparsity: fraction removed, in [0, 1); `None` with an N:M pattern or ``within``.
      key: a JAX random key for the first mask; do not use it again.
      within: a concrete mask to start from in place of a random one, whose counts every leaf then
        keeps; with it pass ``sparsity=None`` and no allocation.
      total_steps: the length of training in steps.
      interval: I, steps between moves.
      drop_fraction: alpha in [0, 1], the fraction of the kept weights that a move would drop at
        step 0; it falls to zero at ``end_step``. With 0 the mask stays as it is.
      end_step: T_end, steps after which the mask rests; ``int(0.75 * total_steps)`` if omitted.
      step_too: whether the optimizer steps also where the mask moves.
      scores: what is dropped first, as for `prune_at`; magnitude if omitted.
      grow: function from ``params`` to scores of which the highest grow; by name it also gets
        ``grads`` and extra arguments of ``update``. ``abs(grads)`` if omitted.
      allocation: how the total is spread over leaves, each counted alone; `jaxprune.masks.erk` if
        omitted.
      pattern: which weights go together; unstructured if omitted.
      where: ``where(path, leaf) -> bool``, what is prunable.
      stacked: where leaves hold several layers: rules from paths to axes, see
        `jaxprune.masks.make`.

    Returns:
      The transformation. Its state is a `MovingMaskState`, its ``update`` needs ``params``.

    Raises:
      TypeError: if ``inner`` is no optimizer, ``key`` no random key, or a number of the wrong kind.
      ValueError: if the mask would never move, or the window ends after training; if a fraction
        lies outside its range; if ``within`` meets ``sparsity`` or ``allocation``, is traced, or
        lacks the pattern. From ``init``: if nothing is prunable, mask, allocation or pattern do not
        fit the parameters, leaves are too small to drop a weight, or the state of ``inner`` mixes
        weights.

    Example:
      >>> import jax, jax.numpy as jnp, optax
      >>> from jaxprune import transforms
      >>> params = {"kernel": jnp.ones((8, 8))}
      >>> tx = transforms.rigl(
      ...     optax.sgd(0.1), 0.75, key=jax.random.key(0), total_steps=100, interval=10
      ... )
      >>> state = tx.init(params)
      >>> grads = {"kernel": jnp.arange(64.0).reshape(8, 8)}
      >>> for _ in range(10):
      ...     updates, state = tx.update(grads, state, params)
      ...     params = optax.apply_updates(params, updates)
      >>> mask = transforms.get_mask(state)["kernel"]  # 16 weights, 5 of them just grown
      >>> int(mask.sum()), int((mask & (params["kernel"] == 0)).sum())
      (16, 5)

    References:
      Evci, Gale, Menick, Castro, Elsen, Rigging the Lottery: Making All Tickets Winners, ICML 2020,
      section 3 and algorithm 1.
    """
    alpha = _regrow.check_drop_fraction(drop_fraction)
    _, every, end = _regrow.check_window(
        name="rigl",
        total_steps=total_steps,
        interval=interval,
        end_step=end_step,
        default_end=lambda total: max(int(0.75 * total), 1),
    )
    steps = range(every, end, every)
    if not steps:
        raise _regrow.never_moves(name="rigl", interval=every, end_step=end)
    fractions = [alpha / 2 * (1 + math.cos(math.pi * t / end)) for t in steps]
    rules: dict[str, Any] = {"allocation": allocation, "pattern": pattern, "stacked": stacked}
    scoring = Scoring(scores, where, **rules)
    growth = Scoring(grow or _gradients, where, stacked=stacked)

    def drop(now: Move) -> PyTree:
        return scoring(now.params, grads=now.grads, **now.extra_args)

    def score_growth(now: Move) -> PyTree:
        return growth(now.params, grads=now.grads, **now.extra_args)

    return _regrow.regrowing(
        inner,
        sparsity,
        name="rigl",
        key=key,
        within=within,
        steps=steps,
        fractions=fractions,
        drop=drop,
        grow=score_growth,
        **rules,
        where=where,
        instead_of_step=not step_too,
    )


def _gradients(params: PyTree, grads: PyTree, *, where: Where | None = None) -> PyTree:
    """Gradient magnitudes of the prunable leaves."""

    def size(weight: Any, grad: Any) -> Any:
        return None if weight is None else jnp.abs(grad)

    sizes = _tree.map_partial(size, _tree.prunable(params, where), grads, what="parameters")
    return jax.tree.map(lambda x: None if _tree.is_absent(x) else x, sizes, is_leaf=_tree.is_absent)
