"""How the command line ends when the world is against it: signals, closed and full outputs. Each in a process of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

MAIN = "import sys; from sim.cli import main; sys.exit(main(sys.argv[1:]))"

#: a policy that is sent a signal while it plans
SIGNALLED = "import signal\n\nclass Signalled:\n    def plan(self, view):\n        signal.raise_signal(signal.{name})\n"

#: the same while a module is being imported
IMPORTING = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "{module}":
            signal.raise_signal(signal.{name})
sys.meta_path.insert(0, Finder())
"""

needs_full = pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")


@pytest.fixture(autouse=True)
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def ran(*words: str, code: str = MAIN) -> tuple[int, str, str]:
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True)
    return done.returncode, done.stdout, done.stderr


def in_shell(words: str, redirected: str) -> tuple[int, str]:
    """The exit code of the first command of a pipe, and what was on standard error."""
    line = f"{sys.executable} -c '{MAIN}' {words} {redirected}; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True)
    return done.returncode, done.stderr


@pytest.mark.parametrize(("name", "code", "line"), [
    ("SIGTERM", 143, "tokenflow: ended by SIGTERM\n"),
    ("SIGHUP", 129, "tokenflow: ended by SIGHUP\n"),
    ("SIGINT", 130, "tokenflow: interrupted\n"),
])
def test_a_signal_leaves_nothing_behind(name: str, code: int, line: str, inside: Path) -> None:
    (inside / "mine.py").write_text(SIGNALLED.format(name=name))
    words = ["run", "--num-prompts", "3", "--policy", "mine.py:Signalled"]
    assert ran(*words, "-o", "new/parents/out", code=IMPORTING.format(module="", name=name) + MAIN) == (code, "", line)
    assert {path for path in os.listdir(inside) if path != "__pycache__"} == {"mine.py"}


@pytest.mark.parametrize("module", ["typer", "sim.cli_commands", "numpy"])
@pytest.mark.parametrize(("name", "code", "line"), [
    ("SIGTERM", 143, "tokenflow: ended by SIGTERM\n"),
    ("SIGINT", 130, "tokenflow: interrupted\n"),
])
def test_a_signal_during_imports_is_one_line(name: str, code: int, line: str, module: str) -> None:
    assert ran("list", "policies", code=IMPORTING.format(module=module, name=name) + MAIN) == (code, "", line)


def test_signals_that_are_ignored_stay_so(inside: Path) -> None:
    """As nohup ignores SIGHUP."""
    (inside / "mine.py").write_text(
        "import signal\nfrom policies import Vllm\n\nclass Signalled(Vllm):\n    def plan(self, view):\n"
        "        signal.raise_signal(signal.SIGHUP)\n        return super().plan(view)\n")
    ignoring = "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
    code, _, err = ran("run", "--num-prompts", "2", "--output-len", "5", "--policy", "mine.py:Signalled", code=ignoring + MAIN)
    assert (code, err) == (0, "")


def test_a_caller_has_its_signals_back(capsys: pytest.CaptureFixture[str]) -> None:
    from sim.cli import main
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)]
    assert main(["list", "policies"]) == 0
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)] == before


# ---- `tokenflow bench` and its child

@pytest.mark.parametrize(("number", "code", "line"), [
    (signal.SIGTERM, 143, "tokenflow: ended by SIGTERM\n"),
    (signal.SIGINT, 130, "tokenflow: interrupted\n"),
])
def test_bench_takes_its_child_along(number: signal.Signals, code: int, line: str) -> None:
    """SIGINT as a terminal sends it: to the whole process group."""
    own = IMPORTING.format(module="", name="SIGINT") + MAIN
    bench = subprocess.Popen([sys.executable, "-c", own, "bench", "poisson-100000"], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                             text=True, start_new_session=True)
    while not any(map(_measures, children := _children(bench.pid))) and bench.poll() is None:
        time.sleep(0.02)
    if number == signal.SIGINT:
        os.killpg(bench.pid, number)
    else:
        bench.send_signal(number)
    out, err = bench.communicate(timeout=60)
    assert (bench.returncode, out, err) == (code, "", line)
    assert children
    assert not any(map(_runs, children))


def _children(pid: int) -> list[int]:
    listed = Path(f"/proc/{pid}/task/{pid}/children")
    if not listed.parent.parent.exists():
        pytest.skip("needs /proc")
    try:
        return [int(child) for child in listed.read_text().split()]
    except OSError:
        return []


def _runs(pid: int) -> bool:
    """A child whose parent is dead may stay a zombie until init looks after it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def _measures(pid: int) -> bool:
    """Whether the child is well under way, a process of its own and not the fork of its parent that it begins as."""
    try:
        started = "attached" in Path(f"/proc/{pid}/cmdline").read_text()
        return started and "numpy" in Path(f"/proc/{pid}/maps").read_text()
    except OSError:
        return False


# ---- outputs

@needs_full
@pytest.mark.parametrize("words", ["--help", "--version", "run --help", "list policies"])
def test_a_full_disk_behind_standard_output(words: str) -> None:
    assert in_shell(words, ">/dev/full") == (2, "tokenflow: output: standard output: No space left on device\n")


@pytest.mark.parametrize("words", ["--help", "--version", "run --help", "list policies"])
def test_a_reader_that_leaves_is_no_error(words: str) -> None:
    assert in_shell(words, "| true") == (0, "")


@pytest.mark.parametrize("words", ["--help", "--version", "run --num-prompts 2 --output-len 5 --policy vllm"])
@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_closed_outputs_are_no_error(words: str, closed: str) -> None:
    assert in_shell(words, closed) == (0, "")


@pytest.mark.parametrize("stderr", ["2>&-", pytest.param("2>/dev/full", marks=needs_full)])
@pytest.mark.parametrize("words", ["run --num-prompts 0", "run --nonsense", "run --num-prompts 0 --debug"])
def test_an_error_that_nobody_can_be_told(words: str, stderr: str) -> None:
    line = f"{sys.executable} -c '{MAIN}' {words} {stderr}"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", "")
