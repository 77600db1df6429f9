"""Results as pictures. Functions that take an Axes draw on it and nowhere else; `draw` gives finished PNGs.

    from matplotlib.figure import Figure
    figure = Figure()
    ttft_cdf(figure.subplots(), {"sglang": one, "tokenflow": other})

A policy has the same colour, line and marker in every figure: that of its place among the results.
"""

from __future__ import annotations

import io
import logging
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from textwrap import wrap
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from policies.api import Floats
from traces import BadInput

from .metrics import PATIENCE_S
from .records import Fate
from .result import Result
from .timeline import Timeline

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Results = Mapping[str, Result]
NewFigure = Callable[..., "Figure"]

# Okabe and Ito's colours, told apart by colour-blind readers as well, but for the yellow
_COLOURS = ("#0072B2", "#56B4E9", "#009E73", "#D55E00", "#CC79A7", "#E69F00", "#000000", "#808080")
_LINES, _MARKERS = ("-", "--", ":", "-."), ("o", "s", "^", "D", "v", "P", "X")

_WIDTH_IN, _DPI = 5.0, 200      # narrow: letters stay readable when a phone shows the whole width
_LOOK = {"font.size": 9, "axes.titlesize": 9, "axes.labelsize": 9, "legend.fontsize": 8, "xtick.labelsize": 8, "ytick.labelsize": 8,
         "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.color": "#dddddd", "grid.linewidth": 0.6,
         "axes.axisbelow": True, "lines.linewidth": 1.5, "lines.markersize": 4, "hatch.linewidth": 0.5,
         "figure.constrained_layout.use": True}

_STALL: dict[str, Any] = {"facecolor": "#f7d9d0", "edgecolor": "#8c2d04", "linewidth": 0.3, "hatch": "////"}

#: what `residency` shows, by columns of the timeline
WHERE = {"queued": ("queued",), "on the GPU": ("running", "paused"), "away": ("on_host", "loading", "evicting")}
_POINTS = 256       # of a line over time
_PANELS_PX = 400    # width of a row of panels, without labels, where a report shows it


@dataclass(frozen=True)
class Drawing:
    """A finished figure."""

    name: str       #: of its file
    title: str
    caption: str    #: one sentence on how to read it
    png: bytes


def styles(labels: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Colour, line and marker of each policy; no two of the first 28 share line and marker.

    Each line is narrower than the one before it, so that both are seen where one lies on the other.
    """
    def nth(looks: tuple[str, ...], i: int) -> str:
        return looks[i % len(looks)]
    return {label: {"color": nth(_COLOURS, i), "linestyle": nth(_LINES, i), "marker": nth(_MARKERS, i),
                    "linewidth": max(3.2 * 0.82**i, 0.8)}
            for i, label in enumerate(labels)}


# ---- on an Axes of the caller

def ttft_cdf(axes: Axes, results: Results) -> None:
    """Share of requests that had their first token after so long; who never got one counts as still waiting."""
    first_s, last_s = 1.0, PATIENCE_S
    for label, result in results.items():
        ttft_s = result.metrics.ttft_s
        waited_s = np.sort(ttft_s[~np.isnan(ttft_s)])
        asked = int(np.count_nonzero(result.records.fate != Fate.REJECTED))
        share = 100 * np.arange(len(waited_s) + 1) / asked
        before_s = min(1e-3, float(waited_s[0]) / 2) if len(waited_s) else 1e-3
        _line(axes, results, label, np.append(before_s, waited_s), share, drawstyle="steps-post")
        if len(waited_s):
            first_s, last_s = min(first_s, float(waited_s[0])), max(last_s, float(waited_s[-1]))
    axes.set_xscale("log")
    axes.set_xlim(first_s / 1.3, last_s * 1.3)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.axvline(PATIENCE_S, color="#555555", linewidth=1, linestyle=(0, (2, 2)))
    axes.annotate(f"{PATIENCE_S:g} s", (PATIENCE_S, 1), xycoords=("data", "axes fraction"), xytext=(0, 2),
                  textcoords="offset points", ha="center", va="bottom", fontsize=8, color="#555555")
    axes.set_xlabel("time to first token, s (log scale)")
    _share(axes, "requests, %")


def rebuffer_cdf(axes: Axes, results: Results) -> None:
    """Share of readers whose buffer was empty for so long in all, between their first token and the last."""
    stalled = {label: np.sort(_known(result.metrics.reading.rebuffer_s)) for label, result in results.items()}
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


def token_timelines(axes: Axes, result: Result, id: int, colour: str = _COLOURS[0], least_s: float = 0.0) -> None:
    """Tokens of one request that are generated, and read, over time since it was sent; its reader's stalls are hatched.

    Stalls less than `least_s` apart are one; what is shorter than that then is left out.
    """
    sent_s, times_s = result.records.sent_s[id], result.token_times_s(id)
    taken_s, stalls = result.read_along(id)
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
    for label, result in results.items():
        told = check_timeline(label, result).columns()
        count: Floats = np.sum([told[column] for column in WHERE[where]], axis=0)
        start_s, end_s = told["start_s"], told["end_s"]
        if not len(count):      # stopped before anyone came
            continue
        first = np.arange(0, len(count), -(-len(count) // _POINTS))
        spans = np.add.reduceat(end_s - start_s, first)
        mean = np.add.reduceat(count * (end_s - start_s), first) / spans
        _line(axes, results, label, start_s[first] + spans / 2, mean, clip_on=False)     # of a line at 0 half would be cut off
    axes.set_ylim(0, max(axes.get_ylim()[1], 1.0))
    axes.margins(x=0.02)


def check_timeline(label: str, result: Result) -> Timeline:
    """Its timeline; BadInput when it has none."""
    if result.timeline is None:
        raise BadInput("timeline", label, "was not recorded: simulate(..., timeline=True)")
    return result.timeline


# ---- as pyplot's figures, which notebooks show; the caller's settings rule, but for our look

def shown(plot: Callable[[Axes, Results], None], results: Results, axes: Axes | None) -> Axes:
    """On the caller's axes, or on those of a new figure."""
    if axes is None:
        drawn: Axes = shown_figure(_one(plot), results)[0]
        return drawn
    plot(axes, results)
    for text in axes.legend().get_texts():
        text.set_parse_math(False)
    return axes


def shown_figure(figure: Callable[..., Figure], results: Results, *more: Any) -> npt.NDArray[np.object_]:
    """All axes of a new figure."""
    import matplotlib
    import matplotlib.pyplot as plt
    plt.draw_if_interactive()       # loads the backend: what it sets, as notebooks' does, must not end with the context
    with matplotlib.rc_context(_LOOK):
        return np.array(figure(results, *more, new=plt.figure).axes)


# ---- whole figures; `new` makes an empty one

def chosen_requests(results: Results) -> list[int]:
    """By order of arrival the one in the middle, and the last, of those whom someone reads and every policy served in full."""
    traces = [result.trace for result in results.values()]
    served = np.all([result.records.fate == Fate.COMPLETED for result in results.values()], axis=0)
    ids = (traces[0].reader & served).nonzero()[0]
    if not len(ids):
        ids = traces[0].reader.nonzero()[0]
    return sorted({int(ids[len(ids) // 2]), int(ids[-1])}) if len(ids) else []


def draw(results: Results) -> list[Drawing]:
    """Every figure that the results have something for. The caller's matplotlib settings neither matter nor change."""
    with own_look():
        made = [(name, title, caption, figure(results)) for name, (title, caption, figure) in DRAWINGS.items()]
        return [Drawing(name, title, caption, as_png(figure)) for name, title, caption, figure in made if figure is not None]


def _one(plot: Callable[[Axes, Results], None]) -> Callable[..., Figure]:
    def figure(results: Results, new: NewFigure | None = None) -> Figure:
        made = _figure(3.4, results, new)
        plot(made.subplots(), results)
        return _legend(made, results)
    return figure


def _ttft(results: Results) -> Figure | None:
    served = any(len(_known(result.metrics.ttft_s)) for result in results.values())
    return _one(ttft_cdf)(results) if served else None


def _rebuffering(results: Results) -> Figure | None:
    read = any(len(_known(result.metrics.reading.rebuffer_s)) for result in results.values())
    return _one(rebuffer_cdf)(results) if read else None


def _tokens(results: Results) -> Figure | None:
    ids = chosen_requests(results)
    return tokens(results, ids) if any(result.records.tokens[id] for result in results.values() for id in ids) else None


def tokens(results: Results, ids: Sequence[int], new: NewFigure | None = None) -> Figure:
    """A row per policy, a panel per request."""
    figure = _figure(1.15 * len(results) + 0.6, results, new, max(_WIDTH_IN, 1.7 * len(ids)))
    panels = figure.subplots(len(results), len(ids), sharex="col", sharey="col", squeeze=False)
    trace = next(iter(results.values())).trace
    pixel_s = [len(ids) / _PANELS_PX * max(_read_s(result, id) for result in results.values()) for id in ids]
    for row, (label, look) in zip(panels, styles(results).items()):
        for axes, id, least_s in zip(row, ids, pixel_s):
            token_timelines(axes, results[label], id, look["color"], least_s)
        row[0].set_title(_wrapped(label, 55), loc="left", fontweight="bold", parse_math=False)
        row[0].set_ylabel("tokens")
    above = 6 + 12 * (panels[0][0].get_title("left").count("\n") + 1)
    for first, last, id in zip(panels[0], panels[-1], ids):
        what = f"request {id}\n{trace.input_tokens[id]:,} tokens in, {trace.output_tokens[id]:,} out"
        first.annotate(what, (0.5, 1), xycoords="axes fraction", xytext=(0, above), textcoords="offset points", ha="center",
                       va="bottom", fontsize=8)
        first.set_ylim(bottom=0)
        first.set_xlim(left=0)
        first.yaxis.get_major_locator().set_params(integer=True)
        first.yaxis.set_major_formatter(_thousands)
        last.set_xlabel("time since sent, s")
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch
    handles = [Line2D([], [], color="black"), Line2D([], [], color="#333333", linestyle="--", linewidth=1.1),
               Patch(**_STALL)]
    figure.legend(handles, ["generated", "read", "reader stalls"], loc="outside upper center", ncols=3, frameon=False)
    return figure


def _read_s(result: Result, id: int) -> float:
    """Seconds from sending a request to its last token read."""
    taken_s, _ = result.read_along(id)
    return float(taken_s[-1] - result.records.sent_s[id]) if len(taken_s) else 0.0


def _requests(results: Results) -> Figure | None:
    if not all(result.timeline is not None and len(result.timeline.start_s) for result in results.values()):
        return None
    return requests_over_time(results)


def requests_over_time(results: Results, new: NewFigure | None = None) -> Figure:
    """A panel per place where they can be. The results need a timeline."""
    figure = _figure(5.2, results, new)
    panels = figure.subplots(len(WHERE), 1, sharex=True)
    titles = ("queued: no KV anywhere", "running: KV on the GPU", "away: KV on the host or on its way")
    for axes, where, title in zip(panels, WHERE, titles):
        residency(axes, results, where)
        axes.set_title(title, loc="left")
        axes.set_ylabel("requests")
        axes.yaxis.get_major_locator().set_params(integer=True)
    panels[-1].set_xlabel("time, s")
    return _legend(figure, results)


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


def _thousands(value: float, _: int) -> str:
    return f"{value:,.0f}"


def _known(values: Floats) -> Floats:
    return values[~np.isnan(values)]


def _figure(height_in: float, results: Results, new: NewFigure | None, width_in: float = _WIDTH_IN) -> Figure:
    from matplotlib.figure import Figure
    rows = sum(_wrapped(label).count("\n") + 1 for label in results) / _columns(results)
    size = width_in, height_in + 0.15 * rows
    return Figure(size, dpi=_DPI) if new is None else new(figsize=size)


def _columns(results: Results) -> int:
    longest = max(len(line) for label in results for line in _wrapped(label).split("\n"))
    return min(len(results), 3 if longest <= 16 else 2 if longest <= 30 else 1)


def _legend(figure: Figure, results: Results) -> Figure:
    """Above everything, outside the data."""
    from matplotlib.lines import Line2D
    handles = [Line2D([], [], **look) for look in styles(results).values()]
    legend = figure.legend(handles, [_wrapped(label) for label in results], loc="outside upper center", ncols=_columns(results),
                           frameon=False, handlelength=3.5)
    for text in legend.get_texts():
        text.set_parse_math(False)
    return figure


def _wrapped(label: str, width: int = 40) -> str:
    """In lines, which end with an argument where they can."""
    lines = [""]
    for part in re.split(r"(?<=[\[, ])", label):
        if lines[-1] and len(lines[-1]) + len(part) > width:
            lines.append("")
        head, *tail = wrap(lines[-1] + part, width, drop_whitespace=False) or [""]
        lines[-1:] = [head, *tail]
    return "\n".join(lines) or " "


def as_png(figure: Figure, dpi: float | str = "figure") -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    return buffer.getvalue()


@contextmanager
def own_look() -> Iterator[None]:
    """Matplotlib's defaults and ours, for a while; what it says of caches and fonts is for nobody here."""
    log = logging.getLogger("matplotlib")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        try:
            import matplotlib
        except ValueError as error:
            raise BadInput("MPLBACKEND", os.environ.get("MPLBACKEND", ""), "matplotlib does not know it") from error
        with matplotlib.rc_context():
            matplotlib.rcdefaults()
            matplotlib.rcParams.update(_LOOK)
            yield
    finally:
        log.setLevel(level)
