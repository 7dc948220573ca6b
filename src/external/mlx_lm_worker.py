"""Answers prompts and reads rows with Python mlx-lm, for architectures that the program that calls it does not have.

Takes two files, the assignment and where the result goes, both JSON. Prints a line for everything done. Exits with 3 when
mlx-lm is not there, with 4 when mlx-lm does not have the architecture either, and with another code when something fails.
"""

import json
import math
import sys
import time
from pathlib import Path

NO_MLX_LM = 3
NO_ARCHITECTURE = 4
PREFILL_TOKENS = 512
OFFSETS = 3

try:
    import mlx.core as mx
    import mlx.nn as nn
    import mlx_lm
    from mlx.utils import tree_flatten, tree_unflatten
    from mlx_lm.models.cache import make_prompt_cache
    from mlx_lm.models.switch_layers import QuantizedSwitchLinear, SwitchLinear
    from mlx_lm.tuner.dora import DoRALinear
    from mlx_lm.tuner.lora import LoRALinear, LoRASwitchLinear
    from mlx_lm.utils import load_model
except ImportError as error:
    print(f"mlx-lm cannot be imported: {error}")
    sys.exit(NO_MLX_LM)

LINEARS = (nn.Linear, nn.QuantizedLinear, SwitchLinear, QuantizedSwitchLinear)
SWITCHES = (SwitchLinear, QuantizedSwitchLinear)


def shape_before_packing(module: nn.Module) -> list[int]:
    shape = list(module.weight.shape)
    if "scales" in module:
        shape[-1] = shape[-1] * 32 // module.bits
    return shape


def block_prefix(model: nn.Module) -> str:
    """The path of all blocks up to the number, for example `model.layers.`."""
    first = model.layers[0]
    for path, module in model.named_modules():
        if module is first:
            return path.rsplit(".", 1)[0] + "."
    raise ValueError("the blocks of the model are not in its tree")


def describe(model: nn.Module) -> dict:
    modules = model.named_modules()
    return {
        "version": mlx_lm.__version__,
        "device": str(mx.default_device()),
        "block_prefix": block_prefix(model),
        "blocks": len(model.layers),
        "linears": {path: shape_before_packing(module) for path, module in modules if isinstance(module, LINEARS)},
        "weights": {name: list(value.shape) for name, value in tree_flatten(model.parameters())},
    }


def adapt(model: nn.Module, adapter: dict) -> tuple[list[str], list[nn.Module]]:
    """Puts on what fits and leaves the rest; returns the names that were put on and the adapted layers."""
    tensors = mx.load(adapter["tensors"])
    if adapter["kind"] == "full":
        own = dict(tree_flatten(model.parameters()))
        fitting = [(name, value) for name, value in tensors.items() if name in own and own[name].shape == value.shape]
        model.load_weights(fitting, strict=False)
        return [name for name, _ in fitting], []
    applied, layers = [], []
    for path, module in model.named_modules():
        if isinstance(module, LINEARS):
            names, layer = adapted(path, module, tensors, adapter)
            applied += names
            if layer is not None:
                layers.append((path, layer))
    model.update_modules(tree_unflatten(layers))
    return applied, [layer for _, layer in layers]


def adapted(path: str, module: nn.Module, tensors: dict, adapter: dict) -> tuple[list[str], nn.Module | None]:
    lora_a, lora_b = tensors.get(f"{path}.lora_a"), tensors.get(f"{path}.lora_b")
    if lora_a is None or lora_b is None:
        return [], None
    is_dora = adapter["kind"] == "dora"
    magnitude = tensors.get(f"{path}.m")
    *experts, outputs, inputs = shape_before_packing(module)
    if isinstance(module, SWITCHES):
        rank = lora_a.shape[-2] if lora_a.ndim == 3 else 0
        shapes = ((*experts, rank, inputs), (*experts, outputs, rank))
    else:
        rank = lora_a.shape[-1] if lora_a.ndim == 2 else 0
        shapes = ((inputs, rank), (rank, outputs))
    fits = rank > 0 and (lora_a.shape, lora_b.shape) == shapes
    if not fits or (magnitude is not None and magnitude.shape != (outputs,)):
        return [], None
    kind = LoRASwitchLinear if isinstance(module, SWITCHES) else DoRALinear if is_dora else LoRALinear
    layer = kind.from_base(module, r=rank, dropout=0.0, scale=adapter["scales"].get(path, adapter["scale"]))
    layer.lora_a, layer.lora_b = lora_a, lora_b
    names = [f"{path}.lora_a", f"{path}.lora_b"]
    if magnitude is not None:
        names.append(f"{path}.m")
        if is_dora:
            layer.m = magnitude
    return names, layer


def answer(model: nn.Module, prompt: list[int], task: dict) -> dict:
    """Greedy tokens: one pass for the answer, which ends at a stop token, and for what would come if nothing stopped it."""
    cache = make_prompt_cache(model)
    stops, tokens, answered = set(task["stop_ids"]), [], False
    pending = mx.array(prompt)
    while True:
        for start in range(0, pending.size, PREFILL_TOKENS):
            logits = model(pending[None, start : start + PREFILL_TOKENS], cache=cache)[0, -1].astype(mx.float32)
            mx.eval(logits)
        if not math.isfinite(logits.sum().item()):
            return {"tokens": tokens, "not_finite": True}
        token = mx.argmax(logits).item()
        tokens.append(token)
        answered = answered or token in stops or len(tokens) >= task["answer_tokens"]
        if answered and len(tokens) >= task["at_least_tokens"]:
            return {"tokens": tokens, "not_finite": False}
        pending = mx.array([token])


def finite(values: list) -> list:
    """JSON has no NaN."""
    return [finite(value) if isinstance(value, list) else value if math.isfinite(value) else None for value in values]


def read(model: nn.Module, row: dict, stop_ids: list[int]) -> dict:
    """What the model predicts at every position of a row."""
    tokens = row["tokens"]
    logits = model(mx.array([tokens]))[0]
    dtype = str(logits.dtype).rsplit(".", 1)[-1]
    logits = logits.astype(mx.float32)
    normaliser = mx.logsumexp(logits, axis=-1, keepdims=True)
    behind = tokens + [0] * (OFFSETS - 1)
    targets = mx.array([behind[column : column + OFFSETS] for column in range(len(tokens))])
    picked = mx.take_along_axis(logits, targets, axis=-1)
    stops = [stop for stop in stop_ids if stop < logits.shape[-1]]
    stopping = None
    if stops:
        stopping = finite((mx.logsumexp(logits[:, mx.array(stops)], axis=-1) - normaliser[:, 0]).tolist())
    ranks = [None] * len(tokens)
    for column, token in enumerate(tokens[1:]):
        if token in stops:
            ranks[column] = (logits[column] > logits[column, token]).sum().item() + 1
    return {
        "losses": finite((normaliser - picked).tolist()),
        "likeliest": mx.argmax(logits, axis=-1).tolist(),
        "stop_log_probabilities": stopping,
        "ranks": ranks,
        "dtype": dtype,
    }


def mean_loss(model: nn.Module, rows: list[dict]) -> float | None:
    """In nats per supervised token."""
    total, count = 0.0, 0
    for row in rows:
        tokens, mask = mx.array(row["tokens"]), mx.array(row["supervised"])[1:]
        losses = nn.losses.cross_entropy(model(tokens[None])[0, :-1].astype(mx.float32), tokens[1:])
        total += (losses * mask).sum().item()
        count += int(mask.sum().item())
    loss = total / count if count else math.nan
    return loss if math.isfinite(loss) else None


def state(model: nn.Module, task: dict, name: str) -> dict:
    begun = time.monotonic()
    answers = []
    for number, prompt in enumerate(task["prompts"], 1):
        answers.append(answer(model, prompt, task))
        print(f"{name}: prompt {number} of {len(task['prompts'])}", flush=True)
    seconds = time.monotonic() - begun
    rows = [read(model, row, task["stop_ids"]) for row in task["rows"]]
    print(f"{name}: {len(rows)} rows read", flush=True)
    return {"answers": answers, "seconds": seconds, "rows": rows}


def scaled_losses(model: nn.Module, layers: list[nn.Module], task: dict) -> list[float | None]:
    """The loss of the first rows with the change of the adapted layers multiplied; DoRA's does not grow with its scale."""
    if not layers or any(isinstance(layer, DoRALinear) for layer in layers):
        return []
    scales = [layer.scale for layer in layers]
    losses = []
    for factor in task["factors"]:
        for layer, scale in zip(layers, scales):
            layer.scale = scale * factor
        losses.append(mean_loss(model, task["rows"][: task["scaled_rows"]]))
    for layer, scale in zip(layers, scales):
        layer.scale = scale
    return losses


def main() -> None:
    task = json.loads(Path(sys.argv[1]).read_text())
    try:
        model, _ = load_model(Path(task["model"]))
    except ValueError as error:
        if "not supported" not in str(error):
            raise
        print(error)
        sys.exit(NO_ARCHITECTURE)
    model.eval()
    print("the model is loaded", flush=True)
    result = {"model": describe(model), "base": state(model, task, "base")}
    applied, layers = adapt(model, task["adapter"])
    model.eval()
    result |= {
        "applied": applied,
        "adapted": state(model, task, "adapter"),
        "scaled_losses": scaled_losses(model, layers, task),
    }
    Path(sys.argv[2]).write_text(json.dumps(result, allow_nan=False))


main()
