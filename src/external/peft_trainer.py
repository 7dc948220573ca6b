"""Trains a LoRA adapter with transformers and PEFT on mlx-lm's data, and leaves it in PEFT's format.

Rows hold `messages`, `prompt` and `completion`, or `text`, one JSON object a line in train.jsonl of the data folder.
Conversations go through the tokenizer's chat template; with `mask_prompt` the loss counts only the last answer. Each step
prints what transformers' Trainer prints. The settings are mlx-lm's, as JSON: lora_parameters with rank, scale and
dropout, and mask_prompt.

Needs torch, transformers and peft. Exits with 2 when the model or the data cannot be trained on, 3 when one of them is
not installed.
"""

import argparse
import json
import os
import random
import sys
from pathlib import Path

# MLX's AdamW, whose defaults mlx-lm uses.
BETAS, EPSILON, WEIGHT_DECAY = (0.9, 0.999), 1e-8, 0.01
IGNORED = -100


def give_up(code, message):
    print(message, flush=True)
    sys.exit(code)


# Threads that wait in a loop take the cores from whoever has something to do; read when torch is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

try:
    import peft
    import torch
    import transformers
except ImportError as error:
    give_up(
        3,
        f"torch, transformers and peft are needed: {error}; `{sys.executable} -m pip install torch transformers peft`, "
        "or another python in MLX_DIAGNOSE_PYTHON",
    )


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True, help="a model folder with plain weights")
    parser.add_argument("--data", type=Path, required=True, help="a folder with train.jsonl")
    parser.add_argument("--output", type=Path, required=True, help="a folder for the adapter")
    parser.add_argument("--settings", type=Path, required=True, help="lora_parameters and mask_prompt, as JSON")
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--learning-rate", type=float, required=True)
    parser.add_argument("--batch-size", type=int, required=True)
    parser.add_argument("--max-seq-length", type=int, required=True)
    parser.add_argument("--layers", type=int, required=True, help="blocks to adapt, counted from the last; -1 for all")
    parser.add_argument("--seed", type=int, required=True)
    return parser.parse_args()


def check_model(folder):
    if not folder.is_dir():
        give_up(2, f"PEFT trains model folders, and `{folder}` is none: transformers cannot train a GGUF file")
    configuration = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if "quantization" in configuration:
        give_up(2, f"`{folder}` is packed by MLX, which transformers cannot read: name the folder it was made from")


def load_model(folder, device):
    version = tuple(int(part) for part in transformers.__version__.split(".")[:2])
    # On a CPU 16 bits are slow and lose small updates.
    dtype = torch.float32 if device == "cpu" else "auto"
    model, loading = transformers.AutoModelForCausalLM.from_pretrained(
        folder,
        local_files_only=True,
        output_loading_info=True,
        **{"dtype" if version >= (4, 56) else "torch_dtype": dtype},
    )
    # Without a word transformers would draw missing weights at random.
    missing = sorted(loading["missing_keys"]) + sorted(map(str, loading["mismatched_keys"]))
    if missing:
        give_up(2, f"weights are missing or of another shape: {missing}")
    return model.to(device)


def conversation(row):
    if "messages" in row:
        return row["messages"]
    return [{"role": "user", "content": row["prompt"]}, {"role": "assistant", "content": row["completion"]}]


def example(row, tokenizer, mask_prompt, limit):
    """The token ids of a row, and how many of the first carry no loss."""
    if "text" in row:
        tokens = tokenizer.encode(row["text"])
        if tokens[-1:] != [tokenizer.eos_token_id]:
            tokens.append(tokenizer.eos_token_id)
        return tokens[:limit], 0
    messages, tools = conversation(row), row.get("tools")
    tokens = tokenizer.apply_chat_template(messages, tools=tools, tokenize=True, return_dict=False)
    masked = 0
    if mask_prompt:
        answered = messages[-1]["role"] == "assistant"
        prompt = tokenizer.apply_chat_template(
            messages[:-1], tools=tools, add_generation_prompt=answered, tokenize=True, return_dict=False
        )
        masked = len(prompt)
    return tokens[:limit], masked


def batches(examples, size, seed):
    """Every row once an epoch, in an order of its own; the last batch of an epoch holds what is left."""
    order, epoch = [], 0
    draw = random.Random(seed)
    while True:
        order = draw.sample(range(len(examples)), len(examples))
        for start in range(0, len(order), size):
            yield epoch + start / len(order), [examples[row] for row in order[start : start + size]]
        epoch += 1


def tensors(batch, device):
    longest = max(len(tokens) for tokens, _ in batch)
    ids = [tokens + [0] * (longest - len(tokens)) for tokens, _ in batch]
    labels = [
        [IGNORED] * masked + tokens[masked:] + [IGNORED] * (longest - max(len(tokens), masked))
        for tokens, masked in batch
    ]
    attended = [[1] * len(tokens) + [0] * (longest - len(tokens)) for tokens, _ in batch]
    # A prompt may be longer than what is left of its row.
    labels = [row[:longest] for row in labels]
    return {
        "input_ids": torch.tensor(ids, device=device),
        "labels": torch.tensor(labels, device=device),
        "attention_mask": torch.tensor(attended, device=device),
    }


def adapted(model, settings, layers):
    lora = settings["lora_parameters"]
    linears = [
        name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear) and ".layers." in name
    ]
    blocks = model.config.num_hidden_layers
    if layers > blocks:
        give_up(2, f"{layers} blocks are to be adapted, and the model has {blocks}")
    configuration = peft.LoraConfig(
        task_type="CAUSAL_LM",
        r=lora["rank"],
        # PEFT divides by the rank, mlx-lm's scale is used as it is.
        lora_alpha=lora["scale"] * lora["rank"],
        lora_dropout=lora["dropout"],
        bias="none",
        target_modules=sorted({name.rpartition(".")[2] for name in linears}),
        layers_to_transform=list(range(blocks - layers, blocks)) if layers >= 0 else None,
    )
    return peft.get_peft_model(model, configuration)


def main():
    asked = arguments()
    settings = json.loads(asked.settings.read_text(encoding="utf-8"))
    check_model(asked.model)
    transformers.set_seed(asked.seed % 2**32)
    device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    tokenizer = transformers.AutoTokenizer.from_pretrained(asked.model, local_files_only=True)
    lines = (asked.data / "train.jsonl").read_text(encoding="utf-8-sig").splitlines()
    rows = [json.loads(line) for line in lines if line.strip()]
    examples = [example(row, tokenizer, settings["mask_prompt"], asked.max_seq_length) for row in rows]
    examples = [(tokens, masked) for tokens, masked in examples if len(tokens) > max(masked, 1)]
    if not examples:
        give_up(2, "no row has a token that the loss counts")
    print(f"{len(examples)} of {len(rows)} rows are trained on, on {device}", flush=True)
    model = adapted(load_model(asked.model, device), settings, asked.layers).train()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(
        trained, lr=asked.learning_rate, betas=BETAS, eps=EPSILON, weight_decay=WEIGHT_DECAY
    )
    for _, (epoch, batch) in zip(range(asked.steps), batches(examples, asked.batch_size, asked.seed)):
        optimizer.zero_grad()
        loss = model(**tensors(batch, device)).loss
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(trained, float("inf"))
        optimizer.step()
        record = {
            "loss": round(loss.item(), 4),
            "grad_norm": round(norm.item(), 4),
            "learning_rate": asked.learning_rate,
            "epoch": round(epoch, 4),
        }
        print(record, flush=True)
    model.save_pretrained(asked.output)


main()
