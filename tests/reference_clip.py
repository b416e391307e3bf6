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
    query_llm: torch.Tensor
    num_background: int
    dense: dict[str, np.ndarray]
    text: dict[str, np.ndarray]
    cases: dict[str, Any]
    stages: dict[str, np.ndarray]
    stage_cases: dict[str, Any]
    slide: dict[str, np.ndarray]
    slide_cases: dict[str, Any]


def _arrays(path: Path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def _json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


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
    config = _json(folder / "config.json")
    model = {key: value for key, value in config.items() if key not in _OWN_KEYS}
    pictures, texts = _arrays(folder / "images.npz"), _arrays(folder / "text_features.npz")
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
        query=torch.from_numpy(texts["query"]),
        query_llm=torch.from_numpy(texts["query_llm"]),
        num_background=int(texts["num_background"]),
        dense=_arrays(folder / "dense.npz"),
        text=_arrays(folder / "text.npz"),
        cases=_json(folder / "text_cases.json"),
        stages=_arrays(folder / "freecp_stages.npz"),
        stage_cases=_json(folder / "freecp_stages.json"),
        slide=_arrays(folder / "freecp_slide.npz"),
        slide_cases=_json(folder / "freecp_slide.json"),
    )
