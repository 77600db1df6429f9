"""What `tokenflow capacity` found, as files: numbers by policy, by seed, by load that was tried, and a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..goodput import described, parse_goodput
from ..intervals import Estimate
from ..plot_style import as_png, own_look, styles
from ..saving import as_csv, as_json, version_of
from .capacity import Answer, Capacity, Question
from .log_axis import log_axis

Columns = Mapping[str, list[Any]]


def files(question: Question, found: Sequence[Capacity]) -> dict[str, str | bytes]:
    """By name. The same question, the same bytes."""
    answers = [answer for each in found for answer in each.answers]
    return {"capacity.json": as_json(_facts(question, found)), "capacity.csv": as_csv(_by_seed(answers)),
            "points.csv": as_csv(_by_load(answers)), "capacity.png": _picture(question, found)}


def _facts(question: Question, found: Sequence[Capacity]) -> dict[str, Any]:
    flags = {name: value for name, value in sorted(question.flags.items()) if value is not None}
    return {
        "tokenflow_lab": version_of("tokenflow-lab"), "of": question.of, "unit": question.unit, "target": question.target,
        "goodput": described(parse_goodput(question.flags["goodput"])),
        "duration_s": question.duration_s if question.of == "rate" else None,
        "tolerance": question.tolerance, "least": question.least, "most": question.most,
        "seeds": [answer.seed for answer in found[0].answers], "flags": flags,
        "policies": {each.policy: {"mean": None, "low": None, "high": None} | _interval(each.mean)
                     | {"bound": each.bound or None, "ratio": _interval(each.ratio) or None}
                     | ({"failed": each.failed.failed, "command": each.failed.command} if each.failed else {})
                     for each in found},
    }


def _interval(estimate: Estimate | None) -> dict[str, Any]:
    return {} if estimate is None else {"mean": estimate.mean, "low": estimate.low, "high": estimate.high}


def _by_seed(answers: Sequence[Answer]) -> Columns:
    def loads(which: str) -> list[Any]:
        return [" ".join(f"{load:g}" for load in getattr(each.border, which)) if each.border else None for each in answers]
    return {"policy": [each.policy for each in answers], "seed": [each.seed for each in answers],
            "capacity": [each.border.carried if each.border else None for each in answers],
            "refused": [each.border.refused if each.border else None for each in answers],
            "refused_below": loads("dips"), "carried_beyond": loads("again"), "failed": [each.failed for each in answers]}


def _by_load(answers: Sequence[Answer]) -> Columns:
    rows = [(each, point) for each in answers for point in each.points]
    return {"policy": [each.policy for each, _ in rows], "seed": [each.seed for each, _ in rows],
            "load": [point.load for _, point in rows], "requests": [point.requests for _, point in rows],
            "good_share": [point.share for _, point in rows], "carried": [point.carried for _, point in rows]}


def _picture(question: Question, found: Sequence[Capacity]) -> bytes:
    """Share of good requests against load, a line a seed, and each capacity with its interval."""
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    with own_look():
        figure = Figure(figsize=(5.0, 3.6), dpi=200)
        axes, target = figure.subplots(), 100 * question.target
        looks = styles([each.policy for each in found])
        loads = [point.load for each in found for answer in each.answers for point in answer.points]
        for place, each in enumerate(found):
            look = looks[each.policy]
            for answer in each.answers:
                axes.plot([point.load for point in answer.points], [100 * point.share for point in answer.points], **look
                          | {"linewidth": 0.8, "markersize": 2.5, "alpha": 0.7})
            if each.mean is not None:
                mean, low, high = each.mean.mean, each.mean.low, each.mean.high
                # of few seeds it may reach below zero, where this axis has nothing
                error = None if low is None or high is None else [[mean - max(low, min(loads))], [min(high, max(loads)) - mean]]
                axes.errorbar([mean], [106 + 5 * (len(found) - 1 - place)], xerr=error, color=look["color"], marker=look["marker"],
                              markersize=6, markeredgecolor="black", elinewidth=2, capsize=3)
        axes.axhline(target, color="#555555", linewidth=1, linestyle=(0, (2, 2)))
        log_axis(axes, "x")
        axes.set_ylim(-2, 104 + 5 * len(found))
        axes.set_yticks([0, 25, 50, 75, 100])
        axes.set_xlabel(f"load, {question.unit} (log scale)")
        axes.set_ylabel("good requests, %")
        axes.set_title(f"on top: capacity at {target:g} %, mean and 95 % interval over seeds", loc="left", fontsize=8)
        handles = [Line2D([], [], **look) for look in looks.values()]
        figure.legend(handles, list(looks), loc="outside upper center", ncols=min(len(looks), 3), frameon=False, handlelength=3.5)
        return as_png(figure)
