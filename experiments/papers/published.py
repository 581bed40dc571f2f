"""Published accuracies, to stand beside ours where the setting is the same.

Renda, Frankle, Carbin, ICLR 2020: medians of three trials in the data frames of their release,
ResNets on CIFAR-10 (8,000 test images), retrained for 182 epochs a cycle.
"""

from typing import Any

_LABELS = ("fine-tuning", "LR rewinding", "weight rewinding")
_RENDA = {
    # model, cycles, sparsity: fine-tuning, LR rewinding (182 epochs), weight rewinding (the best
    # time by validation)
    ("resnet20", 1, 0.7903): (90.67, 90.74, 91.21),
    ("resnet20", 1, 0.8926): (88.51, 89.03, 89.15),
    ("resnet20", 10, 0.8926): (89.33, 91.01, 90.91),
    ("resnet56", 1, 0.7903): (93.00, 93.05, None),
    ("resnet56", 1, 0.8926): (91.94, 92.27, 91.97),
    ("resnet56", 10, 0.8926): (91.24, 93.56, 93.36),
}
_SOURCE = "Renda et al. 2020, median of 3"

PUBLISHED: list[dict[str, Any]] = [
    {
        "source": _SOURCE,
        "accuracy": value / 100,
        "match": {
            "data": "cifar10",
            "model": model,
            "cycles": cycles,
            "sparsity": sparsity,
            "label": label,
        },
    }
    for (model, cycles, sparsity), values in _RENDA.items()
    for label, value in zip(_LABELS, values, strict=True)
    if value is not None
]


def matching(row: dict[str, Any]) -> list[dict[str, Any]]:
    """The published figures of the setting of a run."""
    return [
        entry
        for entry in PUBLISHED
        if all(
            abs(row[k] - v) < 2e-3 if isinstance(v, float) else row[k] == v
            for k, v in entry["match"].items()
        )
    ]
