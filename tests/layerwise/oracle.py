"""The methods written from their papers in NumPy: W is [out, in], as papers have it."""

import itertools

import numpy as np


def lost(w, v, g):
    return float(np.trace((w - v) @ g @ (w - v).T))


def smallest(scores, k):
    """The mask without the k smallest, lowest index of the kernel's order [in, out] first."""
    flat = scores.T.reshape(-1)
    mask = np.ones(flat.size, bool)
    mask[np.argsort(flat, kind="stable")[:k]] = False
    return mask.reshape(scores.T.shape).T


def per_row(scores, k):
    return np.stack([smallest(row[None], k)[0] for row in scores])


def groups(scores, n, m):
    """n of m along the inputs."""
    mask = np.zeros(scores.shape, bool)
    for i in range(0, scores.shape[1], m):
        mask[:, i : i + m] = per_row(scores[:, i : i + m], m - n)
    return mask


def refit(w, mask, g):
    v = np.zeros_like(w)
    for r in range(len(w)):
        s = np.flatnonzero(mask[r])
        v[r, s] = np.linalg.solve(g[np.ix_(s, s)], g[s] @ w[r])
    return v


def sparsegpt(w, g, counts, size, damping, nm=None):
    """Algorithm 1, with the inverse itself."""
    w = w.copy()
    inputs = w.shape[1]
    u = np.linalg.cholesky(np.linalg.inv(g + damping * np.mean(np.diag(g)) * np.eye(inputs))).T
    mask = np.ones(w.shape, bool)
    for b, start in enumerate(range(0, inputs, size)):
        end = min(start + size, inputs)
        if nm is None:
            score = w[:, start:end] ** 2 / np.diag(u)[start:end] ** 2
            mask[:, start:end] = smallest(score, counts[b])
        for j in range(start, end):
            if nm is not None and j % nm[1] == 0:
                score = w[:, j : j + nm[1]] ** 2 / np.diag(u)[j : j + nm[1]] ** 2
                mask[:, j : j + nm[1]] = groups(score, *nm)
            e = np.where(mask[:, j], 0, w[:, j]) / u[j, j]
            w[:, j:] -= np.outer(e, u[j, j:])
    return np.where(mask, w, 0), mask


def admm(w, g, choose, damping=0.1, iterations=20, refreshed=15):
    d = np.sqrt(np.diag(g))
    gn = g / np.outer(d, d)
    gn = gn + damping * np.eye(len(gn))
    w0 = (w * d).T
    x, u, mask = w0, np.zeros_like(w0), None
    inverse = np.linalg.inv(gn + np.eye(len(gn)))
    for t in range(iterations):
        if t < refreshed:
            mask = choose(np.abs(x + u).T, t).T
        z = (x + u) * mask
        u = u + x - z
        x = inverse @ (gn @ w0 + z - u)
    return (z.T / d), mask.T


def alps(w, g, k, damping=0.01, rho=0.1, iterations=300):
    g = g + damping * np.mean(np.diag(g)) * np.eye(len(g))
    d = np.sqrt(np.diag(g))
    gn, b0 = g / np.outer(d, d), (w * d).T
    top = lambda x: smallest(np.abs(x).T, k).T  # noqa: E731
    x, v = b0.copy(), np.zeros_like(b0)
    seen, mask, raised = top(b0), None, False
    kept = w.size - k
    for i in range(iterations):
        b = np.linalg.solve(gn + rho * np.eye(len(gn)), gn @ b0 - v + rho * x)
        mask = top(b + v / rho)
        x = (b + v / rho) * mask
        v = v + rho * (b - x)
        if i % 3 == 2:
            change = np.sum(mask != seen) / kept
            seen = mask
            if change > 0:
                rho *= 1.3 if change > 0.1 else 1.2 if change > 0.005 else 1.1
                raised = True
                if i >= 30 and change < 3e-4:
                    break
            elif not raised:
                rho, x, v = rho / 5, b0.copy(), np.zeros_like(b0)
            else:
                break
    return refit(w, mask.T, g), mask.T


def swaps(w, mask, g, most, m=None):
    """Each exchange tried out in full."""
    mask = mask.copy()
    for r in range(len(w)):
        for _ in range(most):
            now = lost(w[r : r + 1], (w * mask)[r : r + 1], g)
            best = (now * (1 - 1e-12), None)
            for p, q in itertools.product(np.flatnonzero(~mask[r]), np.flatnonzero(mask[r])):
                if m is not None and p // m != q // m:
                    continue
                row = mask[r].copy()
                row[p], row[q] = True, False
                value = lost(w[r : r + 1], (w[r] * row)[None], g)
                if value < best[0]:
                    best = (value, row)
            if best[1] is None:
                break
            mask[r] = best[1]
    return mask


def optimum(w, g, k):
    """The best error of any mask that keeps k of each row, by trying all; with refit weights."""
    total = 0.0
    for row in w:
        total += min(
            lost(row[None], refit(row[None], _row(len(row), s), g), g)
            for s in itertools.combinations(range(len(row)), k)
        )
    return total


def best_mask(w, g, k):
    """As `optimum`, with the weights as they are."""
    return sum(
        min(
            lost(row[None], row[None] * _row(len(row), s), g)
            for s in itertools.combinations(range(len(row)), k)
        )
        for row in w
    )


def _row(n, kept):
    mask = np.zeros((1, n), bool)
    mask[0, list(kept)] = True
    return mask
