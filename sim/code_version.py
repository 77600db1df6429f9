"""Which code a result comes from."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

#: parts of `sim` that only choose, show or keep what is simulated
_AROUND = ("sim/reproduce/items/", "sim/study/")


@cache
def code_version() -> str:
    """A digest of the source of everything that a result depends on."""
    root, digest = Path(__file__).parents[1], hashlib.sha256()
    for package in ("policies", "sim", "traces"):
        for file in sorted((root / package).rglob("*")):
            name = file.relative_to(root).as_posix()
            if file.suffix in (".py", ".json") and not name.startswith(_AROUND):
                digest.update(name.encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()[:16]
