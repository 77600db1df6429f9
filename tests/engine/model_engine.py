"""The simulator's engine under a load, recorded: in full, or by a policy that notes what it is asked while nobody watches."""

from __future__ import annotations

import copy
from collections.abc import Generator
from dataclasses import dataclass
from math import inf
from typing import Any

import simpy
from cases import Ask
from recording import Decision, Recording

from policies.api import Event, Plan, Policy, View
from sim.engine import Engine
from sim.machine import Machine


def simulated(load: list[Ask], policy: Policy, machine: Machine) -> tuple[Recording, Engine]:
    recording = Recording()
    return recording, _run(load, copy.deepcopy(policy), machine, recording)


def unwatched(load: list[Ask], policy: Policy, machine: Machine) -> tuple[Recording, Engine]:
    """Without a Watch the engine may leave rows as they are until someone looks: no steps are recorded, nor readers looked at."""
    notes = _Notes(copy.deepcopy(policy), Recording())
    return notes.recording, _run(load, notes, machine, None)


@dataclass
class _Notes:
    policy: Policy
    recording: Recording

    def plan(self, view: View) -> Plan:
        plan = self.policy.plan(view)
        self.recording.decisions.append(Decision.of(view, plan, readers=False))
        return plan


def _run(load: list[Ask], policy: Policy, machine: Machine, watch: Recording | None) -> Engine:
    env = simpy.Environment()
    engine = Engine(env, machine, policy, watch=watch)

    def clients() -> Generator[simpy.Event, Any, None]:
        for id, ask in enumerate(load):
            if ask.arrival_s > env.now:
                yield env.timeout(ask.arrival_s - env.now)
            engine.requests.add(id, env.now, ask.prompt_tokens, ask.output_tokens, ask.final_tokens, ask.consumption_rate,
                                ask.priority, ask.ttft_slo_s, ask.tpot_slo_s, ask.reader, ask.rate_changes)
            engine.note(Event.ARRIVAL)
            if ask.gives_up_s < inf:
                env.timeout(ask.gives_up_s).callbacks.append(lambda _, id=id: engine.abort(id))

    env.process(clients())
    env.run()
    assert not engine.requests.n, f"stuck at {env.now:.3f} s with {engine.requests.n} requests unfinished"
    assert engine.kv.free == machine.kv_blocks
    assert engine.kv.host_free == machine.host_kv_blocks
    return engine
