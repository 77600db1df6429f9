"""Model geometries, and how JSON that a user may have written is read: strictly, every fault one line."""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files
from typing import Annotated, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from traces.errors import BadInput

PROFILES = files("sim.profiles")
MODELS_FILE = "models.json"
_DTYPE_BYTES = {"bfloat16": 2, "float16": 2, "float32": 4}

Count = Annotated[int, Field(ge=1)]
Text = Annotated[str, Field(min_length=1)]


class Strict(BaseModel):
    """Unknown keys, numbers in quotes, NaN and infinity are errors."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class ModelGeometry(Strict):
    """The shapes of a dense decoder-only model: what its weights and its KV take."""

    name: Text
    layers: Count
    hidden: Count
    heads: Count
    kv_heads: Count
    head_dim: Count
    intermediate: Count
    vocab: Count
    dtype: Literal["bfloat16", "float16", "float32"]
    parameters: Count
    trained_context: Count      #: tokens; not enforced, TokenFlow's workloads go past it
    source: Text

    @property
    def weight_bytes(self) -> int:
        return self.parameters * _DTYPE_BYTES[self.dtype]

    @property
    def kv_token_bytes(self) -> int:
        """KV bytes of one token: K and V of every KV head of every layer."""
        return 2 * self.layers * self.kv_heads * self.head_dim * _DTYPE_BYTES[self.dtype]


_MODELS = TypeAdapter(dict[str, ModelGeometry])
_Read = TypeVar("_Read")


def list_models() -> list[str]:
    """Names of the models whose geometry comes with the package."""
    return sorted(_models())


def load_model(name: str) -> ModelGeometry:
    """The geometry of a model of the package."""
    try:
        return _models()[name]
    except KeyError:
        raise BadInput("model", repr(name), f"unknown; known are {', '.join(list_models())}") from None


def read(kind: TypeAdapter[_Read], text: bytes, what: str) -> _Read:
    """The JSON as `kind`, or its first fault in one line."""
    try:
        return kind.validate_json(text)
    except ValidationError as error:
        faults = error.errors(include_url=False)
        fault = faults[0]
        field = ".".join(map(str, fault["loc"])) or "the file"
        more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
        raise BadInput(what, field, _reason(fault["type"], fault["msg"], fault["input"]) + more) from None


def _reason(kind: str, message: str, given: object) -> str:
    match kind:
        case "extra_forbidden":
            return "unknown key"
        case "missing":
            return "missing"
        case "json_invalid":
            return message
        case "value_error":
            return message.removeprefix("Value error, ")
    shown = json.dumps(given, default=str)
    return f"{message}, got {shown if len(shown) <= 60 else shown[:57] + '...'}"


@cache
def _models() -> dict[str, ModelGeometry]:
    return read(_MODELS, PROFILES.joinpath(MODELS_FILE).read_bytes(), f"models {MODELS_FILE}")
