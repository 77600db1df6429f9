"""Items in one call, for a notebook: nothing is kept on disk.

    from sim.reproduce.told import tell
    told = tell(["fig18", "table2"])
    told["fig18"].to_pandas(), told["fig18"].pictures[0]
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from traces import BadInput

from ..code_version import code_version
from .item import Told
from .items import chosen
from .runs import Ledger, carry_out
from .setups import How


def tell(names: Sequence[str], seeds: int = 1, quick: bool = True, jobs: int = 1) -> dict[str, Told]:
    """What each item comes to, by name, in the paper's order. `quick`: as `tokenflow reproduce --quick`, shorter runs."""
    if isinstance(names, str) or not names:
        raise BadInput("reproduce", repr(names), "must be a list of items; tokenflow reproduce --list shows all")
    if seeds < 1 or jobs < 1:
        raise BadInput("reproduce", f"seeds {seeds}, jobs {jobs}", "must be at least 1")
    items, how = chosen(names), How(seeds, quick)
    with TemporaryDirectory() as folder, Ledger(Path(folder), code_version(), resume=False) as ledger:
        found = carry_out([run for item in items for run in item.runs(how)], ledger, jobs)
    return {item.name: item.tell(how, found) for item in items}
