#!/usr/bin/env python3
"""Records what each process of mlx-lm's LoRA training does, for `diagnose --log FOLDER`.

    mlx.launch -n 2 python record_ranks.py FOLDER --model MODEL --train --data DATA ...

What stands behind FOLDER are the options of `mlx_lm lora`. Every process writes FOLDER/rank-N.jsonl: first

    {"begin": {"rank": 0, "size": 2, "parameters": CHECKSUM}}

and after each update

    {"update": {"update": 1, "parameters": CHECKSUM, "trained": SKETCH, "rows": [CHECKSUM, ...], "supervised_tokens": N,
                "positions": N, "own": SKETCH, "applied": SKETCH, "own_seconds": S, "seconds": S, "active_memory": BYTES}}

where a SKETCH is {"norm": N, "projection": N}, or null for numbers that are not finite: the length of a vector and its product with
random signs that every process draws alike, other ones in each update for gradients (`own`, before they are averaged, and
`applied`, as the optimizer is given them), and the same ones always for the trained values. A trainer of your own can write the
same: `Recorder` needs nothing of mlx-lm.

The steps are not compiled, since what a compiled step computes cannot be looked at; training is slower by that.
"""

import json
import math
import sys
import time
import zlib
from pathlib import Path

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten


def arrays(tree):
    """The arrays of a tree by name, in an order that every process has."""
    return sorted(tree_flatten(tree))


def checksum(tree):
    """A checksum of the names and the bits of all arrays of a tree."""
    found = 0
    for name, array in arrays(tree):
        found = zlib.crc32(name.encode(), found)
        found = zlib.crc32(np.array(array.reshape(-1).view(mx.uint8)).tobytes(), found)
    return found


def sketch(tree, seed):
    """Length, and product with the random signs of `seed`: the sign of an element is that of its row times that of its column."""
    signs = np.random.RandomState(seed)
    squares, projection = 0.0, 0.0
    for _, array in arrays(tree):
        matrix = array.astype(mx.float32).reshape(-1, array.shape[-1] if array.ndim else 1)
        rows, columns = (mx.array(signs.choice([-1.0, 1.0], side).astype(np.float32)) for side in matrix.shape)
        projection += (rows @ (matrix @ columns)).item()
        squares += mx.square(matrix).sum().item()
    if not math.isfinite(squares) or not math.isfinite(projection):
        return None
    return {"norm": math.sqrt(squares), "projection": projection}


class Recorder:
    """Writes the records of this process."""

    def __init__(self, folder, group):
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self.group = group
        self.file = open(folder / f"rank-{group.rank()}.jsonl", "w")
        self.updates = 0
        self.forget()

    def forget(self):
        self.rows, self.supervised, self.positions = [], 0, 0
        self.began = time.perf_counter()

    def write(self, kind, fields):
        self.file.write(json.dumps({kind: fields}) + "\n")
        self.file.flush()

    def begin(self, trained):
        """Once, with the trained values before the first update."""
        place = {"rank": self.group.rank(), "size": self.group.size()}
        self.write("begin", {**place, "parameters": checksum(trained)})
        self.forget()

    def computes(self, rows, supervised_tokens, positions):
        """Before each backward pass: the token ids of its rows without padding, its targets, and its positions with padding."""
        ids = (np.asarray(row, dtype="<i4").tobytes() for row in rows)
        self.rows.extend(zlib.crc32(row) for row in ids)
        self.supervised += supervised_tokens
        self.positions += positions

    def averages(self, own, average):
        """Once in an update: what `average` makes of the process's own gradients."""
        mx.eval(own)
        self.own_seconds = time.perf_counter() - self.began
        seed = self.updates + 1
        self.own = sketch(own, seed)
        applied = average(own)
        mx.eval(applied)
        self.applied = sketch(applied, seed)
        return applied

    def updated(self, trained):
        """After each update, with the trained values."""
        mx.eval(trained)
        self.updates += 1
        fields = {
            "update": self.updates,
            "parameters": checksum(trained),
            "trained": sketch(trained, 0),
            "rows": sorted(self.rows),
            "supervised_tokens": self.supervised,
            "positions": self.positions,
            "own": self.own if self.supervised else None,
            "applied": self.applied,
            "own_seconds": self.own_seconds,
            "seconds": time.perf_counter() - self.began,
            "active_memory": mx.get_active_memory(),
        }
        self.write("update", fields)
        self.forget()


def record_mlx_lm(folder):
    """Makes mlx-lm's trainer record what it does."""
    import mlx.optimizers
    from mlx_lm.tuner import trainer

    recorder = Recorder(folder, mx.distributed.init())
    average, loss, train = trainer.average_gradients, trainer.default_loss, trainer.train
    apply = mlx.optimizers.Optimizer.update

    def recorded_loss(model, batch, lengths):
        # Held-out rows are measured by the same function, outside of training.
        if model.training:
            ends = np.array(lengths)
            tokens = np.array(batch)
            # A target is at most the last column, and the first one is never a target.
            targets = np.minimum(ends[:, 1], tokens.shape[1] - 1) - np.maximum(ends[:, 0], 1) + 1
            rows = [row[:end] for row, end in zip(tokens, ends[:, 1])]
            recorder.computes(rows, int(np.maximum(targets, 0).sum()), tokens.size)
        return loss(model, batch, lengths)

    def recorded_update(optimizer, model, gradients):
        apply(optimizer, model, gradients)
        recorder.updated(model.trainable_parameters())

    def recorded_train(model, *arguments, **keywords):
        recorder.begin(model.trainable_parameters())
        return train(model, *arguments, **{**keywords, "loss": recorded_loss})

    trainer.average_gradients = lambda gradients: recorder.averages(gradients, average)
    mlx.optimizers.Optimizer.update = recorded_update
    return recorded_train


def main():
    if len(sys.argv) < 2 or sys.argv[1].startswith("-"):
        sys.exit(__doc__)
    folder = sys.argv.pop(1)
    mx.disable_compile()
    from mlx_lm import lora

    lora.train = record_mlx_lm(folder)
    lora.main()


if __name__ == "__main__":
    main()
