"""`tokenflow reproduce`: the paper's tables and figures, its claims, and what becomes of them here."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from traces import BadInput

from . import saving
from .cli_progress import Bar
from .cli_tables import plain_console
from .code_version import code_version
from .plot_style import as_png, own_look
from .reproduce import output, page
from .reproduce.items import ITEMS, chosen
from .reproduce.judging import Row
from .reproduce.runs import Ledger, carry_out
from .reproduce.setups import How


def show_list() -> None:
    """The items and how long they take."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False, caption=(
        "minutes: alone, three seeds, two cores; all shares runs. second-reading is not part of all"),
                  caption_justify="left", caption_style="")
    table.add_column("item", no_wrap=True)
    table.add_column("what it shows")
    table.add_column("minutes", justify="right")
    for item in ITEMS.values():
        table.add_row(item.name, item.about, f"{item.minutes:g}")
    plain_console().print(table)


def show(names: Sequence[str], how: How, jobs: int, resume: bool, target: Path | None) -> None:
    """Run what the items need, judge, and leave page, figures and numbers in the directory."""
    items = chosen(names)
    if how.burstgpt and not Path(how.burstgpt).is_file():
        raise BadInput("--burstgpt", how.burstgpt, "there is no such file")
    if resume and target is None:
        raise BadInput("--resume", "command line", "says of no directory what to resume: give -o DIR as well")
    wanted = [run for item in items for run in item.runs(how)]      # a bad --burstgpt file shows here
    for run in wanted:
        if run.file:
            run.trace()
            break
    folder = target or output.free(saving.DEFAULT_ROOT)
    output.prepare(folder, resume)
    code = code_version()
    with Ledger(folder, code, resume) as ledger, Bar(wanted=True, of="runs") as bar:
        bar.begin("simulating")
        found = carry_out(wanted, ledger, jobs, lambda done, total, what: bar(done, total, 0.0))
    told = {item.name: item.tell(how, found) for item in items}
    measured = {}
    if any(item.name == "overhead" for item in items):
        from .reproduce.overhead import measure
        measured = measure(how.quick)
    files: dict[str, str | bytes] = {}
    with own_look():
        for item in items:
            files |= {f"{picture.name}.png": as_png(picture.draw()) for picture in told[item.name].pictures}
    command = " ".join(["tokenflow reproduce", *names, f"--seeds {how.seeds}", *(["--quick"] if how.quick else []),
                        *([f"--burstgpt {how.burstgpt}"] if how.burstgpt else [])])
    files[output.PAGE] = page.page(items, told, how, command, measured)
    digests = sorted({run.key for run in wanted})
    files[output.FACTS] = saving.as_json(page.facts(items, told, how, saving.version_of("tokenflow-lab"), code, digests))
    cpu_s = {key: ledger.done[key]["cpu_s"] for key in digests}
    files["host.json"] = saving.as_json(saving.host_facts(cpu_s, ["tokenflow", *sys.argv[1:]]) | {"plan_cpu_ms": measured})
    output.publish(folder, files)
    rows = [row for item in items for row in told[item.name].rows]
    if rows:
        plain_console().print(_verdicts(rows))
    print(folder / output.PAGE)


def _verdicts(rows: Sequence[Row]) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for title in ("claim", "policy", "against", "published", "ours", "verdict"):
        table.add_column(title, overflow="fold", justify="right" if title in ("published", "ours") else "left")
    for row in rows:
        policy, baseline = (Text(name.replace("[", "\n[")) for name in (row.policy, row.baseline))
        table.add_row(row.claim, policy, baseline, page.published(row), page.ours(row, interval=False), row.verdict)
    return table
