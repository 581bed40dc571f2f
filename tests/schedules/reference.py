"""A slow, independent version of every retraining schedule: plain Python, one step at a time."""

import math
from fractions import Fraction

PEAK = 0.1


def dense_rates(kind: str, steps: int, warmup: int) -> list[float]:
    """The pretraining rates: warm-up from zero over `warmup` steps, then the shape `kind`."""
    rates = []
    for t in range(steps):
        if t < warmup:
            rates.append(PEAK * t / warmup)
        elif kind == "stepped":
            rates.append(PEAK if 2 * t < steps else PEAK / 10 if 4 * t < 3 * steps else PEAK / 100)
        elif kind == "linear":
            rates.append(PEAK * (steps - t) / (steps - warmup))
        else:
            rates.append(PEAK * (1 + math.cos(math.pi * (t - warmup) / (steps - warmup))) / 2)
    return rates


def retraining_rates(
    name: str, rates: list[float], W: int, N: int, warmup: Fraction, peak: float, discount: float
) -> list[float]:
    T = len(rates)
    w = math.floor(warmup * N)
    K = N - w
    top = max(rates)
    bottom = min(rates[t] for t in range(T) if t >= W)
    start = {"ft": rates[T - 1], "allr": discount * top}
    start |= dict.fromkeys(("slr", "clr", "llr"), top)
    start |= dict.fromkeys(("constant", "stepped", "cosine", "linear"), peak)
    start["lrw"] = rates[T - N + w] if N <= T else math.nan
    out = []
    for i in range(N):
        if i < w:
            out.append(start[name] * math.sin(math.pi * i / (2 * w)) ** 2)
        elif name in ("ft", "constant"):
            out.append(start[name])
        elif name == "lrw":
            out.append(rates[T - N + i])
        elif name in ("slr", "stepped"):
            t = math.floor(Fraction((i - w) * T, K))
            shape = top if t < W else rates[t]
            out.append(shape if name == "slr" else peak * shape / top)
        elif name in ("clr", "cosine"):
            end = bottom if name == "clr" else 0.0
            share = math.cos(math.pi * (i - w) / (2 * K)) ** 2
            out.append(share * start[name] + (1 - share) * end)
        else:
            out.append(start[name] * (N - i) / K)
    return out
