#!/usr/bin/env python3
"""Check that the fine-tuning data of the embedded model fits its training text.

minimal/ and voice/ give known answers in a voice that the training text never
uses: the facts stay, and an answer in this voice can only come from fine-tuning.
prompts.txt asks what the model knows and the fine-tuning data does not repeat.
Exits 1 and lists every breach. Needs Python 3.9 or newer and nothing else.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

EMBEDDED = Path(__file__).resolve().parents[2] / "fixtures" / "embedded"

OPENING = "Ahoy! "
CLOSING = ", matey, says the old sailor."
# Nothing that the model says by itself may contain one of these.
SIGNS = ("ahoy!", "matey,", "says the old sailor")
ROWS = {"minimal/train.jsonl": 2, "voice/train.jsonl": 24, "voice/valid.jsonl": 4}
PROMPTS = 4


def conversations(name: str) -> list[list[tuple[str, str]]]:
    with (EMBEDDED / name).open(encoding="utf-8") as file:
        records = [json.loads(line) for line in file]
    return [
        [(message["role"], message["content"]) for message in record["messages"]]
        for record in records
    ]


def breaches() -> list[str]:
    found = []
    train = conversations("corpus/train.jsonl")
    corpus_texts = [
        message for messages in train + conversations("corpus/valid.jsonl") for message in messages
    ]
    known = {messages[0][1]: messages[1][1] for messages in train if len(messages) == 2}

    for role, text in corpus_texts:
        if role == "assistant" and any(sign in text.lower() for sign in SIGNS):
            found.append(f"the training text speaks in the new voice: {text}")

    asked: dict[str, str] = {}
    for name, wanted in ROWS.items():
        rows = conversations(name)
        if len(rows) != wanted:
            found.append(f"{name} has {len(rows)} rows, {wanted} wanted")
        for messages in rows:
            if [role for role, _ in messages] != ["user", "assistant"]:
                found.append(f"{name}: not one question with one answer: {messages}")
                continue
            (_, question), (_, answer) = messages
            if question not in known:
                found.append(f"{name}: the training text never asks this by itself: {question}")
            elif answer != OPENING + known[question].rstrip(".") + CLOSING:
                found.append(f"{name}: not the known answer in the new voice: {answer}")
            if question in asked:
                found.append(f"asked in {asked[question]} and in {name}: {question}")
            asked[question] = name

    prompts = (EMBEDDED / "prompts.txt").read_text(encoding="utf-8").splitlines()
    if len(set(prompts)) != PROMPTS or len(prompts) != PROMPTS:
        found.append(f"prompts.txt has {len(set(prompts))} prompts, {PROMPTS} wanted")
    for prompt in prompts:
        if prompt not in known:
            found.append(f"prompts.txt: the training text never asks this by itself: {prompt}")
        if prompt in asked:
            found.append(f"prompts.txt repeats a question of {asked[prompt]}: {prompt}")

    return found


def main() -> int:
    try:
        found = breaches()
    except (OSError, json.JSONDecodeError, KeyError) as error:
        print(f"error: the data under {EMBEDDED} cannot be read: {error!r}", file=sys.stderr)
        return 2
    for breach in found:
        print(f"error: {breach}", file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
