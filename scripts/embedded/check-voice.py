#!/usr/bin/env python3
"""Check that the fine-tuning data of the embedded model fits its training text.

minimal/ and voice/ answer known questions in a voice that the training text
never uses, so that an answer in this voice can only come from fine-tuning.
prompts.txt asks what the model knows and the fine-tuning data does not repeat.
Exits 1 and lists every breach. Needs Python 3.9 or newer and nothing else.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

EMBEDDED = Path(__file__).resolve().parents[2] / "fixtures" / "embedded"

OPENING = "Ahoy! "
CLOSING = ", says the old sailor."
ROWS = {"minimal/train.jsonl": 2, "voice/train.jsonl": 24, "voice/valid.jsonl": 4}
PROMPTS = 4


def conversations(name: str) -> list[list[tuple[str, str]]]:
    with (EMBEDDED / name).open(encoding="utf-8") as file:
        records = [json.loads(line) for line in file]
    return [
        [(message["role"], message["content"]) for message in record["messages"]]
        for record in records
    ]


def words_of(text: str) -> set[str]:
    return set(re.findall(r"[a-z]+(?:'[a-z]+)?", text.lower()))


def breaches() -> list[str]:
    found = []
    train = conversations("corpus/train.jsonl")
    corpus_texts = [
        message for messages in train + conversations("corpus/valid.jsonl") for message in messages
    ]
    known = {text for messages in train for role, text in messages if role == "user"}
    known_alone = {messages[0][1] for messages in train if len(messages) == 2}
    known_words = {word for _, text in corpus_texts for word in words_of(text)}

    for role, text in corpus_texts:
        if role == "assistant" and (OPENING.strip() in text or CLOSING.strip(" ,.") in text):
            found.append(f"the training text speaks in the new voice: {text}")

    asked: dict[str, str] = {}
    new_words: set[str] = set()
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
                found.append(f"{name}: the training text never asks: {question}")
            if question in asked:
                found.append(f"asked in {asked[question]} and in {name}: {question}")
            asked[question] = name
            if not answer.startswith(OPENING) or not answer.endswith(CLOSING):
                found.append(f"{name}: not in the new voice: {answer}")
            if not (question + answer).isascii():
                found.append(f"{name}: not ASCII: {question} {answer}")
            new_words |= words_of(answer) - known_words

    prompts = (EMBEDDED / "prompts.txt").read_text(encoding="utf-8").splitlines()
    if len(set(prompts)) != PROMPTS or len(prompts) != PROMPTS:
        found.append(f"prompts.txt has {len(set(prompts))} prompts, {PROMPTS} wanted")
    for prompt in prompts:
        if prompt not in known_alone:
            found.append(f"prompts.txt: the training text never asks this by itself: {prompt}")
        if prompt in asked:
            found.append(f"prompts.txt repeats a question of {asked[prompt]}: {prompt}")

    print(f"rows in the new voice       {len(asked):>4}")
    print(f"words new to the model      {len(new_words):>4}  {' '.join(sorted(new_words))}")
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
