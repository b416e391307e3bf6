"""HQ-SAM (Ke et al. 2023): the mask of an object from a box and a rough mask of it.

The image fills the network's input as SAM's own code does it: longer side 1024, zeros after normalisation at the right
and at the bottom. It is encoded once; each prompt then costs the small decoder alone. Prompts go through the decoder
one by one, so that no mask depends on the others.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ovss.errors import UserError
from ovss.models.resized import Norm
from ovss.models.transformers_models import CONFIG_FILE, PREPROCESS_FILE, load_transformers, read_preprocess

# A prompt's mask and the decoder's own have this many values along a patch.
_MASK_PER_PATCH = 4


@dataclass(frozen=True)
class Encoded:
    """An image as the decoder needs it.

    features: (1, C, g, g) float32, of the encoder's neck. early: of each block with global attention, (1, g, g, d);
    the decoder takes details from the first. size: (H, W) of the image. inner: (h, w) that it fills of the input.
    """

    features: Tensor
    early: tuple[Tensor, ...]
    size: tuple[int, int]
    inner: tuple[int, int]


@dataclass(frozen=True)
class HqSam:
    """transformers' SamHQModel, its normalisation and the side of its square input (pixels)."""

    model: Any
    norm: Norm
    side: int

    def encode(self, image: Tensor) -> Encoded:
        """Features of an image, (H, W, 3) uint8 RGB on any device."""
        parameter = next(self.model.parameters())
        height, width = (int(side) for side in image.shape[:2])
        scale = self.side / max(height, width)
        inner = (max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5)))
        colours = image.to(parameter.device).permute(2, 0, 1)[None].float() / 255
        # Smoothed where it shrinks, as the image library does it that SAM's code resizes with.
        resized = F.interpolate(colours, inner, mode="bilinear", align_corners=False, antialias=True)
        mean, std = (torch.tensor(part, device=parameter.device).view(1, 3, 1, 1)
                     for part in (self.norm.mean, self.norm.std))  # fmt: skip
        padded = F.pad((resized - mean) / std, (0, self.side - inner[1], 0, self.side - inner[0]))
        features, early = self.model.get_image_embeddings(padded)
        return Encoded(features, tuple(early), (height, width), inner)

    def mask(self, encoded: Encoded, box: tuple[int, int, int, int], rough: Tensor, hq_only: bool = False) -> Tensor:
        """The mask of a prompt.

        Args:
            encoded: the image.
            box: x and y of the first and of the last pixel inside, at the image's size.
            rough: (H, W) float32, logits of the rough mask.
            hq_only: the high-quality token's mask alone, not added to that of SAM's own token.

        Returns:
            (H, W) float32 logits on the model's device, above 0 inside.
        """
        (height, width), (inner_height, inner_width) = encoded.size, encoded.inner
        factors = (inner_width / width, inner_height / height) * 2
        corners = torch.tensor([place * factor for place, factor in zip(box, factors, strict=True)])
        output = self.model(
            image_embeddings=encoded.features, intermediate_embeddings=list(encoded.early),
            input_boxes=corners.view(1, 1, 4).to(encoded.features.device), input_masks=self._prompt(encoded, rough),
            multimask_output=False, hq_token_only=hq_only,
        )  # fmt: skip
        full = F.interpolate(output.pred_masks[:, 0], (self.side, self.side), mode="bilinear", align_corners=False)
        inner = full[..., :inner_height, :inner_width]
        return F.interpolate(inner, encoded.size, mode="bilinear", align_corners=False)[0, 0]

    def _prompt(self, encoded: Encoded, rough: Tensor) -> Tensor:
        """Logits at the decoder's size, (1, 1, m, m); the padding is as far outside as the surest pixel is inside."""
        side = _MASK_PER_PATCH * encoded.features.shape[-1]
        height, width = (max(1, round(part * side / self.side)) for part in encoded.inner)
        logits = rough.to(encoded.features)[None, None]
        small = F.interpolate(logits, (height, width), mode="bilinear", align_corners=False, antialias=True)
        return F.pad(small, (0, side - width, 0, side - height), value=-float(logits.abs().max()))


def load_hq_sam(directory: Path, device: str = "cpu") -> HqSam:
    """Load a model directory: ``config.json``, ``model.safetensors``, ``preprocess.json``.

    Raises:
        UserError: a file is missing or damaged, or the model is no HQ-SAM of the input side that is written down.
    """
    norm, side = read_preprocess(directory)
    model = load_transformers(directory, device)
    if type(model).__name__ != "SamHQModel":
        raise UserError(f"{directory / CONFIG_FILE}: HQ-SAM is wanted, not {type(model).__name__}; name another model")
    if model.config.vision_config.image_size != side:
        wanted = model.config.vision_config.image_size
        raise UserError(f"{directory / PREPROCESS_FILE}: input is {side}, this model takes {wanted}; write that")
    return HqSam(model, norm, side)
