"""Adapters as files: which base they belong to, and folding them into the base's weights for evaluation."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ovss.errors import UserError
from ovss.training.ttd.lora import LoraSettings

ADAPTERS_FILE = "adapters.safetensors"
KIND = "ovss low-rank adapters 1"
# The rows that each split projection has in the joint matrix of nn.MultiheadAttention.
_ROWS = {"q_proj": 0, "k_proj": 1, "v_proj": 2}


def base_id(state: Mapping[str, Tensor]) -> str:
    """Digest of a base model's weights: names, shapes and float32 values. Take it before the attentions are split."""
    digest = hashlib.sha256()
    for name in sorted(state):
        value = state[name].detach().to("cpu", torch.float32).contiguous()
        digest.update(f"{name}{tuple(value.shape)}".encode())
        digest.update(value.numpy().data)
    return digest.hexdigest()[:32]


def write_tensors(path: Path, tensors: Mapping[str, Tensor], record: Mapping[str, Any]) -> None:
    """A safetensors file with a JSON record, complete or not there at all."""
    text = json.dumps(record, sort_keys=True)
    temporary = path.with_name(path.name + ".part")
    temporary.write_bytes(save({name: tensors[name].contiguous() for name in sorted(tensors)}, {"record": text}))
    os.replace(temporary, path)


def read_tensors(path: Path, kind: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and record of a file of ``write_tensors``.

    Raises:
        UserError: the file is missing, damaged or of another kind.
    """
    try:
        with safe_open(path, framework="pt") as file:
            record = json.loads((file.metadata() or {}).get("record", "{}"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, ValueError) as error:
        raise UserError(f"{path}: no readable safetensors file ({error}); make it again") from error
    if record.get("kind") != kind:
        raise UserError(f"{path}: this file does not hold '{kind}'; choose another file")
    return tensors, record


def save_adapters(path: Path, adapters: Mapping[str, Tensor], base: str, settings: LoraSettings) -> None:
    """Write the factors with the base they belong to and the settings they were made with."""
    record = {"kind": KIND, "base": base, "rank": settings.linear_rank, "lora": dataclasses.asdict(settings)}
    write_tensors(path, adapters, record)


def load_adapters(path: Path, base: str, settings: LoraSettings | None = None) -> dict[str, Tensor]:
    """The factors of a file, for the base with this id; ``settings``: what the caller expects, None: anything.

    Raises:
        UserError: the file is unreadable, belongs to another base, or has another rank or preset.
    """
    adapters, record = read_tensors(path, KIND)
    if record["base"] != base:
        raise UserError(f"{path}: made for base {record['base']:.12}, this one is {base:.12}; load its own base")
    made = {**record["lora"], "rank": record["rank"]}
    wanted = made if settings is None else {**dataclasses.asdict(settings), "rank": settings.linear_rank}
    for key in ("preset", "rank", "convolution_rank", "scale"):
        if wanted[key] != made.get(key):
            raise UserError(f"{path}: its {key} is {made.get(key)}, the settings say {wanted[key]}; make them agree")
    return adapters


def merged_state(state: Mapping[str, Tensor], adapters: Mapping[str, Tensor], scale: float = 1.0) -> dict[str, Tensor]:
    """The base's state dict with W + scale B A in place of every adapted W; other tensors are shared.

    Raises:
        UserError: an adapter belongs to no weight of the state.
    """
    merged = dict(state)
    for layer in sorted({name.rpartition(".")[0] for name in adapters}):
        outer, inner = adapters[f"{layer}.lora_B"], adapters[f"{layer}.lora_A"]
        change = scale * outer.flatten(1).float() @ inner.flatten(1).float()
        parent, _, child = layer.rpartition(".")
        key = f"{parent}.in_proj_weight" if child in _ROWS else f"{layer}.weight"
        if key not in merged:
            raise UserError(f"adapters: {layer} has no weight in this model; load the base they were made for")
        weight = merged[key].float().clone()
        part = weight.chunk(3)[_ROWS[child]] if child in _ROWS else weight
        part += change.view_as(part).to(part.device)
        merged[key] = weight.to(state[key].dtype)
    return merged
