"""Writes which tokens of conversations transformers takes for the assistant's: fixtures/golden/supervision.json.

Each case holds a chat template with generation blocks, a conversation, and the tokens and mask that
apply_chat_template gives with return_assistant_tokens_mask, by one of the small tokenizers of
fixtures/golden/tokenizers. `whole_turns` says that the blocks hold whole turns, from behind the header to the
next turn, so that the same mask has to come out of the template without its blocks.

With --check nothing is written: the masks are computed again and compared with the committed file. Run it with
the python that scripts/peers/environment prints.
"""

import argparse
import importlib.metadata
import sys
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

import golden_file

FIXTURES = Path(__file__).resolve().parents[2] / "fixtures" / "golden"
PATH = FIXTURES / "supervision.json"
TOKENIZERS = ["smollm", "qwen2", "llama-bpe"]

TEMPLATES: dict[str, tuple[bool, str]] = {
    "on one line": (
        True,
        "{% for message in messages %}{{ '<|turn|>' + message['role'] + '\\n' }}"
        "{% if message['role'] == 'assistant' %}{% generation %}{{ message['content'] + '<|end|>\\n' }}{% endgeneration %}"
        "{% else %}{{ message['content'] + '<|end|>\\n' }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|turn|>assistant\\n' }}{% endif %}",
    ),
    "over lines, white space removed": (
        True,
        """\
{%- for message in messages %}
    {{- '<|turn|>' + message['role'] + '\\n' }}
    {%- if message['role'] == 'assistant' %}
        {%- generation -%}
        {{ message['content'] }}
        {{- '<|end|>\\n' -}}
        {%- endgeneration -%}
    {%- else %}
        {{- message['content'] + '<|end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|turn|>assistant\\n' }}
{%- endif %}
""",
    ),
    "over lines, white space kept where the tags leave it": (
        False,
        """\
{% for message in messages %}
<|turn|>{{ message['role'] }}
{% if message['role'] == 'assistant' %}
  {% generation %}
  {{ message['content'] }}<|end|>
  {% endgeneration %}
{% else %}
{{ message['content'] }}<|end|>
{% endif %}
{% endfor %}
""",
    ),
    "words without their end": (
        False,
        "{% for message in messages %}<|turn|>{{ message['role'] }}:"
        "{% if message['role'] == 'assistant' %}{% generation %} {{ message['content'] }}{% endgeneration %}"
        "{% else %} {{ message['content'] }}{% endif %}<|end|>{% endfor %}",
    ),
    "names and colons": (
        True,
        "{% for message in messages %}{% if message['role'] == 'assistant' %}{{ 'Assistant:' }}"
        "{% generation %}{{ ' ' + message['content'] + '<|end|>' }}{% endgeneration %}"
        "{% else %}{{ message['role'] + ': ' + message['content'] + '\\n\\n' }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}",
    ),
}


def turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


CONVERSATIONS: dict[str, list[dict[str, str]]] = {
    "one answer": [turn("user", "Which boats are in?"), turn("assistant", "Heron and Tern.")],
    "three answers": [
        turn("system", "You keep the harbour's book."),
        turn("user", "Who came first?"),
        turn("assistant", "The Heron."),
        turn("user", "And at 5 o'clock?"),
        turn("assistant", "Nobody; it's too early.\n\nAsk again at 6."),
        turn("user", "The Heron."),
        turn("assistant", "The Heron."),
    ],
    "answers that are empty, spaced and beyond ASCII": [
        turn("user", "Say nothing."),
        turn("assistant", ""),
        turn("user", "And now?"),
        turn("assistant", "  Z\u00fcrich \u2603\u2603  "),
    ],
    "no answer at the end": [turn("user", "Who?"), turn("assistant", "I."), turn("user", "Who else?")],
    "two questions and two answers in a row": [
        turn("user", "Who?"),
        turn("user", "When?"),
        turn("assistant", "Heron."),
        turn("assistant", "At 5."),
    ],
}


def case(folder: str, template_name: str, name: str) -> dict[str, Any]:
    whole_turns, template = TEMPLATES[template_name]
    tokenizer = AutoTokenizer.from_pretrained(FIXTURES / "tokenizers" / folder)
    messages = CONVERSATIONS[name]
    encoded = tokenizer.apply_chat_template(
        messages, chat_template=template, return_dict=True, return_assistant_tokens_mask=True
    )
    return {
        "tokenizer": folder,
        "template": template_name,
        "name": name,
        "messages": messages,
        "tokens": encoded["input_ids"],
        "mask": encoded["assistant_masks"],
    }


def golden() -> dict[str, Any]:
    return {
        "about": "The tokens that transformers takes for the assistant's, by the generation blocks of templates.",
        "made_by": {
            "script": "scripts/peers/make_golden_supervision.py",
            "transformers": importlib.metadata.version("transformers"),
        },
        "templates": {
            name: {"source": source, "whole_turns": whole_turns} for name, (whole_turns, source) in TEMPLATES.items()
        },
        "cases": [
            case(folder, template, name) for folder in TOKENIZERS for template in TEMPLATES for name in CONVERSATIONS
        ],
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare with the committed file and write nothing")
    if parser.parse_args().check:
        differences = golden_file.differences(golden(), PATH)
        print("\n".join(differences) or "the masks are those committed")
        return bool(differences)
    golden_file.write(PATH, golden())
    return 0


if __name__ == "__main__":
    sys.exit(main())
