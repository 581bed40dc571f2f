"""The options of a run, in groups, with their units and defaults. `--help` shows them so.

Neither this module nor what it imports may import JAX, which takes seconds.
"""

import dataclasses
import pathlib
from typing import Annotated, Any, Literal

import tyro

from experiments import registry, tasks

ITERATIVE = ("imp", "bimp")
METHODS = (*ITERATIVE, *registry.METHODS)
# Those whose sparsity follows from other options. Dense training has no option at all.
UNCONTROLLED = tuple(
    name for name, e in registry.METHODS.items() if e.parameters and not e.takes("sparsity")
)


def _help(text: str) -> Any:
    """A help text with names in it, which a docstring cannot have."""
    return tyro.conf.arg(help=" ".join(text.split()))


_METHOD = f"""imp: train dense, then prune and retrain in cycles. bimp: the same inside the budget
of `epochs + cycles * retrain-epochs`, with a linear dense schedule and ALLR. Every other method
trains for that budget in one phase, under the dense schedule, and ends with `sparsity`;
{", ".join(UNCONTROLLED)} do not control theirs (that of sr_ste is its pattern's).
{registry.listing(registry.METHODS)}."""

_TASK = f"""Kind of problem: {", ".join(tasks.KINDS)}. Some defaults depend on it; --task NAME
--help shows those of one."""

_DATA = f"""Data set: digits (embedded), or a prepared set of tensorflow-datasets by name, such as
{", ".join(name for name in registry.DATA if name != "digits")}. language_modelling also takes a
text file."""

_MODEL = f"""Network: {", ".join(registry.MODELS)}; {
    "; ".join(f"for {t} {', '.join(tasks.models_of(t))}" for t in tasks.KINDS if t != tasks.DEFAULT)
}."""

_SCHEDULE = f"""Retraining schedule. {registry.listing(registry.SCHEDULES, whole=True)}. Those that
take a `peak` start there."""

_SCORE = f"""What decides which weights stay. {registry.listing(registry.SCORES, "score")}. Those
that need gradients or activations get them from the first batches of training, in memory.
synflow sees batch norms as they are at the start."""

_ALLOCATION = f"""How the total is spread over layers; default: global, but erk for rigl, set and
static, and uniform for sfp. {registry.listing(registry.ALLOCATIONS, "allocation")}. uniform_plus:
the first convolution stays dense, the last layer loses at most 80 percent."""

_PATTERN = f"""Which weights go together: {", ".join(registry.pattern_forms())}, with numbers in
place of the capitals, such as nm_2_4. unstructured: single weights; for sfp its own, whole filters
of convolutions. {registry.listing(registry.PATTERNS)}. nm goes along the input channels and fixes
the sparsity, 1 - N / M; imp then takes one cycle. What does not fill a group stays."""


_STRUCTURED = """imp removes whole channels for good, and each cycle trains what is left. channels:
`sparsity` of the channels of every layer. filters: of every convolution that no shortcut adds to,
as in PFEC. resnet56-B and other names of jp.structured.pfec: the published widths, in one cycle.
`score` is magnitude (their L1 norm) or random. Default: single weights."""


@dataclasses.dataclass(frozen=True)
class Task:
    """Task, method, network, data and lengths."""

    task: Annotated[str, _help(_TASK)] = tasks.DEFAULT

    method: Annotated[str, _help(_METHOD)] = "imp"

    data: Annotated[str, _help(_DATA)] = "digits"

    model: Annotated[str, _help(_MODEL)] = "small_cnn"

    sparsity: float = 0.95
    """Final sparsity: fraction removed of all convolution and dense weights, in [0, 1)."""

    cycles: int = 3
    """Prunings, each followed by retraining; 1 is one-shot pruning."""

    epochs: int = 40
    """Length of dense training, in epochs."""

    retrain_epochs: int = 15
    """Length of retraining after each pruning, in epochs."""

    seed: int = 0
    """Seed of the initial weights, the order of the data, augmentation and random scores. The
    validation split does not depend on it."""

    run_dir: pathlib.Path | None = None
    """Folder for the results; default: runs/DATA-MODEL-METHOD-SCHEDULE-SPARSITY-sSEED
    (methods of one phase have no SCHEDULE)."""


@dataclasses.dataclass(frozen=True)
class Dense:
    """Dense training, and what all training has in common."""

    dense_schedule: str | None = None
    """Dense learning-rate schedule: stepped (divided by 10 at 50 % and at 75 %), linear (to 0),
    cosine (to 0) or constant; default: stepped, and for bimp, which knows no other, linear."""

    learning_rate: float = 0.1
    """Highest learning rate of dense training."""

    warmup_epochs: int = 0
    """Linear warm-up at the start of dense training, in epochs."""

    optimizer: Literal["sgd", "adamw"] = "sgd"
    """sgd: with momentum. adamw: Adam with decoupled weight decay, for transformers."""

    momentum: float = 0.9
    """Momentum of SGD."""

    nesterov: bool = True
    """Whether momentum is Nesterov's."""

    weight_decay: float = 1e-4
    """L2 factor added to the gradient of every parameter; with adamw the decoupled factor."""

    batch_size: int = 64
    """Examples a training step."""

    precision: Literal["float32", "bfloat16"] = "float32"
    """Number format of the computation; parameters are float32 in any case."""


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Sizes of networks and of text, of all tasks but image classification."""

    width: int | None = None
    """Channels of the first stage, or of a token's vector; default: the model's own."""

    depth: int | None = None
    """Residual blocks a stage, or blocks of a transformer; default: the model's own."""

    heads: int | None = None
    """Attention heads; they divide the width. Default: the model's own."""

    dropout: float = 0.0
    """Fraction that training of a transformer drops of each branch's result."""

    max_length: int = 128
    """Tokens of a sequence: of language_modelling each, of translation at most."""

    vocabulary: int = 256
    """Number of tokens: 256 are bytes; of more, the others are byte pairs learned from the text of
    training. Special tokens of translation come on top."""

    text_fields: str | None = None
    """Fields of the set that are text: one for language_modelling, SOURCE,TARGET for translation.
    Default: those that it has, in alphabetical order."""

    buckets: int = 4
    """Lengths that sentences are padded to; each is compiled once."""

    void_class: int | None = None
    """Label of pixels that do not count in segmentation; default: 11 for camvid, else 255."""


@dataclasses.dataclass(frozen=True)
class Pruning:
    """What is pruned, and how it is retrained."""

    schedule: Annotated[str, _help(_SCHEDULE)] = "allr"

    peak: float | None = None
    """Highest learning rate of the schedules constant, stepped, cosine and linear."""

    retrain_warmup: float | None = None
    """Fraction of retraining spent on warm-up; default: the schedule's own (0.1, ft and lrw 0)."""

    rewind_epoch: int | None = None
    """Weight rewinding: after each pruning, kept weights go back to their values after this many
    epochs of dense training. Usually with `schedule lrw`."""

    optimizer_state: Literal["fresh_once", "fresh", "keep"] = "fresh_once"
    """Momentum at a pruning: fresh_once resets it at the first one, fresh at each, keep never."""

    recalibrate: bool = False
    """Whether batch-norm statistics are re-estimated over one epoch after each pruning."""

    score: Annotated[str, _help(_SCORE)] = "magnitude"

    structured: Annotated[str | None, _help(_STRUCTURED)] = None

    allocation: Annotated[str | None, _help(_ALLOCATION)] = None

    pattern: Annotated[str, _help(_PATTERN)] = "unstructured"

    interval: float | None = None
    """Epochs between moves of the mask, or of the temperature (cs), or the length of a phase
    (ac_dc); default: the method's own, mostly a tenth of training."""

    penalty: float | None = None
    """Strength of what drives weights to zero: the selective weight decay of lc (which replaces
    `weight-decay`), the penalties of cs and dst, the decay of sr_ste; default: the method's own."""

    initial: float | None = None
    """Where the thresholds of str or the gates of cs start, before the sigmoid; default: the
    method's own."""


@dataclasses.dataclass(frozen=True)
class Saving:
    """The run on the disk."""

    checkpoint_epochs: int = 5
    """Epochs between checkpoints; there is one at the end of every phase, too."""

    resume: bool = False
    """Whether to go on with the run that the folder holds, from its newest checkpoint."""

    on_nan: Literal["stop", "rewind"] = "stop"
    """When the loss becomes NaN: stop with the step, or rewind to the newest checkpoint and go on
    with other batches (three times at most). That helps against a bad batch, not against a rate
    that is too high, and needs a checkpoint from before."""

    writers: tuple[Literal["tensorboard", "wandb", "trackio"], ...] = ()
    """Where the numbers of metrics.jsonl go as well, while the run goes on: tensorboard
    (RUN_DIR/tensorboard), wandb (Weights & Biases), trackio. They come with the extra
    `writers`."""

    profile: bool = False
    """Whether to write a trace of the third chunk of steps to RUN_DIR/profile, for TensorBoard or
    Perfetto."""


@dataclasses.dataclass(frozen=True)
class Reading:
    """Where images come from."""

    data_dir: pathlib.Path | None = None
    """Folder of prepared tensorflow-datasets; default: theirs ($TFDS_DATA_DIR, else
    ~/tensorflow_datasets)."""

    data_cache: str | None = None
    """Folder for decoded images of prepared sets, which are decoded once; off: decode every time.
    Default: data in $JAXPRUNE_CACHE_DIR, else in jaxprune in the user's cache folder."""

    stream: bool = False
    """Whether images are read from the disk while training, for sets that do not fit in memory."""

    workers: int = 0
    """Processes that read and decode streamed images; 0 for a thread of this one. Every validation
    and test starts others for `preprocess imagenet`, which takes some seconds each time, and is
    done by a thread otherwise."""

    preprocess: Literal["auto", "none", "crop_flip", "imagenet"] = "auto"
    """What is done to streamed images. crop_flip: pad by 4, crop, flip. imagenet: random-resized
    crop and flip, for evaluation a centre crop. auto: what the set is known for, or none."""

    image_size: int = 224
    """Pixels a side after `preprocess imagenet`."""

    eval_batch_size: int = 500
    """Examples an evaluation step."""


@dataclasses.dataclass(frozen=True)
class Devices:
    """Devices, processes and compilation."""

    devices: int | None = None
    """Devices to train on; default: all accelerators, or one CPU. They must divide `batch-size`."""

    parallel: Literal["data", "fsdp", "pmap"] = "data"
    """How several devices share the work. data: each has its rows of the batch and all parameters.
    fsdp: large parameters are cut over them, too. pmap: as data, compiled by jax.pmap."""

    accumulate: int = 1
    """Parts of a batch that are computed one after the other, for batches that do not fit."""

    remat: bool = False
    """Whether the backward pass computes activations anew, to keep fewer; not on CPU."""

    convolutions: Literal["eigen", "default"] = "eigen"
    """How a CPU computes convolutions: by Eigen, which trains ResNet-20 about twice as fast, or as
    the installed XLA chooses."""

    compilation_cache: str | None = None
    """Folder for compiled programs, which the same run then need not compile again; off: compile
    every time. Default: $JAX_COMPILATION_CACHE_DIR, else compiled in $JAXPRUNE_CACHE_DIR, else in
    jaxprune in the user's cache folder, cut to 2 GiB at each start."""

    coordinator: str | None = None
    """HOST:PORT of process 0, to train with several processes; auto: ask the cluster. Default:
    $JAX_COORDINATOR_ADDRESS, else this process alone."""

    num_processes: int | None = None
    """Number of processes; default: $JAX_NUM_PROCESSES."""

    process_id: int | None = None
    """Index of this process, from 0; default: $JAX_PROCESS_ID. Process 0 writes the run folder,
    which all must see: each writes its part of the checkpoints there."""

    join_seconds: int = 60
    """Seconds to wait for the other processes."""
