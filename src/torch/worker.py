"""Computes with PyTorch what another program asks for: one JSON object a line in, one a line out.

A request is {"id": N, "method": NAME, "parameters": {...}}, its reply {"id": N, "result": {...}} or
{"id": N, "error": {"kind": WORD, "message": TEXT}}. The first line out is a greeting with versions, or an error whose
kind is "missing" when a package is not installed. Tensors travel as safetensors files that requests name. Everything
else that is printed goes to standard error. The program ends with its standard input, or with its parent.

Needs torch, transformers and safetensors.
"""

import json
import math
import os
import platform
import resource
import sys
import threading
import time

PROTOCOL = 1
# Positions whose logits exist at one time when a loss is computed.
POSITIONS_PER_CHUNK = 256
# How often the parent is looked for, in seconds.
LOOK = 1.0

# The replies keep the standard output for themselves; whatever else prints writes to standard error.
replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
os.dup2(2, 1)


def say(message):
    replies.write(json.dumps(message, allow_nan=False) + "\n")
    replies.flush()


class Refused(Exception):
    """A request that cannot be met, for a reason that its sender can act on."""

    def __init__(self, kind, message):
        super().__init__(message)
        self.kind = kind


def end_with_parent(parent):
    while os.getppid() == parent:
        time.sleep(LOOK)
    os._exit(1)


threading.Thread(target=end_with_parent, args=(os.getppid(),), daemon=True).start()

# Threads that wait in a loop take the cores from whoever has something to do; read when torch is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

try:
    import torch
    import transformers
    from safetensors.torch import load_file, save_file
except ImportError as error:
    say({"error": {"kind": "missing", "message": str(error)}})
    sys.exit(3)

transformers.utils.logging.disable_progress_bar()

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
ENDINGS = ("lora_a", "lora_b")


def devices():
    """Names of the devices that torch can use, the fastest first."""
    found = []
    if torch.cuda.is_available():
        found.append("cuda")
    if torch.backends.mps.is_available():
        found.append("mps")
    return [*found, "cpu"]


def finite(number):
    """The number, or nothing where JSON has none."""
    number = float(number)
    return number if math.isfinite(number) else None


class LowRank(torch.nn.Module):
    """A linear layer with an adapter: y = W x + scale * (dropout(x) A) B."""

    def __init__(self, base, lora_a, lora_b, scale, dropout):
        super().__init__()
        self.base = base
        self.lora_a = torch.nn.Parameter(lora_a)
        self.lora_b = torch.nn.Parameter(lora_b)
        self.scale = scale
        self.dropout = torch.nn.Dropout(dropout)

    def forward(self, x):
        y = self.base(x)
        narrow = self.dropout(x).to(self.lora_a.dtype) @ self.lora_a * self.scale
        return y + (narrow @ self.lora_b).to(y.dtype)


class Worker:
    """One model, its adapters and their optimizer."""

    def __init__(self):
        self.model = None
        self.adapters = {}
        self.optimizer = None
        self.settings = None
        self.updates = 0

    def load(self, folder, dtype, device):
        """Loads a model folder with its weights as they are stored, cast to `dtype`; frozen, in evaluation mode."""
        if dtype not in DTYPES:
            raise Refused("request", f"there is no element type {dtype!r}")
        # Without a word transformers would draw missing weights at random.
        model, loading = transformers.AutoModelForCausalLM.from_pretrained(
            folder,
            attn_implementation="eager",
            local_files_only=True,
            output_loading_info=True,
            **{dtype_argument(): DTYPES[dtype]},
        )
        problems = [
            f"{what}: {sorted(map(str, loading.get(what) or ()))}"
            for what in ("missing_keys", "unexpected_keys", "mismatched_keys")
            if loading.get(what)
        ]
        if problems:
            raise Refused("weights", "; ".join(problems))
        self.__init__()
        self.model = model.requires_grad_(False).eval().to(self.device_named(device))
        return {
            "architecture": model.config.model_type,
            "values": sum(parameter.numel() for parameter in model.parameters()),
        }

    def to_device(self, device):
        """Moves the model and its adapters; the optimizer begins anew."""
        self.loaded().to(self.device_named(device))
        self.optimizer = None
        return {"device": device}

    def attach(self, tensors, scale, dropout):
        """Puts the adapters of a file on the model, in the place of those there are; each tensor must find its place."""
        model = self.loaded()
        stored = load_file(tensors)
        modules = sorted({name.rpartition(".")[0] for name in stored})
        expected = {f"{module}.{ending}" for module in modules for ending in ENDINGS}
        if set(stored) != expected or not stored:
            raise Refused("adapter", f"not the tensors of adapters: {sorted(set(stored) ^ expected)}")
        self.detach()
        linears = {name: module for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
        unknown = [module for module in modules if module not in linears]
        if unknown:
            raise Refused("adapter", f"the model has no linear layers {unknown}")
        for module in modules:
            base = linears[module]
            lora_a, lora_b = (stored[f"{module}.{ending}"].to(base.weight.device) for ending in ENDINGS)
            if lora_a.shape[0] != base.in_features or lora_b.shape != (lora_a.shape[1], base.out_features):
                raise Refused("adapter", f"{module} takes no matrices {tuple(lora_a.shape)} and {tuple(lora_b.shape)}")
        for module in modules:
            base = linears[module]
            lora_a, lora_b = (stored[f"{module}.{ending}"].to(base.weight.device) for ending in ENDINGS)
            adapted = LowRank(base, lora_a, lora_b, scale, dropout)
            self.replace(module, adapted)
            self.adapters[module] = adapted
        model.eval()
        return {"modules": len(modules)}

    def detach(self):
        """Takes all adapters off, and forgets the optimizer."""
        for module, adapted in self.adapters.items():
            self.replace(module, adapted.base)
        self.adapters = {}
        self.optimizer = None
        return {}

    def logits(self, tokens, out):
        """Writes the logits of rows of equal length, as transformers computes them, to `out`: [rows, length, vocabulary]."""
        with torch.no_grad():
            logits = self.loaded()(self.ids(tokens), use_cache=False).logits
        save_file({"logits": logits.float().cpu().contiguous()}, out)
        return {"shape": list(logits.shape)}

    def loss(self, tokens, mask):
        """The mean cross-entropy of the tokens whose mask is 1, each predicted from those before it."""
        with torch.no_grad():
            return {"loss": finite(self.mean_loss(tokens, mask))}

    def gradients(self, tokens, mask, training=False, out=None):
        """The same loss, and its gradient for every adapter tensor, kept for `step` and written to `out` if that is named."""
        trainable = self.trainable()
        model = self.loaded()
        for parameter in trainable.values():
            parameter.grad = None
        model.train(training)
        try:
            loss = self.mean_loss(tokens, mask)
            loss.backward()
        finally:
            model.eval()
        absent = [name for name, parameter in trainable.items() if parameter.grad is None]
        if absent:
            raise Refused("gradients", f"no gradient reached {absent}")
        norms = {name: parameter.grad.float().norm().item() for name, parameter in trainable.items()}
        if out is not None:
            save_file({name: parameter.grad.float().cpu().contiguous() for name, parameter in trainable.items()}, out)
        return {
            "loss": finite(loss),
            "norm": finite(math.sqrt(sum(norm * norm for norm in norms.values()))),
            "zero": sorted(name for name, norm in norms.items() if norm == 0.0),
            "not_finite": sorted(name for name, norm in norms.items() if not math.isfinite(norm)),
        }

    def create_optimizer(self, beta1, beta2, epsilon, weight_decay, bias_correction):
        """AdamW over the adapters, with fresh moments."""
        self.settings = {"epsilon": epsilon, "weight_decay": weight_decay, "bias_correction": bias_correction}
        self.optimizer = torch.optim.AdamW(self.trainable().values(), betas=(beta1, beta2), eps=epsilon)
        self.updates = 0
        return {}

    def step(self, learning_rate, clip_norm=None):
        """One update with the gradients that were computed last."""
        if self.optimizer is None:
            raise Refused("request", "there is no optimizer: create_optimizer comes first")
        trainable = list(self.trainable().values())
        if any(parameter.grad is None for parameter in trainable):
            raise Refused("request", "there are no gradients: gradients comes first")
        if clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(trainable, clip_norm)
        self.updates += 1
        (group,) = self.optimizer.param_groups
        rate, epsilon, decay = learning_rate, self.settings["epsilon"], self.settings["weight_decay"]
        if not self.settings["bias_correction"]:
            # torch corrects the moments in any case; these three undo that exactly.
            beta1, beta2 = group["betas"]
            root = math.sqrt(1.0 - beta2**self.updates)
            factor = (1.0 - beta1**self.updates) / root
            rate, epsilon, decay = rate * factor, epsilon / root, decay / factor
        group.update(lr=rate, eps=epsilon, weight_decay=decay)
        self.optimizer.step()
        for parameter in trainable:
            parameter.grad = None
        return {"updates": self.updates}

    def generate(self, tokens, stop_ids, answer, at_least):
        """Decodes greedily until a stop token or `answer` tokens, and to `at_least` tokens in any case."""
        model, cache, generated = self.loaded(), None, []
        pending, answered = self.ids([tokens]), False
        while True:
            with torch.no_grad():
                output = model(pending, past_key_values=cache, use_cache=True)
            cache, logits = output.past_key_values, output.logits[0, -1].float()
            if not bool(torch.isfinite(logits).all()):
                return {"tokens": generated, "not_finite": True}
            generated.append(int(logits.argmax()))
            answered = answered or generated[-1] in stop_ids or len(generated) >= answer
            if answered and len(generated) >= at_least:
                return {"tokens": generated, "not_finite": False}
            pending = self.ids([generated[-1:]])

    def memory(self):
        """The most memory that this process held, in bytes."""
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        # Linux counts in kibibytes, macOS in bytes.
        return {"peak": peak if sys.platform == "darwin" else 1024 * peak}

    def save(self, out):
        """Writes the adapters under mlx-lm's names."""
        trainable = self.trainable()
        save_file({name: parameter.detach().cpu().contiguous() for name, parameter in trainable.items()}, out)
        return {"tensors": len(trainable)}

    def save_base(self, out):
        """Writes the weights below the adapters under their names in the folder that was loaded."""
        weights = {
            name.replace(".base.", "."): value.detach().cpu().contiguous()
            for name, value in self.loaded().named_parameters()
            if name.rpartition(".")[2] not in ENDINGS
        }
        save_file(weights, out)
        return {"tensors": len(weights)}

    def loaded(self):
        if self.model is None:
            raise Refused("request", "there is no model: load comes first")
        return self.model

    def device_named(self, device):
        if device not in devices():
            raise Refused("device", f"torch has no device {device!r} here, only {devices()}")
        return device

    def trainable(self):
        if not self.adapters:
            raise Refused("request", "there are no adapters: attach comes first")
        return {
            f"{module}.{ending}": getattr(adapted, ending)
            for module, adapted in self.adapters.items()
            for ending in ENDINGS
        }

    def replace(self, path, module):
        parent, _, name = path.rpartition(".")
        setattr(self.model.get_submodule(parent), name, module)

    def ids(self, tokens):
        if not tokens or not tokens[0] or any(len(row) != len(tokens[0]) for row in tokens):
            raise Refused("request", "rows of tokens must be of one length, and not empty")
        vocabulary = self.loaded().get_input_embeddings().weight.shape[0]
        if any(not 0 <= token < vocabulary for row in tokens for token in row):
            raise Refused("request", f"a token id is not among the {vocabulary} of the embedding table")
        return torch.tensor(tokens, device=self.model.device)

    def mean_loss(self, tokens, mask):
        ids = self.ids(tokens)
        targets = ids[:, 1:]
        chosen = torch.tensor(mask, device=ids.device)[:, 1:] > 0
        if chosen.shape != targets.shape:
            raise Refused("request", "tokens and mask must be of one shape")
        # Padding stands on the right, where causal attention keeps it from everything that counts.
        hidden = self.model.get_decoder()(ids[:, :-1], use_cache=False).last_hidden_state[chosen]
        targets = targets[chosen]
        output = self.model.get_output_embeddings()
        total = torch.zeros((), device=ids.device)
        for start in range(0, len(targets), POSITIONS_PER_CHUNK):
            part = slice(start, start + POSITIONS_PER_CHUNK)
            logits = output(hidden[part]).float()
            total = total + torch.nn.functional.cross_entropy(logits, targets[part], reduction="sum")
        return total / len(targets)


def dtype_argument():
    """The name that this transformers has for the element type: it changed with 4.56."""
    major, minor = (int(part) for part in transformers.__version__.split(".")[:2])
    return "dtype" if (major, minor) >= (4, 56) else "torch_dtype"


METHODS = (
    "load",
    "to_device",
    "attach",
    "detach",
    "logits",
    "loss",
    "gradients",
    "create_optimizer",
    "step",
    "generate",
    "memory",
    "save",
    "save_base",
)


def answer(worker, line):
    request = {}
    try:
        parsed = json.loads(line)
        if not isinstance(parsed, dict):
            raise Refused("request", "a request must be an object")
        request = parsed
        if request.get("method") not in METHODS:
            raise Refused("request", f"there is no method {request.get('method')!r}")
        result = getattr(worker, request["method"])(**request.get("parameters", {}))
        return {"id": request.get("id"), "result": result}
    except Refused as error:
        kind, message = error.kind, str(error)
    except json.JSONDecodeError as error:
        kind, message = "request", f"not JSON: {error}"
    except Exception as error:  # Whatever it is, its sender waits for a reply.
        kind, message = "failed", f"{type(error).__name__}: {error}"
    return {"id": request.get("id"), "error": {"kind": kind, "message": message}}


def main():
    say(
        {
            "protocol": PROTOCOL,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "devices": devices(),
        }
    )
    worker = Worker()
    for line in sys.stdin:
        if line.strip():
            say(answer(worker, line))


main()
