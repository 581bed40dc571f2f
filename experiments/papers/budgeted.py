"""Which learning-rate schedule uses a training budget best."""

from experiments.papers._paper import Claim, Paper, sized

_SCHEDULES = ("constant", "stepped", "cosine", "linear")

PAPER = Paper(
    name="budgeted",
    source="Li, Yumer, Ramanan, ICLR 2020, tables 1 and 2",
    about=(
        "Dense training for a part of the full length under four schedules that are scaled to the "
        "budget, and one-shot pruning retrained under the same four."
    ),
    rows=("label",),
    columns=("retrain_epochs", "epochs"),
    sizes=sized(
        "budgeted",
        {},
        [
            *({"label": f"dense, {s}", "method": "dense", "dense_schedule": s} for s in _SCHEDULES),
            *(
                {
                    "label": f"pruned, {s}",
                    "method": "imp",
                    "cycles": 1,
                    "schedule": s,
                    "peak": 0.1,
                    "retrain_epochs": (1, 3),
                    "epochs": 10,
                }
                for s in _SCHEDULES
            ),
        ],
        tiny={
            "data": "digits",
            "model": "lenet_300_100",
            "epochs": (2, 5),
            "retrain_epochs": 1,
            "cycles": 1,
            "sparsity": 0.95,
            "seed": (0, 1),
        },
        cpu={
            "data": "fashion_mnist",
            "model": "lenet_300_100",
            "batch_size": 128,
            "epochs": (1, 2, 5, 10),
            "retrain_epochs": 1,
            "cycles": 1,
            "sparsity": 0.95,
            "seed": (0, 1, 2),
        },
        full={
            "data": "cifar10",
            "model": "resnet18",
            "batch_size": 128,
            "epochs": (2, 10, 20, 50, 100, 200),
            "retrain_epochs": 1,
            "cycles": 1,
            "sparsity": 0.95,
            "seed": (0, 1, 2),
        },
    ),
    notes={
        "tiny": "two CPU cores, under three minutes; decides nothing",
        "cpu": "two CPU cores",
        "full": "one GPU; the paper's ResNet-18 on CIFAR-10, 1 to 100 % of 200 epochs",
    },
    claims=[
        Claim(
            f"the linear schedule is at least as good as {name} ({kind})",
            {"label": f"{kind}, linear"},
            {"label": f"{kind}, {name}"},
        )
        for kind in ("dense", "pruned")
        for name in _SCHEDULES[:-1]
    ],
)
