"""A finished sweep as one page: every combination with its intervals, who wins where, and what failed."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from policies.api import Floats
from traces import BadInput

from . import report_curves
from .counted import counted
from .plot_pareto import AGAINST, TTFT_KEY, Mark, name_axes, pareto
from .plot_style import Drawing, as_png, legend, new_figure, own_look, wrapped
from .report import CAVEATS, SIMULATED, again, bullets, computed, versions
from .report_html import HINT, document, figures, scrolling, terms
from .report_terms import terms_of
from .saved_runs import HOST, read_columns, read_object
from .winner import verdict

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STUDY, RUNS, SUMMARY, FAILURES, STORE = "study.yaml", "runs.csv", "summary.csv", "failures.csv", "runs.jsonl"
PAIRED, _PAIRS = "paired.csv", ("combination", "baseline", "metric", "ratio", "ratio_ci95")     # and its columns

#: of the table: key, title, scale, form
_COLUMNS = (
    ("mean_ttft_ms", "TTFT mean, s", 1e-3, "{:,.2f}"), ("p99_ttft_ms", "TTFT P99, s", 1e-3, "{:,.2f}"),
    ("mean_rebuffer_s", "rebuffering mean, s", 1.0, "{:,.2f}"), ("stalled_share", "readers that stalled, %", 100.0, "{:.1f}"),
    ("effective_throughput", "effective tokens/s", 1.0, "{:,.1f}"), ("output_throughput", "output tokens/s", 1.0, "{:,.1f}"),
    ("mean_qoe", "QoE (Andes)", 1.0, "{:.3f}"), ("request_goodput", "goodput, requests/s", 1.0, "{:,.2f}"),
    ("preemptions", "preemptions", 1.0, "{:,.1f}"),
)
_PANELS = 5         # rows of panels in a figure: what a sheet of paper holds


@dataclass(frozen=True, eq=False)
class Sweep:
    """summary.csv, one row per combination, and what stands around it."""

    folder: Path
    table: Mapping[str, list[str]]
    axes: Sequence[str]                 #: columns that say what a combination is
    keys: Sequence[Sequence[str]]       #: of the runs, by row
    failures: Mapping[str, list[str]]

    def __len__(self) -> int:
        return len(self.table["combination"])

    @property
    def runs(self) -> int:
        return sum(map(len, self.keys))

    def numbers(self, key: str) -> Floats:
        """NaN where a cell is empty, or nobody reported it."""
        cells = self.table.get(key, [""] * len(self))
        try:
            return np.array([float(cell) if cell else np.nan for cell in cells])
        except ValueError as error:
            raise BadInput("result", str(self.folder / SUMMARY), f"column {key}: {error}") from None

    @property
    def _of_policy(self) -> list[str]:
        return [axis for axis in self.axes if axis == "policy" or axis.startswith("policy_arg")]

    def policies(self) -> list[str]:
        """What is compared, by row: the policy with its arguments, where the study has several."""
        return self._joined(self._of_policy) or ["the policy"] * len(self)

    def groups(self) -> list[str]:
        """What it is compared on, by row: all other axes; "" where there are none."""
        return self._joined([axis for axis in self.axes if axis not in self._of_policy]) or [""] * len(self)

    def _joined(self, axes: Sequence[str]) -> list[str]:
        named = [[cell if axis == "policy" else f"{axis.removeprefix('policy_arg.')} {cell}" if _is_number(cell) else cell
                  for cell in self.table[axis]] for axis in axes]
        return [" · ".join(filter(None, cells)) for cells in zip(*named)]


def is_sweep(folder: Path) -> bool:
    return (folder / RUNS).is_file() or (folder / SUMMARY).is_file() or (folder / STORE).is_file()


def read_sweep(folder: Path) -> Sweep:
    """BadInput when it is not finished, or not one of ours."""
    if missing := [name for name in (STUDY, SUMMARY, RUNS) if not (folder / name).is_file()]:
        raise BadInput("report", str(folder), (
            f"holds a sweep without {missing[0]}: it was interrupted; tokenflow sweep with --resume completes it"))
    table, runs = read_columns(folder / SUMMARY), read_columns(folder / RUNS)
    names = list(table)
    if names[0] != "combination" or "runs" not in names or "key" not in runs or (runs["key"] and TTFT_KEY not in names):
        raise BadInput("result", str(folder / SUMMARY), "has other columns than a sweep's: it was written by another version")
    if not table["combination"] and not (folder / FAILURES).is_file():
        raise BadInput("result", str(folder / SUMMARY), "holds no combination")
    failures = read_columns(folder / FAILURES) if (folder / FAILURES).is_file() else {}
    if failures and not {"command", "why"} <= set(failures):
        raise BadInput("result", str(folder / FAILURES), "has other columns than key, command, why")
    axes = names[1 : names.index("runs")]
    if lost := [axis for axis in axes if axis not in runs]:
        raise BadInput("result", str(folder / RUNS), f"has no column {lost[0]}: it was written by another version")
    by_cells: dict[tuple[str, ...], list[str]] = {}
    for key, *cells in zip(runs["key"], *(runs[axis] for axis in axes)):
        by_cells.setdefault(tuple(cells), []).append(key)
    own = zip(*(table[axis] for axis in axes)) if axes else [()] * len(table["combination"])
    return Sweep(folder, table, axes, [by_cells.get(tuple(cells), []) for cells in own], failures)


def page(folder: Path) -> str:
    sweep = read_sweep(folder)
    host = read_object(folder / HOST) if (folder / HOST).is_file() else {}
    study = (folder / STUDY).read_text(encoding="utf-8", errors="replace")
    seeds = sorted({int(runs) for runs in sweep.numbers("runs").tolist() if runs == runs})
    each = f"{seeds[0]} to {counted(seeds[-1], 'seed')}" if len(seeds) > 1 else counted(seeds[-1] if seeds else 0, "seed")
    title = f"{_name(study) or folder.resolve().name}: {counted(len(sweep), 'combination')}, {counted(sweep.runs, 'run')}"
    titles = [title for key, title, *_ in _COLUMNS if key in sweep.table]
    return document(f"TokenFlow Lab: {title}", [
        f"<h1>{escape(title)}</h1>",
        f"<p>Each combination with {each}. Intervals (±) are of 95 %, of the mean over seeds, by Student's t.</p>",
        *([f"<p><strong>{counted(len(sweep.failures['why']), 'run')} failed</strong>, see below.</p>"] if sweep.failures else []),
        "<h2>Results</h2>",
        HINT,
        *_tables(sweep),
        *_paired(sweep),
        *_winners(sweep),
        "<h2>What the columns say</h2>",
        terms([(term.name, term.means) for term in terms_of(titles)]),
        *figures([*draw(sweep), *_curves(sweep)]),
        *_failures(sweep),
        *bullets("Not in these files", [
            "Single requests, and how it went over time: a sweep keeps each run's summary and quantiles. tokenflow run with a "
            "combination's flags and --save-timeline --save-detailed -o DIR keeps all, and tokenflow report DIR shows it."]),
        *bullets("How far to trust this", [SIMULATED, *CAVEATS[:-1], (
            "Intervals say how much seeds matter, nothing of how far the simulator is off; policies see the same requests seed by "
            "seed, so differences between them are known better than each alone.")]),
        "<h2>What was run</h2>",
        f"<pre>{escape(study.strip())}</pre>",
        *again([shlex.join(["tokenflow", "sweep", str(folder / STUDY), "-o", "NEW_DIR"]),
                shlex.join(["tokenflow", "report", str(folder)]), *_commands(sweep)]),
        f'<p class="soft">{escape(computed(host) or versions())}</p>',
    ])


def _name(study: str) -> str:
    """What the study calls itself, if it does; its file is shown as it is, whatever has become of it."""
    import yaml
    try:
        given = yaml.safe_load(study)
    except yaml.YAMLError:
        return ""
    return str(given.get("name") or "") if isinstance(given, Mapping) else ""


def _tables(sweep: Sweep) -> list[str]:
    """One per group, a row per policy: what can be compared stands together."""
    shown = [(key, title, scale, form) for key, title, scale, form in _COLUMNS if not np.isnan(sweep.numbers(key)).all()]
    head = _head([title for _, title, *_ in shown])
    told = [(sweep.numbers(key) * scale, sweep.numbers(f"{key}_ci95") * scale, form) for key, _, scale, form in shown]
    policies, parts = sweep.policies(), []
    for group, rows in _rows_of(sweep).items():
        lines = [f'<tr><th scope="row" colspan="{len(shown) + 1}"><strong>{escape(group)}</strong></th></tr>'] if group else []
        for row in rows:
            cells = "".join(f"<td>{_with_interval(mean[row], half[row], form)}</td>" for mean, half, form in told)
            lines.append(f'<tr><th scope="row">{escape(policies[row])}</th>{cells}</tr>')
        parts.append("\n".join(lines))
    return [scrolling(head, parts)] if parts else []


def _head(titles: Sequence[str]) -> str:
    return "<td></td>" + "".join(f'<th scope="col">{escape(title).replace(" ", "<br>", 1)}</th>' for title in titles)


def _with_interval(mean: float, half: float, form: str) -> str:
    if np.isnan(mean):
        return "-"
    return escape(form.format(mean)) + ("" if np.isnan(half) else f" <small>±{escape(form.format(half))}</small>")


def _rows_of(sweep: Sweep) -> dict[str, list[int]]:
    """Rows by group, in their order."""
    found: dict[str, list[int]] = {}
    for row, group in enumerate(sweep.groups()):
        found.setdefault(group, []).append(row)
    return found


def _paired(sweep: Sweep) -> list[str]:
    """Each combination against its baseline, by ratios; "-" where the baseline has 0."""
    if not (sweep.folder / PAIRED).is_file():
        return []
    told = read_columns(sweep.folder / PAIRED)
    if not set(_PAIRS) <= set(told):
        raise BadInput("result", str(sweep.folder / PAIRED), "has other columns than a sweep's: it was written by another version")
    found: dict[tuple[str, str], dict[str, str]] = {}
    for one, base, metric, ratio, half in zip(*(told[name] for name in _PAIRS)):
        try:
            cell = _with_interval(float(ratio or "nan"), float(half or "nan"), "{:,.2f}")
        except ValueError as error:
            raise BadInput("result", str(sweep.folder / PAIRED), f"{one}, {metric}: {error}") from None
        found.setdefault((one, base), {})[metric] = cell
    shown = [(key, title) for key, title, *_ in _COLUMNS if any(cells.get(key, "-") != "-" for cells in found.values())]
    head = _head([title.split(", ")[0] for _, title in shown])
    rows = [f'<tr><th scope="row">{escape(one)}<br><small>over {escape(base)}</small></th>'
            + "".join(f"<td>{cells.get(key, '-')}</td>" for key, _ in shown) + "</tr>" for (one, base), cells in found.items()]
    return ["<h2>Against the first policy, seed by seed</h2>", HINT, scrolling(head, ["\n".join(rows)]),
            '<p class="soft">Means over seeds of the ratio on the same requests, with intervals of 95 %.</p>'] if shown else []


def _winners(sweep: Sweep) -> list[str]:
    """By the rule, group by group, on means over seeds."""
    policies = sweep.policies()
    keys = (TTFT_KEY, "mean_rebuffer_s", "output_throughput", "effective_throughput")
    told = {key: [None if np.isnan(value) else float(value) for value in sweep.numbers(key)] for key in keys}
    said = []
    for group, rows in _rows_of(sweep).items():
        found = verdict({policies[row]: {key: told[key][row] for key in keys} for row in rows})
        if found is not None:
            outcome, *rest = str(found).split(" The rule: ")
            out = "; ".join(f"{policy} is out: {why}" for policy, why in found.out.items())
            said.append((f"{group}: " if group else "") + outcome + (f" ({out})" if out else ""))
            rule = rest[0].split("\n")[0]
    return [*bullets("Who wins", said), f'<p class="soft">The rule, on means over seeds: {escape(rule)}</p>'] if said else []


def _failures(sweep: Sweep) -> list[str]:
    if not sweep.failures:
        return []
    listed = zip(sweep.failures["command"], sweep.failures["why"])
    return ["<h2>Runs that failed</h2>", *(f"<p>{escape(why)}</p><pre>{escape(command)}</pre>" for command, why in listed)]


def _commands(sweep: Sweep) -> list[str]:
    """Of one run each: the first of the store, as an example of what can be run alone."""
    store = sweep.folder / STORE
    try:
        with store.open(encoding="utf-8") as file:
            said = (json.loads(line) for line in file)
            found = [each["command"] for each in said if isinstance(each, dict) and isinstance(each.get("command"), str)]
    except (OSError, ValueError):
        return []
    return found[:1]


# ---- figures

def draw(sweep: Sweep) -> list[Drawing]:
    """A marker per policy with its intervals, a row of panels per group; where a group is a lone policy, all in one."""
    with own_look():
        return [Drawing(name, title, caption, as_png(figure)) for name, title, caption, figure in _figures(sweep)]


def _curves(sweep: Sweep) -> list[Drawing]:
    """TTFT and stalls of every group, policy by policy; where a group is a lone policy, of all combinations in one."""
    policies, groups = sweep.policies(), _rows_of(sweep)
    if max(map(len, groups.values()), default=0) < 2:
        policies, groups = sweep.table["combination"], {"": list(range(len(sweep)))}
    return report_curves.draw(report_curves.stored(sweep.folder / STORE), {
        group: {policies[row]: sweep.keys[row] for row in rows} for group, rows in groups.items()}, list(dict.fromkeys(policies)))


_CAPTION = ("P99 time to first token against effective tokens/s and mean rebuffering: means over seeds with 95 % intervals; better "
            "is further left, and up (effective) or down (rebuffering); dotted: what no other beats in both.")


def _figures(sweep: Sweep) -> list[tuple[str, str, str, Figure]]:
    groups, policies = _rows_of(sweep), sweep.policies()
    panels = {group: [_marks(sweep, key, rows, policies) for key, _, _ in AGAINST] for group, rows in groups.items()}
    if max((len(marks) for each in panels.values() for marks in each), default=0) < 2:
        policies = list(sweep.table["combination"])
        panels = {"": [_marks(sweep, key, range(len(sweep)), policies) for key, _, _ in AGAINST]}
    panels = {group: each for group, each in panels.items() if min(map(len, each)) > 0}
    labels, names = list(dict.fromkeys(policies)), list(panels)
    many = -(-len(names) // max(-(-len(names) // _PANELS), 1))         # alike on all pages
    pages = [names[i : i + many] for i in range(0, len(names), max(many, 1))]
    return [(f"pareto-{i}", f"What a shorter wait costs{f' ({i} of {len(pages)})' if len(pages) > 1 else ''}", _CAPTION,
             _pareto({name: panels[name] for name in page}, labels)) for i, page in enumerate(pages, 1)]


def _marks(sweep: Sweep, key: str, rows: Sequence[int], labels: Sequence[str]) -> list[Mark]:
    x, dx, y, dy = (sweep.numbers(name) for name in (TTFT_KEY, f"{TTFT_KEY}_ci95", key, f"{key}_ci95"))
    return [Mark(labels[row], x[row] * 1e-3, y[row], dx[row] * 1e-3, dy[row]) for row in rows if not np.isnan(x[row] + y[row])]


def _pareto(panels: Mapping[str, Sequence[Sequence[Mark]]], labels: Sequence[str]) -> Figure:
    figure = new_figure(2.2 * len(panels) * (1 if len(panels) > 1 else 1.2) + 0.4, labels)
    grid = figure.subplots(len(panels), len(AGAINST), squeeze=False)
    for axes, (group, each) in zip(grid, panels.items()):
        for one, marks, (_, words, more) in zip(axes, each, AGAINST):
            pareto(one, marks, labels, more)
            name_axes(one, words, more, short=True)
        axes[0].set_title(wrapped(group, 70), loc="left", fontweight="bold", parse_math=False)
    return legend(figure, labels, linestyle="none", markersize=6)


def _is_number(cell: Any) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True
