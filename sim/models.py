"""The models that come with the package, and those that a Hugging Face config.json describes."""

from __future__ import annotations

import os
from functools import cache
from importlib.resources import files
from pathlib import Path

from pydantic import TypeAdapter

from traces.cells import shown
from traces.errors import BadInput

from .geometry import ModelGeometry
from .hf_config import read_config
from .strict_json import read

PROFILES = files("sim.profiles")
MODELS_FILE = "models.json"
_MODELS = TypeAdapter(dict[str, ModelGeometry])


def list_models() -> list[str]:
    """Names of the models whose geometry comes with the package."""
    return sorted(_models())


def load_model(name_or_path: str | Path) -> ModelGeometry:
    """The geometry of a model of the package by name, or of a Hugging Face config.json (or the directory it is in) by path."""
    if isinstance(name_or_path, str) and name_or_path in _models():
        return _models()[name_or_path]
    if not isinstance(name_or_path, str | Path):
        raise BadInput("model", shown(name_or_path), "must be the name of a model or the path of its config")
    if is_path(name_or_path):
        return read_config(Path(name_or_path))
    known = ", ".join(list_models())
    raise BadInput("model", repr(name_or_path), f"unknown; known are {known}, or give the path of a Hugging Face config.json")


def is_path(name_or_path: str | Path) -> bool:
    """Whether it names a file rather than a model."""
    return isinstance(name_or_path, Path) or name_or_path.endswith(".json") or os.sep in name_or_path


@cache
def _models() -> dict[str, ModelGeometry]:
    return read(_MODELS, PROFILES.joinpath(MODELS_FILE).read_bytes(), f"models {MODELS_FILE}")
