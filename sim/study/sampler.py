"""Which values to try next: Optuna's multi-objective TPE, asked anew for every batch.

A batch depends on the seed, its number and the trials before it, on nothing else: not on what ran at the same time, nor on
whether the search was interrupted in between.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from traces import BadInput

from .objectives import Objective
from .search_space import Parameter, Value

STARTUP = 16        #: trials drawn at random before any is modelled
_ASKS = 5           #: times, until what was tried already may be tried again: where there are few values


@dataclass(frozen=True)
class Known:
    """A trial that is over."""

    values: dict[str, Any]              #: of the parameters
    objectives: tuple[float, ...]       #: () where it failed
    excess: tuple[float, ...] = ()      #: of each limit


def must_be_there() -> None:
    if find_spec("optuna") is None:
        raise BadInput("optuna", sys.prefix, "is not installed, and tune needs it: pip install 'tokenflow-lab[opt]'")


def proposals(space: Sequence[Parameter], objectives: Sequence[Objective], known: Sequence[Known], seed: int, batch: int,
              count: int) -> list[dict[str, Value]]:
    """So many sets of values, as they are to be tried."""
    import optuna
    from optuna.trial import TrialState, create_trial
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")         # experimental and future arguments
            limited = any(each.excess for each in known)
            sampler = optuna.samplers.TPESampler(
                seed=(seed * 1_000_003 + batch) % 2**32, n_startup_trials=STARTUP, multivariate=True, constant_liar=True,
                constraints_func=(lambda trial: trial.system_attrs["constraints"]) if limited else None)
            study = optuna.create_study(
                sampler=sampler, directions=["minimize" if each.better == "lower" else "maximize" for each in objectives])
            distributions = {each.name: _distribution(each) for each in space}
            for each in known:
                if not all(parameter.holds(each.values[parameter.name]) for parameter in space):
                    continue                        # defaults outside the ranges
                params = {parameter.name: parameter.rounded(each.values[parameter.name]) for parameter in space}
                failed = not each.objectives
                study.add_trial(create_trial(
                    state=TrialState.FAIL if failed else TrialState.COMPLETE, values=None if failed else each.objectives,
                    params=params, distributions=distributions,
                    system_attrs={"constraints": list(each.excess)} if each.excess else {}))
            tried = [{parameter.name: each.values[parameter.name] for parameter in space} for each in known]
            found: list[dict[str, Value]] = []
            again: list[dict[str, Value]] = []
            for _ in range(_ASKS * count):
                params = study.ask(distributions).params
                values = {each.name: each.rounded(params[each.name]) for each in space}
                (again if values in tried or values in found else found).append(values)
                if len(found) == count:
                    break
    finally:
        optuna.logging.set_verbosity(before)
    return [*found, *again][:count]


def _distribution(parameter: Parameter) -> Any:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
    bounds = parameter.range
    if bounds is None:
        return CategoricalDistribution(parameter.choices)
    if parameter.whole:
        return IntDistribution(int(bounds.low), int(bounds.high), log=bounds.log)
    return FloatDistribution(bounds.low, bounds.high, log=bounds.log)
