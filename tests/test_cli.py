"""The command line, called in this process: what it prints, where it writes, and that it stays quick to start."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sim.cli import main

SMALL = ["--num-prompts", "6", "--input-len", "20", "--output-len", "30"]


@pytest.fixture(autouse=True)
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    return tmp_path


def json_of(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    assert main([*words, "--json"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    found = json.loads(out)
    assert isinstance(found, dict)
    return found


def test_run_shows_a_table_and_keeps_the_results(inside: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--policy", "vllm", *SMALL]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    lines = out.splitlines()
    assert lines[-1] == "tokenflow-out/run-1"
    assert max(map(len, lines)) <= 80
    assert "\x1b" not in out, "no colour codes in a pipe"
    assert "20 tokens/s (the TokenFlow paper's rate)" in out
    assert "fitted" in out
    assert re.search(r"TTFT mean, s +0\.\d\d", out)
    assert re.search(r"tokens/CPU s, million +\d", out)
    assert re.search(r"CPU of the whole process: \d", out)
    assert sorted(os.listdir(inside / "tokenflow-out/run-1")) == ["host.json", "requests.csv", "run.json"]
    assert main(["run", "--policy", "vllm", *SMALL]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "tokenflow-out/run-2"


def test_compare_shows_ratios_to_the_first(inside: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "--policies", "sglang,vllm,sglang[decay_steps=7]", "-o", "here", *SMALL]) == 0
    out, _ = capsys.readouterr()
    lines = out.splitlines()
    assert lines[-1] == "here"
    assert max(map(len, lines)) <= 80
    row = next(line for line in lines if line.startswith(" output tokens/s"))
    first, second, ratio, third, same = row.split()[2:]
    assert ratio == f"x{float(second.replace(',', '')) / float(first.replace(',', '')):.2f}"
    assert (third, same) == (first, "x1.00")
    folders = {"sglang", "vllm", "sglang_decay_steps=7"}
    assert set(os.listdir("here")) == {"compare.json", "compare.csv", "host.json", *folders}
    together = json.loads(Path("here/compare.json").read_text())["policies"]
    assert list(together) == ["sglang", "vllm", "sglang[decay_steps=7]"]
    assert together["vllm"] == json.loads(Path("here/vllm/run.json").read_text())
    assert Path("here/compare.csv").read_text().count("\n") == 4
    cost = json.loads(Path("here/host.json").read_text())["simulate_cpu_s"]
    assert list(cost) == list(together)
    assert min(cost.values()) > 0


def test_many_policies_go_on_in_a_further_table(capsys: pytest.CaptureFixture[str]) -> None:
    policies = ",".join(f"sglang[decay_steps={n}]" for n in range(1, 7))
    assert main(["compare", "--policies", policies, *SMALL]) == 0
    out, _ = capsys.readouterr()
    assert max(map(len, out.splitlines())) <= 80
    assert out.count("TTFT mean") >= 2
    assert out.count("[decay_steps=1]") == out.count("TTFT mean"), "each table begins with the first policy"


def test_json_is_all_there_is(inside: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = json_of(capsys, "run", "--policy", "vllm", *SMALL)
    assert (said["completed"], said["policy"], said["total_output_tokens"]) == (6, "vllm", 180)
    assert os.listdir(inside) == []
    both = json_of(capsys, "compare", "--policies", "sglang,vllm", *SMALL, "-o", "kept")
    assert both["policies"]["vllm"] == said
    assert json.loads((inside / "kept/compare.json").read_text()) == both


def test_same_command_same_bytes(inside: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["compare", "--policies", "sglang,vllm", *SMALL, "--request-rate", "3", "--seed", "5"]
    for name in ("one", "two"):
        assert main([*words, "-o", name]) == 0
    for file in ("compare.json", "compare.csv", "vllm/run.json", "vllm/requests.csv"):
        assert (inside / "one" / file).read_bytes() == (inside / "two" / file).read_bytes()
    assert main([*words[:-1], "6", "-o", "three"]) == 0
    assert (inside / "one/vllm/requests.csv").read_bytes() != (inside / "three/vllm/requests.csv").read_bytes()


def test_a_timeline_is_kept_on_demand(inside: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, more in (("without", []), ("with", ["--save-timeline"])):
        assert main(["compare", "--policies", "sglang,vllm", *SMALL, *more, "-o", name]) == 0
    assert sorted(os.listdir("without/vllm")) == ["requests.csv", "run.json"]
    assert sorted(os.listdir("with/vllm")) == ["requests.csv", "run.json", "timeline.csv"]
    assert Path("without/vllm/run.json").read_bytes() == Path("with/vllm/run.json").read_bytes()
    header, *rows = Path("with/vllm/timeline.csv").read_text().splitlines()
    assert header.startswith("start_s,end_s,queued,running,paused,on_host,loading,evicting,gpu_blocks,host_blocks,")
    assert len(rows) > 100
    capsys.readouterr()
    assert main(["run", *SMALL, "--json", "--save-timeline"]) == 2
    assert capsys.readouterr().err.startswith("tokenflow: --save-timeline: command line: with --json alone no file is kept")


def test_trace_and_its_cuts(inside: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = "".join(f"{second},50,{40 + second}\n" for second in range(20))
    (inside / "my.csv").write_text("arrival_s,input_tokens,output_tokens\n" + rows + "30,50,0\n")
    cut = ["--start", "5", "--end", "15", "--limit", "4", "--time-scale", "2"]
    said = json_of(capsys, "run", "--policy", "vllm", "--trace", "my.csv", *cut)
    assert (said["completed"], said["dropped_row"], said["requests"]) == (4, 1, 5)
    assert said["total_output_tokens"] == 45 + 46 + 47 + 48
    assert said["trace"] == "my.csv --start 5 --end 15 --limit 4 --time-scale 2"
    assert said["request_rate"] == pytest.approx(4 / 6)


@pytest.mark.parametrize("command", ["run", "compare"])
def test_stopped_before_anything_arrived(command: str, inside: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (inside / "late.csv").write_text("arrival_s,input_tokens,output_tokens\n10,100,50\n")
    words = [command, "--trace", "late.csv", "--until", "5"]
    assert json_of(capsys, *words, *(["--policy", "vllm"] if command == "run" else ["--policies", "vllm,sglang"]))
    assert main(words) == 0
    out = capsys.readouterr().out
    assert re.search(r"link busiest way, % +-", out)
    assert re.search(r"unfinished +1", out)


def test_tables_call_scaled_step_times_estimated(capsys: pytest.CaptureFixture[str]) -> None:
    for command in (["run", "--policy", "vllm"], ["compare", "--policies", "vllm,sglang"]):
        assert main([*command, "--model", "qwen2.5-7b", *SMALL]) == 0
        out = " ".join(capsys.readouterr().out.split())
        assert "Step times estimated: scaled from llama3-8b on rtx4090 by weight bytes, KV bytes and FLOPs; host time" in out


@pytest.mark.parametrize(("words", "key", "value"), [
    (["--kv-tokens", "1616"], "kv_tokens", 1600),
    (["--host-kv-tokens", "0"], "host_kv_tokens", 0),
    (["--block-size", "32"], "block_size", 32),
    (["--max-num-seqs", "3"], "max_seqs", 3),
    (["--max-num-batched-tokens", "77"], "max_step_tokens", 77),
    (["--mem-fraction", "0.8"], "kv_tokens", 31_216),
    (["--host-time-ms", "1.5"], "latency_host_s", 0.0015),
    (["--link", "12.5"], "h2d_bytes_per_s", 12.5e9),
    (["--link", "oracle"], "d2h_bytes_per_s", "inf"),
    (["--link", "none"], "host_kv_tokens", 0),
    (["--believed-step", "0.5"], "believed_step", 0.5),
    (["--believed-link", "2"], "believed_link", 2.0),
    (["--consume-rate", "6.5"], "consume_rate", 6.5),
    (["--max-concurrency", "2"], "max_concurrency", 2),
    (["--max-model-len", "55"], "max_model_len", 55),
    (["--hardware", "h200"], "gpu", "NVIDIA H200"),
    (["--until", "0.5"], "until_s", 0.5),
    (["--seed", "3"], "seed", 3),
    (["--request-rate", "2"], "request_rate", 2.0),
    (["--arrival", "poisson", "--request-rate", "2", "--burstiness", "inf"], "request_rate", 2.0),
    (["--arrival", "burst"], "request_rate", "inf"),
    (["--policy-arg", "reserve_whole_prompt=false"], "policy_args", "reserve_whole_prompt=False"),
])
def test_flags_reach_the_simulation(words: list[str], key: str, value: object, capsys: pytest.CaptureFixture[str]) -> None:
    if "--max-model-len" in words:
        words = [*words, "--input-len", "normal:20:9"]
    small = [word for word in SMALL if not ("--input-len" in words and word in ("--input-len", "20"))]
    assert json_of(capsys, "run", "--policy", "vllm", *small, *words)[key] == value


def test_step_by_step_gives_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    fast, slow = (json_of(capsys, "run", "--policy", "vllm", *SMALL, *more) for more in ([], ["--step-by-step"]))
    assert fast["mean_ttft_ms"] == pytest.approx(slow["mean_ttft_ms"], rel=1e-12)
    assert fast["decisions"] == slow["decisions"]


@pytest.mark.parametrize("what", ["policies", "hardware", "models", "workloads"])
def test_list(what: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", what]) == 0
    out, _ = capsys.readouterr()
    assert {"policies": "sglang", "hardware": "rtx4090", "models": "llama3-8b", "workloads": "table1-4090-b"}[what] in out
    assert max(map(len, out.splitlines())) <= 80


def test_lists_say_what_is_fitted_estimated_and_too_large(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "models"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "qwen2.5-32b 32.8 G 65.5 GB 262,144 bytes fitted: h200 estimated: a100, h100 too large: a6000, rtx4090" in out
    assert "estimated in part: a6000" in out
    assert main(["list", "hardware"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "llama3-8b (estimated in part)" in out
    assert "Any other model that fits has those of the nearest of these, scaled: estimated" in out


@pytest.mark.parametrize("words", [[], ["--help"], ["run", "--help"], ["compare", "--help"], ["list", "--help"], ["--version"]])
def test_help_and_version(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 0
    out, err = capsys.readouterr()
    assert out
    assert err == ""


def test_defaults_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    """Brackets are markup to the help's printer: a default in them would vanish."""
    main(["compare", "--help"])
    out = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "(default: 20, the TokenFlow paper's)" in out
    assert "(default: sglang,vllm,tokenflow)" in out
    assert "arrival_s,input_tokens,output_tokens[,...]" in out


def test_the_papers_rate_is_the_simulators_default() -> None:
    from sim.cli_options import PAPERS_RATE
    from sim.simulate import DEFAULT_CONSUME_TPS
    assert PAPERS_RATE == DEFAULT_CONSUME_TPS


def test_help_imports_nothing_heavy() -> None:
    code = ("import sys; from sim.cli import main; main(['--help']);"
            "print(sorted({'numpy', 'pandas', 'matplotlib', 'scipy', 'pydantic', 'simpy'} & set(sys.modules)), file=sys.stderr)")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"


def test_interrupted(inside: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object, **__: object) -> None:
        signal.raise_signal(signal.SIGINT)
    monkeypatch.setattr("policies.vllm.Vllm.plan", interrupt)
    assert main(["run", "--policy", "vllm", *SMALL]) == 130
    out, err = capsys.readouterr()
    assert (out, err) == ("", "tokenflow: interrupted\n")
    assert os.listdir(inside) == []


def test_progress_appears_only_where_someone_waits(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from sim.cli_progress import Bar
    monkeypatch.setattr("sim.cli_progress._PATIENCE_S", 0.0)
    for terminal, wanted, appears in ((True, True, True), (True, False, False), (False, True, False)):
        monkeypatch.setattr(sys.stderr, "isatty", lambda terminal=terminal: terminal)
        with Bar(wanted) as bar:
            bar.begin("vllm")
            bar(1, 10, 3.0)
            bar.begin("sglang")
            bar(2, 10, 5.0)
        out, err = capsys.readouterr()
        assert out == ""
        assert ("vllm" in err) == appears


# ---- metrics on demand

def row_of(out: str, title: str) -> list[str]:
    """The cells of a row of the table."""
    line = next(line for line in out.splitlines() if line.startswith(f" {title}"))
    return line.removeprefix(f" {title}").split()


@pytest.mark.parametrize("words", ["ttft:1300,tpot:50,rebuffer:500", "ttft:1300 tpot:50 rebuffer:500",
                                   "ttft:1300,tpot:50 --goodput rebuffer:500"])
def test_goodput_as_vllm_and_with_commas(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    said = json_of(capsys, "run", "--policy", "vllm", "--goodput", *words.split(), *SMALL)
    assert said["goodput"] == "ttft:1300,tpot:50,rebuffer:500"
    assert said["request_goodput"] == said["request_throughput"] > 0
    assert said["goodput_share"] == 1


def test_table_has_goodput_when_it_is_asked_for(inside: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "--policies", "vllm,sglang", *SMALL, "--goodput", "ttft:0.001"]) == 0
    out = capsys.readouterr().out
    assert row_of(out, "goodput, requests/s") == ["0.00", "0.00"], "none is good, and that is shown"
    assert row_of(out, "  of all requests, %") == ["0.0", "0.0"]
    assert max(map(len, out.splitlines())) <= 80
    header = (inside / "tokenflow-out/compare-1/vllm/requests.csv").read_text().split("\n")[0].split(",")
    assert header[-1] == "good"
    assert main(["run", "--policy", "vllm", *SMALL]) == 0
    out = capsys.readouterr().out
    assert "goodput" not in out
    assert row_of(out, "QoE (Andes)") == ["1.000"]
    assert row_of(out, "fluency lost, %") == ["0.0"]


def test_percentiles_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["run", "--policy", "vllm", *SMALL, "--metric-percentiles", "50,90,99.9"]
    said = json_of(capsys, *words)
    assert said["p50_ttft_ms"] == said["median_ttft_ms"]
    assert {"p90_tpot_ms", "p99_itl_ms", "p99.9_e2el_ms", "p90_rebuffer_s"} <= set(said)
    assert main(words) == 0
    out = capsys.readouterr().out
    titles = [line[1:24].strip() for line in out.splitlines() if line.startswith((" TTFT", " ITL", " rebuffering"))]
    assert titles == ["TTFT mean, s", "TTFT median, s", "TTFT P90, s", "TTFT P99, s", "TTFT P99.9, s", "TTFT over 1.3 s, %",
                      "ITL P50, ms", "ITL P90, ms", "ITL P99, ms", "ITL P99.9, ms", "rebuffering mean, s", "rebuffering P50, s",
                      "rebuffering P90, s", "rebuffering P99, s", "rebuffering P99.9, s"]


@pytest.mark.parametrize(("rate", "line"), [
    ("20", r"Readers take 20 tokens/s \(the TokenFlow paper's rate\)\."),
    ("7.5", r"Readers take 7\.5 tokens/s\."),
    ("0.4:15,0.6:20", r"Readers take 15 to 20 tokens/s, each their own, 1\d(\.\d)? on average\."),
    ("human-reading", r"Readers take \d(\.\d+)? to \d(\.\d+)? tokens/s, each their own, \d(\.\d+)? on average\."),
])
def test_heading_says_how_fast_readers_are(rate: str, line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--policy", "vllm", "--num-prompts", "12", "--output-len", "5", "--consume-rate", rate]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert re.search(line, said)
    if ":" in rate or rate.startswith("human"):
        assert f"--consume-rate {rate}" in said, "the first line names the law"


def test_heading_when_only_some_requests_have_a_rate(inside: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (inside / "my.csv").write_text("arrival_s,input_tokens,output_tokens,consume_tps\n0,9,9,\n1,9,9,4\n2,9,9,8\n")
    assert main(["run", "--policy", "vllm", "--trace", "my.csv"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "Readers take 20 tokens/s (the TokenFlow paper's rate) where the trace does not say otherwise;" in said
    assert "it does for 2 of 3." in said


def test_one_request_is_one(inside: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (inside / "my.csv").write_text("arrival_s,input_tokens,output_tokens\n0,9,9\n1,9,0\n")
    assert main(["run", "--policy", "vllm", "--trace", "my.csv"]) == 0
    assert capsys.readouterr().out.startswith("1 request: my.csv")
    assert main(["trace", "describe", "my.csv"]) == 0
    assert capsys.readouterr().out.startswith("1 request, 1 row with zero output tokens left out: my.csv")
    assert main(["trace", "convert", "my.csv", "out.csv"]) == 0
    assert capsys.readouterr().out == "out.csv: 1 request, 1 row with zero output tokens left out\n"
