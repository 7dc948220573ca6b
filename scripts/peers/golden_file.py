"""Writes a golden JSON file: one list to a line, so that a changed number is a readable diff."""

import json
import os
import tempfile
from pathlib import Path
from typing import Any


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
