"""Every engine that any test builds is audited: `sim.audit` checks its invariants after each decision and each run."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--save-notebooks", action="store_true", help="execute notebooks/*.ipynb and keep what comes out")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "unaudited: measures speed, or breaks the engine on purpose: runs without the audit")


@pytest.fixture(autouse=True)
def audited(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Puts an Audit in front of every engine's watch, and closes it when the test is over."""
    if request.node.get_closest_marker("unaudited"):
        yield
        return
    from sim.audit import Audit, check_records
    from sim.engine import Engine
    from sim.records import Records

    build, keep_times, audits = Engine.__init__, Records.keep_times, []

    def audited_build(self: Engine, *args: Any, watch: Any = None, **kw: Any) -> None:
        audits.append(Audit(also=watch))
        build(self, *args, watch=audits[-1], **kw)

    def checked_times(self: Records, *args: Any) -> None:
        keep_times(self, *args)
        check_records(self)

    monkeypatch.setattr(Engine, "__init__", audited_build)
    monkeypatch.setattr(Records, "keep_times", checked_times)
    yield
    for audit in audits:
        audit.close()
