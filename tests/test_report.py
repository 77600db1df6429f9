"""The report: one HTML file that says everything, needs nothing from outside, and takes no label for markup."""

from __future__ import annotations

import base64
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from builders import Rotate

from policies import POLICIES
from sim import Result, simulate
from sim.cli_tables import sections
from sim.plot_style import Drawing
from sim.plots import draw
from sim.report import page
from sim.report_terms import TERMS
from traces import generate

pytestmark = pytest.mark.unaudited

ODD = "<script>alert('x')</script>&[size=1]"
VOID = {"meta", "img", "br", "link", "col", "hr", "input"}


class Reader(HTMLParser):
    """Checks that tags close in order, and gathers what there is."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] not in ("style", "title"):
            self.text.append(data)

    def all(self, name: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.tags if tag == name]


@pytest.fixture(scope="module")
def results() -> dict[str, Result]:
    trace = generate(12, input_len=200, output_len="normal:200:40", seed=4)
    return {label: simulate(name, trace, kv_tokens=3_000, timeline=True, seed=4)
            for label, name in (("sglang", "sglang"), ("tokenflow", "tokenflow"), (ODD, "vllm"))}


@pytest.fixture(scope="module")
def html(results: dict[str, Result]) -> str:
    return page(results, draw(results), ["tokenflow compare --policies 'sglang,<x>' --seed 4"])


def test_it_is_whole_html_with_every_policy(html: str) -> None:
    assert html.startswith("<!doctype html>")
    read = Reader(html)
    said = " ".join("".join(read.text).split())
    for label in ("sglang", "tokenflow"):
        assert label in said
    assert "<script>alert('x')</script>&[size=1]" in re.sub(r"\s*(\[)", r"\1", said)
    assert not read.all("script")
    assert read.all("html")[0]["lang"] == "en"
    assert "width=device-width" in str(read.all("meta"))


def test_it_needs_nothing_from_outside(html: str) -> None:
    read = Reader(html)
    for _, attributes in read.tags:
        for name in ("src", "href", "srcset", "data", "action"):
            assert (attributes.get(name) or "data:").startswith(("data:", "#")), attributes
    assert "url(" not in html
    assert "@import" not in html
    assert not read.all("link")
    assert "default-src 'none'" in str(read.all("meta"))


def test_figures_are_inside_with_captions_and_texts_in_their_place(html: str, results: dict[str, Result]) -> None:
    read, drawn = Reader(html), draw(results)
    pictures = read.all("img")
    assert [base64.b64decode(str(p["src"]).removeprefix("data:image/png;base64,")) for p in pictures] == [d.png for d in drawn]
    assert all(p["alt"] and p["width"] and p["height"] for p in pictures)
    said = "".join(read.text)
    for drawing in drawn:
        assert drawing.title in said
        assert drawing.caption in said


def test_the_table_is_the_terminals(html: str, results: dict[str, Result]) -> None:
    text = re.sub(r"<[^>]+>", " ", html[html.index("<table") : html.index("</table>")])
    text = " ".join(text.split())
    for section in sections({label: result.summary for label, result in results.items()}):
        for title, cells in section:
            row = " ".join([title.strip(), *(cell for column in cells for cell in column if cell)])
            assert row in text, row


def test_many_policies_stand_in_several_tables_that_begin_with_the_first(results: dict[str, Result]) -> None:
    """None is wider than a sheet of paper."""
    eight = {name: simulate(name, results["sglang"].trace, kv_tokens=3_000) for name in POLICIES}
    tables = re.findall(r"<table>.*?</table>", page(eight, [], []), re.DOTALL)
    heads = [[" ".join(re.split("<.*?>", label)) for label in re.findall(r'<th scope="col">(.*?)</th>', table)] for table in tables]
    assert len(heads) > 1
    assert all(head[0] == "sglang" for head in heads)
    assert ["sglang", *(label for head in heads for label in head[1:])] == list(POLICIES)
    for table, head in zip(tables, heads):
        assert len(head) <= 6
        for section in sections({label: eight[label].summary for label in head}):
            for title, cells in section:
                row = " ".join([title.strip(), *(cell for column in cells for cell in column if cell)])
                assert row in " ".join(re.sub(r"<[^>]+>", " ", table).split()), row


def test_every_row_and_every_policy_is_explained(results: dict[str, Result]) -> None:
    limited = simulate("tokenflow", results["sglang"].trace, kv_tokens=3_000, goodput={"ttft": 1300.0}, until_s=3.0)
    several = {"tokenflow": limited, "tokenflow-paper[gamma=3]": results["tokenflow"], "mine": replace(limited, policy=Rotate())}
    titles = [title for section in sections({label: result.summary for label, result in several.items()}) for title, _ in section]
    assert "goodput, requests/s" in titles
    assert "  unfinished" in titles
    for title in titles:
        assert len([term for term in TERMS if title.startswith(term.rows)]) == 1, title
    said = " ".join("".join(Reader(page(several, [], [])).text).split())
    for term in TERMS:
        assert term.means in said
    assert "goodput" not in "".join(Reader(page({"vllm": results["sglang"]}, [], [])).text)
    assert "1.3 s people lose interest (TokenFlow, arXiv 2510.02758, section 2)" in said
    for text in ("preempt readers whose buffers are full", "The paper's text wherever", "A test policy: the emptiest buffers"):
        assert text in said, text
    assert "scroll" in said


def test_commands_are_broken_between_flags_only(results: dict[str, Result]) -> None:
    command = "tokenflow compare --workload burst-80 --output-len 'normal:5:<2>' --policies vllm,mine.py:A[x=--1] --json"
    html = page(results, [], [command])
    pre = html[html.index("<pre>") : html.index("</pre>")]
    assert re.findall(r'<span class="flag">(.*?)</span>', pre) == [
        "--workload burst-80", "--output-len &#x27;normal:5:&lt;2&gt;&#x27;", "--policies vllm,mine.py:A[x=--1]", "--json"]
    assert '<span class="flag">--output-len normal:200:40</span>' in html, "in the heading as well"
    assert "".join(Reader(pre + "</pre>").text) == command
    assert re.search(r"\.flag \{[^}]*inline-block", html)


def test_it_says_what_was_run_and_how_far_to_trust_it(html: str, results: dict[str, Result]) -> None:
    said = " ".join("".join(Reader(html).text).split())
    assert "tokenflow compare --policies 'sglang,<x>' --seed 4" in said
    assert "Step times fitted" in said
    assert "estimated" in said
    assert "effective tokens/s alone" in said
    assert re.search(r"numpy \d", said)
    assert "seed 4" in said
    assert page(results, draw(results), ["tokenflow compare --policies 'sglang,<x>' --seed 4"]) == html, "same input, same bytes"
    assert not re.search(r"20\d\d-\d\d-\d\d", html), "no wall clock"


def test_without_figures_and_with_one_policy(results: dict[str, Result]) -> None:
    lone = {"sglang": results["sglang"]}
    read = Reader(page(lone, [], []))
    assert not read.all("img")
    assert "x1.00" not in "".join(read.text)
    png = draw(lone)[0].png
    assert '<b>&quot;' not in page(lone, [Drawing("a", '<b>"t"', "c<d.", png)], [])
    Reader(page(lone, [Drawing("a", '<b>"t"', "c<d.", png)], []))
