"""The tokenizer of the tiny models: byte-level BPE, 288 tokens, ChatML turns.

3 special tokens, the 256 bytes, and 29 merges that are common in English.
"""

from tokenizers.pre_tokenizers import ByteLevel

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
END_OF_TEXT, _, TURN_END = range(3)

# "\u0120" is a space in the byte-level alphabet.
MERGES = [
    "\u0120 t",
    "h e",
    "i n",
    "e r",
    "\u0120 a",
    "o n",
    "r e",
    "a t",
    "\u0120 s",
    "e n",
    "o r",
    "a n",
    "\u0120t he",
    "e s",
    "\u0120 w",
    "i s",
    "\u0120 c",
    "o u",
    "i t",
    "a r",
    "\u0120 o",
    "a l",
    "\u0120 b",
    "e d",
    "in g",
    "\u0120 m",
    "l e",
    "\u0120a n",
    "o m",
]

TOKENS = SPECIAL + sorted(ByteLevel.alphabet()) + [merge.replace(" ", "") for merge in MERGES]

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
