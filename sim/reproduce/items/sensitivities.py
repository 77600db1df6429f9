"""What the results depend on that the paper does not vary: length of the run, host pool, link, beliefs, readers' rates."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from .. import pictures, setups
from ..item import Item, Picture, Told
from ..judging import mean
from ..runs import Found, Run
from ..setups import How, Setup
from .comparison import table

_METRICS = (("mean TTFT, s", "mean_ttft_ms", 1e-3), ("P99 TTFT, s", "p99_ttft_ms", 1e-3),
            ("effective tokens/s", "effective_throughput", 1.0), ("output tokens/s", "output_throughput", 1.0),
            ("rebuffering, mean s", "mean_rebuffer_s", 1.0), ("preemptions", "preemptions", 1.0))
_DRAWN = (_METRICS[0], _METRICS[2], _METRICS[4])
_ROWS = ("4090-b", "4090-c", "h200-b")
_QUICK_ROWS = _ROWS[:2]
_UNLIMITED_TOKENS = 1 << 27
_ARRIVALS_S = 100       # of the Poisson row: what matters is how settings differ


def _on(row: str, how: How, name: str, machine: Mapping[str, Any] | None = None, consume_tps: float = 20.0) -> Setup:
    """A row under one setting, `name`."""
    from ...workloads import workload
    rate = workload(f"table1-{row}").request_rate
    requests = {} if rate is None or how.quick else {"num_prompts": round(rate * _ARRIVALS_S)}
    return setups.table1(row, how, consume_tps, requests, machine, f"{row}, {name}")


Sweep = Callable[[How], dict[str, dict[str, Setup]]]        # by row, by what is varied


def _item(name: str, about: str, minutes: float, sweep: Sweep, policies: tuple[str, ...], notes: Sequence[str]) -> Item:
    def runs(how: How) -> list[Run]:
        return [run for varied in sweep(how).values() for setup in varied.values() for run in setup.runs(policies, how)]

    def tell(how: How, found: Found) -> Told:
        by_row = sweep(how)
        told = Told(notes=list(notes))
        told.tables = [table(f"{about}: {row}", list(varied.values()), policies, how, found, _METRICS) for row,
                       varied in by_row.items()]
        panels = {title: {row: {policy: [None if (value := mean(setup, policy, key, how, found)) is None else value * scale
                                         for setup in varied.values()] for policy in policies}
                          for row, varied in by_row.items()} for title, key, scale in _DRAWN}
        settings = {row: list(varied) for row, varied in by_row.items()}
        told.pictures = [Picture(name, f"{about}: each setting a point.", partial(pictures.sweep, panels, settings))]
        return told
    return Item(name, about, minutes, runs, tell)


def _rows(how: How) -> tuple[str, ...]:
    return _QUICK_ROWS if how.quick else _ROWS


def _lengths(how: How) -> dict[str, dict[str, Setup]]:
    from ...workloads import workload
    seconds = (30, 60) if how.quick else (75, 150, 300, 600)

    def of(row: str, length: int) -> Setup:
        rate = workload(f"table1-{row}").request_rate
        assert rate is not None
        return setups.table1(row, how, requests={"num_prompts": round(rate * length)}, name=f"{row}, {length} s of arrivals")
    return {row: {f"{length} s": of(row, length) for length in seconds} for row in ("4090-c", "h200-c")}


def _hosts(how: How) -> dict[str, dict[str, Setup]]:
    from ...hardware import build_machine
    from ...workloads import workload

    def of(row: str, times: int) -> Setup:
        machine = build_machine(**workload(f"table1-{row}").machine)
        tokens = machine.kv_blocks * machine.block_size * times if times else _UNLIMITED_TOKENS
        return _on(row, how, f"host pool {times}x" if times else "host pool unlimited", {"host_kv_tokens": tokens})
    return {row: {f"{times}x" if times else "unlimited": of(row, times) for times in (1, 2, 4, 0)} for row in _rows(how)}


def _links(how: How) -> dict[str, dict[str, Setup]]:
    names = {f"{rate} GB/s": float(rate) for rate in (1, 4, 12, 25, 50)} | {"oracle": "oracle"}
    return {row: {name: _on(row, how, name, {"link": link}) for name, link in names.items()} for row in _rows(how)}


def _beliefs(how: How) -> dict[str, dict[str, Setup]]:
    off = {"exact": {}, "steps x0.5": {"believed_step": 0.5}, "steps x2": {"believed_step": 2.0},
           "link x0.5": {"believed_link": 0.5},
           "link x2": {"believed_link": 2.0}}
    return {row: {name: _on(row, how, name, machine) for name, machine in off.items()} for row in _rows(how)}


def _rates(how: How) -> dict[str, dict[str, Setup]]:
    return {row: {f"{tps}/s": _on(row, how, f"{tps} tokens/s", consume_tps=float(tps)) for tps in (5, 8, 12, 15, 20, 30)}
            for row in _rows(how)}


ITEMS = (
    _item("sens-length", "Length of the Poisson run", 2, _lengths, ("sglang", "tokenflow", "fcfs-offload"), (
        "In overload waiting grows with the run, and so does every difference in seconds.",)),
    _item("sens-host", "Host pool, in GPU pools", 1, _hosts, ("sglang", "fcfs-offload", "tokenflow", "tokenflow-paper"), ()),
    _item("sens-pcie", "Rate of the link between GPU and host", 1, _links, ("sglang", "fcfs-offload", "tokenflow",
                                                                            "tokenflow-paper"), ()),
    _item("sens-belief", "What the policy believes, as multiples of the truth", 1, _beliefs, ("andes", "tokenflow",
                                                                                              "tokenflow-paper"), ()),
    _item("sens-rates", "Rates of the readers", 2, _rates, ("sglang", "sglang-ratecap", "tokenflow", "tokenflow-paper"), (
        "5 to 12 tokens/s are people's; the paper's are 15 to 30.",)),
)
