"""How XLA computes convolutions on a CPU."""

import importlib.util
import os

import jax

_FLAG = "--xla_cpu_experimental_ynn_fusion_type"
# What YNNPACK keeps: single matrix products, at which it is as good as Eigen.
_DOTS_ALONE = f"{_FLAG}=LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT"
_VARIABLE = "XLA_FLAGS"


def prefer_eigen_convolutions() -> bool:
    """Keep XLA's CPU backend from handing single convolutions to the library YNNPACK.

    jaxlib 0.10 does so by default, and the gradient with respect to a 3x3 kernel of few channels,
    which is a convolution with a kernel as large as the image, then takes longer than all the rest:
    a training step of ResNet-20 with batches of 128 took 2.0 s on two cores, and 0.9 s with
    convolutions by Eigen. Convolutions written as matrix products (shifted slices, patches) lie in
    between and gain nothing on top, so models keep plain ones.

    GPUs do not read the flag; on a TPU host it is not set. XLA reads it once, so this must run
    before the first computation; where `XLA_FLAGS` names the flag already, that stays.

    Returns:
        Whether the flag was added.
    """
    flags = os.environ.get(_VARIABLE, "")
    # An unknown flag ends the process. 0.10 and 0.12 know it; libtpu has not been asked.
    known = (0, 10) <= jax.__version_info__[:2] <= (0, 12)
    if _FLAG in flags or not known or importlib.util.find_spec("libtpu") is not None:
        return False
    os.environ[_VARIABLE] = f"{flags} {_DOTS_ALONE}".strip()
    return True
