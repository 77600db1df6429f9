"""A finished study in Python: tables, and pictures that say what they show."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import sim
from sim.study.plots import pareto_front, titled
from traces import BadInput

pytestmark = pytest.mark.unaudited

REQUESTS: dict[str, Any] = {"num_prompts": 6, "input_len": "normal:60:9", "output_len": "normal:50:9"}
POLICIES = ["sglang", "vllm", "tokenflow[interval_s=0.5]"]
STUDY: dict[str, Any] = {"name": "which <policy>", "base": REQUESTS, "seeds": 3, "axes": {
    "policy": POLICIES, "load": {"even": {"request_rate": 4}, "burst": {"arrival": "burst"}}}}


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> sim.StudyResult:
    return sim.run_study(STUDY, tmp_path_factory.mktemp("study") / "out", jobs=1)


def test_tables(study: sim.StudyResult) -> None:
    assert study.axes == ["policy", "load"]
    assert (len(study.runs), len(study.summary), len(study.failures)) == (18, 6, 0)
    assert list(study.runs.columns[:4]) == ["policy", "load", "seed", "key"]
    means = study.runs.groupby(["policy", "load"])["mean_ttft_ms"].mean()
    for row in study.summary.to_dict("records"):
        assert row["mean_ttft_ms"] == pytest.approx(means[row["policy"], row["load"]])
    assert {"p99_ttft_ms", "mean_rebuffer_s", "effective_throughput", "preemptions"} <= set(study.metrics)
    assert not {"seed", "kv_tokens", "consume_rate"} & set(study.metrics), "what was run is no metric"
    assert set(study.curves) == set(study.runs["key"])
    assert "6 combinations, 18 runs" in repr(study)
    again = sim.load_study(study.directory)
    assert again.summary.equals(study.summary)
    mine = study.to_pandas()
    mine.loc[0, "seed"] = 99
    assert 99 not in set(study.runs["seed"])


def test_in_a_notebook(study: sim.StudyResult) -> None:
    page = study._repr_html_()
    assert "which &lt;policy&gt;" in page
    assert page.count("<tr>") == 7
    assert "TTFT P99, s" in page
    assert "±" in page


def test_pareto(study: sim.StudyResult) -> None:
    axes = study.plot_pareto()
    assert axes.get_xlabel().startswith("TTFT P99, s")
    assert "lower is better" in axes.get_xlabel()
    assert "effective tokens/s" in axes.get_ylabel()
    assert "higher is better" in axes.get_ylabel()
    handles, labels = axes.get_legend_handles_labels()
    assert set(POLICIES) <= set(labels)
    markers = {handle[0].get_marker() for handle, label in zip(handles, labels) if label in POLICIES}
    assert len(markers) == 3, "told apart without colour"
    rows = study.summary[study.summary["policy"] == "vllm"]
    shown = next(handle for handle, label in zip(handles, labels) if label == "vllm")[0]
    assert np.allclose(shown.get_xdata(), rows["p99_ttft_ms"] / 1000)
    assert np.allclose(shown.get_ydata(), rows["effective_throughput"])


def test_bars(study: sim.StudyResult) -> None:
    axes = study.plot_metric("output_throughput")
    assert axes.get_xlabel().startswith("output tokens/s")
    assert [text.get_text() for text in axes.get_yticklabels()] == ["even", "burst"]
    bars = axes.patches
    assert len(bars) == 6
    assert len({bar.get_hatch() for bar in bars}) == 3
    assert sorted(bar.get_width() for bar in bars) == pytest.approx(sorted(study.summary["output_throughput"]))


def test_lines_over_an_axis_of_numbers(tmp_path: Path) -> None:
    study = sim.run_study({"base": REQUESTS | {"policy": "tokenflow"}, "axes": {"hardware": ["rtx4090", "h200"], "link": [2, 4, 8]},
                           "seeds": 2}, tmp_path / "out", jobs=1)
    axes = study.plot_metric("mean_ttft_ms")
    assert axes.get_xlabel() == "link, GB/s"
    handles, labels = axes.get_legend_handles_labels()
    assert labels == ["rtx4090", "h200"]
    assert list(handles[0][0].get_xdata()) == [2, 4, 8]


def test_what_cannot_be_shown(study: sim.StudyResult, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="did you mean 'p99_ttft_ms'"):
        study.plot_metric("p99_tft_ms")
    with pytest.raises(BadInput, match="holds no finished study"):
        sim.load_study(tmp_path)


def test_titles_are_those_of_the_table() -> None:
    assert titled("p90_ttft_ms") == ("TTFT P90, s", 1e-3)
    assert titled("stalled_share") == ("readers that stalled, %", 100)
    assert titled("late_chunks") == ("late chunks", 1.0)


def test_the_front() -> None:
    x, y = [1.0, 2.0, 3.0, 2.0], [5.0, 9.0, 8.0, 7.0]
    assert pareto_front(x, y, more_x=False, more_y=True) == [0, 1]
    assert pareto_front(x, y, more_x=True, more_y=True) == [2, 1]
    assert pareto_front(x, y, more_x=False, more_y=False) == [0]
