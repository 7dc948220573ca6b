"""Writes golden JSON files, one list to a line so that a diff can be read, and checks them."""

import json
import os
import tempfile
from pathlib import Path
from typing import Any

# Another build of MLX sums in another order; a wrong model is off by far more.
CHECK_TOLERANCE = 1e-4


def render(value: Any, indent: str = "") -> str:
    inner = indent + " "
    if isinstance(value, dict):
        lines = [f"{inner}{json.dumps(key)}: {render(item, inner)}" for key, item in value.items()]
    elif isinstance(value, list) and any(isinstance(item, (dict, list)) for item in value):
        lines = [inner + render(item, inner) for item in value]
    else:
        separators = (",", ":") if isinstance(value, list) else None
        return json.dumps(value, ensure_ascii=True, separators=separators)
    opening, closing = "{}" if isinstance(value, dict) else "[]"
    return opening + "\n" + ",\n".join(lines) + "\n" + indent + closing


def write(path: Path, value: Any) -> None:
    """Writes under a temporary name and renames; the file is whole or absent."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(prefix=f"{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(render(value) + "\n")
        os.chmod(temporary, 0o644)
        os.rename(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def settled(found: Any, committed: Any) -> Any:
    """What was found, with the committed digits of numbers that agree: a diff then shows changes, and not rounding."""
    if isinstance(found, float) and isinstance(committed, float):
        return committed if abs(found - committed) <= CHECK_TOLERANCE else found
    if isinstance(found, dict) and isinstance(committed, dict):
        return {
            key: settled(value, committed[key]) if key in committed else value
            for key, value in found.items()
        }
    if isinstance(found, list) and isinstance(committed, list) and len(found) == len(committed):
        return [settled(*pair) for pair in zip(found, committed)]
    return found


def write_settled(path: Path, value: Any, committed: Path) -> None:
    """Writes a file anew that may be committed already."""
    if committed.is_file():
        value = settled(value, json.loads(committed.read_text(encoding="ascii")))
    write(path, value)


def differences(found: Any, path: Path) -> list[str]:
    """One line for each value of the committed file that is not as found; who made it is free."""
    return compare(found, json.loads(path.read_text(encoding="ascii")), str(path))


def compare(found: Any, committed: Any, where: str) -> list[str]:
    if isinstance(found, float) and isinstance(committed, float):
        equal = abs(found - committed) <= CHECK_TOLERANCE
        return [] if equal else [f"{where}: found {found}, committed {committed}"]
    if isinstance(found, dict) and isinstance(committed, dict) and found.keys() == committed.keys():
        pairs = [(key, found[key], committed[key]) for key in committed if key != "made_by"]
    elif isinstance(found, list) and isinstance(committed, list) and len(found) == len(committed):
        pairs = [(index, *pair) for index, pair in enumerate(zip(found, committed))]
    else:
        return [] if found == committed else [f"{where}: found {found!r}, committed {committed!r}"]
    return [line for key, *pair in pairs for line in compare(*pair, f"{where}/{key}")]
