"""Asks Python mlx-lm's generator and server in the ways in which people ask them, and checks what `diagnose` says.

Every case is a real run of `diagnose --generator`: mlx-lm as it is, mlx-lm without the adapter, without the chat template,
with an adapter on a base that has it already, without end tokens, with a high temperature, as a server, behind a trainer
that is broken, and not there at all. The two-by-two must name the side that holds the fault, and the rule the cause. The
model is the tiny chat model in fixtures/embedded; `--model` takes another one.

Exits with 0 when every case is told right, 1 when one is not, 2 when one could not be made. Run it with the python that
scripts/peers/environment prints.
"""

import argparse
import json
import os
import shlex
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Iterator

ROOT = Path(__file__).resolve().parents[2]
MODEL = ROOT / "fixtures" / "embedded" / "model"
DATA = ROOT / "fixtures" / "embedded" / "voice"
PYTHON = shlex.quote(sys.executable)
GENERATE = f"{PYTHON} -m mlx_lm generate --model {{model}} --prompt {{prompt}} --max-tokens {{max_tokens}}"
WITH_ADAPTER = f"{GENERATE} --adapter-path {{adapter}}"
TRAIN = (
    f"{PYTHON} -m mlx_lm lora --train --model {{model}} --data {{data}} --adapter-path {{output}} --iters {{steps}} "
    "--batch-size {batch_size} --seed {seed} --num-layers {layers} --steps-per-report 1 --config {settings}"
)
# Answers on behind the end of a turn, as a generator does that knows no end token.
ENDLESS = (
    f"{PYTHON} -c 'import sys; from mlx_lm import load, generate; model, tokenizer = load(sys.argv[1], adapter_path=sys.argv[2]); "
    'tokenizer.eos_token_ids = set(); text = tokenizer.apply_chat_template([{"role": "user", "content": sys.argv[3]}], '
    "add_generation_prompt=True); print(generate(model, tokenizer, text, max_tokens=int(sys.argv[4])))' "
    "{model} {adapter} {prompt} {max_tokens}"
)
# Without a template the tiny model ends a whole question at once; a sentence that is not done makes it go on.
UNFINISHED = [
    "Tell me where Tom lives. He lives in the",
    "The Red Star is a boat in the harbour, and the captain",
    "In winter the sea is grey and",
    "What does Finn do? Finn is",
    "The doctor of Lantern Bay is",
    "Where does the old sailor",
]
SERVER_STARTS_WITHIN = 60


@dataclass
class Case:
    """One situation: the options of `diagnose`, and what must be said about it."""

    name: str
    options: list[str]
    side: str | None
    # The rule of the generator that must be found; nothing means that none may be.
    cause: str | None = None
    # Options of the server to start; nothing means that there is none.
    server: Callable[[Path], list[str]] | None = None
    needs_adapter: bool = False
    severity: str = "error"
    # Asked in the place of the program's own.
    prompts: list[str] | None = None


CASES = [
    Case("as-it-is", ["--generator", "mlx-lm"], "neither"),
    Case("with-its-figures-printed", ["--generator", WITH_ADAPTER], "neither"),
    Case("without-its-adapter", ["--generator", GENERATE], "generation", "generator-without-adapter"),
    Case(
        "without-its-template",
        ["--generator", f"{WITH_ADAPTER} --ignore-chat-template"],
        "generation",
        "generator-asks-differently",
        prompts=UNFINISHED,
    ),
    Case("without-end-tokens", ["--generator", ENDLESS], "generation", "generator-does-not-stop"),
    Case(
        "with-a-high-temperature",
        ["--generator", f"{WITH_ADAPTER} --temp 3"],
        "generation",
        "generator-disagrees",
        severity="info",
    ),
    Case("not-there", ["--generator", "no-such-generator {prompt}"], None, "generator-failed"),
    Case(
        "behind-mlx-lm-without-its-adapter",
        ["--trainer", TRAIN + " --learning-rate {learning_rate}", "--generator", GENERATE],
        "generation",
        "generator-without-adapter",
    ),
    Case(
        "behind-mlx-lm",
        ["--trainer", TRAIN + " --learning-rate {learning_rate}", "--generator", WITH_ADAPTER],
        "neither",
    ),
    Case(
        "behind-a-trainer-that-does-not-learn",
        ["--trainer", TRAIN + " --learning-rate 0", "--generator", WITH_ADAPTER],
        "training",
    ),
    Case(
        "both-broken",
        ["--trainer", TRAIN + " --learning-rate 0", "--generator", GENERATE],
        "both",
        "generator-without-adapter",
    ),
    Case(
        "a-server-with-the-adapter",
        [],
        "neither",
        server=lambda adapter: ["--adapter-path", str(adapter)],
        needs_adapter=True,
    ),
    Case(
        "a-server-without-the-adapter",
        [],
        "generation",
        "generator-without-adapter",
        server=lambda _: [],
        needs_adapter=True,
    ),
    Case(
        "an-adapter-on-the-fused-model",
        ["--generator", GENERATE.replace("{model}", "FUSED") + " --adapter-path {adapter}"],
        "generation",
        "generator-counts-adapter-twice",
        needs_adapter=True,
    ),
]


class Maker:
    """Runs `diagnose`; trains the adapter that some cases need with mlx-lm, once."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.diagnose = arguments.diagnose.resolve()
        self.folder = arguments.out.resolve()
        self.model = arguments.model.resolve()
        self.data = arguments.data.resolve()
        self.steps = arguments.steps
        self.learning_rate = arguments.learning_rate
        self.options = shlex.split(arguments.options)

    def adapter(self) -> Path:
        adapter = self.folder / "adapter"
        if not adapter.exists():
            command = [sys.executable, "-m", "mlx_lm", "lora", "--train", "--model", str(self.model), "--data", str(self.data)]
            command += ["--adapter-path", str(adapter), "--iters", str(self.steps), "--learning-rate", str(self.learning_rate)]
            subprocess.run([*command, "--num-layers", "-1", "--mask-prompt"], check=True, capture_output=True)
        return adapter

    def fused(self) -> Path:
        fused = self.folder / "fused"
        if not fused.exists():
            command = [sys.executable, "-m", "mlx_lm", "fuse", "--model", str(self.model), "--adapter-path", str(self.adapter())]
            subprocess.run([*command, "--save-path", str(fused)], check=True, capture_output=True)
        return fused

    def report(self, case: Case) -> dict:
        out = self.folder / case.name
        command = [str(self.diagnose), "--model", str(self.model), "--data", str(self.data), "--out", str(out), *self.options]
        options = list(case.options)
        if case.prompts:
            prompts = self.folder / f"{case.name}.txt"
            prompts.write_text("".join(f"{prompt}\n" for prompt in case.prompts))
            command += ["--prompts", str(prompts)]
        if case.needs_adapter:
            command += ["--adapter", str(self.adapter())]
            options = [option.replace("FUSED", shlex.quote(str(self.fused()))) if "FUSED" in option else option for option in options]
        else:
            command += ["--steps", str(self.steps), "--learning-rate", str(self.learning_rate)]
        if case.server is None:
            return self.run(case, [*command, *options], out)
        with server(self.model, case.server(self.adapter())) as address:
            return self.run(case, [*command, *options, "--generator", address], out)

    def run(self, case: Case, command: list[str], out: Path) -> dict:
        # The preset calls the python3 of the path.
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | {"PATH": path})
        report = out / "report.json"
        if not report.exists():
            raise RuntimeError(f"{case.name}: no report; {done.stderr.strip()}")
        return json.loads(report.read_text())


@contextmanager
def server(model: Path, options: list[str]) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlx_lm", "server", "--model", str(model), "--port", str(port), *options]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    address = f"http://127.0.0.1:{port}"
    try:
        wait_for(address, process)
        yield address
    finally:
        process.terminate()
        process.wait()


def wait_for(address: str, process: subprocess.Popen) -> None:
    begun = time.monotonic()
    while time.monotonic() - begun < SERVER_STARTS_WITHIN:
        if process.poll() is not None:
            raise RuntimeError(f"mlx_lm server ended with {process.returncode}")
        try:
            urllib.request.urlopen(f"{address}/health", timeout=5).read()
            return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    raise RuntimeError("mlx_lm server did not start")


def wrong_because(case: Case, report: dict) -> str | None:
    """What is wrong about a report; nothing when it is right."""
    side = report["swap"]["side"]
    if side != case.side:
        return f"side {side}, expected {case.side}"
    told = {finding["name"]: finding["severity"] for finding in report["findings"] if finding["code"].startswith("GEN")}
    told = {name: severity for name, severity in told.items() if name.startswith("generator-")}
    expected = {case.cause: case.severity} if case.cause else {}
    return None if told == expected else f"found {told}, expected {expected}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--diagnose", type=Path, required=True, help="the program")
    parser.add_argument("--model", type=Path, default=MODEL, help="the base (default: the tiny chat model)")
    parser.add_argument("--data", type=Path, default=DATA, help="the rows (default: the tiny model's pirate voice)")
    parser.add_argument("--steps", type=int, default=40, help="steps of each training")
    parser.add_argument("--learning-rate", type=float, default=2e-4, help="of each training")
    parser.add_argument("--options", default="", help="further options of diagnose, for example '--max-tokens 24'")
    parser.add_argument("--out", type=Path, required=True, help="an empty folder for everything that is made")
    parser.add_argument("--only", default="", help="these cases, separated by commas")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    if any(arguments.out.iterdir()):
        parser.error(f"`{arguments.out}` is not empty")
    maker = Maker(arguments)
    chosen = [case for case in CASES if not arguments.only or case.name in arguments.only.split(",")]
    wrong = 0
    for case in chosen:
        begun = time.monotonic()
        try:
            report = maker.report(case)
        except (RuntimeError, subprocess.CalledProcessError) as error:
            print(f"error: {case.name} could not be made: {error}", file=sys.stderr)
            return 2
        reason = wrong_because(case, report)
        wrong += reason is not None
        told = reason or f"{case.side}, {case.cause or 'nothing against the generator'}"
        print(f"{'WRONG' if reason else 'ok   '} {case.name}: {told} ({time.monotonic() - begun:.0f} s)", flush=True)
    print(f"{len(chosen) - wrong} passed, {wrong} failed")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
