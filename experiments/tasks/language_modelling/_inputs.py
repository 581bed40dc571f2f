"""What a language model is fed with: a text in the memory of the devices."""

from typing import Any

import jax
import jax.numpy as jnp

import jaxprune as jp
from experiments import data
from experiments.config import Config
from experiments.inputs import Inputs
from experiments.tasks._identity import identity_of_arrays
from jaxprune.training import Evaluate, TrainLoop, TrainStep

from ._data import Text, make_batch_at, windows, windows_per_epoch
from ._metrics import make_eval_fn, make_loss_fn, with_perplexity
from ._model import create


def make_inputs(config: Config, text: Text) -> Inputs:
    """The inputs of a configuration.

    Raises:
      ValueError: if the text is too short.
    """
    length, vocabulary = config.max_length, text.vocabulary.size
    number = windows_per_epoch(len(text.train), length)
    batch_at = make_batch_at(
        text.train, batch_size=config.batch_size, length=length, seed=config.seed
    )

    def model(dtype: Any, axis_name: str | None = None) -> Any:
        del axis_name  # there is no batch normalisation
        return create(config, vocabulary, dtype)

    def evaluations(model: Any) -> list[Evaluate]:
        eval_fn = make_eval_fn(model)
        return [
            with_perplexity(
                jp.training.make_evaluate(
                    eval_fn, windows(tokens, length), batch_size=config.eval_batch_size
                )
            )
            for tokens in (text.test, text.validation)
        ]

    def loop(step: TrainStep, chunk_steps: int, compile_chunks: bool | None) -> TrainLoop:
        return jp.training.make_loop(
            step, batch_at, chunk_steps=chunk_steps, compile_chunks=compile_chunks
        )

    splits = {"train": text.train, "validation": text.validation, "test": text.test}

    def identity() -> data.Identity:
        return identity_of_arrays(
            text.name,
            text.version,
            {split: {"tokens": tokens} for split, tokens in splits.items()},
            {split: len(tokens) for split, tokens in splits.items()},
        )

    kind = "bytes" if vocabulary == 256 else "byte pairs"
    return Inputs(
        epoch_steps=data.steps_per_epoch(number, config.batch_size),
        model=model,
        example=(jax.ShapeDtypeStruct((1, length), jnp.int32),),
        arguments=lambda batch: (batch["tokens"][:, :-1],),
        loss_fn=make_loss_fn,
        evaluations=evaluations,
        loop=loop,
        batch_at=batch_at,
        identity=identity,
        note=f"Perplexity a token, of {vocabulary} ({kind}), in windows of {length}.",
        files={"vocabulary.json": text.vocabulary.to_json()},
    )
