"""How a total sparsity is spread over the layers."""

from experiments.papers._paper import Claim, Paper, sized

_ALLOCATIONS = ("global", "uniform", "uniform_plus", "erk")

PAPER = Paper(
    name="allocation",
    source="Zimmer, Spiegel, Pokutta, ICLR 2023, appendix; Lee et al., ICLR 2021",
    about="One-shot magnitude pruning with ALLR, the total spread by four rules.",
    rows=("allocation",),
    columns=("sparsity",),
    sizes=sized(
        "allocation",
        {"method": "imp", "cycles": 1, "schedule": "allr"},
        [{"allocation": name, "label": name} for name in _ALLOCATIONS],
        tiny={
            "data": "digits",
            "model": "small_cnn",
            "epochs": 5,
            "retrain_epochs": 1,
            "sparsity": 0.9,
            "seed": (0, 1),
        },
        cpu={
            "data": "cifar10",
            "model": "small_cnn",
            "batch_size": 128,
            "epochs": 10,
            "retrain_epochs": 2,
            "sparsity": (0.9, 0.98),
            "seed": (0, 1, 2),
        },
        full={
            "data": "cifar10",
            "model": "resnet56",
            "batch_size": 128,
            "epochs": 200,
            "retrain_epochs": 20,
            "sparsity": (0.9, 0.95, 0.98),
            "seed": (0, 1, 2),
        },
    ),
    notes={
        "tiny": "two CPU cores, under three minutes; decides nothing",
        "cpu": "two CPU cores",
        "full": "one GPU",
    },
    claims=[
        Claim(
            f"one global threshold is at least as good as {name}",
            {"allocation": "global"},
            {"allocation": name},
        )
        for name in _ALLOCATIONS[1:]
    ],
)
