"""Writes rows of token ids of plain sentences, for the programs whose speed is compared.

What it proves: nothing by itself; it gives every program the same work. The rows differ from each
other and are the same in every run.
"""

import argparse
import json
import os
import sys
from pathlib import Path

from tokenizers import Tokenizer

ROWS = 32

WHO = ["A baker", "My neighbour", "The pilot", "An engineer", "The new teacher"]
DOES = ["found", "sold", "repaired", "was looking for", "could not forget", "wrote about", "drew"]
WHAT = ["a brass clock", "two maps of the coast", "the old engine", "a letter from Lisbon"]
WHERE = ["near the station", "on the third floor", "behind the theatre", "at the end of the valley"]
WHEN = ["before the storm", "last winter", "on a Sunday morning", "when the lights went out"]


def training_rows(tokenizer: Tokenizer, length: int) -> list[list[int]]:
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
        rows.append(ids[:length])
        if len(ids) < length:
            raise ValueError(f"row {row} has {len(ids)} tokens, expected at least {length}")
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("tokenizer", type=Path, help="a tokenizer.json")
    parser.add_argument("out", type=Path, help='the file to write: {"rows": [[id, ...], ...]}')
    parser.add_argument("--length", type=int, default=129, help="ids in a row (default: 129)")
    arguments = parser.parse_args()
    rows = training_rows(Tokenizer.from_file(str(arguments.tokenizer)), arguments.length)
    temporary = arguments.out.with_name(arguments.out.name + ".tmp")
    temporary.write_text(json.dumps({"rows": rows}))
    os.replace(temporary, arguments.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
