"""A pretrained network with all that is needed to prune, retrain and measure it."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from experiments.pretrained import Network


class Subject(NamedTuple):
    """A network and its data.

    Attributes:
      network: the network.
      calibration: batches of inputs of ``network.apply``.
      described: what they are, for settings and reports: set, split, examples, length, seed.
      loss_fn: a training loss, see `jaxprune.training`; its metrics have "logits" if there is a
        ``teacher``.
      model_state: what it starts with.
      batch_at: ``batch_at(step)``: the batch of a step of training.
      batch_size: examples in it.
      learning_rate: the highest of retraining.
      evaluate: ``evaluate(params) -> {name: value}``, on examples that nothing else sees.
      measure: which of these tells how good the network is.
      higher: whether a higher one is better.
      teacher: ``teacher(params, batch) -> logits``, for distillation; `None` where the loss follows
        the dense network anyway.
      trains: ``trains(path, leaf)``: biases and norm scales, which few-parameter training takes.
    """

    network: Network
    calibration: tuple[Any, ...]
    described: Mapping[str, Any]
    loss_fn: Callable[..., Any]
    model_state: Any
    batch_at: Callable[[Any], Any]
    batch_size: int
    learning_rate: float
    evaluate: Callable[[Any], dict[str, float]]
    measure: str
    higher: bool
    teacher: Callable[[Any, Any], Any] | None = None
    trains: Callable[[str, Any], bool] = lambda path, leaf: (
        path.rpartition("/")[2] in ("bias", "scale")
    )
