"""Does plain IMP inside a budget keep up with methods that prune during training."""

from experiments.papers._paper import Claim, Paper, sized

_METHODS = ("gmp", "gsm", "dpf", "dnw", "lc")

PAPER = Paper(
    name="bimp",
    source="Zimmer, Spiegel, Pokutta, ICLR 2023, table 2",
    about=(
        "Budgeted IMP against pruning-stable methods at the same number of epochs in total. STR, "
        "CS and DST, whose sparsity results from other options, are in experiments.methods_table."
    ),
    rows=("method",),
    columns=("sparsity",),
    sizes=sized(
        "bimp",
        {"cycles": 1},
        [
            {"method": "bimp", "label": "BIMP"},
            *({"method": name, "label": name.upper()} for name in _METHODS),
        ],
        tiny={
            "data": "digits",
            "model": "lenet_300_100",
            "epochs": 10,
            "retrain_epochs": 5,
            "sparsity": 0.95,
            "seed": (0, 1),
        },
        cpu={
            "data": "fashion_mnist",
            "model": "lenet_300_100",
            "batch_size": 128,
            "epochs": 10,
            "retrain_epochs": 10,
            "sparsity": (0.95, 0.98),
            "seed": (0, 1, 2),
        },
        full={
            "data": "cifar10",
            "model": "resnet56",
            "batch_size": 128,
            "epochs": 100,
            "retrain_epochs": 100,
            "sparsity": (0.9, 0.95, 0.99),
            "seed": (0, 1, 2),
        },
    ),
    notes={
        "tiny": "two CPU cores, under three minutes; decides nothing",
        "cpu": "two CPU cores",
        "full": "one GPU; the paper's upper half, 200 epochs",
    },
    claims=[
        Claim(
            f"BIMP is on par with or better than {name.upper()}",
            {"method": "bimp"},
            {"method": name},
        )
        for name in _METHODS
    ],
)
