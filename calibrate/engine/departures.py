"""What becomes of a step that vLLM does otherwise than planned."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vllm.logger import init_logger
from vllm.v1.request import RequestStatus

from policies.api import Residency

from .stream import Stream

if TYPE_CHECKING:
    from .scheduler import PlanScheduler

logger = init_logger(f"vllm.{__name__}")
_TOLD = 10              # departures that each get a line in the log; then every thousandth


def left_waiting(begin: list[Stream]) -> bool:
    """Whether anyone who was to begin has not."""
    begun = (RequestStatus.RUNNING, RequestStatus.WAITING_FOR_REMOTE_KVS)
    return any(stream.request.status not in begun for stream in begin)


def take_as_it_is(engine: PlanScheduler, out: Any) -> None:
    """Count it, follow what vLLM has done, and ask the policy again after the step."""
    engine.departures += 1
    ran = out.num_scheduled_tokens
    if engine.departures <= _TOLD or engine.departures % 1000 == 0:
        logger.warning("step %d departs from its plan, %d have: %.300s instead of %.300s", engine.steps, engine.departures, ran,
                       engine.tokens)
    for name in set(out.preempted_req_ids or ()) - engine.left:         # by vLLM itself
        engine.give_up_copy(engine.named[name])
        engine.named[name].move(Residency.NONE, engine.step_began_s)
    for stream in engine.loading:
        if stream.request.status != RequestStatus.WAITING_FOR_REMOTE_KVS:       # computed anew, or it might wait for ever
            engine.host.cancel_load(stream.name)
            engine.give_up_copy(stream)
            engine.count.copies_given_up += 1
            stream.move(Residency.NONE, stream.moved_s)
    engine.writing = [(stream, tokens) for stream, tokens in engine.writing if stream.residency == Residency.GPU]
    engine.storing = [stream for stream in engine.storing if stream.residency in (Residency.GPU, Residency.LOADING)]
    engine.decoding = [stream for stream in engine.decoding if stream.name in ran]
    engine.prefill = [(stream, ran[stream.name]) for stream, _ in engine.prefill if stream.name in ran]
    engine.tokens, engine.chunk_unfinished = dict(ran), True
    engine.batch_changes()
