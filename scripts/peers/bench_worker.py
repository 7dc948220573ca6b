"""The frame of a program that is timed beside others: one JSON object a line in, one a line out.

The first line out is a greeting, {"protocol": 1, "versions": {...}, "devices": [...], "libraries": [...]}, or
{"error": {"kind": "missing", "message": TEXT}} where a package is not installed. A request is {"id": N, "job": NAME, ...},
its reply {"id": N, "result": {...}} or {"id": N, "error": {"kind": WORD, "message": TEXT}}. Everything else that is printed
goes to standard error. The program ends with its standard input, or with its parent.

Jobs: load (model, dtype, device, threads, purpose), training (rows, rank, scale, learning_rate, steps, slow), prefill
(prompt), decode (prompts, new), memory. `load` ends when the model has computed the logits of one token.
"""

import json
import os
import platform
import sys
import threading
import time
from pathlib import Path

PROTOCOL = 1
# How often the parent is looked for, in seconds.
LOOK = 1.0

# The replies keep the standard output for themselves; whatever else prints writes to standard error.
replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
os.dup2(2, 1)


class Refused(Exception):
    """A job that cannot be done, for a reason that its sender can act on."""

    def __init__(self, kind, message):
        super().__init__(message)
        self.kind = kind


def say(message):
    replies.write(json.dumps(message, allow_nan=False) + "\n")
    replies.flush()


def end_with_parent(parent):
    while os.getppid() == parent:
        time.sleep(LOOK)
    os._exit(1)


threading.Thread(target=end_with_parent, args=(os.getppid(),), daemon=True).start()


def give_up(error, needed):
    """What is said in the place of a greeting without a package."""
    say({"error": {"kind": "missing", "message": f"{error}; needed: {needed}"}})
    sys.exit(3)


def libraries(part):
    """Files that are mapped into this process and whose name has this part; Linux only."""
    maps = Path("/proc/self/maps")
    if not maps.exists():
        return []
    lines = (line.split() for line in maps.read_text().splitlines())
    return sorted({Path(line[-1]).name for line in lines if part in line[-1].lower() and "/" in line[-1]})


def peak_resident(process="self"):
    """The most memory that a process held, in bytes."""
    status = Path(f"/proc/{process}/status")
    if status.exists():
        (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return 1024 * int(line.split()[1])
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def timed(steps, slow, step):
    """Losses and seconds of some steps; a step as long as `slow` is the last."""
    losses, seconds = [], []
    for _ in range(steps):
        begun = time.perf_counter()
        losses.append(step())
        seconds.append(time.perf_counter() - begun)
        if seconds[-1] >= slow:
            break
    return losses, seconds


def lora_a(inputs, rank):
    """Rows of the same made-up start in every program: uniform within one over the root of the inputs, of mlx-lm's shape."""
    rows = []
    for row in range(inputs):
        for column in range(rank):
            mixed = (row * rank + column) * 2654435761 % 2**32
            mixed = (mixed ^ mixed >> 16) * 0x45D9F3B % 2**32
            mixed ^= mixed >> 16
            rows.append((mixed / 2**32 * 2 - 1) / inputs**0.5)
    return [rows[start : start + rank] for start in range(0, len(rows), rank)]


def answer(jobs, line):
    request = {}
    try:
        request = json.loads(line)
        arguments = {name: value for name, value in request.items() if name not in ("id", "job")}
        job = getattr(jobs, request["job"])
        return {"id": request["id"], "result": job(**arguments)}
    except Refused as error:
        kind, message = error.kind, str(error)
    except MemoryError as error:
        kind, message = "memory", f"out of memory: {error}"
    except Exception as error:  # Whatever it is, its sender waits for a reply.
        kind, message = "failed", f"{type(error).__name__}: {error}"
    return {"id": request.get("id"), "error": {"kind": kind, "message": message}}


def serve(jobs, versions, devices, loaded):
    say(
        {
            "protocol": PROTOCOL,
            "versions": {"python": platform.python_version(), **versions},
            "devices": devices,
            "libraries": loaded,
        }
    )
    for line in sys.stdin:
        if line.strip():
            say(answer(jobs, line))
