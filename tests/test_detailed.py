"""vLLM's per-request lists: names and meaning of `vllm bench serve --save-detailed`."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from sim import Result, simulate
from sim.cli import main
from sim.detailed import request_lists
from sim.saving import as_json
from traces import generate, make_trace

LISTS = ["input_lens", "output_lens", "ttfts", "itls", "latencies", "start_times", "queue_times", "generated_texts", "errors"]
SMALL = ["--num-prompts", "3", "--input-len", "20", "--output-len", "4"]


@pytest.fixture(scope="module")
def result() -> Result:
    """Request 0 is rejected; 1 and 2 go one after the other; 3 has its first token when time is up, 4 is never sent."""
    trace = make_trace([0.0, 0.0, 0.0, 0.5, 1.0], [60_000, 100, 100, 100, 100], [10, 30, 1, 4_000, 4])
    return simulate("vllm", trace, max_concurrency=1, until_s=3.0)


def test_a_list_each_with_an_element_per_request(result: Result) -> None:
    lists, rows = request_lists(result), result.requests
    assert list(lists) == LISTS
    assert {len(values) for values in lists.values()} == {5}
    assert lists["input_lens"] == [60_000, 100, 100, 100, 100]
    assert lists["output_lens"] == [0, 30, 1, 0, 0], "of what failed, vLLM counts nothing"
    assert lists["ttfts"] == [0.0, *rows["ttft_s"][1:4], 0.0]
    assert lists["latencies"] == [0.0, *rows["e2e_s"][1:3], 0.0, 0.0]
    assert lists["start_times"] == [0.0, *rows["sent_s"][1:4], 0.0]
    assert lists["queue_times"] == [0.0, *(rows["sent_s"] - rows["arrival_s"])[1:4], 0.0]
    assert lists["queue_times"][2] > 0
    assert lists["generated_texts"] == [""] * 5
    assert [len(gaps) for gaps in lists["itls"]] == [0, 29, 0, len(result.token_times_s(3)) - 1, 0]
    assert lists["itls"][1] == pytest.approx(np.diff(result.token_times_s(1)), abs=1e-9)
    assert sum(lists["itls"][1]) + lists["ttfts"][1] == pytest.approx(lists["latencies"][1])
    assert lists["errors"][1:3] == ["", ""], "success"
    assert "exceeds the KV pool" in lists["errors"][0]
    assert lists["errors"][3:] == ["unfinished when the simulation stopped"] * 2


def test_only_when_asked_for(result: Result, tmp_path: Path) -> None:
    result.save(tmp_path / "short")
    result.save(tmp_path / "long", detailed=True)
    short, long = (json.loads((tmp_path / name / "run.json").read_text()) for name in ("short", "long"))
    assert not set(LISTS) & set(short)
    assert long == short | request_lists(result)
    assert (tmp_path / "long/run.json").read_text().count("\n") == len(long) + 2, "a list takes one line"


def test_run_with_json_and_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["run", "--policy", "vllm", *SMALL, "--save-detailed", "--json", "-o", "kept"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["output_lens"] == [4, 4, 4]
    assert said == json.loads(Path("kept/run.json").read_text())
    assert main(["run", "--policy", "vllm", *SMALL, "--save-detailed", "-o", "again"]) == 0
    assert Path("again/run.json").read_bytes() == Path("kept/run.json").read_bytes()


def test_compare_keeps_them_with_each_policy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                             capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["compare", "--policies", "vllm,sglang", *SMALL, "--save-detailed", "--json", "-o", "kept"]) == 0
    said = json.loads(capsys.readouterr().out)["policies"]
    for policy in ("vllm", "sglang"):
        assert said[policy] == json.loads(Path(f"kept/{policy}/run.json").read_text())
        assert said[policy]["output_lens"] == [4, 4, 4]
    together = json.loads(Path("kept/compare.json").read_text())["policies"]
    assert not set(LISTS) & set(together["vllm"]), "they are in the policies' folders"
    header = Path("kept/compare.csv").read_text().split("\n")[0].split(",")
    assert not set(LISTS) & set(header)
    assert sorted(os.listdir("kept/vllm")) == ["requests.csv", "run.json"]


def test_json_is_indented_but_for_lists() -> None:
    facts = {"a": 1, "b": {"c": [1, [2.5, 3]], "d": {}}, "e": None, "f": "ü"}
    assert json.loads(as_json(facts)) == facts
    assert as_json(facts).split("\n")[2:4] == ['  "b": {', '    "c": [1, [2.5, 3]],']
    for bad in ({"x": np.nan}, {"x": [np.nan]}):
        with pytest.raises(ValueError, match="not JSON compliant"):
            as_json(bad)


@pytest.mark.parametrize("lengths", ["constant:1", "normal:40:30"])
def test_totals_agree(lengths: str) -> None:
    result = simulate("tokenflow", generate(20, input_len=60, output_len=lengths, seed=4), kv_tokens=800)
    lists, said = request_lists(result), result.summary
    assert sum(lists["output_lens"]) == said["total_output_tokens"]
    assert sum(lists["input_lens"]) == said["total_input_tokens"]
    gaps = [gap for one in lists["itls"] for gap in one]
    if gaps:
        assert 1000 * np.percentile(gaps, 99) == pytest.approx(said["p99_itl_ms"], rel=1e-6)
