"""Local reconstruction: windows in order learn to do what they did when they were dense."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxprune import _tree, adapters
from jaxprune._checks import check_choice, check_steps
from jaxprune._mask import or_zero
from jaxprune._tree import PyTree
from jaxprune.adapters import Adapters
from jaxprune.layerwise._kernels import kernel_of, put, replaced, taken
from jaxprune.layerwise._walkthrough import begun
from jaxprune.layerwise._windows import windows_of
from jaxprune.layerwise.program import Runner


class ReconstructionRecord(NamedTuple):
    """What `reconstruct` tells of a window.

    Attributes:
      names: of its products.
      before: the loss of all batches before, in the mean.
      after: after.
      seconds: what the window took.
      windows: how many windows there are.
      number: which one it is, from 1.
    """

    names: tuple[str, ...]
    before: float
    after: float
    seconds: float
    windows: int
    number: int


def reconstruct(
    apply: Callable[[PyTree, Any], Any],
    params: PyTree,
    mask: PyTree,
    batches: Iterable[Any],
    *,
    dense: PyTree,
    tx: optax.GradientTransformation,
    steps: int,
    windows: Sequence[str] | None = None,
    inputs: Literal["dense", "pruned"] = "dense",
    loss: Literal["mse", "cosine"] = "mse",
    adapt: Callable[[PyTree, PyTree], Adapters] | None = None,
    on_window: Callable[[ReconstructionRecord], None] | None = None,
) -> PyTree:
    r"""Trains kept weights, one window after the other, to reproduce the dense activations.

    A window goes from its first product to the first of the next one. What it is to reproduce is
    all that the rest of the network reads of it: with a window of half a block, the residual
    stream. Windows need a nonlinearity inside: of single products the errors pile up.

    Loss per activation, with y dense and z pruned: "mse" is ``mean (z - y)^2 / mean y^2``, "cosine"
    is 1 - the cosine of the vectors along the last axis, in the mean.

    Args:
      apply: ``apply(params, batch)``, as of `prune`.
      params: the pruned parameters.
      mask: their mask; leaves without a mask are not trained.
      batches: pytrees of arrays, of one shape; held at once, with the activations of both networks
        at one place of the program.
      dense: the parameters before pruning.
      tx: an optimizer, fresh in each window. Its schedule runs over the ``steps`` of one.
      steps: updates a window, each on one batch, in turns.
      windows: as of `prune`; half blocks are a good choice, such as
        ``[r"attention.*(\d+)", r"mlp.*(\d+)"]``. Single products if omitted.
      inputs: whether a window sees what enters it in the dense network, or in the one pruned and
        reconstructed so far.
      loss: "mse" or "cosine".
      adapt: makes adapters of the kernels ``[..., in, out]`` of a window and of their masks, both
        ``{"000": array, "001": ...}``, such as
        ``lambda kernels, masks: jp.adapters.mask_lora(kernels, masks, rank=16, key=key)``. They are
        trained in place of the weights, and merged.
      on_window: called with a `ReconstructionRecord` after each window.

    Returns:
      The parameters, exactly 0 where the mask is False.

    Raises:
      ValueError: as `statistics`; if the trees differ, or a window names nothing; if a loss becomes
        NaN, naming the window.
      TypeError: if an argument is of the wrong kind.

    Example:
      >>> import jax, jax.numpy as jnp, optax
      >>> import jaxprune as jp
      >>> apply = lambda params, x: jnp.tanh(x @ params["a"]["w"]) @ params["b"]["w"]
      >>> keys = jax.random.split(jax.random.key(0), 3)
      >>> dense = {
      ...     "a": {"w": jax.random.normal(keys[0], (4, 8))},
      ...     "b": {"w": jax.random.normal(keys[1], (8, 2))},
      ... }
      >>> params, mask = jp.prune(dense, 0.5)
      >>> records = []
      >>> better = jp.layerwise.reconstruct(
      ...     apply, params, mask, [jax.random.normal(keys[2], (16, 4))], dense=dense,
      ...     tx=optax.sgd(0.1), steps=20, windows=["."], on_window=records.append,
      ... )
      >>> records[0].after < records[0].before
      True

    References:
      Zimmer et al., A Free Lunch in LLM Compression: Revisiting Retraining after Pruning, 2025
      (windows, dense inputs); Guo et al., EBFT, 2024 (block by block).
    """
    check_choice("inputs", inputs, ("dense", "pruned"))
    check_choice("loss", loss, ("mse", "cosine"))
    check_steps("steps", steps, at_least=1)
    _tree.check_matches(mask, params)
    _tree.check_same(dense, params, names=("dense", "params"))
    masked = {path for path, _ in _tree.named_leaves(_tree.expanded(mask, params))}
    given = list(batches)
    walk = begun(apply, params, given, lambda path, leaf: path in masked)
    ours = walk.runner
    teacher = Runner(walk.program, jax.tree.leaves(dense), given)
    kept, leaves = _kept(mask, params), set(walk.program.leaves)
    groups = windows_of(walk.sites, windows)
    starts = [window[0].at for window in groups] + [len(walk.program.steps)]
    trainers: dict[Any, _Trainer] = {}
    for number, window in enumerate(groups, start=1):
        began = time.perf_counter()
        for runner in (ours, teacher):
            runner.advance(starts[number - 1])
        piece = teacher.ahead(max(starts[number], window[-1].at + 1))
        own = [ours if inputs == "pruned" else teacher, ours]
        data = []
        for k in range(len(given)):
            entering, weights = (runner.arguments(piece, k) for runner in own)
            arguments = [
                weight if v in leaves else x
                for v, x, weight in zip(piece.arguments, entering, weights, strict=True)
            ]
            data.append((arguments, piece.run(*teacher.arguments(piece, k))))
        # What the function computes and drops has nothing to be compared with.
        window = [s for s in window if walk.program.leaves[s.leaf] in piece.arguments]
        if not window:
            continue
        places = tuple(piece.arguments.index(walk.program.leaves[site.leaf]) for site in window)
        shapes = tuple(site.entries.shape for site in window)
        key = id(piece.run), places, shapes
        if key not in trainers:
            trainers[key] = _Trainer(piece.run, places, loss, tx)
        new, before, after = trainers[key].train(
            {_key(k): kernel_of(ours.leaves, site) for k, site in enumerate(window)},
            {_key(k): taken(kept[site.leaf], site.entries) for k, site in enumerate(window)},
            [site.entries for site in window],
            data,
            steps,
            adapt,
        )
        if not np.isfinite(after):
            raise ValueError(
                f"the loss of the window of {[site.name for site in window]} became {after}. Lower "
                "the learning rate of tx, or clip."
            )
        for k, site in enumerate(window):
            put(ours.leaves, site, new[_key(k)])
        if on_window is not None:
            names = tuple(site.name for site in window)
            seconds = time.perf_counter() - began
            on_window(ReconstructionRecord(names, before, after, seconds, len(groups), number))
    return walk.treedef.unflatten(ours.leaves)


def _key(k: int) -> str:
    # Not its name, in which windows that are alike differ; sorted as JAX sorts dictionaries.
    return f"{k:03d}"


def _kept(mask: PyTree, params: PyTree) -> list[Any]:
    """The masks, leaf by leaf of the parameters; `None` where there is none."""
    own = jax.tree.leaves(_tree.expanded(mask, params), is_leaf=_tree.is_absent)
    leaves = jax.tree.leaves(params, is_leaf=_tree.is_absent)
    pairs = zip(own, leaves, strict=True)
    return [None if _tree.is_absent(m) else m for m, x in pairs if not _tree.is_absent(x)]


class _Trainer:
    """Trains windows that are alike, by one program."""

    def __init__(
        self,
        run: Callable[..., Any],
        places: tuple[int, ...],
        loss: str,
        tx: optax.GradientTransformation,
    ):
        distance = _mse if loss == "mse" else _cosine

        def lost(trained: Any, kernels: Any, masks: Any, entries: Any, data: Any) -> jax.Array:
            weights = _weights(trained, kernels, masks)
            arguments, targets = list(data[0]), data[1]
            for at, place, kernel in zip(places, entries, weights, strict=True):
                arguments[at] = replaced(arguments[at], place, kernel)
            pairs = zip(run(*arguments), targets, strict=True)
            terms = [distance(z, y) for z, y in pairs if _tree.is_floating(y)]
            return jnp.mean(jnp.stack(terms))

        def step(trained: Any, state: Any, *rest: Any) -> Any:
            value, gradient = jax.value_and_grad(lost)(trained, *rest)
            updates, state = tx.update(gradient, state, trained)
            return optax.apply_updates(trained, updates), state, value

        self._tx, self._lost, self._step = tx, jax.jit(lost), jax.jit(step)

    def train(
        self,
        kernels: dict[str, jax.Array],
        masks: dict[str, jax.Array],
        entries: list[np.ndarray],
        data: list[Any],
        steps: int,
        adapt: Callable[[PyTree, PyTree], Adapters] | None,
    ) -> tuple[dict[str, jax.Array], float, float]:
        """The new kernels, and the loss before and after, over all batches."""
        rest = kernels, masks, entries
        if adapt is None:
            trained: Any = {n: k.astype(_tree.wide_dtype(k.dtype)) for n, k in kernels.items()}
        else:
            trained = adapt(kernels, masks)

        def whole(trained: Any) -> float:
            return float(np.mean([float(self._lost(trained, *rest, batch)) for batch in data]))

        before, state = whole(trained), self._tx.init(trained)
        for k in range(steps):
            trained, state, _ = self._step(trained, state, *rest, data[k % len(data)])
        after = whole(trained)
        if isinstance(trained, Adapters):
            return adapters.merge(kernels, trained, masks), before, after
        new = {n: or_zero(masks[n], w).astype(kernels[n].dtype) for n, w in trained.items()}
        return new, before, after


def _weights(trained: Any, kernels: Any, masks: Any) -> list[jax.Array]:
    """What the forward pass sees, in the order of the products."""
    if isinstance(trained, Adapters):
        trained = adapters.effective(kernels, trained, masks)
    return [or_zero(masks[name], trained[name]) for name in kernels]


def _mse(z: jax.Array, y: jax.Array) -> jax.Array:
    z, y = (x.astype(_tree.wide_dtype(x.dtype)) for x in (z, y))
    whole = jnp.mean(jnp.square(y))
    return jnp.mean(jnp.square(z - y)) / jnp.where(whole > 0, whole, jnp.ones_like(whole))


def _cosine(z: jax.Array, y: jax.Array) -> jax.Array:
    z, y = (jnp.atleast_1d(x.astype(_tree.wide_dtype(x.dtype))) for x in (z, y))
    lengths = jnp.linalg.norm(z, axis=-1) * jnp.linalg.norm(y, axis=-1)
    tiny = jnp.asarray(jnp.finfo(lengths.dtype).tiny, lengths.dtype)
    return jnp.mean(1 - jnp.sum(z * y, axis=-1) / jnp.maximum(lengths, tiny))
