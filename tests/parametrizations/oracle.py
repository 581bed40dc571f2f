"""Each method transcribed from its definition, in slow float64 NumPy, for one small network.

Everything is written out: the network's gradient, the optimizer's step, the methods' rules. Arrays
live in flat dicts: the weights "w1" and "w2" (prunable), the biases "b1" and "b2", and what a
method trains beside them ("s1", "m2", ...). Masks are kept as the codes of the papers keep them:
changed *after* an iteration, where the library changes them before the next one.
"""

import numpy as np

STEPS = 40
LR, MOMENTUM, DECAY = 0.2, 0.9, 0.01
WEIGHTS = ("w1", "w2")
SHAPES = {"w1": (8, 6), "b1": (6,), "w2": (6, 4), "b2": (4,)}


def parameters(seed=0):
    rng = np.random.default_rng(seed)
    return {k: 0.5 * rng.normal(size=shape).astype(np.float32) for k, shape in SHAPES.items()}


def batches(steps=STEPS, seed=1):
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(steps, 16, 8)), rng.normal(size=(steps, 16, 4))
    return x.astype(np.float32), y.astype(np.float32)


def network(p, x, y):
    """Loss ``mean((tanh(x w1 + b1) w2 + b2 - y)^2)`` and its gradient, by the chain rule."""
    h = np.tanh(x @ p["w1"] + p["b1"])
    error = h @ p["w2"] + p["b2"] - y
    d_out = 2 * error / error.size
    d_pre = (d_out @ p["w2"].T) * (1 - h * h)
    grads = {"w1": x.T @ d_pre, "b1": d_pre.sum(0), "w2": h.T @ d_out, "b2": d_out.sum(0)}
    return float((error * error).mean()), grads


def train(method, params, steps, decayed=None):
    """SGD with L2 weight decay, momentum and Nesterov's step on whatever the method trains."""
    trained = {k: v.astype(np.float64) for k, v in params.items()} | method.start(params)
    momentum = {k: np.zeros_like(v) for k, v in trained.items()}
    losses, penalties = [], []
    for x, y in zip(*(b[:steps] for b in batches()), strict=True):
        effective = method.forward(trained)
        loss, grads = network(effective | {k: trained[k] for k in ("b1", "b2")}, x, y)
        losses.append(loss)
        penalties.append(method.penalty(trained))
        grads = grads | method.backward(trained, grads)
        for k, g in grads.items():
            if decayed is None or k in decayed:
                g = g + DECAY * trained[k]
            momentum[k] = MOMENTUM * momentum[k] + g
            trained[k] = trained[k] - LR * (g + MOMENTUM * momentum[k])
        method.after_iteration(trained)
        method.after_step(momentum)
    weights, mask = method.final(trained)
    biases = {k: trained[k] for k in ("b1", "b2")}
    return trained, weights | biases, mask, np.array(losses), np.array(penalties)


def top(weights, sparsity):
    """The mask of the largest magnitudes: exactly round(sparsity * n) smallest go."""
    values = np.concatenate([np.abs(weights[k]).ravel() for k in WEIGHTS])
    keep = np.ones(values.size, bool)
    keep[np.argsort(values, kind="stable")[: round(sparsity * values.size)]] = False
    cut = weights["w1"].size
    return {"w1": keep[:cut].reshape(SHAPES["w1"]), "w2": keep[cut:].reshape(SHAPES["w2"])}


class Method:
    """A method without penalty that trains the weights alone and changes nothing."""

    def start(self, params):
        return {}

    def forward(self, p):
        return {k: p[k] for k in WEIGHTS}

    def backward(self, p, g):
        """Gradients of what is trained (in place of the network's), the penalty's included."""
        return {}

    def penalty(self, p):
        return 0.0

    def after_iteration(self, p):
        pass

    def after_step(self, momentum):
        pass

    def final(self, p):
        return self.forward(p), {k: np.ones(SHAPES[k], bool) for k in WEIGHTS}


class Dnw(Method):
    def __init__(self, sparsity, layerwise=False):
        self.sparsity, self.layerwise = sparsity, layerwise

    def mask(self, p):
        if not self.layerwise:
            return top(p, self.sparsity)
        masks = {}
        for k in WEIGHTS:
            flat = np.abs(p[k]).ravel()
            keep = np.ones(flat.size, bool)
            keep[np.argsort(flat, kind="stable")[: round(self.sparsity * flat.size)]] = False
            masks[k] = keep.reshape(p[k].shape)
        return masks

    def forward(self, p):
        mask = self.mask(p)
        return {k: np.where(mask[k], p[k], 0) for k in WEIGHTS}

    def final(self, p):
        return self.forward(p), self.mask(p)


class Gradual(Method):
    """Targets at the ends of epochs; DPF also makes a mask every 16 iterations."""

    def __init__(
        self,
        sparsity,
        total,
        interval,
        refresh,
        masked_gradient,
        *,
        begin_step=0,
        end_step=None,
        initial=0.0,
        at_targets=True,
        forgets=False,
    ):
        if end_step is None:
            number = (total - begin_step) // interval - 1
        else:
            number = (end_step - begin_step) // interval
        self.targets = {
            begin_step + j * interval: sparsity + (initial - sparsity) * (1 - j / number) ** 3
            for j in range(0 if initial else 1, number + 1)
        }
        self.refresh, self.masked_gradient = refresh, masked_gradient
        self.at_targets, self.forgets = at_targets, forgets
        self.iteration, self.target, self.masks = 0, 0.0, None
        self.history = []

    def start(self, params):
        self.masks = {k: np.ones(SHAPES[k], bool) for k in WEIGHTS}
        return {}

    def forward(self, p):
        return {k: np.where(self.masks[k], p[k], 0) for k in WEIGHTS}

    def backward(self, p, g):
        return {k: g[k] * self.masks[k] for k in WEIGHTS} if self.masked_gradient else {}

    def after_iteration(self, p):
        self.iteration += 1
        if self.refresh and self.iteration % self.refresh == 0:
            self.masks = top(p, self.target)
        if self.iteration in self.targets:
            self.target = self.targets[self.iteration]
            if self.at_targets:
                self.masks = top(p, self.target)
        self.history.append(self.masks)

    def after_step(self, momentum):
        if self.forgets and self.iteration in self.targets:
            for k in WEIGHTS:
                momentum[k] = momentum[k] * self.masks[k]

    def final(self, p):
        return self.forward(p), self.masks


class SrSte(Method):
    """n of every m along the first axis."""

    def __init__(self, n, m, decay):
        self.n, self.m, self.decay = n, m, decay

    def mask(self, p):
        masks = {}
        for k in WEIGHTS:
            masks[k] = np.zeros(p[k].shape, bool)
            for column in range(p[k].shape[1]):
                for start in range(0, p[k].shape[0], self.m):
                    group = np.abs(p[k][start : start + self.m, column])
                    best = np.argsort(group, kind="stable")[-self.n :]
                    masks[k][start + best, column] = True
        return masks

    def forward(self, p):
        mask = self.mask(p)
        return {k: np.where(mask[k], p[k], 0) for k in WEIGHTS}

    def backward(self, p, g):
        mask = self.mask(p)
        return {k: g[k] + self.decay * (1.0 - mask[k]) * p[k] for k in WEIGHTS}

    def penalty(self, p):
        mask = self.mask(p)
        return sum(self.decay / 2 * ((p[k] * ~mask[k]) ** 2).sum() for k in WEIGHTS)

    def final(self, p):
        return self.forward(p), self.mask(p)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


class Str(Method):
    def __init__(self, initial):
        self.initial = initial

    def start(self, params):
        return {"s1": np.float64(self.initial), "s2": np.float64(self.initial)}

    def forward(self, p):
        out = {}
        for k, s in zip(WEIGHTS, ("s1", "s2"), strict=True):
            out[k] = np.sign(p[k]) * np.maximum(np.abs(p[k]) - sigmoid(p[s]), 0)
        return out

    def backward(self, p, g):
        out = {}
        for k, s in zip(WEIGHTS, ("s1", "s2"), strict=True):
            on = np.abs(p[k]) > sigmoid(p[s])
            out[k] = g[k] * on
            out[s] = (g[k] * on * -np.sign(p[k])).sum() * sigmoid(p[s]) * (1 - sigmoid(p[s]))
        return out

    def final(self, p):
        pairs = zip(WEIGHTS, ("s1", "s2"), strict=True)
        return self.forward(p), {k: np.abs(p[k]) > sigmoid(p[s]) for k, s in pairs}


class Cs(Method):
    def __init__(self, total, initial, final_temperature, penalty, weight_decay, epoch=None):
        self.total, self.initial, self.hottest = total, initial, final_temperature
        self.rate, self.decay, self.epoch = penalty, weight_decay, epoch
        self.beta, self.iteration = 1.0, 0

    def start(self, params):
        return {m: np.full(SHAPES[k], self.initial) for k, m in (("w1", "m1"), ("w2", "m2"))}

    def gates(self, p):
        return {"w1": sigmoid(self.beta * p["m1"]), "w2": sigmoid(self.beta * p["m2"])}

    def forward(self, p):
        gates = self.gates(p)
        return {k: gates[k] / sigmoid(self.initial) * p[k] for k in WEIGHTS}

    def backward(self, p, g):
        gates, out = self.gates(p), {}
        for k, m in (("w1", "m1"), ("w2", "m2")):
            slope = self.beta * gates[k] * (1 - gates[k])
            out[k] = g[k] * gates[k] / sigmoid(self.initial) + self.decay * p[k]
            out[m] = g[k] * p[k] / sigmoid(self.initial) * slope + self.rate * slope
        return out

    def penalty(self, p):
        gates = self.gates(p)
        return sum(
            self.rate * gates[k].sum() + 0.5 * self.decay * (p[k] ** 2).sum() for k in WEIGHTS
        )

    def after_iteration(self, p):
        self.iteration += 1
        if self.epoch is None:
            self.beta = self.hottest ** (self.iteration / self.total)
        else:
            last = -(-self.total // self.epoch) - 1
            self.beta = self.hottest ** (min(self.iteration // self.epoch, last) / last)

    def final(self, p):
        mask = {"w1": p["m1"] > 0, "w2": p["m2"] > 0}
        soft = self.forward(p)
        return {k: soft[k] * mask[k] for k in WEIGHTS}, mask


class Dst(Method):
    """Thresholds of output units (the last axis), overwritten by 0 in the forward pass."""

    def __init__(self, penalty, weight_decay, reset_at):
        self.rate, self.decay, self.reset_at, self.resets = penalty, weight_decay, reset_at, 0

    def start(self, params):
        return {"t1": np.zeros(6), "t2": np.zeros(4)}

    def forward(self, p):
        out = {}
        for k, t in (("w1", "t1"), ("w2", "t2")):
            if np.mean(np.abs(p[k]) - p[t] > 0) <= self.reset_at:
                p[t] = np.zeros_like(p[t])
                self.resets += 1
            out[k] = p[k] * (np.abs(p[k]) - p[t] > 0)
        return out

    def backward(self, p, g):
        out = {}
        for k, t in (("w1", "t1"), ("w2", "t2")):
            x = np.abs(p[k]) - p[t]
            slope = np.array([[_long_tail(value) for value in row] for row in x])
            out[k] = g[k] * (x > 0) + g[k] * p[k] * slope * np.sign(p[k]) + self.decay * p[k]
            out[t] = -(g[k] * p[k] * slope).sum(0) - self.rate * np.exp(-p[t])
        return out

    def penalty(self, p):
        return sum(
            self.rate * np.exp(-p[t]).sum() + 0.5 * self.decay * (p[k] ** 2).sum()
            for k, t in (("w1", "t1"), ("w2", "t2"))
        )

    def final(self, p):
        weights = self.forward(p)
        return weights, {k: np.abs(p[k]) - p[t] > 0 for k, t in (("w1", "t1"), ("w2", "t2"))}


def _long_tail(x):
    if abs(x) <= 0.4:
        return 2 - 4 * abs(x)
    return 0.4 if abs(x) <= 1 else 0.0
