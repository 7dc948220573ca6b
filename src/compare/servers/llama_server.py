"""Runs llama.cpp's server from the package xllamacpp, with the options of llama-server that are used here."""

import argparse
import os
import threading
import time

# Seconds between two looks at the program that started this one.
LOOK = 1


def options():
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--model", required=True)
    parser.add_argument("--host", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--ctx-size", type=int, required=True)
    parser.add_argument("--parallel", type=int, required=True)
    parser.add_argument("--cache-ram", type=int)
    parser.add_argument("--no-cache-prompt", action="store_true")
    parser.add_argument("--metrics", action="store_true")
    return parser.parse_args()


def end_with(parent):
    """Ends this process once the one that started it has gone, even where that was killed."""
    while os.getppid() == parent:
        time.sleep(LOOK)
    os._exit(1)


def main():
    given = options()
    threading.Thread(target=end_with, args=(os.getppid(),), daemon=True).start()
    import xllamacpp

    parameters = xllamacpp.CommonParams()
    parameters.model.path = given.model
    parameters.hostnames = [given.host]
    parameters.port = given.port
    parameters.n_ctx = given.ctx_size
    parameters.n_parallel = given.parallel
    parameters.cache_prompt = not given.no_cache_prompt
    parameters.endpoint_metrics = given.metrics
    if given.cache_ram is not None:
        parameters.cache_ram_mib = given.cache_ram
    server = xllamacpp.Server(parameters)
    print(f"listening on {server.listening_address}", flush=True)
    # The server has threads of its own; SIGTERM ends the process.
    while True:
        time.sleep(LOOK)


if __name__ == "__main__":
    main()
