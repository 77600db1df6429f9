"""Several policies on the same requests: `compare` simulates each, `Comparison` holds and shows the results."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from policies.api import Policy
from traces import BadInput, Trace, cells

from .display import Displayed
from .machine import Machine
from .result import Result, name_of
from .simulate import simulate
from .winner import Verdict, verdict

if TYPE_CHECKING:
    from pandas import DataFrame

    from .hardware import Hardware

Policies = str | Sequence[str | Policy] | Mapping[str, str | Policy]


class Comparison(Displayed, Mapping[str, Result]):
    """Results by policy, in the order given; ratios in its table are to the first."""

    def __init__(self, results: Mapping[str, Result]) -> None:
        self._results = dict(results)

    def __getitem__(self, label: str) -> Result:
        return self._results[label]

    def __iter__(self) -> Iterator[str]:
        return iter(self._results)

    def __len__(self) -> int:
        return len(self._results)

    def __repr__(self) -> str:
        return f"<Comparison of {', '.join(self)}>"

    def _by_label(self) -> Mapping[str, Result]:
        return self

    @property
    def verdict(self) -> Verdict | None:
        """Who wins by `sim.winner`'s rule, which holds everyone against vllm; None where that, or anybody else, is missing."""
        return verdict({label: result.summary for label, result in self.items()})

    @property
    def winner(self) -> str | None:
        """None: nobody within the limits is ahead of vllm, or there is no verdict."""
        found = self.verdict
        return None if found is None else found.winner

    def to_pandas(self) -> DataFrame:
        """A row per policy: its summary."""
        from pandas import DataFrame, Index
        return DataFrame([result.summary for result in self.values()], Index(list(self), name="policy")).drop(columns="policy")

    def save(self, directory: str | PathLike[str], detailed: bool = False) -> Path:
        """As `tokenflow compare -o` keeps it: compare.json, compare.csv, a folder per policy; into a new or empty directory."""
        from .saving import save_comparison
        return save_comparison(self, Path(directory), detailed)


def compare(policies: Policies, trace: Trace, hardware: Machine | Hardware | str | Path = "rtx4090",
            model: str | Path = "llama3-8b", **options: Any) -> Comparison:
    """Simulate `trace` under each policy. `options` are those of `simulate`.

    policies: names as `tokenflow compare --policies` has them ("vllm", "tokenflow[interval_s=0.5]", "my_policy.py:Mine"), in a list
    or separated by commas; policy objects; or a mapping from label to either. BadInput on what cannot be used, before any run.
    """
    if "label" in options:
        raise BadInput("label", str(options["label"]), "each policy has its own: give a mapping from label to policy")
    return Comparison({label: simulate(policy, trace, hardware, model, label=label, **options)
                       for label, policy in _chosen(policies).items()})


def _chosen(policies: Policies) -> dict[str, Policy]:
    from .policy_choice import choose, split_specs
    if isinstance(policies, Mapping):
        return _named([(label, choose(given).policy if isinstance(given, str) else given) for label, given in policies.items()])
    if isinstance(policies, str):
        policies = split_specs(policies)
    if not isinstance(policies, Sequence):
        raise BadInput("policies", cells.shown(policies), "must be several: a list, or a mapping from label to policy")
    found: list[tuple[str, Policy]] = []
    for given in policies:
        if isinstance(given, str):
            choice = choose(given)
            found.append((choice.label, choice.policy))
        else:
            found.append(("" if isinstance(given, type) else name_of(given), given))
    return _named(found)


def _named(found: Sequence[tuple[str, Policy]]) -> dict[str, Policy]:
    labels = [label for label, _ in found]
    if not found:
        raise BadInput("policies", "[]", "is empty: give at least one")
    for label, policy in found:
        if isinstance(policy, type) or not callable(getattr(policy, "plan", None)):
            raise BadInput("policy", repr(policy), "must be a name or an object with a method plan(view)")
        if labels.count(label) > 1:
            raise BadInput("policies", label, "is given twice")
    return dict(found)
