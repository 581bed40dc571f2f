"""A warning where parameters are not what the step before left."""

from __future__ import annotations

import warnings

from jaxprune import _tree
from jaxprune._tree import PyTree
from jaxprune.transforms._dense import not_zero
from jaxprune.transforms._mask_state import PruneMask


class Watch:
    """What one transformation saw last, outside of compiled code. Inside it sees nothing.

    A step that goes on from the state that the step before returned finds pruned weights at zero,
    unless its updates were changed on their way. The states are told by the very node of the mask,
    which is a new one after every step and after `set_mask`.
    """

    def __init__(self, name: str):
        self.name = name
        self.last: PruneMask | None = None
        self.warned = False

    def look(self, node: PruneMask, mask: PyTree, params: PyTree) -> None:
        """Warns, once, if pruned weights are not zero where this goes on from the last step.

        Warns:
          UserWarning: naming the first such leaf.
        """
        if self.warned or node is not self.last or _tree.is_traced(mask, params):
            return
        for path, _, number in not_zero(params, mask):
            if number:
                self.warned = True
                warnings.warn(
                    f"{self.name} set the pruned weights of {path!r} to zero, and {number} of them "
                    "are not. If you have not replaced the parameters, something around this "
                    "transform changes its updates, as a member behind it in optax.chain or an "
                    "optax.lookahead around it. Put the transform outermost, or wrap all of it in "
                    "jaxprune.transforms.keep_zeros.",
                    stacklevel=4,
                )
                return

    def left(self, node: PruneMask) -> PruneMask:
        """The node to return from a step, remembered."""
        node = PruneMask(node.tree)
        self.last = None if self.warned or _tree.is_traced(node) else node
        return node
