"""JSON that a user may have written: read strictly, its first fault in one line."""

from __future__ import annotations

import json
from typing import Annotated, TypeVar

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from traces.errors import BadInput

Count = Annotated[int, Field(ge=1)]
Text = Annotated[str, Field(min_length=1)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]

_Read = TypeVar("_Read")


class Strict(BaseModel):
    """Unknown keys, numbers in quotes, NaN and infinity are errors."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


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
