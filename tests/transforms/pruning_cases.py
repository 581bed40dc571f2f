"""The rule of every transform that only prunes, for the slow loop of `moving_oracle`."""

import moving_oracle as mo
import numpy as np

SIZES = {name: int(np.prod(shape)) for name, shape in mo.SHAPES.items()}
TOTAL = sum(SIZES.values())


def gone(mask):
    return {name: int((~mask[name]).sum()) for name in mo.SHAPES}


def prune_globally(mask, scores, count):
    """The mask without its lowest scores, until ``count`` of all weights are gone."""
    flat = sorted(
        (float(scores[name].ravel()[i]), order, i)
        for order, name in enumerate(mo.SHAPES)
        for i in np.flatnonzero(mask[name].ravel())
    )
    out = {name: mask[name].copy() for name in mo.SHAPES}
    names = list(mo.SHAPES)
    for _, order, i in flat[: count - sum(gone(mask).values())]:
        out[names[order]].reshape(-1)[i] = False
    return out


def prune_each(mask, scores, sparsity):
    """Every leaf alone: round(sparsity n) of its n weights are gone."""
    return {
        name: mo.drop_lowest(
            mask[name], scores[name], round(sparsity * SIZES[name]) - gone(mask)[name]
        )
        for name in mo.SHAPES
    }


def magnitude(weights, grads):
    del grads
    return {name: np.abs(w) for name, w in weights.items()}


def rule(targets, *, each=False, score=magnitude):
    """``move`` for the oracle, from ``{step: sparsity}``."""

    def move(t, weights, grads, mask):
        if t not in targets:
            return None
        scores = score(weights, grads)
        if each:
            return prune_each(mask, scores, targets[t])
        return prune_globally(mask, scores, round(targets[t] * TOTAL))

    return move


def assert_counts(masks, targets, *, each=False):
    """Exact counts after every step; ``masks`` begin with that of ``init``."""
    sparsity = 0.0
    for t, mask in enumerate(masks):
        sparsity = targets.get(t, sparsity)
        if each:
            assert gone(mask) == {name: round(sparsity * n) for name, n in SIZES.items()}
        else:
            assert sum(gone(mask).values()) == round(sparsity * TOTAL)
