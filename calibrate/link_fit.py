"""Rates of the host link from measured copies: t = overhead + bytes / rate per copy, each direction alone; and both at once."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import nnls

from traces import BadInput
from traces.cells import count, name, positive
from traces.tables import open_table

LINKS = "links.csv"         #: of a samples folder; absent on machines without links

_COLUMNS = ("direction", "layout", "block_bytes", "with_compute", "gb_per_s")

#: (direction, layout, bytes of a block, whether beside compute) to bytes per second
Rates = Mapping[tuple[str, str, int, bool], float]


def read_link(folder: Path, gpu: str) -> dict[str, Any] | None:
    """A profile's `link`, from a samples folder; None where none was measured."""
    path = folder / LINKS
    if not path.exists():
        return None
    measured = _read(str(path))
    alone = {way: _line(measured, way) for way in ("h2d", "d2h")}
    if None in alone.values():
        return None
    (up, h2d_overhead), (down, d2h_overhead) = (line for line in alone.values() if line is not None)
    shares = {way: _share(measured, way) for way in ("h2d", "d2h")}
    said: dict[str, Any] = {
        "h2d_bytes_per_s": _rounded(up), "d2h_bytes_per_s": _rounded(down),
        "copy_overhead_s": _rounded((h2d_overhead + d2h_overhead) / 2),
        "status": f"measured: pinned copies on {gpu}, each direction alone", "source": "tokenflow-calibrate profile: links.csv",
    }
    if None not in shares.values():
        said |= {f"duplex_{way}": share for way, share in shares.items()}
        said |= {"duplex_status": "measured: largest blocks, both directions at once", "duplex_source": said["source"]}
    return said


def _read(path: str) -> Rates:
    try:
        with open_table(path) as table:
            missing = [column for column in _COLUMNS if column not in table.names]
            if missing:
                raise BadInput("links", path, f"has no column {', '.join(missing)}")
            rates = {}
            for line, cells in table.rows(_COLUMNS):
                direction, layout, size, compute, rate = (cell.strip() for cell in cells)
                try:
                    rates[name(direction), name(layout), count(size), bool(count(compute))] = positive(rate) * 1e9
                except ValueError as error:
                    raise BadInput("links", f"{path}, line {line}", f"{direction}, {size} bytes: a value {error}") from None
            return rates
    except BadInput as error:
        raise error if error.what == "links" else BadInput("links", error.where, error.why) from None


def _line(measured: Rates, way: str) -> tuple[float, float] | None:
    """Bytes per second and seconds per copy, least squares in relative terms; a single size has no overhead to tell."""
    sizes = {size: rate for (direction, layout, size, compute), rate in measured.items()
             if direction == way and layout == "contiguous" and not compute}
    if not sizes:
        return None
    size, rate = np.array(list(sizes), dtype=float), np.array(list(sizes.values()))
    if len(size) == 1:
        return float(rate[0]), 0.0
    seconds = size / rate
    (overhead_s, per_byte), _ = nnls(np.column_stack([np.ones(len(size)), size]) / seconds[:, None], np.ones(len(size)))
    return (float(1 / per_byte), float(overhead_s)) if per_byte > 0 else (float(rate.max()), 0.0)


def _share(measured: Rates, way: str) -> float | None:
    """Of its rate alone, what a direction keeps while the other copies, by the largest blocks."""
    both = {size: rate for (direction, layout, size, compute), rate in measured.items()
            if direction == f"both-{way}" and layout == "contiguous" and not compute}
    sizes = [size for size in both if (way, "contiguous", size, False) in measured]
    if not sizes:
        return None
    return _rounded(min(1.0, both[max(sizes)] / measured[way, "contiguous", max(sizes), False]))


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")
