"""AC/DC as a recipe."""

from __future__ import annotations

from functools import partial

from jaxprune import transforms
from jaxprune._scoring import Scores
from jaxprune._tree import Where
from jaxprune.masks import Allocation, Pattern, Stacked
from jaxprune.methods._method import Method, checked


def ac_dc(
    sparsity: float | None,
    *,
    total_steps: int,
    warmup_steps: int | None = None,
    compressed_steps: int | None = None,
    decompressed_steps: int | None = None,
    final_steps: int | None = None,
    reset_moments: bool = True,
    scores: Scores | None = None,
    allocation: Allocation | None = None,
    pattern: Pattern | None = None,
    where: Where | None = None,
    stacked: Stacked | None = None,
) -> Method:
    """Alternating compressed/decompressed training (AC/DC): `jaxprune.transforms.ac_dc`.

    Phases by default in the proportions of the original's 100 epochs on ImageNet: a dense warm-up
    of a tenth of training, phases of a twentieth, and at least 15 % compressed at the end.

    Args:
      sparsity: fraction removed in compressed phases, in [0, 1); `None` with an N:M pattern.
      total_steps: the length of training in steps.
      warmup_steps: dense steps before the first pruning; a tenth of training if omitted.
      compressed_steps: steps of a compressed phase; a twentieth of training if omitted.
      decompressed_steps: steps of a decompressed phase; as ``compressed_steps`` if omitted.
      final_steps: steps of the last phase, compressed; 15 % of training if omitted.
      reset_moments: whether moments of all parameters begin anew with a decompressed phase.
      scores: what decides which weights stay; magnitude if omitted.
      allocation: how the total is spread over leaves; global if omitted.
      pattern: which weights go together; unstructured if omitted.
      where: ``where(path, leaf) -> bool``, what is prunable.
      stacked: where leaves hold several layers: rules from paths to axes, see
        `jaxprune.masks.make`.

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

    def phase(steps: int | None, percent: int) -> int:
        return max(1, total_steps * percent // 100) if steps is None else steps

    transform = partial(
        transforms.ac_dc,
        sparsity=sparsity,
        total_steps=total_steps,
        warmup_steps=phase(warmup_steps, 10),
        compressed_steps=phase(compressed_steps, 5),
        decompressed_steps=decompressed_steps,
        final_steps=phase(final_steps, 15),
        reset_moments=reset_moments,
        scores=scores,
        allocation=allocation,
        pattern=pattern,
        where=where,
        stacked=stacked,
    )
    return checked(Method("ac_dc", sparsity, total_steps, transform=transform))
