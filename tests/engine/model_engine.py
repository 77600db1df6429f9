"""The simulator's engine under a load, recorded."""

from __future__ import annotations

import copy
from collections.abc import Generator
from typing import Any

import simpy

from cases import Ask
from policies.api import Event, Policy
from recording import Recording
from sim.engine import Engine
from sim.machine import Machine


def simulated(load: list[Ask], policy: Policy, machine: Machine) -> tuple[Recording, Engine]:
    env, recording = simpy.Environment(), Recording()
    engine = Engine(env, machine, copy.deepcopy(policy), watch=recording)

    def clients() -> Generator[simpy.Event, Any, None]:
        for id, ask in enumerate(load):
            if ask.arrival_s > env.now:
                yield env.timeout(ask.arrival_s - env.now)
            engine.requests.add(id, env.now, ask.prompt_tokens, ask.output_tokens, ask.output_tokens, ask.consumption_rate, ask.priority,
                                ask.ttft_slo_s, ask.tpot_slo_s, ask.reader)
            engine.note(Event.ARRIVAL)

    env.process(clients())
    env.run()
    assert not engine.requests.n, f"stuck at {env.now:.3f} s with {engine.requests.n} requests unfinished"
    assert engine.kv.free == machine.kv_blocks
    assert engine.kv.host_free == machine.host_kv_blocks
    return recording, engine
