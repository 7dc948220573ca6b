"""Exchanges LoRA adapters between Python mlx-lm and this project, in both directions.

What it proves: an adapter that `mlx_lm.lora` trained and saved gives the same logits here, and an
adapter that `diagnose` trained and saved is accepted by mlx-lm's own strict loader and gives the
same logits there, each within 1e-4 for a tiny llama in float32. So that two untouched models
cannot agree by accident, the adapter must also have moved the logits.

Exits with 0 when every exchange holds, 1 when one does not, 2 when one could not be made. Run it with the python that
scripts/peers/environment prints.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import yaml
from mlx.utils import tree_flatten
from mlx_lm.tuner.utils import linear_to_lora_layers
from mlx_lm.utils import load, load_model

MODEL = Path(__file__).resolve().parents[2] / "fixtures" / "golden" / "tiny" / "llama"
INPUT_IDS = [1, 87, 72, 287, 3, 3, 142, 258, 64, 2, 200, 99]
# Both sides compute in float32 and sum in different orders.
TOLERANCE = 1e-4
# A few steps at these settings move the logits by tenths or more.
LEAST_CHANGE = 1e-2
STEPS = 8
BATCH_SIZE = 2
LEARNING_RATE = 1e-4

ROWS = [
    {"prompt": "Where does the river start?", "completion": "In the hills north of the town."},
    {"prompt": "Who mends the nets?", "completion": "The two sisters at the pier."},
    {"prompt": "What is in the red box?", "completion": "Nails, and one key for the gate."},
    {"prompt": "When is the market open?", "completion": "On Friday, until the bell rings."},
    {"prompt": "Why is the bridge closed?", "completion": "Ice took away a beam in March."},
    {"prompt": "How far is the mill?", "completion": "Half an hour on foot."},
    {"prompt": "Which boat is yours?", "completion": "The small one with the torn sail."},
    {"prompt": "Can the old dog swim?", "completion": "Yes, and better than the young one."},
]


@dataclass
class Training:
    """What mlx-lm is asked to train."""

    name: str
    num_layers: int
    lora_parameters: dict[str, Any]


TRAININGS = [
    Training("all linear layers", -1, {"rank": 8, "scale": 20.0, "dropout": 0.0}),
    Training(
        "q and v of the last block",
        1,
        {
            "keys": ["self_attn.q_proj", "self_attn.v_proj"],
            "rank": 2,
            "scale": 10.0,
            "dropout": 0.0,
        },
    ),
]


@dataclass
class Exchange:
    name: str
    difference: float
    change: float

    @property
    def holds(self) -> bool:
        return self.difference <= TOLERANCE and self.change >= LEAST_CHANGE


def run(command: list[str], accepted: tuple[int, ...] = (0,)) -> None:
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode not in accepted:
        raise RuntimeError(
            f"exit code {result.returncode} of: {' '.join(command)}\n{result.stdout}{result.stderr}"
        )


def float32_copy(source: Path, target: Path) -> None:
    shutil.copytree(source, target)
    for file in source.glob("model*.safetensors"):
        weights = {name: value.astype(mx.float32) for name, value in mx.load(str(file)).items()}
        mx.save_safetensors(str(target / file.name), weights, {"format": "pt"})
    config = json.loads((target / "config.json").read_text())
    (target / "config.json").write_text(json.dumps(config | {"torch_dtype": "float32"}))


def mlx_lm_logits(model_folder: Path, adapter: Path | None = None) -> np.ndarray:
    model, _ = load(str(model_folder), adapter_path=str(adapter) if adapter else None)
    return np.array(model(mx.array([INPUT_IDS]))[0])


def diagnose_logits(
    diagnose: Path, model_folder: Path, adapter: Path | None, folder: Path
) -> np.ndarray:
    output = folder / "logits.json"
    command = [str(diagnose), "verify", "logits", "--model", str(model_folder)]
    if adapter:
        command += ["--adapter", str(adapter)]
    command += ["--ids", ",".join(map(str, INPUT_IDS)), "--out", str(output)]
    run(command)
    dumped = json.loads(output.read_text())
    return np.array(dumped["logits"], dtype=np.float32).reshape(dumped["shape"])


def exchange(
    name: str, diagnose: Path, model_folder: Path, adapter: Path, folder: Path
) -> Exchange:
    there = mlx_lm_logits(model_folder, adapter)
    here = diagnose_logits(diagnose, model_folder, adapter, folder)
    if here.shape != there.shape:
        raise RuntimeError(f"{name}: found logits of shape {here.shape}, expected {there.shape}")
    base = mlx_lm_logits(model_folder)
    return Exchange(name, np.abs(here - there).max(), np.abs(there - base).max())


def train_with_mlx_lm(training: Training, model_folder: Path, data: Path, folder: Path) -> Path:
    adapter = folder / "adapter"
    settings = folder / "lora.yaml"
    settings.write_text(yaml.safe_dump({"lora_parameters": training.lora_parameters}))
    command = [sys.executable, "-m", "mlx_lm", "lora", "--train", "--mask-prompt"]
    command += ["--model", str(model_folder), "--data", str(data), "--adapter-path", str(adapter)]
    command += ["--config", str(settings), "--num-layers", str(training.num_layers)]
    command += ["--iters", str(STEPS), "--batch-size", str(BATCH_SIZE), "--seed", "1"]
    command += ["--learning-rate", str(LEARNING_RATE)]
    run(command)
    return adapter


def train_with_diagnose(diagnose: Path, model_folder: Path, data: Path, folder: Path) -> Path:
    """A random model answers nonsense, so findings (exit code 1) are expected here."""
    out = folder / "out"
    command = [str(diagnose), "--model", str(model_folder), "--data", str(data), "--out", str(out)]
    command += ["--steps", str(STEPS), "--batch-size", str(BATCH_SIZE)]
    command += ["--learning-rate", str(LEARNING_RATE), "--max-tokens", "4"]
    run(command, accepted=(0, 1))
    return out / "adapter"


def check_names(adapter: Path, model_folder: Path) -> None:
    """mlx-lm accepts a file that lacks some tensors; this does not."""
    config = json.loads((adapter / "adapter_config.json").read_text())
    model, _ = load_model(model_folder)
    model.freeze()
    linear_to_lora_layers(model, config["num_layers"], config["lora_parameters"])
    expected = {name for name, _ in tree_flatten(model.trainable_parameters())}
    found = set(mx.load(str(adapter / "adapters.safetensors")))
    if found != expected:
        raise RuntimeError(
            f"tensors of the adapter: missing {sorted(expected - found)}, "
            f"unexpected {sorted(found - expected)}"
        )


def exchanges(diagnose: Path, model: Path, root: Path) -> list[Exchange]:
    model_folder = root / "model"
    float32_copy(model, model_folder)
    data = root / "data"
    data.mkdir()
    (data / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))

    results = []
    for number, training in enumerate(TRAININGS):
        folder = root / f"mlx-lm-{number}"
        folder.mkdir()
        adapter = train_with_mlx_lm(training, model_folder, data, folder)
        name = f"mlx-lm -> diagnose, {training.name}"
        results.append(exchange(name, diagnose, model_folder, adapter, folder))

    folder = root / "diagnose"
    folder.mkdir()
    adapter = train_with_diagnose(diagnose, model_folder, data, folder)
    check_names(adapter, model_folder)
    results.append(exchange("diagnose -> mlx-lm", diagnose, model_folder, adapter, folder))
    return results


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--diagnose", type=Path, required=True, help="the program to check")
    parser.add_argument("--model", type=Path, default=MODEL, help="the tiny model folder")
    arguments = parser.parse_args()
    mx.set_default_device(mx.cpu)

    try:
        with tempfile.TemporaryDirectory(prefix="adapter-interop.") as temporary:
            results = exchanges(arguments.diagnose.resolve(), arguments.model, Path(temporary))
    except (OSError, RuntimeError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{'adapter':<48} {'largest difference':>18} {'change from base':>18}")
    for result in results:
        verdict = "ok" if result.holds else "FAILED"
        print(f"{result.name:<48} {result.difference:>18.2e} {result.change:>18.2e}  {verdict}")
    print(
        f"expected: a difference of at most {TOLERANCE:.0e}, a change of at least {LEAST_CHANGE:.0e}"
    )
    return 0 if all(result.holds for result in results) else 1


if __name__ == "__main__":
    sys.exit(main())
