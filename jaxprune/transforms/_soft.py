"""Soft filter pruning: what is pruned is set to zero, and trains on."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxprune import _layers, _tree, masks
from jaxprune._checks import check_fraction
from jaxprune._scoring import Scores, Scoring
from jaxprune._tree import PyTree, Where
from jaxprune.masks import Allocation, Pattern
from jaxprune.transforms import _mask_state, _moments, _moving, _resets, _wrap
from jaxprune.transforms._regrow import like_mask


def soft(
    inner: Any,
    sparsity: float | None,
    *,
    every: int,
    total_steps: int | None = None,
    begin_step: int = 0,
    end_step: int | None = None,
    reset_moments: bool = False,
    scores: Scores | None = None,
    allocation: Allocation | None = None,
    pattern: Pattern | None = None,
    where: Where | None = None,
    stacked: masks.Stacked | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Soft filter pruning (SFP): sets the weakest filters to zero again and again, to train on.

    After steps $t_0 + I, t_0 + 2I, \dots$ a **reset** makes a new mask from the weights as they
    are, whatever the mask before, and sets what it removes to zero. Then all weights train on: no
    gradient is masked, so a filter may grow back, and at the next reset others may be weaker. The
    reset after the last step E is final: from there on it is `fixed_mask`, and the network stays
    sparse.

    Before E pruned weights are exactly zero **only right after a reset**, in contrast to all other
    transforms: in between, ``get_mask`` says what the last reset took (at first nothing), and
    weights outside of it are not zero. `freeze` ends that at any time: from the next step on
    pruned weights are zero, by the mask of the last reset. Without an end, freeze it yourself. A
    mask put in by `set_mask` holds from the end on, or in a frozen state; a reset replaces it.

    By default whole filters of convolutions go, those of the smallest L2 norm, the same fraction
    of every layer, as in the authors' code. (Theirs rounds the number of filters down.) It also
    prunes once before training: for that, `jaxprune.prune` the first weights. As there, biases and
    normalizations of a pruned filter stay.

    Moments run on through a reset by default, as in the authors' code, whose optimizer never hears
    of one: a filter set to zero goes on from there by its momentum. With ``reset_moments=True``
    those of the weights set to zero begin anew; ask for it where an optimizer keeps weights in its
    state (schedule-free, lookahead). At the end they are zero in any case.

    Position: outermost, around the whole chain, as `fixed_mask`. Under a `MultiSteps` outside,
    steps are those that happen: one in k calls. Divide the lengths by k, or put it inside.

    Args:
      inner: an optax optimizer, or anything with ``init`` and ``update``.
      sparsity: fraction removed at each reset, in [0, 1); `None` with an N:M pattern.
      every: I, steps between resets; one epoch in the original.
      total_steps: the length of training in steps; without it and ``end_step`` there is no end.
      begin_step: t_0, steps before the first interval begins.
      end_step: E, the step after which the last reset comes, whatever the interval;
        ``total_steps`` if omitted.
      reset_moments: whether the moments of weights that a reset sets to zero become zero, too.
      scores: as for `prune_at`.
      allocation: how the total is spread over leaves; `jaxprune.masks.uniform` if omitted.
      pattern: which weights go together; filters, ``jaxprune.masks.channels(-1, norm="l2")``, if
        omitted. Where output channels are not last, as in Equinox, pass it with their axis.
      where: ``where(path, leaf) -> bool``, what is prunable. If this and ``pattern`` are omitted,
        the default weights of rank above 2, that is convolutions: the channels of a last dense
        layer are classes, so leave it out.
      stacked: where leaves hold several layers: rules from paths to axes, see
        `jaxprune.masks.make`.

    Returns:
      The transformation. Its state is a `MovingMaskState`, its ``update`` needs ``params``.

    Raises:
      TypeError: as `prune_at`, or if ``reset_moments`` is no bool.
      ValueError: if the sparsity lies outside [0, 1), no reset comes before the final one, or that
        one comes after training. From ``init``: if nothing is prunable or would be pruned,
        allocation or pattern do not fit, or the state of ``inner`` mixes weights.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> from jaxprune import default_where, transforms
      >>> params = {"kernel": jnp.array([[1.0, 2.0]])}
      >>> tx = transforms.soft(
      ...     optax.sgd(1.0), 0.5, every=2, total_steps=5, where=default_where
      ... )
      >>> state = tx.init(params)
      >>> for _ in range(6):
      ...     updates, state = tx.update({"kernel": jnp.array([[-1.0, 0.5]])}, state, params)
      ...     params = optax.apply_updates(params, updates)
      ...     print(params["kernel"])
      [[2.  1.5]]
      [[3. 0.]]
      [[ 4.  -0.5]]
      [[5. 0.]]
      [[6. 0.]]
      [[7. 0.]]

    References:
      He, Kang, Dong, Fu, Yang, Soft Filter Pruning for Accelerating Deep Convolutional Neural
      Networks, IJCAI 2018, and its code.
    """
    target = None if sparsity is None else check_fraction("sparsity", sparsity)
    every, begin, end = _resets.window(every, begin_step, end_step, total_steps)
    if not isinstance(reset_moments, bool):
        raise TypeError(f"reset_moments is True or False; got {reset_moments!r}.")
    tx = _wrap.as_transformation(inner, name="soft")
    convolutions = where is None and pattern is None

    def is_convolution(path: str, leaf: Any) -> bool:
        rank = leaf.ndim - len(_layers.axes_at(stacked, path, leaf))
        return _tree.default_where(path, leaf) and rank > 2

    scoring = Scoring(
        scores,
        where,
        default_where=is_convolution if convolutions else None,
        allocation=allocation,
        pattern=pattern,
        stacked=stacked,
    )
    rules: dict[str, Any] = {
        "allocation": masks.uniform() if allocation is None else allocation,
        "pattern": masks.channels(-1, norm="l2") if pattern is None else pattern,
        "stacked": stacked,
    }

    def init(params: PyTree) -> _moving.MovingMaskState:
        placeholder = _mask_state.is_placeholder(params)
        network = _wrap.network_of(params)
        node = _mask_state.store(params if placeholder else first_mask(network), network)
        return _moving.MovingMaskState(
            inner_state=_wrap.init_inner(tx, node, params),
            mask=node,
            step=jnp.zeros((), jnp.int32),
            frozen=jnp.zeros((), jnp.bool_),
            key=None,
        )

    def first_mask(params: PyTree) -> PyTree:
        if convolutions and scores is None:
            _check_any(is_convolution, params)
        shapes = scoring.shapes(params)
        masks.plan(shapes, (target,), **rules)
        if target and not masks.count_removed(shapes, target, **rules):
            raise ValueError(
                f"soft never prunes: sparsity {target:.6g} is less than half a filter, or group, "
                "of every leaf. Ask for more."
            )
        return _moving.dense_or(None, shapes, params)

    def update(
        updates: PyTree, state: Any, params: PyTree | None = None, **extra_args: Any
    ) -> tuple[PyTree, _moving.MovingMaskState]:
        _wrap.check_params(params, updates, name="soft")
        assert params is not None
        before = _mask_state.align(state.mask.tree, _wrap.network_of(params))
        count = jnp.asarray(optax.safe_increment(state.step))
        due, hard, final = _resets.times(count, state.frozen, every, begin, end)

        def reset() -> PyTree:
            # The step is computed here a second time, see `_moving.moving`.
            stepped, _ = tx.update(updates, state.inner_state, params, **extra_args)
            now = _wrap.network_of(optax.apply_updates(params, stepped))
            scored = scoring(now, grads=updates, **extra_args)
            scored = like_mask(scored, before, name="soft")
            return masks.plan(scored, (target,), **rules).make(scored, 0)

        if _tree.is_traced(due, before):
            mask = jax.lax.cond(due, reset, lambda: before)
        else:
            mask = reset() if due else before
            if count == 1 and not due:  # what is wrong with the scores should show now
                jax.eval_shape(reset)
        seen = _or(before, ~hard)
        updates, inner_state = _wrap.step(tx, updates, state.inner_state, params, seen, extra_args)
        kept = _or(mask, ~(due | hard))
        moments = kept if reset_moments else _or(mask, ~(hard | final))
        inner_state = _moments.zero_pruned(tx, inner_state, moments)
        updates = _wrap.to_zero(kept, updates, params)
        node = _mask_state.replace(state.mask, mask)
        return updates, _moving.MovingMaskState(inner_state, node, count, state.frozen, state.key)

    return optax.GradientTransformationExtraArgs(init, update)


def _check_any(is_convolution: Where, params: PyTree) -> None:
    if not any(is_convolution(path, leaf) for path, leaf in _tree.named_leaves(params)):
        raise ValueError(
            "soft prunes filters of convolutions by default, and no prunable leaf is of rank above "
            "2. Say with where= whose channels may go (not those of the last layer, which are "
            "the classes), or with pattern= what goes together."
        )


def _or(mask: PyTree, flag: jax.Array) -> PyTree:
    return jax.tree.map(lambda m: m | flag, mask)
