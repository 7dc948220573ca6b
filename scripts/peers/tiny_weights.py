"""The random weights of the tiny models."""

import zlib

import numpy as np


TABLES = ["embed_tokens", "lm_head", "wte", "wpe"]


def random_weight(model: str, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Values that depend on the names only. No weight is left at a value that hides its absence.

    A weight of a linear layer has the shape (outputs, inputs); lora_a has (inputs, rank).
    """
    draw = np.random.default_rng([zlib.crc32(model.encode()), zlib.crc32(name.encode())])
    values = draw.standard_normal(shape)
    if name.endswith("bias"):
        values = 0.3 * values
    elif "norm" in name or ".ln_" in name:
        values = 1 + 0.2 * values
    elif name.endswith("lora_b"):
        values = 0.02 * values
    elif name.endswith("lora_a"):
        values = values / np.sqrt(shape[0])
    elif any(table in name for table in TABLES):
        # Logits of a few units, as a real model has.
        values = 0.25 * values
    else:
        # Above the usual 1, so that attention is far from uniform.
        values = 1.5 * values / np.sqrt(shape[-1])
    return values.astype(np.float32)
