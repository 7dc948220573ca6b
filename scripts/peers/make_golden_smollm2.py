"""Makes the golden files of the real model, SmolLM2-135M-Instruct, with Python mlx-lm.

What they prove: the next-token log-probabilities show that this project loads the GGUF file and
runs the llama forward pass as mlx-lm does on the same weights (float32, teacher forced, so that no
near-tie can send two engines along different texts); the token ids and the rendered conversations
show that it reads the tokenizer and the chat template of that file as `tokenizers` and
`transformers` do.

Writes smollm2-logprobs.json and smollm2-tokens.json. With --check it writes nothing, computes
everything again and compares. Run it with the python that scripts/peers/environment prints.
"""

import argparse
import importlib.metadata
import platform
import sys
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from mlx_lm.utils import load_model
from tokenizers import Tokenizer
from transformers import AutoTokenizer

import golden_file
from smollm2_folder import make_folder

REPOSITORY = Path(__file__).resolve().parents[2]
GGUF = REPOSITORY / "models" / "SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"

TEXTS = {
    "prose": (
        "The ferry left the harbour at seven, when the fog was still lying on the water. "
        "An old man at the rail told us that the island had once been a prison, and that his "
        "grandfather had kept the lighthouse there for forty years. Nobody believed him until "
        "we saw the tower and the row of small iron doors along the"
    ),
    "chat": (
        "<|im_start|>system\nYou answer in one short sentence.<|im_end|>\n"
        "<|im_start|>user\nWhy does bread rise in the oven?<|im_end|>\n"
        "<|im_start|>assistant\nThe yeast makes gas, and the gas grows as it gets warm, so the "
        "dough is lifted.<|im_end|>\n"
        "<|im_start|>user\nAnd without yeast?<|im_end|>\n"
    ),
    "code": (
        "def moving_average(values, width):\n"
        '    """Return the mean of every window of `width` values."""\n'
        "    if width <= 0:\n"
        '        raise ValueError("width must be positive")\n'
        "    total = sum(values[:width])\n"
        "    means = [total / width]\n"
        "    for i in range(width, len(values)):\n"
    ),
    "mixed": (
        "Le caf\u00e9 de la gare ouvre \u00e0 6 h 45. Prix: 3,20 \u20ac (2024), 3,50 \u20ac (2025). "
        "\u6771\u4eac is Tokyo in Japanese. The recipe needs 250 g of flour, 2 eggs \U0001f95a and "
        "1/2 cup of milk.\n\n- mix\n- rest"
    ),
}

STRINGS = {
    "empty": "",
    "one space": " ",
    "many spaces": "     ",
    "space before word": " hello",
    "space after word": "hello ",
    "spaces between words": "a  b   c    d",
    "newlines": "one\n\ntwo\n\n\nthree\n",
    "carriage returns": "one\r\ntwo\r\n",
    "tabs": "\tname\tvalue\t\t1",
    "mixed white space": " \n \t\n  x",
    "sentence": "The quick brown fox jumps over the lazy dog.",
    "contractions": "I'm sure they'll say it's what we've done, isn't it? He'd know; you're RIGHT'S.",
    "digits": "1234567890",
    "digits and words": "In 1999 there were 12,345.67 cats, 3rd of 100.",
    "other digits": "\u0663\u0664\u0665 and \u00bd and x\u00b2 and \uff11\uff12",
    "punctuation": "...!?!? (a) [b] {c} <d> -- __e__ #1 @f $5 100% a&b",
    "code": "for (int i = 0; i < n; ++i) { x[i] += 0x1F; }  // add",
    "python": 'def f(x):\n    return {"a": [1, 2, x]}\n',
    "address": "https://example.org/path?query=1&other=two#part",
    "accents": "na\u00efve caf\u00e9 \u00fcber \u00c5ngstr\u00f6m fa\u00e7ade",
    "decomposed accents": "nai\u0308ve cafe\u0301",
    "chinese": "\u4eca\u5929\u5929\u6c14\u5f88\u597d\uff0c\u6211\u4eec\u53bb\u516c\u56ed\u3002",
    "arabic": "\u0645\u0631\u062d\u0628\u0627 \u0628\u0627\u0644\u0639\u0627\u0644\u0645",
    "russian": "\u041f\u0440\u0438\u0432\u0435\u0442, \u043c\u0438\u0440!",
    "emoji": "\U0001f44d\U0001f3fd ok \U0001f468\u200d\U0001f469\u200d\U0001f467 \u2764\ufe0f",
    "zero width and no-break": "a\u200bb\u00a0c\u2009d\ufeff",
    "control characters": "a\u0000b\u0007c\u001b[0m",
    "special token": "<|endoftext|>",
    "special tokens in text": "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n",
    "special tokens without spaces": "a<|im_end|>b<|im_end|><|endoftext|> c",
    "almost special": "<|im_start|user|> <im_end> < |endoftext|>",
    "long word": "pneumonoultramicroscopicsilicovolcanoconiosis" * 2,
}

CONVERSATIONS: dict[str, dict[str, Any]] = {
    "no system, generation prompt": {
        "messages": [{"role": "user", "content": "What is the capital of Peru?"}],
        "add_generation_prompt": True,
    },
    "system, generation prompt": {
        "messages": [
            {"role": "system", "content": "You are a pirate.\nAnswer briefly."},
            {"role": "user", "content": "Where is the gold?"},
        ],
        "add_generation_prompt": True,
    },
    "several turns, generation prompt": {
        "messages": [
            {"role": "user", "content": "Add 2 and 3."},
            {"role": "assistant", "content": "5"},
            {"role": "user", "content": "  And 10 more?\n"},
        ],
        "add_generation_prompt": True,
    },
    "system and several turns, no generation prompt": {
        "messages": [
            {"role": "system", "content": ""},
            {"role": "user", "content": "Say <|im_end|> caf\u00e9 \u2603"},
            {"role": "assistant", "content": "It's \"done\" & 'quoted'."},
        ],
        "add_generation_prompt": False,
    },
}


def made_by(*packages: str) -> dict[str, str]:
    return {
        "script": f"scripts/peers/{Path(__file__).name}",
        "gguf_sha256": GGUF_SHA256,
        "python": platform.python_version(),
        **{package: importlib.metadata.version(package) for package in packages},
    }


def log_probabilities(model: Any, ids: list[int]) -> np.ndarray:
    """Natural log-probabilities, [positions, vocabulary], from float32 logits."""
    logits = np.array(model(mx.array([ids]))[0].astype(mx.float32), dtype=np.float64)
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def log_probability_golden(folder: Path) -> dict[str, Any]:
    model, _ = load_model(folder)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    texts = []
    for name, text in TEXTS.items():
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        predictions = log_probabilities(model, ids)[:-1]
        best = predictions.argmax(axis=-1)
        positions = np.arange(len(predictions))
        texts.append(
            {
                "name": name,
                "text": text,
                "ids": ids,
                "next_logprob": rounded(predictions[positions, ids[1:]]),
                "argmax": best.tolist(),
                "argmax_logprob": rounded(predictions[positions, best]),
            }
        )
    return {
        "about": (
            "Teacher-forced next-token log-probabilities (natural, float32 weights and arithmetic, "
            "CPU). Element i of each list is the prediction made after ids[0..=i], so the lists "
            "are one shorter than ids."
        ),
        "made_by": made_by("mlx", "mlx-lm", "gguf", "tokenizers"),
        "texts": texts,
    }


def rounded(values: np.ndarray) -> list[float]:
    return [round(float(value), 6) for value in values]


def token_golden(folder: Path) -> dict[str, Any]:
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    wrapped = AutoTokenizer.from_pretrained(folder)
    strings = []
    for name, text in STRINGS.items():
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        if wrapped.encode(text, add_special_tokens=False) != ids:
            raise ValueError(f"tokenizers and transformers disagree on {name!r}")
        decoded = tokenizer.decode(ids, skip_special_tokens=False)
        if decoded != text:
            raise ValueError(f"{name!r} does not survive decoding: {decoded!r}")
        strings.append({"name": name, "text": text, "ids": ids})
    conversations = []
    for name, conversation in CONVERSATIONS.items():
        rendered = wrapped.apply_chat_template(
            conversation["messages"],
            add_generation_prompt=conversation["add_generation_prompt"],
            tokenize=False,
        )
        ids = tokenizer.encode(rendered, add_special_tokens=False).ids
        conversations.append({"name": name, **conversation, "rendered": rendered, "ids": ids})
    return {
        "about": (
            "Token ids of strings (special tokens in the text are recognised, none are added), and "
            "conversations rendered by the model's chat template. Every string decodes to itself."
        ),
        "made_by": made_by("tokenizers", "transformers", "gguf"),
        "strings": strings,
        "conversations": conversations,
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--gguf", type=Path, default=GGUF, help="the file of scripts/fetch-smollm2")
    parser.add_argument(
        "--folder",
        type=Path,
        default=REPOSITORY / "models" / "SmolLM2-135M-Instruct-f32",
        help="the folder of smollm2_folder.py, made when absent",
    )
    parser.add_argument(
        "--out", type=Path, default=REPOSITORY / "fixtures" / "golden", help="where the files go"
    )
    parser.add_argument(
        "--check", action="store_true", help="compare with the files there; write nothing"
    )
    arguments = parser.parse_args()

    mx.set_default_device(mx.cpu)
    if not arguments.folder.exists():
        make_folder(arguments.gguf, arguments.folder)
    goldens = {
        "smollm2-tokens.json": token_golden(arguments.folder),
        "smollm2-logprobs.json": log_probability_golden(arguments.folder),
    }
    lines = []
    for name, golden in goldens.items():
        path = arguments.out / name
        if arguments.check:
            lines += golden_file.differences(golden, path)
        else:
            golden_file.write(path, golden)
            print(path)
    for line in lines:
        print(line)
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
