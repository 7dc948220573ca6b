"""Makes the torch and npz files of fixtures/golden/weights with torch, numpy and MLX, and what is in them.

What they prove: files of every kind that torch.save, numpy.savez and mx.savez write are read, each value as the program
that wrote it has it (weights.json), or refused. Two folders hold the weights of the tiny model llama-rope-scaling once
more, in shards of torch and of npz: with its config.json they must compute the logits of its golden.json.

mixed-bits.json says how many bits mlx-lm's recipes give each module.

No one python has all three, so there are two parts: --part torch with a python that has torch, numpy and safetensors,
--part mlx with the python that scripts/peers/environment prints.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import golden_file

GOLDEN = Path(__file__).resolve().parents[2] / "fixtures" / "golden"
OUT = GOLDEN / "weights"
MODEL = GOLDEN / "tiny" / "llama-rope-scaling"
# What the second shard of the model holds.
SECOND_SHARD = ("model.norm", "model.layers.0.mlp")


def described(dtype: str, shape: list[int], values: Any) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "values": values}


def flat(value: Any) -> list[float]:
    if isinstance(value, list):
        return [number for part in value for number in flat(part)]
    return [float(value)]


def torch_files() -> dict[str, Any]:
    import torch

    def description(tensors: dict[str, Any]) -> dict[str, Any]:
        return {
            name: described(str(value.dtype).removeprefix("torch."), list(value.shape), flat(value.tolist()))
            for name, value in tensors.items()
        }

    numbers = torch.tensor([[1.5, -2.25, 3.0], [0.0, 1e-3, -128.0]], dtype=torch.float64)
    whole = torch.tensor([[1, -2, 3], [0, 100, -128]])
    types = {name: numbers.to(getattr(torch, name)) for name in ("float64", "float32", "float16", "bfloat16")}
    types |= {name: whole.to(getattr(torch, name)) for name in ("int64", "int32", "int16", "int8")}
    types |= {"uint8": whole.abs().to(torch.uint8), "bool": whole > 0}
    types |= {"scalar": torch.tensor(2.5), "empty": torch.zeros(0, 4)}

    base = torch.arange(24, dtype=torch.float32).reshape(4, 6)
    views = {
        "whole": base,
        "again": base,
        "transposed": base.t(),
        "row": base[2],
        "column": base[:, 3],
        "every-other": base[::2, 1::2],
        "three-axes": base.reshape(2, 2, 6).permute(2, 0, 1),
        "expanded": torch.tensor([7.0]).expand(3, 2),
        "parameter": torch.nn.Parameter(base[1:3, :2]),
        "buffer-of-one": base[:1, :1],
    }
    files = {"types.bin": types, "views.bin": views}
    for name, tensors in files.items():
        torch.save(tensors, OUT / name)
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.LayerNorm(2))
    state = module.state_dict()
    files |= {"module.pth": dict(state), "protocol-4.pt": dict(state)}
    torch.save(state, OUT / "module.pth")
    torch.save(state, OUT / "protocol-4.pt", pickle_protocol=4)

    torch.save(state, OUT / "refused-legacy.bin", _use_new_zipfile_serialization=False)
    torch.save(module, OUT / "refused-module.pt")
    torch.save({"epoch": 3, "state_dict": state}, OUT / "refused-nested.pt")
    torch.save({"spectrum": torch.ones(2, dtype=torch.complex64)}, OUT / "refused-complex.bin")
    torch.save({"sparse": torch.eye(2).to_sparse()}, OUT / "refused-sparse.bin")
    torch.save({"new": torch.ones(2, dtype=torch.uint16)}, OUT / "refused-uint16.bin")
    torch.jit.save(torch.jit.script(torch.nn.Linear(1, 1)), str(OUT / "refused-compiled.pt"))
    model_shards_of_torch()
    return {name: description(tensors) for name, tensors in files.items()} | numpy_files()


def model_shards_of_torch() -> None:
    import torch
    from safetensors.torch import load_file

    tensors = load_file(MODEL / "model.safetensors")
    # As transformers 4 wrote a tied model, and the frequencies as it did before.
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]
    tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(8)
    names = ["pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin"]
    weight_map = {name: names[name.startswith(SECOND_SHARD)] for name in tensors}
    folder = OUT / "model-torch"
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        torch.save({key: value for key, value in tensors.items() if weight_map[key] == name}, folder / name)
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index, indent=1) + "\n")


def numpy_files() -> dict[str, Any]:
    import numpy as np

    numbers = np.array([[1.5, -2.25, 3.0], [0.0, 1e-3, -128.0]])
    whole = np.array([[1, 2, 3], [0, 100, 127]])
    types = {name: numbers.astype(name) for name in ("float64", "float32", "float16")}
    integers = ("int64", "int32", "int16", "int8", "uint64", "uint32", "uint16", "uint8", "bool")
    types |= {name: whole.astype(name) for name in integers}
    types |= {"fortran": np.asfortranarray(numbers), "scalar": np.array(2.5), "empty": np.zeros((0, 4))}
    np.savez(OUT / "types.npz", **types)
    compressed = {"zeros": np.zeros((64, 64), dtype=np.float32), "numbers": numbers.astype(np.float32)}
    np.savez_compressed(OUT / "compressed.npz", **compressed)
    np.savez(OUT / "refused-objects.npz", objects=np.array([{"a": 1}], dtype=object))
    np.savez(OUT / "refused-big-endian.npz", numbers=numbers.astype(">f4"))
    np.savez(OUT / "refused-records.npz", records=np.zeros(2, dtype=[("a", "<f4"), ("b", "<i4")]))
    files = {"types.npz": types, "compressed.npz": compressed}
    return {
        file: {
            name: described(str(value.dtype), list(value.shape), flat(value.tolist())) for name, value in arrays.items()
        }
        for file, arrays in files.items()
    }


def mlx_files() -> dict[str, Any]:
    import mlx.core as mx

    numbers = mx.array([[1.5, -2.25, 3.0], [0.0, 1e-3, -128.0]])
    arrays = {name: numbers.astype(getattr(mx, name)) for name in ("float32", "float16", "bfloat16")}
    arrays["transposed"] = numbers.T
    mx.savez(str(OUT / "mlx.npz"), **arrays)
    tensors = mx.load(str(MODEL / "model.safetensors"))
    folder = OUT / "model-npz"
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(2):
        shard = {name: value for name, value in tensors.items() if name.startswith(SECOND_SHARD) == bool(number)}
        mx.savez(str(folder / f"weights.{number:02}.npz"), **shard)
    return {
        "mlx.npz": {
            name: described(str(value.dtype).removeprefix("mlx.core."), list(value.shape), flat(value.tolist()))
            for name, value in arrays.items()
        }
    }


def mixed_bits() -> dict[str, Any]:
    """Bits of every module by mlx-lm's recipes, for models of several depths."""
    from mlx_lm.convert import QUANT_RECIPES, mixed_quant_predicate_builder
    from mlx_lm.models import llama

    found: dict[str, Any] = {}
    for layers in (2, 4, 13, 30):
        model = llama.Model(
            llama.ModelArgs(
                model_type="llama",
                hidden_size=8,
                num_hidden_layers=layers,
                intermediate_size=8,
                num_attention_heads=1,
                rms_norm_eps=1e-5,
                vocab_size=8,
                tie_word_embeddings=False,
            )
        )
        modules = [(path, module) for path, module in model.named_modules() if hasattr(module, "to_quantized")]
        for recipe in QUANT_RECIPES:
            predicate = mixed_quant_predicate_builder(recipe, model)
            high = {path: predicate(path, module)["bits"] for path, module in modules}
            common = high["model.embed_tokens"]
            found[f"{recipe} {layers}"] = {
                "common": common,
                "others": {path: bits for path, bits in sorted(high.items()) if bits != common},
            }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=("torch", "mlx"), required=True)
    part = parser.parse_args().part
    OUT.mkdir(parents=True, exist_ok=True)
    path = OUT / "weights.json"
    known = json.loads(path.read_text()) if path.exists() else {}
    if part == "mlx":
        golden_file.write(OUT / "mixed-bits.json", mixed_bits())
    golden_file.write(path, dict(sorted((known | (torch_files() if part == "torch" else mlx_files())).items())))


if __name__ == "__main__":
    main()
