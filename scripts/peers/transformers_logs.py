"""Trains with transformers' own Trainer, well and badly, and checks what `diagnose --log` says of the logs alone.

Each run is a real one on the tiny chat model in fixtures/embedded: its `trainer_state.json`, what it printed, and a file of
JSON lines written by a callback are judged. A run that learns must be left in peace; one with a learning rate of 0, one with
a far too high one and one whose loss is lost must be told by every log, each with its cause.

Exits with 0 when every log is told right, 1 when one is not, 2 when a run could not be made. Run it with a python that has
torch, transformers and accelerate.
"""

import argparse
import contextlib
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer, TrainerCallback, TrainingArguments

ROOT = Path(__file__).resolve().parents[2]
MODEL = ROOT / "fixtures" / "embedded" / "model"
DATA = ROOT / "fixtures" / "embedded" / "voice" / "train.jsonl"


@dataclass
class Run:
    """One training: its learning rate, and the root cause of which its logs must tell; none for a healthy one."""

    name: str
    learning_rate: float
    cause: str | None
    loses_numbers: bool = False


RUNS = [
    Run("healthy", 5e-4, None),
    Run("flat", 0.0, "loss-not-decreasing"),
    Run("diverged", 1.0, "training-diverged"),
    Run("lost", 5e-4, "loss-not-finite", loses_numbers=True),
]


class LosingTrainer(Trainer):
    """Loses its loss from the sixth step on, as with a batch without a target."""

    def compute_loss(self, *arguments: object, **keywords: object) -> torch.Tensor:
        loss = super().compute_loss(*arguments, **keywords)
        is_pair = isinstance(loss, tuple)
        value = loss[0] if is_pair else loss
        if self.state.global_step >= 5:
            value = value * float("nan")
        return (value, *loss[1:]) if is_pair else value


class JsonLines(TrainerCallback):
    """Writes what the Trainer logs, one object on each line."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_log(self, _arguments: object, state: object, _control: object, logs: dict | None = None, **_: object) -> None:
        with self.path.open("a") as file:
            file.write(json.dumps({"step": state.global_step, **(logs or {})}) + "\n")


def train(run: Run, folder: Path, steps: int) -> dict[str, Path]:
    """The logs of one run, by kind."""
    folder.mkdir()
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    model = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32)
    rows = []
    for line in DATA.read_text().splitlines():
        messages = json.loads(line)["messages"]
        ids = tokenizer(tokenizer.apply_chat_template(messages, tokenize=False), add_special_tokens=False)["input_ids"]
        rows.append({"input_ids": ids, "labels": ids, "attention_mask": [1] * len(ids)})
    longest = max(len(row["input_ids"]) for row in rows)
    fillers = {"input_ids": 0, "labels": -100, "attention_mask": 0}

    def collate(batch: list[dict]) -> dict[str, torch.Tensor]:
        return {
            name: torch.tensor([row[name] + [filler] * (longest - len(row[name])) for row in batch])
            for name, filler in fillers.items()
        }

    printed, lines = folder / "printed.log", folder / "log.jsonl"
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=steps,
        per_device_train_batch_size=4,
        learning_rate=run.learning_rate,
        lr_scheduler_type="constant",
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_steps=steps,
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
        seed=0,
    )
    trainer_class = LosingTrainer if run.loses_numbers else Trainer
    trainer = trainer_class(
        model=model, args=arguments, train_dataset=rows, data_collator=collate, callbacks=[JsonLines(lines)]
    )
    with printed.open("w") as output, contextlib.redirect_stdout(output):
        trainer.train()
    trainer.save_state()
    return {"trainer_state.json": folder / "trainer_state.json", "what it printed": printed, "JSON lines": lines}


def judge(diagnose: Path, log: Path) -> list[str]:
    """The root causes that `diagnose` names."""
    done = subprocess.run(
        [str(diagnose), "--log", str(log), "--format", "json"], capture_output=True, text=True, check=False
    )
    if not done.stdout:
        raise RuntimeError(f"no report on {log}: {done.stderr.strip()}")
    report = json.loads(done.stdout)
    return [finding["name"] for finding in report["findings"] if finding["root"] and finding["severity"] != "info"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--diagnose", type=Path, required=True, help="the program")
    parser.add_argument("--steps", type=int, default=20, help="steps of each training")
    parser.add_argument("--out", type=Path, required=True, help="an empty folder for everything that is made")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    if any(arguments.out.iterdir()):
        parser.error(f"`{arguments.out}` is not empty")
    wrong = 0
    for run in RUNS:
        logs = train(run, arguments.out / run.name, arguments.steps)
        for kind, log in logs.items():
            try:
                roots = judge(arguments.diagnose.resolve(), log)
            except RuntimeError as error:
                print(f"error: {error}", file=sys.stderr)
                return 2
            right = roots == ([run.cause] if run.cause else [])
            wrong += not right
            told = ", ".join(roots) or "nothing"
            print(f"{'ok   ' if right else 'WRONG'} {run.name}, {kind}: {told} (expected {run.cause or 'nothing'})", flush=True)
    print(f"{len(RUNS) * 3 - wrong} passed, {wrong} failed")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
