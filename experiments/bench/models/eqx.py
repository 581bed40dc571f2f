"""Equinox: the floating arrays of a module are the parameters, what else it holds stays."""

# Packages of the extra `models` may be absent where types are checked.
# pyright: reportMissingImports=false

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from experiments.bench.models.entry import Entry, Model, drawn, floating, images, tokens


def model(module: Any, *inputs: Any, call: Callable[..., Any] | None = None) -> Model:
    """A module that maps one example, applied to a batch.

    Args:
      module: with all its state, if it has one.
      *inputs: batches.
      call: ``call(module, *example)`` instead of calling the module itself.
    """
    import equinox as eqx

    params, rest = eqx.partition(eqx.nn.inference_mode(module), floating)

    def apply(params: Any, *inputs: Any) -> Any:
        whole: Any = eqx.combine(params, rest)
        return jax.vmap(functools.partial(call, whole) if call else whole)(*inputs)

    return Model(apply, drawn(params), inputs)


def _key() -> Any:
    return jax.random.PRNGKey(0)


def _gru() -> Model:
    import equinox as eqx

    keys = jax.random.split(_key(), 3)
    parts = (
        eqx.nn.GRUCell(8, 32, key=keys[0]),
        eqx.nn.GRUCell(32, 32, key=keys[1]),
        eqx.nn.Linear(32, 4, key=keys[2]),
    )

    def call(parts: Any, xs: Any) -> Any:
        def step(states: Any, x: Any) -> Any:
            new = []
            for cell, state in zip(parts[:2], states, strict=True):
                x = cell(x, state)
                new.append(x)
            return tuple(new), x

        _, outs = jax.lax.scan(step, (jnp.zeros(32), jnp.zeros(32)), xs)
        return jax.vmap(parts[2])(outs)

    return model(parts, images(2, 6, 8), call=call)


def _mamba() -> Model:
    from jaxonmodels.models.mamba import Mamba

    return model(Mamba(32, 50, 2, d_state=8, key=_key()), tokens(2, 12))


def _jaxonmodels_vit() -> Model:
    from jaxonmodels.models.vit import VisionTransformer

    module = VisionTransformer(32, 8, 64, 2, 4, 10, key=_key())
    return model(module, images(1, 3, 32, 32), call=lambda m, x: m(x)[0])


def _equimo_vit() -> Model:
    from equimo.models.vit import VisionTransformer

    module = VisionTransformer(32, 3, 64, 8, 4, [2], num_classes=10, key=_key())
    return model(module, images(1, 3, 32, 32))


def _mlla() -> Model:
    from equimo.models.mlla import Mlla

    module = Mlla(32, 3, dim=16, depths=[1, 1], num_heads=[2, 4], num_classes=10, key=_key())
    return model(module, images(1, 3, 32, 32))


def _vssd() -> Model:
    from equimo.models.vssd import Vssd

    module = Vssd(
        32, 3, dim=16, d_state=8, depths=[1, 1], num_heads=[2, 4], num_classes=10,
        attentions_layers=("mamba2mixer", "attention"), key=_key(),
    )  # fmt: skip
    return model(module, images(1, 3, 32, 32))


def _esm2() -> Model:
    import esm2quinox

    module = esm2quinox.ESM2(2, 64, 4, token_dropout=False, key=_key())
    return model(module, tokens(1, 16, vocabulary=24), call=lambda m, x: m(x).logits)


def _fno() -> Model:
    from pdequinox.arch import ClassicFNO

    module = ClassicFNO(2, 1, 1, hidden_channels=16, num_modes=4, num_blocks=2, key=_key())
    return model(module, images(1, 1, 16, 16))


def _unet() -> Model:
    from pdequinox.arch import ClassicUNet

    module = ClassicUNet(2, 1, 1, hidden_channels=16, num_levels=2, key=_key())
    return model(module, images(1, 1, 16, 16))


def _flow(name: str) -> Callable[[], Model]:
    def make() -> Model:
        from flowjax import distributions, flows
        from paramax import unwrap

        base = distributions.Normal(jnp.zeros(6))
        module = getattr(flows, name)(_key(), base_dist=base, flow_layers=2, nn_width=32)
        return model(module, images(4, 6), call=lambda m, x: unwrap(m).log_prob(x))

    return make


def _entry(package: str, make: Callable[[], Model], what: str) -> Entry:
    return Entry(package, tuple({"equinox", package}), make, what)


_IMAGE = "an image of 32x32"
ENTRIES = {
    "GRU cells in a scan (equinox)": _entry("equinox", _gru, "2 x 6 steps"),
    "Mamba (jaxonmodels)": _entry("jaxonmodels", _mamba, "2 x 12 tokens"),
    "CLIP's ViT (jaxonmodels)": _entry("jaxonmodels", _jaxonmodels_vit, _IMAGE),
    "ViT (equimo)": _entry("equimo", _equimo_vit, _IMAGE),
    "MLLA (equimo)": _entry("equimo", _mlla, _IMAGE),
    "VSSD (equimo)": _entry("equimo", _vssd, _IMAGE),
    "ESM-2 (esm2quinox)": _entry("esm2quinox", _esm2, "16 residues"),
    "Fourier neural operator (pdequinox)": _entry("pdequinox", _fno, "a field of 16x16"),
    "UNet (pdequinox)": _entry("pdequinox", _unet, "a field of 16x16"),
    "Masked autoregressive flow (flowjax)": _entry(
        "flowjax", _flow("masked_autoregressive_flow"), "4 points of 6"
    ),
    "Coupling flow (flowjax)": _entry("flowjax", _flow("coupling_flow"), "4 points of 6"),
}
