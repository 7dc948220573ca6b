"""Makes the tiny GGUF files of fixtures/golden/gguf and their golden numbers.

What they prove: the `gguf` package writes each tensor type that this project reads, dequantises it
again, and Python mlx-lm runs the result; this project's own reader must find the same numbers.
- simple-types.gguf: F32, F16, BF16, Q4_0, Q4_1 and Q8_0, with an output matrix of its own.
- k-quants.gguf: Q4_K and Q6_K from random bytes, so that every bit of a super-block matters (the
  package can read these types and not write them), with tied embeddings.
- unsupported-type.gguf: blk.0.ffn_up.weight is Q5_0, a real type that must be refused by name.

With --check nothing is written: the golden numbers are computed again from the committed files and
compared. Run it with the python that scripts/peers/environment prints.
"""

import argparse
import importlib.metadata
import os
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import mlx.core as mx
import numpy as np
from gguf import GGMLQuantizationType as Type
from gguf import TokenType

import golden_file
import tiny_tokenizer
from make_tiny_models import INPUT_IDS, load_float32, logits
from smollm2_folder import BLOCK_TENSORS, OUTER_TENSORS, make_folder
from tiny_weights import random_weight

GOLDEN = Path(__file__).resolve().parents[2] / "fixtures" / "golden" / "gguf"
UNSUPPORTED = "unsupported-type"


@dataclass
class TinyGguf:
    """A llama of one block; every tensor of `types` is stored, the norms as F32."""

    hidden: int
    heads: int
    kv_heads: int
    intermediate: int
    types: dict[str, Type]


SIMPLE = TinyGguf(
    hidden=64,
    heads=4,
    kv_heads=2,
    intermediate=96,
    types={
        "token_embd": Type.Q8_0,
        "blk.0.attn_q": Type.Q4_0,
        "blk.0.attn_k": Type.Q8_0,
        "blk.0.attn_v": Type.BF16,
        "blk.0.attn_output": Type.Q4_1,
        "blk.0.ffn_gate": Type.F16,
        "blk.0.ffn_up": Type.F32,
        "blk.0.ffn_down": Type.Q4_0,
        "output": Type.Q4_1,
    },
)
FILES = {
    "simple-types": SIMPLE,
    "k-quants": TinyGguf(
        hidden=256,
        heads=8,
        kv_heads=1,
        intermediate=256,
        types={
            "token_embd": Type.Q6_K,
            "blk.0.attn_q": Type.Q4_K,
            "blk.0.attn_k": Type.Q6_K,
            "blk.0.attn_v": Type.Q4_K,
            "blk.0.attn_output": Type.Q6_K,
            "blk.0.ffn_gate": Type.Q4_K,
            "blk.0.ffn_up": Type.Q6_K,
            "blk.0.ffn_down": Type.Q4_K,
        },
    ),
    UNSUPPORTED: TinyGguf(
        SIMPLE.hidden,
        SIMPLE.heads,
        SIMPLE.kv_heads,
        SIMPLE.intermediate,
        SIMPLE.types | {"blk.0.ffn_up": Type.Q5_0},
    ),
}


def published_name(name: str) -> str:
    """The name in a Hugging Face folder: blk.0.attn_q is model.layers.0.self_attn.q_proj.weight."""
    if not name.startswith("blk."):
        return OUTER_TENSORS[f"{name}.weight"]
    _, block, kind = name.split(".")
    return f"model.layers.{block}.{BLOCK_TENSORS[kind]}.weight"


def interleaved_rows(weight: np.ndarray, heads: int) -> np.ndarray:
    """The row order in which llama.cpp stores the query and key projections."""
    rows, columns = weight.shape
    halves = weight.reshape(heads, 2, rows // heads // 2, columns)
    return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(rows, columns))


def random_super_blocks(name: str, shape: tuple[int, int], kind: Type) -> np.ndarray:
    """Random bytes, with block scales that give weights of the usual size, as [rows, bytes]."""
    rows, columns = shape
    block_size, type_size = gguf.GGML_QUANT_SIZES[kind]
    draw = np.random.default_rng(list(name.encode()))
    blocks = draw.integers(0, 256, (rows * columns // block_size, type_size), dtype=np.uint8)
    spread = draw.uniform(0.5, 1.5, (len(blocks), 1))
    if kind == Type.Q4_K:
        # d, then dmin: the mean of a 4 bit value is 7.5, so this centres the weights.
        scales = 3e-4 * np.hstack([spread, 7.5 * spread])
        blocks[:, 0:4] = scales.astype(np.float16).view(np.uint8)
    elif kind == Type.Q6_K:
        signs = draw.choice([-1.0, 1.0], spread.shape)
        blocks[:, -2:] = (5e-5 * signs * spread).astype(np.float16).view(np.uint8)
    else:
        raise ValueError(f"{kind.name} has no super-blocks here")
    return blocks.reshape(rows, -1)


def stored_tensor(file: str, name: str, tiny: TinyGguf, shape: tuple[int, int]) -> np.ndarray:
    kind = tiny.types[name]
    if kind in (Type.Q4_K, Type.Q6_K):
        return random_super_blocks(f"{file}/{name}", shape, kind)
    weight = random_weight(file, published_name(name), shape)
    if name.endswith("attn_q"):
        weight = interleaved_rows(weight, tiny.heads)
    elif name.endswith("attn_k"):
        weight = interleaved_rows(weight, tiny.kv_heads)
    return gguf.quants.quantize(weight, kind)


def write_metadata(writer: gguf.GGUFWriter, tiny: TinyGguf) -> None:
    writer.add_name("tiny")
    writer.add_block_count(1)
    writer.add_context_length(256)
    writer.add_embedding_length(tiny.hidden)
    writer.add_feed_forward_length(tiny.intermediate)
    writer.add_head_count(tiny.heads)
    writer.add_head_count_kv(tiny.kv_heads)
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_dimension_count(tiny.hidden // tiny.heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(tiny_tokenizer.TOKENS))
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    special = len(tiny_tokenizer.SPECIAL)
    normal = len(tiny_tokenizer.TOKENS) - special
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tiny_tokenizer.TOKENS)
    writer.add_token_types([TokenType.CONTROL] * special + [TokenType.NORMAL] * normal)
    writer.add_token_merges(tiny_tokenizer.MERGES)
    writer.add_bos_token_id(tiny_tokenizer.END_OF_TEXT)
    writer.add_eos_token_id(tiny_tokenizer.TURN_END)
    writer.add_unk_token_id(tiny_tokenizer.END_OF_TEXT)
    writer.add_pad_token_id(tiny_tokenizer.END_OF_TEXT)
    writer.add_add_bos_token(False)
    writer.add_add_space_prefix(False)
    writer.add_chat_template(tiny_tokenizer.CHAT_TEMPLATE)


def write_gguf(file: str, tiny: TinyGguf, path: Path) -> None:
    vocabulary = len(tiny_tokenizer.TOKENS)
    kv_width = tiny.kv_heads * tiny.hidden // tiny.heads
    shapes = {
        "token_embd": (vocabulary, tiny.hidden),
        "output": (vocabulary, tiny.hidden),
        "blk.0.attn_q": (tiny.hidden, tiny.hidden),
        "blk.0.attn_k": (kv_width, tiny.hidden),
        "blk.0.attn_v": (kv_width, tiny.hidden),
        "blk.0.attn_output": (tiny.hidden, tiny.hidden),
        "blk.0.ffn_gate": (tiny.intermediate, tiny.hidden),
        "blk.0.ffn_up": (tiny.intermediate, tiny.hidden),
        "blk.0.ffn_down": (tiny.hidden, tiny.intermediate),
    }
    writer = gguf.GGUFWriter(path, "llama")
    write_metadata(writer, tiny)
    for name in ["blk.0.attn_norm", "blk.0.ffn_norm", "output_norm"]:
        norm = random_weight(file, published_name(name), (tiny.hidden,))
        writer.add_tensor(f"{name}.weight", norm)
    for name, kind in tiny.types.items():
        stored = stored_tensor(file, name, tiny, shapes[name])
        writer.add_tensor(f"{name}.weight", stored, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def tensor_golden(tensor: gguf.ReaderTensor) -> dict[str, Any]:
    values = gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float64)
    return {
        "type": tensor.tensor_type.name,
        "shape": list(values.shape),
        "first": [float(np.float32(value)) for value in values.reshape(-1)[:32]],
        "sum": round(float(values.sum()), 6),
        "norm": round(float(np.linalg.norm(values)), 6),
    }


def golden(path: Path) -> dict[str, Any]:
    reader = gguf.GGUFReader(path)
    tensors = sorted(reader.tensors, key=lambda tensor: tensor.name)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "model"
        make_folder(path, folder)
        rows = logits(load_float32(folder))
    return {
        "about": (
            "The tensors of the file beside this one, dequantised by the gguf package, rows in the "
            "order of the file (shape is rows, columns; the first 32 values of the first row, the "
            "sum and the Euclidean norm of all), and the logits that Python mlx-lm computes from "
            "them in float32 on the CPU."
        ),
        "made_by": {
            "script": f"scripts/peers/{Path(__file__).name}",
            "gguf": importlib.metadata.version("gguf"),
            "mlx": importlib.metadata.version("mlx"),
            "mlx-lm": importlib.metadata.version("mlx-lm"),
        },
        "tensors": {tensor.name: tensor_golden(tensor) for tensor in tensors},
        "input_ids": INPUT_IDS,
        "logits": rows,
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=GOLDEN, help="where the files go")
    parser.add_argument(
        "--check", action="store_true", help="compare with the files there; write nothing"
    )
    arguments = parser.parse_args()
    mx.set_default_device(mx.cpu)
    arguments.out.mkdir(parents=True, exist_ok=True)
    lines = []
    for name, tiny in FILES.items():
        path = arguments.out / f"{name}.gguf"
        if not arguments.check:
            temporary = path.with_suffix(".making")
            write_gguf(name, tiny, temporary)
            os.replace(temporary, path)
        if name == UNSUPPORTED:
            continue
        if arguments.check:
            lines += golden_file.differences(golden(path), path.with_suffix(".json"))
        else:
            golden_file.write(path.with_suffix(".json"), golden(path))
    for line in lines:
        print(line)
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
