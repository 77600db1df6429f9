"""`tokenflow report DIR`: one page on whatever a command has left in a directory."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from traces import BadInput

from . import cli_tables, output_file, report, report_sweep
from .outcome import Outcome
from .plots import draw
from .saved_runs import COMPARISON, HOST, REQUESTS, RUN, Saved, read_object, read_runs

PAGE = "report.html"

#: columns of requests.csv that tables and figures take
_COLUMNS = ("consume_tps", "delivered_tokens", "first_token_s", "input_tokens", "output_tokens", "rebuffer_s", "sent_s", "ttft_s")


def show(folder: Path, output: Path | None) -> Path:
    """Write the page on a directory; prints and returns where it is."""
    if not folder.is_dir():
        raise BadInput("report", str(folder), "is not a directory" if folder.exists() else "there is no such directory")
    target = output_file.check(output or folder / PAGE, (".html", ".htm"))
    html = page_on(folder)
    with output_file.new_file(target) as file:
        file.write(html.encode())
    print(target)
    return target


def page_on(folder: Path) -> str:
    """BadInput where the directory is none that a command has left."""
    if report_sweep.is_sweep(folder):
        return report_sweep.page(folder)
    if not (folder / RUN).is_file() and not any(folder.glob(f"*/{RUN}")):
        if (folder / COMPARISON).is_file():
            return _page(folder, _held_together(folder))
        raise BadInput("report", str(folder), (
            "holds no results: neither run.json (tokenflow run, compare, demo; tokenflow-calibrate replay), nor compare.json "
            "(tokenflow-calibrate compare), nor runs.csv (tokenflow sweep)"))
    runs = read_runs(folder)
    if (folder / COMPARISON).is_file():
        said = read_object(folder / COMPARISON).get("policies")
        if lost := [label for label in (said if isinstance(said, dict) else {}) if label not in runs]:
            raise BadInput("report", str(folder), f"{COMPARISON} names {lost[0]}, whose folder is not there")
    return _page(folder, runs)


def _page(folder: Path, runs: Mapping[str, Saved]) -> str:
    for run in runs.values():
        _check(run)
    same = {tuple(run.requests["input_tokens"]) for run in runs.values()}
    if len(same) > 1:
        raise BadInput("report", str(folder), "its runs are of different requests: name one of them")
    results: dict[str, Outcome] = dict(runs)
    host = _host(folder)
    return report.page(results, draw(results), _commands(folder, host), missing=_missing(runs, host),
                       computed=report.computed(host))


def _check(run: Saved) -> None:
    """BadInput where an older version, or somebody, has left something else."""
    facts, path = run.facts, str(run.folder / RUN)
    for key in ("workload", "trace", "model", "hardware", "kv_tokens", "host_kv_tokens", "max_seqs", "block_size", "consume_rate"):
        if key not in facts:
            raise BadInput("result", path, f"has no {key}: {_version(run)}")
    numbers = [*cli_tables.keys(facts), "kv_tokens", "host_kv_tokens", "max_seqs", "block_size", "consume_rate"]
    run.check_numbers(numbers, there=True)
    columns = run.columns()
    for name in _COLUMNS:
        if name not in columns:
            raise BadInput("result", str(run.folder / REQUESTS), f"has no column {name}: {_version(run)}")
    if not len(run.requests["fate"]) or len(run.requests["fate"]) != facts.get("requests", len(run.requests["fate"])):
        raise BadInput("result", str(run.folder / REQUESTS), (
            f"has {len(run.requests['fate'])} requests, {RUN} {facts.get('requests')}: it was cut short"))


def _version(run: Saved) -> str:
    return f"it was written by another version ({run.facts.get('tokenflow_lab', 'unknown')}); run it again"


def _held_together(folder: Path) -> dict[str, Saved]:
    """The runs that `tokenflow-calibrate compare` has held together, simulated beside measured."""
    found: dict[str, Saved] = {}
    said = read_object(folder / COMPARISON).get("policies")
    for label, pair in (said if isinstance(said, dict) else {}).items():
        if not isinstance(pair, dict) or not isinstance(pair.get("measured"), list) or not isinstance(pair.get("simulated"), str):
            continue
        named = [(pair["simulated"], f"{pair.get('simulated_as', label)} (simulated)"),
                 *((name, f"{label} (measured{f' {i}' if i > 1 else ''})") for i, name in enumerate(pair["measured"], 1))]
        for name, called in named:
            there = next((each for each in (Path(str(name)), folder.parent / str(name)) if each.is_dir()), None)
            if there is None:
                raise BadInput("report", str(folder / COMPARISON), (
                    f"names {name}, which is not there: go to the directory that the comparison was made in"))
            run = next(iter(read_runs(there).values()))
            found[called] = Saved(run.folder, run.facts, run.requests, run.timeline, called)
    if not found:
        raise BadInput("report", str(folder / COMPARISON), "names no runs: it is none of tokenflow's")
    return found


# ---- where it comes from

def _host(folder: Path) -> Mapping[str, Any]:
    """host.json of a directory, or of the one it is in, whose command made both; {} where there is none."""
    for each in (folder, folder.resolve().parent):
        if (each / HOST).is_file() and (each == folder or (each / COMPARISON).is_file()):
            return read_object(each / HOST)
    return {}


def command_of(host: Mapping[str, Any]) -> list[str]:
    """The words of the command that made it, but for where its results went; [] where nobody noted it."""
    words = host.get("command")
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        return []
    kept, skip = [], False
    for word in words:
        if skip or word.startswith(("--output-dir=", "-o=")):
            skip = False
        elif word in ("-o", "--output-dir"):
            skip = True
        else:
            kept.append(word)
    return kept


def _commands(folder: Path, host: Mapping[str, Any]) -> Sequence[str]:
    words = command_of(host)
    mine = shlex.join(["tokenflow", "report", str(folder)])
    return [*([shlex.join(words)] if words else []), mine]


def _missing(runs: Mapping[str, Saved], host: Mapping[str, Any]) -> list[str]:
    words = command_of(host)
    flags = [*(["--save-timeline"] if any(run.timeline is None for run in runs.values()) else []),
             *(["--save-detailed"] if not all(run.keeps_tokens for run in runs.values()) else [])]
    if not flags:
        return []
    if words[:2] == ["tokenflow", "demo"]:
        return ["Tokens of single requests over time: the command below keeps none, its own report.html shows them."]
    said = {"--save-timeline": "Requests, memory and links over time: they need timeline.csv, which --save-timeline keeps.",
            "--save-detailed": "Tokens of single requests, generated against read: vLLM's lists, kept by --save-detailed."}
    again = [f"With everything: {shlex.join([*words, *(flag for flag in flags if flag not in words)])}"] if words else []
    return [*(said[flag] for flag in flags), *again]
