"""Real vLLM in this process, as `calibrate.replay_play` drives it: under vLLM's own scheduler, or under a policy's plans.

What is not public of vLLM, beyond `calibrate.engine.scheduler`, is in this file and in `start`. Run on 0.32.0 on a CPU.
"""

from __future__ import annotations

import gc
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from calibrate.replay_play import Played, Spoke
from sim.beliefs import Beliefs
from sim.counters import Counters
from sim.machine import Machine
from sim.timeline import Timeline

from .host_tier import HostTier
from .replay_timeline import Recorder
from .start import facts_of, limits_of, start
from .steering import Steering

_WARM = (1, 8, 64, 256)         # tokens of prompts that make the first step of each size here, not in the replay
_WARM_OUTPUT = 8


class ReplayEngine:
    """A `replay_play.Engine`. BadInput if it does not start."""

    def __init__(self, directory: Path, arguments: Mapping[str, Any]) -> None:
        self._engine, self.device = start(directory, arguments)
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind
        self._sampling, self._delta = SamplingParams, RequestOutputKind.DELTA
        self.limits = limits_of(self._engine.vllm_config)
        self.scheduler: Any = self._engine.engine_core.engine_core.scheduler
        self._requests: dict[int, Any] = {}
        self._recorder: Recorder | None = None
        self._warm_up()

    @property
    def usable_blocks(self) -> int:
        """One is vLLM's null block."""
        return self.limits.num_gpu_blocks - 1

    def add(self, id: int, prompt: list[int], output_tokens: int, reader: Mapping[str, Any]) -> None:
        name = self._engine.add_request(str(id), {"prompt_token_ids": prompt}, self._sampling(
            temperature=0.0, max_tokens=output_tokens, ignore_eos=True, detokenize=False,
            output_kind=self._delta, extra_args=dict(reader)))
        self._requests[id] = self.scheduler.requests[name]

    def step(self) -> list[Spoke]:
        return [Spoke(int(output.request_id), sum(len(each.token_ids) for each in output.outputs), bool(output.finished))
                for output in self._engine.step()]

    def abort(self, ids: list[int]) -> None:
        self._engine.abort_request([str(id) for id in ids])

    def preemptions(self) -> Mapping[int, int]:
        return {id: int(request.num_preemptions) for id, request in self._requests.items()}

    # ---- what the scheduler counts, where it does

    def facts(self) -> dict[str, Any]:
        """The resolved configuration, for host.json."""
        return facts_of(self._engine.vllm_config, self.device)

    def machine(self) -> Machine | None:
        """As the policy knows it; None where there is none."""
        scheduler = self.scheduler
        steering = Steering.of(scheduler.vllm_config)
        return None if steering is None else steering.machine(scheduler.vllm_config, scheduler.kv_cache_config)

    def counters(self) -> Counters | None:
        found: Counters | None = getattr(self.scheduler, "count", None)
        return found

    def fidelity(self) -> dict[str, Any]:
        """Of carried-out plans; {} of vLLM's own scheduler."""
        tell = getattr(self.scheduler, "fidelity", None)
        return {} if tell is None else dict(tell())

    def links(self) -> dict[str, float] | None:
        """By `sim.result.LINKS`."""
        tell = getattr(getattr(self.scheduler, "host", None), "totals", None)
        return None if tell is None else dict(tell())

    def record(self) -> None:
        """A timeline, from now on."""
        self._recorder = Recorder(self.scheduler)

    def timeline(self, played: Played) -> Timeline | None:
        return None if self._recorder is None else self._recorder.timeline(played.start_s, played.end_s)

    # ---- before the first request

    def _warm_up(self) -> None:
        """Steps of several sizes: the first of each takes longer. Nothing of them is counted."""
        longest = min(self.limits.max_model_len, self.usable_blocks * self.limits.block_size) - _WARM_OUTPUT
        for i, tokens in enumerate(tokens for tokens in _WARM if tokens <= longest):
            self.add(-1 - i, [10] * tokens, _WARM_OUTPUT, {})
        while self._engine.has_unfinished_requests():
            self._engine.step()
        self._requests.clear()
        self._begin_afresh()
        gc.collect()
        gc.freeze()

    def _begin_afresh(self) -> None:
        """The policy has seen nothing, and nothing has been counted."""
        scheduler, machine = self.scheduler, self.machine()
        if machine is None:
            return
        steering = Steering.of(scheduler.vllm_config)
        assert steering is not None
        scheduler.steer(steering.planner(), Beliefs(machine), HostTier(machine, steering.emulated))
        scheduler.count = Counters()
        scheduler.arrivals.begin_afresh()
        scheduler.steps = scheduler.departures = scheduler.fallbacks = 0
