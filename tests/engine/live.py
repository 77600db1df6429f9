"""Real vLLM in this process, on a tiny fp32 model with real random weights: dummy ones hide what happens to KV. One a process."""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from calibrate.engine.start import environment

environment()

import torch  # noqa: E402
from safetensors.torch import save_file  # noqa: E402
from vllm import EngineArgs, SamplingParams  # noqa: E402
from vllm.v1.engine.llm_engine import LLMEngine  # noqa: E402

from calibrate.byte_tokenizer import write_tokenizer  # noqa: E402
from calibrate.engine.steering import Steering  # noqa: E402
from calibrate.profile_model import prepare  # noqa: E402

BLOCK = 32


def weights(directory: Path, seed: int = 0) -> None:
    """Normal, and large enough for the output to depend on every token of the context."""
    config = json.loads((directory / "config.json").read_text())
    hidden, inner, vocab, head = (config[name] for name in ("hidden_size", "intermediate_size", "vocab_size", "head_dim"))
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int, std: float = 0.15) -> torch.Tensor:
        return torch.randn(*shape, generator=generator) * std

    tensors = {"model.embed_tokens.weight": normal(vocab, hidden, std=1.0), "model.norm.weight": torch.ones(hidden),
               "lm_head.weight": normal(vocab, hidden)}
    for i in range(config["num_hidden_layers"]):
        shapes = {"self_attn.q_proj": (heads * head, hidden), "self_attn.k_proj": (kv_heads * head, hidden),
                  "self_attn.v_proj": (kv_heads * head, hidden), "self_attn.o_proj": (hidden, heads * head),
                  "mlp.gate_proj": (inner, hidden), "mlp.up_proj": (inner, hidden), "mlp.down_proj": (hidden, inner)}
        tensors |= {f"model.layers.{i}.{name}.weight": normal(*shape) for name, shape in shapes.items()}
        tensors |= {f"model.layers.{i}.{name}_layernorm.weight": torch.ones(hidden) for name in ("input", "post_attention")}
    save_file(tensors, str(directory / "model.safetensors"), metadata={"format": "pt"})


class Live:
    """An engine with a small pool, steered by a policy or, with None, vLLM's own scheduler."""

    def __init__(self, steering: Steering | None, blocks: int, **engine_args: Any) -> None:
        self._scratch = tempfile.TemporaryDirectory()
        model = prepare("tiny", Path(self._scratch.name))
        weights(model.directory)
        write_tokenizer(model.directory, model.geometry.vocab)
        given = {"model": str(model.directory), "dtype": "float32", "enforce_eager": True, "skip_tokenizer_init": True, "seed": 0,
                 "max_model_len": 1024, "max_num_seqs": 16, "max_num_batched_tokens": 2048, "block_size": BLOCK,
                 "num_gpu_blocks_override": blocks + 1, "async_scheduling": False, "enable_prefix_caching": False,
                 "kv_cache_memory_bytes": 64 << 20} | engine_args
        self.engine = LLMEngine.from_engine_args(EngineArgs(**given | (steering.engine_args() if steering else {})))
        self.core = self.engine.engine_core.engine_core
        self.scheduler = self.core.scheduler
        self.runner = self.core.model_executor.driver_worker.worker.model_runner
        self._added = 0

    def run(self, asks: Sequence[tuple[list[int], dict[str, Any]]], each_step: Callable[[], None] = lambda: None,
            patience_s: float = 120.0) -> list[list[int]]:
        """Output tokens of each (prompt, sampling parameters), all given at once."""
        self.names = [self.add(prompt, **sampling) for prompt, sampling in asks]
        return self.finish(self.names, each_step, patience_s)

    def add(self, prompt: list[int], **sampling: Any) -> str:
        """Its id inside the engine."""
        self._added += 1
        name: str = self.engine.add_request(f"r{self._added}", {"prompt_token_ids": prompt},
                                            SamplingParams(detokenize=False, **sampling))
        return name

    def finish(self, internal: Sequence[str], each_step: Callable[[], None] = lambda: None,
               patience_s: float = 120.0) -> list[list[int]]:
        names = [name.split("-")[0] for name in internal]       # vLLM appends to the names that it is given
        tokens: dict[str, list[int]] = {name: [] for name in names}
        end_s = time.monotonic() + patience_s
        while self.engine.has_unfinished_requests() or self.scheduler.has_requests():
            assert time.monotonic() < end_s, f"hangs with {self.scheduler.requests}"
            for output in self.engine.step():
                tokens[output.request_id] = list(output.outputs[0].token_ids)
            each_step()
        return [tokens[name] for name in names]

    def blocks_leaked(self) -> tuple[int, int]:
        """GPU blocks and host blocks that nobody holds and nobody can take."""
        pool, host = self.scheduler.kv_cache_manager.block_pool, self.scheduler.host.pool
        return pool.num_gpu_blocks - 1 - pool.get_num_free_blocks(), host.total_blocks - host.free_blocks


def tell(facts: Any) -> None:
    """To the test that started this process."""
    print("\nTOLD" + json.dumps(facts), file=sys.stderr)
