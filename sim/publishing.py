"""Files of a directory that is there already: each appears whole, all of them or none."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from traces import BadInput

Files = Mapping[str, str | bytes]       #: content by name; a name may have folders before it


def publish(folder: Path, files: Files, last: str) -> None:
    """Write every file under a passing name, then give all their own; `last` comes last, which says that the others are there."""
    drafts = {name: (folder / name).with_name(f".{Path(name).name}.partial") for name in files}
    try:
        for name, content in files.items():
            drafts[name].parent.mkdir(parents=True, exist_ok=True)
            drafts[name].write_bytes(content.encode() if isinstance(content, str) else content)
        for name in sorted(files, key=lambda name: name == last):
            drafts[name].replace(folder / name)
    except OSError as error:
        raise BadInput("output directory", str(folder), f"cannot be written: {(error.strerror or str(error)).lower()}") from error
    finally:
        for draft in drafts.values():
            with suppress(OSError):
                draft.unlink()
