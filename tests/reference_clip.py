"""Reading a folder of reference arrays: a tiny random CLIP, its inputs and what the published code makes of them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ovss.models.clip import Clip, build_clip, read_state

# Keys of config.json that are not open_clip's.
_OWN_KEYS = ("note", "gem_depth")


@dataclass(frozen=True)
class Reference:
    clip: Clip
    gem_depth: int
    images: dict[str, torch.Tensor]
    query: torch.Tensor
    dense: dict[str, np.ndarray]
    text: dict[str, np.ndarray]
    cases: dict[str, Any]


def _arrays(path: Path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def _state(folder: Path, vocabulary: int) -> dict[str, torch.Tensor]:
    """Tensors of the model; a cut-down copy has only the used rows of the token table."""
    state = read_state(folder / "clip_tiny.safetensors")
    if "token_embedding.ids" in state:
        rows = state.pop("token_embedding.rows")
        table = torch.zeros(vocabulary, rows.shape[1], dtype=rows.dtype)
        table[state.pop("token_embedding.ids").long()] = rows
        state["token_embedding.weight"] = table
    return state


def read_reference(folder: Path) -> Reference:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    model = {key: value for key, value in config.items() if key not in _OWN_KEYS}
    pictures = _arrays(folder / "images.npz")
    return Reference(
        clip=build_clip(model, _state(folder, model["text_cfg"]["vocab_size"])),
        gem_depth=config["gem_depth"],
        images={
            name.removesuffix("_uint8"): torch.from_numpy(
                (values.astype(np.float32) - pictures["mean"]) / pictures["std"]
            ).permute(2, 0, 1)[None]
            for name, values in pictures.items()
            if name.endswith("_uint8")
        },
        query=torch.from_numpy(_arrays(folder / "text_features.npz")["query"]),
        dense=_arrays(folder / "dense.npz"),
        text=_arrays(folder / "text.npz"),
        cases=json.loads((folder / "text_cases.json").read_text(encoding="utf-8")),
    )
