"""What a whole run costs beside its training steps, from parts that are measured one by one."""

import statistics
import tempfile
import time
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jaxprune as jp
from experiments import data, models
from experiments.bench.common.timing import timed
from experiments.bench.training.problems import MEAN, STD, Problem, make_optimizer
from experiments.config import Config
from jaxprune.training import Checkpoints, TrainLoop, TrainState
from jaxprune.training.checkpoints._store import Store

# The run: dense CIFAR training, then IMP, as `experiments.run` does it.
EPOCHS, CYCLES, RETRAINING_EPOCHS = 200, 3, 10
TRAINING_IMAGES, VALIDATION_IMAGES, TEST_IMAGES = 45_000, 5_000, 10_000
ALL_EPOCHS = EPOCHS + CYCLES * RETRAINING_EPOCHS  # a validation after each
EVALUATIONS = 1 + 2 * CYCLES  # after the dense phase; after every prune and every retraining
CHECKPOINTS = 1 + CYCLES + ALL_EPOCHS // Config().checkpoint_epochs
_EVALUATION_BATCH = 500
_SAVES = 5


class Parts(NamedTuple):
    """Seconds."""

    # what the first time takes longer: tracing and compilation of the training step, of both
    # evaluations and of the prune, and what the first checkpoint imports and compiles
    once: float
    prune: float  # scores, mask, masked weights and moments, discount, a fresh optimizer
    evaluate: float  # the test images, scaled from those that were evaluated
    validate: float  # the validation images, likewise
    checkpoint: float  # saving the state


def checkpoint_seconds(state: TrainState) -> tuple[float, float]:
    """What the first checkpoint takes longer, and what another takes, until it is on the disk.

    More than a run loses by it: there the steps go on while the files are written.
    """
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Checkpoints(folder), {})
        seconds = []
        for step in range(_SAVES):
            begin = time.perf_counter()
            store.save(step, {"state": state}, {})
            store.finish()
            seconds.append(time.perf_counter() - begin)
        store.close()
    return first_and_others(seconds)


def measure(
    problem: Problem,
    loop: TrainLoop,
    state: TrainState,
    *,
    compile_step: float,
    sparsity: float,
    images: int,
) -> Parts:
    """Measures the parts of a run.

    Args:
      problem: network and images.
      loop: the training loop.
      state: a trained state.
      compile_step: seconds that compiling the training loop took.
      sparsity: fraction removed at the end.
      images: that are evaluated; the seconds are scaled to `TEST_IMAGES`.
    """
    channels, dtype = problem.images.shape[-1], jnp.dtype(problem.precision)
    normalise = partial(data.normalise, mean=[MEAN] * channels, std=[STD] * channels, dtype=dtype)
    evaluate = jp.training.make_evaluate(
        models.make_eval_fn(problem.model, normalise),
        {"image": problem.images[:images], "label": problem.labels[:images]},
        batch_size=_EVALUATION_BATCH,
    )
    first, again = timed(lambda: evaluate(state)), timed(lambda: evaluate(state))
    dense = TrainState.create(
        state.params, make_optimizer, model_state=state.model_state, key=state.key
    )
    prunes = []
    for target in jp.schedules.imp_sparsities(sparsity, CYCLES):
        begin = time.perf_counter()
        dense = jax.block_until_ready(_prune(dense, loop, target))
        prunes.append(time.perf_counter() - begin)
    first_prune, prune = first_and_others(prunes)
    first_checkpoint, checkpoint = checkpoint_seconds(state)
    image_seconds = again / min(images, len(problem.labels))
    return Parts(
        # Test and validation set differ in size, and compile apart.
        once=compile_step + 2 * max(first - again, 0.0) + first_prune + first_checkpoint,
        prune=prune,
        evaluate=image_seconds * TEST_IMAGES,
        validate=image_seconds * VALIDATION_IMAGES,
        checkpoint=checkpoint,
    )


def first_and_others(seconds: list[float]) -> tuple[float, float]:
    """What the first time takes longer, and the median of the others."""
    median = statistics.median(seconds[1:])
    return max(seconds[0] - median, 0.0), median


def _prune(state: TrainState, loop: TrainLoop, sparsity: float) -> TrainState:
    """What a cycle of `jp.training.imp` does before it retrains, evaluation apart."""
    mask, info = jp.masks.make_with_info(
        jp.scores.magnitude(state.params), sparsity, within=state.mask
    )
    info.check()
    params = jp.apply_mask(state.params, mask)
    opt_state = loop.step.set_mask(state.opt_state, mask)
    kept, prunable = info.counts()[0], sum(info.sizes)
    discount = jp.schedules.allr_discount(
        state.params,
        params,
        pruned_fraction=1 - kept / prunable,
        pretraining_steps=EPOCHS,
        retraining_steps=RETRAINING_EPOCHS,
    )
    np.asarray(discount)
    jax.block_until_ready(opt_state)
    return state._replace(params=params, opt_state=loop.step.init_optimizer(params, mask))


def row(problem: Problem, step_seconds: float, parts: Parts) -> dict[str, Any]:
    """A whole run, as the JSON file holds it; the fraction is of the steps of all epochs."""
    steps = ALL_EPOCHS * data.steps_per_epoch(TRAINING_IMAGES, problem.batch)
    train = steps * step_seconds
    beside = parts.once + CYCLES * parts.prune + EVALUATIONS * parts.evaluate
    beside += ALL_EPOCHS * parts.validate + CHECKPOINTS * parts.checkpoint
    return {
        "model": problem.name,
        "batch": problem.batch,
        "epochs": ALL_EPOCHS,
        "steps": steps,
        "train_seconds": train,
        **{f"{name}_seconds": seconds for name, seconds in parts._asdict().items()},
        "run_seconds": train + beside,
        "overhead_fraction": beside / train,
    }
