"""Times LoRA training steps of Python mlx-lm and prints them as JSON on stdout.

What it proves: how fast mlx-lm's own trainer, with its compiled step and its own loss, does the
work that `diagnose verify training-speed` is timed on. The rows are taken in the order of the file,
so that the first loss of both programs is the loss of the same batch.

The JSON: first_loss, step_seconds (of every step, the first included), tokens_per_step,
peak_memory_bytes (as MLX counts it) and libraries (the BLAS files that are really loaded; Linux).
"""

import argparse
import contextlib
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.optimizers as optim
from mlx_lm.tuner.callbacks import TrainingCallback
from mlx_lm.tuner.trainer import TrainingArgs, train
from mlx_lm.tuner.utils import linear_to_lora_layers
from mlx_lm.utils import load_model

LEARNING_RATE = 1e-5


class Steps(TrainingCallback):
    def __init__(self) -> None:
        self.reports: list[dict[str, Any]] = []

    def on_train_loss_report(self, train_info: dict[str, Any]) -> None:
        self.reports.append(train_info)


def batches_in_order(
    dataset: list[list[int]], batch_size: int, **_: Any
) -> Iterator[tuple[mx.array, mx.array]]:
    while True:
        for start in range(0, len(dataset) - batch_size + 1, batch_size):
            rows = dataset[start : start + batch_size]
            yield mx.array(rows), mx.array([[0, len(row)] for row in rows])


def loaded_blas() -> list[str]:
    maps = Path("/proc/self/maps")
    if not maps.exists():
        return []
    paths = {line.split()[-1] for line in maps.read_text().splitlines() if "blas" in line.lower()}
    return sorted(Path(path).name for path in paths)


def measure(model_folder: Path, rows: list[list[int]], batch_size: int, steps: int, rank: int):
    model, _ = load_model(model_folder)
    model.freeze()
    linear_to_lora_layers(model, -1, {"rank": rank, "scale": 20.0, "dropout": 0.0})
    recorded = Steps()
    with tempfile.TemporaryDirectory() as temporary:
        train(
            model,
            optim.AdamW(learning_rate=LEARNING_RATE),
            rows,
            args=TrainingArgs(
                batch_size=batch_size,
                iters=steps,
                steps_per_report=1,
                steps_per_save=steps + 1,
                adapter_file=str(Path(temporary) / "adapters.safetensors"),
            ),
            iterate_batches=batches_in_order,
            training_callback=recorded,
        )
    return {
        "first_loss": recorded.reports[0]["train_loss"],
        "step_seconds": [1 / report["iterations_per_second"] for report in recorded.reports],
        "tokens_per_step": recorded.reports[0]["trained_tokens"],
        "peak_memory_bytes": mx.get_peak_memory(),
        "libraries": loaded_blas(),
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, required=True, help="a model folder")
    parser.add_argument("--ids", type=Path, required=True, help='JSON: {"rows": [[id, ...], ...]}')
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--sequence-length", type=int, default=128, help="trained tokens of a row")
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--rank", type=int, default=8)
    arguments = parser.parse_args()

    rows = json.loads(arguments.ids.read_text())["rows"]
    lengths = {len(row) for row in rows}
    if lengths != {arguments.sequence_length + 1}:
        print(f"error: expected rows of {arguments.sequence_length + 1} ids, found {lengths}")
        return 2
    # mlx-lm writes its progress to stdout.
    with contextlib.redirect_stdout(sys.stderr):
        result = measure(
            arguments.model, rows, arguments.batch_size, arguments.steps, arguments.rank
        )
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
