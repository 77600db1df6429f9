"""What a search came to, as files: trials, front, held-out numbers, the winner as a policy, and a picture of the front."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import nan
from typing import TYPE_CHECKING, Any

from ..intervals import Estimate
from ..plot_style import as_png, own_look
from ..saving import as_csv, as_json, version_of
from .compared import compared, conclusion, number
from .log_axis import log_axis
from .objectives import Objective
from .policy_file import policy_file
from .search_space import as_arguments
from .tune import RULE, Found, Trial, Tuning

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Columns = Mapping[str, list[Any]]

FACTS, WINNER = "tune.json", "winner.py"


def files(tuning: Tuning, found: Found, command: str) -> dict[str, str | bytes]:
    """By name; `command`: the command line that does it again, as it is shown."""
    front = [found.trials[number] for number in sorted({0, *found.front})]
    made: dict[str, str | bytes] = {
        FACTS: as_json(_facts(tuning, found, command)),
        "trials.csv": as_csv(_trials(tuning, found.trials, found)),
        "front.csv": as_csv({**_trials(tuning, front, found), **_ranks(tuning, front, found)}),
        "held_out.csv": as_csv(_held_out(tuning, found)),
        "front.png": picture(tuning, found),
    }
    if found.winner is not None:
        made[WINNER] = winner_file(tuning, found, command)
    return made


def winner_file(tuning: Tuning, found: Found, command: str) -> str:
    """The winner as a policy, with where it comes from."""
    assert found.winner is not None
    values = found.trials[found.winner].given
    rows = [f"{row.objective.key} on {row.workload}: {_bounds(row.winner)}, the defaults' {_bounds(row.default)}; {row.verdict}"
            for row in compared(tuning, found)]
    about = [f"Found by: {command}", f"The rule: {RULE}.", conclusion(tuning, found), *rows]
    arguments = [*tuning.fixed, *as_arguments(values)]
    return policy_file(tuning.policy, arguments, WINNER, f"{tuning.policy} as `tokenflow tune` leaves it.", about)


def _bounds(value: Estimate) -> str:
    spread = "" if value.low is None or value.high is None else f" [{number(value.low)}, {number(value.high)}]"
    return number(value.mean) + spread


def _facts(tuning: Tuning, found: Found, command: str) -> dict[str, Any]:
    return {
        "tokenflow_lab": version_of("tokenflow-lab"), "command": command, "policy": tuning.policy, "fixed": list(tuning.fixed),
        "objectives": {each.key: each.better for each in tuning.objectives}, "limits": [str(each) for each in tuning.limits],
        "space": [str(each) for each in tuning.space], "trials": len(found.trials), "seed": tuning.seed,
        "seeds": list(tuning.seeds), "held_out_seeds": list(tuning.held_out_seeds),
        "held_out_workloads": [workload or tuning.own for workload in tuning.workloads],
        "flags": {name: value for name, value in sorted(tuning.flags.items()) if value is not None},
        "front": list(found.front), "rule": RULE, "winner": found.winner,
        "winner_arguments": None if found.winner is None else dict(found.trials[found.winner].given),
        "conclusion": conclusion(tuning, found),
        "held_out": [{"workload": row.workload, "metric": row.objective.key, "better": row.objective.better,
                      "defaults": _estimate(row.default), "winner": _estimate(row.winner), "change": _estimate(row.change),
                      "verdict": row.verdict} for row in compared(tuning, found)],
    }


def _estimate(value: Estimate) -> dict[str, Any]:
    return {"mean": value.mean, "low": value.low, "high": value.high}


def _trials(tuning: Tuning, trials: Sequence[Trial], found: Found) -> Columns:
    columns: dict[str, list[Any]] = {"trial": [each.number for each in trials]}
    for parameter in tuning.space:
        columns[parameter.name] = [each.values[parameter.name] for each in trials]
    for metric in tuning.keys:
        columns[metric] = [each.means[metric].mean if each.means else None for each in trials]
        columns[f"{metric}_ci95"] = [_half(each.means[metric]) if each.means else None for each in trials]
    return columns | {"front": [each.number in found.front for each in trials],
                      "within_limits": [each.kept for each in trials], "failed": [each.failed for each in trials]}


def _half(value: Estimate) -> float | None:
    return None if value.high is None else value.high - value.mean


def _ranks(tuning: Tuning, front: Sequence[Trial], found: Found) -> Columns:
    columns: dict[str, list[Any]] = {}
    for place, workload in enumerate(tuning.workloads):
        for metric in tuning.keys:
            held = [found.held_out[each.number][place] for each in front]
            columns[f"held_out {metric} on {workload or tuning.own}"] = [
                each.mean(metric).mean if each.values else None for each in held]
    return columns | {"mean_rank": [found.ranks.get(each.number) for each in front],
                      "out": [found.out.get(each.number, "") for each in front],
                      "winner": [each.number == found.winner for each in front]}


def _held_out(tuning: Tuning, found: Found) -> Columns:
    rows = [(number, workload, i, seed, each) for number, own in found.held_out.items()
            for workload, each in zip(tuning.workloads, own) for i, seed in enumerate(tuning.held_out_seeds)]
    return {"trial": [number for number, *_ in rows], "workload": [workload or tuning.own for _, workload, *_ in rows],
            "seed": [seed for *_, seed, _ in rows],
            **{metric: [each.values[metric][i] if each.values else nan for _, _, i, _, each in rows] for metric in tuning.keys},
            "failed": [each.failed for *_, each in rows]}


# ---- the picture

_LOOKS: Mapping[str, dict[str, Any]] = {
    "other trials": {"marker": "o", "facecolor": "white", "edgecolor": "#808080", "s": 14, "linewidth": 0.7, "zorder": 2},
    "beyond a limit": {"marker": "x", "color": "#808080", "s": 14, "linewidth": 0.7, "zorder": 2},
    "front": {"marker": "D", "facecolor": "#56B4E9", "edgecolor": "black", "s": 24, "linewidth": 0.6, "zorder": 3},
    "defaults": {"marker": "s", "facecolor": "black", "edgecolor": "white", "s": 48, "linewidth": 0.6, "zorder": 4},
    "winner": {"marker": "*", "facecolor": "#D55E00", "edgecolor": "black", "s": 150, "linewidth": 0.7, "zorder": 5},
}


def picture(tuning: Tuning, found: Found) -> bytes:
    """Each objective against the first, and the second against the third where there are three; means over the search's seeds."""
    from matplotlib.figure import Figure
    shown = tuning.objectives
    pairs = [(0, i) for i in range(1, len(shown))] + ([(1, 2)] if len(shown) == 3 else []) or [(0, 0)]
    with own_look():
        figure = Figure(figsize=(5.0, 2.6 * len(pairs) + 0.4), dpi=200)
        panels = figure.subplots(len(pairs), 1, squeeze=False)[:, 0]
        groups = _groups(found)
        handles: dict[str, Any] = {}
        for axes, (x, y) in zip(panels, pairs):
            for name, trials in groups.items():
                if trials:
                    points = [[each.means[shown[i].key].mean for each in trials] for i in (x, y)]
                    handles[name] = axes.scatter(*points, **_LOOKS[name])
            _axis(axes, "x", shown[x], [each for trials in groups.values() for each in trials])
            _axis(axes, "y", shown[y], [each for trials in groups.values() for each in trials])
        figure.legend(handles.values(), handles, loc="outside upper center", ncols=3, frameon=False)
        return as_png(figure)


def _groups(found: Found) -> dict[str, list[Trial]]:
    ended = [trial for trial in found.trials if not trial.failed]

    def group(trial: Trial) -> str:
        if trial.number == found.winner:
            return "winner"
        if not trial.number:
            return "defaults"
        return "front" if trial.number in found.front else "other trials" if trial.kept else "beyond a limit"
    return {name: [trial for trial in ended if group(trial) == name] for name in _LOOKS}


def _axis(axes: Axes, which: str, objective: Objective, trials: Sequence[Trial]) -> None:
    unit = f", {objective.unit}" if objective.unit else ""
    axis = axes.xaxis if which == "x" else axes.yaxis
    values = [trial.means[objective.key].mean for trial in trials]
    log = min(values) > 0 and max(values) > 20 * min(values)
    if log:
        log_axis(axes, which)
    else:
        axis.set_major_formatter(lambda value, _: f"{value:,.6g}")
    axis.set_label_text(f"{objective.key}{unit}\n({objective.better} is better{', log scale' if log else ''})")
