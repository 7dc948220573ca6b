"""Lets `diagnose --trainer` train with Python mlx-lm, whole and broken, and checks that it names what is broken.

The whole one is the preset `mlx-lm` and must be left in peace: no error and no warning. The broken ones are mlx-lm with one
thing changed inside it (`broken_mlx_lm.py` beside this file), while the data and the settings it is given are right. The
model is the tiny chat model in fixtures/embedded, trained for seconds; `--model` takes another one, such as the folder that
`smollm2_folder.py` makes.

Exits with 0 when every trainer is told (or left in peace) with the right cause, 1 when one is not, 2 when there was no
report. Run it with the python that scripts/peers/environment prints.
"""

import argparse
import json
import os
import shlex
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

PEERS = Path(__file__).resolve().parent
ROOT = PEERS.parents[1]
MODEL = ROOT / "fixtures" / "embedded" / "model"
DATA = ROOT / "fixtures" / "embedded" / "voice"
# What the preset asks of mlx-lm, asked of the broken one.
ARGUMENTS = (
    "--train --model {model} --data {data} --adapter-path {output} --iters {steps} --learning-rate {learning_rate} "
    "--batch-size {batch_size} --max-seq-length {max_seq_length} --seed {seed} --num-layers {layers} "
    "--steps-per-report 1 --steps-per-eval {steps} --config {settings}"
)


@dataclass
class Trainer:
    """One trainer, and the root causes of which the first must be one; none means that nothing may be held against it."""

    name: str
    causes: tuple[str, ...] = ()

    def command(self) -> str:
        if self.name == "mlx-lm":
            return self.name
        return f"{shlex.join([sys.executable, str(PEERS / 'broken_mlx_lm.py'), self.name])} -- {ARGUMENTS}"


TRAINERS = [
    Trainer("mlx-lm"),
    Trainer("learning-rate-zero", ("adapter-never-moved",)),
    Trainer("empty-file", ("finished-adapter-incomplete",)),
    Trainer("half-of-the-tensors", ("finished-adapter-incomplete",)),
    Trainer("first-blocks-lost", ("finished-adapter-incomplete",)),
    # The rows that `diagnose` reads have their ends, so no rule about the data may take the blame.
    Trainer("no-end-of-text", ("ends-not-trained",)),
    Trainer("base-not-frozen", ("base-not-frozen",)),
]


def judge(arguments: argparse.Namespace, trainer: Trainer) -> dict:
    out = arguments.out / trainer.name
    command = [arguments.diagnose.resolve(), "--model", arguments.model.resolve(), "--data", arguments.data.resolve()]
    command += ["--trainer", trainer.command(), "--out", out, "--steps", arguments.steps, "--batch-size", 4]
    command += ["--learning-rate", arguments.learning_rate]
    if arguments.layers is not None:
        command += ["--layers", arguments.layers]
    # The preset takes the first python3 that it finds.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, check=False, env=os.environ | {"PATH": path}
    )
    report = out / "report.json"
    if not report.exists():
        print(f"{trainer.name}: no report; {done.stderr.strip()}", file=sys.stderr)
        sys.exit(2)
    return json.loads(report.read_text())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--diagnose", type=Path, required=True, help="the program")
    parser.add_argument("--model", type=Path, default=MODEL, help="the base (default: the tiny chat model)")
    parser.add_argument("--data", type=Path, default=DATA, help="a folder with the rows (default: those of the tiny model)")
    parser.add_argument("--steps", type=int, default=20, help="steps of each training (default: 20)")
    parser.add_argument("--learning-rate", type=float, default=1e-4, help="of each training (default: 1e-4)")
    parser.add_argument("--layers", type=int, help="blocks that get adapters, counted from the last (default: all)")
    parser.add_argument("--out", type=Path, required=True, help="an empty folder for everything that is made")
    parser.add_argument("--only", default="", help="these trainers, separated by commas")
    arguments = parser.parse_args()
    arguments.out = arguments.out.resolve()
    arguments.out.mkdir(parents=True, exist_ok=True)
    if any(arguments.out.iterdir()):
        parser.error(f"`{arguments.out}` is not empty")
    names = arguments.only.split(",") if arguments.only else [trainer.name for trainer in TRAINERS]
    unknown = sorted(set(names) - {trainer.name for trainer in TRAINERS})
    if unknown:
        parser.error(f"no trainer `{unknown[0]}`; there are {', '.join(trainer.name for trainer in TRAINERS)}")
    chosen = [trainer for trainer in TRAINERS if trainer.name in names]
    wrong = 0
    for trainer in chosen:
        began = time.monotonic()
        report = judge(arguments, trainer)
        roots = [
            finding["name"]
            for finding in report["findings"]
            if finding["explained_by"] is None and finding["severity"] != "info"
        ]
        right = roots[:1] and roots[0] in trainer.causes if trainer.causes else report["verdict"] == "healthy" and not roots
        wrong += not right
        expected = " or ".join(trainer.causes) or "healthy"
        print(
            f"{'ok   ' if right else 'WRONG'} {trainer.name}: {', '.join(roots) or report['verdict']} "
            f"(expected {expected}; {time.monotonic() - began:.0f} s)",
            flush=True,
        )
    print(f"{len(chosen) - wrong} passed, {wrong} failed")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
