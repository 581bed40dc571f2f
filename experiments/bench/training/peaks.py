"""What the device can do at most, for the shares of it that training achieves."""

import time
from typing import NamedTuple

import jax
import jax.numpy as jnp


class Peak(NamedTuple):
    """The most that a device does.

    Attributes:
      flops_per_second: floating-point operations.
      what: the number format, and where the number is from.
    """

    flops_per_second: float
    what: str


class _Device(NamedTuple):
    """TFLOP/s by data sheet, without structured sparsity."""

    kind: str
    bfloat16: float | None
    float32: float
    float32_as: str = "TF32"


# JAX multiplies float32 at its default precision: TF32 on GPUs that have it, bfloat16 on TPUs.
# The first entry counts whose words are part of the device's kind.
_DEVICES = (
    _Device("H200 NVL", 835, 418),
    _Device("H200", 989, 495),
    _Device("H100 PCIe", 756, 378),
    _Device("H100 NVL", 835, 418),
    _Device("H100", 989, 495),
    _Device("A100-SXM4-40GB", 312, 156),
    _Device("A100-SXM4-80GB", 312, 156),
    _Device("A100-PCIE-40GB", 312, 156),
    _Device("A100 80GB PCIe", 312, 156),
    _Device("L4", 121, 60),
    _Device("T4", None, 8.1, "float32 without tensor cores"),
    _Device("TPU v6 lite", 918, 918, "bfloat16"),
    _Device("TPU v5 lite", 197, 197, "bfloat16"),
    _Device("TPU v5p", 459, 459, "bfloat16"),
    _Device("TPU v5", 459, 459, "bfloat16"),
    _Device("TPU v4", 275, 275, "bfloat16"),
)

_SIDE = 2048


def peak(precision: str) -> Peak | None:
    """The peak of the first device: measured on a CPU, by data sheet elsewhere.

    Args:
      precision: "float32" or "bfloat16".

    Returns:
      The peak, `None` for a device or format that is not in the table.
    """
    device = jax.devices()[0]
    if device.platform == "cpu":
        if precision != "float32":
            return None
        what = f"float32, measured: a product of {_SIDE}x{_SIDE} matrices"
        return Peak(_matmul_flops_per_second(), what)
    for entry in _DEVICES:
        if f" {entry.kind} " in f" {device.device_kind} ":
            tera = entry.float32 if precision == "float32" else entry.bfloat16
            form = entry.float32_as if precision == "float32" else "bfloat16"
            if tera is None:
                return None
            return Peak(tera * 1e12, f"{form}, dense, by the data sheet")
    return None


def _matmul_flops_per_second() -> float:
    """Of a large product in float32; the best of 15."""
    product = jax.jit(lambda x: x @ x)
    x = jnp.ones((_SIDE, _SIDE), jnp.float32)
    jax.block_until_ready(product(x))
    seconds = []
    for _ in range(15):
        begin = time.perf_counter()
        jax.block_until_ready(product(x))
        seconds.append(time.perf_counter() - begin)
    return 2 * _SIDE**3 / min(seconds)
