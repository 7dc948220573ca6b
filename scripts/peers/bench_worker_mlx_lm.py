"""Times Python mlx-lm: its own trainer with its compiled step and its loss, its own generators.

Needs mlx-lm. The protocol is that of bench_worker.py. Threads cannot be set: MLX and its BLAS take those of the system.
"""

import importlib.metadata
import tempfile
import time
from pathlib import Path

import bench_worker
from bench_worker import Refused

try:
    import mlx.core as mx
    import mlx.optimizers as optim
    from mlx.utils import tree_flatten
    from mlx_lm.generate import BatchGenerator, generate_step
    from mlx_lm.tuner.callbacks import TrainingCallback
    from mlx_lm.tuner.trainer import TrainingArgs, train
    from mlx_lm.tuner.utils import linear_to_lora_layers
    from mlx_lm.utils import load_model
except ImportError as error:
    bench_worker.give_up(error, "mlx-lm")

DTYPES = {"float32": mx.float32, "bfloat16": mx.bfloat16}


def devices():
    if mx.default_device().type != mx.DeviceType.gpu:
        return ["cpu"]
    return ["metal" if mx.metal.is_available() else "cuda", "cpu"]


class Enough(Exception):
    """A step took so long that no other is needed."""


class Steps(TrainingCallback):
    def __init__(self, slow):
        self.slow = slow
        self.losses, self.seconds, self.tokens = [], [], 0

    def on_train_loss_report(self, train_info):
        # Counted over all steps so far.
        self.tokens = train_info["trained_tokens"] // (len(self.losses) + 1)
        self.losses.append(train_info["train_loss"])
        self.seconds.append(1 / train_info["iterations_per_second"])
        if self.seconds[-1] >= self.slow:
            raise Enough


def the_same_batch(dataset, batch_size, **_):
    rows = mx.array(dataset)
    lengths = mx.array([[0, len(row)] for row in dataset])
    while True:
        yield rows, lengths


class Jobs:
    def __init__(self):
        self.model = None

    def load(self, model, dtype, device, threads, purpose):
        if device not in devices():
            raise Refused("device", f"MLX has no device {device!r} here, only {devices()}")
        mx.set_default_device(mx.cpu if device == "cpu" else mx.gpu)
        self.model, _ = load_model(Path(model))
        self.model.set_dtype(DTYPES[dtype])
        mx.eval(self.model.parameters())
        mx.eval(self.model(mx.array([[0]])))
        return {}

    def training(self, rows, rank, scale, learning_rate, steps, slow):
        model = self.loaded()
        model.freeze()
        linear_to_lora_layers(model, -1, {"rank": rank, "scale": scale, "dropout": 0.0})
        starts, begun = {}, []
        for name, value in tree_flatten(model.trainable_parameters()):
            if name.endswith("lora_a"):
                inputs = value.shape[0]
                if inputs not in starts:
                    starts[inputs] = mx.array(bench_worker.lora_a(inputs, rank), dtype=mx.float32)
                value = starts[inputs].astype(value.dtype)
            begun.append((name, value))
        model.load_weights(begun, strict=False)
        recorded = Steps(slow)
        with tempfile.TemporaryDirectory() as temporary:
            try:
                train(
                    model,
                    optim.AdamW(learning_rate=learning_rate, bias_correction=True),
                    rows,
                    args=TrainingArgs(
                        batch_size=len(rows),
                        iters=steps,
                        steps_per_report=1,
                        steps_per_save=steps + 1,
                        adapter_file=str(Path(temporary) / "adapters.safetensors"),
                    ),
                    iterate_batches=the_same_batch,
                    training_callback=recorded,
                )
            except Enough:
                pass
        return {"losses": recorded.losses, "seconds": recorded.seconds, "tokens": recorded.tokens}

    def prefill(self, prompt):
        begun = time.perf_counter()
        token, _ = next(generate_step(mx.array(prompt), self.loaded(), max_tokens=1))
        return {"seconds": time.perf_counter() - begun, "token": int(token)}

    def decode(self, prompts, new):
        begun = time.perf_counter()
        answers, to_first = self.alone(prompts[0], new) if len(prompts) == 1 else self.together(prompts, new)
        seconds = time.perf_counter() - begun
        return {"seconds": seconds, "to_first": to_first - begun, "tokens": answers}

    def memory(self):
        return {"resident": bench_worker.peak_resident(), "framework": mx.get_peak_memory()}

    def alone(self, prompt, new):
        answer, to_first = [], None
        for token, _ in generate_step(mx.array(prompt), self.loaded(), max_tokens=new):
            answer.append(int(token))
            to_first = to_first or time.perf_counter()
        return [answer], to_first

    def together(self, prompts, new):
        generator = BatchGenerator(self.loaded(), max_tokens=new)
        places = {uid: place for place, uid in enumerate(generator.insert(prompts, [new] * len(prompts)))}
        answers, to_first = [[] for _ in prompts], None
        while responses := generator.next_generated():
            for response in responses:
                answers[places[response.uid]].append(int(response.token))
            if to_first is None and all(answers):
                to_first = time.perf_counter()
        generator.close()
        return answers, to_first

    def loaded(self):
        if self.model is None:
            raise Refused("request", "there is no model: load comes first")
        return self.model


if __name__ == "__main__":
    # The libraries of matrix products are mapped by the first one.
    mx.eval(mx.ones((2, 2)) @ mx.ones((2, 2)))
    bench_worker.serve(
        Jobs(),
        {"mlx-lm": importlib.metadata.version("mlx-lm"), "mlx": importlib.metadata.version("mlx")},
        devices(),
        bench_worker.libraries("blas"),
    )
