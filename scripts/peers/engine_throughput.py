"""Measures this project's engine and Python mlx-lm side by side: reading a prompt, decoding alone and eight at one time.

Both read the same made-up prompts with the same weights, in float32 or packed as the folder has them, and are stopped by
nothing, so that they do the same work. They take turns; medians are printed, with ratios. mlx-lm computes with the BLAS
library of `--blas` in place of the slow one that its wheel brings; the command that installs one is printed where there is
none. With `--llama-cpp PYTHON --gguf FILE`, a python that has the package xllamacpp and a GGUF file of the same model,
llama.cpp's server is asked too: its weights are packed to 4 bits, so it stands beside and decides nothing.

Usage, with the python that scripts/peers/environment prints:

    cargo build --release --example engine-throughput
    "$(scripts/peers/environment)" scripts/peers/engine_throughput.py --model models/SmolLM2-135M-Instruct-f32

Exits with 0 when the engine is at least as fast as mlx-lm everywhere and eight requests at one time give at least 2.5 times
the tokens of one, 1 when not, 2 when something could not run.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CONCURRENT = (1, 4, 8)
BLAS = Path("/usr/lib/x86_64-linux-gnu/libopenblas.so.0")
# Tokens of eight requests at one time over those of one.
BATCH_GAIN = 2.5


def prompt(first: int, tokens: int) -> list[int]:
    return [100 + (first + index * 131) % 20_000 for index in range(tokens)]


def measure_mlx_lm(model_path: str, prefill: int, prompt_tokens: int, new: int) -> dict[str, float]:
    """One round in this process."""
    import mlx.core as mx
    from mlx_lm.generate import BatchGenerator, generate_step
    from mlx_lm.utils import load_model

    mx.set_default_device(mx.cpu)
    model, _ = load_model(Path(model_path))
    model.set_dtype(mx.float32)

    def alone(tokens: int, new: int) -> tuple[float, float]:
        begun = time.perf_counter()
        first = None
        for index, _ in enumerate(generate_step(mx.array(prompt(0, tokens)), model, max_tokens=new)):
            if index == 0:
                first = time.perf_counter() - begun
        return time.perf_counter() - begun, first

    def together(count: int) -> tuple[float, float]:
        begun = time.perf_counter()
        generator = BatchGenerator(model, max_tokens=new)
        generator.insert([prompt(index * 17, prompt_tokens) for index in range(count)], [new] * count)
        seen: set[int] = set()
        first = None
        while responses := generator.next_generated():
            seen.update(response.uid for response in responses)
            if first is None and len(seen) == count:
                first = time.perf_counter() - begun
        generator.close()
        return time.perf_counter() - begun, first

    alone(16, 4)
    measured = {"prefill": prefill / alone(prefill, 1)[1]}
    for count in CONCURRENT:
        whole, first = alone(prompt_tokens, new) if count == 1 else together(count)
        measured[f"decode_{count}"] = count * (new - 1) / (whole - first)
        measured[f"whole_{count}"] = count * new / whole
    return measured


def measure_llama_cpp(gguf: str, prefill: int, prompt_tokens: int, new: int) -> dict[str, float]:
    """One round of llama.cpp's own server in this process, asked over HTTP as anybody would."""
    import socket
    import urllib.request
    from concurrent.futures import ThreadPoolExecutor

    import xllamacpp

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    parameters = xllamacpp.CommonParams()
    parameters.model.path = gguf
    parameters.port = port
    parameters.n_parallel = max(CONCURRENT)
    parameters.n_ctx = max(CONCURRENT) * (prefill + prompt_tokens + new)
    parameters.cpuparams.n_threads = os.cpu_count()
    parameters.cache_prompt = False
    parameters.verbosity = -1
    server = xllamacpp.Server(parameters)

    def ask(tokens: list[int], count: int) -> dict[str, float]:
        wish = {"prompt": tokens, "n_predict": count, "ignore_eos": True, "cache_prompt": False, "temperature": 0}
        body = json.dumps(wish).encode()
        request = urllib.request.Request(
            f"{server.listening_address}/completion", body, {"content-type": "application/json"}
        )
        with urllib.request.urlopen(request) as answer:
            return json.load(answer)["timings"]

    ask(prompt(0, 16), 4)
    measured = {"prefill": ask(prompt(0, prefill), 1)["prompt_per_second"]}
    for count in CONCURRENT:
        begun = time.perf_counter()
        with ThreadPoolExecutor(count) as pool:
            prompts = [prompt(index * 17, prompt_tokens) for index in range(count)]
            timings = list(pool.map(lambda tokens: ask(tokens, new), prompts))
        measured[f"whole_{count}"] = count * new / (time.perf_counter() - begun)
        if count == 1:
            measured["decode_1"] = timings[0]["predicted_per_second"]
    return measured


def run(command: list[str], **environment: str) -> dict[str, float]:
    result = subprocess.run(command, capture_output=True, text=True, env=os.environ | environment)
    if result.returncode != 0:
        print(f"exit code {result.returncode} of {' '.join(command)}\n{result.stderr}", file=sys.stderr)
        sys.exit(2)
    return json.loads(result.stdout.splitlines()[-1])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=str(ROOT / "models/SmolLM2-135M-Instruct-f32"))
    parser.add_argument("--engine", default=str(ROOT / "target/release/examples/engine-throughput"))
    parser.add_argument("--blas", type=Path, default=BLAS)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--prefill", type=int, default=512, help="tokens of the prompt whose reading is measured")
    parser.add_argument("--prompt", type=int, default=128, help="tokens of the prompts before decoding")
    parser.add_argument("--new", type=int, default=64, help="tokens that are decoded")
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    parser.add_argument("--llama-cpp", metavar="PYTHON", help="a python that has xllamacpp")
    parser.add_argument("--gguf", default=str(ROOT / "models/SmolLM2-135M-Instruct.Q4_1.gguf"))
    parser.add_argument("--mlx-lm-round", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--llama-cpp-round", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.mlx_lm_round:
        print(json.dumps(measure_mlx_lm(arguments.model, arguments.prefill, arguments.prompt, arguments.new)))
        return 0
    if arguments.llama_cpp_round:
        print(json.dumps(measure_llama_cpp(arguments.gguf, arguments.prefill, arguments.prompt, arguments.new)))
        sys.stdout.flush()
        # The server has no end of its own.
        os._exit(0)
    if not arguments.blas.exists():
        print(f"error: there is no {arguments.blas}\n  hint: apt-get install libopenblas0-pthread", file=sys.stderr)
        return 2
    rounds: dict[str, list[dict[str, float]]] = {"engine": [], "mlx-lm": []}
    for _ in range(arguments.repeats):
        lengths = [f"--{name}={getattr(arguments, name)}" for name in ("prefill", "prompt", "new")]
        rounds["engine"].append(run([arguments.engine, arguments.model, "--repeats=1", *lengths]))
        own = [sys.executable, __file__, "--mlx-lm-round", f"--model={arguments.model}", *lengths]
        rounds["mlx-lm"].append(run(own, LD_PRELOAD=str(arguments.blas)))
        if arguments.llama_cpp:
            beside = [arguments.llama_cpp, __file__, "--llama-cpp-round", f"--gguf={arguments.gguf}", *lengths]
            rounds.setdefault("llama.cpp", []).append(run(beside))
    medians = {
        who: {name: statistics.median(each[name] for each in measured) for name in measured[0]}
        for who, measured in rounds.items()
    }
    engine, peer = medians["engine"], medians["mlx-lm"]
    beside = medians.get("llama.cpp", {})
    print(f"{'tokens/s':>10} {'engine':>8} {'mlx-lm':>8} {'ratio':>6}  {'llama.cpp, 4 bits' if beside else ''}")
    for name, rate in engine.items():
        other = f"{beside[name]:8.1f}" if name in beside else ""
        print(f"{name:>10} {rate:8.1f} {peer[name]:8.1f} {rate / peer[name]:6.2f}  {other}")
    gain = engine["decode_8"] / engine["decode_1"]
    print(f"eight at one time over one: decoding {gain:.2f}, in all {engine['whole_8'] / engine['whole_1']:.2f}")
    if arguments.out:
        arguments.out.write_text(json.dumps({"medians": medians, "rounds": rounds}, indent=2) + "\n")
    return 0 if all(rate >= peer[name] for name, rate in engine.items()) and gain >= BATCH_GAIN else 1


if __name__ == "__main__":
    sys.exit(main())
