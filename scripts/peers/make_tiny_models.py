"""Makes the tiny random models of fixtures/golden/tiny and their golden numbers with mlx-lm.

What they prove: each folder is one architecture or one shape of weight file, small enough for a
test of every pull request. Its golden.json has what Python mlx-lm computes from the same files in
float32 on the CPU: the logits, the loss and the gradient of every parameter, the losses and updates
of three training steps, and, where an adapter lies beside it, the same with the adapter, before and
after one optimizer step.

With --check nothing is written: the golden numbers are computed again from the committed models and
compared. Run it with the python that scripts/peers/environment prints.
"""

import argparse
import importlib.metadata
import platform
import shutil
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np
from mlx.utils import tree_flatten
from mlx_lm.tuner.trainer import default_loss
from mlx_lm.tuner.utils import linear_to_lora_layers, load_adapters
from mlx_lm.utils import _get_classes, load_model, quantize_model, save_config, save_model

import golden_file
import tiny_tokenizer
from smollm2_folder import byte_level_tokenizer, write_json
from tiny_weights import random_weight

TINY = Path(__file__).resolve().parents[2] / "fixtures" / "golden" / "tiny"
INPUT_IDS = [1, 87, 72, 287, 3, 3, 142, 258, 64, 2, 200, 99]
LEARNING_RATE = 1e-3
SEED = "weights are drawn from the CRC-32 of the model's name and of the tensor's (tiny_weights.py)"
# Two rows a batch, of unequal length: the shorter is padded, and no loss is counted there.
BATCHES = [
    [INPUT_IDS, INPUT_IDS[3:10]],
    [INPUT_IDS[::-1], INPUT_IDS[2:7]],
    [INPUT_IDS[4:], INPUT_IDS[:6]],
]

COMMON = {
    "bos_token_id": tiny_tokenizer.END_OF_TEXT,
    "eos_token_id": tiny_tokenizer.TURN_END,
    "hidden_act": "silu",
    "hidden_size": 64,
    "intermediate_size": 96,
    "max_position_embeddings": 256,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "tie_word_embeddings": True,
    "vocab_size": len(tiny_tokenizer.TOKENS),
}
LLAMA = {"architectures": ["LlamaForCausalLM"], "model_type": "llama"}


@dataclass
class TinyModel:
    """config.json beyond COMMON or in its place, the type of the weights, and how the files are laid out."""

    config: dict[str, Any]
    dtype: str = "bfloat16"
    shards: int = 1
    template_file: bool = False
    common: bool = True
    adapters: dict[str, dict[str, Any]] = field(default_factory=dict)


MODELS = {
    "llama": TinyModel(
        LLAMA,
        adapters={
            "adapter": {"num_layers": -1, "rank": 4, "scale": 2.5},
            "adapter-last-block": {
                "num_layers": 1,
                "rank": 2,
                "scale": 20.0,
                "keys": ["self_attn.q_proj", "self_attn.v_proj"],
            },
        },
    ),
    # The wavelengths of the 8 rotations lie below, between and above the two limits, 8 and 32.
    "llama-rope-scaling": TinyModel(
        LLAMA
        | {
            "num_hidden_layers": 1,
            "rope_scaling": {
                "rope_type": "llama3",
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 32,
            },
        },
    ),
    "llama-untied": TinyModel(LLAMA | {"tie_word_embeddings": False}, dtype="float16", shards=2),
    "mistral": TinyModel(
        {
            "architectures": ["MistralForCausalLM"],
            "model_type": "mistral",
            "rope_theta": 1000000.0,
            "sliding_window": None,
            "tie_word_embeddings": False,
        },
    ),
    "qwen2": TinyModel(
        {
            "architectures": ["Qwen2ForCausalLM"],
            "model_type": "qwen2",
            "rms_norm_eps": 1e-6,
            "rope_theta": 1000000.0,
        },
    ),
    "qwen3": TinyModel(
        {
            "architectures": ["Qwen3ForCausalLM"],
            "attention_bias": False,
            "head_dim": 32,
            "model_type": "qwen3",
            "rms_norm_eps": 1e-6,
            "rope_theta": 1000000.0,
        },
        template_file=True,
    ),
    # Names and layouts are mlx-lm's, not the hub's; the adapters reach experts and an embedding.
    "mixtral": TinyModel(
        {
            "architectures": ["MixtralForCausalLM"],
            "hidden_size": 32,
            "intermediate_size": 48,
            "model_type": "mixtral",
            "num_experts_per_tok": 2,
            "num_local_experts": 4,
            "tie_word_embeddings": False,
        },
        adapters={"adapter": {"num_layers": -1, "rank": 4, "scale": 2.5}},
    ),
    "gpt2": TinyModel(
        {
            "architectures": ["GPT2LMHeadModel"],
            "activation_function": "gelu_new",
            "bos_token_id": tiny_tokenizer.END_OF_TEXT,
            "eos_token_id": tiny_tokenizer.TURN_END,
            "layer_norm_epsilon": 1e-5,
            "model_type": "gpt2",
            "n_ctx": 64,
            "n_embd": 32,
            "n_head": 4,
            "n_layer": 2,
            "n_positions": 64,
            "vocab_size": len(tiny_tokenizer.TOKENS),
        },
        common=False,
        adapters={
            "adapter": {
                "num_layers": -1,
                "rank": 4,
                "scale": 2.5,
                "keys": ["attn.c_attn", "mlp.c_proj", "model.wte"],
            },
        },
    ),
}


@dataclass
class Quantised:
    """The mode of most modules of the tiny llama, and the exceptions."""

    mode: str
    overrides: dict[str, dict[str, int | str]]


# With the cases that a loader must tell apart; an exception without a mode is affine.
QUANTISED = {
    "llama-4bit": Quantised(
        "affine",
        {
            "model.layers.0.mlp.up_proj": {"group_size": 64, "bits": 8},
            "model.layers.1.self_attn.q_proj": {"group_size": 32, "bits": 8},
        },
    ),
    "llama-floats": Quantised(
        "mxfp4",
        {
            "model.layers.0.mlp.up_proj": {"group_size": 32, "bits": 8, "mode": "mxfp8"},
            "model.layers.0.self_attn.v_proj": {"group_size": 64, "bits": 8},
            "model.layers.1.mlp.down_proj": {"group_size": 16, "bits": 4, "mode": "nvfp4"},
            "model.layers.1.self_attn.q_proj": {"group_size": 16, "bits": 4, "mode": "nvfp4"},
        },
    ),
}
NOT_QUANTISED = "model.layers.1.self_attn.o_proj"


def build(config: dict[str, Any]) -> nn.Module:
    model_class, arguments_class = _get_classes(config)
    return model_class(arguments_class.from_dict(config))


def save_shards(weights: dict[str, mx.array], folder: Path, count: int) -> None:
    metadata = {"format": "pt"}
    if count == 1:
        mx.save_safetensors(str(folder / "model.safetensors"), weights, metadata)
        return
    names = sorted(weights)
    weight_map = {}
    for shard in range(count):
        file = f"model-{shard + 1:05d}-of-{count:05d}.safetensors"
        part = names[shard * len(names) // count : (shard + 1) * len(names) // count]
        mx.save_safetensors(str(folder / file), {name: weights[name] for name in part}, metadata)
        weight_map |= {name: file for name in part}
    total = sum(array.nbytes for array in weights.values())
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    write_json(folder / "model.safetensors.index.json", index)


def save_tokenizer(folder: Path, template_file: bool) -> None:
    special = list(range(len(tiny_tokenizer.SPECIAL)))
    write_json(
        folder / "tokenizer.json",
        byte_level_tokenizer(tiny_tokenizer.TOKENS, tiny_tokenizer.MERGES, special),
    )
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": None,
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "clean_up_tokenization_spaces": False,
        "model_max_length": COMMON["max_position_embeddings"],
    }
    if template_file:
        (folder / "chat_template.jinja").write_text(tiny_tokenizer.CHAT_TEMPLATE, encoding="utf-8")
    else:
        config["chat_template"] = tiny_tokenizer.CHAT_TEMPLATE
    write_json(folder / "tokenizer_config.json", config)
    stops = [tiny_tokenizer.TURN_END, tiny_tokenizer.END_OF_TEXT]
    write_json(folder / "generation_config.json", {"eos_token_id": stops})


def save_adapter(name: str, config: dict[str, Any], parameters: dict[str, Any], out: Path) -> None:
    out.mkdir()
    lora = {key: value for key, value in parameters.items() if key != "num_layers"}
    lora["dropout"] = 0.0
    num_layers = parameters["num_layers"]
    write_json(
        out / "adapter_config.json",
        {"fine_tune_type": "lora", "lora_parameters": lora, "num_layers": num_layers},
    )
    model = build(config)
    model.freeze()
    linear_to_lora_layers(model, num_layers, lora)
    weights = {
        key: mx.array(random_weight(f"{name}/{out.name}", key, value.shape))
        for key, value in tree_flatten(model.trainable_parameters())
    }
    mx.save_safetensors(str(out / "adapters.safetensors"), weights)


def make_model(name: str, tiny: TinyModel, folder: Path) -> None:
    common = COMMON if tiny.common else {}
    config = dict(sorted((common | tiny.config | {"torch_dtype": tiny.dtype}).items()))
    write_json(folder / "config.json", config)
    weights = {
        key: mx.array(random_weight(name, key, value.shape)).astype(getattr(mx, tiny.dtype))
        for key, value in tree_flatten(build(config).parameters())
    }
    save_shards(weights, folder, tiny.shards)
    save_tokenizer(folder, tiny.template_file)
    for adapter, parameters in tiny.adapters.items():
        save_adapter(name, config, parameters, folder / adapter)


def make_quantised(quantised: Quantised, source: Path, folder: Path) -> None:
    model, config = load_model(source)

    def choice(path: str, _: nn.Module) -> bool | dict[str, int | str]:
        return path != NOT_QUANTISED and quantised.overrides.get(path, True)

    model, config = quantize_model(model, config, None, None, quantised.mode, quant_predicate=choice)
    save_model(folder, model)
    save_config(config, folder / "config.json")
    save_tokenizer(folder, template_file=False)


def load_float32(folder: Path) -> nn.Module:
    model, _ = load_model(folder)
    model.set_dtype(mx.float32)
    return model


def logits(model: nn.Module) -> list[list[float]]:
    rows = model(mx.array([INPUT_IDS]))[0]
    assert rows.dtype == mx.float32
    return [[round(value, 6) for value in row] for row in rows.tolist()]


def norms(tree: Any) -> dict[str, float]:
    named = sorted(tree_flatten(tree))
    return {name: round(float(np.linalg.norm(np.array(value))), 6) for name, value in named}


def loss_and_gradients(model: nn.Module) -> tuple[mx.array, Any]:
    """The mean cross-entropy of every next token, by mlx-lm's own loss."""
    batch = (mx.array([INPUT_IDS]), mx.array([[0, len(INPUT_IDS)]]))
    (loss, _), gradients = nn.value_and_grad(model, default_loss)(model, *batch)
    return loss, gradients


def batch_of(rows: list[list[int]]) -> tuple[mx.array, mx.array]:
    """Token ids [rows, longest], and for each row its first and last position with a target."""
    width = max(len(row) for row in rows)
    ids = mx.array([row + [0] * (width - len(row)) for row in rows])
    return ids, mx.array([[0, len(row) - 1] for row in rows])


def three_steps(model: nn.Module) -> dict[str, Any]:
    """The losses of one AdamW step on each batch, that of the first batch afterwards, and how far
    each parameter went. The model is changed."""
    optimizer = optim.AdamW(learning_rate=LEARNING_RATE)
    step = nn.value_and_grad(model, default_loss)
    before = dict(tree_flatten(model.trainable_parameters()))
    losses = []
    for rows in BATCHES:
        (loss, _), gradients = step(model, *batch_of(rows))
        optimizer.update(model, gradients)
        mx.eval(model.parameters(), optimizer.state)
        losses.append(round(loss.item(), 6))
    after, _ = default_loss(model, *batch_of(BATCHES[0]))
    now = dict(tree_flatten(model.trainable_parameters()))
    return {
        "optimizer": f"AdamW of mlx, learning rate {LEARNING_RATE}, the rest at its defaults",
        "batches": BATCHES,
        "losses": losses,
        "first_batch_after": round(after.item(), 6),
        "update_norms": norms({name: now[name] - before[name] for name in before}),
    }


def adapter_golden(folder: Path, adapter: Path) -> dict[str, Any]:
    model = load_float32(folder)
    model.freeze()
    load_adapters(model, adapter)
    result: dict[str, Any] = {"last_logits": logits(model)[-1]}
    loss, gradients = loss_and_gradients(model)
    result |= {"loss": round(loss.item(), 6), "gradient_norms": norms(gradients)}
    optim.AdamW(learning_rate=LEARNING_RATE).update(model, gradients)
    after, _ = loss_and_gradients(model)
    fresh = load_float32(folder)
    fresh.freeze()
    load_adapters(fresh, adapter)
    return result | {
        "after_one_step": {
            "optimizer": f"AdamW of mlx, learning rate {LEARNING_RATE}, the rest at its defaults",
            "loss": round(after.item(), 6),
            "parameter_norms": norms(model.trainable_parameters()),
        },
        "three_steps": three_steps(fresh),
    }


def golden(folder: Path) -> dict[str, Any]:
    model = load_float32(folder)
    result: dict[str, Any] = {
        "about": (
            "What Python mlx-lm computes from this folder in float32 on the CPU: one row of logits "
            "per input id, the mean next-token loss, and the Euclidean norm of its gradient for "
            "each parameter; three training steps: their losses, that of the first batch "
            "afterwards, and the norm of what they added to each parameter; with each adapter the "
            "last row of logits, and the same."
        ),
        "made_by": {
            "script": f"scripts/peers/{Path(__file__).name}",
            "seed": SEED,
            "python": platform.python_version(),
            "numpy": importlib.metadata.version("numpy"),
            "mlx": importlib.metadata.version("mlx"),
            "mlx-lm": importlib.metadata.version("mlx-lm"),
        },
        "input_ids": INPUT_IDS,
        "logits": logits(model),
    }
    if folder.name in QUANTISED:
        adapters = {"../llama/adapter": folder.parent / "llama" / "adapter"}
    else:
        loss, gradients = loss_and_gradients(model)
        result |= {"loss": round(loss.item(), 6), "gradient_norms": norms(gradients)}
        result["three_steps"] = three_steps(load_float32(folder))
        adapters = {name: folder / name for name in MODELS[folder.name].adapters}
    return result | {
        "adapters": {name: adapter_golden(folder, path) for name, path in adapters.items()}
    }


def make_all(out: Path) -> None:
    """Makes everything beside the target and moves it there at the end."""
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="making.", dir=out) as temporary:
        for name in [*MODELS, *QUANTISED]:
            folder = Path(temporary) / name
            folder.mkdir()
            if name in QUANTISED:
                make_quantised(QUANTISED[name], Path(temporary) / "llama", folder)
            else:
                make_model(name, MODELS[name], folder)
            golden_file.write_settled(folder / "golden.json", golden(folder), out / name / "golden.json")
        for name in [*MODELS, *QUANTISED]:
            if (out / name).exists():
                shutil.rmtree(out / name)
            (Path(temporary) / name).rename(out / name)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=TINY, help="where the model folders go")
    parser.add_argument(
        "--check", action="store_true", help="compare with the files there; write nothing"
    )
    arguments = parser.parse_args()
    mx.set_default_device(mx.cpu)
    if not arguments.check:
        make_all(arguments.out)
        return 0
    lines = []
    for name in [*MODELS, *QUANTISED]:
        folder = arguments.out / name
        lines += golden_file.differences(golden(folder), folder / "golden.json")
    for line in lines:
        print(line)
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
