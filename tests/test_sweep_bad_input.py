"""A study that cannot be run, a store that cannot be taken up: one line on standard error, exit code 2, nothing lost or written."""

from __future__ import annotations

import errno
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sim.cli import main

pytestmark = pytest.mark.unaudited

SMALL = "num_prompts: 3, input_len: constant:20, output_len: normal:20:5"
GOOD = f"base: {{{SMALL}}}\naxes: {{policy: [vllm, sglang]}}\nseeds: 2\n"

BAD = [
    # the file
    ("", r"study: s.yaml: must hold name, base, axes, list, latin_hypercube, seeds, not None"),
    ("- 3", r"study: s.yaml: must hold name, base"),
    ("base: {a: [1", r"study: s.yaml, line \d: is not YAML"),
    ("base: {}\nbase: {}", r"study: s.yaml, line 1: is not YAML: base is there twice"),
    ("axis: {}", r"s.yaml: axis: unknown; did you mean 'axes'\?"),
    ("base: 3", r"s.yaml: base: must be a mapping, not 3"),
    # flags
    ("base: {num_promts: 3}", r"s.yaml: num_promts: unknown; did you mean 'num_prompts'\?"),
    ("base: {output_dir: x}", r"s.yaml: output_dir: unknown; did you mean"),
    ("base: {seed: 3}", r"s.yaml: seed: stands as `seeds:` beside `base:`"),
    ("base: {num-prompts: 3, num_prompts: 4}", r"s.yaml: num_prompts: is given twice in base"),
    (f"base: {{{SMALL}, policy_arg: fast}}", r"s.yaml: policy_arg: must be a mapping or key=value, not 'fast'"),
    (f"base: {{{SMALL}, link.x: 3}}", r"s.yaml: link.x: has no parts; only policy_arg.NAME has"),
    (f"base: {{{SMALL}, kv_tokens: many}}", r"--kv-tokens: 'many': is not a whole number"),
    (f"base: {{{SMALL}, kv_tokens: [1, 2]}}", r"s.yaml: kv_tokens: must be one value"),
    # axes
    (f"base: {{{SMALL}}}\naxes: {{hardwear: [h200]}}", r"s.yaml: hardwear: unknown; did you mean 'hardware'\?"),
    (f"base: {{{SMALL}}}\naxes: {{hardware: h200}}", r"s.yaml: axes: hardware: must be a list of values.* not 'h200'"),
    (f"base: {{{SMALL}}}\naxes: {{hardware: []}}", r"s.yaml: axes: hardware: must be a list of values"),
    (f"base: {{{SMALL}}}\naxes: {{hardware: [h200, h200]}}", r"s.yaml: axes: hardware: holds h200 twice"),
    (f"base: {{{SMALL}}}\naxes: {{load: {{a: {{request_rte: 3}}}}}}",
     r"s.yaml: request_rte: unknown; did you mean 'request_rate'\?"),
    (f"base: {{{SMALL}}}\naxes: {{runs: {{a: {{link: 3}}}}}}", r"s.yaml: axes: runs: is a column of every result"),
    (f"base: {{{SMALL}}}\naxes: {{p99_ttft_ms: {{a: {{link: 3}}}}}}", r"axes: p99_ttft_ms: is a column of every result"),
    (f"base: {{{SMALL}}}\naxes: {{duration_ci95: {{a: {{link: 3}}}}}}", r"axes: duration_ci95: is a column of every result"),
    (f"base: {{{SMALL}}}\naxes: {{link: [3], load: {{a: {{link: 4}}}}}}", r"s.yaml: link: is set twice .*by link and by load"),
    (f"base: {{{SMALL}}}\nlist: 3", r"s.yaml: list: must be a list of flags by name, not 3"),
    (f"base: {{{SMALL}}}\nlist: [3]", r"s.yaml: list, 1: must be flags by name, not 3"),
    (f"base: {{{SMALL}}}\nlist: [{{link: 3}}, {{link: 3}}]", r"s.yaml: list: holds 3 twice"),
    (f"base: {{{SMALL}}}\naxes: {{block_size: [{','.join(map(str, range(1, 2000)))}]}}\nseeds: 1000", r"asks for 1,999,000 runs"),
    # latin hypercube
    ("latin_hypercube: {sample: 3}", r"s.yaml: sample: unknown; did you mean 'samples'\?"),
    ("latin_hypercube: {samples: 0, ranges: {link: [1, 2]}}", r"s.yaml: latin_hypercube: samples: must be a whole number from 1"),
    ("latin_hypercube: {samples: 2}", r"s.yaml: latin_hypercube: needs ranges"),
    ("latin_hypercube: {samples: 2, ranges: {link: 3}}", r"latin_hypercube: link: must be \[LOW, HIGH\]"),
    ("latin_hypercube: {samples: 2, ranges: {link: [2, 1]}}", r"latin_hypercube: link: must ascend"),
    ("latin_hypercube: {samples: 2, ranges: {link: [0, 1, log]}}", r"latin_hypercube: link: must lie above 0"),
    ("latin_hypercube: {samples: 2, ranges: {lnk: [0, 1]}}", r"s.yaml: lnk: unknown; did you mean 'link'\?"),
    (f"base: {{{SMALL}}}\nlatin_hypercube: {{samples: 5, ranges: {{max_num_seqs: [1, 3]}}}}",
     r"s.yaml: latin_hypercube: several combinations are called max_num_seqs=2; take fewer samples, or wider ranges"),
    # seeds
    (GOOD.replace("seeds: 2", "seeds: 0"), r"s.yaml: seeds: must be a whole number from 1"),
    (GOOD.replace("seeds: 2", "seeds: [1, 1]"), r"s.yaml: seeds: must be at least one, each once"),
    (GOOD.replace("seeds: 2", "seeds: many"), r"s.yaml: seeds: must be a whole number from 1 to 10000, not 'many'"),
    # impossible combinations, with their names
    ("axes: {policy: [vllm]}", r"workload: command line: give --trace FILE.*\(combination vllm\)"),
    (f"base: {{{SMALL}}}\naxes: {{model: [llama3-8b, qwen2.5-32b]}}",
     r"GPU memory: qwen2.5-32b on rtx4090: .*does not fit.* \(combination qwen2.5-32b\)"),
    (f"base: {{{SMALL}}}\naxes: {{policy: [vllm, sglang], hardware: [h200, tpu]}}",
     r"hardware: 'tpu': unknown; .*\(combination vllm · tpu, and so is another\)"),
    (f"base: {{{SMALL}, kv_tokens: 4000}}\naxes: {{mem_fraction: [0.8, 0.9]}}",
     r"--mem-fraction: 0.8: cannot be given together with --kv-tokens \(combination mem_fraction=0.8, and so is another\)"),
    (f"base: {{{SMALL}}}\naxes: {{policy: [vllm, nosuch]}}", r"policy: 'nosuch': unknown; .*\(combination nosuch\)"),
    (f"base: {{{SMALL}}}\naxes: {{policy: [vllm, tokenflow], policy_arg.interval_s: [1]}}",
     r"--policy-arg: interval_s: vllm has no such argument.*\(combination vllm · policy_arg.interval_s=1\)"),
    (f"base: {{{SMALL}}}\naxes: {{kv_tokens: [4000, 32]}}",
     r"no request fits: prompt \+ output exceeds the KV pool of \d+ tokens \(combination kv_tokens=32\)"),
    (f"base: {{{SMALL}}}\naxes: {{load: {{a: {{request_rate: 1}}, b: {{arrival: poisson}}}}}}",
     r"--request-rate: \(not given\): --arrival poisson needs one.* \(combination b\)"),
]


@pytest.fixture(autouse=True)
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def line_of(words: str, capsys: pytest.CaptureFixture[str]) -> str:
    """The one line of a command that could not be done."""
    assert main(["sweep", *words.split()]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("tokenflow: ")
    assert err.count("\n") == 1
    return err


@pytest.mark.parametrize(("study", "line"), BAD, ids=[study for study, _ in BAD])
def test_a_bad_study(study: str, line: str, inside: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("s.yaml").write_text(study)
    err = line_of("s.yaml -o out", capsys)
    assert re.search(line, err), err
    assert os.listdir(inside) == ["s.yaml"]


@pytest.mark.parametrize(("words", "line"), [
    ("none.yaml -o out", r"study: none.yaml: cannot be read: no such file"),
    (". -o out", r"study: \.: cannot be read: is a directory"),
    ("s.yaml -o taken", r"output directory: taken: is not empty; results are never overwritten"),
    ("s.yaml -o taken --resume", r"output directory: taken: holds something else than a study"),
    ("s.yaml -o s.yaml", r"output directory: s.yaml: is a file"),
    ("s.yaml -o s.yaml/x", r"output directory: s.yaml/x: cannot be written: not a directory"),
    ("s.yaml --resume", r"--resume: command line: says of no directory what to resume"),
    ("s.yaml -o out --jobs 0", r"--jobs: 0: must be a whole number from 1 to 1024"),
    ("s.yaml -o out --jobs two", r"--jobs: 'two': is not a whole number"),
    ("s.yaml -o out --backend slurm", r"--backend: slurm: must be one of loky, ray, dask"),
    ("s.yaml -o out --cluster host:1", r"--cluster: host:1: needs --backend ray or dask"),
    ("s.yaml --output-dir=", r"--output-dir: '': names no directory"),
])
def test_a_bad_command(words: str, line: str, inside: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("s.yaml").write_text(GOOD)
    (inside / "taken").mkdir()
    (inside / "taken" / "file").write_text("x")
    err = line_of(words, capsys)
    assert re.search(line, err), err
    assert sorted(os.listdir(inside)) == ["s.yaml", "taken"]
    assert os.listdir("taken") == ["file"]


def test_a_backend_that_is_not_installed_names_its_extra(monkeypatch: pytest.MonkeyPatch,
                                                         capsys: pytest.CaptureFixture[str]) -> None:
    Path("s.yaml").write_text(GOOD)
    monkeypatch.setattr("sim.study.clusters.find_spec", lambda name: None)
    assert "--backend: ray: is not installed: pip install 'tokenflow-lab[ray]'" in line_of("s.yaml -o out --backend ray", capsys)


@pytest.fixture
def done(inside: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, bytes]:
    """A finished study in `out`; its files."""
    Path("s.yaml").write_text(GOOD)
    assert main(["sweep", "s.yaml", "-o", "out", "--jobs", "1"]) == 0
    capsys.readouterr()
    return files("out")


def files(folder: str) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in Path(folder).rglob("*") if path.is_file() and path.name != "host.json"}


@pytest.mark.parametrize(("header", "line"), [
    ({"format": 0, "code": "x"}, r"--resume: out/runs.jsonl: is of format 0, this version writes 1; begin anew elsewhere"),
    ({"format": 1, "code": "x"}, r"--resume: out/runs.jsonl: its runs are from other code than this; begin anew elsewhere"),
    ({"hello": 1}, r"--resume: out/runs.jsonl: is not what this command writes"),
])
@pytest.mark.parametrize("more", ["", "--dry-run"])
def test_a_store_that_others_wrote(header: dict[str, Any], line: str, more: str, done: dict[str, bytes],
                                   capsys: pytest.CaptureFixture[str]) -> None:
    file = Path("out/runs.jsonl")
    file.write_bytes(json.dumps(header).encode() + b"\n" + file.read_bytes().split(b"\n", 1)[1])
    before = files("out")
    err = line_of(f"s.yaml -o out --resume {more}", capsys)
    assert re.search(line, err), err
    assert files("out") == before


def test_finished_results_are_not_overwritten(done: dict[str, bytes], capsys: pytest.CaptureFixture[str]) -> None:
    assert "holds a study already; --resume completes it" in line_of("s.yaml -o out", capsys)
    assert files("out") == done


def test_another_study_loses_no_runs(done: dict[str, bytes], capsys: pytest.CaptureFixture[str]) -> None:
    Path("s.yaml").write_text(GOOD.replace("sglang", "tokenflow"))
    err = line_of("s.yaml -o out --resume", capsys)
    assert "holds 2 of its 4 runs for another study than this one; begin anew elsewhere" in err
    assert line_of("s.yaml -o out --resume --dry-run", capsys) == err
    assert files("out") == done


class OwnWrite:
    """The module `os` with another `write`."""

    def __init__(self, write: Callable[[int, Any], int]) -> None:
        self.write = write

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_a_full_disk(jobs: str, inside: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
                     recwarn: pytest.WarningsRecorder) -> None:
    """In the middle of a line; what was stored before is taken up when there is room again."""
    Path("s.yaml").write_text(GOOD.replace("seeds: 2", "seeds: 8"))
    written, real = [0], os.write

    def write(descriptor: int, data: Any) -> int:
        if written[0] > 9000:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        wrote = real(descriptor, data[:5000])
        written[0] += wrote
        return wrote
    with monkeypatch.context() as full:
        full.setattr("sim.ledger.os", OwnWrite(write))      # the ledger's alone: joblib's threads write as well
        err = line_of(f"s.yaml -o out --jobs {jobs}", capsys)
    assert not [warning for warning in recwarn if "tasks" in str(warning.message)]
    assert "out/runs.jsonl: cannot be written: no space left on device; what was done before is kept, and --resume goes on" in err
    stored = Path("out/runs.jsonl").read_bytes()
    assert not stored.endswith(b"\n")
    assert stored.count(b"\n") in (2, 3)
    assert main(["sweep", "s.yaml", "-o", "out", "--resume", "--jobs", "1"]) == 0
    assert main(["sweep", "s.yaml", "-o", "new", "--jobs", "1"]) == 0
    assert {name.removeprefix("out"): data for name, data in files("out").items()} == {
        name.removeprefix("new"): data for name, data in files("new").items()}


def test_tables_that_find_no_room(inside: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    Path("s.yaml").write_text(GOOD)

    def write(self: Path, data: bytes) -> int:
        if "summary" in self.name:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(self, data)
    real = Path.write_bytes
    with monkeypatch.context() as full:
        full.setattr(Path, "write_bytes", write)
        assert "output directory: out: cannot be written: no space left on device; every run is kept" in line_of(
            "s.yaml -o out --jobs 1", capsys)
    assert sorted(path.name for path in Path("out").iterdir() if path.is_file()) == ["runs.jsonl", "study.yaml"]
    assert main(["sweep", "s.yaml", "-o", "out", "--resume"]) == 0


def test_two_at_once(inside: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from sim.study.plan import plan
    from sim.study.store import opened
    from sim.study.study import read_study
    Path("s.yaml").write_text(GOOD)
    with opened(Path("out"), plan(read_study("s.yaml")), resume=False):
        assert "output directory: out: another process is at work in it" in line_of("s.yaml -o out --resume", capsys)
    assert not Path("out/.lock").exists()
    assert main(["sweep", "s.yaml", "-o", "out", "--resume", "--jobs", "1"]) == 0
