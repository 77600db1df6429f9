"""A model's geometry from its Hugging Face config.json; parameters by arithmetic.

Only what the step times can be scaled to: dense decoders with full attention and 16-bit weights. Everything else is refused
by name rather than simulated as if it were one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, model_validator

from traces.cells import shown
from traces.errors import BadInput

from .geometry import ModelGeometry
from .strict_json import read

_Width = Annotated[int, Field(ge=1, le=1_000_000)]

#: architecture -> the `model_type` of its configs
_ARCHITECTURES = {"LlamaForCausalLM": "llama", "MistralForCausalLM": "mistral", "Qwen2ForCausalLM": "qwen2",
                  "Qwen3ForCausalLM": "qwen3"}

#: keys that make a model one that is not modelled, and what it is then
_REFUSED = {
    "text_config": "multi-modal input", "vision_config": "multi-modal input", "audio_config": "multi-modal input",
    "num_experts": "mixtures of experts", "num_local_experts": "mixtures of experts", "n_routed_experts": "mixtures of experts",
    "kv_lora_rank": "multi-head latent attention",
    "is_encoder_decoder": "encoder-decoder models",
    "quantization_config": "quantised weights", "compression_config": "quantised weights",
}


class _Config(BaseModel):
    """The keys that shapes follow from; the many others may be anything. Defaults are those of transformers."""

    model_config = ConfigDict(extra="ignore", strict=True, frozen=True, allow_inf_nan=False)

    hidden_size: _Width
    num_hidden_layers: Annotated[int, Field(ge=1, le=10_000)]
    num_attention_heads: _Width
    num_key_value_heads: _Width | None = None
    head_dim: _Width | None = None
    intermediate_size: _Width
    vocab_size: Annotated[int, Field(ge=1, le=100_000_000)]
    max_position_embeddings: Annotated[int, Field(ge=1, le=1_000_000_000)]
    torch_dtype: Literal["bfloat16", "float16", "float32"] | None = None
    dtype: Literal["bfloat16", "float16", "float32"] | None = None
    tie_word_embeddings: bool = False
    attention_bias: bool = False
    mlp_bias: bool = False

    @model_validator(mode="after")
    def _divides(self) -> _Config:
        heads = self.num_attention_heads
        if heads % self.kv_heads:
            raise ValueError(f"num_attention_heads {heads} is no multiple of num_key_value_heads {self.kv_heads}")
        if self.head_dim is None and self.hidden_size % heads:
            raise ValueError(f"hidden_size {self.hidden_size} is no multiple of num_attention_heads {heads}; give head_dim")
        return self

    @property
    def kv_heads(self) -> int:
        return self.num_key_value_heads or self.num_attention_heads


_CONFIG, _ANYTHING = TypeAdapter(_Config), TypeAdapter(dict[str, Any])


def read_config(path: Path) -> ModelGeometry:
    """The geometry that a config.json, or the one in a directory, describes; BadInput says what is in the way."""
    try:
        if path.is_dir():
            path /= "config.json"
        text = path.read_bytes()
    except (OSError, ValueError) as error:
        hint = "" if path.suffix == ".json" else "; nothing is downloaded, give the path of the model's config.json"
        raise BadInput("model config", str(path), (getattr(error, "strerror", None) or str(error)) + hint) from None
    what = f"model config {path}"
    keys = read(_ANYTHING, text, what)
    for key, kind in _REFUSED.items():
        if keys.get(key):
            raise BadInput(what, key, f"not modelled: {kind}")
    architecture = _architecture(keys, what)
    _check_full_attention(keys, architecture, what)
    kind = _ARCHITECTURES[architecture]
    if keys.get("model_type", kind) != kind:
        given = shown(keys["model_type"])
        raise BadInput(what, "model_type", f"{given} contradicts architectures, {architecture}: must be '{kind}'")
    config = read(_CONFIG, text, what)
    head_dim = config.head_dim or (128 if architecture == "Qwen3ForCausalLM" else config.hidden_size // config.num_attention_heads)
    return ModelGeometry(
        name=str(path),
        layers=config.num_hidden_layers,
        hidden=config.hidden_size,
        heads=config.num_attention_heads,
        kv_heads=config.kv_heads,
        head_dim=head_dim,
        intermediate=config.intermediate_size,
        vocab=config.vocab_size,
        # vLLM serves 32-bit weights, and those of no stated type, in 16 bits
        dtype="float16" if "float16" in (config.torch_dtype, config.dtype) else "bfloat16",
        parameters=_parameters(config, architecture, head_dim),
        tied_embeddings=config.tie_word_embeddings,
        trained_context=config.max_position_embeddings,
        source=f"{path}; parameters by arithmetic",
    )


def _architecture(keys: dict[str, Any], what: str) -> str:
    given = keys.get("architectures")
    if isinstance(given, list) and len(given) == 1 and isinstance(given[0], str) and given[0] in _ARCHITECTURES:
        return given[0]
    why = "missing" if given is None else f"not modelled: {str(given)[:60]}"
    raise BadInput(what, "architectures", f"{why}; must be one of {', '.join(_ARCHITECTURES)}")


def _check_full_attention(keys: dict[str, Any], architecture: str, what: str) -> None:
    """A window below the context makes KV smaller than its formula. Qwen's configs name one that they do not use."""
    kinds = keys.get("layer_types") or []
    other = [kind for kind in kinds if kind != "full_attention"] if isinstance(kinds, list) else [kinds]
    if other:
        raise BadInput(what, "layer_types", f"not modelled: {str(other[0])[:60]}; must all be full_attention")
    used = keys.get("use_sliding_window", not architecture.startswith("Qwen"))
    window, longest = keys.get("sliding_window"), keys.get("max_position_embeddings")
    if used and window and not (isinstance(window, int) and isinstance(longest, int) and window >= longest):
        raise BadInput(what, "sliding_window", f"not modelled: attention to a window of {str(window)[:60]}")


def _parameters(config: _Config, architecture: str, head_dim: int) -> int:
    """Of all weight matrices, biases and norms."""
    hidden, mlp = config.hidden_size, config.intermediate_size
    query, key = config.num_attention_heads * head_dim, config.kv_heads * head_dim
    layer = 2 * hidden * (query + key) + 3 * hidden * mlp + 2 * hidden      # Q and O, K and V; gate, up, down; two norms
    match architecture:
        case "Qwen2ForCausalLM":
            layer += query + 2 * key
        case "Qwen3ForCausalLM":
            layer += 2 * head_dim                                           # norms of Q and K
    if config.attention_bias and architecture in ("LlamaForCausalLM", "Qwen3ForCausalLM"):
        layer += query + 2 * key + hidden
    if config.mlp_bias and architecture == "LlamaForCausalLM":
        layer += 2 * mlp + hidden
    embeddings = config.vocab_size * hidden * (1 if config.tie_word_embeddings else 2)
    return config.num_hidden_layers * layer + embeddings + hidden
