"""Makes the training rows of fixtures/golden/data and what mlx-lm's data sets make of them.

The rows are committed as JSON lines, one file per format. For each file and tokenizer, golden.json holds
the (tokens, offset) that mlx_lm.tuner.datasets gives for every row, with and without a masked prompt; an
offset is the number of tokens at the start that carry no loss.

With --check nothing is written: the committed rows are processed again and compared. Run it with the
python that scripts/peers/environment prints.
"""

import argparse
import importlib.metadata
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from mlx_lm.tokenizer_utils import load as load_tokenizer
from mlx_lm.tuner.datasets import create_dataset

import golden_file

FIXTURES = Path(__file__).resolve().parents[2] / "fixtures" / "golden"
DATA = FIXTURES / "data"
TOKENIZERS = ["tokenizers/smollm", "tokenizers/llama-bpe", "tiny/qwen3"]


def turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


ROWS: dict[str, list[dict[str, Any]]] = {
    "chat": [
        {"messages": [turn("user", "Which boats are in?"), turn("assistant", "Heron and Tern.")]},
        {
            "messages": [
                turn("system", "You keep the harbour's book."),
                turn("user", "Who came first?"),
                turn("assistant", "The Heron."),
                turn("user", "And at 5 o'clock?"),
                turn("assistant", "Nobody; it's too early.\n\nAsk again at 6."),
            ]
        },
        {"messages": [turn("user", "Say nothing."), turn("assistant", "")]},
    ],
    "lone": [{"messages": [turn("user", "Is anyone there?")]}],
    "completions": [
        {"prompt": "Name a bird.", "completion": "Petrel"},
        {"prompt": "", "completion": "  spaces around  "},
        {"prompt": "caf\u00e9 \u2603", "completion": "<|end|>"},
    ],
    "text": [
        {"text": "The harbour was quiet."},
        {"text": "One line\nand another, 1234."},
        {"text": "It ends by itself.<|end|>"},
    ],
}


def processed(rows: list[dict[str, Any]], tokenizer: Any, mask_prompt: bool) -> list[dict[str, Any]]:
    dataset = create_dataset(rows, tokenizer, SimpleNamespace(mask_prompt=mask_prompt))
    pairs = [dataset.process(row) for row in rows]
    return [{"tokens": list(tokens), "offset": offset} for tokens, offset in pairs]


def read_rows(name: str) -> list[dict[str, Any]]:
    lines = (DATA / f"{name}.jsonl").read_text(encoding="ascii").splitlines()
    return [json.loads(line) for line in lines]


def golden() -> dict[str, Any]:
    cases = []
    for tokenizer_name in TOKENIZERS:
        tokenizer = load_tokenizer(FIXTURES / tokenizer_name)
        for name in ROWS:
            rows = read_rows(name)
            case = {"tokenizer": tokenizer_name, "rows": name, "whole": processed(rows, tokenizer, False)}
            # mlx-lm refuses to mask plain text, and transformers to render the nothing before a lone message.
            if name not in ("text", "lone"):
                case["masked"] = processed(rows, tokenizer, True)
            cases.append(case)
    return {
        "about": "What mlx-lm makes of the rows beside this file.",
        "made_by": {
            "script": "scripts/peers/make_golden_data.py",
            "mlx-lm": importlib.metadata.version("mlx-lm"),
            "transformers": importlib.metadata.version("transformers"),
        },
        "cases": cases,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare with the committed file and write nothing")
    if parser.parse_args().check:
        differences = golden_file.differences(golden(), DATA / "golden.json")
        for line in differences:
            print(line)
        return 1 if differences else 0
    DATA.mkdir(parents=True, exist_ok=True)
    for name, rows in ROWS.items():
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (DATA / f"{name}.jsonl").write_text(lines, encoding="ascii")
    golden_file.write(DATA / "golden.json", golden())
    return 0


if __name__ == "__main__":
    sys.exit(main())
