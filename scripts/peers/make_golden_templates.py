"""Renders chat templates with transformers and writes what they give to fixtures/golden/templates.json.

The templates are written for this project in the manner of the families that models use: what they have
in common with a vendor's is the Jinja features they rest on. Each case holds its template, so that the
Rust test needs nothing else. The clock stands still at TIME.

With --check nothing is written: the cases are rendered again and compared with the committed file. Run it
with the python that scripts/peers/environment prints.
"""

import argparse
import datetime
import importlib.metadata
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import jinja2
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast
from transformers.utils import chat_template_utils

import golden_file

PATH = Path(__file__).resolve().parents[2] / "fixtures" / "golden" / "templates.json"
TIME = 1_721_952_000

CHATML = """\
{%- for message in messages %}
    {%- if loop.first and message['role'] != 'system' %}
        {{- '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' }}
    {%- endif %}
    {{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""

HEADERS = """\
{{- bos_token }}
{%- if not today is defined %}
    {%- if strftime_now is defined %}
        {%- set today = strftime_now("%d %b %Y") %}
    {%- else %}
        {%- set today = "26 Jul 2024" %}
    {%- endif %}
{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set instructions = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set instructions = "" %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\n" }}
{{- "Date: " + today + "\\n\\n" }}
{%- if tools is not none %}
    {{- "Answer with a call of one of these functions.\\n\\n" }}
    {%- for t in tools %}
        {{- t | tojson(indent=4) }}
        {{- "\\n\\n" }}
    {%- endfor %}
{%- endif %}
{{- instructions }}
{{- "<|eot_id|>" }}
{%- for message in messages %}
    {%- if not (message.role == 'tool' or 'tool_calls' in message) %}
        {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' + message['content'] | trim + '<|eot_id|>' }}
    {%- elif 'tool_calls' in message %}
        {%- if not message.tool_calls|length == 1 %}
            {{- raise_exception("Only one call at a time!") }}
        {%- endif %}
        {%- set tool_call = message.tool_calls[0].function %}
        {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
        {{- '{"name": "' + tool_call.name + '", "parameters": ' + (tool_call.arguments | tojson) + '}' }}
        {{- '<|eot_id|>' }}
    {%- else %}
        {{- '<|start_header_id|>ipython<|end_header_id|>\\n\\n' }}
        {%- if message.content is mapping or (message.content is iterable and message.content is not string) %}
            {{- message.content | tojson }}
        {%- else %}
            {{- message.content }}
        {%- endif %}
        {{- '<|eot_id|>' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
"""

THINKING = """\
{%- if tools %}
    {{- '<|im_start|>system\\n' }}
    {%- if messages[0].role == 'system' %}
        {{- messages[0].content + '\\n\\n' }}
    {%- endif %}
    {{- '# Tools\\n<tools>' }}
    {%- for tool in tools %}
        {{- '\\n' }}
        {{- tool | tojson }}
    {%- endfor %}
    {{- '\\n</tools><|im_end|>\\n' }}
{%- elif messages[0].role == 'system' %}
    {{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}
{%- endif %}
{%- set state = namespace(searching=true, newest=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if state.searching and message.role == "user" and message.content is string and not (message.content.startswith('<reply>') and message.content.endswith('</reply>')) %}
        {%- set state.searching = false %}
        {%- set state.newest = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if message.content is string %}
        {%- set content = message.content %}
    {%- else %}
        {%- set content = '' %}
    {%- endif %}
    {%- if message.role == "user" or (message.role == "system" and not loop.first) %}
        {{- '<|im_start|>' + message.role + '\\n' + content + '<|im_end|>' + '\\n' }}
    {%- elif message.role == "assistant" %}
        {%- set thought = '' %}
        {%- if message.reasoning_content is string %}
            {%- set thought = message.reasoning_content %}
        {%- elif '</think>' in content %}
            {%- set thought = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}
            {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
        {%- endif %}
        {%- if loop.index0 > state.newest and (loop.last or thought) %}
            {{- '<|im_start|>' + message.role + '\\n<think>\\n' + thought.strip('\\n') + '\\n</think>\\n\\n' + content.lstrip('\\n') }}
        {%- else %}
            {{- '<|im_start|>' + message.role + '\\n' + content }}
        {%- endif %}
        {%- for call in message.tool_calls or [] %}
            {%- if (loop.first and content) or (not loop.first) %}{{- '\\n' }}{%- endif %}
            {%- if call.function %}{%- set call = call.function %}{%- endif %}
            {{- '<call>\\n{"name": "' }}{{- call.name }}{{- '", "arguments": ' }}
            {%- if call.arguments is string %}{{- call.arguments }}{%- else %}{{- call.arguments | tojson }}{%- endif %}
            {{- '}\\n</call>' }}
        {%- endfor %}
        {{- '<|im_end|>\\n' }}
    {%- elif message.role == "tool" %}
        {%- if loop.first or (messages[loop.index0 - 1].role != "tool") %}{{- '<|im_start|>user' }}{%- endif %}
        {{- '\\n<reply>\\n' + content + '\\n</reply>' }}
        {%- if loop.last or (messages[loop.index0 + 1].role != "tool") %}{{- '<|im_end|>\\n' }}{%- endif %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}
{%- endif %}
"""

INSTRUCTION = """\
{%- if messages[0]["role"] == "system" %}
    {%- set instructions = messages[0]["content"] %}
    {%- set loop_messages = messages[1:] %}
{%- else %}
    {%- set loop_messages = messages %}
{%- endif %}
{%- set user_messages = loop_messages | selectattr("role", "equalto", "user") | list %}
{%- for message in loop_messages | rejectattr("role", "equalto", "tool") %}
    {%- if (message["role"] == "user") != (loop.index0 % 2 == 0) %}
        {{- raise_exception("Questions and answers must take turns") }}
    {%- endif %}
{%- endfor %}
{{- bos_token }}
{%- for message in loop_messages %}
    {%- if message["role"] == "user" %}
        {%- if loop.last and instructions is defined %}
            {{- "[INST] " + instructions + "\\n\\n" + message["content"] + "[/INST]" }}
        {%- else %}
            {{- "[INST] " + message["content"] + "[/INST]" }}
        {%- endif %}
    {%- elif message["role"] == "assistant" %}
        {{- " " + message["content"]|trim + eos_token }}
    {%- else %}
        {{- "[RESULT] " ~ {"content": message.content|string} | tojson ~ "[/RESULT]" }}
    {%- endif %}
{%- endfor %}
"""

MARKED = """\
{% for message in messages %}
{% if message['role'] == 'assistant' %}
<|assistant|>
{% generation %}
{{ message['content'] + eos_token }}
{% endgeneration %}
{% else %}
{{ '<|' + message['role'] + '|>\\n' + message['content'] + eos_token }}
{% endif %}
{% if loop.last and add_generation_prompt %}
<|assistant|>
{% endif %}
{% endfor %}
"""

FEATURES = """\
{# A comment,
   over two lines. #}
{%- macro shout(text, times=1) -%}
    {%- for _ in range(times) -%}{{ text|upper }}!{%- endfor -%}
{%- endmacro -%}
  {% set words = messages[0].content.split() %}
words: {{ words|join('+') }} {{ words[1:] }} {{ words[-1] }} {{ words|length }}
macro: {{ shout('hey', times=2) }}
values: {{ none }} {{ true }} {{ 1.0 }} {{ 10 // 3 }} {{ 10 % 3 }} {{ 2 ** 5 }} {{ 7 / 2 }} {{ {'a': none, 'b': [true, 'x']} }}
missing: [{{ nothing }}] {{ nothing is defined }} {{ nothing|default('else') }} {{ messages[0].name is defined }}
loop: {% for word in words %}{% if word == 'stop' %}{% break %}{% endif %}{% if word == 'skip' %}{% continue %}{% endif %}{{ loop.index }}/{{ loop.length }}{{ '' if loop.last else ',' }}{% endfor %}

items: {% for key, value in messages[0].items() %}{{ key }}={{ value|string|length }};{% endfor %}

strings: {{ ' a b '.strip() }}|{{ 'a-b-c'.replace('-', '_') }}|{{ 'Abc'.lower() }}|{{ 'abc'.title() }}|{{ 'abc' in 'xabcx' }}|{{ 'x'.join(['1', '2']) }}|{{ 'abcdef'[1:4] }}|{{ 'ab' * 2 }}
get: {{ messages[0].get('role') }} {{ messages[0].get('nothing') }} {{ messages[0].get('nothing', 'other') }}
json: {{ extras|tojson }}
json sorted: {{ extras|tojson(sort_keys=true) }}
json tight: {{ extras|tojson(separators=(',', ':')) }}
json ascii: {{ extras|tojson(ensure_ascii=true) }}
json indented: {{ extras|tojson(indent=2) }}
tests: {{ 3 is odd }} {{ 'a' is string }} {{ [] is iterable }} {{ {} is mapping }} {{ 1 is number }} {{ true is true }} {{ 'b' is in ['a', 'b'] }}
dates: {{ strftime_now('%Y-%m-%d') }} {{ strftime_now('%A, %B %d, %Y %H:%M:%S') }} {{ strftime_now('%j %y %%') }}
    {%- if add_generation_prompt %}
  assistant:
    {%- endif %}
"""

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "What's the weather <now> & here?",
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string"}, "days": {"type": "integer", "default": 1}},
                "required": ["city"],
            },
        },
    }
]
QUESTION = {"role": "user", "content": "How warm is it in Z\u00fcrich?"}
ANSWER = {"role": "assistant", "content": "It is 21 \u00b0C."}
SYSTEM = {"role": "system", "content": "  Be brief.\n"}
CALL = {
    "role": "assistant",
    "content": "",
    "tool_calls": [{"type": "function", "function": {"name": "weather", "arguments": {"city": "Z\u00fcrich", "days": 2}}}],
}
SILENT_CALL = {key: value for key, value in CALL.items() if key != "content"}
RESULT = {"role": "tool", "content": '{"warm": true}'}
EXTRAS = {
    "zeta": [1, 2.5, 1e-07, 1e16, 123456789012345680.0, -0.0, None, True],
    "alpha": {"quote\"d": "back\\slash\nnew\ttab\u0001\u007f", "umlaut": "\u00fc\u2603\U0001f600", "html": "<a href='x'>&</a>"},
    "empty": [[], {}, ""],
}

CASES: list[dict[str, Any]] = [
    {"name": "chatml, a question", "template": CHATML, "messages": [QUESTION], "add_generation_prompt": True},
    {"name": "chatml, a whole conversation", "template": CHATML, "messages": [SYSTEM, QUESTION, ANSWER]},
    {"name": "headers, a question", "template": HEADERS, "messages": [QUESTION], "add_generation_prompt": True},
    {"name": "headers, a system prompt", "template": HEADERS, "messages": [SYSTEM, QUESTION, ANSWER]},
    {"name": "headers, tools", "template": HEADERS, "messages": [QUESTION, CALL, RESULT, ANSWER], "tools": TOOLS},
    {
        "name": "headers, two calls are refused",
        "template": HEADERS,
        "messages": [QUESTION, CALL | {"tool_calls": CALL["tool_calls"] * 2}],
        "tools": TOOLS,
    },
    {"name": "thinking, a question", "template": THINKING, "messages": [QUESTION], "add_generation_prompt": True},
    {
        "name": "thinking, switched off",
        "template": THINKING,
        "messages": [QUESTION],
        "add_generation_prompt": True,
        "variables": {"enable_thinking": False},
    },
    {
        "name": "thinking, thoughts of earlier answers are dropped",
        "template": THINKING,
        "messages": [
            SYSTEM,
            QUESTION,
            {"role": "assistant", "content": "<think>\nI look it up.\n</think>\n\n21 \u00b0C."},
            QUESTION,
            {"role": "assistant", "content": "<think>\nAgain.\n</think>\n\nStill 21 \u00b0C."},
        ],
    },
    {
        "name": "thinking, thoughts in their own field",
        "template": THINKING,
        "messages": [QUESTION, ANSWER | {"reasoning_content": "Easy."}],
    },
    {
        "name": "thinking, tools",
        "template": THINKING,
        "messages": [SYSTEM, QUESTION, SILENT_CALL, RESULT, RESULT, ANSWER],
        "tools": TOOLS,
    },
    {"name": "instruction, a question", "template": INSTRUCTION, "messages": [QUESTION], "add_generation_prompt": True},
    {"name": "instruction, two turns", "template": INSTRUCTION, "messages": [SYSTEM, QUESTION, ANSWER, QUESTION]},
    {"name": "instruction, a result", "template": INSTRUCTION, "messages": [QUESTION, RESULT, ANSWER]},
    {"name": "instruction, two questions are refused", "template": INSTRUCTION, "messages": [QUESTION, QUESTION]},
    {"name": "marked answers, a question", "template": MARKED, "messages": [QUESTION], "add_generation_prompt": True},
    {"name": "marked answers, a whole conversation", "template": MARKED, "messages": [SYSTEM, QUESTION, ANSWER]},
    {
        "name": "features of the language",
        "template": FEATURES,
        "messages": [{"role": "user", "content": "one skip two stop three"}],
        "add_generation_prompt": True,
        "variables": {"extras": EXTRAS},
    },
]


class StandingClock(datetime.datetime):
    @classmethod
    def now(cls, tz: datetime.tzinfo | None = None) -> datetime.datetime:
        return datetime.datetime.fromtimestamp(TIME, datetime.timezone.utc)


def render(tokenizer: PreTrainedTokenizerFast, case: dict[str, Any]) -> dict[str, Any]:
    """The case with what transformers makes of it: `rendered`, or the template's own `refusal`."""
    tools = case.get("tools")
    case = {
        "name": case["name"],
        "template": case["template"],
        "variables": {"bos_token": "<s>", "eos_token": "</s>"} | case.get("variables", {}),
        "messages": case["messages"],
        "tools": tools,
        "add_generation_prompt": case.get("add_generation_prompt", False),
    }
    extra = {key: value for key, value in case["variables"].items() if not key.endswith("_token")}
    try:
        rendered = tokenizer.apply_chat_template(
            case["messages"],
            tools=tools,
            chat_template=case["template"],
            add_generation_prompt=case["add_generation_prompt"],
            tokenize=False,
            **extra,
        )
        return case | {"rendered": rendered}
    except jinja2.TemplateError as error:
        return case | {"refusal": str(error)}


def golden() -> dict[str, Any]:
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(WordLevel({"<s>": 0, "</s>": 1}, unk_token="<s>")), bos_token="<s>", eos_token="</s>"
    )
    with mock.patch.object(chat_template_utils, "datetime", StandingClock):
        cases = [render(tokenizer, case) for case in CASES]
    return {
        "about": "Chat templates and what transformers renders with them; `time` is the instant of strftime_now.",
        "made_by": {
            "script": "scripts/peers/make_golden_templates.py",
            "transformers": importlib.metadata.version("transformers"),
            "jinja2": importlib.metadata.version("jinja2"),
        },
        "time": TIME,
        "cases": cases,
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
