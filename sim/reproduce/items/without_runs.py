"""What needs no simulation: the load check of Table 1, and what cannot be tested."""

from __future__ import annotations

from typing import Any

from .. import setups
from ..item import Item, Table, Told
from ..judging import compared
from ..runs import Found, Run
from ..setups import How


def _loads(how: How, found: Found) -> Told:
    from ...load_check import check_load
    from ...workloads import workload
    rows: list[list[Any]] = []
    for name in (*setups.BURSTS, *setups.POISSONS, *(f"{name}-short" for name in ("4090-a", "h200-a", *setups.POISSONS))):
        load = check_load(workload(f"table1-{name}"))
        rows.append([name, load.prompt_tokens, load.output_tokens, load.capacity_tps, load.demand_tps, load.load, load.pools,
                     load.readers_load])
    columns = ("row", "prompt, mean tokens", "output, mean tokens", "capacity, tokens/s", "demand, tokens/s", "load", "KV, in GPU "
                                                                                                                      "pools",
               "readers' rates over capacity")
    heavy = [f"{row[0]} x{row[5]:.1f}" for row in rows if row[5] is not None and row[5] > 1]
    return Told(notes=[
        f"Poisson rows beyond what the machine can put out, by how much: {', '.join(heavy)}. There TTFT grows for as long as "
        "requests come, so only ratios at equal length can be compared.",
        "The paper names lengths SL and LL; ours is short and long input with long output, `-short` short input and output."],
        tables=[Table("Load check of Table 1, readers of 20 tokens/s", columns, rows)])


def _untestable(name: str, about: str) -> Item:
    return Item(name, about, 0.0, _none, lambda how, found: Told(compared(name, [], how, found)))


def _none(how: How) -> list[Run]:
    return []


ITEMS = (
    Item("table1", "Load check of every row of Table 1", 0.1, _none, _loads),
    _untestable("fig11", "not testable: lengths of a private trace"),
    _untestable("fig21", "not testable: Ascend 910B"),
    _untestable("overhead", "One plan call at 400 and 5,000 requests, in CPU time of this computer"),
)
