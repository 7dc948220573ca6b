"""Writes what mlx-lm draws the next token from, for tests to compare with.

Rows of logits through mlx-lm's own logits processors and samplers with many settings: the tokens left by the filters, their
log-probabilities after the temperature, and the log-probabilities that mlx-lm reports. Run it with the python that
scripts/peers/environment prints; the output is fixtures/golden/sampler.json. `--check` compares the file instead.
"""

import argparse
import importlib.metadata
import math
import sys
from pathlib import Path

import mlx.core as mx
from mlx_lm import sample_utils

import golden_file

OUT = Path(__file__).resolve().parents[2] / "fixtures" / "golden" / "sampler.json"

# Numbers with few bits, so that every program reads and adds the same ones.
ROWS = {
    "spread": [round(64 * 4 * math.sin(1 + 1.7 * i)) / 64 for i in range(40)],
    "peaked": [(9.0 if i == 17 else 0.0) + round(64 * math.cos(2.3 * i)) / 64 for i in range(40)],
    "flat": [round(1024 * 0.05 * math.sin(0.37 * i * i)) / 1024 for i in range(40)],
    "large": [300.0 + round(64 * 20 * math.sin(0.9 + 2.1 * i)) / 64 for i in range(40)],
    "equal in threes": [round(8 * 2 * math.sin(1.3 * (i // 3))) / 8 for i in range(39)],
    "wide": [round(256 * 5 * math.sin(1.1 * i + 0.013 * i * i)) / 256 for i in range(160)],
}

TOKENS = [17, 3, 5, 3, 30, 12, 3, 38, 5, 0]

SETTINGS = [
    {"temperature": 0.0},
    {"temperature": 0.0, "top_p": 0.5, "logit_bias": {"3": 12.5}},
    {"temperature": 1.0},
    {"temperature": 0.25},
    {"temperature": 3.0},
    {"temperature": 1.0, "top_k": 1},
    {"temperature": 0.7, "top_k": 6},
    {"temperature": 1.0, "top_p": 0.01},
    {"temperature": 0.7, "top_p": 0.6},
    {"temperature": 1.0, "top_p": 0.97},
    {"temperature": 1.0, "top_p": 1.0},
    {"temperature": 0.7, "min_p": 0.03},
    {"temperature": 1.0, "min_p": 1.0},
    {"temperature": 0.8, "top_p": 0.9, "min_p": 0.1},
    {"temperature": 0.8, "top_p": 0.95, "min_p": 0.01, "top_k": 9},
    {"temperature": 1.0, "repetition_penalty": 1.3},
    {"temperature": 1.0, "repetition_penalty": 0.5, "repetition_context": 3},
    {"temperature": 1.0, "repetition_penalty": 1.3, "repetition_context": 0},
    {"temperature": 1.0, "presence_penalty": 1.5, "repetition_context": 4},
    {"temperature": 1.0, "frequency_penalty": 0.75},
    {"temperature": 1.0, "logit_bias": {"0": -100.0, "5": 2.5, "20": -1.0}},
    {
        "temperature": 0.6,
        "top_p": 0.92,
        "min_p": 0.02,
        "top_k": 20,
        "repetition_penalty": 1.1,
        "presence_penalty": 0.5,
        "frequency_penalty": -0.25,
        "repetition_context": 8,
        "logit_bias": {"1": 1.5, "3": 4.0},
    },
]


FILTERS = ("top_p", "min_p", "top_k")

# Of the log-probabilities that mlx-lm reports for every token these are kept.
REPORTED = 8


def is_worth_keeping(row: str, settings: dict) -> bool:
    """Which of several equal tokens top-k leaves is up to the order of a partition: there is nothing to compare. Without
    a filter a wide row shows what a short one shows."""
    if row == "equal in threes":
        return "top_k" not in settings
    return row != "wide" or any(name in settings for name in FILTERS)


def rounded(values: list[float]) -> list[float]:
    """Single precision has no more digits."""
    return [round(value, 6) for value in values]


def drawn_from(logits: list[float], settings: dict) -> dict:
    context = settings.get("repetition_context", 20)
    processors = sample_utils.make_logits_processors(
        {int(token): bias for token, bias in settings.get("logit_bias", {}).items()},
        settings.get("repetition_penalty"),
        context,
        settings.get("presence_penalty"),
        context,
        settings.get("frequency_penalty"),
        context,
    )
    row = mx.array([logits], dtype=mx.float32)
    for processor in processors:
        row = processor(mx.array(TOKENS), row)
    # As generate_step of mlx-lm goes on.
    reported = row - mx.logsumexp(row, keepdims=True)

    weights = []
    draw = sample_utils.categorical_sampling
    sample_utils.categorical_sampling = lambda left, temperature: weights.append(left * (1.0 / temperature))
    try:
        sampler = sample_utils.make_sampler(
            settings["temperature"],
            top_p=settings.get("top_p", 0.0),
            min_p=settings.get("min_p", 0.0),
            top_k=settings.get("top_k", 0),
        )
        greedy = sampler(reported)
    finally:
        sample_utils.categorical_sampling = draw
    if greedy is not None:
        drawn = [[greedy.item(), 0.0]]
    else:
        left = weights[0] - mx.logsumexp(weights[0], keepdims=True)
        drawn = [[token, value] for token, value in enumerate(left[0].tolist()) if value > -math.inf]
    return {
        "ids": [token for token, _ in drawn],
        "log_probabilities": rounded([value for _, value in drawn]),
        "reported": rounded(reported[0].tolist()[:REPORTED]),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    arguments = parser.parse_args()
    golden = {
        "made_by": {name: importlib.metadata.version(name) for name in ("mlx", "mlx-lm")},
        "rows": ROWS,
        "tokens": TOKENS,
        "cases": [
            {"row": row, "settings": settings, **drawn_from(logits, settings)}
            for row, logits in ROWS.items()
            for settings in SETTINGS
            if is_worth_keeping(row, settings)
        ],
    }
    if arguments.check:
        faults = golden_file.differences(golden, OUT)
        print("\n".join(faults) or f"{OUT} is as computed")
        return 1 if faults else 0
    golden_file.write(OUT, golden)
    print(OUT)
    return 0


if __name__ == "__main__":
    sys.exit(main())
