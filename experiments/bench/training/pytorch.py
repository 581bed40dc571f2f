"""The same training in PyTorch: masks of `torch.nn.utils.prune`, a Python loop over steps."""

import importlib
import itertools
from typing import Any

from experiments.bench.common.timing import Unavailable
from experiments.bench.training.loops import Loop
from experiments.bench.training.problems import (
    CLASSES,
    LEARNING_RATE,
    MEAN,
    MOMENTUM,
    STD,
    WEIGHT_DECAY,
    Problem,
)

FORMATS = ("channels first", "channels last")


def load(*, device: str) -> Any:
    """The module."""
    try:
        torch = importlib.import_module("torch")
    except ImportError:
        raise Unavailable("torch is not installed (the extra `bench`)") from None
    if device not in ("cpu", "cuda"):
        raise Unavailable(f"no PyTorch loop for the device {device}")
    if device == "cuda" and not torch.cuda.is_available():
        raise Unavailable("this torch sees no GPU")
    return torch


def settings(device: str, threads: int) -> str:
    """What `loop` sets, for the report."""
    if device != "cuda":
        return f"{threads} threads, as JAX has them"
    return (
        "cudnn.benchmark on, TF32 in convolutions and products (matmul precision 'high'), as JAX "
        "has it"
    )


def loop(
    problem: Problem, sparsity: float, *, form: str, device: str, threads: int, torch: Any
) -> Loop:
    """A dense network under masks of the smallest magnitudes, global, as BIMP's code makes them.

    Images and augmentation are in the memory of the device, so no loader is waited for; loss and
    accuracy of every step are fetched after the last one. The carry of the loop is empty.
    """
    torch.manual_seed(problem.seed)
    torch.set_num_threads(threads)
    if device == "cuda":
        torch.backends.cudnn.benchmark = True
        torch.set_float32_matmul_precision("high")
    nn, functional = torch.nn, torch.nn.functional
    prune = importlib.import_module("torch.nn.utils.prune")
    model = _network(torch, problem).to(device)
    parameters = sum(p.numel() for p in model.parameters())
    if parameters != problem.parameters:
        raise RuntimeError(
            f"{problem.name} has {parameters:,} parameters in PyTorch and {problem.parameters:,} "
            "here; another network is no comparison."
        )
    layers = [m for m in model.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    prune.global_unstructured(
        [(layer, "weight") for layer in layers], prune.L1Unstructured, amount=sparsity
    )
    zeros = sum(int((layer.weight_mask == 0).sum()) for layer in layers)
    if zeros != round(sparsity * problem.weights):
        raise RuntimeError(f"PyTorch pruned {zeros:,} of {problem.weights:,} weights.")
    # After pruning: it wants weights that can be viewed flat.
    layout = torch.channels_last if form == FORMATS[1] else torch.contiguous_format
    model = model.to(memory_format=layout).train()
    optimizer = torch.optim.SGD(
        model.parameters(), LEARNING_RATE, MOMENTUM, weight_decay=WEIGHT_DECAY, nesterov=True
    )
    batches = _batches(torch, problem, device, layout)
    half = problem.precision == "bfloat16"

    def run(carry: Any, steps: int) -> Any:
        rows = []
        for _ in range(steps):
            image, label = next(batches)
            optimizer.zero_grad()
            with torch.autocast(device, torch.bfloat16, enabled=half):
                logits = model(image)
                loss = functional.cross_entropy(logits, label)
            loss.backward()
            optimizer.step()
            accuracy = (logits.argmax(1) == label).float().mean()
            rows.append(torch.stack([loss.detach().float(), accuracy]))
        torch.stack(rows).cpu()  # waits for the device
        return carry

    return Loop(run, ())


def _batches(torch: Any, problem: Problem, device: str, layout: Any) -> Any:
    """Batches without end, a new order in every epoch; crops and flips are one gather."""
    images = torch.from_numpy(problem.images).to(device).permute(0, 3, 1, 2).contiguous()
    labels = torch.from_numpy(problem.labels).to(device).long()
    n, batch, side = len(images), problem.batch, images.shape[-1]
    pixel = torch.arange(side, device=device)
    each = torch.arange(batch, device=device)[:, None, None]
    while True:
        order = torch.randperm(n, device=device)
        for start in range(0, n - batch + 1, batch):
            chosen = order[start : start + batch]
            image = images[chosen]
            if problem.augment is not None:
                pad = problem.augment.pad
                image = torch.nn.functional.pad(image, (pad, pad, pad, pad))
                row, column = torch.randint(0, 2 * pad + 1, (2, batch, 1), device=device)
                flip = torch.rand(batch, 1, device=device) < 0.5
                column = column + torch.where(flip, pixel.flip(0), pixel)
                image = image[each, :, (row + pixel)[:, :, None], column[:, None, :]]
                image = image.permute(0, 3, 1, 2)
            image = image.float().sub_(255 * MEAN).div_(255 * STD)
            yield image.contiguous(memory_format=layout), labels[chosen]


def _network(torch: Any, problem: Problem) -> Any:
    """The network of the problem, with the same layers."""
    nn, functional = torch.nn, torch.nn.functional
    if problem.name == "lenet_300_100":
        sizes = (problem.images[0].size, *problem.model.widths, CLASSES)
        layers = [nn.Linear(a, b) for a, b in itertools.pairwise(sizes)]
        inner = [part for layer in layers[:-1] for part in (layer, nn.ReLU(inplace=True))]
        return nn.Sequential(nn.Flatten(), *inner, layers[-1])

    def conv(before: int, width: int, stride: int = 1) -> Any:
        layer = nn.Conv2d(before, width, 3, stride, padding=1, bias=False)
        nn.init.kaiming_normal_(layer.weight)
        return layer

    class Block(nn.Module):
        def __init__(self, before: int, width: int, stride: int) -> None:
            super().__init__()
            self.conv0, self.norm0 = conv(before, width, stride), nn.BatchNorm2d(width)
            self.conv1, self.norm1 = conv(width, width), nn.BatchNorm2d(width)
            self.stride, self.front = stride, (width - before) // 2
            self.back = width - before - self.front

        def forward(self, x: Any) -> Any:
            y = functional.relu(self.norm0(self.conv0(x)))
            y = self.norm1(self.conv1(y))
            if self.stride > 1 or self.back:
                x = x[:, :, :: self.stride, :: self.stride]
                x = functional.pad(x, (0, 0, 0, 0, self.front, self.back))
            return functional.relu(y + x)

    widths, before = problem.model.widths, problem.images.shape[-1]
    parts = [conv(before, widths[0]), nn.BatchNorm2d(widths[0]), nn.ReLU()]
    before = widths[0]
    for stage, width in enumerate(widths):
        for block in range(problem.model.blocks):
            parts.append(Block(before, width, 2 if stage and not block else 1))
            before = width
    end = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, CLASSES)]
    return nn.Sequential(*parts, *end)
