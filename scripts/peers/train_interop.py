"""Fine-tunes with `diagnose train` and checks that Python mlx-lm answers with the adapter as `diagnose generate` does.

A run of `diagnose train start` must bring the loss of held-out rows down and change the answers; mlx-lm, which loads the
saved folder by itself, must then give the same text, greedy, for every prompt. The model is the tiny chat model in
fixtures/embedded; `--model`, `--data`, `--prompts` and `--options` take other ones.

Exits with 0 when all of it holds, 1 when something does not. Run it with the python that scripts/peers/environment prints.
"""

import argparse
import json
import shlex
import subprocess
import sys
from pathlib import Path

from mlx_lm import generate, load

ROOT = Path(__file__).resolve().parents[2]
MODEL = ROOT / "fixtures" / "embedded" / "model"
DATA = ROOT / "fixtures" / "embedded" / "voice"
PROMPTS = [
    "Where does Tom live?",
    "What colour is the Red Star?",
    "What does Finn do?",
    "Who is the doctor?",
    "Tell me about the harbour.",
]
TOKENS = 50


def train(arguments: argparse.Namespace) -> list[float]:
    """Runs the training and returns the losses of held-out rows, first to last."""
    command = [str(arguments.diagnose), "train", "start", str(arguments.model), str(arguments.data), "--out", str(arguments.out)]
    subprocess.run([*command, *shlex.split(arguments.options)], check=True)
    lines = [json.loads(line) for line in (arguments.out / "metrics.jsonl").read_text().splitlines()]
    return [line["validation"]["loss"] for line in lines if "validation" in line]


def ours(arguments: argparse.Namespace, prompts: list[str], adapter: bool) -> list[str]:
    subject = [str(arguments.out)] if adapter else ["--model", str(arguments.model)]
    answers = []
    for prompt in prompts:
        command = [str(arguments.diagnose), "generate", *subject, "--max-tokens", str(TOKENS), "--prompt", prompt]
        answers.append(subprocess.run(command, check=True, capture_output=True, text=True).stdout.removesuffix("\n"))
    return answers


def theirs(arguments: argparse.Namespace, prompts: list[str]) -> list[str]:
    model, tokenizer = load(str(arguments.model), adapter_path=str(arguments.out))
    answers = []
    for prompt in prompts:
        ids = tokenizer.apply_chat_template([{"role": "user", "content": prompt}], add_generation_prompt=True)
        answers.append(generate(model, tokenizer, ids, max_tokens=TOKENS))
    return answers


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--diagnose", type=Path, required=True, help="the program")
    parser.add_argument("--model", type=Path, default=MODEL, help="a model folder (default: the tiny chat model)")
    parser.add_argument("--data", type=Path, default=DATA, help="the rows (default: the tiny model's pirate voice)")
    parser.add_argument("--prompts", type=Path, help="a file with one prompt on each line")
    parser.add_argument("--options", default="--epochs 6 --learning-rate 2e-4", help="options of `diagnose train start`")
    parser.add_argument("--out", type=Path, required=True, help="a new folder for the run")
    arguments = parser.parse_args()
    prompts = arguments.prompts.read_text().splitlines() if arguments.prompts else PROMPTS
    losses = train(arguments)
    before, after = ours(arguments, prompts, adapter=False), ours(arguments, prompts, adapter=True)
    of_mlx_lm = theirs(arguments, prompts)
    failures = []
    if losses[-1] >= losses[0]:
        failures.append(f"the loss of held-out rows went from {losses[0]} to {losses[-1]}")
    for prompt, base, tuned, other in zip(prompts, before, after, of_mlx_lm):
        print(f"{prompt}\n  base          {base!r}\n  fine-tuned    {tuned!r}\n  with mlx-lm   {other!r}")
        if tuned != other:
            failures.append(f"mlx-lm answers otherwise: {prompt}")
    if before == after:
        failures.append("no answer changed")
    print(f"held-out loss {losses[0]:.4f} -> {losses[-1]:.4f}; {len(prompts)} answers compared")
    for failure in failures:
        print(f"WRONG {failure}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
