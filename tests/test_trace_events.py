"""`tokenflow trace-events`: a trace that Perfetto takes, whose events are what the result counts."""

from __future__ import annotations

import gzip
import io
import json
import re
from collections import defaultdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sim import Result, simulate
from sim.cli import main
from sim.records import Fate
from sim.trace_json import TraceWriter, Track
from sim.trace_watch import NAMES, EventWatch
from traces import generate

SMALL = "--num-prompts 20 --input-len 200 --output-len normal:150:40 --kv-tokens 3000 --seed 4"
Event = dict[str, Any]


@pytest.fixture(autouse=True)
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def done(command: str) -> None:
    words = command.split()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["tokenflow", *words])
        assert main(words) == 0


class Read:
    """A trace, checked against the format: what each kind of event must have, and that slices of a track follow each other."""

    def __init__(self, file: str | Path) -> None:
        content = Path(file).read_bytes()
        whole = json.loads(gzip.decompress(content) if str(file).endswith(".gz") else content)
        self.about, self.events = whole["otherData"], whole["traceEvents"]
        self.process: dict[int, str] = {}
        self.track: dict[tuple[int, int], str] = {}
        self.slices: dict[str, list[Event]] = defaultdict(list)
        self.instants: dict[str, list[Event]] = defaultdict(list)
        self.counters: dict[str, list[Event]] = defaultdict(list)
        for event in self.events:
            assert {"ph", "name", "pid", "tid", "ts", "args"} <= set(event)
            assert isinstance(event["pid"], int)
            assert isinstance(event["tid"], int)
            assert event["ts"] >= 0
            if event["ph"] == "M":
                assert event["name"] in ("process_name", "process_sort_index", "thread_name", "thread_sort_index")
                if event["name"] == "process_name":
                    self.process[event["pid"]] = event["args"]["name"]
                if event["name"] == "thread_name":
                    self.track[event["pid"], event["tid"]] = event["args"]["name"]
                continue
            assert event["pid"] in self.process, "named before it is used"
            if event["ph"] == "C":
                assert set(event["args"]) == {"value"}
                self.counters[event["name"]].append(event)
                continue
            name = self.track[event["pid"], event["tid"]]
            {"X": self.slices, "i": self.instants}[event["ph"]][name].append(event)
        tids = [tid for _, tid in self.track]
        assert len(set(tids)) == len(tids)
        assert not set(tids) & set(self.process)
        for slices in self.slices.values():
            for one, other in pairwise(slices):
                assert round(other["ts"] * 1000) >= round(one["ts"] * 1000) + round(one["dur"] * 1000)
        for kind in (self.counters, self.instants):
            for events in kind.values():
                assert all(one["ts"] <= other["ts"] for one, other in pairwise(events))

    def of(self, prefix: str) -> list[Event]:
        return [event for name, slices in self.slices.items() if re.fullmatch(prefix, name) for event in slices]


def traced(result_of: Any, file: Path = Path("t.json"), **window: float) -> tuple[Read, Result]:
    trace, policy, more = result_of
    with file.open("wb") as opened, TraceWriter(opened, False, **window) as out:
        watch = EventWatch(out, len(trace))
        result = simulate(policy, trace, watch=watch, **more)
        watch.close()
        out.close({})
    return Read(file), result


def crowded(seed: int = 1, **more: Any) -> Any:
    return generate(40, input_len="normal:300:50", output_len="normal:300:80", arrival="poisson", request_rate=8, seed=seed), more


CASES = [("tokenflow", {}), ("tokenflow", {"link": 1}), ("tokenflow", {"link": "oracle"}), ("tokenflow", {"link": "none"}),
         ("vllm", {}), ("sglang", {}), ("andes", {}), ("fastserve", {"link": 2}), ("tokenflow", {"until_s": 6.0}),
         ("fastserve", {"until_s": 6.0, "link": 0.5}), ("tokenflow", {"max_concurrency": 10}), ("vtc", {"step_by_step": True})]


@pytest.mark.parametrize(("policy", "more"), CASES, ids=[f"{policy} {more}" for policy, more in CASES])
def test_events_are_what_the_result_counts(policy: str, more: dict[str, Any]) -> None:
    trace, _ = crowded()
    plain = simulate(policy, trace, kv_tokens=6_000, **more)
    read, result = traced((trace, policy, {"kv_tokens": 6_000, **more}))
    summary = result.summary
    assert plain.summary == pytest.approx(summary, nan_ok=True), "a watch changes nothing"
    kinds = [event["name"] for event in read.slices["steps"]]
    assert kinds.count("decode") == summary["decode_steps"]
    assert len(kinds) - kinds.count("decode") == summary["prefill_steps"]
    assert sum(event["args"].get("prompt_tokens", 0) for event in read.slices["steps"]) == summary["prefill_tokens"]
    moved = [event["name"] for event in read.instants["preemptions"]]
    assert moved.count("to host") == summary["offloads"]
    assert moved.count("dropped") == summary["drops"]
    assert moved.count("host copy given up") == summary["copies_given_up"]
    assert moved.count("to host") + moved.count("dropped") == summary["preemptions"]
    assert len(read.slices["host to GPU"]) == summary["loads"]
    assert len(read.slices["GPU to host"]) <= summary["offloads"]
    lives = read.of(r"request \d+")
    assert {event["name"] for event in lives} <= set(NAMES)
    assert sum(event["args"].get("tokens", 0) for event in lives) == summary["generated_tokens"]
    assert sum(event["args"].get("computed_tokens", 0) for event in lives) == summary["prefill_tokens"]
    assert sum(event["args"]["tokens"] for event in read.slices["GPU to host, background"]) == pytest.approx(
        summary["write_through_bytes"] / result.machine.kv_token_bytes, abs=1.0)
    for id in (result.records.fate != Fate.REJECTED).nonzero()[0].tolist():
        life, sent_s, last_s = read.slices[f"request {id}"], result.records.sent_s[id], result.records.last_s[id]
        if np.isnan(sent_s):        # the simulation stopped before
            assert not life
            continue
        end_s = result.end_s if np.isnan(last_s) else last_s
        assert life[0]["ts"] == pytest.approx(sent_s * 1e6, abs=0.01)
        assert sum(event["dur"] for event in life) == pytest.approx(1e6 * (end_s - sent_s), abs=0.1), "no gap"


def test_a_requests_life_is_where_the_timeline_has_it() -> None:
    """Seconds in each place, over all requests, are the timeline's."""
    trace, _ = crowded()
    read, result = traced((trace, "tokenflow", {"kv_tokens": 6_000, "link": 2, "timeline": True}))
    told, seconds = result.timeline.columns(), defaultdict(float)
    for event in read.of(r"request \d+"):
        seconds[event["name"]] += event["dur"] * 1e-6
    spans = told["end_s"] - told["start_s"]
    for name, columns in (("queued", ["queued"]), ("on host", ["on_host"]), ("loading", ["loading"]), ("evicting", ["evicting"]),
                          ("paused", ["paused"])):
        assert seconds[name] == pytest.approx(sum(float(spans @ told[column]) for column in columns), abs=0.02), name
    assert seconds["prefill"] + seconds["running"] == pytest.approx(float(spans @ told["running"]), abs=0.02)
    busy = sum(event["dur"] for event in read.slices["host to GPU"]) * 1e-6
    assert busy == pytest.approx(result.summary["h2d_busy_s"], rel=1e-3)


def test_stalls_are_the_readers(capsys: pytest.CaptureFixture[str]) -> None:
    done(f"run {SMALL} --policy vllm -o out")
    done(f"trace-events {SMALL} --policy vllm -o t.json.gz")
    assert capsys.readouterr().out.endswith("t.json.gz\n")
    read, facts = Read("t.json.gz"), json.loads(Path("out/run.json").read_text())
    stalls = [event["dur"] * 1e-6 for event in read.of(r"reader \d+") if event["name"] == "stall"]
    assert sum(stalls) > 0
    assert sum(stalls) == pytest.approx(facts["mean_rebuffer_s"] * 20, abs=1e-5)
    assert len(stalls) == facts["rebuffers"]
    waits = [event["dur"] * 1e-3 for event in read.of(r"reader \d+") if event["name"] == "waits"]
    assert np.mean(waits) == pytest.approx(facts["mean_ttft_ms"], abs=1e-3)
    assert read.about["policy"] == "vllm"
    for name in ("queued", "running", "GPU blocks", "host blocks", "unread tokens"):
        assert len(read.counters[name]) >= 1, name
    assert max(event["args"]["value"] for event in read.counters["GPU blocks"]) <= 3000 // 16


def test_a_saved_run_is_simulated_again(capsys: pytest.CaptureFixture[str]) -> None:
    done(f"compare {SMALL} --policies vllm,tokenflow[interval_s=0.3] --save-timeline --goodput ttft:1300 -o out")
    done("trace-events out/tokenflow_interval_s=0.3 -o one.json")
    done(f"trace-events {SMALL} --policy tokenflow --policy-arg interval_s=0.3 --goodput ttft:1300 -o two.json")
    one, two = Path("one.json").read_bytes(), Path("two.json").read_bytes()
    assert one == two
    assert Read("one.json").about["policy"] == "tokenflow[interval_s=0.3]"
    done("trace-events out/vllm")
    assert gzip.decompress(Path("trace.json.gz").read_bytes()) != one


def test_the_demos_runs_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    from sim.workloads import WORKLOADS
    monkeypatch.setitem(WORKLOADS, "burst-80", replace(WORKLOADS["burst-80"], num_prompts=5))
    done("demo --seed 2 -o out")
    done("trace-events out/tokenflow -o t.json")
    assert Read("t.json").about["seed"] == 2


def test_a_window() -> None:
    done(f"trace-events {SMALL} --policy vllm -o whole.json")
    done(f"trace-events {SMALL} --policy vllm --from-s 1.5 --to-s 2.5 -o part.json")
    whole, part = Read("whole.json"), Read("part.json")
    for name, slices in part.slices.items():
        inside = [event for event in whole.slices[name] if event["ts"] < 2.5e6 and event["ts"] + event["dur"] > 1.5e6]
        assert len(inside) == len(slices), name
        assert all(event["ts"] >= 1.5e6 and event["ts"] + event["dur"] <= 2.5e6 + 1e-3 for event in slices)
    assert 0 < len(part.events) < len(whole.events) / 2


def test_same_run_same_bytes() -> None:
    done(f"trace-events {SMALL} -o one.json.gz")
    done(f"trace-events {SMALL} -o two.json.gz")
    assert Path("one.json.gz").read_bytes() == Path("two.json.gz").read_bytes()


def test_what_was_measured_shows_its_tokens(capsys: pytest.CaptureFixture[str]) -> None:
    trace = generate(6, input_len=200, output_len=30, seed=1)
    result = simulate("vllm", trace, timeline=True)
    result.save("real", detailed=True)
    facts = json.loads(Path("real/run.json").read_text())
    Path("real/run.json").write_text(json.dumps(facts | {"engine": "vLLM 0.32.0", "status": "measured"}))
    done("trace-events real -o t.json")
    assert "was measured: the trace has tokens and readers; not kept were steps" in capsys.readouterr().out
    read = Read("t.json")
    assert sum(len(events) for name, events in read.instants.items() if name.endswith("tokens")) == 180
    assert sum(event["args"].get("tokens", 0) for event in read.of(r"request \d+")) == 180
    assert read.counters["running"]
    assert not read.slices["steps"]


def test_numbers_that_no_two_tracks_share_and_slices_of_no_length() -> None:
    file = io.BytesIO()
    with TraceWriter(file, False) as out:
        out.slice(Track("a", "x"), "nothing", 1.0, 1.0, {})
        out.slice(Track("a", "x"), "brief", 1.0, 1.0, {}, brief=True)
        out.slice(Track("b", "x"), "long", 0.0, 1e-9, {})
        out.close({})
    events = [event for event in json.loads(file.getvalue())["traceEvents"] if event["ph"] == "X"]
    assert [(event["name"], event["dur"]) for event in events] == [("brief", 0.0), ("long", 0.001)]
    assert events[0]["tid"] != events[1]["tid"]


# ---- what cannot be

BAD = [
    ("nosuch", r"trace-events: nosuch: there is no such directory"),
    ("out/run.json", r"trace-events: out/run.json: is not a directory"),
    ("empty", r"trace-events: empty: holds no run.json: it is no run of tokenflow"),
    ("cmp", r"trace-events: cmp: holds no run.json; name one of its runs, such as cmp/tokenflow"),
    ("out --seed 3", r"--seed: 3: cannot be given together with RUN: out says it"),
    ("out --policy vllm", r"--policy: vllm: cannot be given together with RUN"),
    ("out -o t.txt", r"output file: t.txt: must end in .json or .json.gz"),
    ("out -o nosuch/t.json", r"output file: nosuch/t.json: cannot be written: there is no such folder"),
    ("out -o taken.json", r"output file: taken.json: is there already; results are never overwritten"),
    ("out --from-s -1", r"--from-s: -1.0: must be a number from 0"),
    ("out --from-s soon", r"--from-s: 'soon': is not a number"),
    ("out --from-s 3 --to-s 3", r"--to-s: 3: must be later than --from-s, 3"),
    ("other", r"trace-events: other/run.json: p99_ttft_ms is 1.5 there and \S+ now: it was made by other code"),
    ("older", r"trace-events: older/host.json: its command is none of this version: --fly"),
    ("python", r"trace-events: python: no host.json says which command of tokenflow made it"),
    ("broken", r"result: broken/run.json: cannot be read"),
    ("real", r"trace-events: real/run.json: has no token times: tokenflow-calibrate replay keeps them"),
    ("--policy vllm", r"workload: command line: give --trace FILE, --workload NAME"),
    ("--num-prompts 3 --policy nosuch", r"policy: 'nosuch': unknown"),
    ("--num-prompts 3 --json", r"--json: tokenflow trace-events: No such option"),
]


@pytest.mark.unaudited
@pytest.mark.parametrize(("words", "line"), BAD, ids=[words for words, _ in BAD])
def test_bad_input_is_one_line_and_writes_nothing(words: str, line: str, inside: Path, capsys: pytest.CaptureFixture[str]) -> None:
    few = "--num-prompts 2 --output-len 5"
    for name in ("out", "other", "older", "python", "broken", "real"):
        done(f"run {few} --policy vllm -o {name}")
    done(f"compare {few} --policies tokenflow,vllm -o cmp")
    Path("empty").mkdir()
    Path("taken.json").write_text("")

    def change(file: str, **said: Any) -> None:
        Path(file).write_text(json.dumps(json.loads(Path(file).read_text()) | said))
    change("other/run.json", p99_ttft_ms=1.5)
    change("older/host.json", command=["tokenflow", "run", "--fly", "3"])
    change("python/host.json", command=["script.py"])
    Path("broken/run.json").write_text("{")
    change("real/run.json", engine="vLLM 0.32.0")
    capsys.readouterr()
    before = sorted(map(str, inside.rglob("*")))
    assert main(["trace-events", *words.split()]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1, err
    assert re.match(f"tokenflow: {line}", err), err
    assert sorted(map(str, inside.rglob("*"))) == before
