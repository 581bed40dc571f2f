"""Architectures of packages that do not install or run here, in plain code of our own."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.bench.models.entry import Entry, Model, drawn, images


class _Draw:
    """Weights with the right scale, one after the other."""

    def __init__(self) -> None:
        self._rng = np.random.default_rng(0)

    def __call__(self, *shape: int) -> jax.Array:
        scale = np.sqrt(1 / max(1, np.prod(shape[:-1])))
        return jnp.asarray(scale * self._rng.normal(size=shape), jnp.float32)

    def layer(self, *shape: int) -> dict[str, jax.Array]:
        """A kernel and a bias."""
        return {"w": self(*shape), "b": self(1, shape[-1])[0]}


def _dense(p: Any, x: Any) -> Any:
    return x @ p["w"] + p["b"]


def _conv(p: Any, x: Any, stride: int = 1) -> Any:
    numbers = ("NHWC", "HWIO", "NHWC")
    x = jax.lax.conv_general_dilated(x, p["w"], (stride,) * 2, "SAME", dimension_numbers=numbers)
    return jax.nn.relu(x + p["b"])


def _norm(p: Any, x: Any) -> Any:
    moved = x - x.mean(-1, keepdims=True)
    return moved * jax.lax.rsqrt((moved**2).mean(-1, keepdims=True) + 1e-5) * p["w"] + p["b"]


def _attend(p: Any, x: Any, source: Any) -> Any:
    """Four heads; queries from ``x``, keys and values from ``source``."""
    q, k, v = (
        jnp.einsum("nc,chd->hnd", s, p[name])
        for s, name in ((x, "q"), (source, "k"), (source, "v"))
    )
    weights = jax.nn.softmax(jnp.einsum("hnd,hmd->hnm", q, k) / np.sqrt(q.shape[-1]))
    return jnp.einsum("hnm,hmd,hdc->nc", weights, v, p["o"])


def googlenet() -> Model:
    """Inception blocks: four branches of different widths side by side."""
    draw = _Draw()

    def block(c: int, a: int, b: int, d: int, e: int) -> dict[str, Any]:
        return {
            "one": draw.layer(1, 1, c, a),
            "three": [draw.layer(1, 1, c, b), draw.layer(3, 3, b, b)],
            "five": [draw.layer(1, 1, c, d), draw.layer(5, 5, d, d)],
            "pool": draw.layer(1, 1, c, e),
        }

    params = {
        "stem": draw.layer(3, 3, 3, 16),
        "blocks": [block(16, 8, 12, 4, 4), block(28, 12, 16, 8, 8)],
        "head": draw.layer(44, 10),
    }

    def inception(p: Any, x: Any) -> Any:
        pooled = jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 3, 3, 1), (1,) * 4, "SAME")
        three, five = (_conv(p[n][1], _conv(p[n][0], x)) for n in ("three", "five"))
        return jnp.concatenate([_conv(p["one"], x), three, five, _conv(p["pool"], pooled)], -1)

    def apply(p: Any, x: Any) -> Any:
        x = _conv(p["stem"], x, 2)
        for own in p["blocks"]:
            x = inception(own, x)
        return _dense(p["head"], x.mean((1, 2)))

    return Model(apply, drawn(params), (images(1, 16, 16, 3),))


def perceiver() -> Model:
    """Learned latents that read the inputs by attention, twice with the same weights."""
    draw = _Draw()

    def attention(source: int) -> dict[str, Any]:
        return {"q": draw(32, 4, 8), "k": draw(source, 4, 8), "v": draw(source, 4, 8),
                "o": draw(4, 8, 32)}  # fmt: skip

    params = {
        "latents": draw(8, 32),
        "cross": attention(6),
        "own": attention(32),
        "norms": [draw.layer(1, 32) for _ in range(2)],
        "mlp": [draw.layer(32, 64), draw.layer(64, 32)],
        "head": draw.layer(32, 5),
    }

    def one(p: Any, x: Any) -> Any:
        z = p["latents"]
        for _ in range(2):
            z = z + _attend(p["cross"], _norm(p["norms"][0], z), x)
            y = _norm(p["norms"][1], z)
            z = z + _attend(p["own"], y, y)
            z = z + _dense(p["mlp"][1], jax.nn.gelu(_dense(p["mlp"][0], z)))
        return _dense(p["head"], z.mean(0))

    def apply(p: Any, x: Any) -> Any:
        return jax.vmap(lambda x: one(p, x))(x)

    return Model(apply, drawn(params), (images(2, 10, 6),))


def recurrence() -> Model:
    """A linear recurrent unit: a diagonal complex recurrence by an associative scan."""
    draw = _Draw()
    params = {
        "in": draw.layer(6, 24),
        "layers": [
            {"nu": draw(1, 16)[0], "theta": draw(1, 16)[0], "b": [draw(24, 16), draw(24, 16)],
             "c": [draw(16, 24), draw(16, 24)], "d": draw(1, 24)[0], "gate": draw.layer(24, 24)}
            for _ in range(2)
        ],
        "out": draw.layer(24, 3),
    }  # fmt: skip

    def combine(left: Any, right: Any) -> Any:
        return left[0] * right[0], right[0] * left[1] + right[1]

    def layer(p: Any, x: Any) -> Any:
        rate = jnp.exp(jax.lax.complex(-jnp.exp(p["nu"]), jnp.exp(p["theta"])))
        driven = jax.lax.complex(x @ p["b"][0], x @ p["b"][1])
        rates = jnp.broadcast_to(rate, driven.shape)
        _, h = jax.lax.associative_scan(combine, (rates, driven))
        y = jax.nn.gelu(h.real @ p["c"][0] - h.imag @ p["c"][1] + p["d"] * x)
        return x + y * jax.nn.sigmoid(_dense(p["gate"], y))

    def apply(p: Any, x: Any) -> Any:
        def one(x: Any) -> Any:
            x = _dense(p["in"], x)
            for own in p["layers"]:
                x = layer(own, x)
            return _dense(p["out"], x)

        return jax.vmap(one)(x)

    return Model(apply, drawn(params), (images(2, 7, 6),))


ENTRIES = {
    "GoogLeNet (after eqxvision)": Entry("", (), googlenet, "an image of 16x16"),
    "Perceiver (after perceiver-jax)": Entry("", (), perceiver, "2 x 10 inputs"),
    "Linear recurrent unit (after memorax)": Entry("", (), recurrence, "2 x 7 steps"),
}
