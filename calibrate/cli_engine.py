"""The flags of a real engine: vLLM's arguments under vLLM's names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Annotated, Any

import typer

_PANEL = "Engine (vLLM's arguments; vLLM's defaults where not given)"


def _engine(help: str, metavar: str | None = None) -> Any:
    return typer.Option(help=help, metavar=metavar, rich_help_panel=_PANEL, show_default=False)


@dataclass(frozen=True, kw_only=True)
class EngineFlags:
    dtype: Annotated[str | None, _engine("auto, bfloat16, float16 or float32", "DTYPE")] = None
    max_model_len: Annotated[int | None, _engine("Longest prompt and answer, in tokens", "N")] = None
    max_num_seqs: Annotated[int | None, _engine("Requests in a step at most", "N")] = None
    max_num_batched_tokens: Annotated[int | None, _engine("Tokens in a step at most", "N")] = None
    gpu_memory_utilization: Annotated[float | None, _engine("Share of the memory to use", "SHARE")] = None
    kv_cache_memory_bytes: Annotated[int | None, _engine("Memory for KV", "BYTES")] = None
    num_gpu_blocks_override: Annotated[int | None, _engine("Number of KV blocks", "N")] = None
    block_size: Annotated[int | None, _engine("Tokens in a KV block", "N")] = None
    kv_cache_dtype: Annotated[str | None, _engine("auto, or another type of KV than the model's", "DTYPE")] = None
    attention_backend: Annotated[str | None, _engine("Another than vLLM would choose", "NAME")] = None
    compilation_config: Annotated[str | None, _engine("JSON, as for vllm serve", "JSON")] = None
    enforce_eager: Annotated[bool, typer.Option(
        "--enforce-eager", help="Neither torch.compile nor CUDA graphs: starts sooner, steps take longer",
        rich_help_panel=_PANEL, show_default=False)] = False

    def engine_args(self) -> dict[str, Any]:
        """Those that were given. BadInput if vLLM could do nothing with one."""
        from traces import BadInput
        counts = ("max_model_len", "max_num_seqs", "max_num_batched_tokens", "kv_cache_memory_bytes", "num_gpu_blocks_override",
                  "block_size")
        names = (*counts, "dtype", "gpu_memory_utilization", "kv_cache_dtype", "attention_backend")
        given = {name: value for name in names if (value := getattr(self, name)) is not None}
        for name in counts:
            if given.get(name, 1) < 1:
                raise BadInput(f"--{name.replace('_', '-')}", str(given[name]), "must be a whole number from 1")
        if not 0 < given.get("gpu_memory_utilization", 1.0) <= 1:
            raise BadInput("--gpu-memory-utilization", str(self.gpu_memory_utilization), "must be a share above 0, at most 1")
        if self.compilation_config is not None:
            given["compilation_config"] = _object("--compilation-config", self.compilation_config)
        return given | ({"enforce_eager": True} if self.enforce_eager else {})

    def engine_words(self, also: Mapping[str, Any], leave_out: Sequence[str] = ()) -> list[str]:
        """The flags that were given, but for `leave_out`, as words of a command line; and `also`, unless they say otherwise."""
        mine = {f.name: value for f in fields(EngineFlags) if (value := getattr(self, f.name)) not in (None, False)}
        wanted = dict(also) | {name: value for name, value in mine.items() if name not in leave_out}
        words = []
        for name, value in wanted.items():
            words += ["--" + name.replace("_", "-"), *([] if value is True else [str(value)])]
        return words


def _object(flag: str, text: str) -> dict[str, Any]:
    import json

    from traces import BadInput
    try:
        found = json.loads(text)
    except ValueError as error:
        raise BadInput(flag, repr(text), f"is not JSON: {error}") from None
    if not isinstance(found, dict):
        raise BadInput(flag, repr(text), "is not a JSON object")
    return found
