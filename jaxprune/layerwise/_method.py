"""What a method is: a rule from a kernel and a Gram matrix to a sparse kernel.

A method is data: a function of this package and its options. Two of equal options are equal, so
that they share one compiled program. Counts are arguments of that program: it serves every
sparsity.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import jax
import numpy as np

from jaxprune.masks import Allocation, Choice, Pattern, choice

Counts = Any  # a tree of uint32 arrays [..., pools, 2], see `masks.choice`


class Rule(NamedTuple):
    """How much of a kernel goes, on the host.

    Attributes:
      like: shape and dtype of the kernel.
      sparsity: fraction removed, or `None` with an N:M pattern.
      allocation: what is compared.
      pattern: what goes together, or `None`.
      name: what errors call the kernel.
    """

    like: jax.ShapeDtypeStruct
    sparsity: Any
    allocation: Allocation
    pattern: Pattern | None
    name: str

    @property
    def choice(self) -> Choice:
        """How masks are made."""
        return self._chosen([self.sparsity])[0]

    def counts(self, sparsities: Sequence[Any] | None = None) -> np.ndarray:
        """How many entries go: uint32 ``[pools, 2]``, or of several sparsities one such each."""
        if sparsities is None:
            return self._chosen([self.sparsity])[1][0]
        return self._chosen(sparsities)[1]

    def _chosen(self, sparsities: Sequence[Any]) -> tuple[Choice, np.ndarray]:
        return choice(
            self.like,
            sparsities,
            allocation=self.allocation,
            pattern=self.pattern,
            path=self.name,
        )


class Problem(NamedTuple):
    """What the compiled part of a method gets.

    Attributes:
      kernel: ``[in, out]``, float32 at least.
      gram: ``[in, in]`` of the same dtype; ``[in]``, its diagonal, where the method needs no more.
      choice: how masks are made.
      counts: what the method's `counts` gave.
    """

    kernel: jax.Array
    gram: jax.Array
    choice: Choice
    counts: Counts

    @property
    def squares(self) -> jax.Array:
        """The diagonal of the Gram matrix: the squared norm of each input, ``[in]``."""
        return self.gram if self.gram.ndim == 1 else self.gram.diagonal()


class Result(NamedTuple):
    """What the compiled part of a method returns.

    Attributes:
      kernel: ``[in, out]``, 0 where the mask is False.
      mask: bool ``[in, out]``, True = kept.
      damping: what was added to the diagonal, relative to its mean, ``[]``; NaN if no damping that
        was tried let the matrix be factored; `None` if the method adds nothing that could fail.
    """

    kernel: jax.Array
    mask: jax.Array
    damping: jax.Array | None = None


class Method(NamedTuple):
    """A method of `solve`.

    To write one, copy a small file of `jaxprune.layerwise.methods`: a function ``run`` of a
    `Problem` at the top of a module, and a factory with the options spelled out.

    Attributes:
      name: for reports and errors.
      run: ``run(problem, **options) -> Result``, traceable; a function of a module, not a closure,
        so that equal methods are equal.
      options: names and values, hashable.
      needs: "norms": the diagonal of the Gram matrix is enough; "variances": that of centred
        inputs; "gram": all of it.
      compares: what is compared where the caller names no allocation: the weights of each "output",
        or all of the "matrix".
      counts: ``counts(rule, **options)``, on the host: what ``problem.counts`` holds. Those of
        ``rule.sparsity`` if `None`.
    """

    name: str
    run: Callable[..., Result]
    options: tuple[tuple[str, Any], ...] = ()
    needs: Literal["norms", "variances", "gram"] = "gram"
    compares: Literal["output", "matrix"] = "matrix"
    counts: Callable[..., Counts] | None = None

    def count(self, rule: Rule) -> Counts:
        """What ``problem.counts`` holds under a rule."""
        if self.counts is None:
            return rule.counts()
        return self.counts(rule, **dict(self.options))

    def __call__(self, problem: Problem) -> Result:
        """Runs the method, traced."""
        return self.run(problem, **dict(self.options))
