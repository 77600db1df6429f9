"""Step times of a model that nobody measured on a GPU, from one that somebody did: the result is an estimate.

| coefficient | is scaled by | because |
|---|---|---|
| weights_s | bytes of weights a decode step reads, beside `LAYER_S` per layer | it waits for memory, and for kernels to start |
| token_s | parameters that are multiplied, the output head's included | two FLOPs each per token |
| kv_token_s | KV bytes per token | decode attention waits for memory |
| pair_s | layers x heads x head size | FLOPs per query-key pair; grouped KV heads save none |
| seq_s | layers x KV heads | the pieces into which decode attention is cut, per request |
| knee | kept | where memory meets compute belongs to the GPU |

Not seen: how well kernels fit other shapes. `MAPE_PCT` is what is lost where the answer is known.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import log

from .geometry import ModelGeometry
from .step_times import Coefficients, StepTimes

#: seconds of a step, per layer, that do not depend on the model's width: joint fit to Llama-3.1-8B, Qwen2.5-7B and Qwen2.5-32B
#: on an H200 (NVIDIA aiconfigurator 0.8.0 op tables); estimated elsewhere
LAYER_S = 42e-6

#: mean |scaled / fitted - 1| from Llama-3-8B to these, H200, one prompt of 128 to 8,192 tokens or 1 to 256 requests that decode
#: on contexts of 256 to 2,048. The H200 gave `LAYER_S` too; on an L40S, which did not, it is 1.5 % for Qwen2.5-7B
MAPE_PCT = {"qwen2.5-7b": 1.6, "qwen2.5-32b": 2.9}
ERROR = (f"mean {' and '.join(map(str, MAPE_PCT.values()))} % where it is known: from llama3-8b on h200 to "
         f"{' and '.join(MAPE_PCT)}; unchecked here")


def nearest(models: Mapping[str, ModelGeometry], target: ModelGeometry) -> str | None:
    """The one to scale from: closest in weight bytes as a ratio, the first of several; None when there is none."""
    return min(models, key=lambda name: abs(log(models[name].weight_bytes / target.weight_bytes)), default=None)


def scaled(times: StepTimes, source: ModelGeometry, target: ModelGeometry, status: str) -> StepTimes:
    """`times` of `source` as those of `target` on the same GPU."""
    old = times.latency
    # of a model so small or a GPU so fast that the layers' own time would be most of it, half
    layers_s = min(LAYER_S * source.layers, old.weights_s / 2)
    weights, layers = target.read_bytes / source.read_bytes, target.layers / source.layers
    new = Coefficients(
        weights_s=old.weights_s * weights + layers_s * (layers - weights),
        token_s=old.token_s * (target.read_parameters / source.read_parameters),
        kv_token_s=old.kv_token_s * (target.kv_token_bytes / source.kv_token_bytes),
        pair_s=old.pair_s * (layers * target.heads * target.head_dim / (source.heads * source.head_dim)),
        seq_s=old.seq_s * (layers * target.kv_heads / source.kv_heads),
        knee=old.knee,
    )
    return times.model_copy(update={"latency": new, "status": status, "fit_error": None, "intervals_90": None, "untold": (),
                                    "geometry": target, "kv_tokens": None})
