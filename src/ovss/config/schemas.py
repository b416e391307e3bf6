"""JSON schemas of the YAML files, generated from the models: editors complete and check with them."""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import BaseModel

from ovss.config.datasets import Datasets
from ovss.config.papers import Paper
from ovss.config.params import Params
from ovss.config.weights import Weights

MODELS: dict[str, type[BaseModel]] = {"params": Params, "paper": Paper, "datasets": Datasets, "weights": Weights}


def schema_text(model: type[BaseModel]) -> str:
    """The schema file's text."""
    return json.dumps(model.model_json_schema(), indent=1, sort_keys=True) + "\n"


def write_schemas(root: Path) -> int:
    """Write ``schemas/*.json``."""
    folder = root / "schemas"
    folder.mkdir(exist_ok=True)
    for name, model in MODELS.items():
        (folder / f"{name}.json").write_text(schema_text(model), encoding="utf-8")
        print(f"schemas/{name}.json")
    return 0


def check_schemas(root: Path) -> int:
    """1 if a schema file is not what the models give, naming it."""
    stale = [name for name, model in MODELS.items() if not _same(root / "schemas" / f"{name}.json", model)]
    for name in stale:
        print(f"schemas/{name}.json: out of date; run 'ovss schema'")
    return int(bool(stale))


def _same(path: Path, model: type[BaseModel]) -> bool:
    return path.is_file() and path.read_text(encoding="utf-8") == schema_text(model)
