"""The flags of `tokenflow run` and `tokenflow compare`, each written once, and what they say about workload and machine.

Flags are named as vLLM names them. None means that the flag was not given.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

if TYPE_CHECKING:
    from traces import Trace
    from traces.consumption import Readers

    from .reproduce.setups import How

PAPERS_RATE = 20.0      # tokens per second; `sim.simulate.DEFAULT_CONSUME_TPS`, which would cost an import of numpy

_NUMBERS: dict[Any, type] = {int: int, int | None: int, float: float, float | None: float}

DEBUG = "Show where in the code an error comes from"

_MACHINE = ("hardware", "model", "mem_fraction", "kv_tokens", "host_kv_tokens", "block_size", "max_num_seqs",
            "max_num_batched_tokens", "link", "believed_step", "believed_link")     # named so in `sim.build_machine` as well

Job = Callable[[], int | None]       #: does it; an exit code, None for 0


def flag(panel: str, help: str, *names: str, metavar: str | None = None) -> Any:
    """Named after its field, unless names are given."""
    return typer.Option(*names, help=help, rich_help_panel=panel, metavar=metavar, show_default=False)


_file, _drawn = partial(flag, "Workload from a file"), partial(flag, "Workload drawn at random")
_clients, _machine = partial(flag, "Clients and readers"), partial(flag, "Machine")
_run, _metrics, _output = partial(flag, "Run"), partial(flag, "Metrics"), partial(flag, "Output")


@dataclass(frozen=True)
class Flags:
    """Fields that are flags."""

    def _given(self, *names: str) -> dict[str, Any]:
        return {name: value for name in names if (value := getattr(self, name)) is not None}


@dataclass(frozen=True)
class Seeded(Flags):
    seed: Annotated[int, _drawn("Of the random numbers (default: 0)", metavar="N")] = 0


@dataclass(frozen=True)
class Read(Flags):
    """A trace from a file."""

    trace: Annotated[str | None, _file(
        "CSV or JSON lines, plain or gzipped: Azure, BurstGPT, Mooncake, Qwen-Bailian, Vidur, vLLM timed_trace, or "
        "arrival_s,input_tokens,output_tokens[,...]", metavar="FILE")] = None


@dataclass(frozen=True)
class Cut(Seeded):
    """What may be done to a trace from a file."""

    start: Annotated[float | None, _file("Leave out what arrives before this second of the trace", metavar="SECOND")] = None
    end: Annotated[float | None, _file("Leave out what arrives at this second or later", metavar="SECOND")] = None
    limit: Annotated[int | None, _file("At most so many requests", metavar="N")] = None
    time_scale: Annotated[float | None, _file("Multiply arrival times: 2 halves the rate", metavar="FACTOR")] = None
    time_unit: Annotated[str | None, _file(
        "Unit of time in a Mooncake or vLLM timed_trace file (default: what its fields and numbers say)", metavar="s|ms")] = None
    jitter_ties: Annotated[float | None, _file(
        "Spread requests with one time stamp over so many seconds: for clocks that tick coarsely", metavar="SECONDS")] = None

    def cuts(self) -> dict[str, Any]:
        """The flags that were given."""
        return self._given("start", "end", "limit", "time_scale", "time_unit", "jitter_ties")

    def read(self, file: str) -> Trace:
        """The trace in a file, with that done to it."""
        from traces import load_trace
        cuts = self.cuts()
        trace = load_trace(file, cuts.pop("time_unit", None))
        if "jitter_ties" in cuts:       # on the file's own clock
            trace = trace.jitter_ties(cuts.pop("jitter_ties"), self.seed)
        named = {"start": "start_s", "end": "end_s", "limit": "limit", "time_scale": "time_scale"}
        return trace.window(**{named[name]: value for name, value in cuts.items()}) if cuts else trace


@dataclass(frozen=True)
class Drawn(Seeded):
    """A trace drawn at random."""

    workload: Annotated[str | None, _drawn(
        "Requests and machine by name, see tokenflow list workloads; flags given beside it override it", metavar="NAME")] = None
    num_prompts: Annotated[int | None, _drawn("Number of requests", metavar="N")] = None
    arrival: Annotated[str | None, _drawn(
        "burst: all at once; poisson or gamma: one by one, as vLLM; weibull; onoff:PEAK:ON_S:OFF_S: bursts of ON_S seconds at "
        "PEAK times the mean rate; burstgpt: like that trace (default: burst, poisson when a rate is given)", metavar="LAW")] = None
    request_rate: Annotated[float | None, _drawn("Requests per second", metavar="PER_S")] = None
    burstiness: Annotated[float | None, _drawn(
        "Shape of the gaps between arrivals: 1 is Poisson, below 1 comes in clumps (default: 1, of burstgpt 0.25)",
        metavar="SHAPE")] = None
    input_len: Annotated[str | None, _drawn(
        "constant:TOKENS, normal:MEAN:SIGMA, lognormal:MEDIAN:SIGMA, zipf:THETA:MAX, empirical:FILE, burstgpt-request or "
        "burstgpt-response (default: constant:512)", metavar="LENGTHS")] = None
    output_len: Annotated[str | None, _drawn(
        "Likewise; the same empirical:FILE for both draws whole requests", metavar="LENGTHS")] = None

    def draws(self) -> dict[str, Any]:
        """The flags that were given."""
        return self._given("workload", "num_prompts", "arrival", "request_rate", "burstiness", "input_len", "output_len")

    def draw(self, **more: Any) -> Trace:
        """The trace that they name."""
        from traces import generate

        from .workloads import workload
        drawn = self.draws() | {"seed": self.seed} | more
        if "workload" in drawn:
            return workload(drawn.pop("workload")).trace(**drawn)
        return generate(**{"arrival": "burst" if self.request_rate is None else "poisson"} | drawn)


@dataclass(frozen=True)
class Asked(Drawn, Cut, Read):
    """Who asks for what and how fast they read; and what is to be reported of it."""

    consume_rate: Annotated[str, _clients(
        "Tokens per second that a reader takes, where the trace does not say: a number, 30/10@200 (10 from token 200 on), a mix "
        f"such as 0.4:15,0.6:20 (share:rate), human-reading or human-listening (default: {PAPERS_RATE:g}, the TokenFlow paper's)",
        metavar="RATE")] = f"{PAPERS_RATE:g}"
    max_concurrency: Annotated[int | None, _clients(
        "Requests in flight at most; the client holds back the others", metavar="N")] = None

    goodput: Annotated[list[str] | None, _metrics(
        "What good requests meet, in milliseconds: ttft, tpot, e2el and rebuffer (all stalls of its reader together), such as "
        "ttft:1300,tpot:50,rebuffer:500; may be repeated", metavar="NAME:MS,...")] = None
    metric_percentiles: Annotated[str, _metrics(
        "Of TTFT, TPOT, ITL, E2EL and rebuffering, beside mean, median and P99 (default: 99)", metavar="P,...")] = "99"

    def requests(self) -> Trace:
        """The trace that the flags name, cut or drawn. BadInput when they contradict each other."""
        from traces import BadInput, with_rates
        cut, drawn = self.cuts(), self.draws()
        if drawn and (cut or self.trace is not None):
            mine, other = next(iter(drawn)), "trace" if self.trace is not None else next(iter(cut))
            raise BadInput(flag_name(mine), str(drawn[mine]), (
                f"cannot be given together with {flag_name(other)}: a workload is read from a file or drawn, not both"))
        _, readers = self.readers()
        if self.trace is not None:
            trace = self.read(self.trace)
            return trace if readers is None else with_rates(trace, readers, self.seed)
        if cut:
            name = next(iter(cut))
            raise BadInput(flag_name(name), str(cut[name]), "is for a trace from a file: give --trace FILE as well")
        if self.num_prompts is None and self.workload is None:
            hint = ("--num-prompts N" if drawn
                    else "--trace FILE, --workload NAME, or --num-prompts N to draw one (with --request-rate R: Poisson)")
            raise BadInput("workload", "command line", f"give {hint}")
        return self.draw() if readers is None else self.draw(consume_rate=str(readers))

    def readers(self) -> tuple[float, Readers | None]:
        """The rate of readers, on average; and where they differ, who they are: then it is the trace that says each one's."""
        from traces import cells, parse_rates
        try:
            return cells.number(self.consume_rate), None
        except ValueError:
            readers = parse_rates("--consume-rate", self.consume_rate)
            return readers.overall_tps, readers

    def reported(self) -> dict[str, Any]:
        """Goodput's limits, and percentiles."""
        from .goodput import parse_goodput
        from .percentiles import parse_percentiles
        return {"goodput": parse_goodput(self.goodput or []), "percentiles": parse_percentiles(self.metric_percentiles)}


@dataclass(frozen=True)
class Setup(Asked):
    """A simulation but for its policy."""

    max_model_len: Annotated[int | None, _clients(
        "Reject requests whose prompt and output together are longer (default: no limit)", metavar="TOKENS")] = None

    hardware: Annotated[str | None, _machine(
        "Profile of the package or a JSON file; see tokenflow list hardware (default: rtx4090)", metavar="NAME|FILE")] = None
    model: Annotated[str | None, _machine(
        "Model of the package or a Hugging Face config.json; see tokenflow list models (default: llama3-8b)",
        metavar="NAME|FILE")] = None
    mem_fraction: Annotated[float | None, _machine(
        "Weights, activations and KV over GPU memory, vLLM's --gpu-memory-utilization (default: 0.9)", metavar="SHARE")] = None
    kv_tokens: Annotated[int | None, _machine(
        "KV pool, in place of what follows from the memory: the GPU KV cache size that a server logs", metavar="TOKENS")] = None
    host_kv_tokens: Annotated[int | None, _machine(
        "KV pool in host memory; 0: none (default: twice the GPU's)", metavar="TOKENS")] = None
    block_size: Annotated[int | None, _machine("Tokens per KV block (default: 16)", metavar="TOKENS")] = None
    max_num_seqs: Annotated[int | None, _machine("Requests that may hold GPU memory (default: the profile's)", metavar="N")] = None
    max_num_batched_tokens: Annotated[int | None, _machine(
        "Tokens per engine step (default: the policy's, else the profile's)", metavar="TOKENS")] = None
    link: Annotated[str | None, _machine(
        "Between GPU and host: GB/s each way, oracle (copies take no time) or none (no host tier): bounds on what offloading can "
        "gain (default: the profile's)", metavar="GB/S|oracle|none")] = None
    host_time_ms: Annotated[float | None, _machine(
        "Milliseconds of each step that the GPU waits for the host (default: the profile's)", metavar="MS")] = None
    believed_step: Annotated[float | None, _machine(
        "Step times that the policy believes in, as a multiple of the true ones (default: 1)", metavar="FACTOR")] = None
    believed_link: Annotated[float | None, _machine("Link rates likewise (default: 1)", metavar="FACTOR")] = None

    until: Annotated[float | None, _run("Stop at this second; the rest stays unfinished", metavar="SECOND")] = None


@dataclass(frozen=True)
class Simulated(Setup):
    """One that is carried out by itself."""

    step_by_step: Annotated[bool, _run("One engine step per event: slower, for checking", "--step-by-step")] = False

    def simulation(self) -> dict[str, Any]:
        """Keyword arguments of `sim.simulate` for everything but policy and trace."""
        from .workloads import workload
        machine = workload(self.workload).machine if self.workload is not None else {}
        machine |= self._given(*_MACHINE)
        if self.kv_tokens is not None and self.mem_fraction is not None:
            from traces import BadInput
            raise BadInput("--mem-fraction", str(self.mem_fraction), "cannot be given together with --kv-tokens")
        if self.host_time_ms is not None:
            machine["host_s"] = self.host_time_ms / 1000
        return machine | self.reported() | {
            "workload": self._named(), "consume_rate": self.readers()[0], "seed": self.seed,
            "max_concurrency": self.max_concurrency, "max_model_len": self.max_model_len, "until_s": self.until,
            "step_by_step": self.step_by_step,
        }

    def _named(self) -> str | None:
        """The workload's name, followed by what was changed in it."""
        changed = self.draws() | self._given(*_MACHINE, "host_time_ms", "consume_rate", "max_concurrency", "max_model_len")
        name = changed.pop("workload", None)
        if self.consume_rate == Asked.consume_rate:
            del changed["consume_rate"]
        return name and " ".join([name, *(f"{flag_name(flag)} {value}" for flag, value in changed.items())])


@dataclass(frozen=True)
class Options(Simulated):
    """What `run` and `compare` take."""

    save_detailed: Annotated[bool, _metrics(
        "Also keep lists with an element per request: TTFT, every ITL, lengths, errors", "--save-detailed")] = False

    output_dir: Annotated[str | None, _output(
        "New or empty directory for the results (default: tokenflow-out/COMMAND-N; none with --json)",
        "--output-dir", "-o", metavar="DIR")] = None
    save_timeline: Annotated[bool, _output(
        "Also keep timeline.csv: queue, batch, KV memory and links over time", "--save-timeline")] = False
    json: Annotated[bool, _output("One JSON object on standard output, and nothing else there", "--json")] = False
    debug: Annotated[bool, _output(DEBUG, "--debug")] = False

    def simulation(self) -> dict[str, Any]:
        if self.save_timeline and self.json and self.output_dir is None:
            from traces import BadInput
            raise BadInput("--save-timeline", "command line", "with --json alone no file is kept: give -o DIR as well")
        return super().simulation() | {"timeline": self.save_timeline}

    @property
    def target(self) -> Path | None:
        return directory(self.output_dir)


@dataclass(frozen=True)
class OnePolicy(Flags):
    policy: Annotated[str, _run(
        "NAME, file.py:Class or module:Class; see tokenflow list policies (default: tokenflow)", metavar="POLICY")] = "tokenflow"
    policy_arg: Annotated[list[str] | None, _run("An argument of the policy; may be repeated", metavar="KEY=VALUE")] = None


@dataclass(frozen=True)
class RunOptions(OnePolicy, Options):
    pass


@dataclass(frozen=True)
class CompareOptions(Options):
    policies: Annotated[str, _run(
        "As --policy of run, each with its arguments in square brackets; ratios are to the first (default: sglang,vllm,tokenflow)",
        metavar="POLICY,...")] = "sglang,vllm,tokenflow"


@dataclass(frozen=True)
class DemoOptions(Seeded):
    output_dir: Annotated[str | None, _output(
        "New or empty directory for the results (default: tokenflow-out/demo-N)", "--output-dir", "-o", metavar="DIR")] = None
    debug: Annotated[bool, _output(DEBUG, "--debug")] = False

    @property
    def target(self) -> Path | None:
        return directory(self.output_dir)


@dataclass(frozen=True)
class ReproduceOptions(Flags):
    items: Annotated[list[str] | None, typer.Argument(
        metavar="[ITEM]...", help="Figures and tables, or all (default); --list names them")] = None
    listed: Annotated[bool, _run("Name the items and how long they take", "--list")] = False
    seeds: Annotated[int | None, _run("Seeds of each run (default: 5; with --quick 1)", metavar="N")] = None
    jobs: Annotated[int | None, _run("Runs at a time (default: as many as there are cores)", metavar="N")] = None
    quick: Annotated[bool, _run("One seed, a minute of Poisson arrivals: a check of the command", "--quick")] = False
    resume: Annotated[bool, _run("Complete what an interrupted command has left in DIR", "--resume")] = False
    burstgpt: Annotated[str | None, _run("A real BurstGPT file, in place of requests like its own", metavar="FILE")] = None
    output_dir: Annotated[str | None, _output(
        "New or empty directory for the results (default: tokenflow-out/reproduce-N)", "--output-dir", "-o", metavar="DIR")] = None
    debug: Annotated[bool, _output(DEBUG, "--debug")] = False

    def how(self) -> How:
        from traces import options

        from .reproduce.setups import How
        seeds = (1 if self.quick else 5) if self.seeds is None else options.whole("--seeds", self.seeds, least=1, most=1000)
        return How(seeds, self.quick, self.burstgpt or "")

    def workers(self) -> int:
        from traces import options
        return (os.cpu_count() or 1) if self.jobs is None else options.whole("--jobs", self.jobs, least=1, most=1024)

    @property
    def target(self) -> Path | None:
        return directory(self.output_dir)


def directory(given: str | None) -> Path | None:
    """What --output-dir names."""
    if given is not None and not given.strip():
        from traces import BadInput
        raise BadInput("--output-dir", repr(given), "names no directory")
    return None if given is None else Path(given)


def with_flags(command: Callable[[Any], int | None]) -> Callable[..., Job]:
    """A function of one dataclass as a typer command: each field is a flag, and the command returns what is to be done.

    Typer sees numbers as text. They are read here, when it is done, so that a bad one is a BadInput like any other.
    """
    kind = next(iter(get_type_hints(command).values()))
    hints, flags = get_type_hints(kind), get_type_hints(kind, include_extras=True)

    def flagged(**given: Any) -> Job:
        def job() -> int | None:
            return command(kind(**{name: read_number(name, value, hints[name])
                                   for name, value in given.items() if value is not None}))
        return job

    parameters = []
    for f in fields(kind):
        numeric = hints[f.name] in _NUMBERS
        annotation = Annotated[str | None, *flags[f.name].__metadata__] if numeric else flags[f.name]
        default = inspect.Parameter.empty if f.default is MISSING else None if numeric else f.default
        parameters.append(inspect.Parameter(f.name, inspect.Parameter.KEYWORD_ONLY, annotation=annotation, default=default))
    flagged.__signature__ = inspect.Signature(parameters)       # type: ignore[attr-defined]
    flagged.__name__, flagged.__doc__ = command.__name__, command.__doc__
    return flagged


def read_number(field: str, value: Any, hint: Any) -> Any:
    """The number that a text says, where the field is one."""
    if hint not in _NUMBERS:
        return value
    from traces import BadInput, cells
    try:
        return cells.whole(value) if _NUMBERS[hint] is int else cells.number(value)
    except ValueError as error:
        raise BadInput(flag_name(field), cells.shown(value), str(error)) from None


def flag_name(field: str) -> str:
    return "--" + field.replace("_", "-")
