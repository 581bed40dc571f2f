"""From a configuration to the parts of a run: data on the device, state, loop, evaluation."""

import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

import jaxprune as jp
from experiments import channels, data, devices, models, registry, scoring
from experiments.checks import check, check_split, fixed_sparsity
from experiments.config import INITIAL, INTERVAL, ITERATIVE, PENALTY, Config
from experiments.inputs import Inputs, make_inputs
from jaxprune.training import Prepared, TrainLoop, TrainState


class Setup(NamedTuple):
    """The parts of a run.

    Attributes:
      state: the initial state.
      train: the training loop.
      evaluate: ``evaluate(state)`` on the test set: the measures of the task, and "loss".
      evaluate_validation: the same on the validation set.
      pretraining: learning-rate schedule of the dense phase.
      epoch_steps: steps an epoch.
      stepwise: whether the loop dispatches single steps, and not compiled chunks of them.
      options: the arguments of `jp.training.imp`, `bimp` or `fit` that the configuration sets.
      prepared: the method applied to loss and optimizer; `None` for imp and bimp.
      identity: computes what tells the data from others.
      options_for: the ``options`` of another configuration of imp or bimp that trains the same
        dense network, so that what is compiled serves many runs; `None` for methods of one phase.
      structured: the arguments of `jp.training.structured_imp` that a configuration sets, but for
        its ``build``; `None` for methods of one phase.
      remade: ``remade(shrink) -> parts``: loop and evaluations for what is left of the network.
      model: the network.
      image_shape: of an image as the network sees it.
      note: said under the table of results.
      files: texts to write into the run folder, by name.
    """

    state: TrainState
    train: TrainLoop
    evaluate: jp.training.Evaluate
    evaluate_validation: jp.training.Evaluate
    pretraining: optax.Schedule
    epoch_steps: int
    stepwise: bool
    options: dict[str, Any]
    prepared: Prepared | None
    identity: Callable[[], data.Identity]
    options_for: Callable[[Config], dict[str, Any]] | None = None
    structured: Callable[[Config], dict[str, Any]] | None = None
    remade: Callable[[jp.training.Shrink], "Setup"] | None = None
    model: Any = None
    image_shape: tuple[int, ...] = ()
    note: str | None = None
    files: Mapping[str, str] = {}

    def deployed(self, state: TrainState) -> TrainState:
        """The state as the forward pass sees it, for evaluation."""
        return state if self.prepared is None else self.prepared.deployed(state)


def make_optimizer(config: Config, learning_rate: Any) -> optax.GradientTransformation:
    """SGD with momentum, weight decay as an L2 gradient of every parameter (before momentum).

    Or Adam with weight decay that is not part of the gradient.
    """
    # LC brings its own decay, of small weights only.
    weight_decay = 0.0 if config.method == "lc" else config.weight_decay
    if config.optimizer == "adamw":
        return optax.adamw(learning_rate, weight_decay=weight_decay)
    return optax.chain(
        optax.add_decayed_weights(weight_decay),
        optax.sgd(learning_rate, config.momentum, nesterov=config.nesterov),
    )


def dense_schedule(config: Config, epoch_steps: int) -> optax.Schedule:
    """The learning rate of dense training, by step; for methods of one phase that of all of it.

    With warm-up the rate rises linearly over the first steps; the shape below it keeps counting.
    """
    epochs = config.epochs if config.method in ITERATIVE else config.total_epochs()
    peak, steps = config.learning_rate, epochs * epoch_steps
    shapes = {
        "stepped": optax.piecewise_constant_schedule(peak, {steps // 2: 0.1, steps * 3 // 4: 0.1}),
        "linear": optax.linear_schedule(peak, 0.0, steps),
        "cosine": optax.cosine_decay_schedule(peak, steps),
        "constant": optax.constant_schedule(peak),
    }
    shape, warmup = shapes[config.resolved_dense_schedule()], config.warmup_epochs * epoch_steps
    if not warmup:
        return shape
    return lambda step: shape(step) * jnp.minimum((jnp.asarray(step) + 1) / warmup, 1.0)


def build(
    config: Config,
    *,
    dataset: Any = None,
    say: Callable[[str], object] | None = None,
) -> Setup:
    """Builds a run.

    Args:
      config: the configuration.
      dataset: data to use instead of reading those of ``config``, as its task has them.
      say: told in a line what takes long.

    Returns:
      Its parts.

    Raises:
      ValueError: for an unknown name or a value out of range.
      FileNotFoundError: if the data set is not prepared.
    """
    check(config)
    dtype = jnp.dtype(config.precision)
    fed = make_inputs(config, dataset, say=say)
    model, epoch_steps = fed.model(dtype), fed.epoch_steps

    keys = jax.jit(lambda: list(jax.random.split(jax.random.key(config.seed), 3)))()
    params, model_state = models.init_with(model, keys[0], *fed.example)
    optimizer = partial(make_optimizer, config)
    loss_fn = fed.loss_fn(model)
    plain_loss_fn = loss_fn

    def recalibration(config: Config) -> dict[str, Any]:
        if not config.recalibrate:
            return {"recalibrate": None}
        make = jp.training.make_recalibrate
        return {"recalibrate": make(plain_loss_fn, fed.batch_at, steps=epoch_steps)}

    def options_for(config: Config) -> dict[str, Any]:
        scores = scoring.make_scores(config.score, fed, model, model_state, keys[1])
        return recalibration(config) | _iterative_options(config, params, scores, epoch_steps)

    def structured(config: Config) -> dict[str, Any]:
        image = jax.ShapeDtypeStruct((1, *fed.image_shape), jnp.float32)
        taken = _iterative_options(config, params, lambda params: params, epoch_steps)
        return {
            **{k: v for k, v in taken.items() if k not in ("allocation", "pattern", "scores")},
            "apply": channels.functions(model)[0],
            "inputs": (image, keys[1]),
            "scores": channels.scores_for(config, keys[1]),
            "select": channels.select_for(config),
        }

    def remade(shrink: jp.training.Shrink) -> Setup:
        small = channels.shrunk(model, shrink)
        loss_fn = fed.loss_fn(small)
        evaluate, validate = fed.evaluations(small)
        train = _loop(config, fed, loss_fn, partial(make_optimizer, config), params)
        again: dict[str, Any] = {"recalibrate": None}
        if config.recalibrate:
            make = jp.training.make_recalibrate
            again["recalibrate"] = make(loss_fn, fed.batch_at, steps=epoch_steps)
        return setup._replace(
            train=train, evaluate=evaluate, evaluate_validation=validate, options=again
        )

    if config.parallel == "pmap" and "batch_stats" in model_state:
        # One program a device: its batch norms have to be told of the others.
        loss_fn = fed.loss_fn(fed.model(dtype, axis_name="batch"))
    prepared = None
    if config.method in ITERATIVE:
        options = options_for(config)
        state = TrainState.create(params, optimizer, model_state=model_state, key=keys[2])
    else:
        method = make_method(config, params, keys[1], epoch_steps)
        prepared = jp.training.prepare(
            method, params, loss_fn, optimizer, model_state=model_state, key=keys[2]
        )
        state, loss_fn, optimizer = prepared.state, prepared.loss_fn, prepared.make_optimizer
        steps = jnp.arange(config.total_epochs() * epoch_steps)
        options = recalibration(config)
        options["learning_rates"] = jax.vmap(dense_schedule(config, epoch_steps))(steps)
    evaluate, evaluate_validation = fed.evaluations(model)
    train = _loop(config, fed, loss_fn, optimizer, params)
    setup = Setup(
        state=state,
        train=train,
        evaluate=evaluate,
        evaluate_validation=evaluate_validation,
        pretraining=dense_schedule(config, epoch_steps),
        epoch_steps=epoch_steps,
        stepwise=_stepwise(config, params),
        options=options,
        prepared=prepared,
        identity=fed.identity,
        note=fed.note,
        files=fed.files,
        options_for=options_for if prepared is None else None,
        structured=structured if prepared is None else None,
        remade=remade if prepared is None else None,
        model=model,
        image_shape=fed.image_shape,
    )
    return setup


def loop_and_evaluation(
    config: Config, model: Any, params: Any, dataset: data.Dataset
) -> tuple[TrainLoop, jp.training.Evaluate]:
    """The training loop and the evaluation on the test set of another network on the same data.

    Args:
      config: the configuration.
      model: has ``apply`` as a Linen module has it: a module, or `models.Shrunk`.
      params: its parameters.
      dataset: the data.

    Returns:
      Plain training, without a method, and ``evaluate(state)``.
    """
    fed = make_inputs(config, dataset)
    loss_fn = fed.loss_fn(model)
    train = _loop(config, fed, loss_fn, partial(make_optimizer, config), params)
    return train, fed.evaluations(model)[0]


def _step(config: Config, loss_fn: Any, optimizer: Any) -> jp.training.TrainStep:
    """The training step on the devices of the configuration.

    Raises:
      ValueError: if they do not divide the batch.
    """
    count = len(devices.chosen(config))
    check_split(config.batch_size, devices=count, accumulate=config.accumulate)
    options: dict[str, Any] = {"accumulate": config.accumulate, "remat": config.remat}
    if config.parallel == "pmap":
        return jp.training.make_pmap_train_step(
            loss_fn, optimizer, devices=devices.chosen(config), **options
        )
    mesh = devices.make_mesh(config)
    rule = None
    if mesh is not None and config.parallel == "fsdp":
        rule = jp.training.fully_sharded(mesh)
    return jp.training.make_train_step(loss_fn, optimizer, mesh=mesh, sharding=rule, **options)


def _loop(config: Config, fed: Inputs, loss_fn: Any, optimizer: Any, params: Any) -> TrainLoop:
    step = _step(config, loss_fn, optimizer)
    compiled = None if _stepwise(config, params) or not step.traceable else True
    return fed.loop(step, min(fed.epoch_steps, 50), compiled)


def _stepwise(config: Config, params: Any) -> bool:
    """Whether single steps are dispatched, and not compiled chunks of them."""
    # XLA's CPU backend runs products well inside a compiled loop, convolutions badly.
    # Kernels of attention have three axes, those of convolutions here four.
    has_convolutions = any(leaf.ndim > 3 for leaf in jax.tree.leaves(params))
    on_cpu = devices.chosen(config)[0].platform == "cpu"
    return config.stream or config.parallel == "pmap" or (has_convolutions and on_cpu)


def make_method(config: Config, params: Any, key: jax.Array, epoch_steps: int) -> jp.methods.Method:
    """The recipe of a method of one phase, with what the configuration says about it.

    Raises:
      ValueError: if a hyperparameter is out of range for the method.
    """
    name, entry = config.method, registry.METHODS[config.method]
    options: dict[str, Any] = {}
    if config.interval is not None:
        options[INTERVAL[name]] = max(1, round(config.interval * epoch_steps))
    if config.penalty is not None:
        options[PENALTY[name]] = config.penalty
    if config.initial is not None:
        options[INITIAL[name]] = config.initial
    if entry.takes("total_steps"):
        options["total_steps"] = config.total_epochs() * epoch_steps
    if entry.takes("key"):
        options["key"] = key
    if entry.takes("sparsity"):
        options["sparsity"] = None if fixed_sparsity(config) is not None else config.sparsity
    if config.pattern != "unstructured":
        options["pattern"] = make_pattern(config.pattern)
    if config.allocation is not None:
        options["allocation"] = make_allocation(config.allocation, params)
    return entry.load()(**options)


# What a pattern is told beside its numbers.
_PATTERN_OPTIONS: dict[str, dict[str, Any]] = {
    "nm": {"layout": "flax", "remainder": "dense"},
    "block": {"remainder": "dense"},
    "channels": {"norm": "mean"},
}


def make_pattern(name: str) -> jp.masks.Pattern | None:
    """The pattern of a name on the command line; `None` for single weights."""
    pattern = registry.parse_pattern(name)
    assert pattern is not None
    if pattern.function is None:
        return None
    function = registry.PATTERNS[pattern.function].load()
    return function(*pattern.numbers, **_PATTERN_OPTIONS.get(pattern.function, {}))


def make_allocation(name: str, params: Any) -> jp.masks.Allocation:
    """The allocation of a name on the command line."""
    entry = registry.ALLOCATIONS[name]
    options = {"last": _last_dense(params)} if entry.takes("last") else {}
    return entry.load()(**options, **({"layout": "flax"} if entry.takes("layout") else {}))


def _last_dense(params: Any) -> str:
    """The path of the last dense kernel, which shapes do not tell."""
    leaves = jax.tree_util.tree_leaves_with_path(jp.masks.dense(params))
    paths = [jax.tree_util.keystr(p, simple=True, separator="/") for p, x in leaves if x.ndim == 2]
    # Flax numbers its layers.
    return max(paths, key=lambda path: int("0" + "".join(re.findall(r"\d", path))), default="")


def _iterative_options(
    config: Config, params: Any, scores: Callable[[Any], Any], epoch_steps: int
) -> dict[str, Any]:
    """The arguments of imp or bimp."""
    fixed = fixed_sparsity(config)
    options: dict[str, Any] = {
        "pretraining_steps": config.epochs * epoch_steps,
        "sparsity": config.sparsity if fixed is None else fixed,
        "cycles": config.cycles,
        "warmup": config.retrain_warmup,
        "scores": scores,
        "allocation": make_allocation(config.allocation or "global", params),
        "pattern": make_pattern(config.pattern),
        "optimizer_state": config.optimizer_state,
    }
    if config.method == "bimp":
        options["learning_rate"] = config.learning_rate
        options["budget"] = config.total_epochs() * epoch_steps
        return options
    options["retraining_steps"] = config.retrain_epochs * epoch_steps
    options["schedule"] = config.schedule
    options["peak"] = config.peak
    options["pretraining_warmup_steps"] = config.warmup_epochs * epoch_steps
    options["pretraining"] = dense_schedule(config, epoch_steps)
    if config.rewind_epoch is not None:
        options["rewind"] = config.rewind_epoch * epoch_steps
    return options


def prune_channels(
    config: Config,
    parts: Setup,
    build: Callable[[jp.training.Shrink], Any],
    *,
    dense: "Dense | None" = None,
    **options: Any,
) -> jp.training.StructuredResult:
    """Runs imp of whole channels, as the configuration has it.

    Args:
      config: the configuration.
      parts: from `build`.
      build: ``build(shrink) -> Network``, see `jp.training.structured_imp`.
      dense: the dense network, if it is trained already.
      **options: override those of ``parts``, e.g. ``on_phase``.

    Returns:
      The small network and the records.
    """
    assert parts.structured is not None
    taken = parts.structured(config)
    if dense is not None:
        taken["pretrain"] = False
        if "rewind" in taken:
            taken["rewind"] = dense.snapshots[taken["rewind"]]
    state = parts.state if dense is None else dense.state
    return jp.training.structured_imp(state, build, **taken | options)


class Dense(NamedTuple):
    """A dense network that several runs prune.

    Attributes:
      name: of its settings.
      state: at the end of dense training.
      snapshots: by step, the states on the way that weight rewinding goes back to.
    """

    name: str
    state: TrainState
    snapshots: dict[int, TrainState]


def prune_and_retrain(
    config: Config,
    parts: Setup,
    *,
    train: TrainLoop | None = None,
    dense: Dense | None = None,
    **options: Any,
) -> jp.training.RunResult:
    """Runs the method of the configuration on the parts built from it.

    Args:
      config: names the method.
      parts: from `build`.
      train: a loop to use instead of the one in ``parts``, e.g. one that reports.
      dense: the dense network of imp or bimp, if it is trained already.
      **options: override those of ``parts``, e.g. ``on_phase``.

    Returns:
      The final state and the records.
    """
    if parts.prepared is not None:
        return jp.training.fit(
            parts.prepared,
            train or parts.train,
            evaluate=parts.evaluate,
            **{**parts.options, **options},
        )
    if dense is not None:
        return jp.training.imp(
            dense.state,
            train or parts.train,
            evaluate=parts.evaluate,
            pretrain=False,
            **_after_dense(config, parts, dense) | options,
        )
    methods = {"imp": jp.training.imp, "bimp": jp.training.bimp}
    return methods[config.method](
        parts.state,
        train or parts.train,
        evaluate=parts.evaluate,
        **{**parts.options, **options},
    )


def _after_dense(config: Config, parts: Setup, dense: Dense) -> dict[str, Any]:
    """The options of imp that prunes a network which is trained already."""
    options = dict(parts.options)
    if config.method == "bimp":  # its own recipe, from the first prune on
        steps = options["pretraining_steps"]
        options["pretraining"] = optax.linear_schedule(options.pop("learning_rate"), 0.0, steps)
        options["total_retraining_steps"] = options.pop("budget") - steps
        options["schedule"] = "allr"
    if "rewind" in options:
        options["rewind"] = dense.snapshots[options["rewind"]]
    return options
