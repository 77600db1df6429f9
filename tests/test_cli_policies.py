"""Policies from words: names, files, modules, typed arguments; and the one in the README."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from policies import POLICIES, SGLang, TokenFlow
from sim.cli import main
from sim.policy_choice import arguments_of, choose, choose_all
from traces import BadInput

README = Path(__file__).parents[1] / "README.md"

MINE = '''
from __future__ import annotations
from dataclasses import dataclass
from typing import Literal, Optional
from policies.api import Plan

@dataclass
class Mine:
    on: bool = True
    times: int = 1
    share: float = 0.5
    limit: int | None = 5
    old: Optional[float] = None
    name: str = "x"
    kind: Literal["slow", "fast", 3] = "slow"
    table: dict[str, int] | None = None

    def plan(self, view):
        return Plan()

class Plain:
    def __init__(self, rate: float, *, deep=3):
        self.rate, self.deep = rate, deep
    def plan(self, view):
        return Plan()
'''


@pytest.fixture(autouse=True)
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(MINE)
    return tmp_path


@pytest.mark.parametrize(("text", "field", "value"), [
    ("on=false", "on", False), ("on=1", "on", True), ("on=No", "on", False),
    ("times=7", "times", 7), ("share=2", "share", 2.0), ("share=1e-3", "share", 0.001), ("share=inf", "share", float("inf")),
    ("limit=none", "limit", None), ("limit=9", "limit", 9), ("old=2.5", "old", 2.5), ("old=None", "old", None),
    ("name=none", "name", "none"), ("name=", "name", ""), ("kind=fast", "kind", "fast"), ("kind=3", "kind", 3),
    ("table=none", "table", None),
])
@pytest.mark.parametrize("form", ["argument", "bracket"])
def test_arguments_are_typed_by_their_fields(text: str, field: str, value: object, form: str) -> None:
    choice = choose("mine.py:Mine", [text]) if form == "argument" else choose(f"mine.py:Mine[{text}]")
    found = getattr(choice.policy, field)
    assert found == value
    assert type(found) is type(value)
    assert choice.label == f"Mine[{text}]"


def test_a_plain_class_takes_arguments_as_well() -> None:
    policy: Any = choose("mine.py:Plain[rate=2.5,deep=4]").policy
    assert (policy.rate, policy.deep) == (2.5, 4)


def test_a_module_beside_the_user() -> None:
    assert choose("mine:Mine").label == "Mine"
    assert isinstance(choose("policies.tokenflow:TokenFlow[offload=off]").policy, TokenFlow)


def test_lists_split_outside_brackets() -> None:
    choices = choose_all("sglang, vllm,tokenflow[offload=false,overlap=false],mine.py:Mine")
    assert [choice.label for choice in choices] == ["sglang", "vllm", "tokenflow[offload=false,overlap=false]", "Mine"]
    assert isinstance(choices[0].policy, SGLang)
    policy: Any = choices[2].policy
    assert (policy.offload, policy.overlap, policy.write_through) == (False, False, True)


def test_a_variant_keeps_its_defaults_and_takes_arguments() -> None:
    policy: Any = choose("tokenflow-paper[offload=false]").policy
    assert (policy.utility, policy.offload) == ("printed", False)
    defaults = {argument.name: argument.default for argument in arguments_of(POLICIES["tokenflow-paper"])}
    assert defaults["utility"] == "printed"


@pytest.mark.parametrize(("spec", "given", "line"), [
    ("nosuch", [], r"policy: 'nosuch': unknown; known are sglang, vllm, tokenflow"),
    ("", [], r"policy: '': must be NAME"),
    ("vllm[", [], r"must be NAME, file.py:Class"),
    ("mine.py", [], r"names no class: must be file.py:Class"),
    ("mine.py:", [], r"names no class"),
    ("mine.py:Yours", [], r"policy: mine.py: has no Yours; policies in it: Mine, Plain"),
    ("nofile.py:Mine", [], r"policy: nofile.py: there is no such file"),
    ("no.such.module:Mine", [], r"cannot be imported: ModuleNotFoundError: No module named 'no'"),
    ("mine.py:MINE", [], r"has no MINE"),
    ("mine.py:dataclass", [], r"policy: mine.py:dataclass: is no class but a function"),
    ("mine.py:annotations", [], r"policy: mine.py:annotations: is no class but a _Feature"),
    ("mine.py:Literal", [], r"is no class but a"),
    ("builtins:dict", [], r"policy: builtins:dict: has no method plan\(view\)"),
    ("mine.py:Plain", [], r"policy: mine.py:Plain: cannot be made: TypeError: .*'rate'"),
    ("mine.py:Plain[rate=x]", [], r"--policy-arg: rate=x: must be a number"),
    ("vllm", ["reserve_whole_prompt"], r"--policy-arg: 'reserve_whole_prompt': must be key=value"),
    ("vllm", ["=3"], r"must be key=value"),
    ("vllm", ["colour=red"], r"vllm has no such argument; it has reserve_whole_prompt=True"),
    ("vllm", ["reserve_whole_prompt=maybe"], r"must be true or false \(default True\)"),
    ("vllm[reserve_whole_prompt=1]", ["reserve_whole_prompt=0"], r"is given twice"),
    ("mine.py:Mine", ["times=2.5"], r"must be a whole number"),
    ("mine.py:Mine", ["share=nan"], r"must not be NaN"),
    ("mine.py:Mine", ["kind=warp"], r"must be one of slow, fast, 3"),
    ("mine.py:Mine", ["table=3"], r"no command line gives"),
    ("mine.py:Mine", ["limit=few"], r"must be a whole number"),
])
def test_every_mistake_is_one_line(spec: str, given: list[str], line: str) -> None:
    with pytest.raises(BadInput) as caught:
        choose(spec, given)
    assert re.search(line, str(caught.value)), str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("source", "line"), [
    ("import this_is_missing\n", r"policy: \S+/broken.py:1: cannot be imported: ModuleNotFoundError"),
    ("x = 1\ndef f(:\n", r"policy: \S+/broken.py:2: SyntaxError"),
    ("x = 1\n\nx.y.z\nclass A: ...\n", r"/broken.py:3: cannot be imported: AttributeError"),
    ("import sys\nsys.exit(3)\n", r"/broken.py:2: cannot be imported: SystemExit: 3"),
    ("import numpy as np\nnp.zeros(-1)\n", r"/broken.py:2: cannot be imported: ValueError"),
    ("class A:\n    plan = print\n    def __init__(self):\n        1 / 0\n", r"/broken.py:4: cannot be made: ZeroDivisionError"),
    ("raise ValueError('two\\nlines')\n", r"/broken.py:1: cannot be imported: ValueError: two lines"),
])
def test_a_broken_file_is_one_line_with_its_place(inside: Path, source: str, line: str) -> None:
    (inside / "broken.py").write_text(source)
    with pytest.raises(BadInput) as caught:
        choose("broken.py:A")
    assert re.search(line, str(caught.value)), str(caught.value)
    assert "\n" not in str(caught.value)


def test_listed_twice() -> None:
    with pytest.raises(BadInput, match=r"--policies: vllm: is listed twice"):
        choose_all("vllm,sglang,vllm")


def test_the_readmes_policy_works(inside: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The file as it stands in the README, beside a built-in policy, with and without its argument."""
    source = next(block for block in re.findall(r"```python\n(.*?)```", README.read_text(), re.S) if "def plan" in block)
    assert len([line for line in source.split("class ")[1].splitlines() if line.strip()]) <= 21, "20 lines are promised"
    (inside / "my_policy.py").write_text(source)
    name = re.findall(r"class (\w+)", source)[0]
    for words in (["--num-prompts", "40", "--input-len", "normal:3000:900", "--output-len", "normal:400:90"],
                  ["--num-prompts", "300", "--request-rate", "20", "--input-len", "1", "--output-len", "normal:100:90"]):
        assert main(["compare", "--policies", f"vllm,my_policy.py:{name}", *words, "--json"]) == 0
        found = json.loads(capsys.readouterr().out)["policies"][name]
        assert found["completed"] == int(words[1])
        assert found["preemptions"] == 0
    assert main(["run", "--policy", f"my_policy.py:{name}", "--policy-arg", "most=3", "--num-prompts", "9", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["completed"] == 9
