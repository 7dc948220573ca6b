"""Renders the program's own chat templates, config/templates, with transformers.

fixtures/golden/bundled-templates.json holds for each template and conversation what transformers makes of it,
with and without a generation prompt. With --check nothing is written: the templates are rendered again and
compared with the committed file. Run it with the python that scripts/peers/environment prints.
"""

import argparse
import importlib.metadata
import sys
from pathlib import Path
from typing import Any

import jinja2
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

import golden_file

ROOT = Path(__file__).resolve().parents[2]
PATH = ROOT / "fixtures" / "golden" / "bundled-templates.json"
TEMPLATES = ROOT / "config" / "templates"


def turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


CONVERSATIONS: dict[str, list[dict[str, str]]] = {
    "a question": [turn("user", "Which boats are in?")],
    "an answer": [turn("user", "Which boats are in?"), turn("assistant", "Heron and Tern.")],
    "a system message": [turn("system", "You keep the harbour's book."), turn("user", "Who?")],
    "several turns": [
        turn("system", "You keep the harbour's book."),
        turn("user", "Who came first?"),
        turn("assistant", "  The Heron.\n"),
        turn("user", "And at 5 o'clock?\n\nIn Z\u00fcrich \u2603"),
        turn("assistant", ""),
    ],
    "two questions in a row": [turn("user", "Who?"), turn("user", "When?"), turn("assistant", "Now.")],
    "the assistant first": [turn("assistant", "Yes?"), turn("user", "Who?")],
    "a tool": [turn("user", "Tide?"), turn("tool", "high")],
}


def render(tokenizer: PreTrainedTokenizerFast, name: str, messages: list[dict[str, str]], prompt: bool) -> dict[str, Any]:
    """The text, or the template's own refusal."""
    template = (TEMPLATES / f"{name}.jinja").read_text(encoding="ascii")
    try:
        text = tokenizer.apply_chat_template(
            messages, chat_template=template, add_generation_prompt=prompt, tokenize=False
        )
        return {"rendered": text}
    except jinja2.TemplateError as error:
        return {"refusal": str(error)}


def golden() -> dict[str, Any]:
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(WordLevel({"<s>": 0, "</s>": 1}, unk_token="<s>")), bos_token="<s>", eos_token="</s>"
    )
    return {
        "about": "The templates of config/templates as transformers renders them.",
        "made_by": {
            "script": "scripts/peers/make_golden_bundled_templates.py",
            "transformers": importlib.metadata.version("transformers"),
            "jinja2": importlib.metadata.version("jinja2"),
        },
        "cases": [
            {
                "template": path.stem,
                "name": name,
                "messages": messages,
                "add_generation_prompt": prompt,
            }
            | render(tokenizer, path.stem, messages, prompt)
            for path in sorted(TEMPLATES.glob("*.jinja"))
            for name, messages in CONVERSATIONS.items()
            for prompt in (False, True)
        ],
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare with the committed file and write nothing")
    if parser.parse_args().check:
        differences = golden_file.differences(golden(), PATH)
        print("\n".join(differences) or "the templates render as committed")
        return bool(differences)
    golden_file.write(PATH, golden())
    return 0


if __name__ == "__main__":
    sys.exit(main())
