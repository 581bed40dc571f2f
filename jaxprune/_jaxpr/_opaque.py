"""Which primitives multiply matrices, and which may do so unseen."""

from __future__ import annotations

from jax.extend.core import JaxprEqn

from jaxprune._jaxpr._walk import functions_in, opened

PRODUCTS = frozenset({"dot_general", "conv_general_dilated"})

# What may multiply matrices in a way that nobody can look into. A primitive that holds a function
# (pallas_call, shard_map, custom_partitioning) does so if there is a product in it.
_OPAQUE = frozenset(
    {
        "ffi_call", "custom_call", "tpu_custom_call", "triton_kernel_call", "mosaic_gpu_call",
        "pure_callback", "io_callback", "rnn",
    }
)  # fmt: skip


def multiplies(eqn: JaxprEqn) -> bool:
    """Whether an equation that is not followed may multiply matrices."""
    name, params = eqn.primitive.name, eqn.params
    if name in PRODUCTS | _OPAQUE or "dot" in name or "matmul" in name:
        return True
    if name == "custom_linear_solve":  # its other functions are for derivatives
        params = {"solve": params["jaxprs"].solve}
    return any(
        multiplies(inner) for function in functions_in(params) for inner in opened(function)[0].eqns
    )
