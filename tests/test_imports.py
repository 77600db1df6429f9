"""Who may import whom, what lies at the top level, and how long a file may be."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("policies", "traces", "sim", "calibrate")
LONGEST_FILE = 450      # lines

#: third-party and own packages that any file of a package may import; the standard library is everyone's
MAY_IMPORT = {
    "policies": {"policies", "numpy"},
    "traces": {"traces", "numpy", "pandas", "pydantic"},
    "sim": {"sim", "policies", "traces", "simpy", "numpy", "pandas", "pydantic"},
    "calibrate": {"calibrate", "policies", "traces", "sim", "numpy", "pandas", "scipy", "pydantic", "matplotlib", "typer", "rich"},
}

#: what only the edge of `sim` may import, beyond the above: command line, plots, studies, reports
EDGE = re.compile(r"sim/(cli\w*|compare\w*|display\w*|plots?\w*|report\w*|jobs|study/\w+|saving\w*|reproduce/pictures\w*)\.py")
EDGE_MAY_IMPORT = {"matplotlib", "scipy", "yaml", "joblib", "typer", "click", "rich", "optuna", "ray", "dask", "distributed"}

#: files that drive the real machine
DRIVES_VLLM = re.compile(r"calibrate/(engine/\w+|profile\w*|replay\w*|measure\w*|links)\.py")
DRIVING_MAY_IMPORT = {"torch", "vllm", "openai", "httpx"}

#: pandas, matplotlib and the like take longer to import than a small simulation to run
LAZY = {"pandas", "matplotlib", "scipy", "joblib", "yaml"}

TOP_LEVEL = {"calibrate", "notebooks", "policies", "sim", "tests", "traces", ".ci", ".gitignore", "CHANGELOG.md", "DESIGN.md",
             "LICENSE", "README.md", "pyproject.toml"}

FILES = sorted(path.relative_to(ROOT) for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
NAMES = [path.as_posix() for path in FILES]


def imported(node: ast.AST, package: str) -> set[str]:
    """Top-level packages that an import statement names; {} for any other node."""
    if isinstance(node, ast.Import):
        return {alias.name.split(".")[0] for alias in node.names}
    if isinstance(node, ast.ImportFrom):
        return {package if node.level else (node.module or "").split(".")[0]}
    if isinstance(node, ast.Call) and ast.unparse(node.func) in ("import_module", "importlib.import_module", "__import__"):
        name = node.args[0]
        return {name.value.split(".")[0] or package} if isinstance(name, ast.Constant) else set()
    return set()


def only_for_types(tree: ast.Module) -> set[ast.AST]:
    """Nodes under `if TYPE_CHECKING:`."""
    guards = [node for node in ast.walk(tree) if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    return {inner for guard in guards for statement in guard.body for inner in ast.walk(statement)}


@pytest.mark.parametrize("package", PACKAGES)
def test_imports_only_what_the_package_may(package: str) -> None:
    for name in (name for name in NAMES if name.startswith(f"{package}/")):
        allowed = MAY_IMPORT[package] | set(sys.stdlib_module_names)
        if EDGE.fullmatch(name):
            allowed |= EDGE_MAY_IMPORT
        if DRIVES_VLLM.fullmatch(name):
            allowed |= DRIVING_MAY_IMPORT
        found = {module for node in ast.walk(ast.parse((ROOT / name).read_text())) for module in imported(node, package)}
        assert found <= allowed, f"{name} imports {sorted(found - allowed)}"


def test_slow_packages_are_imported_where_they_are_used() -> None:
    for name in (name for name in NAMES if not name.startswith("calibrate/")):
        package, tree = name.split("/")[0], ast.parse((ROOT / name).read_text())
        functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
        later = only_for_types(tree) | {inner for function in functions for inner in ast.walk(function)}
        at_once = {module for node in ast.walk(tree) if node not in later for module in imported(node, package)}
        assert not at_once & LAZY, name


def test_policies_use_no_clock_and_no_files() -> None:
    """Pure decisions: nothing of the standard library that knows the time, the machine or the world."""
    forbidden = {"time", "datetime", "random", "os", "io", "pathlib", "socket", "subprocess", "threading", "logging", "secrets"}
    for name in NAMES:
        if name.startswith("policies/"):
            tree = ast.parse((ROOT / name).read_text())
            assert not {module for node in ast.walk(tree) for module in imported(node, "policies")} & forbidden, name
            calls = {ast.unparse(call.func) for call in ast.walk(tree) if isinstance(call, ast.Call)}
            assert not calls & {"open", "print"}, name


def test_top_level() -> None:
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if tracked.returncode or not tracked.stdout:
        pytest.skip("not a git checkout")
    assert {line.split("/")[0] for line in tracked.stdout.splitlines()} <= TOP_LEVEL


def test_no_file_is_long() -> None:
    for path in [*FILES, *(path.relative_to(ROOT) for path in (ROOT / "tests").rglob("*.py"))]:
        assert len((ROOT / path).read_text().splitlines()) <= LONGEST_FILE, path


def test_the_simulator_needs_neither_torch_nor_vllm() -> None:
    """Nor pandas, matplotlib and scipy, until somebody asks for a table or a plot."""
    script = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "vllm", "ray", "dask", "optuna"):
            raise ImportError(name)
sys.meta_path.insert(0, Absent())
import policies, traces, sim
from sim import simulate
from traces import make_trace
result = simulate("vllm", make_trace([0.0, 0.1], 20, 5))
assert result.summary["completed"] == 2
print(sorted({"pandas", "matplotlib", "scipy", "typer", "rich"} & set(sys.modules)))
"""
    ran = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.strip() == "[]"
