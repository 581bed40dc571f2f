"""What a run carries from step to step."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxprune import _eager, _tree, masks, transforms
from jaxprune._extra_args import with_extra_args
from jaxprune._tree import PyTree
from jaxprune.training.steps._contracts import check_key

MakeOptimizer: TypeAlias = Callable[[Any], optax.GradientTransformation]


class TrainState(NamedTuple):
    """Everything that training changes, and the key it draws from. Arrays only.

    Attributes:
      step: int32 scalar, training steps done so far, over all phases.
      params: the parameters; pruned weights are exactly zero.
      opt_state: state of the masked optimizer; it holds the mask.
      model_state: what the model keeps besides parameters (batch statistics, ...), or `None`.
      key: the run's random key; step t uses ``fold_in(key, t)``.
    """

    step: jax.Array
    params: PyTree
    opt_state: PyTree
    model_state: PyTree
    key: jax.Array

    @classmethod
    def create(
        cls,
        params: PyTree,
        make_optimizer: MakeOptimizer,
        *,
        model_state: PyTree = None,
        mask: PyTree | None = None,
        masked: bool = True,
        key: jax.Array,
    ) -> TrainState:
        """Makes the state of a run that starts at step 0.

        Args:
          params: any pytree of arrays. Copied: training donates its buffers, never the caller's.
          make_optimizer: function from a learning rate to an optax optimizer.
          model_state: what the model keeps besides parameters. Copied.
          mask: which weights stay, or a function of the parameters that says it; by default all.
            Its leaves also say what is prunable: pass ``jp.masks.dense(params, where=...)`` to
            choose, `None` for a leaf or a whole subtree that is not. An optimizer that holds a mask
            itself, as `jaxprune.transforms.gmp` does, brings its own.
          masked: False for training without any mask, unless the optimizer brings one.
          key: a JAX random key. Copied.

        Returns:
          The state, its parameters already masked.

        Raises:
          TypeError: if ``make_optimizer`` is a ready optimizer, no function, or returns no
            optimizer; if ``key`` is no random key, or a parameter not floating.
          ValueError: if ``make_optimizer`` does not use its learning rate, parameters are NaN or
            infinite, no leaf is prunable, the mask is of another tree, there are two masks, the
            parameters are a Flax NNX module with tied variables, or the optimizer holds a mask and
            something around it keeps weights from zero (see `jaxprune.transforms.check_position`).

        Example:
          >>> import jax, optax
          >>> import jax.numpy as jnp
          >>> import jaxprune as jp
          >>> state = jp.training.TrainState.create(
          ...     {"w": jnp.ones((2, 2))}, lambda lr: optax.sgd(lr), key=jax.random.key(0)
          ... )
          >>> int(state.step), jp.sparsity(state.mask)
          (0, 0.0)
        """
        check_make_optimizer(make_optimizer)
        check_key(key)
        _tree.check_untied(params)
        for path, leaf in _tree.named_leaves(params):
            if not _tree.is_floating(leaf):
                raise TypeError(
                    f"parameters are floating arrays, but {path!r} is of dtype "
                    f"{getattr(leaf, 'dtype', type(leaf).__name__)}: it has no gradient. Put it "
                    "in model_state."
                )
        _tree.check_finite(params, what="parameters")
        check_uses_learning_rate(make_optimizer, params)
        if mask is not None and not masked:
            raise ValueError("masked=False contradicts mask=...; leave out one of them.")
        params = copy(params)
        if brings_mask(make_optimizer, params):
            if mask is not None:
                raise ValueError(
                    "the optimizer holds a mask itself, so there would be two. Leave out mask=, or "
                    "pass it to the transform (within=...)."
                )
            if not _tree.is_traced(params):
                # A rate as optimizers have it: with 1 a scale behind a transform would not show.
                transforms.check_position(_made(make_optimizer, 0.1), params)
            opt_state = _injected(make_optimizer).init(params)
            params = masks.apply_mask(params, transforms.get_mask(opt_state))
        elif masked or mask is not None:
            if mask is None:
                mask = masks.dense(params)
            elif _tree.is_function(mask, params):
                mask = mask(params)
            params = masks.apply_mask(params, mask)
            opt_state = init_optimizer(make_optimizer, params, mask)
        else:
            opt_state = _eager.computed(_injected(make_optimizer).init, params)
        state = cls(
            step=_eager.full((), 0, jnp.int32),
            params=params,
            opt_state=opt_state,
            model_state=copy(model_state),
            key=copy(key),
        )
        return _eager.unshared(state)

    @property
    def mask(self) -> PyTree:
        """The current mask: a tree like the parameters, True = kept."""
        return transforms.get_mask(self.opt_state)

    @property
    def is_masked(self) -> bool:
        """Whether there is a mask."""
        return transforms.has_mask(self.opt_state)


class MethodState(NamedTuple):
    """The model state of a run with a parametrization: the model's own, and that."""

    model: PyTree
    parametrization: PyTree


def copy(tree: PyTree) -> PyTree:
    """Copies every array, so that a step may donate one and leave the other."""
    return _eager.copied(tree)


def optimizer_of(
    make_optimizer: MakeOptimizer, opt_state: PyTree
) -> optax.GradientTransformationExtraArgs:
    """The optimizer of a run: learning rate and mask live in its state, as data.

    The state tells whether we have put a mask around the optimizer.
    """
    if not isinstance(opt_state, transforms.FixedMaskState):
        return with_extra_args(_injected(make_optimizer))
    return transforms.fixed_mask(
        _injected(make_optimizer), transforms.get_mask(opt_state, copy=False)
    )


def brings_mask(make_optimizer: MakeOptimizer, params: PyTree) -> bool:
    """Whether the optimizer holds a mask itself."""
    return transforms.has_mask(jax.eval_shape(_injected(make_optimizer).init, params))


def _injected(make_optimizer: MakeOptimizer) -> optax.GradientTransformation:
    def injected(learning_rate: Any) -> optax.GradientTransformation:
        # A parameter named exactly `learning_rate`, whatever the caller's function calls it. And
        # float32 whatever the parameters are: bfloat16 would round 0.1 to 0.1001.
        return _made(make_optimizer, learning_rate)

    inject = optax.inject_hyperparams(injected, hyperparam_dtype=jnp.float32)
    return inject(learning_rate=0.0)


def _made(
    make_optimizer: MakeOptimizer, learning_rate: Any
) -> optax.GradientTransformationExtraArgs:
    made = make_optimizer(learning_rate)
    parts = (getattr(made, name, None) for name in ("init", "update"))
    if not all(map(callable, parts)):
        raise TypeError(
            "make_optimizer(learning_rate) returns an optax optimizer, with init and update; got "
            f"one of type {type(made).__name__}."
        )
    return with_extra_args(made)


def init_optimizer(make_optimizer: MakeOptimizer, params: PyTree, mask: PyTree) -> PyTree:
    """A fresh optimizer state for masked training."""
    return transforms.fixed_mask(_injected(make_optimizer), mask).init(params)


def check_make_optimizer(make_optimizer: Any) -> None:
    """Raises if ``make_optimizer`` is not a function from a learning rate to an optimizer.

    Raises:
      TypeError: with the repair.
    """
    if isinstance(make_optimizer, optax.GradientTransformation) or not callable(make_optimizer):
        got = "a ready optimizer" if hasattr(make_optimizer, "update") else repr(make_optimizer)
        raise TypeError(
            "make_optimizer is a function from a learning rate to an optimizer, e.g. "
            f"lambda lr: optax.sgd(lr, momentum=0.9); got {got}. "
            "A ready optimizer has its schedule inside, but retraining needs to set the rate."
        )


def check_uses_learning_rate(make_optimizer: MakeOptimizer, params: PyTree) -> None:
    """Raises if the optimizer's update does not depend on the learning rate it is made with.

    Traced with abstract parameters: nothing is computed.

    Raises:
      ValueError: with the repair.
    """

    def one_update(learning_rate: jax.Array, params: PyTree) -> PyTree:
        optimizer = _made(make_optimizer, learning_rate)
        state = optimizer.init(params)
        return optimizer.update(params, state, params, value=jnp.zeros((), jnp.float32))[0]

    shapes = jax.eval_shape(lambda p: p, params)
    # Optax' own optimizers mix dtypes; how strictly to compute is the caller's choice later on.
    with jax.numpy_dtype_promotion("standard"):
        traced = jax.make_jaxpr(one_update)(jax.ShapeDtypeStruct((), jnp.float32), shapes).jaxpr
    rate = traced.invars[0]
    if not any(rate is x for equation in traced.eqns for x in equation.invars):
        raise ValueError(
            "make_optimizer does not use its learning rate, so no retraining schedule could reach "
            "the optimizer. Pass the rate on: lambda lr: optax.sgd(lr), without a schedule inside."
        )


def check_opt_state(make_optimizer: MakeOptimizer, state: TrainState) -> None:
    """Raises if the optimizer state is not one of this optimizer. Looks at shapes only.

    Raises:
      ValueError: naming the first difference.
    """
    optimizer = optimizer_of(make_optimizer, state.opt_state)
    own = jax.eval_shape(optimizer.init, state.params)
    paths, others = (
        [(jax.tree_util.keystr(p), np.shape(x)) for p, x in jax.tree_util.tree_leaves_with_path(t)]
        for t in (own, state.opt_state)
    )
    if paths == others:
        return
    pairs = itertools.zip_longest(paths, others, fillvalue=("nothing", ()))
    ours, theirs = next((a, b) for a, b in pairs if a != b)
    raise ValueError(
        "the state holds that of another optimizer than the step's make_optimizer makes: "
        f"{theirs[0]} {theirs[1]} where {ours[0]} {ours[1]} is expected. Give TrainState.create "
        "(or prepare) and make_train_step the same make_optimizer."
    )


def set_mask(make_optimizer: MakeOptimizer, opt_state: PyTree, mask: PyTree) -> PyTree:
    """Replaces the mask of an optimizer state and clears what it holds of pruned weights.

    `jaxprune.transforms.set_mask` leaves the clearing to the next update; a run evaluates before
    it, and evaluation parameters may be computed from the state (schedule-free).
    """
    opt_state = transforms.set_mask(opt_state, mask)
    inner = transforms.zero_pruned(_injected(make_optimizer), opt_state.inner_state, mask)
    return opt_state._replace(inner_state=inner)
