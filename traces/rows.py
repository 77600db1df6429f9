"""Lines of text of a file, plain or gzipped."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import BinaryIO, cast

from traces.cells import shown
from traces.errors import BadInput

GZIP_MAGIC = b"\x1f\x8b"
LONGEST_LINE = 1 << 20      #: bytes; without a limit a file of binary garbage, or /dev/zero, would be read into memory as one line


def bad_line(path: str, line: int, why: str) -> BadInput:
    """BadInput for one line of a trace file; the first line is 1."""
    return BadInput("trace", f"{path}, line {line}", why)


def read_lines(path: str) -> Generator[str, None, None]:
    """Decoded lines with their ends, split at \\n only: csv itself knows \\r\\n and quoted line ends. BadInput names a bad one."""
    with _opened(path) as stream:
        yield from _lines(path, stream)


@contextmanager
def _opened(path: str) -> Iterator[BinaryIO]:
    """The file's bytes, unpacked when they are gzip."""
    try:
        file = open(path, "rb")  # noqa: SIM115 -- closed by `with file` below; only opening it may be reported as unreadable
        magic = file.peek(2)[:2]
    except OSError as error:
        raise BadInput("trace", path, f"cannot be read: {(error.strerror or str(error)).lower()}") from None
    except ValueError as error:
        raise BadInput("trace", shown(path), f"is not a file name: {error}") from None
    with file:
        if not magic:
            raise BadInput("trace", path, "the file is empty")
        if magic == GZIP_MAGIC:
            with gzip.GzipFile(fileobj=file) as unpacked:
                yield cast(BinaryIO, unpacked)
        elif path.lower().endswith(".gz"):
            raise BadInput("trace", path, "is named .gz but is not gzip")
        else:
            yield file


def _lines(path: str, stream: BinaryIO) -> Iterator[str]:
    """Decoded lines with their ends, split at \\n only: csv itself knows \\r\\n and quoted line ends."""
    line = 0
    while True:
        line += 1
        try:
            raw = stream.readline(LONGEST_LINE + 1)
        except EOFError:
            raise bad_line(path, line, "the gzip data end early: the file is truncated") from None
        except (OSError, zlib.error) as error:
            raise bad_line(path, line, f"cannot be read: {error}") from None
        if not raw:
            return
        if len(raw) > LONGEST_LINE:
            raise bad_line(path, line, f"is longer than {LONGEST_LINE} bytes: is this a trace?")
        try:
            text = raw.decode("utf-8-sig" if line == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise bad_line(path, line, f"is not UTF-8 text: byte 0x{raw[error.start]:02x} at {error.start + 1}") from None
        yield text
