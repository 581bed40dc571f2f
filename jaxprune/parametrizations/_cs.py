"""Continuous sparsification (CS)."""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from jaxprune import _checks, _eager, _tree, masks
from jaxprune._layers import Stacked
from jaxprune._tree import PyTree, Where
from jaxprune.parametrizations import _leaves
from jaxprune.parametrizations import _parametrization as _p
from jaxprune.parametrizations._parametrization import Parametrization, StepState


class CsTrainable(NamedTuple):
    """What `cs` trains.

    Attributes:
      params: the dense weights.
      gates: a partial tree of ``params``: m, one number for each prunable weight, float32 at least.
    """

    params: PyTree
    gates: PyTree


def cs(
    *,
    total_steps: int,
    initial: float = 0.0,
    final_temperature: float = 200.0,
    interval: int | None = None,
    penalty: float = 1e-8,
    weight_decay: float = 0.0,
    final: Literal["soft", "hard"] = "soft",
    where: Where | None = None,
    stacked: Stacked | None = None,
) -> Parametrization:
    r"""Continuous sparsification (CS): trained gates that harden from sigmoids to steps.

    $$\hat w = \frac{\sigma(\beta m)}{\sigma(m_0)}\, w, \qquad
      \text{penalty} = \lambda \sum \sigma(\beta m) + \frac{\delta}{2} \sum w^2,$$

    with $m_0$ the value that all gates m start with, so that at first $\hat w = w$. The
    temperature grows from 1 to $\beta_N$: in step t of N it is $\beta_N^{t/N}$ as in the code of
    Zimmer et al. or, with ``interval``, in epoch e of E it is $\beta_N^{e/(E-1)}$ as in the
    original. The first is the default, because it needs no notion of an epoch. The sparsity is not
    set but results, from $\lambda$ and $m_0$. Rounds of the original's ticket search, with gates
    and weights rewound in between, are runs of their own: start the next from ``finalize``'s mask.

    ``finalize`` keeps the weights with $m > 0$ and gives them, for "soft", the values that the
    next `apply` would show (after N steps those at $\beta_N$), as the code of Zimmer et al. does;
    for "hard", their limit at infinite temperature, $w / \sigma(m_0)$.

    The optimizer's weight decay acts on all that it is given. The original trains the gates without
    any; mask it (``optax.add_decayed_weights(decay, mask=...)``) for that. The code of Zimmer et
    al. decays the weights by the optimizer *and* by the penalty, hence twice, and the gates once;
    ``weight_decay`` is there to do likewise and 0 by default.

    Args:
      total_steps: N, the length of training in steps. The temperature stays at its last value
        after them.
      initial: $m_0$. Below 0 fewer weights survive, above 0 more.
      final_temperature: $\beta_N \geq 1$.
      interval: steps of an epoch, at the end of which the temperature moves; `None` to move it in
        every step.
      penalty: $\lambda \geq 0$. It is added up over the weights, not averaged.
      weight_decay: $\delta \geq 0$, over prunable weights.
      final: the values that survive.
      where: ``where(path, leaf) -> bool``, which leaves are prunable; `default_where` if omitted.
      stacked: where leaves hold several layers: rules from paths to axes, see
        `jaxprune.masks.make`.

    Returns:
      The parametrization; its trainable is a `CsTrainable`.

    Raises:
      ValueError: if a number is out of range, or there is only one epoch, in which the temperature
        would not move.
      TypeError: if an argument is of the wrong kind.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxprune import parametrizations
      >>> p = parametrizations.cs(total_steps=10, penalty=0.5)
      >>> trainable, state = p.init({"kernel": jnp.array([[1.0, -3.0]])})
      >>> p.apply(trainable, state)[0]["kernel"], p.penalty(trainable, state)
      (Array([[ 1., -3.]], dtype=float32), Array(0.5, dtype=float32))
      >>> trainable = trainable._replace(gates={"kernel": jnp.array([[0.1, -0.1]])})
      >>> p.finalize(trainable, state)[1]["kernel"]
      Array([[ True, False]], dtype=bool)

    References:
      Savarese, Silva, Maire, Winning the Lottery with Continuous Sparsification, NeurIPS 2020;
      Zimmer, Spiegel, Pokutta, How I Learned to Stop Worrying and Love Retraining, ICLR 2023.
    """
    total_steps = _checks.check_steps("total_steps", total_steps, below=2**31)
    # Below, 1 / sigmoid(initial) would leave the range of bfloat16 and float32.
    initial = _checks.check_number("initial", initial, low=-80.0)
    hottest = _checks.check_number("final_temperature", final_temperature, low=1.0)
    rate = _checks.check_number("penalty", penalty, low=0.0)
    decay = _checks.check_number("weight_decay", weight_decay, low=0.0)
    if final not in ("soft", "hard"):
        raise ValueError(f"final is 'soft' or 'hard'; got {final!r}.")
    _checks.check_function("where", where)
    length, last = 1, total_steps
    if interval is not None:
        length = _checks.check_steps("interval", interval, below=2**31)
        last = math.ceil(total_steps / length) - 1
        if last < 1:
            raise ValueError(
                f"interval={interval} makes one epoch of total_steps={total_steps}, so the "
                f"temperature would never move. Let it be at most {total_steps - 1}."
            )
    scale = 1 + math.exp(-initial)  # 1 / sigmoid(initial)

    def temperature(step: jax.Array) -> jax.Array:
        part = jnp.minimum(step // length, last).astype(jnp.float32) / last
        return jnp.power(jnp.float32(hottest), part)

    def gate(m: jax.Array, step: jax.Array) -> jax.Array:
        return jax.nn.sigmoid(temperature(step).astype(m.dtype) * m)

    def init(params: PyTree) -> tuple[CsTrainable, StepState]:
        copy = _p.copied(params)
        gates = jax.tree.map(
            lambda w: _eager.full_like(w, initial, _tree.wide_dtype(w.dtype)),
            _tree.prunable(copy, where),
        )
        return CsTrainable(copy, gates), StepState(_p.first_step())

    def apply(trainable: Any, state: Any) -> tuple[PyTree, StepState]:
        def soft(w: jax.Array, m: jax.Array) -> jax.Array:
            return (scale * gate(m, state.step) * w.astype(m.dtype)).astype(w.dtype)

        params = _leaves.map_extra(soft, trainable.params, trainable.gates)
        return params, StepState(_p.next_step(state.step))

    def penalty_of(trainable: Any, state: Any) -> jax.Array:
        def of_leaf(w: jax.Array, m: jax.Array) -> jax.Array:
            value = rate * jnp.sum(gate(m, state.step))
            # Left out rather than multiplied by 0: a pass over the weights.
            return value + decay * _leaves.half_squares(w).astype(value.dtype) if decay else value

        return _leaves.total(of_leaf, trainable.params, trainable.gates)

    def finalize(trainable: Any, state: Any) -> tuple[PyTree, PyTree]:
        mask = _leaves.map_prunable(lambda _, m: ~(m <= 0), trainable.params, trainable.gates)
        _p.warn_collapsed(mask, stacked)
        if final == "soft":
            params = apply(trainable, state)[0]
        else:
            params = _leaves.map_extra(
                lambda w, m: (scale * w.astype(m.dtype)).astype(w.dtype),
                trainable.params,
                trainable.gates,
            )
        return masks.apply_mask(params, mask), mask

    return Parametrization(init, apply, penalty_of, finalize)
