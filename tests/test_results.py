"""Results: nothing is lost, rows and summary agree, the same seed gives the same bytes, directories appear whole or not at all."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from contextlib import suppress
from dataclasses import fields
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from policies import POLICIES, SGLang, TokenFlow
from sim import BadInput, Fate, Result, simulate
from sim.result import Miscount, check_conservation
from sim.saving import Draft
from traces import Trace, generate, make_trace


def mixed() -> Trace:
    """A trace with every fate: 0 cannot fit, the others can; row 3 is read by nobody; one row of the file was dropped."""
    return make_trace([0.0, 0.0, 0.5, 1.0, 40.0], [60_000, 100, 100, 100, 50], [10, 300, 200, 1, 400], klass=["a", "", "b", "", ""],
                      reader=[True, True, True, False, True], consume_tps=[np.nan, 5, np.nan, np.nan, np.nan],
                      dropped={"zero output tokens": 1}, source="by hand")


@pytest.fixture(scope="module")
def result() -> Result:
    return simulate("vllm", mixed(), until_s=43.0, seed=7)


@pytest.fixture(scope="module")
def crowded() -> Result:
    """More than fits: requests are preempted and recomputed, readers stall."""
    return simulate("vllm", generate(30, input_len=300, output_len=400, seed=1), kv_tokens=6_000)


def test_every_request_has_its_row(result: Result) -> None:
    rows = result.requests
    assert isinstance(rows, pd.DataFrame)
    assert rows["fate"].tolist() == ["rejected", "completed", "completed", "completed", "unfinished"]
    assert rows["reason"][0] == "prompt + output exceeds the KV pool of 50864 tokens"
    assert rows["id"].tolist() == [0, 1, 2, 3, 4]
    assert rows["consume_tps"].tolist() == [20, 5, 20, 20, 20]
    assert rows["delivered_tokens"].tolist()[:4] == [0, 300, 200, 1]
    assert 0 < rows["delivered_tokens"][4] < 400
    assert rows["class"].tolist() == ["a", "", "b", "", ""]
    assert rows["rebuffers"].isna().tolist() == [True, False, False, True, False], "request 3 has no reader"
    assert rows["e2e_s"].isna().tolist() == [True, False, False, False, True]
    assert rows["tpot_s"].isna().tolist() == [True, False, False, True, True]


def test_summary_agrees_with_rows(crowded: Result) -> None:
    rows, said = crowded.requests, crowded.summary
    assert said["preemptions"] == rows["preemptions"].sum() > 0
    assert said["mean_ttft_ms"] == pytest.approx(rows["ttft_s"].mean() * 1000)
    assert said["p99_rebuffer_s"] == pytest.approx(np.percentile(rows["rebuffer_s"], 99))
    assert said["rebuffers"] == rows["rebuffers"].sum()
    assert said["effective_throughput"] == pytest.approx(rows["effective_tokens"].sum() / said["duration"])
    gaps = np.concatenate([np.diff(crowded.token_times_s(id)) for id in range(30)])
    assert said["p99_itl_ms"] == pytest.approx(np.percentile(gaps, 99) * 1000)
    assert said["mean_itl_ms"] == pytest.approx(gaps.mean() * 1000)
    assert said["gpu_busy_share"] == pytest.approx(1.0)


def test_fates_and_settings(result: Result) -> None:
    said = result.summary
    assert {key: said[key] for key in ("requests", "completed", "failed", "rejected", "dropped_row", "unfinished")} == {
        "requests": 6, "completed": 3, "failed": 1, "rejected": 1, "dropped_row": 1, "unfinished": 1}
    assert (said["policy"], said["hardware"], said["model"]) == ("vllm", "rtx4090", "llama3-8b")
    assert (said["seed"], said["consume_rate"]) == (7, 20.0)
    assert (said["kv_tokens"], said["until_s"], said["duration"]) == (50_864, 43.0, 43.0)
    assert "fitted" in said["latency_status"]
    assert "estimated" in said["link_status"]


def test_summary_is_flat_and_json(result: Result, crowded: Result) -> None:
    for said in (result.summary, crowded.summary):
        assert json.loads(json.dumps(said, allow_nan=False)) == said
        assert not [key for key, value in said.items() if isinstance(value, dict | list | np.generic)]
    alone = simulate("vllm", generate(1, input_len=10, output_len=1)).summary
    assert alone["mean_tpot_ms"] is None


def test_waiting_at_the_client_is_not_the_engines() -> None:
    """As in vLLM's benchmark: TTFT counts from when the request was sent."""
    rows = simulate("vllm", generate(3, input_len=20, output_len=30), max_concurrency=1).requests
    assert rows["arrival_s"].tolist() == [0, 0, 0]
    assert rows["sent_s"].tolist() == pytest.approx([0, *(rows["sent_s"] + rows["e2e_s"])[:2]])
    assert rows["ttft_s"].tolist() == pytest.approx([rows["ttft_s"][0]] * 3)


def test_token_times(result: Result) -> None:
    times = result.token_times_s(1)
    assert len(times) == 300
    assert (np.diff(times) > 0).all()
    assert len(result.token_times_s(0)) == 0
    with pytest.raises(BadInput, match="requests 0 to 4"):
        result.token_times_s(5)


@pytest.mark.unaudited
@pytest.mark.parametrize("spoil", ["fate", "tokens", "segment", "rejected", "counter"])
def test_a_lost_request_or_token_is_an_error(spoil: str) -> None:
    result = simulate("vllm", mixed())
    trace, records, count = result.trace, result.records, result.counters
    check_conservation(trace, records, count)
    if spoil == "fate":
        records.fate[2] = Fate.PENDING
    elif spoil == "tokens":
        records.tokens[1] -= 1
    elif spoil == "segment":
        records.segment_stop[0] -= 1
    elif spoil == "rejected":
        records.tokens[0] = 1
    else:
        count.decode_tokens += 1
    with pytest.raises(Miscount):
        Result(**{field.name: getattr(result, field.name) for field in fields(Result) if field.init})


def test_names_of_policies() -> None:
    trace = generate(2, input_len=10, output_len=5)
    assert simulate(SGLang(), trace).summary["policy"] == "sglang"
    assert simulate(POLICIES["tokenflow-paper"](), trace).summary["policy"] == "tokenflow-paper"
    ablated = simulate(TokenFlow(offload=False), trace)
    assert ablated.summary["policy"] == "TokenFlow[offload=False]"
    assert "offload=False" in ablated.summary["policy_args"]
    assert simulate("sglang", trace, label="mine").summary["policy"] == "mine"


def test_simulate_does_not_import_pandas() -> None:
    code = ("import sys; from sim import simulate; from traces import generate; r = simulate('vllm', generate(2, output_len=5));"
            "print(sorted({'pandas', 'matplotlib', 'scipy', 'rich', 'typer'} & set(sys.modules)), len(r.requests))")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["[]", "2"]


def test_package_offers_functions_not_modules() -> None:
    import sim
    import sim.simulate as by_path
    assert by_path is sim.simulate
    assert callable(sim.simulate)
    assert "simulate" in dir(sim)
    with pytest.raises(AttributeError):
        sim.nothing  # noqa: B018


# ---- on disk

def test_same_seed_same_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        trace = generate(20, arrival="poisson", request_rate=2.0, input_len="normal:200:50", output_len="normal:100:20", seed=3)
        path = simulate("sglang", trace, seed=3).save(tmp_path / name)
        assert path == tmp_path / name
    for file in ("run.json", "requests.csv"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()
    assert sorted(os.listdir(tmp_path)) == ["one", "two"]
    assert sorted(os.listdir(tmp_path / "one")) == ["host.json", "requests.csv", "run.json"]


def test_files_say_what_the_result_says(result: Result, tmp_path: Path) -> None:
    result.save(tmp_path / "r")
    said = json.loads((tmp_path / "r/run.json").read_text())
    assert {key: said[key] for key in result.summary} == result.summary
    with (tmp_path / "r/requests.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["fate"] for row in rows] == result.requests["fate"].tolist()
    assert rows[0]["first_token_s"] == rows[0]["rebuffers"] == ""
    assert float(rows[1]["ttft_s"]) == result.requests["ttft_s"][1]
    assert rows[1]["rebuffers"] == str(result.requests["rebuffers"][1])
    host = json.loads((tmp_path / "r/host.json").read_text())
    assert {"date", "host", "python", "packages", "process_cpu_s"} <= set(host)


def test_an_empty_directory_may_be_filled_but_never_another(result: Result, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    result.save(tmp_path / "empty")
    before = {file: file.stat().st_mtime_ns for file in (tmp_path / "empty").iterdir()}
    with pytest.raises(BadInput, match="is not empty; results are never overwritten"):
        result.save(tmp_path / "empty")
    assert {file: file.stat().st_mtime_ns for file in (tmp_path / "empty").iterdir()} == before
    (tmp_path / "file").write_text("mine")
    for bad in ("file", "file/inside"):
        with pytest.raises(BadInput, match="output directory"):
            result.save(tmp_path / bad)
    assert sorted(os.listdir(tmp_path)) == ["empty", "file"]


def test_a_directory_that_someone_filled_meanwhile(tmp_path: Path) -> None:
    def race() -> None:
        with Draft(tmp_path / "new", "run") as draft:
            draft.write("run.json", "mine")
            (tmp_path / "new").mkdir()
            (tmp_path / "new/run.json").write_text("theirs")
            draft.publish()
    with pytest.raises(BadInput, match="directory not empty"):
        race()
    assert (tmp_path / "new/run.json").read_text() == "theirs"
    assert os.listdir(tmp_path) == ["new"]


def test_the_current_directory_is_not_replaced(result: Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadInput, match="is the current directory"):
        result.save(".")


def test_numbers_go_up_and_take_the_first_free_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    made = []
    for _ in range(2):
        with Draft(None, "run") as draft:
            draft.write("a.txt", "x")
            made.append(draft.publish())
    Path("tokenflow-out/run-3").mkdir()
    Path("tokenflow-out/run-4").write_text("taken")
    with Draft(None, "run") as first, Draft(None, "run") as second:      # both began before either was done
        for draft in (first, second):
            draft.write("a.txt", "x")
            made.append(draft.publish())
    assert [path.name for path in made] == ["run-1", "run-2", "run-5", "run-6"]
    assert not [name for name in os.listdir("tokenflow-out") if name.endswith(".partial")]


def test_nothing_is_left_of_a_draft_that_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for target in (None, Path("new/deep/results")):
        with suppress(KeyboardInterrupt), Draft(target, "run") as draft:
            draft.write("run.json", "half")
            assert os.listdir(tmp_path)
            raise KeyboardInterrupt
    assert os.listdir(tmp_path) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_unwritable_place(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(BadInput, match="cannot be written: permission denied"), Draft(tmp_path / "new", "run"):
        raise AssertionError("found out too late")


def test_a_place_that_cannot_be(tmp_path: Path) -> None:
    for bad in ("/proc/nowhere/results", str(tmp_path / ("x" * 300)), "nul\0l"):
        with pytest.raises(BadInput, match="cannot be written") as caught, Draft(Path(bad), "run"):
            raise AssertionError("found out too late")
        assert "\n" not in str(caught.value)


def test_reading_along_agrees_with_the_metrics(crowded: Result) -> None:
    reading = crowded.metrics.reading
    assert reading.rebuffers.sum() > 10
    for id in range(len(crowded.trace)):
        taken_s, stalls = crowded.read_along(id)
        assert len(taken_s) == len(crowded.token_times_s(id))
        assert len(stalls) == reading.rebuffers[id]
        assert np.diff(stalls).sum() == pytest.approx(reading.rebuffer_s[id], abs=1e-6)
