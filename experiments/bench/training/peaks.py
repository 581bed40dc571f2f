"""What the device can do at most, for the shares of it that training achieves."""

import time
from typing import NamedTuple

import jax
import jax.numpy as jnp


class Peak(NamedTuple):
    """The most floating-point operations a second, and what the number is of and from."""

    flops_per_second: float
    what: str


# TFLOP/s by data sheet, without structured sparsity: of bfloat16, and of what JAX multiplies
# float32 in: TF32 on GPUs that have it, bfloat16 on TPUs. The first entry counts whose words are
# part of the device's kind.
_DEVICES = {
    "H200 NVL": (835, 418),
    "H200": (989, 495),
    "H100 PCIe": (756, 378),
    "H100 NVL": (835, 418),
    "H100": (989, 495),
    "A100-SXM4-40GB": (312, 156),
    "A100-SXM4-80GB": (312, 156),
    "A100-PCIE-40GB": (312, 156),
    "A100 80GB PCIe": (312, 156),
    "L4": (121, 60),
    "T4": (None, 8.1),  # without tensor cores
    "TPU v6 lite": (918, 918),
    "TPU v5 lite": (197, 197),
    "TPU v5p": (459, 459),
    "TPU v5": (459, 459),
    "TPU v4": (275, 275),
}

_SIDE = 2048


def peak(precision: str) -> Peak | None:
    """The peak of the first device, `None` if it or the precision is not known.

    On a CPU it is measured, in float32 only; elsewhere it is that of the data sheet.
    """
    device = jax.devices()[0]
    if device.platform == "cpu":
        if precision != "float32":
            return None
        what = f"float32, measured: a product of {_SIDE}x{_SIDE} matrices"
        return Peak(_matmul_flops_per_second(), what)
    for kind, tera in _DEVICES.items():
        if f" {kind} " in f" {device.device_kind} ":
            found = tera[precision == "float32"]
            what = f"{precision}, dense, by the data sheet"
            return None if found is None else Peak(found * 1e12, what)
    return None


def _matmul_flops_per_second() -> float:
    """Of a large product in float32; the best of 15."""
    product = jax.jit(lambda x: x @ x)
    x = jax.block_until_ready(product(jnp.ones((_SIDE, _SIDE), jnp.float32)))
    seconds = []
    for _ in range(15):
        begin = time.perf_counter()
        jax.block_until_ready(product(x))
        seconds.append(time.perf_counter() - begin)
    return 2 * _SIDE**3 / min(seconds)
