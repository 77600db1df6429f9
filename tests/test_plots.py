"""Plots: what they show is what the results say, and drawing leaves the caller's matplotlib as it was."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
from itertools import pairwise
from typing import Any

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure

from sim import BadInput, Result, simulate
from sim.plot_style import styles
from sim.plots import DRAWINGS, chosen_requests, draw, rebuffer_cdf, residency, token_timelines, ttft_cdf
from traces import generate, make_trace

pytestmark = pytest.mark.unaudited


@pytest.fixture(scope="module")
def results() -> dict[str, Result]:
    trace = generate(30, input_len="normal:300:50", output_len="normal:400:80", seed=1)
    return {name: simulate(name, trace, kv_tokens=6_000, timeline=True) for name in ("vllm", "sglang", "tokenflow")}


def lines(axes: Any) -> dict[str, tuple[Any, Any]]:
    return {line.get_label(): line.get_data() for line in axes.get_lines()}


def test_the_share_of_requests_that_have_their_first_token(results: dict[str, Result]) -> None:
    axes = Figure().add_subplot()
    ttft_cdf(axes, results)
    for label, result in results.items():
        x, y = lines(axes)[label]
        for seconds in (0.5, 2.0, 10.0):
            shown = y[np.searchsorted(x, seconds, side="right") - 1]
            assert shown == pytest.approx(100 * np.mean(result.metrics.ttft_s <= seconds))
    assert "s" in axes.get_xlabel()
    assert "%" in axes.get_ylabel()


def test_who_got_nothing_counts_as_still_waiting() -> None:
    stopped = simulate("sglang", generate(30, input_len=300, output_len=400, seed=1), kv_tokens=3_000, until_s=2.0)
    axes = Figure().add_subplot()
    ttft_cdf(axes, {"sglang": stopped})
    assert 0 < max(lines(axes)["sglang"][1]) < 100
    assert max(lines(axes)["sglang"][1]) == pytest.approx(100 * np.mean(~np.isnan(stopped.metrics.ttft_s)))


def test_the_share_of_readers_by_time_stalled(results: dict[str, Result]) -> None:
    axes = Figure().add_subplot()
    rebuffer_cdf(axes, results)
    for label, result in results.items():
        x, y = lines(axes)[label]
        stalled_s = result.metrics.reading.rebuffer_s
        assert x[0] == 0
        assert y[0] == pytest.approx(100 * np.mean(stalled_s <= 1e-9))
        assert y[-1] == pytest.approx(100)
        assert x[-1] >= np.nanmax(stalled_s)


def test_a_timeline_shows_tokens_generated_and_read(results: dict[str, Result]) -> None:
    id = chosen_requests(results)[0]
    axes = Figure().add_subplot()
    token_timelines(axes, results["vllm"], id)
    generated, read = lines(axes)["generated"], lines(axes)["read"]
    times, (taken_s, stalls) = results["vllm"].token_times_s(id), results["vllm"].read_along(id)
    for (x, y), when in ((generated, times), (read, taken_s)):
        assert x[1:] == pytest.approx(when - results["vllm"].records.sent_s[id])
        assert y.tolist() == list(range(len(times) + 1))
    assert len(axes.patches) + sum(len(c.get_paths()) for c in axes.collections) >= len(stalls)


def test_requests_are_chosen_alike_and_sensibly(results: dict[str, Result]) -> None:
    chosen = chosen_requests(results)
    assert chosen == [15, 29], "by arrival the one in the middle, and the last"
    lone = simulate("vllm", make_trace([0.0], 20, 5))
    assert chosen_requests({"vllm": lone}) == [0]
    unread = simulate("vllm", make_trace([0.0, 1.0, 2.0], 20, 5, reader=[True, False, False]))
    assert chosen_requests({"vllm": unread}) == [0], "only whom someone reads"


def test_residency_over_time(results: dict[str, Result]) -> None:
    figure = Figure()
    for axes, where in zip(figure.subplots(3), ("queued", "on the GPU", "away")):
        residency(axes, results, where)
        assert set(lines(axes)) == set(results)
    told = results["vllm"].timeline.columns()
    x, y = lines(figure.axes[1])["vllm"]
    assert np.interp(2.0, x, y) == pytest.approx(np.interp(2.0, told["start_s"], told["running"] + told["paused"]), rel=0.2)
    with pytest.raises(BadInput, match=r"timeline: plain: was not recorded"):
        residency(Figure().add_subplot(), {"plain": simulate("vllm", make_trace([0.0], 20, 5))}, "queued")


def test_one_policy_looks_the_same_everywhere_and_each_differs_without_colour() -> None:
    labels = [f"policy {i}" for i in range(20)]
    looks = styles(labels)
    assert list(looks) == labels
    assert len({(look["linestyle"], look["marker"]) for look in looks.values()}) == 20
    assert styles(labels[:3]) == {label: looks[label] for label in labels[:3]}


def png_size(data: bytes) -> tuple[int, int]:
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", data[16:24])
    return width, height


def test_every_figure_is_a_picture_with_something_in_it(results: dict[str, Result]) -> None:
    drawn = draw(results)
    assert [drawing.name for drawing in drawn] == list(DRAWINGS)
    assert list(DRAWINGS) == ["ttft", "rebuffering", "tokens", "requests", "memory", "pareto"]
    for drawing in drawn:
        width, height = png_size(drawing.png)
        assert width >= 800
        assert height >= 600
        pixels = matplotlib.image.imread(io.BytesIO(drawing.png))
        colours = np.unique((pixels[..., :3] * 255).astype(int).reshape(-1, 3), axis=0)
        assert len(colours) > 50
        assert (pixels[..., :3] < 0.9).any(axis=2).mean() > 0.01
        border = np.concatenate((pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]))[:, :3]
        assert (border == 1).all(), f"{drawing.name}: something is cut off at the edge"
        assert drawing.caption.endswith(".")


def test_the_same_results_give_the_same_bytes(results: dict[str, Result]) -> None:
    assert [d.png for d in draw(results)] == [d.png for d in draw(results)]


def test_a_single_policy_and_requests_without_readers_can_be_drawn() -> None:
    for trace in (make_trace([0.0], 20, 1), make_trace([0.0, 1.0], 20, 5, reader=[False, False])):
        assert len(draw({"vllm": simulate("vllm", trace, timeline=True)})) >= 2


def test_counts_have_whole_ticks() -> None:
    """Of requests and of tokens, however few."""
    short = {"vllm": simulate("vllm", make_trace([0.0, 0.05], 20, 3), timeline=True)}
    for name in ("tokens", "requests"):
        _, _, drawn = DRAWINGS[name]
        figure = drawn(short)
        assert figure is not None
        figure.canvas.draw()
        for axes in figure.axes:
            low, high = axes.get_ylim()
            ticks = [tick for tick in axes.get_yticks() if low <= tick <= high]
            assert len(ticks) >= 2, name
            assert all(tick == int(tick) for tick in ticks), (name, ticks)


def hatched(axes: Any) -> list[tuple[float, float]]:
    boxes = [path.get_extents() for collection in axes.collections for path in collection.get_paths()]
    return [(float(box.x0), float(box.x1)) for box in boxes]


def test_stalls_too_short_to_be_seen_are_left_out(results: dict[str, Result]) -> None:
    """Those that follow each other within a pixel are one."""
    result = results["vllm"]
    id = int(np.argmax(result.metrics.reading.rebuffers))
    stalls = result.read_along(id)[1] - result.records.sent_s[id]
    assert len(stalls) > 1
    lasts, gaps = stalls[:, 1] - stalls[:, 0], stalls[1:, 0] - stalls[:-1, 1]
    plain, cut, bridged = (Figure().add_subplot() for _ in range(3))
    token_timelines(plain, result, id)
    assert hatched(plain) == pytest.approx([pytest.approx(stall) for stall in stalls.tolist()])
    least_s = (min(lasts) + max(lasts)) / 2
    token_timelines(cut, result, id, least_s=least_s)
    assert 0 < len(hatched(cut)) < len(stalls)
    assert all(end - start >= least_s for start, end in hatched(cut))
    token_timelines(bridged, result, id, least_s=float(max(gaps)) + 1e-6)
    assert hatched(bridged) in ([], [pytest.approx((stalls[0, 0], stalls[-1, 1]))])


def test_lines_that_lie_on_each_other_are_both_seen() -> None:
    """Each is narrower than those before it, and drawn above them."""
    widths = [look["linewidth"] for look in styles("abcdefgh").values()]
    assert all(later < earlier for earlier, later in pairwise(widths))
    assert widths[-1] >= 0.8
    axes = Figure().add_subplot()
    same = simulate("vllm", make_trace([0.0, 0.1], 20, 5))
    ttft_cdf(axes, {"one": same, "other": same})
    one, other = axes.get_lines()[:2]
    assert (one.get_zorder(), axes.get_lines().index(one)) < (other.get_zorder(), axes.get_lines().index(other))
    assert one.get_linewidth() >= 1.2 * other.get_linewidth()


def test_stopped_before_anyone_came_there_is_nothing_to_draw() -> None:
    stopped = simulate("vllm", make_trace([10.0], 20, 5), timeline=True, until_s=5.0)
    assert draw({"vllm": stopped}) == []
    residency(Figure().add_subplot(), {"vllm": stopped}, "queued")


def test_long_and_odd_labels_are_not_markup() -> None:
    trace = make_trace([0.0, 0.1], 20, 30)
    label = r"my_policy.py:Shortest_First[most=16,cost=$x^2$\frac,name='a<b>&c']"
    assert len(draw({label: simulate("vllm", trace, timeline=True)})) == 5


def test_the_callers_matplotlib_stays_as_it_was() -> None:
    script = """
import sys, matplotlib
matplotlib.rcParams["lines.linewidth"], matplotlib.rcParams["text.usetex"] = 7, True
names = [name for name in matplotlib.rcParams if name != "backend"]      # whose value cannot be read without choosing one
before = [matplotlib.rcParams[name] for name in names]
from sim import simulate
from sim.plots import draw
from traces import make_trace
draw({"vllm": simulate("vllm", make_trace([0.0, 0.1], 20, 5), timeline=True)})
assert [matplotlib.rcParams[name] for name in names] == before
print("matplotlib.pyplot" in sys.modules)
"""
    ran = subprocess.run([sys.executable, "-W", "ignore", "-c", script], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.strip() == "False"
