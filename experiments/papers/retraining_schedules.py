"""Which learning rate retrains best: FT, LRW, SLR, CLR, LLR, ALLR."""

import itertools

from experiments.papers._paper import Claim, Paper, sized

_ORDER = ("allr", "llr", "clr", "slr", "lrw", "ft")
_SHORT = {"retrain_epochs": (1, 2)}

PAPER = Paper(
    name="retraining_schedules",
    source="Zimmer, Spiegel, Pokutta, ICLR 2023, table 1; Le & Hua, ICLR 2021",
    about=(
        "One-shot magnitude pruning of one dense network, retrained for a small part of its "
        "training under each schedule. The shorter the retraining, the more the schedule matters."
    ),
    rows=("schedule",),
    columns=("sparsity", "retrain_epochs"),
    sizes=sized(
        "retraining_schedules",
        {"method": "imp", "cycles": 1},
        [{"schedule": name, "label": name.upper()} for name in reversed(_ORDER)],
        tiny={
            "data": "digits",
            "model": "lenet_300_100",
            "epochs": 20,
            "sparsity": 0.95,
            "retrain_epochs": (1, 2),
            "seed": (0, 1),
        },
        cpu={
            "data": "cifar10",
            "model": "small_cnn",
            "batch_size": 128,
            "epochs": 10,
            "sparsity": (0.95, 0.98),
            "retrain_epochs": (1, 2),
            "seed": (0, 1, 2),
        },
        full={
            "data": "cifar10",
            "model": "resnet56",
            "batch_size": 128,
            "epochs": 200,
            "sparsity": (0.9, 0.95, 0.98),
            "retrain_epochs": (5, 10, 20),
            "seed": (0, 1, 2),
        },
    ),
    notes={
        "tiny": "two CPU cores, under a minute; decides nothing",
        "cpu": "one CPU core, about an hour",
        "full": "one GPU; the paper has ResNet-50 on ImageNet, 90 epochs, 2, 5 and 10 to retrain",
    },
    claims=[
        *(
            Claim(
                f"{a.upper()} is at least as good as {b.upper()} where retraining is short",
                {"schedule": a},
                {"schedule": b},
                where=_SHORT,
            )
            for a, b in itertools.pairwise(_ORDER)
        ),
        Claim("ALLR is at least as good as FT", {"schedule": "allr"}, {"schedule": "ft"}),
        Claim("CLR is at least as good as FT", {"schedule": "clr"}, {"schedule": "ft"}),
    ],
)
