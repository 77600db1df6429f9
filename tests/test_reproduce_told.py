"""The paper's items in one call, as notebooks show them."""

from __future__ import annotations

import struct
from typing import Any

import pytest

from sim import BadInput
from sim.reproduce.item import Told
from sim.reproduce.told import tell

pytestmark = pytest.mark.unaudited


@pytest.fixture(scope="module")
def told() -> dict[str, Told]:
    return tell(["table2", "fig1"])


def test_items_come_in_the_papers_order(told: dict[str, Told]) -> None:
    assert list(told) == ["fig1", "table2"]


def test_verdicts_as_pandas(told: dict[str, Told]) -> None:
    table = told["table2"].to_pandas()
    assert len(table) == len(told["table2"].rows) > 4
    assert table["verdict"].tolist() == [row.verdict for row in told["table2"].rows]
    without_offload = next(row for row in told["table2"].rows if row.claim == "table2-offload")
    shown = table[table["claim"] == without_offload.says].iloc[0]
    assert shown["published"] == "+92.8 %", "127.28 s over 66.00 s"
    assert without_offload.ours is not None
    assert shown["ours"] == f"{100 * (without_offload.ours.mean - 1):+.1f} %"


def test_shown_in_a_notebook(told: dict[str, Told]) -> None:
    html = told["table2"]._repr_html_()
    for row in told["table2"].rows:
        assert row.verdict in html
        assert row.says.replace("<", "&lt;") in html, "whole, however long"
    assert told["table2"].notes[0][:40] in html
    assert "\n" not in repr(told["table2"])


def test_its_pictures_are_drawn(told: dict[str, Told]) -> None:
    picture = told["fig1"].pictures[0]
    png = picture._repr_png_()
    assert png.startswith(b"\x89PNG\r\n")
    assert struct.unpack(">I", png[16:20])[0] == 500, "as wide as a phone shows it"
    assert "0x" not in repr(picture), "no address in memory"


@pytest.mark.parametrize(("names", "more", "says"), [
    ("fig1", {}, "must be a list of items"),
    ([], {}, "must be a list of items"),
    (["fig99"], {}, "unknown item; did you mean"),
    (["fig1"], {"seeds": 0}, "must be at least 1"),
])
def test_bad_input(names: Any, more: dict[str, Any], says: str) -> None:
    with pytest.raises(BadInput, match=says):
        tell(names, **more)
