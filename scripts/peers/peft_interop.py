"""Exchanges adapters with PEFT, and judges what transformers' Trainer leaves behind.

What it proves: an adapter that PEFT trained (LoRA, rank-stabilised, with patterns, DoRA) gives the same logits here and,
converted by `diagnose convert adapter`, in mlx-lm's format; an adapter of `diagnose` converted to PEFT's format gives the
same logits in PEFT; each within 1e-4 in float32. And `diagnose --log` tells a diverged, a flat and a NaN training by its
trainer_state.json, as JSON lines and as CSV, and leaves a healthy one in peace.

Needs a python with torch, transformers, peft and accelerate; says which is missing and exits with 0 where one is, since
they take gigabytes. Exits with 1 when something does not hold, 2 when it could not be made.
"""

import argparse
import csv
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

NEEDED = ("torch", "transformers", "peft", "accelerate")
ROOT = Path(__file__).resolve().parents[2]
MODEL = ROOT / "fixtures" / "embedded" / "model"
DATA = ROOT / "fixtures" / "embedded" / "voice"
INPUT_IDS = [1, 87, 72, 287, 3, 3, 142, 258, 64, 2, 200, 99]
# Both sides compute in float32 and sum in different orders.
TOLERANCE = 1e-4
# A few steps at these settings move the logits by tenths or more.
LEAST_CHANGE = 1e-2
EVERY_LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]

ADAPTERS = {
    "lora": {"r": 8, "lora_alpha": 160, "target_modules": EVERY_LINEAR},
    "rank-stabilised": {"r": 4, "lora_alpha": 16, "use_rslora": True, "target_modules": ["q_proj", "v_proj"]},
    "patterns": {
        "r": 8,
        "lora_alpha": 32,
        "target_modules": ["q_proj", "down_proj"],
        "rank_pattern": {"layers.1.mlp.down_proj": 4},
        "alpha_pattern": {"self_attn.q_proj": 64},
    },
    "some-blocks": {"r": 8, "lora_alpha": 80, "target_modules": ["v_proj"], "layers_to_transform": [0, 2]},
    "dora": {"r": 8, "lora_alpha": 80, "use_dora": True, "target_modules": EVERY_LINEAR},
}

TRAININGS = {
    "healthy": (1e-3, ()),
    "diverged": (0.3, ("training-diverged",)),
    "flat": (0.0, ("adapter-never-moved", "loss-not-decreasing")),
    "not-a-number": (1e-3, ("loss-not-finite",)),
}


class Check:
    """Counts what holds."""

    def __init__(self) -> None:
        self.passed = 0
        self.failed = 0

    def that(self, what: str, holds: bool, found: object = "") -> None:
        print(f"{'ok   ' if holds else 'WRONG'} {what}{f': {found}' if found != '' else ''}", flush=True)
        self.passed += holds
        self.failed += not holds


def run(*command: object) -> str:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
    if done.returncode not in (0, 1):
        raise RuntimeError(f"{' '.join(str(part) for part in command)}: {done.stderr.strip()}")
    return done.stdout


def logits_here(diagnose: Path, adapter: Path | None, out: Path) -> "torch.Tensor":
    import torch

    command = [diagnose, "verify", "logits", "--model", MODEL, "--ids", ",".join(map(str, INPUT_IDS)), "--out", out]
    run(*command, *(["--adapter", adapter] if adapter else []))
    stored = json.loads(out.read_text())
    return torch.tensor(stored["logits"]).reshape(stored["shape"])


def logits_of(model: "torch.nn.Module") -> "torch.Tensor":
    import torch

    with torch.no_grad():
        return model.eval()(torch.tensor([INPUT_IDS])).logits[0].float()


def base() -> "torch.nn.Module":
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32)


def examples() -> list[dict]:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    rows = [json.loads(line)["messages"] for line in (DATA / "train.jsonl").read_text().splitlines()]
    encoded = [tokenizer.apply_chat_template(row, tokenize=True, return_dict=True)["input_ids"] for row in rows]
    return [{"input_ids": ids, "labels": ids} for ids in encoded]


def train(out: Path, settings: dict, learning_rate: float, poison: bool = False) -> "torch.nn.Module":
    """A short run of transformers' Trainer, as people write it."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import DataCollatorForSeq2Seq, AutoTokenizer, Trainer, TrainingArguments, set_seed

    set_seed(0)
    model = get_peft_model(base(), LoraConfig(task_type="CAUSAL_LM", **settings))
    if poison:
        name, parameter = next((name, parameter) for name, parameter in model.named_parameters() if "lora_B" in name)
        parameter.register_hook(lambda gradient: gradient * torch.nan)
    arguments = TrainingArguments(
        output_dir=str(out / "checkpoints"),
        per_device_train_batch_size=4,
        max_steps=24,
        learning_rate=learning_rate,
        lr_scheduler_type="constant",
        max_grad_norm=0.0 if poison else 1e9,
        logging_steps=2,
        logging_nan_inf_filter=False,
        save_strategy="no",
        report_to=[],
        use_cpu=True,
    )
    collator = DataCollatorForSeq2Seq(AutoTokenizer.from_pretrained(MODEL), label_pad_token_id=-100)
    trainer = Trainer(model=model, args=arguments, train_dataset=examples(), data_collator=collator)
    trainer.train()
    out.mkdir(parents=True, exist_ok=True)
    trainer.state.save_to_json(str(out / "trainer_state.json"))
    model.save_pretrained(out)
    return model


def exchange(check: Check, diagnose: Path, out: Path) -> None:
    untouched = logits_of(base())
    for name, settings in ADAPTERS.items():
        folder = out / name
        model = train(folder, settings, 1e-3)
        expected = logits_of(model)
        moved = (expected - untouched).abs().max().item()
        read = (logits_here(diagnose, folder, out / "logits.json") - expected).abs().max().item()
        check.that(f"{name}: an adapter of PEFT is read", moved > LEAST_CHANGE and read < TOLERANCE, f"{read:.1e} of {moved:.1f}")
        converted = out / f"{name}-mlx-lm"
        run(diagnose, "convert", "adapter", folder, "--to", "mlx-lm", "--out", converted, "--model", MODEL)
        there = (logits_here(diagnose, converted, out / "logits.json") - expected).abs().max().item()
        check.that(f"{name}: converted to mlx-lm", there < TOLERANCE, f"{there:.1e}")
        check.that(f"{name}: converted back to PEFT", came_back(diagnose, converted, out / f"{name}-back", expected) < TOLERANCE)


def came_back(diagnose: Path, converted: Path, folder: Path, expected: "torch.Tensor") -> float:
    from peft import PeftModel

    run(diagnose, "convert", "adapter", converted, "--to", "peft", "--out", folder)
    return (logits_of(PeftModel.from_pretrained(base(), folder)) - expected).abs().max().item()


def own_adapter(check: Check, diagnose: Path, out: Path) -> None:
    run(diagnose, "--model", MODEL, "--data", DATA, "--steps", 12, "--out", out / "own")
    expected = logits_here(diagnose, out / "own" / "adapter", out / "logits.json")
    difference = came_back(diagnose, out / "own" / "adapter", out / "own-peft", expected)
    check.that("an adapter of this program, converted to PEFT", difference < TOLERANCE, f"{difference:.1e}")


def as_other_formats(state: Path) -> dict[str, Path]:
    """The same history as JSON lines and as CSV."""
    history = [record for record in json.loads(state.read_text())["log_history"] if "train_runtime" not in record]
    lines = state.with_suffix(".jsonl")
    lines.write_text("".join(json.dumps(record) + "\n" for record in history))
    table = state.with_suffix(".csv")
    with table.open("w", newline="") as file:
        writer = csv.DictWriter(file, ["step", "loss", "grad_norm", "learning_rate"], extrasaction="ignore")
        writer.writeheader()
        writer.writerows(history)
    return {"trainer_state.json": state, "JSON lines": lines, "CSV": table}


def logs(check: Check, diagnose: Path, out: Path) -> None:
    healthy = out / "training-healthy"
    for name, (learning_rate, causes) in TRAININGS.items():
        folder = out / f"training-{name}"
        train(folder, ADAPTERS["lora"], learning_rate, name == "not-a-number")
        for form, log in as_other_formats(folder / "trainer_state.json").items():
            # The healthy adapter for all of them: only the log can tell.
            report = json.loads(
                run(
                    *(diagnose, "--model", MODEL, "--data", DATA, "--adapter", healthy, "--log", log),
                    *("--no-mask-prompt", "--format", "json"),
                )
            )
            found = [
                finding["name"]
                for finding in report["findings"]
                if finding["explained_by"] is None and finding["severity"] != "info"
            ]
            right = bool(set(found[:1]) & set(causes)) if causes else report["verdict"] == "healthy"
            check.that(f"{name}, {form}", right, ", ".join(found) or report["verdict"])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--diagnose", type=Path, required=True, help="the program")
    parser.add_argument("--out", type=Path, required=True, help="an empty folder for everything that is made")
    arguments = parser.parse_args()
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        print(f"skipped: this python lacks {', '.join(missing)}")
        return 0
    arguments.out.mkdir(parents=True, exist_ok=True)
    if any(arguments.out.iterdir()):
        parser.error(f"`{arguments.out}` is not empty")
    check = Check()
    diagnose, out = arguments.diagnose.resolve(), arguments.out.resolve()
    exchange(check, diagnose, out)
    own_adapter(check, diagnose, out)
    logs(check, diagnose, out)
    print(f"{check.passed} passed, {check.failed} failed")
    return 1 if check.failed else 0


if __name__ == "__main__":
    sys.exit(main())
