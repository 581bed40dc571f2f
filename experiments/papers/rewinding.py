"""Fine-tuning, learning-rate rewinding, weight rewinding."""

from experiments.papers._paper import Claim, Paper, sized


def _variants(epochs: int, rewind: int, cycles: tuple[int, ...]) -> list[dict[str, object]]:
    again = epochs - rewind
    return [
        {"label": "fine-tuning", "schedule": "ft", "retrain_epochs": again, "cycles": cycles},
        {
            "label": "LR rewinding",
            "schedule": "lrw",
            "retrain_epochs": again,
            "optimizer_state": "keep",
            "cycles": cycles,
        },
        {
            "label": "weight rewinding",
            "schedule": "lrw",
            "retrain_epochs": again,
            "rewind_epoch": rewind,
            "cycles": cycles,
        },
        {
            "label": "weight rewinding, low LR",
            "schedule": "ft",
            "retrain_epochs": again,
            "rewind_epoch": rewind,
            "cycles": cycles,
        },
        {
            "label": "rewinding to the start",
            "schedule": "lrw",
            "retrain_epochs": epochs,
            "rewind_epoch": 0,
            "cycles": cycles,
        },
    ]


def _sweep(size: str, epochs: int, rewind: int, cycles: tuple[int, ...], **options: object):
    variants = _variants(epochs, rewind, cycles)
    return sized("rewinding", {"method": "imp", "epochs": epochs}, variants, **{size: options})


_TIES = {"label": ("LR rewinding", "weight rewinding")}

PAPER = Paper(
    name="rewinding",
    source="Renda, Frankle, Carbin, ICLR 2020, figures 1 to 3",
    about=(
        "After each pruning: fine-tuning at the last learning rate; learning-rate rewinding, which "
        "replays the schedule and keeps weights and optimizer state; weight rewinding, which also "
        "takes the kept weights back to an early epoch."
    ),
    rows=("label",),
    columns=("cycles", "sparsity"),
    sizes={
        **_sweep(
            "tiny",
            10,
            1,
            (1, 2),
            data="digits",
            model="lenet_300_100",
            sparsity=0.95,
            seed=(0, 1),
        ),
        **_sweep(
            "cpu",
            12,
            1,
            (1, 3),
            data="fashion_mnist",
            model="lenet_300_100",
            batch_size=128,
            sparsity=(0.95, 0.98),
            seed=(0, 1, 2),
        ),
        **_sweep(
            "full",
            182,
            18,
            (1, 10),
            data="cifar10",
            model="resnet20",
            batch_size=128,
            sparsity=(0.7903, 0.8926),
            seed=(0, 1, 2),
        ),
    },
    notes={
        "tiny": "two CPU cores, under three minutes; decides nothing",
        "cpu": "two CPU cores",
        "full": (
            "one GPU; the paper's ResNet-20, 20 % a cycle: at density 0.107 one-shot FT 88.51, LR "
            "rewinding 89.03; iterative 89.33 and 91.01 %"
        ),
    },
    claims=[
        Claim(
            "learning-rate rewinding is at least as good as fine-tuning",
            {"label": "LR rewinding"},
            {"label": "fine-tuning"},
        ),
        Claim(
            "weight rewinding is at least as good as fine-tuning",
            {"label": "weight rewinding"},
            {"label": "fine-tuning"},
        ),
        Claim(
            "learning-rate rewinding and weight rewinding are equal within half a point",
            {"label": "LR rewinding"},
            {"label": "weight rewinding"},
            kind="equal",
        ),
        Claim(
            "an early epoch is a better place to rewind to than the start",
            {"label": "weight rewinding"},
            {"label": "rewinding to the start"},
        ),
    ],
)
