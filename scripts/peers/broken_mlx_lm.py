"""Runs `mlx_lm lora` with one thing broken inside it, as a trainer for `diagnose --trainer`.

    broken_mlx_lm.py FAULT -- <arguments of mlx_lm lora>

The user's data, template and settings are whole; only the program that trains is not. It prints what mlx-lm prints and ends
with its exit code.
"""

import sys
from typing import Callable

import mlx.core as mx
import mlx_lm.lora as lora
from mlx_lm.tuner import datasets


def learning_rate_zero() -> None:
    """The optimizer never gets the learning rate; the configuration that is saved states the one that was asked for."""
    whole = lora.optim.Adam
    lora.optim.Adam = lambda learning_rate, **settings: whole(learning_rate=0.0, **settings)


def saves(kept: Callable[[list[str]], list[str]]) -> Callable[[], None]:
    """Of the adapter's tensors only those with the names that are kept are written."""

    def break_it() -> None:
        whole = mx.save_safetensors
        mx.save_safetensors = lambda file, tensors: whole(file, {name: tensors[name] for name in kept(list(tensors))})

    return break_it


def no_end_of_text() -> None:
    """Rows are cut before the token that ends their last turn."""
    for dataset in (datasets.ChatDataset, datasets.CompletionsDataset):
        dataset.process = without_end(dataset.process)


def without_end(whole: Callable) -> Callable:
    def process(dataset, row: dict) -> tuple[list[int], int]:
        tokens, offset = whole(dataset, row)
        ends = [place for place, token in enumerate(tokens) if token in dataset.tokenizer.eos_token_ids]
        return (tokens[: ends[-1]] if ends else tokens), offset

    return process


def base_not_frozen() -> None:
    """`freeze` does nothing, so the base is trained beside its adapters, and mlx-lm saves whatever is trained."""
    whole = lora.train_model

    def train_model(arguments, model, *others) -> None:
        model.freeze = lambda *_, **__: model
        whole(arguments, model, *others)

    lora.train_model = train_model


FAULTS = {
    "learning-rate-zero": learning_rate_zero,
    "empty-file": saves(lambda names: []),
    "half-of-the-tensors": saves(lambda names: names[: len(names) // 2]),
    "first-blocks-lost": saves(lambda names: names[len(names) // 2 :]),
    "no-end-of-text": no_end_of_text,
    "base-not-frozen": base_not_frozen,
}


def main() -> int:
    if len(sys.argv) < 3 or sys.argv[1] not in FAULTS or sys.argv[2] != "--":
        print(f"{__doc__}\nfaults: {', '.join(FAULTS)}", file=sys.stderr)
        return 2
    FAULTS[sys.argv[1]]()
    sys.argv = ["mlx_lm lora", *sys.argv[3:]]
    lora.main()
    return 0


if __name__ == "__main__":
    sys.exit(main())
