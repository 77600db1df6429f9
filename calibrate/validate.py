"""`tokenflow-calibrate validate`: profile, fit, simulate, replay, compare, one after the other, into one folder.

    samples/, profile.json    the machine, from the grid of `profile` alone
    trace.csv                 the requests
    predicted/                what the simulator says, before anything is replayed
    measured-1/, ...          what real vLLM did; a folder for each repeat
    compare.html, compare.json, validation.txt

Each stage that drives vLLM has a process of its own, and all that they say is in log.txt.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from sim import saving
from sim.counted import counted
from sim.hardware import Hardware, load_hardware, manifest, step_times
from sim.machine import Machine
from sim.policy_choice import Choice, choose_all, split_specs
from sim.result import Result
from sim.simulate import simulate
from traces import BadInput, Trace, load_trace, options
from traces.write import write_trace

from . import machine_facts
from .burst import Burst, Condition, conditions, design
from .comparison import ITS_POLICY, STOCK, comparison
from .engine.steering import Steering
from .profile_model import prepare
from .replay import FAILED
from .samples import MACHINE as SAMPLES_MACHINE
from .samples import read_facts
from .stages import Failed, Stages

if TYPE_CHECKING:
    from .cli_validate import ValidateOptions

_EMULATED_TOKENS_PER_S = 25_600     # of an emulated link nobody gave a rate for: KV of 256 tokens in 10 ms, half a step on a CPU
_ON_CPU = {"max_num_seqs": 64, "block_size": 32, "max_model_len": 2048, "max_num_batched_tokens": 512, "enforce_eager": True}
_NEEDED = ("scipy", "matplotlib")


@dataclass(frozen=True)
class Contender:
    """A policy, as it is simulated and as it is replayed."""

    spec: str
    choice: Choice

    @property
    def stock(self) -> bool:
        return self.spec == STOCK


def validate(asked: ValidateOptions) -> int:
    """The exit code. Whatever ends it early, what is done is kept."""
    folder, contenders = Path(asked.output), _contenders(asked.policies)
    trace = _check(asked, folder)
    stages = Stages(folder)
    try:
        _stages(asked, stages, contenders, trace)
    except Failed as failed:
        print(f"tokenflow-calibrate: {failed}; {folder} keeps what is done", file=sys.stderr)
        return FAILED
    except BaseException:
        if stages.done:
            stages.say(f"stopped; {folder} keeps what is done")
        raise
    finally:
        stages.close()
    return 0


def _check(asked: ValidateOptions, folder: Path) -> Trace | None:
    """BadInput on whatever is wrong, before minutes are spent. The trace, if one is named."""
    for name in _NEEDED:
        if find_spec(name) is None:
            raise BadInput(name, sys.prefix, "is not installed; validate fits and draws")
    asked.check_tier()
    options.whole("--repeats", asked.repeats, least=1)
    options.tps("--consume-rate", asked.readers()[0])
    asked.seconds(), asked.engine_args(), asked.reported()
    with TemporaryDirectory(prefix="tokenflow-calibrate-") as scratch:
        prepare(asked.model, Path(scratch))
    if asked.profile is not None:
        load_hardware(asked.profile)
        if asked.block_size is None:
            raise BadInput("--block-size", "(not given)", "a profile does not say it: give it beside --profile")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise BadInput("output directory", str(folder), "is not empty; results are never overwritten")
    named = asked.trace is not None or bool(asked.draws()) or bool(asked.cuts())
    return asked.requests() if named else None


def _contenders(policies: str) -> list[Contender]:
    """vLLM's own scheduler is simulated as the policy vllm."""
    specs = split_specs(policies)
    if specs.count(STOCK) > 1:
        raise BadInput("--policies", STOCK, "is listed twice")
    others = [spec for spec in specs if spec != STOCK]
    choices = dict(zip(others, choose_all(",".join(others)) if others else []))
    own = choose_all(ITS_POLICY)[0]
    return [Contender(spec, choices.get(spec, own)) for spec in specs]


@dataclass(frozen=True)
class Bench:
    """The engine to be: limits as the profiled one had them, and what a policy believes of it."""

    profile: str
    model: str
    limits: dict[str, int]          #: num_gpu_blocks, block_size, max_num_seqs, max_num_batched_tokens, max_model_len
    host_blocks: int | None         #: None: twice the usable pool
    link_gb_per_s: float | None

    @cached_property
    def hardware(self) -> Hardware:
        return load_hardware(self.profile)

    @property
    def host_pool(self) -> int:
        return 2 * (self.limits["num_gpu_blocks"] - 1) if self.host_blocks is None else self.host_blocks

    @property
    def longest(self) -> int:
        return min(self.limits["max_model_len"], (self.limits["num_gpu_blocks"] - 1) * self.limits["block_size"])

    def with_blocks(self, blocks: int) -> Bench:
        return replace(self, limits=self.limits | {"num_gpu_blocks": blocks})

    @property
    def machine(self) -> Machine:
        geometry, _ = step_times(self.hardware, self.model)
        steering = Steering(ITS_POLICY, self.profile, self.model, {}, self.host_pool, self.link_gb_per_s)
        steering.check()
        limits = self.limits
        return steering.on(limits["num_gpu_blocks"], limits["block_size"], limits["max_num_seqs"], limits["max_num_batched_tokens"],
                           geometry.kv_token_bytes, geometry.layers)


def _stages(asked: ValidateOptions, stages: Stages, contenders: Sequence[Contender], trace: Trace | None) -> None:
    bench = _profiled(asked, stages)
    if trace is None:
        stages.say("choosing a burst by the profile")
        burst = design(lambda blocks: bench.with_blocks(blocks).machine, bench.limits["max_model_len"], seed=asked.seed)
    else:
        burst = Burst(trace, bench.limits["num_gpu_blocks"], bench.machine)
    bench = bench.with_blocks(burst.num_gpu_blocks)
    write_trace(burst.trace, stages.folder / "trace.csv")
    trace = load_trace(stages.folder / "trace.csv")
    predicted = _predicted(asked, stages, contenders, bench, trace)
    met = _conditions(trace, bench.machine, contenders, predicted)
    _measured(asked, stages, contenders, bench)
    _compared(asked, stages, met, bench)


def _profiled(asked: ValidateOptions, stages: Stages) -> Bench:
    given = asked.engine_args()
    if asked.profile is not None:
        hardware = load_hardware(asked.profile)
        name = asked.model if asked.model in hardware.models else next(iter(hardware.models))
        block_size = int(given["block_size"])
        blocks = given.get("num_gpu_blocks_override") or (step_times(hardware, name)[1].kv_tokens or 0) // block_size
        if not blocks:
            raise BadInput("--num-gpu-blocks-override", "(not given)", f"{asked.profile} does not know the size of the KV pool")
        limits = {"num_gpu_blocks": int(blocks), "block_size": block_size,
                  "max_num_seqs": given.get("max_num_seqs", hardware.defaults.max_num_seqs),
                  "max_num_batched_tokens": given.get("max_num_batched_tokens", hardware.defaults.max_num_batched_tokens),
                  "max_model_len": given.get("max_model_len", _ON_CPU["max_model_len"])}
        where = str(Path(asked.profile).resolve()) if asked.profile.endswith(".json") else asked.profile
        return Bench(where, name, limits, _host_blocks(asked, block_size), _link(asked, hardware, name))
    samples, profile = stages.folder / "samples", stages.folder / "profile.json"
    flags = asked.engine_words(_ON_CPU if _cpu() else {}, ("num_gpu_blocks_override",))
    stages.run("profile", f"profiling {asked.model} for {asked.budget} at most",
               ["profile", "--model", asked.model, "--budget", asked.budget, "-o", str(samples), *flags])
    stages.say("fitting")
    from .cli_commands import FitOptions
    from .cli_fit import fit
    with redirect_stdout(stages.log):
        fit(FitOptions(samples=str(samples), output=str(profile)))
    facts = read_facts(samples / SAMPLES_MACHINE)
    limits = {name: int(facts[name]) for name in ("num_gpu_blocks", "block_size", "max_num_seqs", "max_num_batched_tokens",
                                                  "max_model_len")}
    limits["num_gpu_blocks"] = int(given.get("num_gpu_blocks_override", limits["num_gpu_blocks"]))
    hardware = load_hardware(profile)
    return Bench(str(profile.resolve()), str(facts["model"]), limits, _host_blocks(asked, limits["block_size"]),
                 _link(asked, hardware, str(facts["model"])))


def _cpu() -> bool:
    """Whether this is a machine without a GPU: there the usual limits make steps of seconds."""
    return not machine_facts.gpus()


def _host_blocks(asked: ValidateOptions, block_size: int) -> int | None:
    none = asked.host_blocks is None and asked.host_kv_tokens is None
    return None if none else asked.host_pool(block_size)


def _link(asked: ValidateOptions, hardware: Hardware, model: str) -> float | None:
    """GB/s of an emulated link: what was asked for, or one that suits a machine without a link; None: its own."""
    if asked.emulate_link is not None or hardware.link is not None:
        return asked.emulate_link
    return float(f"{_EMULATED_TOKENS_PER_S * step_times(hardware, model)[0].kv_token_bytes / 1e9:.1g}")


def _predicted(asked: ValidateOptions, stages: Stages, contenders: Sequence[Contender], bench: Bench,
               trace: Trace) -> dict[str, Result]:
    stages.say("predicting")
    limits = bench.limits
    rests_on = manifest(bench.hardware, bench.model, link=bench.link_gb_per_s,
                        kv_tokens=limits["num_gpu_blocks"] * limits["block_size"])
    if bench.link_gb_per_s is not None:
        rests_on["link_status"] = f"emulated link: {bench.link_gb_per_s:g} GB/s each way"
    results = {contender.choice.label: simulate(
        contender.choice.policy, trace, bench.machine, bench.model, label=contender.choice.label, provenance=rests_on,
        consume_rate=asked.readers()[0], max_concurrency=asked.max_concurrency, max_model_len=bench.longest, seed=asked.seed,
        timeline=True, **asked.reported()) for contender in contenders}
    with saving.Draft(stages.folder / "predicted", "predicted") as draft:
        saving.write_comparison(draft, results, detailed=True)
        draft.write("host.json", saving.as_json(saving.host_facts(command=["tokenflow-calibrate", *sys.argv[1:]])))
        draft.publish()
    stages.done = True
    return results


def _conditions(trace: Trace, machine: Machine, contenders: Sequence[Contender], predicted: dict[str, Result]) -> list[Condition]:
    own = predicted.get(ITS_POLICY) or simulate(ITS_POLICY, trace, machine)
    moving = [result for label, result in predicted.items() if result.summary["loads"]]
    return conditions(trace, machine, own, max(moving, key=lambda result: result.summary["loads"], default=None))


def _measured(asked: ValidateOptions, stages: Stages, contenders: Sequence[Contender], bench: Bench) -> None:
    limits = bench.limits
    fixed = {"num_gpu_blocks_override": limits["num_gpu_blocks"], "max_model_len": bench.longest,
             **{name: limits[name] for name in ("block_size", "max_num_seqs", "max_num_batched_tokens")}}
    flags = asked.engine_words(({"enforce_eager": True} if _cpu() else {}) | fixed, tuple(fixed))
    tier = ["--profile", bench.profile, "--host-blocks", str(bench.host_pool)]
    tier += [] if bench.link_gb_per_s is None else ["--emulate-link", f"{bench.link_gb_per_s:g}"]
    clients = ["--consume-rate", f"{asked.readers()[0]:g}", "--seed", str(asked.seed)]
    clients += [] if asked.max_concurrency is None else ["--max-concurrency", str(asked.max_concurrency)]
    for repeat in range(1, asked.repeats + 1):
        for contender in contenders:
            where = stages.folder / f"measured-{repeat}" / saving.folder_of(contender.spec)
            stages.run(f"replay of {contender.spec}", f"replaying under {contender.spec}, {repeat} of {asked.repeats}", [
                "replay", "--policy", contender.spec, "--model", asked.model, "--trace", str(stages.folder / "trace.csv"),
                "--save-timeline", "-o", str(where), *clients, *flags, *([] if contender.stock else tier)])


def _compared(asked: ValidateOptions, stages: Stages, met: Sequence[Condition], bench: Bench) -> None:
    from .compare import FACTS, PAGE, files
    from .compare_text import text
    from .comparison import facts
    folder = stages.folder
    found = comparison(folder / "predicted", [folder / f"measured-{repeat}" for repeat in range(1, asked.repeats + 1)])
    told = files(found)
    told[FACTS] = saving.as_json(facts(found) | {"conditions": [
        {"what": each.what, "value": each.value, "least": each.least, "most": each.most, "ok": each.ok} for each in met]})
    limits = bench.limits
    link = "" if bench.link_gb_per_s is None else f", emulated link of {bench.link_gb_per_s:g} GB/s each way"
    pool, host = ((blocks * limits["block_size"]) for blocks in (limits["num_gpu_blocks"] - 1, bench.host_pool))
    requests = counted(len(found.pairs[0].simulated.requests["fate"]), "request")
    lines = [f"{bench.model} on {bench.hardware.name}: KV pool {pool:,} tokens, host {host:,}{link}",
             f"{requests}; what makes this worth something, as predicted:", *(f"  {each}" for each in met), "", text(found)]
    told["validation.txt"] = "\n".join(lines) + "\n"
    for name, content in told.items():
        (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
    print("\n".join(lines))
    print(folder / PAGE)
