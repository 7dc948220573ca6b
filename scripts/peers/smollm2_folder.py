"""Makes a Hugging Face style model folder from a llama GGUF file such as SmolLM2's.

What it proves: this is a second reading of the same file, by other hands (the `gguf` package
dequantises, Python mlx-lm runs the result), against which this project's own GGUF loader,
tokenizer and chat template are compared.

The folder holds config.json, model.safetensors (float32), tokenizer.json, tokenizer_config.json
and generation_config.json. llama.cpp stores the rows of the query and key projections in
interleaved order; they are put back into the half-split order of the published model.

Run it with the python that scripts/peers/environment prints.
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf import TokenType
from safetensors.numpy import save_file

BLOCK_TENSORS = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
OUTER_TENSORS = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}


def metadata(reader: gguf.GGUFReader) -> dict[str, Any]:
    return {name: field.contents() for name, field in reader.fields.items()}


def shortest(value: float) -> float:
    """The shortest decimal that is the same float32: 1e-05, not 9.999999747378752e-06."""
    return float(str(np.float32(value)))


def config(values: dict[str, Any], tied: bool) -> dict[str, Any]:
    if values["general.architecture"] != "llama":
        raise ValueError(f"expected a llama model, found {values['general.architecture']!r}")
    heads = values["llama.attention.head_count"]
    hidden = values["llama.embedding_length"]
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "attention_bias": False,
        "bos_token_id": values["tokenizer.ggml.bos_token_id"],
        "eos_token_id": values["tokenizer.ggml.eos_token_id"],
        "head_dim": hidden // heads,
        "hidden_act": "silu",
        "hidden_size": hidden,
        "intermediate_size": values["llama.feed_forward_length"],
        "max_position_embeddings": values["llama.context_length"],
        "mlp_bias": False,
        "num_attention_heads": heads,
        "num_hidden_layers": values["llama.block_count"],
        "num_key_value_heads": values["llama.attention.head_count_kv"],
        "rms_norm_eps": shortest(values["llama.attention.layer_norm_rms_epsilon"]),
        "rope_scaling": None,
        "rope_theta": shortest(values["llama.rope.freq_base"]),
        "tie_word_embeddings": tied,
        "torch_dtype": "float32",
        "vocab_size": values["llama.vocab_size"],
    }


def half_split_rows(weight: np.ndarray, heads: int) -> np.ndarray:
    """Undoes the row order of llama.cpp: (pair, half) within each head becomes (half, pair)."""
    rows, columns = weight.shape
    pairs = weight.reshape(heads, rows // heads // 2, 2, columns)
    return np.ascontiguousarray(pairs.swapaxes(1, 2).reshape(rows, columns))


def weights(reader: gguf.GGUFReader, values: dict[str, Any]) -> dict[str, np.ndarray]:
    heads = {
        "attn_q": values["llama.attention.head_count"],
        "attn_k": values["llama.attention.head_count_kv"],
    }
    result = {}
    for tensor in reader.tensors:
        data = gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        if tensor.name in OUTER_TENSORS:
            result[OUTER_TENSORS[tensor.name]] = data
            continue
        prefix, block, kind, suffix = tensor.name.split(".")
        if (prefix, suffix) != ("blk", "weight") or kind not in BLOCK_TENSORS:
            raise ValueError(f"no place is known for the tensor {tensor.name}")
        if kind in heads:
            data = half_split_rows(data, heads[kind])
        result[f"model.layers.{block}.{BLOCK_TENSORS[kind]}.weight"] = data
    return dict(sorted(result.items()))


def byte_level_tokenizer(
    tokens: list[str], merges: list[str], special: list[int]
) -> dict[str, Any]:
    """A byte-level BPE tokenizer.json that splits digits one by one, as SmolLM2's does."""
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {
                "id": index,
                "content": tokens[index],
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "special": True,
            }
            for index in special
        ],
        "normalizer": None,
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "Digits", "individual_digits": True},
                {
                    "type": "ByteLevel",
                    "add_prefix_space": False,
                    "trim_offsets": True,
                    "use_regex": True,
                },
            ],
        },
        "post_processor": None,
        "decoder": {
            "type": "ByteLevel",
            "add_prefix_space": True,
            "trim_offsets": True,
            "use_regex": True,
        },
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {token: index for index, token in enumerate(tokens)},
            "merges": [merge.split(" ") for merge in merges],
        },
    }


def tokenizer_from_metadata(values: dict[str, Any]) -> dict[str, Any]:
    found = (values["tokenizer.ggml.model"], values["tokenizer.ggml.pre"])
    if found != ("gpt2", "smollm"):
        raise ValueError(f"expected a tokenizer of the kind ('gpt2', 'smollm'), found {found}")
    types = values["tokenizer.ggml.token_type"]
    special = [index for index, kind in enumerate(types) if kind == TokenType.CONTROL]
    return byte_level_tokenizer(
        values["tokenizer.ggml.tokens"], values["tokenizer.ggml.merges"], special
    )


def tokenizer_config(values: dict[str, Any]) -> dict[str, Any]:
    tokens = values["tokenizer.ggml.tokens"]
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "add_prefix_space": False,
        "bos_token": tokens[values["tokenizer.ggml.bos_token_id"]],
        "eos_token": tokens[values["tokenizer.ggml.eos_token_id"]],
        "pad_token": tokens[values["tokenizer.ggml.padding_token_id"]],
        "unk_token": tokens[values["tokenizer.ggml.unknown_token_id"]],
        "clean_up_tokenization_spaces": False,
        "model_max_length": values["llama.context_length"],
        "chat_template": values["tokenizer.chat_template"],
    }


def generation_config(values: dict[str, Any]) -> dict[str, Any]:
    return {
        "bos_token_id": values["tokenizer.ggml.bos_token_id"],
        "eos_token_id": values["tokenizer.ggml.eos_token_id"],
        "pad_token_id": values["tokenizer.ggml.padding_token_id"],
    }


def write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


def make_folder(source: Path, target: Path) -> None:
    """Writes the folder under a temporary name and renames it, so that it is whole or absent."""
    reader = gguf.GGUFReader(source)
    values = metadata(reader)
    tensors = weights(reader, values)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f"{target.name}.", dir=target.parent))
    try:
        temporary.chmod(0o755)
        write_json(temporary / "config.json", config(values, "lm_head.weight" not in tensors))
        write_json(temporary / "generation_config.json", generation_config(values))
        write_json(temporary / "tokenizer.json", tokenizer_from_metadata(values))
        write_json(temporary / "tokenizer_config.json", tokenizer_config(values))
        save_file(tensors, temporary / "model.safetensors", metadata={"format": "pt"})
        os.rename(temporary, target)
    except BaseException:
        shutil.rmtree(temporary)
        raise


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("gguf", type=Path, help="the GGUF file")
    parser.add_argument("out", type=Path, help="the folder to make; it must not exist")
    arguments = parser.parse_args()
    if arguments.out.exists():
        print(f"error: `{arguments.out}` exists already", file=sys.stderr)
        return 2
    make_folder(arguments.gguf, arguments.out)
    print(arguments.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
