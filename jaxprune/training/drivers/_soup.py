"""Model soups: the average of networks that were retrained under one mask."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxprune import _tree, metrics
from jaxprune._tree import PyTree
from jaxprune.training.drivers._hooks import check_hooks, recalibrated
from jaxprune.training.steps import Evaluate, TrainState
from jaxprune.training.steps._state import copy

Recalibrate = Callable[[TrainState], TrainState]


def soup(states: Sequence[TrainState], *, recalibrate: Recalibrate | None = None) -> TrainState:
    """Averages the weights of networks that were pruned once and retrained several times.

    The copies differ in one thing, such as the seed, the weight decay or the learning rates, and
    share their mask: the average is as sparse as each of them, and costs as much to run as one. To
    prune in cycles, go on from the soup: prune it once, retrain copies, average again.

    Args:
      states: the retrained copies, all under one mask (or all without).
      recalibrate: from `make_recalibrate`. Batch statistics of an average are not the average of
        batch statistics: pass it where the network has any.

    Returns:
      A state with the averaged parameters and floating entries of the model state. Step, key,
      optimizer state and other entries are those of the first state.

    Raises:
      ValueError: if there are no states, their networks or masks differ, or weights are not finite;
        the message names the leaf.
      TypeError: if one is no `TrainState`.

    Example:
      >>> import jax, optax
      >>> import jax.numpy as jnp
      >>> import jaxprune as jp
      >>> def retrained(value):
      ...     params = {"w": jnp.full((2, 2), value)}
      ...     mask = {"w": jnp.array([[True, False], [True, True]])}
      ...     return jp.training.TrainState.create(
      ...         params, lambda lr: optax.sgd(lr), mask=mask, key=jax.random.key(0)
      ...     )
      >>> jp.training.soup([retrained(1.0), retrained(2.0)]).params["w"].tolist()
      [[1.5, 0.0], [1.5, 1.5]]

    References:
      Zimmer et al., Sparse Model Soups: A Recipe for Improved Pruning via Model Averaging, ICLR
      2024. Wortsman et al., Model soups, ICML 2022.
    """
    _check_states(states)
    return _average(states, recalibrate)


def greedy_soup(
    states: Sequence[TrainState],
    *,
    evaluate: Evaluate,
    metric: str = "accuracy",
    higher_is_better: bool = True,
    recalibrate: Recalibrate | None = None,
) -> tuple[TrainState, tuple[int, ...]]:
    """Averages only those networks that do not make the average worse.

    Sorts them by their metric, best first, and adds one after the other; each that makes the
    average worse is left out again. So the soup is at least as good as the best of its copies, on
    the data of ``evaluate``, which should be held out from the test.

    Args:
      states: the retrained copies, all under one mask (or all without).
      evaluate: ``evaluate(state) -> {name: value}``, see `make_evaluate`.
      metric: the entry of it that decides.
      higher_is_better: False for a loss or a perplexity.
      recalibrate: as in `soup`; run before each evaluation of an average.

    Returns:
      The soup, and the positions in ``states`` of what is in it, in the order it was added.

    Raises:
      ValueError: as `soup`; or if ``evaluate`` has no such metric, or it is NaN.
      TypeError: if one is no `TrainState`, or a function is of another kind.

    References:
      Wortsman et al., Model soups, ICML 2022, algorithm 1.
    """
    _check_states(states)
    check_hooks(evaluate, states[0], metric, recalibrate=recalibrate, on_phase=None)

    def value(state: TrainState) -> float:
        found = float(evaluate(state)[metric])
        if found != found:
            raise ValueError(f"evaluate gives NaN for {metric!r}, which cannot be compared.")
        return found if higher_is_better else -found

    alone = [value(state) for state in states]
    first, *others = sorted(range(len(states)), key=lambda i: -alone[i])  # stable: ties in order
    chosen, best, result = [first], alone[first], copy(states[first])
    for i in others:
        candidate = _average([states[j] for j in (*chosen, i)], recalibrate)
        if (now := value(candidate)) >= best:
            chosen, best, result = [*chosen, i], now, candidate
    return result, tuple(chosen)


def _average(states: Sequence[TrainState], recalibrate: Recalibrate | None) -> TrainState:
    networks = [(state.params, state.model_state) for state in states]
    params, model_state = _mean(networks)
    # Copied: a step donates what it is given, and the copies should stay.
    result = copy(states[0]._replace(params=params, model_state=model_state))
    return result if recalibrate is None else recalibrated(recalibrate, result)


@jax.jit
def _mean(trees: list[PyTree]) -> PyTree:
    def one(*leaves: Any) -> Any:
        first = leaves[0]
        if not _tree.is_floating(first):
            return first
        wide = _tree.wide_dtype(first.dtype)
        total = sum((x.astype(wide) for x in leaves[1:]), first.astype(wide))
        return (total / jnp.asarray(len(leaves), wide)).astype(first.dtype)

    return jax.tree.map(one, *trees)


def _check_states(states: Sequence[TrainState]) -> None:
    if isinstance(states, TrainState) or not all(isinstance(x, TrainState) for x in states):
        raise TypeError("states is a sequence of TrainState, one a retrained copy.")
    if not states:
        raise ValueError("a soup needs one state or more; got none.")
    first = states[0]
    for number, state in enumerate(states):
        source = f"state {number}"
        for what in ("params", "model_state"):
            both = getattr(first, what), getattr(state, what)
            _tree.check_same(*both, names=(f"{what} of state 0", f"{what} of {source}"))
        _tree.check_finite(state.params, what=f"parameters of {source}")
        if state.is_masked != first.is_masked:
            raise ValueError(f"of state 0 and {source} only one is under a mask.")
        if not first.is_masked:
            continue
        for leaf in metrics.overlap_per_leaf(first.mask, state.mask):
            if leaf.intersection != leaf.union:
                raise ValueError(
                    f"the masks of state 0 and {source} differ in {leaf.path!r}: their average "
                    "would be denser than either. Prune once, and retrain copies of that state."
                )
