"""Every name of `tokenflow reproduce`, in the paper's order."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import SequenceMatcher

from traces import BadInput

from ..item import Item
from . import comparison, gains, motivation, over_time, readers, sensitivities, toy, transfers, without_runs

_ORDER = ("fig1", "fig2", "fig6", "table1", "fig8", "fig10", "fig11", "fig12", "fig13", "fig14", "fig15", "fig16", "fig17", "fig18",
          "fig19", "fig20", "fig21", "fig22", "fig23", "table2", "overhead", "gains", "sens-length", "sens-host", "sens-pcie",
          "sens-belief", "sens-rates", "second-reading")

_KNOWN = {item.name: item for module in (comparison, gains, motivation, over_time, readers, sensitivities, toy, transfers,
                                         without_runs)
          for item in module.ITEMS}

ITEMS = {name: _KNOWN[name] for name in _ORDER}


def chosen(names: Sequence[str]) -> list[Item]:
    """The items of these names, in the paper's order; "all", or no name at all, is those of the headline reading."""
    for name in names:
        if name != "all" and name not in ITEMS:
            near = max(("all", *ITEMS), key=lambda known: SequenceMatcher(None, name.lower(), known).ratio())
            raise BadInput("reproduce", repr(name), f"unknown item; did you mean '{near}'? tokenflow reproduce --list shows all")
    everything = not names or "all" in names
    return [item for item in ITEMS.values() if item.name in names or (everything and item.in_all)]
