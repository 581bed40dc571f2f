"""What follows the pruning: training of few or of all parameters, under ALLR."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import optax

import jaxprune as jp
from experiments.pruning.subject import Subject

# Of a network whose own training is not known, ALLR has only what the pruning did to go by.
_PRETRAINING_STEPS = 1_000_000
_WARMUP = 0.1
_CONSTANT = ("mean", "variance")  # of batch normalisation


def make_optimizer(learning_rate: Any) -> optax.GradientTransformation:
    """AdamW without decay: what is short needs none."""
    return optax.adamw(learning_rate, weight_decay=0.0)


def rates(dense: Any, mask: Any, *, peak: float, steps: int) -> np.ndarray:
    """The learning rates of ALLR, one a step.

    The discount is that of the mask alone: how much of the dense weights went, whatever the method
    did to those that stay.

    Args:
      dense: the dense parameters.
      mask: what stays.
      peak: the highest rate, before the discount.
      steps: of retraining.
    """
    pairs = zip(_leaves(mask), _leaves(dense), strict=True)
    masks, weights = zip(*((m, w) for m, w in pairs if m is not None), strict=True)
    discount = jp.schedules.allr_discount(
        weights,
        jp.apply_mask(weights, masks),
        pruned_fraction=jp.sparsity(mask),
        pretraining_steps=_PRETRAINING_STEPS,
        retraining_steps=min(steps, _PRETRAINING_STEPS),
    )
    schedule = jp.schedules.allr(
        optax.constant_schedule(peak),
        pretraining_steps=_PRETRAINING_STEPS,
        retraining_steps=steps,
        discount=float(discount),
        warmup=_WARMUP,
    )
    return np.asarray(schedule(np.arange(steps)))


def _leaves(tree: Any) -> list[Any]:
    return jax.tree.leaves(tree, is_leaf=lambda x: x is None)


def train(
    kind: str,
    subject: Subject,
    params: Any,
    mask: Any,
    dense: Any,
    *,
    steps: int,
    learning_rate: float | None,
    rank: int,
    seed: int,
    say: Callable[[str], object],
) -> tuple[Any, int]:
    """Retrains a pruned network; zeros stay zeros.

    Args:
      kind: "biases", "perp", "full" or "distill", see `experiments.pruning.options.RETRAININGS`.
      subject: the network and its data.
      params: the pruned parameters.
      mask: their mask.
      dense: the dense parameters.
      steps: of training.
      learning_rate: the highest; the subject's if `None`.
      rank: of MaskLoRA.
      seed: of the adapters and of what training draws.
      say: told how the loss goes.

    Returns:
      The parameters, and how many numbers were trained.
    """
    key = jax.random.key(seed)
    loss_fn, model_state = subject.loss_fn, subject.model_state
    if kind == "distill":
        assert subject.teacher is not None
        loss_fn = jp.training.distilled(loss_fn, teacher=subject.teacher)
        model_state = jp.training.Taught(dense, model_state)
    elif subject.teacher is not None:
        loss_fn = _without_logits(loss_fn)
    peak = learning_rate or subject.learning_rate
    learning = rates(dense, mask, peak=peak, steps=steps)
    if kind in ("full", "distill"):
        state = jp.training.TrainState.create(
            params, make_optimizer, model_state=model_state, mask=mask, key=key
        )
        state = _run(loss_fn, subject, state, learning, say)
        return state.params, _trained(params, mask)
    adapters = jp.adapters.mask_lora(
        params,
        mask,
        key=key,
        rank=rank,
        where=(lambda path, leaf: False) if kind == "biases" else None,
        also=subject.trains,
        stacked=subject.network.stacked,
    )
    net = jp.adapters.adapted(adapters, params, mask, loss_fn, model_state=model_state)
    state = jp.training.TrainState.create(
        net.params, make_optimizer, model_state=net.model_state, masked=False, key=key
    )
    state = _run(net.loss_fn, subject, state, learning, say)
    trained = sum(x.size for x in jax.tree.leaves(adapters))
    return jp.adapters.merge(params, state.params, mask), trained


def _run(loss_fn: Any, subject: Subject, state: Any, rates: np.ndarray, say: Any) -> Any:
    def told(first: int, _: Any, metrics: dict[str, np.ndarray]) -> None:
        losses = metrics["loss"]
        say(f"step {first + len(losses)}/{len(rates)}: loss {losses.mean():.4g}")

    step = jp.training.make_train_step(loss_fn, make_optimizer)
    loop = jp.training.make_loop(step, subject.batch_at, on_chunk=told)
    state, metrics = loop(state, rates)
    if not np.isfinite(metrics["loss"]).all():
        first = int(np.argmin(np.isfinite(metrics["loss"])))
        raise FloatingPointError(
            f"the loss of retraining became {metrics['loss'][first]} at step {first}. Give a "
            "smaller --learning-rate."
        )
    return state


def _without_logits(loss_fn: Callable[..., Any]) -> Callable[..., Any]:
    """The loss with metrics that are scalars, as a training step has them."""

    def plain(params: Any, model_state: Any, batch: Any, key: jax.Array) -> Any:
        loss, (after, metrics) = loss_fn(params, model_state, batch, key)
        return loss, (after, {k: v for k, v in metrics.items() if k != "logits"})

    return plain


def _trained(params: Any, mask: Any) -> int:
    """Numbers that training of all kept weights changes."""

    def count(path: Any, m: Any, w: jax.Array) -> int:
        if m is not None:
            return int(np.count_nonzero(m))
        return 0 if path[-1].key in _CONSTANT else w.size

    counted = jax.tree_util.tree_map_with_path(count, mask, params, is_leaf=lambda x: x is None)
    return sum(jax.tree.leaves(counted))
