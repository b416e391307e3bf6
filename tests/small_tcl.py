"""A TCL small enough to build in every test run, in the names of the published checkpoint."""

from __future__ import annotations

import torch
from small_clip import state, windows
from torch import Tensor

__all__ = ["CHANNELS", "checkpoint", "windows"]

CHANNELS, JOINT, STAGES = 32, 16, 2


def checkpoint(seed: int = 3) -> dict[str, Tensor]:
    """Random weights on the small CLIP; gates are open."""
    clip = state()
    last = max(int(key.split(".")[3]) for key in clip if key.startswith("visual.transformer"))
    block = f"visual.transformer.resblocks.{last}."
    return {**_clip(clip), **_grounder(clip, block, last, torch.Generator().manual_seed(seed))}


def _clip(clip: dict[str, Tensor]) -> dict[str, Tensor]:
    named = {}
    for key, value in clip.items():
        if key.startswith("visual.ln_post."):
            named["clip_image_encoder.clip_proj.ln." + key.removeprefix("visual.ln_post.")] = value
        elif key == "visual.proj":
            named["clip_image_encoder.clip_proj.proj"] = value
        elif key.startswith("visual."):
            named["clip_image_encoder.clip_visual." + key.removeprefix("visual.")] = value
        elif key != "logit_scale":
            named["clip_text_encoder." + key] = value
    return named


def _grounder(clip: dict[str, Tensor], block: str, last: int, generator: torch.Generator) -> dict[str, Tensor]:
    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator) / 8

    prefix = f"masker.image_encoder.backbone.transformer.resblocks.{last}."
    named = {prefix + key.removeprefix(block): value + random(*value.shape)
             for key, value in clip.items() if key.startswith(block)}  # fmt: skip
    head = "masker.image_encoder.decoder."
    for stage in range(STAGES):
        for unit in ("conv", "conv2"):
            place = f"{head}decoder.net.{stage}.{unit}."
            named |= {place + "norm.weight": 1 + random(CHANNELS), place + "norm.bias": random(CHANNELS),
                      place + "conv.weight": random(CHANNELS, CHANNELS, 3, 3), place + "conv.bias": random(CHANNELS),
                      place + "gate.gate": torch.tensor(0.5)}  # fmt: skip
    named |= {head + "image_proj.ln.weight": 1 + random(CHANNELS), head + "image_proj.ln.bias": random(CHANNELS),
              head + "image_proj.proj": random(CHANNELS, JOINT)}  # fmt: skip
    return named | {"masker.sim2mask.w": torch.tensor(9.0), "masker.sim2mask.b": torch.tensor(-2.0),
                    "tcli_loss.logit_scale": torch.tensor(2.0), "tclf_loss.logit_scale": torch.tensor(2.0)}  # fmt: skip
