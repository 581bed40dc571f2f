"""Training adapters by the steps, loops and recipes that train parameters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from jaxprune._tree import PyTree
from jaxprune.adapters._adapters import Adapters
from jaxprune.adapters._merge import effective


class Frozen(NamedTuple):
    """The model state of a network whose adapters are trained: what training leaves as it is.

    Attributes:
      params: the pruned parameters.
      mask: their mask.
      model_state: the model's own state, which training may change.
    """

    params: PyTree
    mask: PyTree
    model_state: PyTree


class AdaptedNetwork(NamedTuple):
    """A network whose adapters are trained, in the form that steps and loops take.

    Attributes:
      params: the adapters: pass them as parameters to `jaxprune.training.TrainState.create`, with
        ``masked=False``.
      model_state: a `Frozen`.
      loss_fn: the loss as a function of adapters.
      eval_fn: the evaluation as a function of adapters; `None` if none was given.
    """

    params: Adapters
    model_state: Frozen
    loss_fn: Callable[..., Any]
    eval_fn: Callable[..., Any] | None


def adapted(
    adapters: Adapters,
    params: PyTree,
    mask: PyTree,
    loss_fn: Callable[..., Any],
    eval_fn: Callable[..., Any] | None = None,
    *,
    model_state: PyTree = None,
) -> AdaptedNetwork:
    """Turns a network and its adapters into what a training step takes.

    The weights enter the compiled step as data, not as constants, and are neither differentiated
    nor updated: the optimizer holds moments of the adapters alone.

    Args:
      adapters: of `jaxprune.adapters.mask_lora`, `scale_lora` or `lora`.
      params: the pruned parameters.
      mask: their mask.
      loss_fn: ``loss_fn(params, model_state, batch, key) -> (loss, (model_state, metrics))``.
      eval_fn: ``eval_fn(params, model_state, batch) -> {name: (sum, count)}``.
      model_state: what the model keeps besides parameters.

    Returns:
      The network. After training, ``merge(params, state.params, mask)`` gives the parameters, and
      ``state.model_state.model_state`` the model's state.

    Example:
      >>> import jax, jax.numpy as jnp, optax
      >>> import jaxprune as jp
      >>> def loss_fn(params, model_state, batch, key):
      ...     return jnp.mean((batch @ params["kernel"] - 1) ** 2), (model_state, {})
      >>> pruned, mask = jp.prune({"kernel": jnp.arange(1.0, 13.0).reshape(4, 3)}, 0.5)
      >>> adapters = jp.adapters.mask_lora(pruned, mask, rank=1, key=jax.random.key(0))
      >>> net = jp.adapters.adapted(adapters, pruned, mask, loss_fn)
      >>> sgd = lambda lr: optax.sgd(lr, 0.9)
      >>> state = jp.training.TrainState.create(
      ...     net.params, sgd, model_state=net.model_state, masked=False, key=jax.random.key(1)
      ... )
      >>> train = jp.training.make_loop(
      ...     jp.training.make_train_step(net.loss_fn, sgd), lambda step: jnp.eye(4)
      ... )
      >>> state, metrics = train(state, [1e-3] * 20)
      >>> merged = jp.adapters.merge(pruned, state.params, mask)
      >>> bool(metrics["loss"][-1] < metrics["loss"][0])
      True
      >>> jp.assert_sparse(merged, mask)
    """

    def of_adapters(adapters: Adapters, frozen: Frozen, batch: PyTree, key: jax.Array) -> Any:
        seen = effective(frozen.params, adapters, frozen.mask)
        loss, (after, metrics) = loss_fn(seen, frozen.model_state, batch, key)
        return loss, (frozen._replace(model_state=after), metrics)

    def evaluated(adapters: Adapters, frozen: Frozen, batch: PyTree) -> Any:
        assert eval_fn is not None
        seen = effective(frozen.params, adapters, frozen.mask)
        return eval_fn(seen, frozen.model_state, batch)

    return AdaptedNetwork(
        params=adapters,
        model_state=Frozen(params, mask, model_state),
        loss_fn=of_adapters,
        eval_fn=None if eval_fn is None else evaluated,
    )
