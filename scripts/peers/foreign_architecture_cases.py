"""Judges adapters on architectures that `diagnose` lacks, with the answers and losses of Python mlx-lm.

The tiny chat model in fixtures/embedded is renamed to `granite`, whose multipliers can be set so that it computes what llama
does: what mlx-lm measures of it must be what `diagnose` itself measures of the same adapter on the llama. Further cases
change the adapter as people do, train one on a random `gemma2` and on a random mixture of experts, and take mlx-lm away.

Exits with 0 when every case is told right, 1 when one is not, 2 when one could not be made. Run it with the python that
scripts/peers/environment prints.
"""

import argparse
import json
import math
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten
from mlx_lm.utils import _get_classes

from mlx_lm_cases import MODEL, Maker, Situation, half, setting, wider
from tiny_weights import random_weight

TOKENIZER_FILES = ["tokenizer.json", "tokenizer_config.json", "generation_config.json"]
# Losses of two programs in float32 on the same values.
TOLERANCE = 1e-3
GEMMA2 = {
    "model_type": "gemma2",
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "rms_norm_eps": 1e-6,
    "query_pre_attn_scalar": 16,
}
QWEN3_MOE = {
    "model_type": "qwen3_moe",
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "intermediate_size": 96,
    "moe_intermediate_size": 32,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "decoder_sparse_step": 1,
    "mlp_only_layers": [],
    "norm_topk_prob": True,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "tie_word_embeddings": True,
}


@dataclass
class Case:
    """One situation, and what must be said about it."""

    name: str
    make: Callable[[Maker], Situation]
    # Any of these as the first root cause; nothing means that there may be no error.
    causes: tuple[str, ...] = ()
    verdict: str | None = None
    has_mlx_lm: bool = True
    answered: bool = True


def like_llama(folder: Path) -> Path:
    """The tiny chat model under another name, in float32 so that both programs compute with the same values."""
    shutil.copytree(MODEL, folder)
    config = json.loads((folder / "config.json").read_text())
    head = config["hidden_size"] // config["num_attention_heads"]
    config |= {
        "model_type": "granite",
        "architectures": ["GraniteForCausalLM"],
        "torch_dtype": "float32",
        "embedding_multiplier": 1.0,
        "residual_multiplier": 1.0,
        "attention_multiplier": 1 / math.sqrt(head),
        "logits_scaling": 1.0,
    }
    (folder / "config.json").write_text(json.dumps(config))
    weights = mx.load(str(folder / "model.safetensors"))
    weights = {name: value.astype(mx.float32) for name, value in weights.items()}
    # Read before the file is replaced.
    mx.eval(weights)
    mx.save_safetensors(str(folder / "model.safetensors"), weights, {"format": "mlx"})
    return folder


def random_model(folder: Path, config: dict[str, Any]) -> Path:
    """A model of random weights with the tokenizer of the tiny chat model."""
    folder.mkdir()
    config = {"vocab_size": 1000, "max_position_embeddings": 256, "eos_token_id": 2, "torch_dtype": "float32"} | config
    (folder / "config.json").write_text(json.dumps(config))
    for name in TOKENIZER_FILES:
        shutil.copy(MODEL / name, folder / name)
    model_class, arguments_class = _get_classes(config)
    model = model_class(arguments_class.from_dict(config))
    shapes = tree_flatten(model.parameters())
    weights = {name: mx.array(random_weight(config["model_type"], name, value.shape)) for name, value in shapes}
    mx.save_safetensors(str(folder / "model.safetensors"), weights, {"format": "mlx"})
    return folder


def changed_values(change: Callable[[str, np.ndarray], np.ndarray]) -> Callable[[dict], dict]:
    return lambda tensors: {name: change(name, tensor) for name, tensor in tensors.items()}


def zero_b(name: str, tensor: np.ndarray) -> np.ndarray:
    return tensor * 0 if name.endswith("lora_b") else tensor


def trained_on(maker: Maker, name: str, config: dict[str, Any]) -> Situation:
    model = random_model(maker.folder / f"{name}-base", config)
    return maker.train(name, None, model, "--mask-prompt")


def of_another_base(maker: Maker) -> Situation:
    healthy = maker.healthy()
    model = random_model(maker.folder / "another-base", GEMMA2)
    return Situation(healthy.adapter, healthy.data, model)


def unknown_to_both(maker: Maker) -> Situation:
    healthy = maker.healthy()
    model = maker.folder / "unknown-base"
    shutil.copytree(maker.model, model)
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"model_type": "no_such_model"}))
    return Situation(healthy.adapter, healthy.data, model)


NEVER_MOVED = ("adapter-never-moved",)
CASES = [
    Case("control", lambda maker: maker.healthy(), verdict="healthy"),
    Case("learning-rate-zero", lambda maker: maker.train("learning-rate-zero", None, None, "--mask-prompt", learning_rate=0), NEVER_MOVED),
    Case("zero-b", lambda maker: maker.changed("zero-b", changed_values(zero_b)), NEVER_MOVED),
    Case("half-of-the-tensors", lambda maker: maker.changed("half-of-the-tensors", half), ("finished-adapter-incomplete",)),
    Case("another-width", lambda maker: maker.changed("another-width", wider), ("finished-adapter-does-not-fit",)),
    Case("not-a-number", lambda maker: maker.changed("not-a-number", changed_values(lambda _, tensor: tensor * np.nan)), ("loss-not-finite",)),
    Case(
        "scale-lost",
        lambda maker: maker.changed("scale-lost", configuration=setting("lora_parameters", "scale", value=1.0)),
        ("adapter-too-weak",),
    ),
    Case("of-another-base", of_another_base, ("base-cannot-predict", "finished-adapter-does-not-fit")),
    Case("gemma2", lambda maker: trained_on(maker, "gemma2", GEMMA2), ("base-cannot-predict",)),
    Case("experts", lambda maker: trained_on(maker, "experts", QWEN3_MOE), ("base-cannot-predict",)),
    Case("without-mlx-lm", lambda maker: maker.healthy(), verdict="incomplete", has_mlx_lm=False, answered=False),
    Case("zero-b-without-mlx-lm", lambda maker: Situation(maker.folder / "zero-b", maker.healthy().data), NEVER_MOVED, has_mlx_lm=False, answered=False),
    Case("unknown-to-mlx-lm", unknown_to_both, verdict="incomplete", answered=False),
]


def judge(diagnose: Path, maker: Maker, name: str, situation: Situation, python: str) -> tuple[dict, dict]:
    out = maker.folder / f"{name}-report"
    command = [diagnose, "--model", situation.model or maker.model, "--data", situation.data, "--dtype", "float32"]
    command += ["--adapter", situation.adapter, "--out", out]
    environment = os.environ | {"MLX_DIAGNOSE_PYTHON": python}
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False, env=environment)
    if not (out / "report.json").exists():
        raise RuntimeError(f"{name}: no report; {done.stderr.strip()}")
    return json.loads((out / "report.json").read_text()), json.loads((out / "evidence.json").read_text())


def texts(evidence: dict, slot: str) -> list[str]:
    return [answer["text"] for answer in evidence[slot]["ran"]["answers"]]


def numbers(evidence: dict) -> dict[str, float]:
    """What both programs measure of the same model."""
    fit = evidence["fit"]["ran"]
    found = {}
    for when in ("before", "after"):
        measured = fit[when]["ran"]
        for key in ("supervised", "unsupervised", "end_log_odds", "elsewhere_log_odds", "end_rank"):
            found[f"{when} {key}"] = measured[key] or 0.0
        for offset, share in enumerate(measured["offset_agreement"]):
            found[f"{when} agreement {offset}"] = share
        found[f"validation {when}"] = fit[f"validation_{when}"]
    for slot in ("baseline", "generation"):
        for number, answer in enumerate(evidence[slot]["ran"]["answers"]):
            found[f"{slot} {number} reference"] = answer["reference_nll"] or 0.0
            found[f"{slot} {number} free"] = answer["free_run"]["end_of_text"]
    for scaled in evidence["adapter_files"]["ran"]["scaled_losses"]:
        found[f"scaled {scaled['factor']}"] = scaled["loss"]
    adapter = evidence["parameters"]["ran"]["adapter"]
    for key in ("nonzero_a", "nonzero_b", "blocks", "linear_layers", "adapted_blocks"):
        found[key] = adapter[key]
    for update in adapter["updates"]:
        found[update["module"]] = update["relative"]
    return found


def differences(ours: dict, theirs: dict) -> list[str]:
    lines = [slot for slot in ("baseline", "generation") if texts(ours, slot) != texts(theirs, slot)]
    ours, theirs = numbers(ours), numbers(theirs)
    if ours.keys() != theirs.keys():
        lines.append(f"keys {ours.keys() ^ theirs.keys()}")
    for key in ours.keys() & theirs.keys():
        if not math.isclose(ours[key], theirs[key], rel_tol=TOLERANCE, abs_tol=TOLERANCE):
            lines.append(f"{key}: {ours[key]} and {theirs[key]}")
    return sorted(lines)


def compare(diagnose: Path, maker: Maker) -> list[str]:
    """What differs between the llama in this program and the same model in mlx-lm, with the same adapter."""
    healthy = maker.healthy()
    _, theirs = judge(diagnose, maker, "as-granite", healthy, sys.executable)
    llama = Situation(healthy.adapter, healthy.data, MODEL)
    _, ours = judge(diagnose, maker, "as-llama", llama, sys.executable)
    return differences(ours, theirs)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--diagnose", type=Path, required=True, help="the program")
    parser.add_argument("--steps", type=int, default=40, help="iterations of each training")
    parser.add_argument("--out", type=Path, required=True, help="an empty folder for everything that is made")
    parser.add_argument("--only", default="", help="these cases, separated by commas")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    if any(arguments.out.iterdir()):
        parser.error(f"`{arguments.out}` is not empty")
    mx.set_default_device(mx.cpu)
    folder, diagnose = arguments.out.resolve(), arguments.diagnose.resolve()
    maker = Maker(folder, like_llama(folder / "granite"), arguments.steps)
    wrong = compare(diagnose, maker)
    for line in wrong:
        print(f"WRONG same numbers: {line}")
    failed = bool(wrong)
    print(f"{'WRONG' if wrong else 'ok   '} same-numbers: {len(wrong)} differ", flush=True)
    for case in CASES:
        if arguments.only and case.name not in arguments.only.split(","):
            continue
        python = sys.executable if case.has_mlx_lm else "false-python-that-is-not-there"
        report, evidence = judge(diagnose, maker, case.name, case.make(maker), python)
        roots = [
            finding["name"]
            for finding in report["findings"]
            if finding["explained_by"] is None and finding["severity"] == "error"
        ]
        right = bool(roots) and roots[0] in case.causes if case.causes else not roots
        right = right and ("ran" in evidence["generation"]) == case.answered
        right = right and case.verdict in (None, report["verdict"])
        failed |= not right
        expected = " or ".join(case.causes) or case.verdict
        print(f"{'ok   ' if right else 'WRONG'} {case.name}: {', '.join(roots) or report['verdict']} (expected {expected})", flush=True)
        if not right:
            print(f"      {report['headline']}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
