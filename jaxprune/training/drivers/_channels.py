"""The networks of a run that loses channels: functions, states and counts after each prune."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import jax
import numpy as np

from jaxprune import masks, metrics, structured, transforms
from jaxprune._tree import PyTree
from jaxprune.structured import ChannelGroups
from jaxprune.training.checkpoints import Left
from jaxprune.training.steps import Evaluate, TrainLoop, TrainState

Function: TypeAlias = Callable[..., Any]
Scores: TypeAlias = Callable[[ChannelGroups, PyTree], Sequence[Any]]
Select: TypeAlias = Callable[[ChannelGroups, Sequence[Any], float], Sequence[np.ndarray]]


class Network(NamedTuple):
    """What trains and measures a network, dense or small; see `structured_imp`.

    Attributes:
      train: a loop from `make_loop`.
      evaluate: ``evaluate(state) -> {name: value}``, see `make_evaluate`.
      recalibrate: from `make_recalibrate`; run after each prune, before it is evaluated.
    """

    train: TrainLoop
    evaluate: Evaluate
    recalibrate: Callable[[TrainState], TrainState] | None = None


class Shrink:
    """Makes functions of the small parameters of functions of the dense ones.

    A function is ``f(params, model_state, *inputs)``, such as a loss or an evaluation.
    """

    def __init__(self, full: PyTree, groups: ChannelGroups, kept: Sequence[np.ndarray] | None):
        self._full, self._groups, self._kept = full, groups, kept

    def __call__(self, f: Function) -> Function:
        """The function of what is left; itself as long as all is."""
        if self._kept is None:
            return f
        return _Apart(structured.small_function(_Joined(f), self._full, self._groups, self._kept))


class Channels:
    """The channels of a network that is trained as a `TrainState`.

    Attributes:
      groups: of ``{"params": ..., "model_state": ...}``.
    """

    def __init__(self, apply: Function, state: TrainState, inputs: Sequence[Any]):
        """Follows ``apply(params, model_state, *inputs)``.

        Raises:
          ValueError: as `channel_groups`; if no channel can be removed.
        """
        variables = _variables(state)
        self._full = jax.tree.map(_shape, variables)
        self._inputs = jax.tree.map(_shape, tuple(inputs))
        self._apply = apply
        self.groups = structured.channel_groups(_Joined(apply), self._full, *self._inputs)
        if not len(self.groups):
            raise ValueError(f"no channel of this network can be removed.\n{self.groups.report()}")
        # The optimizer's state knows parameters by their paths inside ``params``.
        self._own = _inside(self.groups, "params", jax.tree.structure(state.params))

    def all(self) -> tuple[np.ndarray, ...]:
        """Every channel."""
        return tuple(np.ones(group.size, bool) for group in self.groups)

    def masks(self, kept: Sequence[np.ndarray]) -> PyTree:
        """Masks of the dense variables."""
        return structured.masks(self.groups, kept)

    def shrink(self, kept: Sequence[np.ndarray]) -> Shrink:
        """What makes small functions when these channels stay."""
        whole = all(stays.all() for stays in kept)
        return Shrink(self._full, self.groups, None if whole else kept)

    def cut(
        self, state: TrainState, kept: Sequence[np.ndarray], fresh: Function | None = None
    ) -> Any:
        """What is left of a state of the dense network.

        Args:
          state: the state.
          kept: the channels that stay.
          fresh: ``fresh(params, mask)`` makes the optimizer's state anew; that of the state is cut
            if omitted.
        """
        gone = self.masks(kept)
        small = structured.cut(_variables(state), self.groups, gone)
        if fresh is None:
            opt_state = structured.cut(state.opt_state, self._own, gone["params"])
        else:
            mask = transforms.get_mask(state.opt_state, copy=False)
            opt_state = fresh(small["params"], structured.cut(mask, self._own, gone["params"]))
        return state._replace(
            params=small["params"], model_state=small["model_state"], opt_state=opt_state
        )

    def recut(
        self,
        state: TrainState,
        before: Sequence[np.ndarray],
        kept: Sequence[np.ndarray],
        fresh: Function | None = None,
    ) -> TrainState:
        """What is left of a state that had lost channels already."""
        small = Channels._of(self, state, before)
        return small.cut(state, [now[then] for now, then in zip(kept, before, strict=True)], fresh)

    def _of(self, state: TrainState, kept: Sequence[np.ndarray]) -> Channels:
        """The same for the small network."""
        other = object.__new__(Channels)
        other.groups = structured.remaining(self.groups, kept)
        other._own = _inside(other.groups, "params", jax.tree.structure(state.params))
        return other

    def expand(self, state: TrainState, kept: Sequence[np.ndarray]) -> PyTree:
        """The dense variables, zero where channels went."""
        return structured.expand(_variables(state), self.groups, self.masks(kept))

    def select(
        self,
        variables: PyTree,
        kept: Sequence[np.ndarray],
        sparsity: float,
        scores: Scores,
        select: Select,
    ) -> tuple[tuple[np.ndarray, ...], tuple[str, ...]]:
        """Which channels stay, of those still there, and what the selection has to say.

        Raises:
          ValueError: if a channel would come back.
        """
        found = [
            None if s is None else np.where(there, np.asarray(s, np.float64), -np.inf)
            for s, there in zip(scores(self.groups, variables), kept, strict=True)
        ]
        chosen = select(self.groups, found, sparsity)
        for group, now, then in zip(self.groups, chosen, kept, strict=True):
            if np.any(now & ~then):
                raise ValueError(
                    f"at sparsity {sparsity} the selection keeps a channel of {group.name!r} that "
                    "an earlier cycle removed. Those score -inf: select must remove the lowest, "
                    "and at a higher sparsity no fewer of any layer."
                )
        return tuple(np.asarray(now) for now in chosen), tuple(getattr(chosen, "notes", ()))

    def left(self, kept: Sequence[np.ndarray], notes: tuple[str, ...] = ()) -> Left:
        """Counts what is left, from shapes alone."""
        gone = self.masks(kept)
        small = structured.cut(self._full, self.groups, gone)
        call = self.shrink(kept)(self._apply)
        macs: int | None = None
        try:
            macs = metrics.flops(
                lambda v, *x: call(v["params"], v["model_state"], *x), small, *self._inputs
            ).macs
        except ValueError as error:  # a kernel may hide products: no reason to end a run
            notes = (*notes, f"MACs are not counted: {error}")
        named = structured.widths(self.groups, gone)
        return Left(
            channels=sum(int(stays.sum()) for stays in kept),
            parameters=sum(int(np.prod(x.shape)) for x in jax.tree.leaves(small["params"])),
            macs=macs,
            widths={path.removeprefix("params/"): n for path, n in named.items()},
            notes=notes,
        )


def pruned(variables: PyTree, channels: Channels, kept: Sequence[np.ndarray]) -> PyTree:
    """Dense variables with zeros for all channels but these."""
    return masks.apply_mask(variables, channels.masks(kept))


def _variables(state: TrainState) -> PyTree:
    return {"params": state.params, "model_state": state.model_state}


def _shape(x: Any) -> Any:
    return jax.ShapeDtypeStruct(np.shape(x), x.dtype) if hasattr(x, "dtype") else x


def _inside(groups: ChannelGroups, first: str, treedef: Any) -> ChannelGroups:
    """The groups of a subtree, their paths as it has them."""

    def name(path: str) -> str | None:
        head, _, rest = path.partition("/")
        return rest if head == first else None

    found = []
    for group in groups:
        members = [m._replace(path=own) for m in group.members if (own := name(m.path)) is not None]
        found.append(group._replace(members=tuple(members)))
    shapes = {own: s for path, s in groups.shapes.items() if (own := name(path)) is not None}
    return ChannelGroups(tuple(found), (), (), shapes, treedef)


@jax.tree_util.register_pytree_with_keys_class
class _Result:
    """What a function returned, with the new model state at the path of the old one."""

    def __init__(self, rest: list[Any], model_state: list[Any], treedef: Any):
        self.rest, self.model_state, self.treedef = rest, model_state, treedef

    @classmethod
    def of(cls, returned: Any, model_state: PyTree) -> _Result:
        own = jax.tree.structure(model_state)
        if own.num_leaves == 0 or jax.tree_util.treedef_is_leaf(own):
            is_state = lambda x: False  # noqa: E731
        else:
            is_state = lambda x: jax.tree.structure(x) == own  # noqa: E731
        leaves, treedef = jax.tree.flatten(returned, is_leaf=is_state)
        places = [is_state(x) for x in leaves]
        rest = [x for x, there in zip(leaves, places, strict=True) if not there]
        states = [x for x, there in zip(leaves, places, strict=True) if there]
        return cls(rest, states, (treedef, tuple(places)))

    def apart(self) -> Any:
        treedef, places = self.treedef
        rest, states = iter(self.rest), iter(self.model_state)
        return jax.tree.unflatten(treedef, [next(states if there else rest) for there in places])

    def tree_flatten_with_keys(self) -> Any:
        key = jax.tree_util.DictKey
        first = self.model_state[0] if self.model_state else None
        parts = ((key("rest"), self.rest), (key("model_state"), first))
        return (*parts, (key("more"), self.model_state[1:])), self.treedef

    @classmethod
    def tree_unflatten(cls, treedef: Any, parts: Any) -> _Result:
        rest, first, more = parts
        return cls(rest, [first, *more] if any(treedef[1]) else [], treedef)


@dataclasses.dataclass(frozen=True)  # `jax.jit` refers weakly to functions: no NamedTuple
class _Joined:
    """A function of parameters and model state as one of both in one tree."""

    function: Function

    def __call__(self, variables: PyTree, *inputs: Any) -> _Result:
        state = variables["model_state"]
        return _Result.of(self.function(variables["params"], state, *inputs), state)


@dataclasses.dataclass(frozen=True)
class _Apart:
    """The way back."""

    function: Function

    def __call__(self, params: PyTree, model_state: PyTree, *inputs: Any) -> Any:
        return self.function({"params": params, "model_state": model_state}, *inputs).apart()
