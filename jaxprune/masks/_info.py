"""What a prune did, as data: compiled code cannot raise, so it reports."""

from __future__ import annotations

import dataclasses
import warnings

import jax
import numpy as np

from jaxprune._selection.limbs import from_limbs
from jaxprune.masks.allocations import OnCollapse


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PruneInfo:
    """Counts and findings of one prune; a pytree, so it may leave compiled code.

    Attributes:
      removed: uint32 ``[pools, 2]``, how many entries each pool was asked to lose, in limbs
        (``high * 2**32 + low``). An entry is a weight, or with a pattern of blocks or channels one
        of those; leaves with an N:M pattern are in no pool.
      removed_before: uint32 ``[pools, 2]``, how many of them `within` had removed, in limbs.
      kept: uint32 ``[leaves, 2]``, weights kept of each prunable leaf, in limbs.
      kept_before: uint32 ``[leaves, 2]``, weights kept before the prune, in limbs.
      nan: bool ``[leaves]``, whether a leaf's scores hold a NaN (which counts as the largest) where
        `within` has not removed the weight.
      beyond: bool ``[leaves]``, whether a leaf lost fewer or more than the limits of the allocation
        allow, because `within` leaves no other way.
      paths: the readable path of each prunable leaf.
      sizes: the number of weights of each prunable leaf.
      pools: the indices of the leaves of each pool.
      unit: the word for what is counted: "weights", or "groups" with a pattern of those.
      on_collapse: what `check` does when a leaf lost its last weight.
    """

    removed: jax.Array
    removed_before: jax.Array
    kept: jax.Array
    kept_before: jax.Array
    nan: jax.Array
    beyond: jax.Array
    paths: tuple[str, ...] = dataclasses.field(metadata={"static": True})
    sizes: tuple[int, ...] = dataclasses.field(metadata={"static": True})
    pools: tuple[tuple[int, ...], ...] = dataclasses.field(metadata={"static": True})
    unit: str = dataclasses.field(metadata={"static": True})
    on_collapse: OnCollapse = dataclasses.field(metadata={"static": True})

    @property
    def sparsity(self) -> float:
        """Fraction removed of all prunable weights, from exact counts (on the host)."""
        total = sum(self.sizes)
        return (total - self.counts()[0]) / total

    def counts(self) -> tuple[int, int]:
        """Weights kept after the prune and before it, as exact Python integers (on the host)."""
        return sum(map(from_limbs, self.kept)), sum(map(from_limbs, self.kept_before))

    def collapsed(self) -> list[str]:
        """Paths of the leaves that lost their last weight in this prune."""
        kept, before = (np.any(np.asarray(x), axis=-1) for x in (self.kept, self.kept_before))
        return [path for path, k, b in zip(self.paths, kept, before, strict=True) if b and not k]

    def check(self, *, may_remove_nothing: bool = False) -> None:
        """Raises or warns about what compiled code could only note. Call it on the host.

        Args:
          may_remove_nothing: whether a prune that removes no weight is what was asked for.

        Raises:
          ValueError: if scores held a NaN, if a target lay below the sparsity already reached,
            if `within` and the limits of an allocation contradict each other, or if a leaf lost
            its last weight and ``on_collapse`` is "error".

        Warns:
          UserWarning: if the prune removed nothing, or a leaf lost its last weight and
            ``on_collapse`` is "warn".
        """
        nan = [path for path, bad in zip(self.paths, np.asarray(self.nan), strict=True) if bad]
        if nan:
            raise ValueError(
                f"the scores of {nan[0]!r} hold NaN"
                + (f" (and those of {len(nan) - 1} more leaves)" if len(nan) > 1 else "")
                + ". Prune a state from before training diverged."
            )
        self.check_nested()
        beyond = [
            path for path, bad in zip(self.paths, np.asarray(self.beyond), strict=True) if bad
        ]
        if beyond:
            raise ValueError(
                f"{beyond[0]!r} cannot stay within the limits of the allocation: `within` has "
                "removed too much already, of it or of the others. Change the limits, or leave "
                "`within` out."
            )
        kept, before = self.counts()
        total = sum(self.sizes)
        if kept == before and not may_remove_nothing:
            warnings.warn(
                f"this prune removes nothing: {total - before} of {total} weights were "
                "removed before it and after it.",
                stacklevel=3,
            )
        collapsed = self.collapsed()
        if collapsed and self.on_collapse != "allow":
            message = (
                f"no weight is left of {', '.join(map(repr, collapsed))}: the network is cut "
                "there. Prune less, exclude the leaf with `where`, or pass keep_at_least=1 or "
                "on_collapse='allow' to the allocation."
            )
            if self.on_collapse == "error":
                raise ValueError(message)
            warnings.warn(message, stacklevel=3)

    def check_nested(self) -> None:
        """Raises if a target lies below the sparsity that ``within`` had reached already.

        Raises:
          ValueError: naming both counts.
        """
        removed, before = self._removed()
        for i, (now, then) in enumerate(zip(removed, before, strict=True)):
            if now < then:
                members = self.pools[i]
                place = f" in {self.paths[members[0]]!r}" if len(members) < len(self.paths) else ""
                raise ValueError(
                    f"the target removes {now} {self.unit}{place}, but `within` has removed {then} "
                    "already: its sparsity is higher. Masks are nested, so ask for at least that "
                    "sparsity, or leave `within` out."
                )

    def _removed(self) -> tuple[list[int], list[int]]:
        """Entries removed after and before, of each pool."""
        after, before = np.asarray(self.removed), np.asarray(self.removed_before)
        return [from_limbs(x) for x in after], [from_limbs(x) for x in before]
