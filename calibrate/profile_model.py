"""The model to profile: a geometry by name, with a config.json made for it, or a directory that holds one.

Step times depend on a model's shapes, not on its weights: names get dummy weights, and nothing is downloaded.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from sim.geometry import ModelGeometry
from sim.hf_config import read_config
from sim.models import list_models, load_model
from traces import BadInput

#: for machines without a GPU: a few layers, so that a step takes milliseconds
SMALL: dict[str, dict[str, int]] = {
    "tiny": {"layers": 2, "hidden": 128, "heads": 2, "kv_heads": 1, "intermediate": 384, "vocab": 512, "trained_context": 4096},
    "small": {"layers": 8, "hidden": 1024, "heads": 16, "kv_heads": 4, "intermediate": 3072, "vocab": 8192,
              "trained_context": 8192},
}
_SMALL_KV_BYTES = {"tiny": 256 << 20, "small": 1 << 30}
_LONGEST_BY_NAME = 32_768       # max_model_len; a longer one only keeps the pools of small GPUs from being started


@dataclass(frozen=True)
class Model:
    name: str
    geometry: ModelGeometry
    directory: Path
    load_format: str                        #: vLLM's: dummy, or auto where there are weights
    max_model_len: int | None = None        #: None: vLLM's default
    kv_cache_memory_bytes: int | None = None


def prepare(name: str, scratch: Path) -> Model:
    """The model that a name or a directory means; configurations are written to `scratch`. BadInput if there is none."""
    if name in SMALL:
        return _made(name, _small(name), scratch)
    if name in list_models():
        return _made(name, load_model(name), scratch)
    directory = Path(name)
    if not (directory / "config.json").is_file():
        known = ", ".join((*SMALL, *list_models()))
        raise BadInput("--model", repr(name), f"unknown; known are {known}, or give a directory with a config.json")
    weights = any(directory.glob("*.safetensors")) or any(directory.glob("*.bin"))
    return Model(name, read_config(directory), directory.resolve(), "auto" if weights else "dummy")


def _small(name: str) -> ModelGeometry:
    shapes = SMALL[name]
    hidden, layers, vocab = shapes["hidden"], shapes["layers"], shapes["vocab"]
    head_dim = hidden // shapes["heads"]
    layer = 2 * hidden * head_dim * (shapes["heads"] + shapes["kv_heads"]) + 3 * hidden * shapes["intermediate"] + 2 * hidden
    parameters = layers * layer + 2 * vocab * hidden + hidden
    return ModelGeometry.model_validate(shapes | {"name": name, "head_dim": head_dim, "dtype": "bfloat16", "parameters": parameters,
                                                  "source": "made for profiling without a GPU"})


def _made(name: str, geometry: ModelGeometry, scratch: Path) -> Model:
    """With a config.json as transformers would write it."""
    qwen = name.startswith("qwen2")
    config = {
        "architectures": ["Qwen2ForCausalLM" if qwen else "LlamaForCausalLM"], "model_type": "qwen2" if qwen else "llama",
        "hidden_size": geometry.hidden, "intermediate_size": geometry.intermediate, "num_hidden_layers": geometry.layers,
        "num_attention_heads": geometry.heads, "num_key_value_heads": geometry.kv_heads, "head_dim": geometry.head_dim,
        "vocab_size": geometry.vocab, "max_position_embeddings": geometry.trained_context, "rms_norm_eps": 1e-5,
        "rope_theta": 1_000_000.0 if qwen else 500_000.0, "hidden_act": "silu", "initializer_range": 0.02,
        "tie_word_embeddings": geometry.tied_embeddings, "bos_token_id": 1, "eos_token_id": 2, "torch_dtype": geometry.dtype,
    }
    directory = scratch / name
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")
    return Model(name, geometry, directory, "dummy", min(geometry.trained_context, _LONGEST_BY_NAME), _SMALL_KV_BYTES.get(name))
