"""Run by test_faults.py: answers with a grammar beside others, moved to the host and back; one that has none, one given up."""

from __future__ import annotations

import time
from typing import Any

from live import Live, tell
from same_tokens import ROTATE, requests
from vllm import SamplingParams
from vllm.sampling_params import StructuredOutputsParams
from vllm.v1.structured_output.backend_xgrammar import XgrammarBackend

from calibrate.engine.steering import Steering

SLOW, BROKEN = "[s]{5}", "[x]{5}"
GRAMMARS = ("[ab]{7}", "[c]{60}", SLOW, BROKEN)
BYTES_FROM = 3      # ids of the tokenizer below are special tokens


def compile_slowly() -> None:
    """One grammar takes longer than many steps, another fails."""
    compiled = XgrammarBackend.compile_grammar

    def compile_grammar(self: Any, kind: Any, grammar: str, *more: Any, **named: Any) -> Any:
        if grammar == SLOW:
            time.sleep(1.0)
        if grammar == BROKEN:
            raise ValueError("no such grammar")
        return compiled(self, kind, grammar, *more, **named)

    def validate(self: SamplingParams, *_: Any) -> None:    # vLLM's imports packages that its CPU environment does without
        if self.structured_outputs:
            self.structured_outputs._backend = "xgrammar"

    XgrammarBackend.compile_grammar, SamplingParams._validate_structured_outputs = compile_grammar, validate


def main() -> None:
    compile_slowly()
    live = Live(Steering(ROTATE, "h200", "llama3-8b", {"steps": 6, "rich_s": 0.1}, 60, 0.05), 40, skip_tokenizer_init=False)
    alone = live.run(requests(greedy=True))

    def add(grammar: str) -> str:
        return live.add([80, 81, 82], max_tokens=80, temperature=0.0, structured_outputs=StructuredOutputsParams(regex=grammar))

    beside = [live.add(prompt, **sampling) for prompt, sampling in requests(greedy=True)]
    names = dict(zip(GRAMMARS, map(add, GRAMMARS)))
    live.engine.abort_request([add("[g]{7}")], internal=True)
    steps, scheduler = live.scheduler.steps, live.scheduler
    told = {"slow_arrives_after": 0}

    def look() -> None:
        if names[SLOW] not in scheduler.named and names[SLOW] in scheduler.requests:
            told["slow_arrives_after"] = scheduler.steps - steps

    answers = live.finish([*beside, *names.values()], look)
    texts = [bytes(token - BYTES_FROM for token in answer if BYTES_FROM <= token < 256 + BYTES_FROM).decode()
             for answer in answers[len(beside):]]
    tell(told | {"same": answers[:len(beside)] == alone, "texts": dict(zip(GRAMMARS, texts)), "leaked": live.blocks_leaked(),
                 "loads": scheduler.count.loads, "left": len(scheduler.requests) + len(scheduler.named), **scheduler.fidelity()})


if __name__ == "__main__":
    main()
