"""Times PyTorch: transformers' model, PEFT's adapters, torch's AdamW, as people train and ask with them.

Needs torch, transformers and peft. The protocol is that of bench_worker.py.
"""

import time

import bench_worker
from bench_worker import Refused

try:
    import peft
    import torch
    import transformers
except ImportError as error:
    bench_worker.give_up(error, "torch, transformers and peft")

transformers.utils.logging.disable_progress_bar()

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def devices():
    """Names of the devices that torch can use, the fastest first."""
    found = []
    if torch.cuda.is_available():
        found.append("cuda")
    if torch.backends.mps.is_available():
        found.append("mps")
    return [*found, "cpu"]


class Jobs:
    def __init__(self):
        self.model = None
        self.device = None

    def load(self, model, dtype, device, threads, purpose):
        if device not in devices():
            raise Refused("device", f"torch has no device {device!r} here, only {devices()}")
        if threads is not None:
            torch.set_num_threads(threads)
        version = tuple(int(part) for part in transformers.__version__.split(".")[:2])
        loaded, loading = transformers.AutoModelForCausalLM.from_pretrained(
            model,
            local_files_only=True,
            output_loading_info=True,
            **{"dtype" if version >= (4, 56) else "torch_dtype": DTYPES[dtype]},
        )
        # Without a word transformers would draw missing weights at random.
        problems = {what: sorted(map(str, names)) for what, names in loading.items() if names and what != "error_msgs"}
        if problems:
            raise Refused("weights", str(problems))
        self.model, self.device = loaded.eval().to(device), device
        with torch.no_grad():
            self.model(torch.tensor([[0]], device=device)).logits.sum().item()
        return {}

    def training(self, rows, rank, scale, learning_rate, steps, slow):
        model = self.loaded()
        linears = {name for name, part in model.named_modules() if isinstance(part, torch.nn.Linear) and ".layers." in name}
        configuration = peft.LoraConfig(
            task_type="CAUSAL_LM",
            r=rank,
            # PEFT divides by the rank, mlx-lm's scale is used as it is.
            lora_alpha=scale * rank,
            lora_dropout=0.0,
            bias="none",
            target_modules=sorted({name.rpartition(".")[2] for name in linears}),
        )
        adapted = peft.get_peft_model(model, configuration).train()
        trained = {name: value for name, value in adapted.named_parameters() if value.requires_grad}
        starts = {}
        with torch.no_grad():
            for name, value in trained.items():
                if ".lora_A." in name:
                    inputs = value.shape[1]
                    if inputs not in starts:
                        starts[inputs] = torch.tensor(bench_worker.lora_a(inputs, rank), dtype=torch.float64).T
                    value.copy_(starts[inputs])
                else:
                    value.zero_()
        if len(trained) != 2 * len(linears):
            raise Refused("adapter", f"{len(trained)} tensors on {len(linears)} layers")
        optimizer = torch.optim.AdamW(
            trained.values(), lr=learning_rate, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01
        )
        ids = torch.tensor(rows, device=self.device)

        def step():
            optimizer.zero_grad()
            # transformers shifts the labels by itself.
            loss = adapted(input_ids=ids, labels=ids).loss
            loss.backward()
            optimizer.step()
            self.finish()
            return loss.item()

        losses, seconds = bench_worker.timed(steps, slow, step)
        return {"losses": losses, "seconds": seconds, "tokens": len(rows) * (len(rows[0]) - 1)}

    def prefill(self, prompt):
        begun = time.perf_counter()
        first, _ = self.read([prompt])
        return {"seconds": time.perf_counter() - begun, "token": int(first[0])}

    def decode(self, prompts, new):
        begun = time.perf_counter()
        pending, cache = self.read(prompts)
        # Reading a value back waits for the device.
        answers = [[token] for token in pending.tolist()]
        to_first = time.perf_counter() - begun
        with torch.no_grad():
            for _ in range(new - 1):
                output = self.model(pending[:, None], past_key_values=cache, use_cache=True)
                cache, pending = output.past_key_values, output.logits[:, -1].argmax(-1)
                for row, token in zip(answers, pending.tolist()):
                    row.append(token)
        return {"seconds": time.perf_counter() - begun, "to_first": to_first, "tokens": answers}

    def memory(self):
        framework = torch.cuda.max_memory_allocated() if self.device == "cuda" else None
        return {"resident": bench_worker.peak_resident(), "framework": framework}

    def read(self, prompts):
        with torch.no_grad():
            output = self.loaded()(torch.tensor(prompts, device=self.device), use_cache=True, logits_to_keep=1)
            return output.logits[:, -1].argmax(-1), output.past_key_values

    def loaded(self):
        if self.model is None:
            raise Refused("request", "there is no model: load comes first")
        return self.model

    def finish(self):
        if self.device == "cuda":
            torch.cuda.synchronize()
        elif self.device == "mps":
            torch.mps.synchronize()


if __name__ == "__main__":
    bench_worker.serve(
        Jobs(),
        {"torch": torch.__version__, "transformers": transformers.__version__, "peft": peft.__version__},
        devices(),
        bench_worker.libraries("mkl"),
    )
