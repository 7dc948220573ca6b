"""Writes what MLX's own optimizers and mlx-lm's schedules do, for tests to compare with.

Five updates of a matrix, a tall matrix and a vector with gradients that a formula gives, by every optimizer of MLX that
`diagnose train` offers, and the learning rates of mlx-lm's `lr_schedule`. Run it with the python that
scripts/peers/environment prints; the output is fixtures/golden/optimizers.json.
"""

import json
import math
import sys
from pathlib import Path

import mlx.core as mx
import mlx.optimizers as optim
from mlx_lm.tuner.utils import build_schedule

OUT = Path(__file__).resolve().parents[2] / "fixtures" / "golden" / "optimizers.json"
SHAPES = {"wide": (2, 3), "tall": (4, 2), "vector": (3,)}
UPDATES = 5
LEARNING_RATE = 0.01

CASES = {
    "adam": ("adam", {}, lambda: optim.Adam(LEARNING_RATE)),
    "adam corrected": ("adam", {"bias_correction": True}, lambda: optim.Adam(LEARNING_RATE, bias_correction=True)),
    "adamw": ("adamw", {}, lambda: optim.AdamW(LEARNING_RATE)),
    "adamw decayed": (
        "adamw",
        {"weight_decay": 0.3, "betas": [0.8, 0.95], "eps": 1e-4, "bias_correction": True},
        lambda: optim.AdamW(LEARNING_RATE, betas=[0.8, 0.95], eps=1e-4, weight_decay=0.3, bias_correction=True),
    ),
    "sgd": ("sgd", {}, lambda: optim.SGD(LEARNING_RATE)),
    "sgd momentum": (
        "sgd",
        {"momentum": 0.9, "dampening": 0.2, "weight_decay": 0.1},
        lambda: optim.SGD(LEARNING_RATE, momentum=0.9, dampening=0.2, weight_decay=0.1),
    ),
    "sgd nesterov": (
        "sgd",
        {"momentum": 0.9, "nesterov": True},
        lambda: optim.SGD(LEARNING_RATE, momentum=0.9, nesterov=True),
    ),
    "lion": ("lion", {}, lambda: optim.Lion(LEARNING_RATE)),
    "lion decayed": (
        "lion",
        {"weight_decay": 0.3, "betas": [0.8, 0.95]},
        lambda: optim.Lion(LEARNING_RATE, betas=[0.8, 0.95], weight_decay=0.3),
    ),
    "adafactor": ("adafactor", {}, lambda: optim.Adafactor(LEARNING_RATE, relative_step=False)),
    "adafactor relative": ("adafactor", {"relative_step": True}, lambda: optim.Adafactor(LEARNING_RATE)),
    "adafactor warm": (
        "adafactor",
        {"relative_step": True, "warmup_init": True, "beta_1": 0.7, "weight_decay": 0.2, "scale_parameter": False},
        lambda: optim.Adafactor(LEARNING_RATE, warmup_init=True, beta_1=0.7, weight_decay=0.2, scale_parameter=False),
    ),
    "muon": ("muon", {}, lambda: optim.Muon(LEARNING_RATE)),
    "muon plain": (
        "muon",
        {"nesterov": False, "momentum": 0.8, "weight_decay": 0.0, "ns_steps": 3},
        lambda: optim.Muon(LEARNING_RATE, nesterov=False, momentum=0.8, weight_decay=0.0, ns_steps=3),
    ),
}

SCHEDULES = [
    {"name": "cosine_decay", "arguments": [0.5, 8], "warmup": 3},
    {"name": "cosine_decay", "arguments": [0.5, 8, 0.1], "warmup": 3, "warmup_init": 0.05},
    {"name": "linear_schedule", "arguments": [0.5, 0.1, 6]},
    {"name": "linear_schedule", "arguments": [0.5, 0.1, 6], "warmup": 1},
    {"name": "exponential_decay", "arguments": [0.5, 0.9], "warmup": 2},
    {"name": "step_decay", "arguments": [0.5, 0.9, 3]},
]


def values(name: str, update: int) -> mx.array:
    """A parameter (update 0) or one of its gradients."""
    shape = SHAPES[name]
    count = math.prod(shape)
    return mx.array([math.sin(1.0 + 1.7 * i + 0.9 * update + len(name)) for i in range(count)]).reshape(shape)


def course(make) -> list[dict[str, list[float]]]:
    optimizer = make()
    parameters = {name: values(name, 0) for name in SHAPES}
    after = []
    for update in range(1, UPDATES + 1):
        parameters = optimizer.apply_gradients({name: values(name, update) for name in SHAPES}, parameters)
        mx.eval(parameters, optimizer.state)
        after.append({name: parameters[name].flatten().tolist() for name in SHAPES})
    return after


def main() -> int:
    optimizers = [
        {"case": case, "optimizer": name, "settings": settings, "after": course(make)}
        for case, (name, settings, make) in CASES.items()
    ]
    schedules = [
        {"lr_schedule": schedule, "learning_rates": [float(build_schedule(schedule)(mx.array(step))) for step in range(14)]}
        for schedule in SCHEDULES
    ]
    golden = {
        "mlx": mx.__version__,
        "learning_rate": LEARNING_RATE,
        "shapes": SHAPES,
        "optimizers": optimizers,
        "schedules": schedules,
    }
    OUT.write_text(json.dumps(golden, indent=1) + "\n")
    print(OUT)
    return 0


if __name__ == "__main__":
    sys.exit(main())
