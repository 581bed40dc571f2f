"""AC/DC as a recipe."""

from functools import partial
from typing import Any

from jaxprune import transforms
from jaxprune.methods._method import Method, checked


def ac_dc(sparsity: float, *, total_steps: int, **options: Any) -> Method:
    """Alternating compressed/decompressed training (AC/DC): `jaxprune.transforms.ac_dc`.

    Phases by default in the proportions of the original's 100 epochs on ImageNet: a dense warm-up
    of a tenth of training, phases of a twentieth, and at least 15 % compressed at the end.

    Args:
      sparsity: fraction removed in compressed phases, in (0, 1).
      total_steps: the length of training in steps.
      **options: options of the transform: ``warmup_steps``, ``compressed_steps``,
        ``final_steps``, ...

    Returns:
      The method.

    Raises:
      TypeError: as the transform.
      ValueError: as the transform.

    Example:
      >>> ac_dc(0.9, total_steps=1000).sparsity
      0.9

    References:
      Peste et al., AC/DC: Alternating Compressed/DeCompressed Training of Deep Neural Networks,
      NeurIPS 2021.
    """
    phases = {
        "warmup_steps": max(1, total_steps // 10),
        "compressed_steps": max(1, total_steps // 20),
        "final_steps": max(1, total_steps * 15 // 100),
    }
    transform = partial(
        transforms.ac_dc, sparsity=sparsity, total_steps=total_steps, **{**phases, **options}
    )
    return checked(Method("ac_dc", sparsity, total_steps, transform=transform))
