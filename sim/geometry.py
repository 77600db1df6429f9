"""The shapes of a dense decoder-only model: what its weights and its KV take."""

from __future__ import annotations

from typing import Literal

from .strict_json import Count, Strict, Text

_DTYPE_BYTES = {"bfloat16": 2, "float16": 2, "float32": 4}


class ModelGeometry(Strict):
    name: Text
    layers: Count
    hidden: Count
    heads: Count
    kv_heads: Count
    head_dim: Count
    intermediate: Count         #: width of the MLP
    vocab: Count
    dtype: Literal["bfloat16", "float16", "float32"]
    parameters: Count
    tied_embeddings: bool = False   #: the output head is the input embedding
    trained_context: Count      #: tokens; not enforced, TokenFlow's workloads go past it
    source: Text

    @property
    def weight_bytes(self) -> int:
        return self.parameters * _DTYPE_BYTES[self.dtype]

    @property
    def kv_token_bytes(self) -> int:
        """KV bytes of one token: K and V of every KV head of every layer."""
        return 2 * self.layers * self.kv_heads * self.head_dim * _DTYPE_BYTES[self.dtype]

    @property
    def read_parameters(self) -> int:
        """What a decode step reads, and multiplies: all but the input embedding, of which it takes a row per request."""
        return self.parameters - (0 if self.tied_embeddings else self.vocab * self.hidden)

    @property
    def read_bytes(self) -> int:
        return self.read_parameters * _DTYPE_BYTES[self.dtype]
