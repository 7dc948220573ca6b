"""Fine-tunes with `diagnose train` and checks that Python mlx-lm answers with the adapter as `diagnose generate` does.

A run of `diagnose train start` must bring the loss of held-out rows down and change the answers; mlx-lm, which loads the
saved folder by itself, must then give the same text, greedy, for every prompt; where rounding decides between two tokens
that are as likely, our text must be one that mlx-lm finds as likely at every token. The model is the tiny chat model in
fixtures/embedded; `--model`, `--data`, `--prompts` and `--options` take other ones.

Exits with 0 when all of it holds, 1 when something does not. Run it with the python that scripts/peers/environment prints.
"""

import argparse
import json
import shlex
import subprocess
import sys
from pathlib import Path

import mlx.core as mx
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
# Nats below the likeliest token within which two programs in f32 may choose differently.
NEAR_TIE = 1e-2


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


class MlxLm:
    """The base with the adapter, as Python mlx-lm loads them."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.model, self.tokenizer = load(str(arguments.model), adapter_path=str(arguments.out))

    def tokens(self, prompt: str) -> list[int]:
        return self.tokenizer.apply_chat_template([{"role": "user", "content": prompt}], add_generation_prompt=True)

    def answer(self, prompt: str) -> str:
        return generate(self.model, self.tokenizer, self.tokens(prompt), max_tokens=TOKENS)

    def is_as_likely(self, prompt: str, answer: str) -> bool:
        """Whether every token of an answer is the likeliest, or nearly."""
        before = self.tokens(prompt)
        after = self.tokenizer.encode(answer, add_special_tokens=False)
        logits = self.model(mx.array([before + after]))[0, len(before) - 1 : -1]
        below = mx.max(logits, axis=-1) - mx.take_along_axis(logits, mx.array(after)[:, None], axis=-1)[:, 0]
        return mx.max(below).item() <= NEAR_TIE


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
    mlx_lm = MlxLm(arguments)
    failures = []
    if losses[-1] >= losses[0]:
        failures.append(f"the loss of held-out rows went from {losses[0]} to {losses[-1]}")
    for prompt, base, tuned in zip(prompts, before, after):
        other = mlx_lm.answer(prompt)
        print(f"{prompt}\n  base          {base!r}\n  fine-tuned    {tuned!r}\n  with mlx-lm   {other!r}")
        if tuned != other and mlx_lm.is_as_likely(prompt, tuned):
            print("  they part at two tokens that are as likely")
        elif tuned != other:
            failures.append(f"mlx-lm answers otherwise: {prompt}")
    if before == after:
        failures.append("no answer changed")
    print(f"held-out loss {losses[0]:.4f} -> {losses[-1]:.4f}; {len(prompts)} answers compared")
    for failure in failures:
        print(f"WRONG {failure}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
