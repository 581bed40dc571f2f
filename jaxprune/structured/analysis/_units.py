"""Units: positions on axes that must vanish together, as a union-find.

A **node** stands for one position on one axis of some value. Most nodes are atoms. Where two axes
are merged into one (a reshape before a dense layer, attention heads), position (i, j) of the merged
axis vanishes as soon as position i of the first axis *or* position j of the second does: its node
is a **composite** of the two. Joining nodes only ever makes more positions vanish together, so what
is found is always safe to remove, though not always all that could be.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxprune.structured.analysis._lines import line_of

FIXED = 0  # the node of positions that never vanish, for a reason that is not worth a word


class Reason(NamedTuple):
    """Why a position cannot vanish.

    Attributes:
      text: what it meets, or what happens to it.
      primitive: the JAX primitive that did it; "" where none did.
      line: the file and the line that it stands in; "" where that is not known.
    """

    text: str
    primitive: str = ""
    line: str = ""

    def __str__(self) -> str:
        return f"{self.text}, in {self.primitive}" if self.primitive else self.text


class Units:
    """Nodes, numbered from 1; node `FIXED` never vanishes.

    Attributes:
      singular: axes of parameters whose zeros make something infinite or no number.
    """

    def __init__(self) -> None:
        self._n = 1
        self._parent = np.zeros(1024, np.int64)
        self._why = np.zeros(1024, np.int32)  # of a root that is fixed: 1 + index of its reason
        self._is_composite = np.zeros(1024, bool)
        self._reasons: list[Reason] = [Reason("it meets an axis of one position")]
        self._codes: dict[Reason, int] = {self._reasons[0]: 1}
        self._parts: dict[int, tuple[int, ...]] = {}
        self._merged: dict[tuple[int, ...], int] = {}
        self._used: list[np.ndarray] = []
        self._why[FIXED] = 1
        self.singular: set[tuple[int, int]] = set()
        self._eqn: Any = None
        self._line: str | None = None

    def now(self, eqn: Any) -> None:
        """Notes which equation is being followed, `None` for none: the reasons name it."""
        self._eqn, self._line = eqn, None

    def _here(self, text: str) -> Reason:
        """A reason that names the equation that is being followed."""
        if self._eqn is None:
            return Reason(text)
        if self._line is None:
            self._line = line_of(self._eqn.source_info)
        return Reason(text, self._eqn.primitive.name, self._line)

    def new(self, n: int) -> np.ndarray:
        """``n`` atoms, int64 ``[n]``."""
        start, self._n = self._n, self._n + n
        if self._n > len(self._parent):
            room = max(2 * len(self._parent), self._n)
            self._parent = np.concatenate([self._parent, np.zeros(room, np.int64)])
            self._why = np.concatenate([self._why, np.zeros(room, np.int32)])
            self._is_composite = np.concatenate([self._is_composite, np.zeros(room, bool)])
        nodes = np.arange(start, self._n)
        self._parent[nodes] = nodes
        return nodes

    def new_fixed(self, n: int, text: str) -> np.ndarray:
        """``n`` times one node that is fixed from the start."""
        if n == 1:
            return np.full(1, FIXED, np.int64)
        node = self.new(1)
        self._why[node] = self._code(self._here(text))
        return np.repeat(node, n)

    def roots(self, nodes: np.ndarray) -> np.ndarray:
        """The roots of an int array of nodes: equal for nodes that are known to be one."""
        found = self._parent[nodes]
        while True:
            above = self._parent[found]
            if np.array_equal(above, found):
                return found
            self._parent[nodes] = above
            found = above

    def merge_all(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """The nodes that vanish as soon as the ones of ``a`` or the ones of ``b`` do."""
        if self.is_fixed(a).all():
            return b
        if self.is_fixed(b).all():
            return a
        return np.array([self.merge(pair) for pair in _pairs(a, b)], np.int64)

    def merge(self, parts: Iterable[int]) -> int:
        """The node that vanishes as soon as one of the given ones does."""
        distinct = dict.fromkeys(self._root(part) for part in parts)
        roots = tuple(root for root in distinct if not self._never(root))
        if len(roots) < 2:
            return roots[0] if roots else max(distinct)  # not `FIXED` if another says more
        if roots not in self._merged:
            node = int(self.new(1)[0])
            self._parts[node] = roots
            self._is_composite[node] = True
            self._merged[roots] = node
        return self._merged[roots]

    def join_all(self, a: np.ndarray, b: np.ndarray) -> None:
        """Makes the nodes of two int arrays vanish together, position by position."""
        if a is b:
            return
        a, b = self.roots(a), self.roots(b)
        differ = a != b
        if not differ.any():
            return
        a, b = a[differ], b[differ]
        simple = not (self._why[a].any() or self._why[b].any())
        simple &= not (self._is_composite[a].any() or self._is_composite[b].any())
        if simple and len(np.unique(b)) == len(b) and not np.isin(a, b).any():
            self._parent[b] = a
            return
        for x, y in dict.fromkeys(_pairs(a, b)):
            self.join(x, y)

    def join(self, a: int, b: int) -> None:
        """Makes two nodes vanish together."""
        a, b = self._root(a), self._root(b)
        if a == b:
            return
        for one, other in ((a, b), (b, a)):
            if self._never(one):
                self._fix(other, self._code_of(one))
                return
        ours, theirs = self._live(a), self._live(b)
        shared = set(ours) & set(theirs)
        if not shared and len(ours) == len(theirs) == 1:
            if ours[0] == a and theirs[0] == b:
                self._parent[b] = a
            else:
                self.join(ours[0], theirs[0])
        elif not shared and 1 in (len(ours), len(theirs)):
            (atom,), composite, parts = (theirs, a, ours) if len(ours) > 1 else (ours, b, theirs)
            if atom in self._atoms(composite):
                self._fix_others(atom, parts)
            elif self._is_composite[atom]:
                self.join(atom, composite)
            else:
                self._parent[atom] = composite
        else:
            ours = tuple(x for x in ours if x not in shared)
            theirs = tuple(x for x in theirs if x not in shared)
            if not ours or not theirs:
                self._fix_others(next(iter(shared)), (*ours, *theirs))
                return
            if len(ours) != len(theirs):
                ours, theirs = (*ours, *theirs)[1:], (ours[0],) * (len(ours) + len(theirs) - 1)
            for x, y in zip(ours, theirs, strict=True):
                self.join(x, y)

    def _fix_others(self, atom: int, parts: Iterable[int]) -> None:
        """Something vanishes with the atom alone, and with all of these: the others must stay.

        To make them one with the atom would do, too, but they run across many atoms, which would
        all become one.
        """
        code = self._code(self._here("it runs across channels that vanish without it"))
        for part in parts:
            if part == atom:
                continue
            if atom in self._atoms(part):
                self._fix_others(atom, self._live(part))
            else:
                self._fix(part, code)

    def fix_all(self, nodes: np.ndarray, text: str) -> None:
        """Makes nodes stay for good; a first reason is kept."""
        roots = self.roots(nodes)
        open_ = np.unique(roots[self._why[roots] == 0])
        if len(open_):
            code = self._code(self._here(text))
            for root in open_.tolist():
                self._fix(root, code)

    def use(self, nodes: np.ndarray) -> None:
        """Notes that something depends on these positions."""
        self._used.append(nodes)

    def is_fixed(self, nodes: np.ndarray) -> np.ndarray:
        """Which nodes of an int array are fixed, bool."""
        roots = self.roots(nodes)
        fixed = self._why[roots] != 0
        for i in np.flatnonzero(self._is_composite[roots] & ~fixed):
            fixed[i] = self._never(int(roots[i]))
        return fixed

    def unused(self, nodes: np.ndarray) -> np.ndarray:
        """Which nodes of an int array nothing depends on, bool."""
        used = np.zeros(self._n, bool)
        used[self.roots(np.concatenate([np.zeros(1, np.int64), *self._used]))] = True
        for root in np.flatnonzero(used & self._is_composite[: self._n]).tolist():
            used[list(self._atoms(root))] = True
        roots = self.roots(nodes)
        composite = self._is_composite[roots]
        idle = ~used[roots]
        for i in np.flatnonzero(composite):
            idle[i] = not any(used[atom] for atom in self._atoms(int(roots[i])))
        return idle

    def parts(self, nodes: np.ndarray) -> list[tuple[int, ...]]:
        """The atoms that each node vanishes with one of; none where it is fixed."""
        roots = self.roots(nodes).tolist()
        known = {x: tuple(a for a in self._atoms(x) if not self._never(a)) for x in set(roots)}
        return [known[root] for root in roots]

    def reasons(self, nodes: np.ndarray) -> list[Reason]:
        """Why each node is fixed; only for nodes that are."""
        return [self._reasons[self._code_of(root) - 1] for root in self.roots(nodes).tolist()]

    def gone(self, atoms: Iterable[int]) -> np.ndarray:
        """Which of all nodes vanish when the given atoms do, bool ``[nodes]``."""
        chosen = np.zeros(self._n, bool)
        chosen[self.roots(np.fromiter(atoms, np.int64))] = True
        roots = self.roots(np.arange(self._n))
        for root in np.unique(roots[self._is_composite[roots]]).tolist():
            chosen[root] = any(chosen[atom] for atom in self._atoms(root))
        return chosen[roots]

    def _root(self, node: int) -> int:
        parent = self._parent
        while parent[node] != node:
            parent[node] = parent[parent[node]]
            node = int(parent[node])
        return node

    def _live(self, root: int) -> list[int]:
        """A node's parts that can vanish, one level deep; itself if it is an atom."""
        if root not in self._parts:
            return [root]
        roots = (self._root(part) for part in self._parts[root])
        return list(dict.fromkeys(part for part in roots if not self._never(part)))

    def _atoms(self, node: int) -> tuple[int, ...]:
        root = self._root(node)
        if root not in self._parts:
            return (root,)
        nested = (self._atoms(part) for part in self._parts[root])
        return tuple(dict.fromkeys(atom for atoms in nested for atom in atoms))

    def _never(self, root: int) -> bool:
        if self._why[root]:
            return True
        return root in self._parts and all(self._why[atom] for atom in self._atoms(root))

    def _fix(self, root: int, code: int) -> None:
        if not self._reasons[code - 1].primitive:
            code = self._code(self._here(self._reasons[code - 1].text))
        for atom in self._atoms(root):
            if not self._why[atom]:
                self._why[atom] = code

    def _code_of(self, root: int) -> int:
        return next(int(self._why[atom]) for atom in self._atoms(root) if self._why[atom])

    def _code(self, reason: Reason) -> int:
        if reason not in self._codes:
            self._reasons.append(reason)
            self._codes[reason] = len(self._reasons)
        return self._codes[reason]


def _pairs(a: np.ndarray, b: np.ndarray) -> Sequence[tuple[int, int]]:
    return list(zip(a.tolist(), b.tolist(), strict=True))
