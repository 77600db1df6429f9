"""What a study asks for: a YAML file, or the same as a mapping, read and checked.

    name: how much does the link matter
    base: {model: llama3-8b, num_prompts: 80, output_len: normal:2048:410}      # flags of `tokenflow run`
    axes:                                                   # every combination of
      policy: [sglang, "tokenflow[offload=false]"]          #   the values of a flag
      policy_arg.interval_s: [0.1, 0.5]                     #   or of an argument of the policy
      load: {light: {request_rate: 1}, burst: {arrival: burst}}     # several flags at once, under a name of their own
    list:                                                   # combinations written out
      - {hardware: rtx4090, model: qwen2-7b}
    latin_hypercube: {samples: 20, seed: 0, ranges: {link: [4, 32, log], kv_tokens: [20000, 80000]}}
    seeds: 5                                                # 1 to 5 (default), or a list of them

Axes, list and hypercube multiply. Names of files are as on the command line: from the current directory.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from traces import BadInput, cells, options

from ..report_terms import measure_of
from .setup import FLAGS, nearest

SEEDS = 5           #: when the study does not say
MOST_RUNS = 1_000_000

_KEYS = ("name", "base", "axes", "list", "latin_hypercube", "seeds")
_HYPERCUBE_KEYS = ("samples", "seed", "ranges")
_TAKEN = ("seed", "key", "combination", "runs")     # columns that every study has
_FLAGS = tuple(flag for flag in FLAGS if flag != "seed")

Flags = dict[str, Any]      #: value by flag; an argument of the policy as `policy_arg.NAME`


@dataclass(frozen=True)
class Choice:
    """One of several: what it is called, by column, and the flags that it means."""

    labels: Mapping[str, Any]
    flags: Flags


@dataclass(frozen=True)
class Hypercube:
    """Samples that spread evenly over every range. Each range: low, high, whether by logarithm."""

    samples: int
    seed: int
    ranges: Mapping[str, tuple[float, float, bool]]


@dataclass(frozen=True)
class Study:
    name: str
    base: Flags
    parts: tuple[tuple[Choice, ...], ...]       #: axes and list: one of each is in every combination
    hypercube: Hypercube | None
    seeds: tuple[int, ...]
    where: str                                  #: the file, for errors
    text: bytes                                 #: as it was given


def read_study(given: str | Path | Mapping[str, Any]) -> Study:
    """From a file, or from a mapping as such a file would hold. BadInput names what is wrong with it."""
    if isinstance(given, Mapping):
        import yaml
        try:
            return _study("study", dict(given), yaml.safe_dump(dict(given), sort_keys=False, allow_unicode=True).encode())
        except yaml.YAMLError:
            raise BadInput("study", "mapping", "holds values that YAML does not have") from None
    try:
        text = Path(given).read_bytes()
    except (OSError, ValueError) as error:
        why = (getattr(error, "strerror", None) or str(error)).lower()
        raise BadInput("study", str(given), f"cannot be read: {why}") from None
    return _study(str(given), _parsed(str(given), text), text)


def _parsed(where: str, text: bytes) -> Any:
    import yaml

    class Loader(yaml.SafeLoader):
        """YAML that takes no key twice."""

        def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
            keys = [key.value for key, _ in node.value]
            if twice := [key for key in keys if keys.count(key) > 1]:
                raise yaml.constructor.ConstructorError(None, None, f"{twice[0]} is there twice", node.start_mark)
            return super().construct_mapping(node, deep)
    try:
        return yaml.load(text, Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise BadInput("study", where + line, f"is not YAML: {getattr(error, 'problem', None) or error}") from None


def _study(where: str, given: Any, text: bytes) -> Study:
    if not isinstance(given, Mapping):
        raise BadInput("study", where, f"must hold {', '.join(_KEYS)}, not {cells.shown(given)}")
    _known(where, given, _KEYS)
    base = flags_of(where, given.get("base") or {}, "base")
    parts = [_axis(where, str(name), values) for name, values in _mapping(where, "axes", given.get("axes")).items()]
    if given.get("list") is not None:
        parts.append(_listed(where, given["list"]))
    cube = None if given.get("latin_hypercube") is None else _hypercube(where, given["latin_hypercube"])
    name, seeds = str(given.get("name") or Path(where).stem), _seeds(where, given.get("seeds"))
    found = Study(name, base, tuple(parts), cube, seeds, where, text)
    _apart(found)
    return found


def flags_of(where: str, given: Any, part: str) -> Flags:
    """Flags by name, arguments of the policy as `policy_arg.NAME`."""
    found: Flags = {}
    for said, value in _mapping(where, part, given).items():
        name = flag(where, str(said))
        inner = _arguments(where, value) if name == "policy_arg" and value is not None else {name: value}
        for each, one in inner.items():
            if each in found:
                raise BadInput(where, str(said), f"is given twice in {part}")
            found[each] = one
    return found


def flag(where: str, said: str) -> str:
    """The flag that is meant, in the form of `Flags`."""
    head, dot, argument = said.partition(".")
    name = head.replace("-", "_")
    if name == "seed":
        raise BadInput(where, said, "stands as `seeds:` beside `base:` and `axes:`, a number of seeds or a list of them")
    if name not in _FLAGS:
        raise BadInput(where, said, f"unknown; did you mean '{nearest(name, _FLAGS)}'?")
    if dot and (name != "policy_arg" or not argument):
        raise BadInput(where, said, "has no parts; only policy_arg.NAME has")
    return f"policy_arg.{argument}" if dot else name


def _arguments(where: str, value: Any) -> Flags:
    """Of `policy_arg`, which is a mapping, a text or a list of key=value."""
    if isinstance(value, Mapping):
        return {f"policy_arg.{name}": each for name, each in value.items()}
    found: Flags = {}
    for each in value if isinstance(value, list) else [value]:
        name, equals, text = str(each).partition("=")
        if not equals:
            raise BadInput(where, "policy_arg", f"must be a mapping or key=value, not {cells.shown(each)}")
        found[f"policy_arg.{name.strip()}"] = text.strip()
    return found


def _axis(where: str, name: str, values: Any) -> tuple[Choice, ...]:
    if isinstance(values, Mapping) and values and all(isinstance(flags, Mapping) for flags in values.values()):
        if name in _TAKEN or measure_of(name.removesuffix("_ci95")) is not None:
            raise BadInput(where, f"axes: {name}", "is a column of every result; name the axis otherwise")
        return tuple(Choice({name: _label(label)}, flags_of(where, flags, f"axes: {name}: {label}"))
                     for label, flags in values.items())
    column = flag(where, name)
    if isinstance(values, Mapping) and values:      # the flag's values under names of their own
        return tuple(Choice({column: _label(label)}, {column: value}) for label, value in values.items())
    if not isinstance(values, list) or not values:
        raise BadInput(where, f"axes: {name}", f"must be a list of values, or flags by label, not {cells.shown(values)}")
    made = tuple(Choice({column: _label(value)}, flags_of(where, {name: value}, f"axes: {name}")) for value in values)
    _no_twins(where, f"axes: {name}", made)
    return made


def _listed(where: str, given: Any) -> tuple[Choice, ...]:
    if not isinstance(given, list) or not given:
        raise BadInput(where, "list", f"must be a list of flags by name, not {cells.shown(given)}")
    made = []
    for n, each in enumerate(given, 1):
        if not isinstance(each, Mapping) or not each:
            raise BadInput(where, f"list, {n}", f"must be flags by name, not {cells.shown(each)}")
        flags = flags_of(where, each, f"list, {n}")
        made.append(Choice({name: _label(value) for name, value in flags.items()}, flags))
    columns = dict.fromkeys(name for choice in made for name in choice.labels)
    made = [Choice({name: choice.labels.get(name) for name in columns}, choice.flags) for choice in made]
    _no_twins(where, "list", made)
    return tuple(made)


def _hypercube(where: str, given: Any) -> Hypercube:
    part = "latin_hypercube"
    given = _mapping(where, part, given)
    _known(where, given, _HYPERCUBE_KEYS)
    samples = _whole(where, f"{part}: samples", given.get("samples"), 1)
    seed = _whole(where, f"{part}: seed", given.get("seed", 0), 0)
    ranges = {}
    for name, said in _mapping(where, f"{part}: ranges", given.get("ranges")).items():
        shown = f"{part}: {name}"
        ends: list[Any] = said if isinstance(said, list) and len(said) in (2, 3) else [None, None]
        low, high, *scale = ends
        if not (_number(low) and _number(high)) or scale not in ([], ["log"], ["linear"]):
            raise BadInput(where, shown, f"must be [LOW, HIGH] or [LOW, HIGH, log], not {cells.shown(said)}")
        if not low < high or (scale == ["log"] and low <= 0):
            raise BadInput(where, shown, "must ascend" if not low < high else "must lie above 0 to be spread by logarithm")
        ranges[flag(where, str(name))] = (low, high, scale == ["log"])
    if not ranges:
        raise BadInput(where, part, "needs ranges: [LOW, HIGH] by flag")
    return Hypercube(samples, seed, ranges)


def _seeds(where: str, given: Any) -> tuple[int, ...]:
    if isinstance(given, list):
        found = tuple(_whole(where, "seeds", seed, 0) for seed in given)
        if not found or len(set(found)) < len(found):
            raise BadInput(where, "seeds", "must be at least one, each once")
        return found
    return tuple(range(1, 1 + _whole(where, "seeds", SEEDS if given is None else given, 1, 10_000)))


def _apart(study: Study) -> None:
    """BadInput when two parts of a combination say the same flag, or name the same column."""
    seen: dict[str, str] = {}
    parts = [({name for choice in part for name in (*choice.labels, *choice.flags)}, " and ".join(part[0].labels))
             for part in study.parts]
    if study.hypercube:
        parts.append((set(study.hypercube.ranges), "latin_hypercube"))
    for names, title in parts:
        for name in sorted(names):
            if name in seen:
                raise BadInput(study.where, name, f"is set twice in one combination: by {seen[name]} and by {title}")
            seen[name] = title
    count = len(study.seeds) * (study.hypercube.samples if study.hypercube else 1)
    for part in study.parts:
        count *= len(part)
    if count > MOST_RUNS:
        raise BadInput(study.where, "study", f"asks for {count:,} runs, more than {MOST_RUNS:,}")


def _no_twins(where: str, part: str, choices: Sequence[Choice]) -> None:
    labels = [tuple(map(str, choice.labels.values())) for choice in choices]
    for label in labels:
        if labels.count(label) > 1:
            raise BadInput(where, part, f"holds {' · '.join(label)} twice")


def _label(value: Any) -> Any:
    """As a cell of a table: numbers stay numbers, mappings and lists become text."""
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "none"}[value]
    if isinstance(value, Mapping):
        return ",".join(f"{name}={_label(each)}" for name, each in value.items())
    if isinstance(value, list):
        return ",".join(str(_label(each)) for each in value)
    return value if isinstance(value, int | float) else str(value)


def _known(where: str, given: Mapping[Any, Any], known: tuple[str, ...]) -> None:
    for name in given:
        if name not in known:
            raise BadInput(where, str(name), f"unknown; did you mean '{nearest(str(name), known)}'?")


def _mapping(where: str, part: str, given: Any) -> Mapping[Any, Any]:
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise BadInput(where, part, f"must be a mapping, not {cells.shown(given)}")
    return given


def _whole(where: str, part: str, value: Any, least: int, most: int = cells.MOST) -> int:
    try:
        return options.whole(part, value, least=least, most=most)
    except BadInput as error:
        raise BadInput(where, part, f"{error.why}, not {error.where}") from None


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= cells.MOST
