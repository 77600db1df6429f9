"""Notebooks: they run, give again what is committed with them, import only what is public, and hold nothing of one machine.

`python -m pytest tests/test_notebooks.py --save-notebooks` executes all of them and keeps what came out.
"""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import struct
from base64 import b64decode
from html import unescape
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "notebooks"
NAMES = ["01_quickstart", "02_write_your_own_policy", "03_paper_figures", "04_what_if_sweep", "05_simulator_vs_engine"]
MAY_IMPORT = {"sim", "traces", "policies", "calibrate", "numpy", "pandas", "matplotlib", "__future__", "dataclasses", "pathlib",
              "tempfile"}
LARGEST_BYTES = 1_500_000       # all of them together
LONGEST_S = 300
DRAWS = re.compile(r"\.plot|plt\.subplots|\.pictures")

#: of a result that a machine, and not the notebook, determines
OF_A_MACHINE = re.compile(re.escape(str(FOLDER.parent)) + (
    r"|/tmp/|/home/|/root\b|/Users/|site-packages|ipykernel_\d|0x[0-9a-f]{8,}|\b20[2-9]\d-\d\d-\d\dT"))

pytestmark = pytest.mark.unaudited


def read(name: str) -> dict[str, Any]:
    held: dict[str, Any] = json.loads((FOLDER / f"{name}.ipynb").read_text(encoding="utf-8"))
    return held


def code(notebook: dict[str, Any]) -> list[dict[str, Any]]:
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def joined(text: str | list[str]) -> str:
    return text if isinstance(text, str) else "".join(text)


def shown(cell: dict[str, Any]) -> list[tuple[str, str]]:
    """What a cell put out, by kind: words of texts and tables; of pictures only that there is one."""
    found = []
    for output in cell["outputs"]:
        said = output["data"] if "data" in output else {output.get("name", "error"): output.get("text", "")}
        for kind, content in said.items():
            text = "" if kind == "image/png" else joined(content)
            if kind == "text/html":
                text = unescape(re.sub(r"<style.*?</style>|<[^>]+>", " ", text, flags=re.DOTALL))
            found.append((kind, " ".join(text.split())))
    return found


def pictures(cell: dict[str, Any]) -> list[tuple[int, int]]:
    """Width and height of each, in pixels."""
    told = [b64decode(joined(output["data"]["image/png"])) for output in cell["outputs"] if "image/png" in output.get("data", {})]
    assert all(png.startswith(b"\x89PNG\r\n") for png in told)
    return [struct.unpack(">II", png[16:24]) for png in told]


def executed(name: str, folder: Path) -> dict[str, Any]:
    """In a copy of its folder, where it may leave what it likes."""
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    if find_spec("ipykernel") is None:
        pytest.skip("ipykernel is not installed")
    notebook = nbformat.read(FOLDER / f"{name}.ipynb", 4)
    for cell in notebook.cells:
        cell.metadata = {}
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    client = nbclient.NotebookClient(notebook, timeout=LONGEST_S, kernel_name="python3", record_timing=False,
                                     resources={"metadata": {"path": str(folder)}})
    shutil.copytree(FOLDER, folder, ignore=shutil.ignore_patterns("*.ipynb", "tokenflow-out"))
    client.execute(env=os.environ | {"PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"}, cwd=str(folder))
    notebook.metadata = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
                         "language_info": {"name": "python"}}
    return json.loads(nbformat.writes(notebook))  # type: ignore[no-any-return]


def test_every_notebook_is_tested() -> None:
    assert sorted(path.stem for path in FOLDER.glob("*.ipynb")) == NAMES


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_executed_again_it_shows_the_same(name: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    made = executed(name, tmp_path / "notebooks")
    if request.config.getoption("--save-notebooks"):
        (FOLDER / f"{name}.ipynb").write_text(json.dumps(made, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    kept = read(name)
    assert len(code(kept)) == len(code(made))
    for before, now in zip(code(kept), code(made)):
        assert shown(now) == shown(before), joined(now["source"])
        for (width, height), (wide, high) in zip(pictures(now), pictures(before)):
            assert (width, height) == pytest.approx((wide, high), rel=0.05), "another matplotlib may space letters otherwise"


@pytest.mark.parametrize("name", NAMES)
def test_it_is_committed_as_executed(name: str) -> None:
    """From top to bottom, without an error or a warning, and with nothing of the machine that did it."""
    notebook = read(name)
    cells = code(notebook)
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    for cell in cells:
        assert pictures(cell) or not DRAWS.search(joined(cell["source"])), "a picture that nobody sees"
    for cell in notebook["cells"]:
        assert cell["metadata"] == {}
    assert notebook["metadata"] == {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
                                    "language_info": {"name": "python"}}
    for cell in cells:
        for kind, text in shown(cell):
            assert kind in ("stdout", "text/plain", "text/html", "image/png"), text
            assert not OF_A_MACHINE.search(text), text
        assert not OF_A_MACHINE.search(joined(cell["source"]))


@pytest.mark.parametrize("name", NAMES)
def test_it_imports_what_is_public_and_copies_nothing(name: str) -> None:
    for cell in code(read(name)):
        for node in ast.walk(ast.parse(joined(cell["source"]))):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else (
                [node.module or ""] if isinstance(node, ast.ImportFrom) else [])
            assert {module.split(".")[0] for module in modules} <= MAY_IMPORT
            names = [part for module in modules for part in module.split(".")]
            names += [alias.name for alias in node.names] if isinstance(node, ast.ImportFrom) else []
            names += [node.attr] if isinstance(node, ast.Attribute) else []
            assert not [each for each in names if each.startswith("_") and each != "__future__"]
            if isinstance(node, ast.ClassDef):
                assert name == "02_write_your_own_policy", "code belongs into the packages"


def test_they_are_small() -> None:
    assert sum(path.stat().st_size for path in FOLDER.glob("*.ipynb")) <= LARGEST_BYTES
