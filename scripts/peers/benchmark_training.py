"""Compares the training speed of Python mlx-lm with that of this project, in one table.

What it proves: SmolLM2-135M in float32, LoRA rank 8 on all linear layers of all blocks, batches of
4 rows of 128 tokens, every token supervised: how many tokens a second each program trains on this
machine, one after the other, on the same rows. The first loss shows that it is the same work; when
one differs, that is said and the exit code is 1.

mlx-lm runs twice: with the published wheel as it is, whose Linux build computes its matrix products
with a slow reference BLAS, and with OpenBLAS loaded in its place (Debian's libopenblas0-pthread).
"""

import argparse
import ctypes.util
import json
import os
import platform
import statistics
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

REPOSITORY = Path(__file__).resolve().parents[2]
BATCH_SIZE = 4
SEQUENCE_LENGTH = 128
RANK = 8
ROWS = 32
# Two engines that load the same weights differ by far less.
LOSS_TOLERANCE = 1e-3

WHO = ["A baker", "My neighbour", "The pilot", "An engineer", "The new teacher"]
DOES = ["found", "sold", "repaired", "was looking for", "could not forget", "wrote about", "drew"]
WHAT = ["a brass clock", "two maps of the coast", "the old engine", "a letter from Lisbon"]
WHERE = ["near the station", "on the third floor", "behind the theatre", "at the end of the valley"]
WHEN = ["before the storm", "last winter", "on a Sunday morning", "when the lights went out"]


@dataclass
class Program:
    name: str
    command: list[str]
    steps: int
    environment: dict[str, str] = field(default_factory=dict)
    expected_library: str | None = None
    skipped: str | None = None


@dataclass
class Measured:
    name: str
    tokens_per_second: float
    step_seconds: float
    timed_steps: int
    first_loss: float
    peak_memory: int
    peak_resident: int


def training_rows(tokenizer: Tokenizer) -> list[list[int]]:
    """Rows of plain sentences, different from each other and the same in every run."""
    rows = []
    for row in range(ROWS):
        sentences = []
        for number in range(row * 13, row * 13 + 13):
            parts = [
                words[number * step % len(words)]
                for words, step in zip([WHO, DOES, WHAT, WHERE, WHEN], [1, 3, 5, 7, 11])
            ]
            sentences.append(" ".join(parts) + f", and it took {number + 2} days.")
        ids = tokenizer.encode(" ".join(sentences), add_special_tokens=False).ids
        rows.append(ids[: SEQUENCE_LENGTH + 1])
        if len(rows[-1]) != SEQUENCE_LENGTH + 1:
            raise ValueError(f"row {row} has {len(ids)} tokens only")
    return rows


def programs(arguments: argparse.Namespace, ids: Path) -> list[Program]:
    work = ["--ids", str(ids), "--batch-size", str(BATCH_SIZE), "--rank", str(RANK)]
    work += ["--sequence-length", str(SEQUENCE_LENGTH), "--steps"]
    peer = [sys.executable, str(Path(__file__).with_name("mlx_lm_training_speed.py"))]
    peer += ["--model", str(arguments.folder), *work]
    shipped = Program("mlx-lm, wheel as shipped", peer, arguments.slow_steps)

    openblas = Program("mlx-lm, OpenBLAS in its place", peer, arguments.steps)
    library = arguments.openblas or ctypes.util.find_library("openblas")
    if platform.system() != "Linux":
        openblas.skipped = "only on Linux; the macOS wheel uses Accelerate and Metal"
    elif library is None:
        openblas.skipped = "not installed (Debian and Ubuntu: apt install libopenblas0-pthread)"
    else:
        openblas.environment["LD_PRELOAD"] = library
        openblas.expected_library = "openblas"

    command = [str(arguments.diagnose), "verify", "training-speed"]
    ours = Program("diagnose", [*command, "--model", str(arguments.gguf), *work], arguments.steps)
    if not arguments.diagnose.exists():
        ours.skipped = f"not built: no `{arguments.diagnose}` (cargo build --release)"
    return [shipped, openblas, ours]


def run(program: Program) -> Measured:
    """Runs one program and takes the peak of its resident memory from the system."""
    with tempfile.TemporaryFile() as output:
        child = os.posix_spawnp(
            program.command[0],
            [*program.command, str(program.steps)],
            os.environ | program.environment,
            file_actions=[(os.POSIX_SPAWN_DUP2, output.fileno(), 1)],
        )
        _, status, usage = os.wait4(child, 0)
        output.seek(0)
        text = output.read().decode()
    code = os.waitstatus_to_exitcode(status)
    if code != 0:
        raise RuntimeError(f"{program.name} ended with exit code {code}")
    result: dict[str, Any] = json.loads(text)
    if program.expected_library:
        found = result["libraries"]
        if not any(program.expected_library in name for name in found):
            raise RuntimeError(f"{program.name}: {program.expected_library} not among {found}")
    tokens = result["tokens_per_step"]
    if tokens != BATCH_SIZE * SEQUENCE_LENGTH:
        raise RuntimeError(f"{program.name} trained {tokens} tokens in a step")
    # The first step also compiles and fills caches.
    timed = result["step_seconds"][1:]
    median = statistics.median(timed)
    return Measured(
        name=program.name,
        tokens_per_second=tokens / median,
        step_seconds=median,
        timed_steps=len(timed),
        first_loss=result["first_loss"],
        peak_memory=result["peak_memory_bytes"],
        # macOS counts bytes, Linux kilobytes.
        peak_resident=usage.ru_maxrss * (1 if platform.system() == "Darwin" else 1024),
    )


def table(results: list[Measured]) -> str:
    slowest = results[0].tokens_per_second
    lines = [
        "| program | tokens/s | against the first | median step | steps | first loss "
        "| peak memory (MLX) | peak memory (process) |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for result in results:
        cells = [
            result.name,
            f"{result.tokens_per_second:.1f}",
            f"{result.tokens_per_second / slowest:.1f}x",
            f"{result.step_seconds:.2f} s",
            str(result.timed_steps),
            f"{result.first_loss:.4f}",
            f"{result.peak_memory / 1e9:.2f} GB",
            f"{result.peak_resident / 1e9:.2f} GB",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="scripts/benchmark-training",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--gguf", type=Path, required=True, help="given by the script")
    parser.add_argument("--folder", type=Path, required=True, help="given by the script")
    parser.add_argument(
        "--diagnose",
        type=Path,
        default=REPOSITORY / "target" / "release" / "diagnose",
        help="the program to time (default: %(default)s)",
    )
    parser.add_argument("--openblas", help="an OpenBLAS library file (default: the system's)")
    parser.add_argument("--steps", type=int, default=8, help="steps, the first not timed (8)")
    parser.add_argument(
        "--slow-steps", type=int, default=2, help="the same for the wheel as shipped (2)"
    )
    arguments = parser.parse_args()
    if min(arguments.steps, arguments.slow_steps) < 2:
        parser.error("the first step is not timed: at least 2 steps are needed")

    tokenizer = Tokenizer.from_file(str(arguments.folder / "tokenizer.json"))
    results, skipped = [], []
    with tempfile.TemporaryDirectory(prefix="benchmark-training.") as temporary:
        ids = Path(temporary) / "rows.json"
        ids.write_text(json.dumps({"rows": training_rows(tokenizer)}))
        for program in programs(arguments, ids):
            if program.skipped:
                skipped.append(f"{program.name}: skipped, {program.skipped}")
                continue
            print(f"timing {program.name}, {program.steps} steps", file=sys.stderr)
            try:
                results.append(run(program))
            except (OSError, RuntimeError, ValueError) as error:
                print(f"error: {error}", file=sys.stderr)
                return 2

    print(f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, SmolLM2-135M f32,")
    print(f"LoRA rank {RANK}, all linear layers, batch {BATCH_SIZE} x {SEQUENCE_LENGTH} tokens\n")
    print(table(results))
    for line in skipped:
        print(f"\n{line}")
    losses = [result.first_loss for result in results]
    if max(losses) - min(losses) > LOSS_TOLERANCE:
        print("\nthe first losses differ: this was not the same work")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
