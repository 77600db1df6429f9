"""Whatever a user gets wrong: one line on standard error that says what, where and why; exit code 2; nothing written."""

from __future__ import annotations

import gzip
import json
import os
import re
from pathlib import Path

import pytest

from sim.cli import main

TRACE = "arrival_s,input_tokens,output_tokens\n0,100,20\n1,50,10\n2,60,5\n"

CONFIG = (b'{"architectures": ["LlamaForCausalLM"], "hidden_size": 64, "num_hidden_layers": 32, "num_attention_heads": 4, '
          b'"intermediate_size": 128, "vocab_size": 100, "max_position_embeddings": 500}')

POLICY = """
from policies.api import Plan
import numpy as np

class Raises:
    def plan(self, view):
        return self.helper(view)
    def helper(self, view):
        raise KeyError("lost")

class Illegal:
    def plan(self, view):
        return Plan(decode=np.array([99]))

class NoPlan:
    def plan(self, view):
        return "go on"

class Idle:
    def plan(self, view):
        return Plan()

class Busy:
    def plan(self, view):
        return Plan(wake_at_s=np.nextafter(view.now_s, np.inf))

def helper(*args):
    raise SystemExit("was called")

class Uncopied:
    def __init__(self):
        self.file = open(__file__)
    def plan(self, view):
        return Plan()
"""


@pytest.fixture(autouse=True)
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name, content in {
        "good.csv": TRACE.encode(),
        "empty.csv": b"",
        "header.csv": TRACE.splitlines()[0].encode(),
        "schema.csv": b"when,how\n1,2\n",
        "negative.csv": TRACE.replace("1,50", "-1,50").encode(),
        "nan.csv": TRACE.replace("1,50", "nan,50").encode(),
        "half.csv": TRACE.replace("50", "5.5").encode(),
        "fields.csv": (TRACE + "3,4\n").encode(),
        "zero.csv": TRACE.splitlines()[0].encode() + b"\n0,5,0\n",
        "huge.csv": TRACE.replace("0,100", "0,999999").replace("1,50", "1,999999").replace("2,60", "2,999999").encode(),
        "not.csv.gz": TRACE.encode(),
        "cut.csv.gz": gzip.compress(TRACE.encode() + b"".join(b"%d,%d,7\n" % (i + 3, i * i % 997 + 1) for i in range(500)))[:-200],
        "pace.csv": b"arrival_s,input_tokens,output_tokens,consume_tps\n0,1,1,30/10@9\n1,1,1,30/10@9/5@9\n",
        "slow.csv": TRACE.splitlines()[0].encode() + b",consume_tps\n0,5,5,1e-310\n",
        "binary.csv": bytes(range(255, 0, -1)),
        "mine.py": POLICY.encode(),
        "profile.json": b'{"name": 3}',
        "moe.json": b'{"architectures": ["LlamaForCausalLM"], "num_local_experts": 8}',
        "empty.json": CONFIG.replace(b"32", b"0"),
        "taken/file": b"x",
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    return tmp_path


N = "--num-prompts 3"
BAD = [
    # traces
    ("run --trace missing.csv", r"trace: missing.csv: cannot be read: no such file"),
    ("run --trace taken", r"trace: taken: cannot be read: is a directory"),
    ("run --trace empty.csv", r"trace: empty.csv: the file is empty"),
    ("run --trace header.csv", r"trace: header.csv: holds a header only"),
    ("run --trace schema.csv", r"trace: schema.csv, line 1: no known schema: columns found 'when', 'how'"),
    ("run --trace negative.csv", r"trace: negative.csv, line 3: column arrival_s: '-1' is negative"),
    ("run --trace nan.csv", r"trace: nan.csv, line 3: column arrival_s: 'nan' is NaN"),
    ("run --trace half.csv", r"trace: half.csv, line 3: column input_tokens: '5.5' is not a whole number"),
    ("run --trace fields.csv", r"trace: fields.csv, line 5: has 2 fields, the header has 3"),
    ("run --trace zero.csv", r"trace: zero.csv: no usable request: all rows were dropped"),
    ("run --trace huge.csv", r"trace: huge.csv: no request fits: prompt \+ output exceeds the KV pool"),
    ("run --trace not.csv.gz", r"trace: not.csv.gz: is named .gz but is not gzip"),
    ("run --trace cut.csv.gz", r"trace: cut.csv.gz, line \d+: the gzip data end early"),
    ("run --trace binary.csv", r"trace: binary.csv, line 1: is not UTF-8"),
    ("run --trace good.csv --start 9", r"--start: 9: no request arrives in \[9, inf\)"),
    ("run --trace good.csv --start 2 --end 1", r"--end: 1: must be after --start, 2"),
    ("run --trace good.csv --start -1", r"--start: -1.*from 0"),
    ("run --trace good.csv --limit 0", r"--limit: 0: must be a whole number from 1"),
    ("run --trace good.csv --time-scale 0", r"--time-scale: 0.0: must be a number above 0"),
    ("run --trace good.csv --time-scale nan", r"--time-scale: nan"),
    # workloads
    ("run", r"workload: command line: give --trace FILE, --workload NAME, or --num-prompts N"),
    ("run --arrival burst", r"workload: command line: give --num-prompts N"),
    (f"run --trace good.csv {N}", r"--num-prompts: 3: cannot be given together with --trace"),
    ("run --trace good.csv --seed 1 --request-rate 2", r"--request-rate: 2.0: cannot be given together with --trace"),
    (f"run {N} --start 2", r"--num-prompts: 3: cannot be given together with --start"),
    ("run --workload burst80", r"workload: 'burst80': unknown; did you mean 'burst-80'\? tokenflow list workloads shows all"),
    ("compare --workload table1-4090-e", r"workload: 'table1-4090-e': unknown; did you mean 'table1-4090-"),
    ("run --workload", r"--workload: .*requires an argument"),
    ("run --workload burst-80 --trace good.csv", r"--workload: burst-80: cannot be given together with --trace"),
    ("run --workload nosuch --trace missing.csv", r"--workload: nosuch: cannot be given together with --trace"),
    ("run --workload burst-80 --limit 2", r"--workload: burst-80: cannot be given together with --limit"),
    ("run --workload burst-80 --num-prompts 0", r"--num-prompts: 0: must be a whole number from 1"),
    ("run --workload burst-80 --arrival burst --request-rate 2", r"--request-rate: 2: a burst has no rate"),
    ("run --workload burst-80 --arrival gamma", r"--request-rate: \(not given\): --arrival gamma needs one"),
    ("run --workload burst-80 --model gpt-9", r"model: 'gpt-9': unknown; known are"),
    ("run --workload table1-h200-a --hardware rtx4090", r"mem_fraction: .*weights .* need"),
    ("trace generate --workload nosuch -o out.csv", r"workload: 'nosuch': unknown; did you mean"),
    ("trace generate --workload burst-80", r"--output: \(not given\): trace generate needs it"),
    ("run --time-unit ms", r"--time-unit: ms: is for a trace from a file: give --trace FILE as well"),
    (f"run {N} --time-unit ms", r"--num-prompts: 3: cannot be given together with --time-unit"),
    ("run --trace good.csv --time-unit hours", r"--time-unit: 'hours': must be s or ms"),
    ("compare --trace good.csv --time-unit s", r"--time-unit: s: good.csv is of the kind TokenFlow Lab, whose unit of time"),
    ("run --limit 2", r"--limit: 2: is for a trace from a file: give --trace FILE as well"),
    ("run --num-prompts 0", r"--num-prompts: 0: must be a whole number from 1"),
    ("run --num-prompts many", r"--num-prompts: 'many': is not a whole number"),
    ("run --num-prompts 2.5", r"--num-prompts: '2.5': is not a whole number"),
    ("run --num-prompts 1_000", r"--num-prompts: '1_000': is not a whole number"),
    ("run --num-prompts ١٢", r"--num-prompts: '١٢': is not a whole number"),
    ("run --num-prompts " + "9" * 5000, r"--num-prompts: '999+\.\.\.: is larger than 2\*\*53"),
    (f"run {N} --request-rate 1e400", r"--request-rate: '1e400': is larger than 2\*\*53"),
    (f"run {N} --request-rate 1_0", r"--request-rate: '1_0': is not a number"),
    (f"run {N} --burstiness ٣", r"--burstiness: '٣': is not a number"),
    (f"run {N} --arrival sometimes", r"--arrival: sometimes: must be burst or poisson"),
    (f"run {N} --arrival poisson", r"--request-rate: \(not given\): --arrival poisson needs one"),
    (f"run {N} --arrival burst --request-rate 3", r"--request-rate: 3: a burst has no rate"),
    (f"run {N} --request-rate 0", r"--request-rate: 0.0: must be a number above 0"),
    (f"run {N} --request-rate 2 --burstiness -1", r"--burstiness: -1.0: must be a number above 0"),
    (f"run {N} --input-len normal:5", r"--input-len: 'normal:5': must be written normal:MEAN:SIGMA"),
    (f"run {N} --output-len uniform:5:9", r"--output-len: 'uniform:5:9': unknown law"),
    (f"run {N} --seed -1", r"--seed: -1: must be a whole number from 0"),
    # clients, machine
    (f"run {N} --consume-rate 0", r"--consume-rate: 0.0: must be a number from 1e-09 to 2\*\*53"),
    (f"run {N} --consume-rate 30/10", r"--consume-rate: '30/10': '30/10' is not a pace: '10' must be written RATE@TOKEN"),
    (f"run {N} --consume-rate 0.5:20,0.5:30/10@0", r"--consume-rate: .*'30/10@0' is not a pace: token '0' must be at least 1"),
    ("run --trace pace.csv", r"trace: pace.csv, line 3: column consume_tps: '30/10@9/5@9' is not a pace: tokens must ascend, 9"),
    (f"run {N} --consume-rate nan", r"--consume-rate: nan: must be a number from 1e-09"),
    (f"run {N} --max-concurrency 0", r"--max-concurrency: 0: must be a positive number"),
    (f"run {N} --max-concurrency {10**25}", r"--max-concurrency: '10+': is larger than 2\*\*53"),
    (f"run {N} --kv-tokens 1_600", r"--kv-tokens: '1_600': is not a whole number"),
    (f"run {N} --host-time-ms 1e23", r"--host-time-ms: '1e23': is larger than 2\*\*53"),
    (f"run {N} --link 1_2", r"link: .*must be oracle, none or a number of GB/s from 0.001, got 1_2"),
    (f"run {N} --link 1e-320", r"link: .*must be oracle, none or a number of GB/s from 0.001, got 1e-320"),
    (f"run {N} --link 1e-6", r"link: .*must be oracle, none or a number of GB/s from 0.001, got 1e-6"),
    (f"run {N} --link 1e300", r"link: .*must be oracle, none or a number of GB/s from 0.001, got 1e300"),
    (f"run {N} --consume-rate 1_0", r"--consume-rate: '1_0': '1_0' is not a number"),
    (f"run {N} --consume-rate 1e-310", r"--consume-rate: 1e-310: must be a number from 1e-09 to 2\*\*53"),
    (f"run {N} --consume-rate 20/1e-18@100", r"--consume-rate: .*'1e-18' must be at least 1e-09"),
    (f"run {N} --consume-rate 0.5:20,0.5:1e-300", r"--consume-rate: .*'1e-300' must be at least 1e-09"),
    ("run --trace slow.csv", r"trace: slow.csv, line 2: column consume_tps: '1e-310' must be at least 1e-09"),
    (f"run {N} --kv-tokens 1600 --mem-fraction 0.8", r"--mem-fraction: 0.8: cannot be given together with --kv-tokens"),
    (f"compare {N} --mem-fraction 0.8 --kv-tokens 1600", r"--mem-fraction: 0.8: cannot be given together with --kv-tokens"),
    (f"run {N} --max-model-len -4", r"--max-model-len: -4: must be a positive number"),
    (f"run {N} --until 0", r"--until: 0.0: must be a positive number"),
    (f"run {N} --max-model-len 5", r"no request fits: prompt \+ output exceeds --max-model-len 5 tokens"),
    (f"run {N} --hardware tpu", r"hardware: 'tpu': unknown; known are a100, a6000, h100, h200, rtx4090"),
    (f"run {N} --hardware none.json", r"hardware profile: none.json: [Nn]o such file"),
    (f"run {N} --hardware profile.json", r"hardware profile profile.json: name: "),
    (f"run {N} --model gpt-9", r"model: 'gpt-9': unknown; known are llama3-8b, .*, or give the path of a Hugging Face config.json"),
    (f"run {N} --model= ", r"model: '': unknown"),
    (f"run {N} --model none.json", r"model config: none.json: [Nn]o such file"),
    (f"run {N} --model Qwen/Qwen2.5-7B", r"model config: Qwen/Qwen2.5-7B: [Nn]o such file.*; nothing is downloaded"),
    (f"run {N} --model taken/", r"model config: taken/config.json: [Nn]o such file"),
    (f"run {N} --model ./good.csv", r"model config good.csv: the file: Invalid JSON"),
    (f"run {N} --model profile.json", r"model config profile.json: architectures: missing"),
    (f"run {N} --model moe.json", r"model config moe.json: num_local_experts: not modelled: mixtures of experts"),
    (f"run {N} --model empty.json", r"model config empty.json: num_hidden_layers: .*greater than or equal to 1, got 0"),
    (f"run {N} --model qwen2.5-32b", r"GPU memory: qwen2.5-32b on rtx4090: .*does not fit on this GPU at all"),
    (f"compare {N} --model qwen2.5-32b --hardware a6000", r"GPU memory: qwen2.5-32b on a6000: .*does not fit"),
    (f"run {N} --mem-fraction 1.5", r"mem_fraction: .*: must lie in \(0, 1\], got 1.5"),
    (f"run {N} --mem-fraction 0.3", r"mem_fraction: .*weights .* need"),
    (f"run {N} --mem-fraction 0.1", r"mem_fraction: .*: 0.1 of 25.8 GB is 2.6, but weights \(16.1 GB\), reserve \(\S+\) and two "
                                    r"KV blocks need \S+ GB; the smallest fraction that works is 0.\d+$"),
    (f"run {N} --kv-tokens 20", r"kv_tokens: .*: 20 is less than two blocks"),
    (f"run {N} --host-kv-tokens -1", r"host_kv_tokens: .*at least 0, got -1"),
    (f"run {N} --block-size 0", r"block_size: .*at least 1, got 0"),
    (f"run {N} --max-num-seqs 0", r"max_num_seqs: .*at least 1, got 0"),
    (f"run {N} --max-num-batched-tokens 0", r"max_num_batched_tokens: .*at least 1, got 0"),
    (f"run {N} --host-time-ms -1", r"host_s: .*zero or more, got -0.001"),
    (f"run {N} --link 0", r"link: .*must be oracle, none or a number of GB/s from 0.001, got 0"),
    (f"run {N} --link -1", r"link: .*must be oracle, none or a number of GB/s from 0.001, got -1"),
    (f"run {N} --link nan", r"link: .*must be oracle, none or a number of GB/s from 0.001, got nan"),
    (f"run {N} --link inf", r"link: .*must be oracle, none or a number of GB/s from 0.001, got inf"),
    (f"compare {N} --link fast", r"link: .*must be oracle, none or a number of GB/s from 0.001, got fast"),
    (f"run {N} --link none --host-kv-tokens 160", r"host_kv_tokens: .*160 tokens, but link none means no host tier"),
    (f"run {N} --believed-step 0", r"believed_step: .*must be a positive number, got 0"),
    # policies
    (f"run {N} --policy nosuch", r"policy: 'nosuch': unknown; known are sglang, vllm, tokenflow"),
    (f"run {N} --policy mine.py:Raises", r"policy Raises: \S+/mine.py:9 at 0.000000 s: KeyError: 'lost'"),
    (f"run {N} --policy mine.py:Illegal", r"policy Illegal: at 0.000000 s: illegal plan: known ids: requests \[99\]"),
    (f"run {N} --policy mine.py:NoPlan", r"policy NoPlan: at 0.000000 s: plan\(\) returned str, not a Plan"),
    (f"run {N} --policy mine.py:Idle", r"policy Idle: at 0.000000 s: wedged with 3 requests unfinished"),
    (f"run {N} --policy mine.py:Busy", r"policy Busy: at \S+ s: wedged with 3 requests unfinished"),
    (f"run {N} --policy mine.py:Uncopied", r"policy Uncopied: copied for the run: TypeError: cannot pickle"),
    (f"run {N} --policy mine.py:helper", r"policy: mine.py:helper: is no class but a function"),
    (f"run {N} --policy sim.demo:show", r"policy: sim.demo:show: is no class but a function"),
    (f"run {N} --policy pathlib:Path", r"policy: pathlib:Path: has no method plan\(view\)"),
    (f"run {N} --policy tokenflow[interval_s=1_0]", r"--policy-arg: interval_s=1_0: must be a number"),
    (f"run {N} --policy vllm --policy-arg size=3", r"--policy-arg: size: vllm has no such argument"),
    (f"compare {N} --policies vllm,nosuch", r"policy: 'nosuch': unknown"),
    (f"compare {N} --policies vllm,vllm", r"--policies: vllm: is listed twice"),
    (f"compare {N} --policies vllm,mine.py:Raises", r"policy Raises: \S+/mine.py:9"),
    # metrics
    (f"run {N} --goodput itl:5", r"--goodput: 'itl': unknown; known are ttft, tpot, e2el, rebuffer$"),
    (f"run {N} --goodput 1300", r"--goodput: '1300': must be written NAME:MILLISECONDS, such as ttft:1300"),
    (f"run {N} --goodput ttft:1300,", r"--goodput: '': must be written NAME:MILLISECONDS"),
    (f"run {N} --goodput ttft:soon", r"--goodput: 'ttft:soon': 'soon' is not a number"),
    (f"run {N} --goodput ttft:", r"--goodput: 'ttft:': '' is not a number"),
    (f"run {N} --goodput ttft:1_0", r"--goodput: 'ttft:1_0': '1_0' is not a number"),
    (f"run {N} --goodput ttft:1e400", r"--goodput: 'ttft:1e400': '1e400' is larger than 2\*\*53"),
    (f"run {N} --goodput ttft:1:2", r"--goodput: 'ttft:1:2': '1:2' is not a number"),
    (f"run {N} --goodput ttft:0", r"--goodput: ttft:0.0: must be a positive number of milliseconds"),
    (f"run {N} --goodput tpot:-5", r"--goodput: tpot:-5.0: must be a positive number"),
    (f"run {N} --goodput e2el:nan", r"--goodput: e2el:nan: must be a positive number"),
    (f"run {N} --goodput rebuffer:inf", r"--goodput: rebuffer:inf: must be a positive number"),
    (f"run {N} --goodput ttft:5 --goodput tpot:5,ttft:6", r"--goodput: 'ttft:6': ttft is given twice"),
    (f"compare {N} --goodput ttft:5 tpot:0", r"--goodput: tpot:0.0: must be a positive number"),
    (f"run {N} --goodput", r"--goodput: .*requires an argument"),
    (f"run {N} --metric-percentiles 0", r"--metric-percentiles: 0.0: must be a number above 0, at most 100"),
    (f"run {N} --metric-percentiles 50,101", r"--metric-percentiles: 101.0: must be a number above 0, at most 100"),
    (f"run {N} --metric-percentiles 50,-9", r"--metric-percentiles: -9.0: must be"),
    (f"run {N} --metric-percentiles nan", r"--metric-percentiles: nan: must be"),
    (f"run {N} --metric-percentiles 50,", r"--metric-percentiles: '': is not a number"),
    (f"compare {N} --metric-percentiles p99", r"--metric-percentiles: 'p99': is not a number"),
    (f"run {N} --metric-percentiles 9_9", r"--metric-percentiles: '9_9': is not a number"),
    (f"run {N} --save-detailed yes", r"command line: tokenflow run: Got unexpected extra argument"),
    # output
    (f"run {N} -o taken", r"output directory: taken: is not empty; results are never overwritten"),
    (f"run {N} -o good.csv", r"output directory: good.csv: is a file"),
    (f"run {N} -o good.csv/inside", r"output directory: good.csv/inside: cannot be written: not a directory"),
    (f"run {N} --output-dir= ", r"--output-dir: '': names no directory"),
    (f"run {N} -o .", r"output directory: \.: is not empty"),
    ("demo --output-dir= ", r"--output-dir: '': names no directory"),
    ("trace generate --num-prompts 2 -o x.jsonl", r"output file: x.jsonl: must end in .csv or .csv.gz: it will be CSV"),
    ("trace generate --num-prompts 2 -o -", r"output file: -: must end in .csv or .csv.gz"),
    ("trace generate --num-prompts 2 -o x.gz", r"output file: x.gz: must end in .csv or .csv.gz"),
    ("trace convert good.csv x.jsonl", r"output file: x.jsonl: must end in .csv or .csv.gz"),
    ("trace convert good.csv -", r"output file: -: must end in .csv or .csv.gz"),
    # the demo
    ("demo -o taken", r"output directory: taken: is not empty; results are never overwritten"),
    ("demo -o good.csv/inside", r"output directory: good.csv/inside: cannot be written: not a directory"),
    ("demo --seed -1", r"--seed: -1: must be a whole number from 0"),
    ("demo --seed one", r"--seed: 'one': is not a whole number"),
    ("demo --num-prompts 3", r"--num-prompts: tokenflow demo: No such option"),
    # reports and traces of events, more in tests/test_report_dir.py and tests/test_trace_events.py
    ("report nosuch", r"report: nosuch: there is no such directory"),
    ("report taken", r"report: taken: holds no results: neither run.json"),
    ("report good.csv", r"report: good.csv: is not a directory"),
    ("trace-events taken", r"trace-events: taken: holds no run.json: it is no run of tokenflow"),
    (f"trace-events {N} -o good.csv", r"output file: good.csv: must end in .json or .json.gz"),
    (f"trace-events {N} --to-s -1", r"--to-s: -1.0: must be a number from 0"),
    (f"trace-events {N} --save-timeline", r"--save-timeline: tokenflow trace-events: No such option"),
    # the command line itself
    ("fly", r"command line: tokenflow: No such command 'fly'"),
    ("run --nonsense 3", r"--nonsense: tokenflow run: No such option"),
    (f"run {N} extra", r"command line: tokenflow run: Got unexpected extra argument"),
    ("run --num-prompts", r"--num-prompts: .*requires an argument"),
    (f"run {N} --policies vllm", r"--policies: tokenflow run: No such option"),
    ("list", r"policies\|hardware\|models\|workloads: tokenflow list: is required"),
    ("list dreams", r"list: 'dreams': must be one of policies, hardware, models, workloads"),
]


@pytest.mark.unaudited
@pytest.mark.parametrize(("words", "line"), BAD, ids=[words for words, _ in BAD])
@pytest.mark.parametrize("more", [[], ["--json"]], ids=["", "json"])
def test_one_line_and_nothing_written(words: str, line: str, more: list[str], inside: Path,
                                      capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(os.listdir(inside))
    command = words.split()
    if command[0] == "run" and "--policy" not in command:
        command[1:1] = ["--policy", "vllm"]
    if command[0] in ("run", "compare"):
        command[1:1] = more
    assert main(command) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("tokenflow: ")
    assert err.count("\n") == 1
    assert err.endswith("\n")
    assert re.search(line, err), err
    assert [name for name in sorted(os.listdir(inside)) if name != "__pycache__"] == before


def test_debug_adds_the_traceback(inside: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", *N.split(), "--policy", "mine.py:Raises", "--debug"]) == 2
    err = capsys.readouterr().err
    assert "Traceback (most recent call last)" in err
    assert 'raise KeyError("lost")' in err
    assert err.splitlines()[-1].startswith("tokenflow: policy Raises: ")


@pytest.mark.parametrize(("policy", "argument"), [
    ("tokenflow", "interval_s=0"), ("tokenflow", "interval_s=-1"), ("tokenflow", "fill=5"), ("tokenflow", "overcommit=-1"),
    ("tokenflow", "gamma=inf"), ("tokenflow", "swap_passes=-1"), ("andes", "replan_steps=0"), ("andes", "watermark=2"),
    ("andes", "preemption_cap=-1"), ("andes", "batch_sizes=0"), ("andes-code", "token_latency_s=0"),
    ("andes-code", "horizon_s=inf"), ("fastserve", "max_batch_size=0"), ("fastserve", "host_reserve=-0.1"),
    ("vtc", "clients=user"), ("vtc", "output_weight=-1")])
def test_impossible_numbers_of_a_policy(policy: str, argument: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--num-prompts", "2", "--policy", policy, "--policy-arg", argument]) == 2
    said = capsys.readouterr()
    assert argument.split("=")[0] in said.err
    assert said.err.count("\n") == 1
    assert not said.out


def test_what_a_policy_prints_stays_out_of_the_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "loud.py").write_text("from policies import Vllm\nprint('imported')\n\n"
                                      "class Loud(Vllm):\n    def plan(self, view):\n        print('hello')\n"
                                      "        return super().plan(view)\n")
    assert main(["run", "--json", "--num-prompts", "2", "--output-len", "5", "--policy", f"{tmp_path / 'loud.py'}:Loud"]) == 0
    said = capsys.readouterr()
    assert json.loads(said.out)["completed"] == 2
    assert "hello" in said.err
