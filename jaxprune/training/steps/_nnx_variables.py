"""The variables and random streams of a Flax NNX module, as trees and back."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

from jaxprune._tree import PyTree
from jaxprune.training.steps._sharding import Rule


class Variables:
    """Variables of one kind: as a State of NNX, and as nested dicts of their arrays."""

    def __init__(self, state: Any):
        from flax import nnx

        self._structure = jax.tree.structure(state)
        # Of each array its place among the leaves of the State, in nested dicts.
        numbered = self._structure.unflatten(range(self._structure.num_leaves))
        self._places: dict[Any, Any] = {}
        for path, variable in nnx.to_flat_state(numbered):
            inside = self._places
            for part in path[:-1]:
                inside = inside.setdefault(part, {})
            numbers = jax.tree.leaves(variable)
            # Nearly all hold one array; a tree of arrays becomes a list.
            inside[path[-1]] = numbers[0] if len(numbers) == 1 else numbers

    def taken_from(self, state: Any) -> PyTree:
        """The nested dicts with the arrays of a State."""
        leaves = jax.tree.leaves(state)
        return jax.tree.map(lambda place: leaves[place], self._places)

    def of(self, tree: PyTree) -> Any:
        """A new State, with the metadata of the first one, that holds the arrays of such dicts."""
        pairs = zip(jax.tree.leaves(self._places), jax.tree.leaves(tree), strict=True)
        by_place = dict(pairs)
        return self._structure.unflatten(by_place[i] for i in range(len(by_place)))

    def sharding(self, state: Any) -> Rule:
        """The rule that the metadata of the variables spell."""
        from flax import nnx

        specs: dict[str, Any] = {}
        for path, variable in nnx.to_flat_state(nnx.get_partition_spec(state)):
            found = jax.tree.leaves(variable)
            if len(found) == 1 and isinstance(found[0], PartitionSpec):
                specs["/".join(map(str, path))] = found[0]
        return lambda path, leaf: specs.get(path, PartitionSpec())


class Seeds:
    """The random streams of a module, seeded anew from the key of a step.

    Streams that have one key, as those of layers that are to drop alike, get one again. Their own
    keys decide nothing else, so a module that was made with another seed resumes to the same bits.
    On the host, because a compiled step may run anywhere.
    """

    def __init__(self, state: Any):
        leaves, self._structure = jax.tree.flatten(state)
        self._leaves: list[Any] = []
        rows: dict[Any, dict[bytes, int]] = {}  # of each kind of key: which ones there are
        for leaf in leaves:
            if not jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
                self._leaves.append(np.asarray(leaf))
                continue
            data = np.asarray(jax.random.key_data(leaf))
            kind = str(jax.random.key_impl(leaf)), data.shape[-1]
            seen = rows.setdefault(kind, {})
            index = [seen.setdefault(row.tobytes(), len(seen)) for row in data.reshape(-1, kind[1])]
            self._leaves.append((kind, np.reshape(index, leaf.shape).astype(np.int32), data))
        self._numbers = {kind: len(seen) for kind, seen in rows.items()}

    def of(self, key: jax.Array | None) -> Any:
        """The streams, seeded from a key; with their own keys if there is none."""
        drawn = {}
        if key is not None:
            for i, ((impl, words), n) in enumerate(self._numbers.items()):
                bits = jax.random.bits(jax.random.fold_in(key, i), (n, words), "uint32")
                drawn[impl, words] = bits
        leaves = []
        for leaf in self._leaves:
            if isinstance(leaf, tuple):
                kind, index, data = leaf
                data = data if key is None else drawn[kind][index]
                leaves.append(jax.random.wrap_key_data(data, impl=kind[0]))
            else:
                leaves.append(jnp.asarray(leaf))  # the stream counts on, in place
        return self._structure.unflatten(leaves)


def check_same(ours: Any, theirs: Any, what: str) -> None:
    """Raises unless two States have variables of the same paths and shapes."""
    from flax import nnx

    one, other = (
        {
            "/".join(map(str, path)): [np.shape(x) for x in jax.tree.leaves(variable)]
            for path, variable in nnx.to_flat_state(state)
        }
        for state in (ours, theirs)
    )
    for path in sorted({*one, *other}):
        if one.get(path) != other.get(path):
            before, after = (_shapes(shapes.get(path)) for shapes in (one, other))
            raise ValueError(
                f"{what}: {path!r} is {before} in the module that from_nnx got and {after} there. "
                "Make all variables when the module is made, and give that very module, or one "
                "made alike."
            )


def _shapes(shapes: Any) -> str:
    return "missing" if shapes is None else "of shape " + ", ".join(map(str, shapes))
