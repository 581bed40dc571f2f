"""Learning-compression."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax

from jaxprune import _tree, masks
from jaxprune._scoring import Scores, Scoring, every_floating
from jaxprune._tree import PyTree, Where
from jaxprune.masks import Allocation, Pattern
from jaxprune.transforms import _lc_forms


def lc(
    sparsity: Any,
    weight_decay: Any = None,
    *,
    mu: Any = None,
    interval: int = 1,
    multipliers: bool = False,
    scores: Scores | None = None,
    allocation: Allocation | None = None,
    pattern: Pattern | None = None,
    where: Where | None = None,
    stacked: masks.Stacked | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Learning-compression (LC): draws the weights that will be pruned towards zero.

    Two forms; exactly one of ``weight_decay`` and ``mu`` is given.

    With ``weight_decay`` $\lambda$, selective decay, as in the code of Zimmer et al.: in every step

    $$g_i \leftarrow g_i + \lambda w_i \;\text{ for the } \mathrm{round}(S n)
      \text{ smallest } |w_i|.$$

    Use an optimizer **without weight decay of its own**. Their code subtracts $\lambda w_i$ of the
    largest weights from the gradient, and the optimizer then decays all: the same sum.

    With ``mu``, the original: minimize $L(w)$ subject to $w = \theta$ with $\theta$ sparse, for a
    growing penalty $\mu$. With multipliers $y$ ($\lambda$ in the paper; zero throughout unless
    ``multipliers``, which makes the quadratic penalty an augmented Lagrangian) it alternates

    * C step: $\theta \leftarrow$ the largest $n - \mathrm{round}(S n)$ entries of $w - y/\mu$,
      the others zero; then $y \leftarrow y - \mu (w - \theta)$, both with the $\mu$ of the L step
      that ends, and $\mu \leftarrow \mu(t)$;
    * L step: ``interval`` steps of the optimizer with $g \leftarrow g + \mu (w - \theta) - y$.

    Training begins with a C step with $y = 0$, the direct compression. The C steps come before
    steps 0, I, 2I, ... of training. Plain SGD on the penalty alone diverges where its learning rate
    exceeds $2/\mu$: let $\mu$ grow no further than $1/\eta$, or lower $\eta$ with it. A weight
    decay of the optimizer belongs to the loss L in this form.

    Position: first in a chain, before weight decay, clipping and momentum. It edits gradients and
    keeps no weight at zero, so it does not wrap. Under a `MultiSteps` outside, steps are those that
    happen: one in k calls. Sparse weights come from a final prune::

        tx = one_shot(optax.chain(lc(0.9, 1e-3), optax.sgd(lr, 0.9)), 0.9, step=total_steps)

    Which leaves count: by default every floating one, biases and norm scales included, as in the
    code of Zimmer et al. (which takes n without them, and truncates ``(1 - S) n``; here the count
    is exact for the leaves that are ranked). The original restricts the constraint to the weights:
    ``where=jaxprune.default_where``.

    Args:
      sparsity: S in [0, 1), the fraction that decays, or that the projection removes; `None` with
        an N:M pattern.
      weight_decay: a number, or a function of the step such as an optax schedule: BIMP's authors
        also raised it during training.
      mu: a positive number or a function of the step, e.g. one that grows as $\mu_0 a^{t/I}$. It
        is read at the first step of an L step and held to its end.
      interval: I, the steps of an L step.
      multipliers: whether to use multipliers.
      scores: importance of what is projected, a function as for `gsm`; with ``mu`` it gets
        $w - y/\mu$ in place of the weights. Magnitude if omitted. Leaves without a score are left
        alone.
      allocation: how the total is spread over leaves; global if omitted.
      pattern: which weights go together; single ones if omitted. Biases have no groups: pass
        ``where=jaxprune.default_where`` with it, or a pattern that is `None` for them.
      where: ``where(path, leaf) -> bool``, which leaves are ranked, handed on to ``scores`` if its
        signature has it; every floating leaf if omitted.
      stacked: where leaves hold several layers: rules from paths to axes, see
        `jaxprune.masks.make`.

    Returns:
      The transformation. Its state is an `LCState`, its ``update`` needs ``params`` and takes extra
      arguments. Under `optax.inject_hyperparams` name ``sparsity`` in ``static_args``, or it means
      the float32 that is made of it; functions other than schedules must be named there.

    Raises:
      TypeError: if an argument is of the wrong kind.
      ValueError: unless exactly one of ``weight_decay`` and ``mu`` is given; if an argument is out
        of range; if ``interval`` or ``multipliers`` are given without ``mu``. From ``init``: if no
        leaf is selected, or allocation or pattern do not fit. From ``update``: if ``params`` is
        missing or, with ``weight_decay`` outside `jit`, a weight is NaN or infinite.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> from jaxprune import transforms
      >>> params = {"kernel": jnp.array([[4.0, -1.0]])}
      >>> grads = {"kernel": jnp.array([[0.5, 0.5]])}
      >>> tx = transforms.lc(0.5, 0.25)
      >>> tx.update(grads, tx.init(params), params)[0]
      {'kernel': Array([[0.5 , 0.25]], dtype=float32)}
      >>> tx = transforms.lc(0.5, mu=optax.exponential_decay(2.0, 1, 1.1))
      >>> tx.update(grads, tx.init(params), params)[0]
      {'kernel': Array([[ 0.5, -1.5]], dtype=float32)}

    References:
      Carreira-Perpiñán & Idelbayev, "Learning-Compression" Algorithms for Neural Net Pruning, CVPR
      2018; Zimmer, Spiegel, Pokutta, How I Learned to Stop Worrying and Love Retraining, ICLR 2023,
      and its code, for selective decay.
    """
    if (weight_decay is None) == (mu is None):
        raise ValueError(
            f"lc takes exactly one of weight_decay and mu, got {weight_decay=} and {mu=}. "
            "weight_decay= decays the smallest weights, mu= is the penalty of the original."
        )
    if sparsity is not None or pattern is None:
        masks.count(sparsity, 1)  # for its checks
    _check_interval(interval)
    rules: dict[str, Any] = {"allocation": allocation, "pattern": pattern, "stacked": stacked}
    scoring = Scoring(scores, where, default_where=every_floating, **rules)

    def mask_of(tree: PyTree, grads: PyTree, extra_args: dict[str, Any]) -> PyTree:
        # Not `make`: a leaf of which everything is drawn to zero is no collapse yet.
        scored = scoring(tree, grads=grads, **extra_args)
        return masks.make_with_info(scored, sparsity, **rules)[0]

    def selected(params: PyTree) -> PyTree:
        shapes = scoring.shapes(params)
        masks.check_fit(shapes, [sparsity], **rules)
        return _tree.map_partial(
            lambda s, p: optax.MaskedNode() if s is None else p, shapes, params, what="score tree"
        )

    if weight_decay is not None:
        if multipliers or (isinstance(interval, (int, np.integer)) and interval != 1):
            raise ValueError(
                f"lc with weight_decay has neither interval nor multipliers, got {interval=} and "
                f"{multipliers=}. They belong to mu=."
            )
        return _lc_forms.selective_decay(
            mask_of, selected, _as_schedule("weight_decay", weight_decay)
        )
    return _lc_forms.penalty(mask_of, selected, _as_schedule("mu", mu), interval, multipliers)


def _as_schedule(name: str, value: Any) -> Callable[[Any], Any]:
    """A function of the step; of a number, if that is in range.

    Raises:
      TypeError: if it is neither a scalar nor a function.
      ValueError: if it is a concrete number out of range.
    """
    if callable(value):
        return value
    if isinstance(value, bool) or not _is_scalar(value, np.number):
        raise TypeError(f"{name} is a number or a function of the step; got {value!r}.")
    if not _tree.is_traced(value):
        number, least = float(value), "at least 0" if name == "weight_decay" else "above 0"
        if not math.isfinite(number) or number < 0 or (number == 0 and name == "mu"):
            raise ValueError(f"{name} is finite and {least}; got {number}.")
    return lambda step: value


def _check_interval(interval: Any) -> None:
    """Raises unless the interval is a positive integer; `optax.inject_hyperparams` may trace it.

    Raises:
      TypeError: if it is no integer.
      ValueError: if it is below 1.
    """
    if isinstance(interval, bool) or not _is_scalar(interval, np.integer):
        raise TypeError(f"interval is an integer, the steps of an L step; got {interval!r}.")
    if not _tree.is_traced(interval) and int(interval) < 1:
        raise ValueError(f"interval is at least 1, the steps of an L step; got {interval}.")


def _is_scalar(x: Any, kind: Any) -> bool:
    """Whether a value is a Python number or a scalar array of that kind, traced or not."""
    python = int if kind is np.integer else (int, float)
    dtype = getattr(x, "dtype", None)
    if dtype is None:
        return isinstance(x, python)
    return np.shape(x) == () and bool(jnp.issubdtype(dtype, kind))
