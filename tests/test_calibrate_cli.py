"""`tokenflow-calibrate fit` and `check`: from a table or samples to a profile that sim reads, and back to the table."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from samples import HOST_S, links_csv, write_samples
from tables import TRUTHS, steps, write_table

from calibrate.cli import main
from sim import cli
from sim.hardware import build_machine, load_hardware, manifest

PNG = b"\x89PNG"
SMALL = ["run", "--policy", "tokenflow", "--num-prompts", "3", "--output-len", "8"]
TABLE = "--gpu rtx4090 --model llama3-8b"


@pytest.fixture(autouse=True)
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_table(steps(TRUTHS["slow"], 0.03), tmp_path / "table.csv")
    return tmp_path


def out(capsys: pytest.CaptureFixture[str], words: str) -> str:
    assert main(words.split()) == 0, capsys.readouterr().err
    return capsys.readouterr().out


def test_a_table_becomes_a_profile(inside: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = out(capsys, f"fit table.csv -o mine.json {TABLE} --engine vLLM --engine-version 9.9 --source somebody")
    assert "held out: 10 random halves" in said
    assert max(map(len, said.splitlines())) <= 80
    profile, truth = load_hardware("mine.json"), TRUTHS["slow"]
    times = profile.models["llama3-8b"]
    assert profile.name == "mine"
    assert profile.link == load_hardware("rtx4090").link
    assert times.latency.weights_s == pytest.approx(truth[0], rel=0.02)
    assert (times.engine, times.engine_version, times.source) == ("vLLM", "9.9", "somebody")
    assert times.status == "fitted (kernel tables, host time assumed)"
    assert times.intervals_90 is not None
    low, high = times.intervals_90["weights_s"]
    assert low < times.latency.weights_s < high
    assert times.fit_error is not None
    assert times.fit_error.rows == len(steps(truth))
    assert manifest("mine.json", "llama3-8b")["fit_test_mape_pct"] == times.fit_error.test_mape_pct
    assert (inside / "mine.png").read_bytes().startswith(PNG)
    assert sorted(os.listdir(inside)) == ["mine.json", "mine.png", "table.csv"]


def test_the_simulator_runs_on_it(capsys: pytest.CaptureFixture[str]) -> None:
    out(capsys, f"fit table.csv -o mine.json {TABLE}")
    assert cli.main([*SMALL, "--hardware", "mine.json", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["hardware"] == "mine"


def test_a_gpu_that_is_no_built_in_profile(capsys: pytest.CaptureFixture[str]) -> None:
    out(capsys, "fit table.csv -o mine.json --gpu L40S --memory-gib 48 --model qwen2.5-7b --name ours --host-time-ms 1")
    profile = load_hardware("mine.json")
    assert (profile.name, profile.gpu.name, profile.gpu.memory_bytes, profile.link) == ("ours", "L40S", 48 * 2**30, None)
    assert profile.host_s.value == 1e-3
    assert profile.models["qwen2.5-7b"].status == "fitted (table of whole steps, host time given)"
    assert build_machine("mine.json", "qwen2.5-7b").host_kv_blocks == 0


def test_rows_that_no_machine_could_run_are_left_out_on_demand(capsys: pytest.CaptureFixture[str]) -> None:
    every = out(capsys, f"fit table.csv -o every.json {TABLE}")
    some = out(capsys, f"fit table.csv -o some.json {TABLE} --only-feasible")
    rows = [int(re.match(r"(\d+) steps of table.csv", said)[1]) for said in (every, some)]      # type: ignore[index]
    pool = build_machine("rtx4090", "llama3-8b").kv_blocks * 16
    assert rows == [len(steps(TRUTHS["slow"])), (steps(TRUTHS["slow"]).kv_held <= pool).sum()]
    assert rows[1] < rows[0]


def test_samples_become_a_profile_with_link_pool_and_host_time(inside: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_samples(inside / "samples", TRUTHS["fast"], more="decode,4,9,,,,,,,,,,,,,skipped: out of memory\n")
    said = out(capsys, "fit samples -o gpu.json")
    assert "1 left out (not ok)" in said
    profile = load_hardware("gpu.json")
    times = profile.models["llama3-8b"]
    assert profile.gpu.name == "NVIDIA Test"
    assert profile.host_s.value == pytest.approx(HOST_S)
    assert profile.host_s.status.startswith("measured")
    assert times.status == "fitted (steps timed in the engine, host time measured)"
    assert times.latency.weights_s == pytest.approx(TRUTHS["fast"][0], rel=0.02)
    assert times.engine_version == "0.32.0"
    assert times.geometry is None       # the package knows it
    machine = build_machine("gpu.json", "llama3-8b")
    assert machine.kv_blocks == 12_344
    assert (machine.max_seqs, machine.max_step_tokens) == (200, 3000)
    assert machine.h2d_bytes_per_s == pytest.approx(50e9, rel=0.01)
    assert machine.d2h_bytes_per_s == pytest.approx(40e9, rel=0.01)
    assert machine.copy_overhead_s == pytest.approx(4e-6, rel=0.05)
    assert (machine.duplex_h2d, machine.duplex_d2h) == pytest.approx((0.75, 0.75), rel=1e-3)
    assert build_machine("gpu.json", "llama3-8b", mem_fraction=0.9).kv_blocks == pytest.approx(12_344, abs=2)


def test_memory_that_was_set_by_hand_says_nothing_of_the_rest(inside: Path) -> None:
    write_samples(inside / "by_hand", TRUTHS["fast"], engine_args={"gpu_memory_utilization": 0.9, "kv_cache_memory_bytes": 2**30})
    assert main(["fit", "by_hand", "-o", "by_hand.json"]) == 0
    assert json.loads(Path("by_hand.json").read_text())["reserve_source"].startswith("estimated")


def test_host_time_is_that_of_decode_steps(inside: Path) -> None:
    slow = "prefill,1,64,64,0,2048,1,99,91,5,2,1,5,99,99,ok\n" * 8
    write_samples(inside / "mixed_hosts", TRUTHS["fast"], more=slow)
    assert main(["fit", "mixed_hosts", "-o", "mixed_hosts.json"]) == 0
    assert json.loads(Path("mixed_hosts.json").read_text())["host_s"]["value"] == pytest.approx(HOST_S, rel=1e-3)


def test_samples_of_a_cpu_have_no_link_and_no_gpu_memory(inside: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = {"name": "tiny", "layers": 2, "hidden": 64, "heads": 4, "kv_heads": 2, "head_dim": 16, "intermediate": 128,
             "vocab": 500, "dtype": "float32", "parameters": 200_000, "trained_context": 2048, "source": "made up"}
    write_samples(inside / "samples", TRUTHS["slow"], device="cpu", model="tiny", geometry=small)
    out(capsys, "fit samples -o cpu.json")
    profile = load_hardware("cpu.json")
    assert (profile.link, profile.gpu.memory_bytes, profile.gpu.name) == (None, 0, "Some CPU, 2 cores")
    assert build_machine("cpu.json", "tiny").kv_blocks == 12_344
    assert cli.main([*SMALL, "--hardware", "cpu.json", "--model", "tiny"]) == 0
    assert "links absent" in " ".join(capsys.readouterr().out.split())


def test_check_finds_the_noise_in_the_table_it_was_fitted_to(inside: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out(capsys, f"fit table.csv -o mine.json {TABLE}")
    said = out(capsys, "check mine.json --against table.csv -o checked")
    assert max(map(len, said.splitlines())) <= 80
    mape = float(re.search(r"^  all +\d+ +([\d.]+)", said, re.MULTILINE)[1])       # type: ignore[index]
    assert 1.8 < mape < 3.0
    assert "where it fails" in said
    assert (inside / "checked/check.txt").read_text() == said
    assert (inside / "checked/residuals.png").read_bytes().startswith(PNG)


def test_check_takes_a_built_in_name_and_samples_with_their_host_time(inside: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_samples(inside / "samples", TRUTHS["fast"])
    for words, says in (("h200 --against samples --model llama3-8b", "host time of 0.8 ms a step counted in"),
                        ("rtx4090 --against table.csv", "without host time"),
                        ("rtx4090 --against table.csv --whole-steps", "host time of 0.8 ms a step counted in")):
        assert says in " ".join(out(capsys, f"check {words}").split())


def test_both_checks_at_once(inside: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (inside / "e2e.csv").write_text("isl,osl,concurrency,ttft_ms,tpot_ms\n128,32,1,30.8,17.1\n128,32,8,,20\n")
    said = out(capsys, "check rtx4090 --against table.csv --e2e e2e.csv -o both")
    assert "TPOT: MAPE" in said
    assert "TTFT includes client queueing" in said
    assert (inside / "both/check.txt").read_text() == said


def test_help_imports_nothing_heavy() -> None:
    code = ("import sys; from calibrate.cli import main; main(['--help']);"
            "heavy = {'numpy', 'pandas', 'matplotlib', 'scipy', 'pydantic', 'simpy', 'torch'};"
            "print(sorted(heavy & set(sys.modules)), file=sys.stderr)")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ | {
        "PYTHONPATH": str(Path(__file__).parents[1])})
    assert done.stderr.strip() == "[]"
    for command in ("fit", "check", "remake", "replay", "compare", "validate"):
        assert command in done.stdout


LOADS = "isl,osl,concurrency,ttft_ms,tpot_ms\n"
HEAD = "phase,batch,tokens_or_context,latency_ms\n"
FILES = {
    "empty.csv": "", "header.csv": HEAD, "columns.csv": "phase,batch,ms\ndecode,1,5\n",
    "nan.csv": HEAD + "decode,1,128,nan\n", "zero.csv": HEAD + "decode,1,128,5\ndecode,2,128,0\n",
    "negative.csv": HEAD + "decode,1,128,-5\n", "text.csv": HEAD + "decode,one,128,5\n", "blank.csv": HEAD + "decode,1,128,\n",
    "phase.csv": HEAD + "mixed,1,128,5\n", "none.csv": HEAD + "decode,0,128,5\n",
    "few.csv": HEAD + "decode,1,128,5\nprefill,1,128,9\n",
    "some.csv": "phase,batch,tokens_or_context,latency_ms,pairs\ndecode,1,128,5,0\n", "fields.csv": HEAD + "decode,1,128\n",
    "e2e.csv": LOADS + "128,1,1,3,17\n", "e2e-huge.csv": LOADS + "9999,9999,500,,9\n", "e2e-nan.csv": LOADS + "128,8,1,3,nan\n",
    "e2e-long.csv": LOADS + "90000,8,1,3,9\n",
    "two.csv": HEAD.strip() + ",model\ndecode,1,128,5,llama\ndecode,2,128,5,qwen\n",
    "twice.csv": HEAD.strip() + ",latency_ms\ndecode,1,128,5,6\n", "many.csv": HEAD + "decode,1,128,5\n" * 10_001,
    "taken.json": "{}", "plot.png": "x",
}
BAD = [
    ("fit nosuch.csv -o a.json", r"table: nosuch.csv: cannot be read: no such file"),
    ("fit empty.csv -o a.json", r"table: empty.csv: the file is empty"),
    ("fit header.csv -o a.json", r"table: header.csv: holds a header only"),
    ("fit columns.csv -o a.json", r"table: columns.csv, line 1: has no column tokens_or_context, latency_ms; columns found"),
    ("fit nan.csv -o a.json", r"table: nan.csv, line 2: column latency_ms: 'nan' is NaN"),
    ("fit zero.csv -o a.json", r"table: zero.csv, line 3: column latency_ms: '0' must be above 0"),
    ("fit negative.csv -o a.json", r"table: negative.csv, line 2: column latency_ms: '-5' must be above 0"),
    ("fit text.csv -o a.json", r"table: text.csv, line 2: column batch: 'one' is not a number"),
    ("fit blank.csv -o a.json", r"table: blank.csv, line 2: column latency_ms: '' is not a number"),
    ("fit phase.csv -o a.json", r"table: phase.csv, line 2: column phase: 'mixed' is neither prefill nor decode"),
    ("fit none.csv -o a.json", r"table: none.csv, line 2: a step of no tokens"),
    ("fit some.csv -o a.json", r"table: some.csv, line 1: has some of the columns tokens, kv_tokens, pairs, seqs: needs all"),
    ("fit twice.csv -o a.json", r"table: twice.csv, line 1: column 'latency_ms' appears more than once"),
    ("fit samples -o a.json --only-feasible", r"--only-feasible: True: is for tables; the samples in samples say it themselves"),
    ("fit two.csv -o a.json", r"table: two.csv: column model: holds llama, qwen: a fit is of one model"),
    ("fit many.csv -o a.json", r"table: many.csv: holds 10,001 steps; a fit takes at most 10,000"),
    ("fit fields.csv -o a.json", r"table: fields.csv, line 2: has 3 fields, the header has 4"),
    (f"fit few.csv -o a.json {TABLE}", r"table: few.csv: 2 different steps are too few to fit \d terms"),
    ("fit table.csv -o a.json", r"--gpu: \(not given\): table.csv does not say where it was measured"),
    ("fit table.csv -o a.json --gpu h200", r"--model: \(not given\)"),
    ("fit table.csv -o a.json --gpu h200 --model gpt-9", r"model: 'gpt-9': unknown"),
    ("fit table.csv -o a.json --gpu L40S --model llama3-8b", r"--memory-gib: \(not given\): 'L40S' is no built-in profile"),
    ("fit table.csv -o a.json --gpu h200 --memory-gib 9 --model llama3-8b", r"--memory-gib: 9: the profile h200 says"),
    ("fit table.csv -o a.json --gpu L40S --memory-gib 0 --model llama3-8b", r"--memory-gib: 0: must be a number of GiB above 0"),
    ("fit table.csv -o a.json --gpu X --memory-gib 8 --model llama3-8b --only-feasible", r"smallest fraction|does not fit|need"),
    (f"fit table.csv -o a.json {TABLE} --host-time-ms -1", r"--host-time-ms: -1: must be zero or more"),
    (f"fit table.csv -o a.json {TABLE} --host-time-ms 99", r"--host-time-ms: 99: .*the shortest step takes"),
    (f"fit table.csv -o taken.json {TABLE}", r"output file: taken.json: exists; files are never overwritten"),
    (f"fit table.csv -o plot.json {TABLE}", r"output file: plot.png: exists"),
    (f"fit table.csv -o a.txt {TABLE}", r"--output: a.txt: must be named .json"),
    (f"fit table.csv -o no/a.json {TABLE}", r"output file: no/a.json: cannot be written: no such directory"),
    ("fit folder -o a.json", r"table: folder/steps.csv: cannot be read: no such file"),
    ("fit cut -o a.json", r"samples: cut/steps.csv: its last line was cut short: delete that line, or go on with profile --resume"),
    ("fit fp8 -o a.json", r"samples: fp8/machine.json: KV of type fp8: "),
    ("fit samples -o a.json --gpu h200", r"--gpu: h200: is for tables; the samples in samples say it themselves"),
    ("fit broken -o a.json", r"samples: broken/machine.json: is not JSON"),
    ("fit vague -o a.json", r"samples: vague/machine.json: num_gpu_blocks must be of kind int, got None"),
    ("fit linked -o a.json", r"links: linked/links.csv, line 2: h2d, 4096 bytes: a value must be above 0"),
    ("check rtx4090", r"check: rtx4090: give --against TABLE.csv, --e2e TABLE.csv or both"),
    ("check h200 --against table.csv", r"--model: \(not given\): h200 has llama3-8b, "),
    ("check nosuch --against table.csv", r"hardware: 'nosuch': unknown"),
    ("check taken.json --against table.csv", r"hardware profile taken.json: name: missing"),
    ("check rtx4090 --against nan.csv", r"table: nan.csv, line 2: column latency_ms: 'nan' is NaN"),
    ("check rtx4090 --against table.csv -o folder", r"output directory: folder: is not empty"),
    ("check rtx4090 --e2e table.csv", r"table: table.csv, line 1: has no column isl, osl, concurrency, ttft_ms, tpot_ms"),
    ("check rtx4090 --e2e e2e.csv", r"table: e2e.csv, line 2: column osl: '1' must be at least 2"),
    ("check rtx4090 --e2e e2e-nan.csv", r"table: e2e-nan.csv, line 2: column tpot_ms: 'nan' is NaN"),
    ("check rtx4090 --e2e e2e-huge.csv", r"table: e2e-huge.csv: 500 clients x 19998 tokens would take \d+ simulated"),
    ("check rtx4090 --e2e e2e-long.csv", r"no request fits: prompt \+ output exceeds the KV pool"),
    ("remake -o new --data nosuch", r"--data: nosuch: holds no folder latency"),
    ("remake -o new", r"--data: \(not given\): and TOKENFLOW_DATA is not set"),
    ("fly", r"command line: tokenflow-calibrate: No such command 'fly'"),
    ("fit table.csv", r"--output/-o: tokenflow-calibrate fit: .*"),
]


@pytest.mark.parametrize(("words", "line"), BAD, ids=[words for words, _ in BAD])
def test_one_line_and_nothing_written(words: str, line: str, inside: Path, capsys: pytest.CaptureFixture[str],
                                      monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TOKENFLOW_DATA", raising=False)
    for name, content in FILES.items():
        (inside / name).write_text(content)
    (inside / "folder").mkdir()
    (inside / "folder/other").write_text("x")
    for name in ("samples", "broken", "linked"):
        write_samples(inside / name, TRUTHS["fast"])
    write_samples(inside / "vague", TRUTHS["fast"], num_gpu_blocks=None)
    (inside / "broken/machine.json").write_text("{")
    write_samples(inside / "fp8", TRUTHS["fast"], engine_args={"kv_cache_dtype": "fp8"})
    steps = write_samples(inside / "cut", TRUTHS["fast"]) / "steps.csv"
    steps.write_bytes(steps.read_bytes()[:-20])
    negative = links_csv().replace("h2d,contiguous,4096,64,0,", "h2d,contiguous,4096,64,0,-", 1)
    (inside / "linked/links.csv").write_text(negative)
    before = sorted(map(str, inside.rglob("*")))
    assert main(words.split()) == 2
    said, err = capsys.readouterr()
    assert said == ""
    assert err.startswith("tokenflow-calibrate: ")
    assert err.count("\n") == 1
    assert re.search(f"^tokenflow-calibrate: {line}" if line.startswith(("table: ", "samples: ")) else line, err), err
    assert sorted(map(str, inside.rglob("*"))) == before
