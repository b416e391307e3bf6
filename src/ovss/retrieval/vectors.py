"""Scattered reads of stored vectors, and whose vectors they are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from ovss.data.remote import digest
from ovss.errors import UserError
from ovss.retrieval.shards import Collection


def encoder_of(model: Path) -> str:
    """The encoder that a CLIP directory is, as a collection's manifest names it: sha256 of its weights."""
    return digest(model / "model.safetensors", "sha256")


def check_encoder(encoder: str, where: Path, model: str) -> None:
    """Refuse captions or an index of another encoder than the queries' model.

    Raises:
        UserError: they differ.
    """
    if encoder != model:
        raise UserError(
            f"{where}: was made with another model's text encoder ({encoder[:12]}) than the queries ({model[:12]}); "
            "make it again with the queries' model"
        )


def gather(ids: npt.NDArray[np.int64], collection: Collection) -> npt.NDArray[np.float16]:
    """Stored vectors of rows by their global numbers, (..., D); zeros for -1. Each row is read once, in file order."""
    wanted, place = np.unique(ids, return_inverse=True)
    starts = [collection.first_row(number) for number in range(len(collection.shards))]
    shard_of = np.searchsorted(starts, wanted, side="right") - 1
    parts = [
        np.asarray(collection.vectors(number)[wanted[shard_of == number] - starts[number]])
        for number in np.unique(shard_of[wanted >= 0])
    ]
    missing = np.zeros((int((wanted < 0).sum()), collection.dimension), parts[0].dtype if parts else np.float16)
    found = np.concatenate([missing, *parts])[place.reshape(-1)]
    return found.reshape(*ids.shape, collection.dimension)
