"""TCL: masks of texts at a quarter of the image's size, from CLIP and a grounder.

Source: Cha et al. 2023, "Learning to Generate Text-grounded Mask" (sections 3.2 and 3.4), and its code. The same
interface without a grounder is in ``maskclip_map``.

A model directory is that of a CLIP with ``tcl_config.json`` and ``grounder.safetensors`` beside it. Shapes: B images, N
texts, D joint dimension, h and w patches, f ``factor``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from ovss.errors import UserError
from ovss.models.clip import Clip, load_clip, read_state, without_text
from ovss.models.clip_pixels import (
    crop_upsampled,
    image_tokens,
    maskclip_embeddings,
    pad_images,
    similarity_maps,
)
from ovss.models.dense import patch_grid
from ovss.models.grounder import CONFIG_FILE, WEIGHTS_FILE, Grounder, make_grounder
from ovss.models.maskclip_map import maskclip_masks
from ovss.models.pamr import Pamr, refine_coarse


class TclModel(nn.Module):
    """CLIP and a grounder, evaluation mode.

    clip: encodes texts, knows mean, deviation and patch side. tower: its network. factor: pixels of a mask per patch.
    """

    def __init__(self, clip: Clip, grounder: Grounder) -> None:
        super().__init__()
        self.clip = clip
        self.tower: Any = clip.model
        self.grounder = grounder
        self.factor = grounder.factor

    def pixel_embeddings(self, images: Tensor) -> Tensor:
        """Embeddings of the grounder, (B, 3, H, W) normalised RGB -> (B, D, f*h, f*w), of any length."""
        tokens = image_tokens(self.tower.visual, images)
        return self.grounder(tokens, patch_grid(self.tower.visual, images))

    def to_masks(self, similarity: Tensor) -> Tensor:
        """Soft masks of cosines, by the learned slope and offset."""
        return self.grounder.sim2mask(similarity)

    def masks(self, images: Tensor, text: Tensor) -> Tensor:
        """Soft masks: (B, 3, H, W), text embeddings of any length (N, D) -> (B, N, f*h, f*w) in 0..1."""
        return self.to_masks(similarity_maps(self.pixel_embeddings(images), text))

    def coarse_masks(self, images: Tensor, text: Tensor, kp_weight: float = 0.3, pamr: Pamr | None = None) -> Tensor:
        """Masks of images of whole patches, refined and mixed, before they are brought to full size.

        Args:
            images: (B, 3, H, W) float32, normalised RGB; sides are multiples of the patch.
            text: (N, D), of any length.
            kp_weight: share of MaskCLIP's masks, which keep what CLIP knew ("knowledge-preserving"); 0: none.
            pamr: refinement of the grounder's masks; None: none.

        Returns:
            (B, N, f*h, f*w) float32 in 0..1.
        """
        visual, grid = self.tower.visual, patch_grid(self.tower.visual, images)
        tokens = image_tokens(visual, images)
        masks = self.to_masks(similarity_maps(self.grounder(tokens, grid), text))
        if pamr is not None:
            masks = refine_coarse(masks, images, pamr)
        if not kp_weight:
            return masks
        kept = maskclip_masks(similarity_maps(maskclip_embeddings(visual, tokens, grid), text))
        kept = F.interpolate(kept, masks.shape[-2:], mode="bilinear", align_corners=False)
        return kp_weight * kept + (1 - kp_weight) * masks

    def generate_masks(self, images: Tensor, text: Tensor, kp_weight: float = 0.3, pamr: Pamr | None = None) -> Tensor:
        """Masks at the images' size, whatever it is: (B, 3, H, W), (N, D) -> (B, N, H, W) in 0..1.

        Images are padded with zeros to whole patches. Other arguments: see ``coarse_masks``.
        """
        padded, before = pad_images(images, self.clip.patch_size)
        coarse = self.coarse_masks(padded, text, kp_weight, pamr)
        return crop_upsampled(coarse, padded.shape[-2:], before, images.shape[-2:])


def load_tcl(directory: Path, device: str = "cpu", text: bool = True) -> TclModel:
    """Load a model directory, as the stage ``weights`` writes it.

    Args:
        directory: model directory.
        device: torch device.
        text: whether the text tower is needed.

    Raises:
        UserError: a file is missing or damaged, or weights and configuration do not fit.
    """
    path = directory / CONFIG_FILE
    try:
        stages = int(json.loads(path.read_text(encoding="utf-8"))["stages"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: not a readable TCL configuration ({error}); make it again") from error
    clip = load_clip(directory, device)
    grounder = make_grounder(clip.visual, read_state(directory / WEIGHTS_FILE), stages, str(directory))
    model = TclModel(clip if text else without_text(clip), grounder.to(device))
    return model.eval().requires_grad_(False)
