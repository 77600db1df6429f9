"""How much load a setup carries: the largest request rate, or burst, at which a target share of requests meets every limit.

Every seed has a capacity of its own, found by bisection on requests that all policies share: drawn with the same seed, so a
policy's capacity may be held against another's seed by seed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ..cli_options import RunOptions
from ..errors import NothingFits
from ..intervals import Estimate, estimate
from ..policy_choice import choose
from .bisection import Border, border
from .kept import one_line
from .setup import command, simulated

Kind = Literal["rate", "burst"]

LEAST_TOLERANCE = 0.001
LEAST_RATE = 0.01       #: requests/s; the least burst is one request
MOST: dict[Kind, float] = {"rate": 100.0, "burst": 4096}
_START: dict[Kind, float] = {"rate": 1.0, "burst": 16}


@dataclass(frozen=True)
class Question:
    """What is asked of every policy."""

    flags: Mapping[str, Any]        #: of `tokenflow run`; not its policy, seed, number of requests and rate
    of: Kind
    target: float                   #: share of requests that must meet every limit
    duration_s: float               #: of arrivals, where it is a rate
    tolerance: float                #: of the load
    most: float                     #: load, beyond which nobody looks

    @property
    def least(self) -> float:
        """At least one request."""
        return 1 if self.of == "burst" else max(LEAST_RATE, 1 / self.duration_s)

    @property
    def unit(self) -> str:
        return "requests at once" if self.of == "burst" else "requests/s"

    def options(self, policy: str, seed: int, load: float) -> RunOptions:
        """One simulation."""
        if self.of == "burst":
            asked = {"num_prompts": int(load), "arrival": "burst"}
        else:
            asked = {"num_prompts": max(round(load * self.duration_s), 1), "request_rate": load}
        return RunOptions(**{**self.flags, **asked, "policy": policy, "seed": seed})


@dataclass(frozen=True)
class Point:
    """A load that was tried."""

    load: float
    requests: int
    share: float        #: of them that meet every limit
    carried: bool


@dataclass(frozen=True)
class Answer:
    """Of one policy with one seed."""

    policy: str                         #: its label
    seed: int
    border: Border | None               #: None: a simulation failed
    points: tuple[Point, ...] = ()      #: by load
    failed: str = ""                    #: why
    command: str = ""                   #: what fails again


@dataclass(frozen=True)
class Capacity:
    """Of one policy over seeds."""

    policy: str
    answers: tuple[Answer, ...]             #: by seed
    mean: Estimate | None                   #: None where a seed has none: see `bound`
    ratio: Estimate | None                  #: to the first policy's, paired by seed; None where either has none
    bound: str = ""                         #: what is known instead of a mean

    @property
    def failed(self) -> Answer | None:
        return next((answer for answer in self.answers if answer.failed), None)


def answers(question: Question, policies: Sequence[str], seeds: Sequence[int], jobs: int) -> Iterator[Answer]:
    """Of every policy, as --policies has it, with every seed; as they come to an end."""
    from ..jobs import KILLED, each_done
    asked = [(question, policy, seed) for seed in seeds for policy in policies]

    def killed(asked: tuple[Question, str, int]) -> Answer:
        _, policy, seed = asked
        return Answer(choose(policy).label, seed, None, (), KILLED, command(question.options(policy, seed, question.least)))

    for _, answer in each_done(answered, asked, jobs, killed):
        yield answer


def answered(asked: tuple[Question, str, int]) -> Answer:
    """Of one policy, as --policies has it, with one seed."""
    question, policy, seed = asked
    label = choose(policy).label
    points: dict[float, Point] = {}
    options = question.options(policy, seed, question.least)
    too_long: NothingFits | None = None

    def carries(load: float) -> bool:
        nonlocal options, too_long
        options = question.options(policy, seed, load)
        assert options.num_prompts is not None
        try:
            share = float(simulated(options).summary["goodput_share"])
        except NothingFits as error:        # of a small load; not an error as long as requests of larger ones do
            share, too_long = 0.0, error
        points[load] = Point(load, options.num_prompts, share, share >= question.target)
        return points[load].carried

    try:
        found = border(carries, start=_START[question.of], least=question.least, most=question.most,
                       tolerance=question.tolerance, whole=question.of == "burst")
        if too_long is not None and not any(point.share for point in points.values()):
            raise too_long
    except Exception as error:              # of a policy, of ours, or of a library's: the others go on
        return Answer(label, seed, None, _by_load(points), one_line(error), command(options))
    return Answer(label, seed, found, _by_load(points))


def _by_load(points: Mapping[float, Point]) -> tuple[Point, ...]:
    return tuple(points[load] for load in sorted(points))


def capacities(question: Question, found: Sequence[Answer], policies: Sequence[str]) -> list[Capacity]:
    """Over seeds, in the order of the policies (labels)."""
    by_policy = {policy: tuple(sorted((answer for answer in found if answer.policy == policy), key=lambda answer: answer.seed))
                 for policy in policies}
    values = {policy: _values(each) for policy, each in by_policy.items()}
    first = values[policies[0]]
    made = []
    for policy, each in by_policy.items():
        own = values[policy]
        ratio = estimate([one / other for one, other in zip(own, first)]) if own and first and policy != policies[0] else None
        made.append(Capacity(policy, each, estimate(own) if own else None, ratio, "" if own else _bound(question, each)))
    return made


def _values(each: Sequence[Answer]) -> list[float]:
    """A capacity per seed; [] unless every seed has one."""
    borders = [answer.border for answer in each]
    found = [one.carried for one in borders if one is not None and one.carried is not None and one.refused is not None]
    return found if len(found) == len(each) else []


def _bound(question: Question, each: Sequence[Answer]) -> str:
    """What is known where not every seed has a capacity in the range that was looked at."""
    if any(answer.failed for answer in each):
        return "failed"
    borders = [answer.border for answer in each if answer.border is not None]
    below = sum(one.carried is None for one in borders)
    above = sum(one.refused is None for one in borders)
    per = "" if question.of == "burst" else "/s"

    def seeds(n: int) -> str:
        return "" if n == len(each) else f" with {n} of {len(each)} seeds"

    said = [f"below {question.least:.4g}{per}{seeds(below)}"] if below else []
    return "; ".join([*said, *([f"at least {question.most:.6g}{per}{seeds(above)}"] if above else [])])
