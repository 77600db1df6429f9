"""The same study on a Ray and on a Dask cluster of this machine gives the same bytes, and its runs are stored as they end."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sim.cli import main

pytestmark = [pytest.mark.cluster, pytest.mark.unaudited]

STUDY = """
base: {num_prompts: 5, input_len: normal:60:9, output_len: normal:50:9}
axes: {policy: [sglang, "mine.py:Mine"], load: {even: {request_rate: 4}, burst: {arrival: burst}}}
seeds: 3
"""
FAILS = STUDY.replace("mine.py:Mine", "mine.py:Fails")
POLICIES = """
from policies import Vllm

class Mine(Vllm):
    pass

class Fails(Vllm):
    def plan(self, view):
        raise KeyError("lost")
"""


@pytest.fixture(autouse=True)
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("RAY_ADDRESS", "DASK_SCHEDULER_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    Path("s.yaml").write_text(STUDY)
    Path("fails.yaml").write_text(FAILS)
    Path("mine.py").write_text(POLICIES)
    return tmp_path


def needed(package: str) -> Any:
    try:
        return importlib.import_module(package)
    except ImportError:
        pytest.skip(f"{package} is not installed: pip install 'tokenflow-lab[ray,dask]'")


@pytest.fixture(scope="module")
def ray() -> Iterator[str]:
    """Two workers; the session is connected to them."""
    package = needed("ray")
    package.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield package.get_runtime_context().gcs_address
    package.shutdown()


@pytest.fixture(scope="module")
def dask() -> Iterator[str]:
    """Two workers with an address."""
    package = needed("distributed")
    with package.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster:
        yield cluster.scheduler_address


def files(folder: str) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in Path(folder).rglob("*")
            if path.is_file() and path.name != "host.json"}


def same_as_here(*words: str) -> None:
    for study, code in (("s.yaml", 0), ("fails.yaml", 1)):
        here, there = f"here-{study}", f"there-{study}"
        assert main(["sweep", study, "-o", here, "--jobs", "1"]) == code
        assert main(["sweep", study, "-o", there, *words]) == code
        assert files(there) == files(here)
        assert ("failures.csv" in files(there)) == (code == 1)


def test_ray(ray: str) -> None:
    same_as_here("--backend", "ray")


def test_dask(dask: str) -> None:
    same_as_here("--backend", "dask", "--cluster", dask)


def test_dask_as_its_configuration_says(dask: str) -> None:
    config = importlib.import_module("dask.config")
    with config.set({"scheduler-address": dask}):
        assert main(["sweep", "s.yaml", "-o", "out", "--backend", "dask"]) == 0


@pytest.mark.parametrize("backend", ["ray", "dask"])
def test_results_are_stored_as_they_come(backend: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not when all are there: the first is kept while others are still to be handed out."""
    import sim.jobs
    from sim.ledger import Ledger
    address = request.getfixturevalue(backend)
    handed_out, kept_at = [0], []
    each_done, real = sim.jobs.each_done, Ledger.keep

    class Counted(list[Any]):
        def __getitem__(self, index: Any) -> Any:
            handed_out[0] = max(handed_out[0], index + 1)
            return super().__getitem__(index)

    def keep(self: Ledger, entry: Any) -> None:
        kept_at.append(handed_out[0])
        real(self, entry)
    monkeypatch.setattr(sim.jobs, "each_done", lambda make, given, *more: each_done(make, Counted(given), *more))
    monkeypatch.setattr(Ledger, "keep", keep)
    words = ["--cluster", address] if backend == "dask" else []
    assert main(["sweep", "s.yaml", "-o", "out", "--backend", backend, *words, "--jobs", "2"]) == 0
    assert kept_at[0] < 12
    assert len(kept_at) == 12


@pytest.mark.parametrize(("words", "line"), [
    ("--backend dask --cluster tcp://127.0.0.1:9", "--cluster: tcp://127.0.0.1:9: no Dask cluster answers"),
    ("--backend ray --cluster 127.0.0.1:9", "--cluster: 127.0.0.1:9: no Ray cluster answers"),
    ("--backend ray --cluster ray://127.0.0.1:9", "--cluster: ray://127.0.0.1:9: no Ray cluster answers"),
])
def test_no_cluster_answers(words: str, line: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    needed("distributed" if "dask" in words else "ray")
    monkeypatch.setattr("sim.study.clusters._PATIENCE_S", 1.0)
    if "ray" in words:
        monkeypatch.setattr("ray.is_initialized", lambda: False)
    assert main(["sweep", "s.yaml", "-o", "out", *words.split()]) == 2
    err = capsys.readouterr().err
    assert line in err
    assert err.count("\n") == 1
