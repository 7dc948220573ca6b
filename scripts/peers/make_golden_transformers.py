"""Makes the tiny random models of fixtures/golden/transformers and their golden numbers with PyTorch.

What they prove: each folder is one architecture as transformers saves it, and beside the model lies
what transformers computes from it in float32 on the CPU: the logits, the loss, the gradient of every
parameter (under mlx-lm's names and in its layouts), what greedy decoding with a cache answers, and
what three steps of training with torch's optimizers make of it: their losses, and every weight after
those of AdamW.

With --check nothing is written: the golden numbers are computed again from the committed models and
compared. It needs a python with torch and transformers, which scripts/peers/environment does not
make: `python3 -m venv torchenv && torchenv/bin/pip install torch transformers safetensors`.
"""

import argparse
import importlib.metadata
import platform
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

import golden_file
from tiny_weights import random_weight

OUT = Path(__file__).resolve().parents[2] / "fixtures" / "golden" / "transformers"
VOCABULARY = 48
# 40 tokens, of which a mixture of experts sorts its rows; the first 12 are a row too short for that.
INPUT_IDS = [3 + (index * index * 7 + index * 5) % (VOCABULARY - 3) for index in range(40)]
PROMPT = INPUT_IDS[:12]
ANSWER_TOKENS = 24
GRADIENTS = "gradients.safetensors"
TRAINED = "trained.safetensors"
SEED = "the weights of a model are drawn from the CRC-32 of its name and of the tensor's (tiny_weights.py)"
# Two rows a batch, of unequal length: the shorter is padded, and no loss is counted there.
BATCHES = [
    [INPUT_IDS[:14], INPUT_IDS[14:23]],
    [INPUT_IDS[23:40], INPUT_IDS[2:7]],
    [INPUT_IDS[9:20], INPUT_IDS[20:36]],
]
NO_TARGET = -100
ADAMW = {"lr": 0.01, "betas": [0.9, 0.95], "eps": 1e-8, "weight_decay": 0.1}
SGD = {"lr": 0.05, "momentum": 0.9, "nesterov": True, "weight_decay": 0.1}

COMMON = {
    "bos_token_id": 1,
    "eos_token_id": 2,
    "hidden_size": 16,
    "intermediate_size": 24,
    "max_position_embeddings": 128,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
    "vocab_size": VOCABULARY,
}
# Windows are shorter than the input, so that they matter.
MODELS: dict[str, dict[str, Any]] = {
    "llama": COMMON | {"model_type": "llama", "attention_bias": True, "mlp_bias": True},
    "mistral": COMMON | {"model_type": "mistral", "sliding_window": 7},
    "qwen2": COMMON | {"model_type": "qwen2", "tie_word_embeddings": True},
    "qwen3": COMMON | {"model_type": "qwen3", "head_dim": 8, "rope_theta": 1e6},
    "gemma3_text": COMMON
    | {
        "model_type": "gemma3_text",
        "head_dim": 8,
        "num_hidden_layers": 3,
        "query_pre_attn_scalar": 24,
        "rope_scaling": {"rope_type": "linear", "factor": 8.0},
        "sliding_window": 6,
        "sliding_window_pattern": 2,
        "tie_word_embeddings": True,
    },
    "phi3": COMMON | {"model_type": "phi3", "partial_rotary_factor": 0.5, "sliding_window": 9},
    "phi3-longrope": COMMON
    | {
        "model_type": "phi3",
        "original_max_position_embeddings": 8,
        "rope_scaling": {
            "type": "longrope",
            "short_factor": [1.0, 1.5],
            "long_factor": [1.25, 4.0],
        },
    },
    "mixtral": COMMON
    | {"model_type": "mixtral", "num_local_experts": 4, "num_experts_per_tok": 2},
    "gpt2": {
        "model_type": "gpt2",
        "bos_token_id": 1,
        "eos_token_id": 2,
        "n_ctx": 96,
        "n_embd": 16,
        "n_head": 4,
        "n_layer": 2,
        "n_positions": 96,
        "pad_token_id": 0,
        "vocab_size": VOCABULARY,
    },
}
CONVOLUTIONS = ("attn.c_attn.weight", "attn.c_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight")


def fresh_weight(model: str, family: str, name: str, shape: tuple[int, ...]) -> torch.Tensor:
    values = random_weight(model, name, shape)
    if "norm" in name and family == "gemma3_text":
        # The factor is 1 + weight.
        values = values - 1
    return torch.from_numpy(values)


def make_model(name: str, folder: Path) -> None:
    torch.manual_seed(0)
    settings = dict(MODELS[name])
    family = settings.pop("model_type")
    config = AutoConfig.for_model(family, **settings)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    with torch.no_grad():
        for path, parameter in model.named_parameters():
            parameter.copy_(fresh_weight(name, family, path, tuple(parameter.shape)))
    model.save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    if family == "gpt2":
        # transformers no longer writes what mlx-lm wants.
        path = folder / "config.json"
        text = path.read_text(encoding="utf-8")
        if '"n_ctx"' not in text:
            path.write_text(text.replace('"n_embd"', '"n_ctx": 96,\n  "n_embd"'), encoding="utf-8")


def in_mlx_lm(name: str, tensor: torch.Tensor, family: str) -> dict[str, torch.Tensor]:
    """A tensor of transformers' modules under mlx-lm's names and in its layouts."""
    if family == "gpt2":
        transposed = name.endswith(CONVOLUTIONS)
        return {name.replace("transformer.", "model."): tensor.t() if transposed else tensor}
    if family != "mixtral" or ".mlp." not in name:
        return {name: tensor}
    block, _, module = name.partition(".mlp.")
    moe = f"{block}.block_sparse_moe"
    if module == "gate.weight":
        return {f"{moe}.gate.weight": tensor}
    if module == "experts.down_proj":
        return {f"{moe}.switch_mlp.down_proj.weight": tensor}
    gate, up = tensor.chunk(2, dim=1)
    return {f"{moe}.switch_mlp.gate_proj.weight": gate, f"{moe}.switch_mlp.up_proj.weight": up}


def rounded(values: torch.Tensor) -> Any:
    nested = values.tolist()
    return [[round(value, 6) for value in row] for row in nested]


def load(folder: Path) -> torch.nn.Module:
    """The model of a folder in float32, without dropout."""
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    )
    return model.eval()


def batch_loss(model: torch.nn.Module, rows: list[list[int]]) -> torch.Tensor:
    """The mean cross-entropy of the next tokens of all rows, by torch and not by the model."""
    width = max(len(row) for row in rows)
    ids = torch.tensor([row + [0] * (width - len(row)) for row in rows])
    targets = torch.tensor([row + [NO_TARGET] * (width - len(row)) for row in rows])
    present = (targets != NO_TARGET).long()
    logits = model(ids, attention_mask=present).logits[:, :-1]
    return torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), targets[:, 1:].flatten(), ignore_index=NO_TARGET
    )


def trained(folder: Path, optimizer: type[torch.optim.Optimizer], settings: dict[str, Any]) -> Any:
    """The losses of one step on each batch, that of the first batch afterwards, and the model."""
    model = load(folder)
    steps = optimizer(model.parameters(), **settings)
    losses = []
    for rows in BATCHES:
        steps.zero_grad()
        loss = batch_loss(model, rows)
        loss.backward()
        steps.step()
        losses.append(round(loss.item(), 6))
    with torch.no_grad():
        after = round(batch_loss(model, BATCHES[0]).item(), 6)
    return {"settings": settings, "losses": losses, "first_batch_after": after}, model


def golden(folder: Path) -> tuple[dict[str, Any], dict[str, dict[str, torch.Tensor]]]:
    """The numbers, and the tensors of each file."""
    model = load(folder)
    family = model.config.model_type
    ids = torch.tensor([INPUT_IDS])
    logits = model(ids).logits[0]
    loss = torch.nn.functional.cross_entropy(logits[:-1], ids[0, 1:])
    loss.backward()
    gradients = {}
    for name, parameter in model.named_parameters():
        gradients |= in_mlx_lm(name, parameter.grad, family)
    with torch.no_grad():
        answer = model.generate(
            torch.tensor([PROMPT]),
            attention_mask=torch.ones(1, len(PROMPT), dtype=torch.long),
            do_sample=False,
            max_new_tokens=ANSWER_TOKENS,
            eos_token_id=None,
            pad_token_id=0,
        )
    adamw, after_adamw = trained(folder, torch.optim.AdamW, ADAMW)
    sgd, _ = trained(folder, torch.optim.SGD, SGD)
    weights: dict[str, torch.Tensor] = {}
    for name, parameter in after_adamw.named_parameters():
        weights |= in_mlx_lm(name, parameter.detach(), family)
    numbers = {
        "about": (
            "What transformers computes from this folder in float32 on the CPU: one row of logits "
            "per input id, the mean next-token loss, whose gradients are in gradients.safetensors "
            "under mlx-lm's names, and the tokens that greedy decoding puts after the prompt; and "
            "for each optimizer of torch the mean losses of three steps, one on each batch, and "
            "that of the first batch afterwards. trained.safetensors has the weights after AdamW's."
        ),
        "made_by": {
            "script": f"scripts/peers/{Path(__file__).name}",
            "seed": SEED,
            "python": platform.python_version(),
            "torch": torch.__version__.partition("+")[0],
            "transformers": transformers.__version__,
            "safetensors": importlib.metadata.version("safetensors"),
            "numpy": importlib.metadata.version("numpy"),
        },
        "input_ids": INPUT_IDS,
        "logits": rounded(logits.detach()),
        "loss": round(loss.item(), 6),
        "prompt": PROMPT,
        "answer": answer[0, len(PROMPT) :].tolist(),
        "training": {"batches": BATCHES, "adamw": adamw, "sgd": sgd},
    }
    files = {GRADIENTS: gradients, TRAINED: weights}
    return numbers, {
        file: {name: value.contiguous() for name, value in sorted(tensors.items())}
        for file, tensors in files.items()
    }


def tensor_differences(tensors: dict[str, torch.Tensor], path: Path) -> list[str]:
    """One line for each tensor of the committed file that is not as found."""
    committed = load_file(path)
    if committed.keys() != tensors.keys():
        return [f"{path}: other tensors"]
    distances = {name: (tensors[name] - committed[name]).abs().max().item() for name in tensors}
    return [
        f"{path}/{name}: off by {distance}"
        for name, distance in distances.items()
        if distance > golden_file.CHECK_TOLERANCE
    ]


def make_all(out: Path) -> None:
    """Makes everything beside the target and moves it there at the end."""
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="making.", dir=out) as temporary:
        for name in MODELS:
            folder = Path(temporary) / name
            make_model(name, folder)
            numbers, files = golden(folder)
            golden_file.write_settled(folder / "golden.json", numbers, out / name / "golden.json")
            for file, tensors in files.items():
                committed = out / name / file
                if committed.is_file() and not tensor_differences(tensors, committed):
                    shutil.copy(committed, folder / file)
                else:
                    save_file(tensors, folder / file)
        for name in MODELS:
            if (out / name).exists():
                shutil.rmtree(out / name)
            (Path(temporary) / name).rename(out / name)


def check(folder: Path) -> list[str]:
    numbers, files = golden(folder)
    lines = golden_file.differences(numbers, folder / "golden.json")
    for file, tensors in files.items():
        lines += tensor_differences(tensors, folder / file)
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=OUT, help="where the model folders go")
    parser.add_argument(
        "--check", action="store_true", help="compare with the files there; write nothing"
    )
    arguments = parser.parse_args()
    # Sums are then in one order on every machine; more threads do not make models this small faster.
    torch.set_num_threads(1)
    if not arguments.check:
        make_all(arguments.out)
        return 0
    lines = [line for name in MODELS for line in check(arguments.out / name)]
    for line in lines:
        print(line)
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
