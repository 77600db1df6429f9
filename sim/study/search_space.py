"""Which arguments of a policy a search may change, and within what bounds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import NoneType
from typing import Any, Literal, get_args, get_origin

from policies.tokenflow import TokenFlow
from traces import BadInput, cells

from ..policy_choice import Argument, arguments_of, choose
from .setup import nearest

Value = float | int | str       #: of an argument, as `--policy-arg` has it

_DIGITS = 3         #: significant ones of a number that is tried: what is found should be readable


@dataclass(frozen=True)
class Range:
    """What a number may be."""

    low: float
    high: float
    log: bool = False       #: equally likely in every factor, not in every difference
    why: str = ""


#: of TokenFlow, where no --param says otherwise. Left out: the paper's ablations (offload, write_through, overlap), what costs
#: only decisions (swap_passes), and what the search would seldom hit (critical_s: None is derived)
TOKENFLOW: Mapping[str, Range | None] = {
    "interval_s": Range(0.25, 4.0, True, "the paper sweeps 0.5 to 1.5 s"),
    "conservativeness": Range(0.5, 8.0, True, "mu: a factor of four on either side"),
    "gamma": Range(10.0, 1000.0, True, "a factor of ten on either side"),
    "utility": None,
    "stickiness": Range(0.0, 1.0, False, "up to a whole interval's tokens"),
    "overcommit": Range(0.25, 4.0, True, "0.25 to 1 moves TTFT threefold; beyond, readers may stall"),
    "fill": Range(0.7, 1.0, False, "1 leaves no room for growth"),
    "rate_bound": None,
    "rate_margin": Range(0.5, 2.0, True, "Gamma is known to within that"),
    "load_or_recompute": None,
    "io_share": Range(0.1, 1.0, False, "of an interval of the link"),
    "prefill_guard_s": Range(0.0, 0.5, False, "half of the default interval"),
    "ride_share": Range(0.1, 4.0, True, "of a decode step; 4 makes it five times as long"),
}


@dataclass(frozen=True)
class Parameter:
    """One dimension of the search: a number in a range, or one of some values."""

    name: str
    range: Range | None = None
    whole: bool = False
    choices: tuple[str, ...] = ()

    def __str__(self) -> str:
        if self.range is None:
            return f"{self.name} = {', '.join(self.choices)}"
        return f"{self.name} = {self.range.low:g} to {self.range.high:g}{' (log)' if self.range.log else ''}"

    def rounded(self, value: Any) -> Value:
        """As it is tried."""
        if self.range is None:
            return str(value)
        if self.whole:
            return int(value)
        return float(min(max(float(f"{value:.{_DIGITS}g}"), self.range.low), self.range.high))

    def holds(self, value: Any) -> bool:
        """Whether the value is one that the search could come to."""
        if self.range is None:
            return value in self.choices
        return isinstance(value, int | float) and not isinstance(value, bool) and self.range.low <= value <= self.range.high


def space(policy: str, fixed: Sequence[str], given: Sequence[str]) -> list[Parameter]:
    """What `--param` names, or else the defaults of that policy; arguments that are `fixed` (key=value) are not searched."""
    made = choose(policy, fixed)
    known = {argument.name: argument for argument in arguments_of(type(made.policy))}
    defaults = TOKENFLOW if isinstance(made.policy, TokenFlow) else {}
    if not given:
        found = [_default(known[name], defaults[name]) for name in defaults if name in known and name not in made.arguments]
        if not found:
            has = ", ".join(map(str, known.values())) or "none"
            raise BadInput("--param", policy, f"no ranges are known of it: give --param NAME=LOW:HIGH; its arguments: {has}")
        return found
    found = []
    for text in given:
        name, equals, bounds = (part.strip() for part in text.partition("="))
        if name not in known:
            near = f"; did you mean '{nearest(name, tuple(known))}'?" if known else ""
            raise BadInput("--param", repr(name), f"{policy} has no such argument{near}")
        if name in made.arguments:
            raise BadInput("--param", name, "is given a value as well: a search would change it")
        if any(each.name == name for each in found):
            raise BadInput("--param", name, "is given twice")
        parameter = _bounded(text, known[name], bounds) if equals else _default(known[name], defaults.get(name))
        _try(policy, fixed, parameter)
        found.append(parameter)
    return found


def start(policy: str, fixed: Sequence[str], parameters: Sequence[Parameter]) -> dict[str, Any]:
    """The values that the policy has by itself."""
    made = choose(policy, fixed)
    own = {each: getattr(made.policy, each.name, None) for each in parameters}
    return {each.name: value if each.range is not None else _text(value) for each, value in own.items()}


def _kinds(hint: Any) -> set[Any]:
    """The types that an argument may have; None aside."""
    if get_origin(hint) is Literal:
        return {Literal}
    return {each for each in (get_args(hint) or (hint,)) if each is not NoneType}


def _default(argument: Argument, known: Range | None) -> Parameter:
    kinds = _kinds(argument.hint)
    if known is not None:
        return Parameter(argument.name, known, int in kinds and float not in kinds)
    if kinds == {bool}:
        return Parameter(argument.name, choices=("true", "false"))
    if kinds == {Literal}:
        return Parameter(argument.name, choices=tuple(map(str, get_args(argument.hint))))
    raise BadInput("--param", argument.name, f"no range is known of it: give one, {argument.name}=LOW:HIGH")


def _bounded(text: str, argument: Argument, bounds: str) -> Parameter:
    kinds = _kinds(argument.hint)
    if ":" not in bounds:
        choices = tuple(part.strip() for part in bounds.split(","))
        if len(set(choices)) < 2 or "" in choices:
            raise BadInput("--param", text, "must be NAME, NAME=LOW:HIGH, NAME=LOW:HIGH:log, or NAME=ONE,OTHER")
        return Parameter(argument.name, choices=choices)
    low, high, *more = (part.strip() for part in bounds.split(":"))
    if more not in ([], ["log"]):
        raise BadInput("--param", text, "must be NAME=LOW:HIGH or NAME=LOW:HIGH:log")
    if not kinds & {int, float}:
        raise BadInput("--param", text, "is no number; give its values: NAME=ONE,OTHER")
    whole = float not in kinds
    try:
        ends = [float(cells.whole(end)) if whole else cells.number(end) for end in (low, high)]
    except ValueError as error:
        raise BadInput("--param", text, f"both ends of the range: one {error}") from None
    if not ends[0] < ends[1]:
        raise BadInput("--param", text, "the range must begin below its end")
    if more and ends[0] <= 0:
        raise BadInput("--param", text, "a range in logarithms begins above 0")
    return Parameter(argument.name, Range(ends[0], ends[1], log=bool(more)), whole)


def _try(policy: str, fixed: Sequence[str], parameter: Parameter) -> None:
    """BadInput where the policy does not take an end of the range."""
    ends = parameter.choices if parameter.range is None else (parameter.range.low, parameter.range.high)
    for end in ends:
        try:
            choose(policy, [*fixed, f"{parameter.name}={_text(parameter.rounded(end))}"])
        except BadInput as error:
            raise BadInput("--param", str(parameter), str(error)) from None


def as_arguments(values: Mapping[str, Any]) -> list[str]:
    """As `--policy-arg` takes them."""
    return [f"{name}={_text(value)}" for name, value in values.items()]


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return repr(value) if isinstance(value, float) else str(value).lower() if value is None else str(value)
