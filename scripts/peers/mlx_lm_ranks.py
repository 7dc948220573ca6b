"""Trains with Python mlx-lm in two and four processes, as it is and broken, and checks what `diagnose --log` says of the records.

Every case is a real run of mlx-lm's LoRA trainer on MLX's ring, recorded by examples/record_ranks.py. As it is, mlx-lm lets every
process's mean count the same, which must be named where the processes have different numbers of targets, and nothing else. Broken
ones leave out the average, add up without dividing, give every process the same rows, begin with values of their own, or wait in
one process; each must be named. The model is the tiny chat model in fixtures/embedded.

Exits with 0 when every case is told right, 1 when one is not, 2 when one could not be made. Run it with the python that
scripts/peers/environment prints.
"""

import argparse
import json
import os
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
RECORDER = ROOT / "examples" / "record_ranks.py"
MODEL = ROOT / "fixtures" / "embedded" / "model"
DATA = ROOT / "fixtures" / "embedded" / "voice"
SECONDS = 300


@dataclass
class Case:
    """One way to train, and the rules that must be found beside the weighting that mlx-lm always has."""

    name: str
    found: set[str]
    # What is run before mlx-lm's trainer is recorded.
    change: str = ""
    processes: int = 2
    # Whether every process's mean counts the same, and it matters.
    weighted: bool = True


TRAINER = "from mlx_lm.tuner import trainer\n"
CASES = [
    Case("as-it-is", set()),
    Case("as-it-is, four processes", set(), processes=4),
    Case("not-averaged", {"gradients-not-averaged"}, TRAINER + "trainer.average_gradients = lambda own: own\n", weighted=False),
    Case(
        "added-up",
        {"gradients-not-averaged"},
        TRAINER
        + "average = trainer.average_gradients\n"
        + "trainer.average_gradients = lambda own: trainer.tree_map(lambda x: x * mx.distributed.init().size(), average(own))\n",
        weighted=False,
    ),
    Case(
        "same-rows",
        {"same-data-on-every-rank"},
        TRAINER
        + "rows = trainer.iterate_batches\n"
        + "class First:\n"
        + "    def rank(self): return 0\n"
        + "    def size(self): return mx.distributed.init().size()\n"
        + "trainer.train.__defaults__ = tuple(\n"
        + "    (lambda *given, **named: rows(*given, **{**named, 'comm_group': First()})) if one is rows else one\n"
        + "    for one in trainer.train.__defaults__)\n",
        weighted=False,
    ),
    Case(
        "values-of-their-own",
        {"ranks-diverged"},
        "from mlx_lm import lora\n"
        + "attach = lora.linear_to_lora_layers\n"
        + "def attached(*given, **named):\n"
        + "    mx.random.seed(mx.distributed.init().rank())\n"
        + "    return attach(*given, **named)\n"
        + "lora.linear_to_lora_layers = attached\n",
    ),
    Case(
        "one-waits",
        {"straggler"},
        "import time\n"
        + TRAINER
        + "loss = trainer.default_loss\n"
        + "def waiting(model, batch, lengths):\n"
        + "    time.sleep(0.5 * mx.distributed.init().rank())\n"
        + "    return loss(model, batch, lengths)\n"
        + "trainer.default_loss = waiting\n",
    ),
]
# Answers of several lengths, one row for each process: the targets of the processes differ.
OPTIONS = [
    *("--train", "--mask-prompt", "--iters", "10", "--num-layers", "-1", "--learning-rate", "1e-4"),
    *("--val-batches", "0", "--steps-per-eval", "1000"),
]


def fail(message: str) -> None:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(2)


def addresses(count: int) -> list[list[str]]:
    """Addresses of this machine that nobody uses at the moment."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    found = [[f"127.0.0.1:{one.getsockname()[1]}"] for one in sockets]
    for one in sockets:
        one.close()
    return found


def data(folder: Path) -> Path:
    """Rows with short and with long answers in turns, so that neighbours by length differ in their targets."""
    folder.mkdir()
    lines = (DATA / "train.jsonl").read_text().splitlines()
    rows = []
    for number, line in enumerate(lines):
        row = json.loads(line)
        question, answer = row["messages"][0]["content"], row["messages"][1]["content"]
        if number % 2:
            question, answer = f"{answer} {question}", question
        messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        rows.append(json.dumps({"messages": messages}))
    (folder / "train.jsonl").write_text("\n".join(rows) + "\n")
    (folder / "valid.jsonl").write_text("\n".join(rows[:4]) + "\n")
    return folder


def trained(case: Case, folder: Path) -> Path:
    """The records of a run in `folder`."""
    folder.mkdir(parents=True)
    records, hosts = folder / "records", folder / "hosts.json"
    hosts.write_text(json.dumps(addresses(case.processes)))
    program = folder / "program.py"
    program.write_text(
        f"import sys\nsys.path.insert(0, {str(RECORDER.parent)!r})\n"
        f"import mlx.core as mx\n{case.change}\nimport record_ranks\nrecord_ranks.main()\n"
    )
    batch = ["--batch-size", str(case.processes)]
    arguments = ["--model", str(MODEL), "--data", str(data(folder / "data")), "--adapter-path", str(folder / "adapter")]
    processes = []
    for rank in range(case.processes):
        environment = {**os.environ, "MLX_RANK": str(rank), "MLX_HOSTFILE": str(hosts)}
        log = open(folder / f"rank-{rank}.log", "w")
        command = [sys.executable, str(program), str(records), *arguments, *OPTIONS, *batch]
        processes.append(subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT))
    try:
        codes = [process.wait(SECONDS) for process in processes]
    except subprocess.TimeoutExpired:
        codes = ["too slow"]
    finally:
        for process in processes:
            process.kill()
    if any(codes):
        log = (folder / "rank-0.log").read_text()[-2000:]
        fail(f"{case.name} could not be trained\n  found: {codes}\n{log}")
    return records


def said(diagnose: str, records: Path, folder: Path) -> dict[str, str]:
    """Every root by its severity."""
    command = [diagnose, "--log", str(records), "--out", str(folder / "report"), "--fail-on", "never"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
    if done.returncode != 0:
        fail(f"`diagnose --log` failed\n{done.stdout}{done.stderr}")
    report = json.loads((folder / "report" / "report.json").read_text())
    return {finding["name"]: finding["severity"] for finding in report["findings"] if finding["root"]}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--diagnose", required=True, help="the program")
    parser.add_argument("--out", required=True, type=Path, help="a folder for all runs, which must not exist")
    parser.add_argument("--only", help="the name of a single case")
    options = parser.parse_args()
    if options.out.exists():
        fail(f"`{options.out}` exists")
    wrong = 0
    for number, case in enumerate(case for case in CASES if options.only in (None, case.name)):
        folder = options.out / f"{number}"
        found = said(options.diagnose, trained(case, folder), folder)
        expected = case.found | ({"rank-weighting-wrong"} if case.weighted else set())
        is_right = set(found) == expected
        wrong += not is_right
        print(f"{'ok' if is_right else 'WRONG'}  {case.name}: {', '.join(sorted(found)) or 'nothing'}", flush=True)
        if not is_right:
            print(f"  expected: {', '.join(sorted(expected)) or 'nothing'}", flush=True)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
