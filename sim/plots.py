"""Results as pictures. Functions that take an Axes draw on it and nowhere else; `draw` gives finished PNGs.

    from matplotlib.figure import Figure
    figure = Figure()
    ttft_cdf(figure.subplots(), {"sglang": one, "tokenflow": other})

A policy has the same colour, line and marker in every figure: that of its place among the results, which may be live or read back
(`sim.saved_runs`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from policies.api import Floats
from traces import BadInput

from .metrics import PATIENCE_S
from .outcome import Outcome
from .plot_pareto import pareto_figure
from .plot_style import (
    COLOURS,
    WIDTH_IN,
    Drawing,
    NewFigure,
    as_png,
    legend,
    new_figure,
    own_look,
    seconds_on_log,
    styles,
    thousands,
    wrapped,
)
from .timeline import Timeline

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Results = Mapping[str, Outcome]

_STALL: dict[str, Any] = {"facecolor": "#f7d9d0", "edgecolor": "#8c2d04", "linewidth": 0.3, "hatch": "////"}

#: what `residency` shows, by columns of the timeline
WHERE = {"queued": ("queued",), "on the GPU": ("running", "paused"), "away": ("on_host", "loading", "evicting")}
_POINTS, _RATE_POINTS = 256, 64     # of a line over time; of one that goes up and down all the time
_PANELS_PX = 400    # width of a row of panels, without labels, where a report shows it


# ---- on an Axes of the caller

def ttft_cdf(axes: Axes, results: Results) -> None:
    """Share of requests that had their first token after so long; who never got one counts as still waiting."""
    first_s, last_s = 1.0, PATIENCE_S
    for label, result in results.items():
        told = result.columns()
        waited_s = np.sort(_known(told["ttft_s"]))
        asked = max(int(np.count_nonzero(told["fate"] != "rejected")), 1)
        share = 100 * np.arange(len(waited_s) + 1) / asked
        before_s = min(1e-3, float(waited_s[0]) / 2) if len(waited_s) else 1e-3
        _line(axes, results, label, np.append(before_s, waited_s), share, drawstyle="steps-post")
        if len(waited_s):
            first_s, last_s = min(first_s, float(waited_s[0])), max(last_s, float(waited_s[-1]))
    seconds_on_log(axes)
    axes.set_xlim(first_s / 1.3, last_s * 1.3)
    axes.axvline(PATIENCE_S, color="#555555", linewidth=1, linestyle=(0, (2, 2)))
    axes.annotate(f"{PATIENCE_S:g} s", (PATIENCE_S, 1), xycoords=("data", "axes fraction"), xytext=(0, 2),
                  textcoords="offset points", ha="center", va="bottom", fontsize=8, color="#555555")
    axes.set_xlabel("time to first token, s (log scale)")
    _share(axes, "requests, %")


def rebuffer_cdf(axes: Axes, results: Results) -> None:
    """Share of readers whose buffer was empty for so long in all, between their first token and the last."""
    stalled = {label: np.sort(_known(result.columns()["rebuffer_s"])) for label, result in results.items()}
    longest_s = max([1.0, *(float(seconds[-1]) for seconds in stalled.values() if len(seconds))])
    for label, seconds in stalled.items():
        if not len(seconds):
            continue
        stall, share = seconds[seconds > 1e-9], 100 * np.arange(1, len(seconds) + 1) / len(seconds)
        calm = len(seconds) - len(stall)
        y = np.concatenate(([100 * calm / len(seconds)], share[calm:], [100.0]))
        _line(axes, results, label, np.concatenate(([0.0], stall, [longest_s])), y, drawstyle="steps-post")
    axes.set_xlim(-0.01 * longest_s, 1.02 * longest_s)
    axes.set_xlabel("time stalled, s")
    _share(axes, "readers, %")


def token_timelines(axes: Axes, result: Outcome, id: int, colour: str = COLOURS[0], least_s: float = 0.0) -> None:
    """Tokens of one request that are generated, and read, over time since it was sent; its reader's stalls are hatched.

    Stalls less than `least_s` apart are one; what is shorter than that then is left out. The result needs the tokens' times.
    """
    sent_s, times_s, along = result.columns()["sent_s"][id], result.token_times_s(id), result.read_along(id)
    if times_s is None or along is None:
        raise BadInput("tokens' times", result.label, "were not kept: --save-detailed")
    taken_s, stalls = along
    tokens = np.arange(len(times_s) + 1)
    if len(stalls):
        apart = stalls[1:, 0] - stalls[:-1, 1] >= least_s
        starts, ends = stalls[np.append(True, apart), 0], stalls[np.append(apart, True), 1]
        spans = [(start_s - sent_s, end_s - start_s) for start_s, end_s in zip(starts, ends) if end_s - start_s >= least_s]
        axes.broken_barh(spans, (0, 1), transform=axes.get_xaxis_transform(), zorder=0.6, **_STALL)
    axes.plot(np.append(0.0, times_s - sent_s), tokens, drawstyle="steps-post", label="generated", color=colour)
    axes.plot(np.append(0.0, taken_s - sent_s), tokens, drawstyle="steps-post", label="read", color="#333333", linestyle="--",
              linewidth=1.1)


def residency(axes: Axes, results: Results, where: str) -> None:
    """Requests over time that are at one of WHERE. The results need a timeline."""
    over_time(axes, results, WHERE[where])
    axes.set_ylim(0, max(axes.get_ylim()[1], 1.0))


def over_time(axes: Axes, results: Results, columns: Sequence[str], unit: Mapping[str, float] | None = None,
              points: int = _POINTS) -> None:
    """The sum of columns of the timeline, which the results need, averaged over so many stretches.

    `unit`: what a result's numbers are multiplied by.
    """
    for label, result in results.items():
        told = check_timeline(label, result).columns()
        total: Floats = np.sum([told[column] for column in columns], axis=0) * (unit or {}).get(label, 1.0)
        start_s, end_s = told["start_s"], told["end_s"]
        if not len(total):      # stopped before anyone came
            continue
        first = np.arange(0, len(total), -(-len(total) // points))
        spans = np.add.reduceat(end_s - start_s, first)
        mean = np.add.reduceat(total * (end_s - start_s), first) / spans
        _line(axes, results, label, start_s[first] + spans / 2, mean, clip_on=False)     # of a line at 0 half would be cut off
    axes.set_ylim(bottom=0)
    axes.margins(x=0.02)


def check_timeline(label: str, result: Outcome) -> Timeline:
    """Its timeline; BadInput when it has none."""
    if result.timeline is None:
        raise BadInput("timeline", label, "was not recorded: simulate(..., timeline=True)")
    return result.timeline


# ---- whole figures; `new` makes an empty one

def chosen_requests(results: Results) -> list[int]:
    """By order of arrival the one in the middle, and the last, of those whom someone reads and every policy served in full."""
    told = [result.columns() for result in results.values()]
    served = np.all([columns["fate"] == "completed" for columns in told], axis=0)
    read = np.any([~np.isnan(columns["rebuffer_s"]) for columns in told], axis=0)
    ids = (read & served).nonzero()[0]
    if not len(ids):
        ids = read.nonzero()[0]
    return sorted({int(ids[len(ids) // 2]), int(ids[-1])}) if len(ids) else []


def draw(results: Results) -> list[Drawing]:
    """Every figure that the results have something for. The caller's matplotlib settings neither matter nor change."""
    with own_look():
        made = [(name, title, caption, figure(results)) for name, (title, caption, figure) in DRAWINGS.items()]
        return [Drawing(name, title, caption, as_png(figure)) for name, title, caption, figure in made if figure is not None]


def one(plot: Callable[[Axes, Results], None]) -> Callable[..., Figure]:
    """The figure of a plot that takes an Axes."""
    def figure(results: Results, new: NewFigure | None = None) -> Figure:
        made = new_figure(3.4, results, new)
        plot(made.subplots(), results)
        return legend(made, results)
    return figure


def _ttft(results: Results) -> Figure | None:
    served = any(len(_known(result.columns()["ttft_s"])) for result in results.values())
    return one(ttft_cdf)(results) if served else None


def _rebuffering(results: Results) -> Figure | None:
    read = any(len(_known(result.columns()["rebuffer_s"])) for result in results.values())
    return one(rebuffer_cdf)(results) if read else None


def _tokens(results: Results) -> Figure | None:
    ids = chosen_requests(results)
    told = [result for result in results.values() if result.token_times_s(0) is not None]
    return tokens(results, ids) if any(result.columns()["delivered_tokens"][id] for result in told for id in ids) else None


def tokens(results: Results, ids: Sequence[int], new: NewFigure | None = None) -> Figure:
    """A row per policy whose tokens' times are known, a panel per request."""
    looks = styles(results)
    results = {label: result for label, result in results.items() if result.token_times_s(0) is not None}
    asked = next(iter(results.values())).columns()
    figure = new_figure(1.15 * len(results) + 0.6, results, new, max(WIDTH_IN, 1.7 * len(ids)))
    panels = figure.subplots(len(results), len(ids), sharex="col", sharey="col", squeeze=False)
    pixel_s = [len(ids) / _PANELS_PX * max(_read_s(result, id) for result in results.values()) for id in ids]
    for row, (label, result) in zip(panels, results.items()):
        for axes, id, least_s in zip(row, ids, pixel_s):
            token_timelines(axes, result, id, looks[label]["color"], least_s)
        row[0].set_title(wrapped(label, 55), loc="left", fontweight="bold", parse_math=False)
        row[0].set_ylabel("tokens")
    above = 6 + 12 * (panels[0][0].get_title("left").count("\n") + 1)
    for first, last, id in zip(panels[0], panels[-1], ids):
        what = f"request {id}\n{asked['input_tokens'][id]:,.0f} tokens in, {asked['output_tokens'][id]:,.0f} out"
        first.annotate(what, (0.5, 1), xycoords="axes fraction", xytext=(0, above), textcoords="offset points", ha="center",
                       va="bottom", fontsize=8)
        first.set_ylim(bottom=0)
        first.set_xlim(left=0)
        first.yaxis.get_major_locator().set_params(integer=True)
        first.yaxis.set_major_formatter(thousands)
        last.set_xlabel("time since sent, s")
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch
    handles = [Line2D([], [], color="black"), Line2D([], [], color="#333333", linestyle="--", linewidth=1.1),
               Patch(**_STALL)]
    figure.legend(handles, ["generated", "read", "reader stalls"], loc="outside upper center", ncols=3, frameon=False)
    return figure


def _read_s(result: Outcome, id: int) -> float:
    """Seconds from sending a request to its last token read."""
    along = result.read_along(id)
    return float(along[0][-1] - result.columns()["sent_s"][id]) if along is not None and len(along[0]) else 0.0


def _requests(results: Results) -> Figure | None:
    return requests_over_time(results) if _timed(results) else None


def requests_over_time(results: Results, new: NewFigure | None = None) -> Figure:
    """A panel per place where they can be. The results need a timeline."""
    figure = new_figure(5.2, results, new)
    panels = figure.subplots(len(WHERE), 1, sharex=True)
    titles = ("queued: no KV anywhere", "running: KV on the GPU", "away: KV on the host or on its way")
    for axes, where, title in zip(panels, WHERE, titles):
        residency(axes, results, where)
        axes.set_title(title, loc="left")
        axes.set_ylabel("requests")
        axes.yaxis.get_major_locator().set_params(integer=True)
    panels[-1].set_xlabel("time, s")
    return legend(figure, results)


def _timed(results: Results) -> Results:
    """All of them, when each has a timeline with something in it; nobody otherwise."""
    return results if all(result.timeline is not None and len(result.timeline.start_s) for result in results.values()) else {}


def _memory(results: Results) -> Figure | None:
    if not (results := _timed(results)) or any(result.summary["block_size"] is None for result in results.values()):
        return None
    figure = new_figure(6.2, results)
    panels = figure.subplots(len(_CARRIED), 1, sharex=True)
    blocks = {label: result.summary["block_size"] * 1e-3 for label, result in results.items()}
    for axes, (column, (title, unit)) in zip(panels, _CARRIED.items()):
        of_link = column.endswith("per_s")
        over_time(axes, results, (column,), dict.fromkeys(results, 1e-9) if of_link else blocks,
                  _RATE_POINTS if of_link else _POINTS)
        axes.set_title(title, loc="left")
        axes.set_ylabel(unit)
        axes.set_ylim(0, max(axes.get_ylim()[1], 1e-3 if of_link else 1.0))
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:,g}")
    pools = {result.summary["kv_tokens"] for result in results.values()} - {None}
    if len(pools) == 1:
        panels[0].axhline(1e-3 * pools.pop(), color="#555555", linewidth=1, linestyle=(0, (2, 2)))
    panels[-1].set_xlabel("time, s")
    return legend(figure, results)


#: panels of `memory`: column of the timeline, title, unit
_CARRIED = {
    "gpu_blocks": ("KV on the GPU", "thousand tokens"),
    "host_blocks": ("KV on the host", "thousand tokens"),
    "h2d_bytes_per_s": ("link, host to GPU", "GB/s"),
    "d2h_bytes_per_s": ("link, GPU to host", "GB/s"),
}

#: of each figure: title, how to read it, and what draws it (None where there is nothing to draw)
DRAWINGS: dict[str, tuple[str, str, Callable[[Results], Figure | None]]] = {
    "ttft": ("Time to first token", (
        "The share of requests that had their first token within so many seconds: further up and left is better, and beyond the "
        "dashed line at 1.3 s people lose interest (TokenFlow, section 2)."), _ttft),
    "rebuffering": ("Rebuffering", (
        "The share of readers who sat before an empty buffer for no longer than that, all their stalls together: a line that "
        "begins at 100 % means that nobody's reading stalled."), _rebuffering),
    "tokens": ("Generated and read", (
        "Tokens generated and tokens read of the same requests under each policy: the gap between the lines is the reader's "
        "buffer, and where it is used up the reader stalls (hatched, unless it is too short to be seen)."), _tokens),
    "requests": ("Requests over time", (
        "Where the requests that are not yet served are: waiting without KV, on the GPU (computing or paused), or away on the "
        "host; the three panels add up to everyone in the system."), _requests),
    "memory": ("Memory and links over time", (
        "KV that the GPU and the host hold (dashed: the GPU's pool), and what the link carries each way, writing in the background "
        "included."), _memory),
    "pareto": ("What a shorter wait costs", (
        "Each policy's P99 time to first token against effective tokens/s, and against mean rebuffering: better is further left, "
        "and up in the first panel, down in the second; dotted: the policies that no other beats in both."), pareto_figure),
}


# ---- details

def _line(axes: Axes, results: Results, label: str, x: Floats, y: Floats, **more: Any) -> None:
    look = styles(results)[label]
    place = list(results).index(label)
    # markers at equal distances on paper, each policy's elsewhere
    axes.plot(x, y, label=label, markevery=(0.02 + 0.03 * (place % 5), 0.17), **look, **more)


def _share(axes: Axes, what: str) -> None:
    axes.set_ylim(-1.5, 102)
    axes.set_yticks([0, 25, 50, 75, 100])
    axes.set_ylabel(what)


def _known(values: Floats) -> Floats:
    return values[~np.isnan(values)]
