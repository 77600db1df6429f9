"""How results look in a notebook: tables, pandas, pictures; of one result and of several side by side."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from html import unescape
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from policies import TokenFlow
from sim import BadInput, Comparison, Result, compare, simulate
from sim.cli_tables import sections
from sim.winner import verdict
from traces import generate

pytestmark = pytest.mark.unaudited

POLICIES = ["vllm", "sglang", "tokenflow[interval_s=0.5]"]


@pytest.fixture(scope="module")
def both() -> Comparison:
    return compare(POLICIES, generate(30, input_len="normal:300:50", output_len="normal:400:80", seed=1), kv_tokens=6_000,
                   timeline=True, seed=1)


@pytest.fixture
def pyplot() -> Iterator[Any]:
    import matplotlib.pyplot as plt
    plt.switch_backend("agg")
    plt.close("all")
    yield plt
    plt.close("all")


def words(html: str) -> str:
    return re.sub(r"\s+", " ", unescape(re.sub(r"<[^>]+>", " ", html)))


# ---- several side by side

def test_a_comparison_is_a_mapping_of_results_by_label(both: Comparison) -> None:
    assert isinstance(both, Mapping)
    assert list(both) == POLICIES
    assert len(both) == 3
    assert all(isinstance(result, Result) and result.label == label for label, result in both.items())
    assert both["tokenflow[interval_s=0.5]"].policy == TokenFlow(interval_s=0.5)


def test_each_result_is_that_of_simulate(both: Comparison) -> None:
    trace = both["vllm"].trace
    alone = simulate("vllm", trace, kv_tokens=6_000, timeline=True, seed=1)
    assert both["vllm"].summary == alone.summary


def test_policies_come_as_names_objects_a_mapping_or_as_on_the_command_line() -> None:
    trace = generate(3, input_len=50, output_len=20, seed=1)
    assert list(compare("vllm, tokenflow[interval_s=0.5,gamma=10]", trace)) == ["vllm", "tokenflow[interval_s=0.5,gamma=10]"]
    assert list(compare([TokenFlow(), TokenFlow(gamma=7.0)], trace)) == ["tokenflow", "TokenFlow[gamma=7.0]"]
    named = compare({"stock": "vllm", "mine": TokenFlow(gamma=7.0)}, trace)
    assert list(named) == ["stock", "mine"]
    assert named["mine"].summary["policy"] == "mine"


@pytest.mark.parametrize(("policies", "more", "says"), [
    ([], {}, "policies: []: is empty"),
    ("", {}, "must be NAME"),
    (["vllm", "vllm"], {}, "policies: vllm: is given twice"),
    ([TokenFlow(), "tokenflow"], {}, "policies: tokenflow: is given twice"),
    (["vlm"], {}, "unknown; known are"),
    ([TokenFlow], {}, "must be a name or an object"),
    (7, {}, "policies: 7: must be"),
    (TokenFlow(), {}, "must be several"),
    (["vllm"], {"label": "mine"}, "label: mine: "),
    (["vllm"], {"links": 3}, "machine options: links: unknown"),
])
def test_bad_input_is_one_line(policies: Any, more: dict[str, Any], says: str) -> None:
    with pytest.raises(BadInput) as error:
        compare(policies, generate(3, input_len=50, output_len=20, seed=1), **more)
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_a_wrong_policy_is_found_before_anything_is_simulated() -> None:
    begun: list[int] = []
    with pytest.raises(BadInput, match="unknown"):
        compare(["vllm", "nobody"], generate(3, input_len=50, output_len=20, seed=1), progress=lambda *_: begun.append(1))
    assert not begun


def test_its_table_is_that_of_the_command_line(both: Comparison) -> None:
    shown = words(both._repr_html_())
    for section in sections({label: result.summary for label, result in both.items()}):
        for title, cells in section:
            assert " ".join([title.strip(), *(text for cell in cells for text in cell if text)]) in shown, title
    assert "x1.00" in shown or re.search(r"x\d", shown)
    assert "tokenflow [interval_s=0.5]" in shown


def test_html_is_safe_whatever_a_policy_is_called() -> None:
    made = compare({"<script>x</script>": "vllm"}, generate(3, input_len=50, output_len=20, seed=1))
    assert "<script" not in made._repr_html_()
    assert "<script" not in made["<script>x</script>"]._repr_html_()


def test_the_winner_is_that_of_the_rule(both: Comparison) -> None:
    found = verdict({label: result.summary for label, result in both.items()})
    assert found is not None
    assert both.winner == found.winner
    assert both.verdict == found
    assert str(found).split("\n")[0] in words(both._repr_html_())


def test_without_a_baseline_nobody_wins() -> None:
    alone = compare(["sglang", "tokenflow"], generate(3, input_len=50, output_len=20, seed=1))
    assert alone.winner is None
    assert alone.verdict is None


def test_as_pandas_it_has_a_row_per_policy(both: Comparison) -> None:
    table = both.to_pandas()
    assert list(table.index) == POLICIES
    assert table.index.name == "policy"
    for label, result in both.items():
        assert table.loc[label, "p99_ttft_ms"] == result.summary["p99_ttft_ms"]
        assert table.loc[label, "policy_args"] == result.summary["policy_args"]
    assert table["mean_rebuffer_s"].dtype == np.float64


def test_it_is_kept_as_compare_keeps_it(both: Comparison, tmp_path: Path) -> None:
    kept = both.save(tmp_path / "out")
    assert {path.name for path in kept.iterdir()} >= {"compare.json", "compare.csv", "host.json", "vllm", "sglang"}
    assert len(pd.read_csv(kept / "vllm" / "requests.csv")) == 30


# ---- one result

def test_a_result_as_pandas_has_a_row_per_request(both: Comparison) -> None:
    result = both["sglang"]
    table = result.to_pandas()
    pd.testing.assert_frame_equal(table, result.requests)
    table["ttft_s"] = 0.0
    assert result.requests["ttft_s"].sum() > 0, "the caller's table is the caller's"


def test_a_result_as_a_table(both: Comparison) -> None:
    result = both["sglang"]
    shown = words(result._repr_html_())
    assert "sglang" in shown
    for section in sections({"sglang": result.summary}):
        for title, ((value,),) in section:
            assert f"{title.strip()} {value}" in shown
    assert not re.search(r"x\d+\.\d", shown), "there is nothing to hold it against"


def test_as_text_a_result_is_a_line(both: Comparison) -> None:
    for shown in (both["sglang"], both):
        assert "\n" not in repr(shown)
        assert len(repr(shown)) < 200
        assert "sglang" in repr(shown)
    assert "30 requests" in repr(both["sglang"])


def test_nothing_to_show_is_shown_as_well() -> None:
    """Stopped before anyone got a token."""
    result = simulate("vllm", generate(3, input_len=50, output_len=20, seed=1), until_s=1e-3)
    assert "requests completed 0" in words(result._repr_html_())
    assert repr(result)


# ---- pictures

@pytest.mark.parametrize("method", ["plot_ttft", "plot_rebuffering"])
def test_plots_draw_on_the_axes_they_are_given(both: Comparison, method: str) -> None:
    for shown, labels in ((both, POLICIES), (both["sglang"], ["sglang"])):
        axes = Figure().add_subplot()
        assert getattr(shown, method)(ax=axes) is axes
        assert [line.get_label() for line in axes.get_lines() if line.get_label() in POLICIES] == labels
        assert [text.get_text() for text in axes.get_legend().get_texts()] == labels
        assert ", s" in axes.get_xlabel()
        assert "%" in axes.get_ylabel()


@pytest.mark.parametrize("method", ["plot_ttft", "plot_rebuffering"])
def test_plots_make_a_figure_of_pyplot_otherwise(both: Comparison, method: str, pyplot: Any) -> None:
    """Which is what notebooks show."""
    axes = getattr(both, method)()
    assert pyplot.get_fignums() == [axes.figure.number]
    assert [text.get_text() for text in axes.figure.legends[0].get_texts()] == POLICIES


def test_tokens_of_chosen_requests(both: Comparison, pyplot: Any) -> None:
    axes = both.plot_tokens([3, 17])
    assert axes.shape == (3, 2)
    for row, (label, result) in zip(axes, both.items()):
        for ax, id in zip(row, (3, 17)):
            x, y = ax.get_lines()[0].get_data()
            assert y[-1] == result.records.tokens[id], label
            assert x[-1] == pytest.approx(result.token_times_s(id)[-1] - result.records.sent_s[id])
    assert both["vllm"].plot_tokens(5).shape == both["vllm"].plot_tokens(np.int64(5)).shape == (1, 1)
    assert both["vllm"].plot_tokens().shape == (1, 2), "one in the middle and the last"
    assert len(pyplot.get_fignums()) == 4


def test_over_time_a_panel_per_place(both: Comparison, pyplot: Any) -> None:
    axes = both["sglang"].plot_timeline()
    assert axes.shape == (3,)
    assert "time, s" in axes[-1].get_xlabel()
    assert all(ax.get_ylabel() == "requests" for ax in axes)
    assert all(len(ax.get_lines()) == 3 for ax in both.plot_timeline())


def test_what_cannot_be_drawn_is_said_in_a_line(both: Comparison, pyplot: Any) -> None:
    with pytest.raises(BadInput, match="the trace has requests 0 to 29"):
        both.plot_tokens([30])
    with pytest.raises(BadInput, match="name at least one"):
        both.plot_tokens([])
    untimed = simulate("vllm", generate(3, input_len=50, output_len=20, seed=1))
    with pytest.raises(BadInput, match="timeline=True"):
        untimed.plot_timeline()
    assert not pyplot.get_fignums(), "no empty figure is left behind"


def test_drawing_leaves_the_settings_as_they_were(both: Comparison, pyplot: Any) -> None:
    before = dict(matplotlib.rcParams)
    pyplot.rcParams["figure.dpi"] = 123
    try:
        assert both.plot_ttft().figure.dpi == 123, "the user's settings rule"
    finally:
        pyplot.rcParams["figure.dpi"] = before["figure.dpi"]
    both.plot_tokens()
    assert dict(matplotlib.rcParams) == before


def test_nothing_heavy_is_imported_before_it_is_needed() -> None:
    script = """
import sys
from sim import compare
from traces import make_trace
found = compare(["vllm", "tokenflow"], make_trace([0.0, 0.1], 20, 5))
found.winner, repr(found), len(found)
print(sorted({"pandas", "matplotlib", "scipy", "typer", "rich"} & set(sys.modules)))
"""
    ran = subprocess.run([sys.executable, "-c", script], cwd=Path(__file__).parents[1], capture_output=True, text=True)
    assert ran.stdout.strip() == "[]", ran.stderr
