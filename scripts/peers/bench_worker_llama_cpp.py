"""Times llama.cpp through its server, asked over HTTP as anybody would: `llama-server` of the path, else xllamacpp's.

Needs `llama-server` on the path or the package xllamacpp. The protocol is that of bench_worker.py. It answers and does not
train.
"""

import json
import os
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import bench_worker
from bench_worker import Refused

PROGRAM = shutil.which("llama-server")
if PROGRAM is None:
    try:
        import xllamacpp
    except ImportError as error:
        bench_worker.give_up(error, "`llama-server` on the path, or the package xllamacpp")

# Requests at one time, and tokens that each may take.
PLACES, CONTEXT = 8, 1024
# How often a starting server is asked, in seconds, and for how long.
ASK, PATIENCE = 0.02, 300


def versions():
    if PROGRAM is None:
        import importlib.metadata

        return {"xllamacpp": importlib.metadata.version("xllamacpp")}
    told = subprocess.run([PROGRAM, "--version"], capture_output=True, text=True)
    lines = (told.stdout + told.stderr).splitlines()
    return {"llama-server": next((line for line in lines if line.startswith("version")), "unknown")}


class Jobs:
    def __init__(self):
        self.address = None
        self.process = None

    def load(self, model, dtype, device, threads, purpose):
        threads = threads or os.cpu_count()
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        if PROGRAM is None:
            parameters = xllamacpp.CommonParams()
            parameters.model.path = model
            parameters.port = port
            parameters.n_parallel = PLACES
            parameters.n_ctx = PLACES * CONTEXT
            parameters.cpuparams.n_threads = threads
            parameters.cache_prompt = False
            parameters.verbosity = -1
            self.server = xllamacpp.Server(parameters)
            self.address = self.server.listening_address
        else:
            command = [PROGRAM, "--model", model, "--port", str(port), "--parallel", str(PLACES)]
            command += ["--ctx-size", str(PLACES * CONTEXT), "--threads", str(threads)]
            if device == "cpu":
                command += ["--n-gpu-layers", "0"]
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=2)
            self.address = f"http://127.0.0.1:{port}"
            self.wait()
        self.ask([0], 1)
        return {}

    def prefill(self, prompt):
        begun = time.perf_counter()
        tokens, first = self.ask(prompt, 1)
        return {"seconds": first - begun, "token": tokens[0]}

    def decode(self, prompts, new):
        begun = time.perf_counter()
        with ThreadPoolExecutor(len(prompts)) as pool:
            answers = list(pool.map(lambda prompt: self.ask(prompt, new), prompts))
        return {
            "seconds": time.perf_counter() - begun,
            "to_first": max(first for _, first in answers) - begun,
            "tokens": [tokens for tokens, _ in answers],
        }

    def memory(self):
        process = "self" if self.process is None else self.process.pid
        return {"resident": bench_worker.peak_resident(process), "framework": None}

    def wait(self):
        asked = time.perf_counter()
        while time.perf_counter() - asked < PATIENCE:
            if self.process.poll() is not None:
                raise Refused("failed", f"llama-server ended with exit code {self.process.returncode}")
            try:
                with urllib.request.urlopen(f"{self.address}/health"):
                    return
            except (urllib.error.URLError, ConnectionError):
                time.sleep(ASK)
        raise Refused("failed", f"llama-server was not ready within {PATIENCE} s")

    def ask(self, prompt, new):
        """The tokens of an answer, and when the first of them came."""
        if self.address is None:
            raise Refused("request", "there is no model: load comes first")
        wish = {"prompt": prompt, "n_predict": new, "ignore_eos": True, "cache_prompt": False, "temperature": 0}
        body = json.dumps({**wish, "return_tokens": True, "stream": True}).encode()
        request = urllib.request.Request(f"{self.address}/completion", body, {"content-type": "application/json"})
        tokens, first = [], None
        with urllib.request.urlopen(request) as events:
            for line in events:
                if line.startswith(b"data: "):
                    tokens += json.loads(line[len(b"data: ") :]).get("tokens", [])
                    if tokens and first is None:
                        first = time.perf_counter()
        if len(tokens) != new:
            raise Refused("answers", f"{len(tokens)} tokens in the place of {new}")
        return tokens, first


if __name__ == "__main__":
    jobs = Jobs()
    try:
        bench_worker.serve(jobs, versions(), ["cpu"], [])
    finally:
        if jobs.process is not None:
            jobs.process.kill()
        # xllamacpp's server has no end of its own.
        os._exit(0)
