"""What a translation model is fed with: batches of the host, in a few shapes."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxprune as jp
from experiments import data, devices
from experiments.config import Config
from experiments.inputs import Inputs
from experiments.tasks._identity import identity_of_arrays
from jaxprune.training import Evaluate, TrainLoop, TrainState, TrainStep

from ._buckets import Plan, batch_of, bounds_of, bucket_of, pad
from ._data import END, PAD, SPECIAL, Pairs, Sentences
from ._decode import make_translate
from ._metrics import bleu, make_eval_fn, make_loss_fn
from ._model import create


def make_inputs(config: Config, pairs: Pairs) -> Inputs:
    """The inputs of a configuration.

    Raises:
      ValueError: if a sentence is longer than the model's, or there is no full batch.
    """
    longest, total = pairs.longest(), pairs.vocabulary.size + SPECIAL
    if longest > config.max_length:
        raise ValueError(
            f"{pairs.name} has a sentence of {longest} tokens (its end included), longer than "
            f"max_length={config.max_length}; pass --max-length {longest}, or a larger "
            "--vocabulary."
        )
    lengths = _lengths(pairs.train)
    data.steps_per_epoch(len(lengths), config.batch_size)
    bounds = bounds_of(lengths, config.buckets, longest)
    plan = Plan(pairs.train, bounds, batch_size=config.batch_size, seed=config.seed)

    def model(dtype: Any, axis_name: str | None = None) -> Any:
        del axis_name  # there is no batch normalisation
        return create(config, total, dtype)

    def evaluations(model: Any) -> list[Evaluate]:
        eval_fn, size = make_eval_fn(model), config.eval_batch_size
        test, validation = (
            _by_buckets(eval_fn, split, bounds, size) for split in (pairs.test, pairs.validation)
        )
        score = _make_score(model, pairs, bounds, size)
        return [lambda state: {**test(state), "bleu": score(state)}, validation]

    def loop(step: TrainStep, chunk_steps: int, compile_chunks: bool | None) -> TrainLoop:
        del compile_chunks  # batches differ in shape
        index, count = jax.process_index(), jax.process_count()
        return jp.training.make_stream_loop(
            step, lambda first: plan.stream(first, index, count), chunk_steps=chunk_steps
        )

    splits = {"train": pairs.train, "validation": pairs.validation, "test": pairs.test}

    def identity() -> data.Identity:
        return identity_of_arrays(
            pairs.name,
            pairs.version,
            {
                split: {
                    "tokens": np.concatenate([*found.source, *found.target]),
                    "lengths": np.array([len(x) for x in (*found.source, *found.target)]),
                }
                for split, found in splits.items()
            },
            {split: len(found.source) for split, found in splits.items()},
        )

    sentence = jax.ShapeDtypeStruct((1, longest), jnp.int32)
    return Inputs(
        epoch_steps=plan.steps,
        model=model,
        example=(sentence, sentence),
        arguments=lambda batch: (batch["source"], batch["target_in"]),
        loss_fn=make_loss_fn,
        evaluations=evaluations,
        loop=loop,
        batch_at=plan.batch_at,
        identity=identity,
        note=f"BLEU of greedy translations, sacrebleu {bleu(['a'], ['a'])[1]}",
        files={"vocabulary.json": pairs.vocabulary.to_json()},
    )


def _lengths(sentences: Sentences) -> list[int]:
    both = zip(sentences.source, sentences.target, strict=True)
    return [max(len(a), len(b)) for a, b in both]


def _by_buckets(
    eval_fn: Any, sentences: Sentences, bounds: tuple[int, ...], batch_size: int
) -> Evaluate:
    """Evaluates each bucket in its own shape, and all of them together by their tokens."""
    where = np.array([bucket_of(length, bounds) for length in _lengths(sentences)])
    parts: list[tuple[Evaluate, int]] = []
    for bucket, length in enumerate(bounds):
        chosen = np.flatnonzero(where == bucket)
        if not len(chosen):
            continue
        arrays = batch_of(sentences, chosen, len(chosen), length)
        # Few sentences are filled up, so that test and validation share a program.
        missing = max(0, batch_size - len(chosen))
        weight = np.pad(np.ones(len(chosen), np.float32), (0, missing))
        arrays = {name: np.pad(x, ((0, missing), (0, 0))) for name, x in arrays.items()}
        evaluate = jp.training.make_evaluate(
            eval_fn, {**arrays, "weight": weight}, batch_size=batch_size
        )
        parts.append((evaluate, int(np.sum(arrays["target"] != PAD))))

    def evaluated(state: TrainState) -> dict[str, float]:
        total = sum(tokens for _, tokens in parts)
        sums: dict[str, float] = {}
        for evaluate, tokens in parts:
            for name, value in evaluate(state).items():
                sums[name] = sums.get(name, 0.0) + tokens * value
        return {name: value / total for name, value in sums.items()}

    return evaluated


def _make_score(
    model: Any, pairs: Pairs, bounds: tuple[int, ...], batch_size: int
) -> Callable[[TrainState], float]:
    """The BLEU of the test set, as a function of the state."""
    translate = make_translate(model)
    # By the source alone: the length of the translation is not known beforehand.
    where = np.array([bucket_of(len(one), bounds) for one in pairs.test.source])
    batches = []
    for bucket, length in enumerate(bounds):
        chosen = np.flatnonzero(where == bucket)
        for first in range(0, len(chosen), batch_size):
            part = chosen[first : first + batch_size]
            batches.append((part, pad([pairs.test.source[i] for i in part], batch_size, length)))

    def score(state: TrainState) -> float:
        params = state.params
        if any(len(x.sharding.device_set) > 1 for x in jax.tree.leaves(params)):
            params = devices.on_host(params)
        texts = [""] * len(pairs.test.reference)
        for chosen, source in batches:
            for i, tokens in zip(chosen, np.asarray(translate(params, source)), strict=False):
                inside = [t - SPECIAL for t in tokens if t not in (PAD, END)]
                texts[i] = pairs.vocabulary.decode(inside)
        return bleu(texts, pairs.test.reference)[0]

    return score
