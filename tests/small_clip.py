"""A CLIP small enough to build in every test run, and a model directory of it."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

from ovss.models.clip import CONFIG_FILE, WEIGHTS_FILE, Clip, build_clip
from ovss.models.openclip import open_clip

PATCH = 8
NATIVE = 32
CONFIG = {
    "embed_dim": 16,
    "quick_gelu": True,
    "vision_cfg": {"image_size": NATIVE, "layers": 3, "width": 32, "head_width": 8, "patch_size": PATCH},
    "text_cfg": {"context_length": 24, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}
RESNET_CONFIG = {
    **CONFIG,
    "vision_cfg": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 16, "head_width": 64, "patch_size": None},
}


def state(config: dict = CONFIG, seed: int = 0) -> dict[str, torch.Tensor]:
    """Random weights, large enough that attention and activations are far from linear."""
    torch.manual_seed(seed)
    weights = open_clip.CLIP(**config).state_dict()
    generator = torch.Generator().manual_seed(seed)
    for value in weights.values():
        if value.is_floating_point() and value.ndim > 1:
            value.copy_(torch.randn(value.shape, generator=generator) * value.shape[-1] ** -0.5)
    return weights


def small_clip(config: dict = CONFIG, seed: int = 0) -> Clip:
    return build_clip(config, state(config, seed))


def write_model_directory(directory: Path, seed: int = 0) -> Path:
    directory.mkdir(parents=True)
    record = {"model_cfg": CONFIG, "preprocess_cfg": {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.25, 0.3]}}
    (directory / CONFIG_FILE).write_text(json.dumps(record))
    save_file({name: value.contiguous() for name, value in state(seed=seed).items()}, directory / WEIGHTS_FILE)
    return directory


def windows(count: int, height: int, width: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(count, 3, height, width, generator=torch.Generator().manual_seed(seed))
