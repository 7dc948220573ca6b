"""Makes the small tokenizers of fixtures/golden/tokenizers and the ids they give.

Each is byte-level BPE, trained here on a page of text with one family's way of splitting, and saved twice:
as a model folder, and as the header of a GGUF file with llama.cpp's name for that splitting. The ids come
from the folder, through Python's `tokenizers` and transformers; this project must find the same ids from
the folder and from the GGUF file.

With --check nothing is written: the ids are found again from the committed folders and compared. Run it
with the python that scripts/peers/environment prints.
"""

import argparse
import importlib.metadata
import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gguf
from gguf import TokenType
from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import PreTokenizer
from tokenizers.processors import TemplateProcessing
from tokenizers.trainers import BpeTrainer
from transformers import AutoTokenizer

import golden_file

GOLDEN = Path(__file__).resolve().parents[2] / "fixtures" / "golden" / "tokenizers"
VOCABULARY = 420
WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|NUMBER| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

TEXT = """
The harbour was quiet when the first boats came in. It's 5 o'clock, said the keeper, and they'll want
their 1234 crates of fish; we've counted 56789 this week! The keeper's daughter wrote 2026 at the top of
the page and the names of the boats below: Heron, Tern, Petrel (which isn't new), and the old Osprey.
"Who is there?" she called. "It is only us", they said, "and the wind."    Then the rain began.
"""

STRINGS = {
    "empty": "",
    "a sentence": "The keeper's boats came in at 5 o'clock.",
    "contractions": "It's what they'll say: WE'VE DONE, I'M HERE, isn't it?",
    "numbers": "7 42 123 1234 56789 3.14159 \u0664\u0665\u0666 \u00b2",
    "spaces": " one  two   three    ",
    "tabs and newlines": "a\tb\n\nc \n d\r\n\r\n  e",
    "accents, composed and not": "caf\u00e9 cafe\u0301",
    "other scripts": "\u0433\u0430\u0432\u0430\u043d\u044c \u6e2f\u53e3 \u0639\u0631\u0628\u064a",
    "symbols": "x += (y*2) >= 3 && !z; // ok... \u2603 \U0001f600\U0001f3fd",
    "control tokens in the text": "<|turn|>user\nhello<|end|>\n<|turn|>",
    "plain added token": "before [note] after",
    "almost a control token": "<|turn| >",
}


@dataclass
class Family:
    """One way of splitting, with llama.cpp's name for it."""

    llama_cpp: str
    pre_tokenizer: PreTokenizer
    nfc: bool = False
    ignore_merges: bool = False
    begins: bool = False
    settings: dict[str, Any] = field(default_factory=dict)


def split(number: str) -> PreTokenizer:
    pattern = pre_tokenizers.Split(Regex(WORDS.replace("NUMBER", number)), "isolated")
    return pre_tokenizers.Sequence([pattern, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def byte_level() -> PreTokenizer:
    return pre_tokenizers.ByteLevel(add_prefix_space=False)


FAMILIES = {
    "gpt-2": Family("gpt-2", byte_level()),
    "smollm": Family("smollm", pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), byte_level()])),
    "qwen2": Family("qwen2", split(r"\p{N}"), nfc=True),
    "llama-bpe": Family("llama-bpe", split(r"\p{N}{1,3}"), ignore_merges=True, begins=True),
    # Its settings ask for tokens around every text: transformers leaves that to tokenizer.json, which has
    # none, llama.cpp does as it is told.
    "surrounded": Family("gpt-2", byte_level(), settings={"add_bos_token": True, "add_eos_token": True}),
}

# The third is plain text to its author, so it is kept when special tokens are left out.
ADDED = {
    "<|text|>": TokenType.CONTROL,
    "<|turn|>": TokenType.CONTROL,
    "<|end|>": TokenType.CONTROL,
    "[note]": TokenType.USER_DEFINED,
}
BEGIN, _, END, _ = ADDED
TEMPLATE = (
    "{% for message in messages %}{{ '<|turn|>' + message['role'] + '\n' + message['content'] + '<|end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|turn|>assistant\n' }}{% endif %}"
)


def train(family: Family) -> Tokenizer:
    tokenizer = Tokenizer(BPE(ignore_merges=family.ignore_merges))
    tokenizer.pre_tokenizer = family.pre_tokenizer
    tokenizer.decoder = decoders.ByteLevel()
    if family.nfc:
        tokenizer.normalizer = normalizers.NFC()
    special = [AddedToken(text, special=kind == TokenType.CONTROL, normalized=False) for text, kind in ADDED.items()]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(TEXT.splitlines(keepends=True), trainer)
    tokenizer.add_tokens([token for token in special if not token.special])
    if family.begins:
        tokenizer.post_processor = TemplateProcessing(
            single=f"{BEGIN} $A", pair=f"{BEGIN} $A {BEGIN} $B", special_tokens=[(BEGIN, 0)]
        )
    return tokenizer


def corrected(definition: dict[str, Any]) -> dict[str, Any]:
    """The trainer marks all its added tokens special; the plain one is not."""
    for token in definition["added_tokens"]:
        token["special"] = ADDED[token["content"]] == TokenType.CONTROL
    return definition


def write_folder(folder: Path, family: Family) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    definition = corrected(json.loads(train(family).to_str()))
    (folder / "tokenizer.json").write_text(json.dumps(definition, ensure_ascii=True) + "\n", encoding="ascii")
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": BEGIN,
        "eos_token": END,
        "clean_up_tokenization_spaces": False,
        "chat_template": TEMPLATE,
    } | family.settings
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="ascii")


def write_gguf(path: Path, folder: Path, family: Family) -> None:
    definition = json.loads((folder / "tokenizer.json").read_text(encoding="ascii"))
    vocabulary = sorted(definition["model"]["vocab"], key=definition["model"]["vocab"].get)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(family.llama_cpp)
    writer.add_token_list(vocabulary)
    writer.add_token_types([ADDED.get(token, TokenType.NORMAL) for token in vocabulary])
    writer.add_token_merges([" ".join(pair) for pair in definition["model"]["merges"]])
    writer.add_bos_token_id(vocabulary.index(BEGIN))
    writer.add_eos_token_id(vocabulary.index(END))
    writer.add_chat_template(TEMPLATE)
    if family.settings:
        writer.add_add_bos_token(True)
        writer.add_add_eos_token(True)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()


def golden(folder: Path) -> dict[str, Any]:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    strings = []
    for name, text in STRINGS.items():
        ids = tokenizer.encode(text, add_special_tokens=False)
        strings.append(
            {
                "name": name,
                "text": text,
                "ids": ids,
                "ids_with_special": tokenizer.encode(text, add_special_tokens=True),
                "decoded": tokenizer.decode(ids, skip_special_tokens=False),
                "decoded_without_special": tokenizer.decode(ids, skip_special_tokens=True),
            }
        )
    return {
        "about": "Ids that transformers gives with the tokenizer.json beside this file.",
        "made_by": {
            "script": "scripts/peers/make_golden_tokenizers.py",
            "tokenizers": importlib.metadata.version("tokenizers"),
            "transformers": importlib.metadata.version("transformers"),
            "gguf": importlib.metadata.version("gguf"),
        },
        "vocabulary_size": len(tokenizer),
        "strings": strings,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare with the committed files and write nothing")
    arguments = parser.parse_args()
    lines = []
    for name, family in FAMILIES.items():
        folder = GOLDEN / name
        if arguments.check:
            lines += golden_file.differences(golden(folder), folder / "golden.json")
            continue
        write_folder(folder, family)
        write_gguf(folder / "header.gguf", folder, family)
        golden_file.write(folder / "golden.json", golden(folder))
    for line in lines:
        print(line)
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
