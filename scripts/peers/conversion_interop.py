"""Loads what `diagnose convert model` and `diagnose fuse` wrote in Python mlx-lm, and compares with mlx-lm's own files.

What it proves: folders made of safetensors, torch, npz and GGUF, plain, packed in every number of bits and every mode, by
mlx-lm's recipes and unpacked again, are accepted by mlx-lm's strict loader and give the same logits there as here, within
1e-3 in float32; where mlx-lm reads the source itself, its own `convert` packs every weight in the same words, and what it wrote
gives the same logits here; and a fused folder gives the logits of mlx-lm's own `fuse`,
or where that works in bfloat16, of the same in float32.

Exits with 0 when all of it holds, 1 when something does not, 2 when something could not be made. Run it with the python
that scripts/peers/environment prints.
"""

import argparse
import contextlib
import io
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_unflatten
from mlx_lm.convert import convert
from mlx_lm.models.switch_layers import QuantizedSwitchLinear
from mlx_lm.tuner.lora import LoRALinear
from mlx_lm.utils import dequantize_model, load

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "fixtures" / "golden"
TINY = GOLDEN / "tiny"
SMOLLM2 = ROOT / "models"
INPUT_IDS = [1, 87, 72, 287, 3, 3, 142, 258, 64, 2, 200, 99]
# Both sides compute in float32, one with packed and one with unpacked weights.
TOLERANCE = 1e-3
FLOAT32 = ("--dtype", "float32")
MODES = ("mxfp4", "nvfp4", "mxfp8")
RECIPES = ("mixed_2_6", "mixed_3_4", "mixed_3_6", "mixed_4_6")


class Check:
    """Counts what holds."""

    def __init__(self) -> None:
        self.passed = 0
        self.failed = 0

    def that(self, what: str, holds: bool, found: object) -> None:
        self.passed += holds
        self.failed += not holds
        print(f"{'holds' if holds else 'FAILS'}: {what}: {found}", flush=True)


def run(command: list[str]) -> str:
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode != 0:
        raise RuntimeError(f"exit code {result.returncode} of: {' '.join(command)}\n{result.stdout}{result.stderr}")
    return result.stdout


def logits_of_mlx_lm(folder: Path) -> np.ndarray:
    model, _ = load(str(folder))
    if any(isinstance(module, QuantizedSwitchLinear) for module in model.modules()):
        # mlx-lm 0.32.2 multiplies by packed experts with an argument that MLX 0.32.2 does not know.
        model = dequantize_model(model)
        model.set_dtype(mx.float32)
    return np.array(model(mx.array([INPUT_IDS]))[0].astype(mx.float32))


def logits_of_diagnose(diagnose: Path, folder: Path, out: Path) -> np.ndarray:
    ids = ",".join(str(index) for index in INPUT_IDS)
    run([str(diagnose), "verify", "logits", "--model", str(folder), "--ids", ids, "--out", str(out)])
    answer = json.loads(out.read_text())
    return np.array(answer["logits"], dtype=np.float32).reshape(answer["shape"])


def in_other_format(name: str, target: Path) -> Path:
    """The tiny model of stretched rotary embeddings with its weights from fixtures/golden/weights."""
    shutil.copytree(TINY / "llama-rope-scaling", target, ignore=shutil.ignore_patterns("*.safetensors"))
    for file in (GOLDEN / "weights" / name).iterdir():
        shutil.copy(file, target)
    return target


def same_tensors(left: Path, right: Path) -> str:
    """Empty when both folders hold the same tensors, else the first that differs."""
    found, expected = (mx.load(str(folder / "model.safetensors")) for folder in (left, right))
    if found.keys() != expected.keys():
        return f"names: {sorted(found.keys() ^ expected.keys())[:3]}"
    for name, value in expected.items():
        if found[name].dtype != value.dtype or not mx.array_equal(found[name], value).item():
            return f"{name}: {found[name].dtype} and {value.dtype}"
    return ""


def conversions(diagnose: Path, work: Path, check: Check) -> None:
    sources = {
        "llama": TINY / "llama",
        "llama-untied": TINY / "llama-untied",
        "mistral": TINY / "mistral",
        "qwen2": TINY / "qwen2",
        "qwen3": TINY / "qwen3",
        "torch": in_other_format("model-torch", work / "torch"),
        "npz": in_other_format("model-npz", work / "npz"),
    }
    packings = [("--bits", bits, "--group-size", "32") for bits in "234568"] + [("--bits", "4", "--group-size", "64")]
    packings += [("--quant-predicate", recipe, "--group-size", "32") for recipe in RECIPES]
    packings += [("--mode", mode) for mode in MODES]
    few = [(), ("--bits", "4"), packings[4], *(("--mode", mode) for mode in MODES)]
    cases = [(name, path, options) for name, path in sources.items() for options in few]
    cases += [("llama", sources["llama"], options) for options in packings]
    # Its rows are 32 and 48 wide.
    few = [(), *packings[:6], *(("--mode", mode) for mode in MODES)]
    cases += [("mixtral", TINY / "mixtral", options) for options in few]
    for name in ("llama-4bit", "llama-floats"):
        cases += [(name, TINY / name, options) for options in [(), ("--dequantize",)]]
    for name in ("simple-types", "k-quants"):
        path = GOLDEN / "gguf" / f"{name}.gguf"
        cases += [(name, path, options) for options in [(), ("--dequantize",)]]
    smollm2 = SMOLLM2 / "SmolLM2-135M-Instruct.Q4_1.gguf"
    if smollm2.exists():
        cases += [("SmolLM2", smollm2, options) for options in [(), ("--dequantize",)]]
    folder = SMOLLM2 / "SmolLM2-135M-Instruct-f32"
    if folder.exists():
        few = [("--bits", "4"), ("--quant-predicate", "mixed_3_6"), *(("--mode", mode) for mode in MODES)]
        cases += [("SmolLM2 in f32", folder, options) for options in few]
    for number, (name, source, options) in enumerate(cases):
        out = work / f"out-{number}"
        run([str(diagnose), "convert", "model", str(source), "--out", str(out), *FLOAT32, *options])
        theirs, ours = logits_of_mlx_lm(out), logits_of_diagnose(diagnose, out, work / "logits.json")
        difference = float(np.abs(theirs - ours).max())
        what = " ".join([name, *options])
        check.that(f"logits of {what}", difference <= TOLERANCE and float(np.abs(ours).max()) > 0.1, difference)
        if source.is_dir() and "--dequantize" not in options and name not in ("torch", "npz"):
            theirs_folder = work / f"mlx-lm-{number}"
            settings = dict(zip(options[::2], options[1::2]))
            with contextlib.redirect_stdout(io.StringIO()):
                convert(
                    str(source),
                    str(theirs_folder),
                    quantize=bool(options),
                    q_bits=int(settings["--bits"]) if "--bits" in settings else None,
                    q_group_size=None if "--mode" in settings else int(settings.get("--group-size", 64)),
                    q_mode=settings.get("--mode", "affine"),
                    dtype="float32",
                    quant_predicate=settings.get("--quant-predicate"),
                )
            unlike = same_tensors(out, theirs_folder)
            check.that(f"tensors of {what}", not unlike, unlike or "equal")
            if "--mode" in settings:
                read = logits_of_diagnose(diagnose, theirs_folder, work / "logits.json")
                difference = float(np.abs(theirs - read).max())
                check.that(f"logits of mlx-lm's own {what}", difference <= TOLERANCE, difference)
            shutil.rmtree(theirs_folder)
        shutil.rmtree(out)


def fused_in_float32(folder: Path, adapter: str, dequantize: bool) -> np.ndarray:
    """Logits with an adapter fused as mlx-lm does, but in float32: its own `fuse` unpacks these modes to bfloat16."""
    model, _ = load(str(folder), adapter_path=adapter)
    fused = []
    for name, module in model.named_modules():
        if not isinstance(module, LoRALinear):
            continue
        packed = module.linear
        how = {"group_size": packed.group_size, "bits": packed.bits, "mode": packed.mode}
        linear = nn.Linear(1, 1, bias=False)
        linear.weight = mx.dequantize(packed.weight, packed.scales, **how, dtype=mx.float32)
        linear.weight += (module.scale * module.lora_b.T) @ module.lora_a.T
        fused.append((name, linear if dequantize else nn.QuantizedLinear.from_linear(linear, **how)))
    model.update_modules(tree_unflatten(fused))
    return np.array(model(mx.array([INPUT_IDS]))[0].astype(mx.float32))


def fusing(diagnose: Path, work: Path, check: Check) -> None:
    bases = {"plain": (), "packed": ("--bits", "8", "--group-size", "32")}
    bases |= {mode: ("--mode", mode) for mode in MODES}
    for base, options in bases.items():
        model = work / f"base-{base}"
        run([str(diagnose), "convert", "model", str(TINY / "llama"), "--out", str(model), *FLOAT32, *options])
        for adapter in ("adapter", "adapter-last-block"):
            for switch in [(), ("--dequantize",)]:
                name = "-".join([base, adapter, *switch])
                ours, theirs = work / f"ours-{name}", work / f"theirs-{name}"
                path = str(TINY / "llama" / adapter)
                run([str(diagnose), "fuse", "--model", str(model), "--adapter", path, "--out", str(ours), *switch])
                if base in MODES:
                    expected = fused_in_float32(model, path, dequantize=bool(switch))
                else:
                    command = [sys.executable, "-m", "mlx_lm", "fuse", "--model", str(model), "--adapter-path", path]
                    run([*command, "--save-path", str(theirs), *switch])
                    expected = logits_of_mlx_lm(theirs)
                difference = float(np.abs(logits_of_mlx_lm(ours) - expected).max())
                what = " ".join([base, "fused with", adapter, *switch])
                check.that(f"logits of {what}", difference <= TOLERANCE, difference)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--diagnose", type=Path, required=True, help="the program")
    diagnose = parser.parse_args().diagnose.resolve()
    mx.set_default_device(mx.cpu)
    check = Check()
    with tempfile.TemporaryDirectory() as folder:
        try:
            conversions(diagnose, Path(folder), check)
            fusing(diagnose, Path(folder), check)
        except (OSError, RuntimeError, ValueError) as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
    print(f"{check.passed} of {check.passed + check.failed} hold")
    return 1 if check.failed else 0


if __name__ == "__main__":
    sys.exit(main())
