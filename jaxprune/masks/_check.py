"""Whether a mask has a pattern."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune import _layers
from jaxprune._layers import Stacked
from jaxprune._mask import check_bool
from jaxprune._tree import PyTree
from jaxprune.masks import _rules_of_layers, patterns
from jaxprune.masks.patterns import Pattern


def check(mask: PyTree, pattern: Pattern, *, stacked: Stacked | None = None) -> None:
    """Raises if a mask does not have a pattern.

    Of an N:M pattern every whole group keeps at most n entries (fewer where a mask `within` had
    removed more). Blocks and channels are kept or removed whole. What a pattern leaves out
    (``remainder="dense"``) may be anything.

    Args:
      mask: a mask, True = kept, `None` where a leaf is not prunable. Not traced.
      pattern: `nm`, `block`, `channels`, or a function of that kind.
      stacked: as for `make`.

    Raises:
      ValueError: naming the first leaf and group that break it; or as `make`, if the pattern does
        not fit the leaves.
      TypeError: if a leaf is not boolean, or ``pattern`` is not a pattern.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxprune as jp
      >>> mask = {"kernel": jnp.array([[True, False], [True, True]])}
      >>> jp.masks.check(mask, jp.masks.nm(1, 2, axis=0))
      Traceback (most recent call last):
      ...
      ValueError: 'kernel' is not 1:2 along axis 0: group (0, 0) keeps 2 of 2.
    """
    check_bool(mask)
    axes = _layers.axes_of(stacked, mask)
    named = [path for path, _ in _layers.named(mask, axes)]
    layers = jax.tree.leaves(_layers.taken_apart(mask, axes))
    specs = _rules_of_layers.specs_of(pattern, mask, axes)
    for path, leaf, spec in zip(named, layers, specs, strict=True):
        if spec is None:
            continue
        groups = patterns.split(leaf, spec)
        size = groups.shape[-1]
        kept = np.asarray(jnp.sum(groups, axis=-1, dtype=jnp.uint32))
        whole = np.broadcast_to(patterns.sizes_of(leaf.shape, spec), kept.shape)
        broken = (kept != 0) & (kept != whole) if spec.kept is None else kept > spec.kept
        if not np.any(broken):
            continue
        where = tuple(int(i) for i in np.argwhere(broken)[0])
        if spec.kept is None:
            what = f"in groups of {'x'.join(map(str, spec.group))} along axes {spec.axes}"
        else:
            what = f"{spec.kept}:{size} along axis {spec.axes[0]}"
        raise ValueError(
            f"{path!r} is not {what}: group {where} keeps {int(kept[where])} of "
            f"{int(whole[where])}."
        )
