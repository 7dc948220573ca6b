"""Makes what goes wrong when people fine-tune with Python mlx-lm, and checks that `diagnose` tells each of them.

Every case is a real run of `mlx_lm lora`, or a real adapter of it that was changed as people change them. mlx-lm says
nothing about most of them, and crashes in some without naming the cause. The harmless ones must be left in peace. The model
is the tiny chat model in fixtures/embedded, trained for seconds; `--model` takes another one.

Exits with 0 when every case is told (or left in peace) with the right cause, 1 when one is not, 2 when one could not be
made. Run it with the python that scripts/peers/environment prints.
"""

import argparse
import json
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Callable

import numpy as np
from safetensors.numpy import load_file, save_file

ROOT = Path(__file__).resolve().parents[2]
MODEL = ROOT / "fixtures" / "embedded" / "model"
DATA = ROOT / "fixtures" / "embedded" / "voice"
WEIGHTS = "adapters.safetensors"
CONFIGURATION = "adapter_config.json"
LLAMA_2 = (
    "{% for message in messages %}{% if message['role'] == 'user' %}{{ '<s>[INST] ' + message['content'] + ' [/INST]' }}"
    "{% elif message['role'] == 'assistant' %}{{ ' ' + message['content'] + ' </s>' }}{% endif %}{% endfor %}"
)

Tensors = dict[str, np.ndarray]


@dataclass
class Case:
    """One situation: how it is made, and what must be said about it."""

    name: str
    make: Callable[["Maker"], "Situation"]
    # Any of these as a root cause; nothing means that the run must be healthy.
    causes: tuple[str, ...] = ()


@dataclass
class Situation:
    """What `diagnose` is given."""

    adapter: Path
    data: Path | None = None
    model: Path | None = None
    log: Path | None = None
    options: list[str] = field(default_factory=list)


class Maker:
    """Trains with mlx-lm, and keeps the adapter of the healthy run for the cases that change it."""

    def __init__(self, folder: Path, model: Path, steps: int) -> None:
        self.folder = folder
        self.model = model
        self.steps = steps
        self.rows = [json.loads(line) for line in (DATA / "train.jsonl").read_text().splitlines()]

    def data(self, name: str, rows: list[dict]) -> Path:
        folder = self.folder / f"{name}-data"
        folder.mkdir()
        # The same questions twice would be validation rows that were trained; every other row is validated.
        for part, kept in (("train", rows[::2]), ("valid", rows[1::2])):
            (folder / f"{part}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in kept))
        return folder

    def pairs(self, answer: Callable[[str], str]) -> list[dict]:
        pairs = [(row["messages"][0]["content"], row["messages"][1]["content"]) for row in self.rows]
        return [{"prompt": prompt, "completion": answer(text)} for prompt, text in pairs]

    def train(self, name: str, data: Path | None = None, model: Path | None = None, *options: str, **settings) -> Situation:
        """One run of mlx-lm; it may fail, as people's runs do."""
        adapter = self.folder / name
        log = self.folder / f"{name}.log"
        data = data or self.data(name, self.rows)
        settings = {"iters": self.steps, "learning-rate": 1e-4, "batch-size": 4, "num-layers": -1} | {
            key.replace("_", "-"): value for key, value in settings.items()
        }
        command = [sys.executable, "-m", "mlx_lm", "lora", "--train", "--model", model or self.model, "--data", data]
        command += ["--adapter-path", adapter, "--steps-per-report", 4, "--steps-per-eval", 20, *options]
        for key, value in settings.items():
            command += [f"--{key}", value]
        with log.open("w") as output:
            subprocess.run([str(part) for part in command], stdout=output, stderr=subprocess.STDOUT, check=False)
        return Situation(adapter, data, model, log)

    def healthy(self) -> Situation:
        adapter = self.folder / "control"
        if not adapter.exists():
            self.train("control", None, None, "--mask-prompt")
        return Situation(adapter, self.folder / "control-data", None, self.folder / "control.log")

    def changed(
        self,
        name: str,
        tensors: Callable[[Tensors], Tensors] = lambda tensors: tensors,
        configuration: Callable[[dict], None] = lambda configuration: None,
    ) -> Situation:
        """A copy of the healthy adapter with other tensors or another configuration."""
        healthy = self.healthy()
        adapter = self.folder / name
        adapter.mkdir()
        save_file(tensors(load_file(healthy.adapter / WEIGHTS)), adapter / WEIGHTS)
        written = json.loads((healthy.adapter / CONFIGURATION).read_text())
        configuration(written)
        (adapter / CONFIGURATION).write_text(json.dumps(written))
        return Situation(adapter, healthy.data)

    def with_template(self, name: str, template: str | None) -> Path:
        """The base with another chat template."""
        model = self.folder / f"{name}-model"
        shutil.copytree(self.model, model)
        settings = json.loads((model / "tokenizer_config.json").read_text())
        settings.pop("chat_template", None)
        (model / "chat_template.jinja").unlink(missing_ok=True)
        if template is not None:
            settings["chat_template"] = template
        (model / "tokenizer_config.json").write_text(json.dumps(settings))
        return model


def setting(*path: str, value: object) -> Callable[[dict], None]:
    def change(configuration: dict) -> None:
        for key in path[:-1]:
            configuration = configuration[key]
        configuration[path[-1]] = value

    return change


def half(tensors: Tensors) -> Tensors:
    return dict(list(tensors.items())[: len(tensors) // 2])


def renamed(tensors: Tensors) -> Tensors:
    return {f"base_model.{name}": tensor for name, tensor in tensors.items()}


def wider(tensors: Tensors) -> Tensors:
    return {
        name: np.concatenate([tensor, tensor]) if name.endswith("lora_a") else tensor for name, tensor in tensors.items()
    }


def cut(situation: Situation, size: int) -> Situation:
    path = situation.adapter / WEIGHTS
    path.write_bytes(path.read_bytes()[:size])
    return situation


def resumed(maker: Maker, name: str, change: Callable[[Tensors], Tensors]) -> Situation:
    earlier = maker.changed(f"{name}-earlier", change)
    return maker.train(name, None, None, "--mask-prompt", "--resume-adapter-file", str(earlier.adapter / WEIGHTS))


def llama_2(maker: Maker, name: str, train: bool) -> Situation:
    model = maker.with_template(name, LLAMA_2)
    if train:
        return maker.train(name, None, model)
    healthy = maker.healthy()
    return Situation(healthy.adapter, healthy.data, model)


def over_length(maker: Maker, name: str, *options: str) -> Situation:
    long = [
        {"prompt": " ".join([row["prompt"]] * 12), "completion": row["completion"]}
        for row in maker.pairs(lambda answer: answer)
    ]
    return maker.train(name, maker.data(name, long), None, *options, max_seq_length=48)


def lost(situation: Situation) -> Situation:
    (situation.adapter / WEIGHTS).unlink()
    return situation


CASES = [
    Case("control", lambda maker: maker.healthy()),
    Case(
        "learning-rate-zero",
        lambda maker: maker.train("learning-rate-zero", None, None, "--mask-prompt", learning_rate=0),
        ("adapter-never-moved",),
    ),
    Case(
        "learning-rate-one",
        lambda maker: maker.train("learning-rate-one", None, None, "--mask-prompt", learning_rate=1.0),
        ("training-diverged",),
    ),
    Case(
        "empty-completions",
        lambda maker: maker.train(
            "empty-completions", maker.data("empty-completions", maker.pairs(lambda _: "")), None, "--mask-prompt"
        ),
        ("labels-only-end-of-text",),
    ),
    Case(
        "end-token-as-completion",
        lambda maker: maker.train(
            "end-token-as-completion",
            maker.data("end-token-as-completion", maker.pairs(lambda _: "<|im_end|>")),
            None,
            "--mask-prompt",
        ),
        ("labels-only-end-of-text",),
    ),
    Case(
        "empty-completions-prompts-trained",
        lambda maker: maker.train(
            "empty-completions-prompts-trained",
            maker.data("empty-completions-prompts-trained", maker.pairs(lambda _: "")),
        ),
        ("labels-only-end-of-text",),
    ),
    Case(
        "empty-text-rows",
        lambda maker: maker.train("empty-text-rows", maker.data("empty-text-rows", [{"text": ""}] * 8)),
        ("data-unusable",),
    ),
    Case(
        "mixed-row-formats",
        lambda maker: maker.train(
            "mixed-row-formats",
            maker.data("mixed-row-formats", [{"text": "One line."}] * 4 + maker.pairs(lambda answer: answer)),
        ),
        ("data-unusable",),
    ),
    Case("resumed-from-other-names", lambda maker: resumed(maker, "resumed-from-other-names", renamed), ("resumed-adapter-not-loaded",)),
    Case("resumed-from-another-width", lambda maker: resumed(maker, "resumed-from-another-width", wider), ("resumed-adapter-not-loaded",)),
    Case("adapter-of-another-width", lambda maker: maker.changed("adapter-of-another-width", wider), ("finished-adapter-does-not-fit",)),
    Case(
        "rank-that-is-not-the-tensors",
        lambda maker: maker.changed("rank-that-is-not-the-tensors", configuration=setting("lora_parameters", "rank", value=16)),
        ("finished-adapter-misdescribed",),
    ),
    Case("more-layers-configured", lambda maker: maker.changed("more-layers-configured", configuration=setting("num_layers", value=99))),
    Case(
        "scale-lost",
        lambda maker: maker.changed("scale-lost", configuration=setting("lora_parameters", "scale", value=1.0)),
        ("adapter-too-weak",),
    ),
    Case("dora-by-name", lambda maker: maker.changed("dora-by-name", configuration=setting("fine_tune_type", value="dora"))),
    Case("another-base-by-name", lambda maker: maker.changed("another-base-by-name", configuration=setting("model", value="other/model"))),
    Case("half-of-the-tensors", lambda maker: maker.changed("half-of-the-tensors", half), ("finished-adapter-incomplete",)),
    Case("no-tensors", lambda maker: maker.changed("no-tensors", lambda _: {}), ("finished-adapter-incomplete",)),
    Case("cut-in-half", lambda maker: cut(maker.changed("cut-in-half"), 5000), ("finished-adapter-unreadable",)),
    Case("no-bytes", lambda maker: cut(maker.changed("no-bytes"), 0), ("finished-adapter-unreadable",)),
    Case("no-weight-file", lambda maker: lost(maker.changed("no-weight-file")), ("finished-adapter-unreadable",)),
    Case("asked-with-another-template", lambda maker: llama_2(maker, "asked-with-another-template", False), ("turn-end-not-a-token",)),
    Case("trained-with-a-foreign-template", lambda maker: llama_2(maker, "trained-with-a-foreign-template", True), ("turn-end-not-a-token",)),
    Case(
        "prompts-beyond-the-limit",
        lambda maker: over_length(maker, "prompts-beyond-the-limit", "--mask-prompt"),
        ("rows-cut",),
    ),
    Case("rows-beyond-the-limit", lambda maker: over_length(maker, "rows-beyond-the-limit"), ("rows-cut",)),
    Case(
        "not-a-number",
        lambda maker: maker.changed("not-a-number", lambda tensors: {name: tensor * np.nan for name, tensor in tensors.items()}),
        ("loss-not-finite",),
    ),
]


def judge(diagnose: Path, maker: Maker, name: str, situation: Situation) -> dict:
    out = maker.folder / f"{name}-report"
    command = [diagnose, "--model", situation.model or maker.model, "--data", situation.data]
    command += ["--adapter", situation.adapter, "--out", out, *situation.options]
    if situation.log is not None and " val " in situation.log.read_text():
        command += ["--log", situation.log]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
    report = out / "report.json"
    if not report.exists():
        raise RuntimeError(f"{name}: no report; {done.stderr.strip()}")
    return json.loads(report.read_text())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--diagnose", type=Path, required=True, help="the program")
    parser.add_argument("--model", type=Path, default=MODEL, help="the base (default: the tiny chat model)")
    parser.add_argument("--steps", type=int, default=40, help="iterations of each training")
    parser.add_argument("--out", type=Path, required=True, help="an empty folder for everything that is made")
    parser.add_argument("--only", default="", help="these cases, separated by commas")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    if any(arguments.out.iterdir()):
        parser.error(f"`{arguments.out}` is not empty")
    maker = Maker(arguments.out.resolve(), arguments.model.resolve(), arguments.steps)
    chosen = [case for case in CASES if not arguments.only or case.name in arguments.only.split(",")]
    wrong = 0
    for case in chosen:
        report = judge(arguments.diagnose.resolve(), maker, case.name, case.make(maker))
        roots = [
            finding["name"]
            for finding in report["findings"]
            if finding["explained_by"] is None and finding["severity"] != "info"
        ]
        right = roots[:1] and roots[0] in case.causes if case.causes else report["verdict"] == "healthy"
        wrong += not right
        expected = " or ".join(case.causes) or "healthy"
        print(f"{'ok   ' if right else 'WRONG'} {case.name}: {', '.join(roots) or report['verdict']} (expected {expected})", flush=True)
    print(f"{len(chosen) - wrong} passed, {wrong} failed")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
