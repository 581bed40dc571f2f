"""Knowledge distillation: a loss that also follows the dense network."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune._tree import PyTree
from jaxprune.training.steps._contracts import split_loss


class Taught(NamedTuple):
    """The model state of a network that learns from a teacher.

    Attributes:
      teacher: what the teacher is computed from, such as the parameters and the model state of the
        dense network. Training leaves it as it is.
      model_state: the model's own state.
    """

    teacher: PyTree
    model_state: PyTree


def distilled(
    loss_fn: Callable[..., Any],
    *,
    teacher: Callable[[PyTree, PyTree], Any],
    temperature: float = 2.0,
    alpha: float = 0.5,
    top_k: int | None = None,
    weight: Callable[[PyTree], Any] | None = None,
    features: Mapping[str, str] | None = None,
    feature_weight: float = 1.0,
) -> Callable[..., Any]:
    """Turns a training loss into one that also pulls the logits towards a teacher's.

    ``alpha T^2 KL(softmax(t / T) || softmax(s / T)) + (1 - alpha) loss``, with the teacher's logits
    t, the student's s and the temperature T; the divergence is a mean over all positions. The
    teacher runs in the same compiled step, on the same batch, and is not differentiated. Its arrays
    come with the state, so they are data of the program.

    Args:
      loss_fn: ``loss_fn(params, model_state, batch, key) -> (loss, (model_state, metrics))``, where
        ``metrics["logits"]`` is ``[batch, ..., classes]``. They are taken out of the metrics.
      teacher: ``teacher(arrays, batch) -> logits`` of the same shape, with the arrays of `Taught`.
      temperature: T, positive. Higher ones show more of the small probabilities.
      alpha: share of the divergence, in [0, 1].
      top_k: compares only the classes that the teacher finds most likely, so many at each position;
        both distributions are normalised over them. All if omitted.
      weight: ``weight(batch) -> [batch, ...]``, one number a position, such as 0 for padding.
      features: which features are compared as well, from names of the student to names of the
        teacher, layer by layer: ``{"block0": "block1"}`` after every second block was removed. The
        student's are ``metrics["features"]``, a dict of ``[..., width]``; the teacher then returns
        ``(logits, features)``.
      feature_weight: factor of ``mean(1 - cosine)`` over features and positions, which is added.

    Returns:
      A loss of the same contract for states whose model state is a `Taught`. Its metrics have
      "task_loss" and "distillation_loss" besides those of ``loss_fn``.

    Raises:
      ValueError: if an option is out of range; while it is traced, if logits or features of student
        and teacher differ in shape.
      TypeError: while it is traced, if there are no such metrics, or the model state is no
        `Taught`.

    Example:
      >>> import jax, jax.numpy as jnp, optax
      >>> import jaxprune as jp
      >>> def loss_fn(params, model_state, batch, key):
      ...     logits = batch @ params["kernel"]
      ...     return jnp.mean(logits**2), (model_state, {"logits": logits})
      >>> dense = {"kernel": jnp.eye(3)}
      >>> pruned, mask = jp.prune(dense, 0.5, where=lambda path, leaf: True)
      >>> loss_fn = jp.training.distilled(loss_fn, teacher=lambda w, batch: batch @ w["kernel"])
      >>> sgd = lambda lr: optax.sgd(lr)
      >>> state = jp.training.TrainState.create(
      ...     pruned, sgd, mask=mask, model_state=jp.training.Taught(dense, None),
      ...     key=jax.random.key(0),
      ... )
      >>> step = jp.training.make_train_step(loss_fn, sgd)
      >>> state, metrics = step(state, jnp.ones((4, 3)), 0.1)
      >>> sorted(metrics)
      ['distillation_loss', 'loss', 'task_loss']

    References:
      Hinton et al., Distilling the Knowledge in a Neural Network, 2015, section 2.
    """
    _check_options(temperature, alpha, top_k, feature_weight)

    def of_both(params: PyTree, taught: Taught, batch: PyTree, key: jax.Array) -> Any:
        _check_taught(taught)
        wanted_metrics = ("logits", "features") if features else ("logits",)
        returned, taken = _without(loss_fn(params, taught.model_state, batch, key), wanted_metrics)
        task, model_state, metrics = split_loss(returned, taught.model_state)
        logits = taken["logits"]
        answer = jax.lax.stop_gradient(teacher(taught.teacher, batch))
        wanted, theirs = answer if features else (answer, {})
        _check_shapes("logits", logits, wanted)
        weights = None if weight is None else weight(batch)
        loss = temperature**2 * _mean(_divergence(logits, wanted, temperature, top_k), weights)
        metrics = {**metrics, "task_loss": task, "distillation_loss": loss}
        total = alpha * loss + (1 - alpha) * task.astype(loss.dtype)
        if features:
            distance = _distance(taken["features"], theirs, features, weights)
            metrics["feature_loss"] = distance
            total = total + feature_weight * distance
        return total, (taught._replace(model_state=model_state), metrics)

    return of_both


def of_student(eval_fn: Callable[..., Any]) -> Callable[..., Any]:
    """Turns an evaluation into one for states whose model state is a `Taught`.

    Args:
      eval_fn: ``eval_fn(params, model_state, batch) -> {name: (sum, count)}``.

    Returns:
      The same for ``eval_fn(params, taught, batch)``. The teacher is not run.
    """

    def evaluated(params: PyTree, taught: Taught, batch: PyTree) -> Any:
        _check_taught(taught)
        return eval_fn(params, taught.model_state, batch)

    return evaluated


def _divergence(s: jax.Array, t: jax.Array, temperature: float, top_k: int | None) -> jax.Array:
    """KL(t || s) over the last axis, float32 or wider."""
    wide = jnp.promote_types(jnp.float32, jnp.promote_types(s.dtype, t.dtype))
    s, t = s.astype(wide) / temperature, t.astype(wide) / temperature
    if top_k is not None:
        if top_k > t.shape[-1]:
            raise ValueError(f"top_k={top_k} of {t.shape[-1]} classes.")
        t, places = jax.lax.top_k(t, top_k)
        s = jnp.take_along_axis(s, places, axis=-1)
    p, log_q = jax.nn.softmax(t), jax.nn.log_softmax(s)
    # Where the teacher gives a class no chance, 0 log 0 is 0.
    terms = p * (jnp.where(p > 0, jax.nn.log_softmax(t), 0.0) - jnp.where(p > 0, log_q, 0.0))
    return jnp.sum(terms, axis=-1)


def _distance(
    ours: Mapping[str, Any], theirs: Mapping[str, Any], layers: Mapping[str, str], weights: Any
) -> jax.Array:
    found = []
    for own, other in layers.items():
        for name, where, whose in ((own, ours, "student"), (other, theirs, "teacher")):
            if name not in where:
                raise ValueError(f"the {whose} has no features {name!r}, but {sorted(where)}.")
        a, b = (jnp.asarray(x, jnp.float32) for x in (ours[own], theirs[other]))
        _check_shapes(f"features {own!r}", a, b)
        # Under the root, not behind it: the norm of zeros has no derivative.
        norms = jnp.sqrt(jnp.maximum(jnp.sum(a**2, -1) * jnp.sum(b**2, -1), 1e-24))
        found.append(_mean(1 - jnp.sum(a * b, -1) / norms, weights))
    return jnp.mean(jnp.stack(found))


def _mean(values: jax.Array, weights: Any) -> jax.Array:
    if weights is None:
        return jnp.mean(values)
    weights = jnp.asarray(weights, values.dtype)
    if weights.shape != values.shape:
        raise ValueError(
            f"weight(batch) has shape {weights.shape}, but there are positions {values.shape}."
        )
    return jnp.sum(jnp.where(weights > 0, values * weights, 0.0)) / jnp.maximum(
        jnp.sum(weights), 1e-12
    )


def _without(returned: Any, names: tuple[str, ...]) -> tuple[Any, dict[str, Any]]:
    """What a loss returned without some of its metrics, and these."""
    try:
        loss, (model_state, metrics) = returned
        rest = dict(metrics)
    except (TypeError, ValueError):
        return returned, {}  # whoever takes it apart says what is wrong
    for name in names:
        if name not in rest:
            raise TypeError(
                f"distilled needs metrics[{name!r}] from loss_fn, and it returns "
                f"{sorted(rest)}. Add the {name} there; they are taken out again."
            )
    return (loss, (model_state, rest)), {name: rest.pop(name) for name in names}


def _check_taught(taught: Any) -> None:
    if not isinstance(taught, Taught):
        raise TypeError(
            "the model state is jaxprune.training.Taught(teacher, model_state); got "
            f"{type(taught).__name__}."
        )


def _check_shapes(what: str, ours: Any, theirs: Any) -> None:
    if np.shape(ours) != np.shape(theirs):
        raise ValueError(
            f"{what} of the student have shape {np.shape(ours)}, those of the teacher "
            f"{np.shape(theirs)}."
        )


def _check_options(
    temperature: float, alpha: float, top_k: int | None, feature_weight: float
) -> None:
    if not (math.isfinite(temperature) and temperature > 0):
        raise ValueError(f"temperature is a positive number; got {temperature}.")
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha is the share of the divergence, in [0, 1]; got {alpha}.")
    if top_k is not None and top_k < 1:
        raise ValueError(f"top_k is a number of classes, at least 1; got {top_k}.")
    if not (math.isfinite(feature_weight) and feature_weight >= 0):
        raise ValueError(f"feature_weight is not negative; got {feature_weight}.")
