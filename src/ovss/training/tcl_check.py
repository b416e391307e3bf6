"""How good the masks of a small TCL are on held-out views of the procedural world, beside those of MaskCLIP."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from ovss.config.world import ViewParams
from ovss.errors import UserError
from ovss.evaluation.caption_metrics import caption_score, count_mask
from ovss.evaluation.confusion import ConfusionCounts, count_pixels
from ovss.evaluation.metrics import miou
from ovss.models.clip import Clip
from ovss.models.maskclip_map import MaskClipModel
from ovss.models.tcl import TclModel
from ovss.training.clip import class_features, encode_text
from ovss.training.views import HELD_OUT, Views, normalise, sample_box
from ovss.world.captions import Caption, areas, write_caption
from ovss.world.scenes import render

THRESHOLD = 0.5


@dataclass(frozen=True)
class LabelledViews:
    """images (B, 3, S, S) normalised; labels uint8 (B, S, S), a class index each; captions."""

    images: Tensor
    labels: NDArray[np.uint8]
    captions: list[Caption]


def held_out_views(seed: int, params: ViewParams, count: int, size: int) -> LabelledViews:
    """``count`` views of ``size`` pixels from the held-out stream, with their label maps."""
    views = Views(seed, HELD_OUT, params)
    images, labels = np.empty((count, size, size, 3), np.uint8), np.empty((count, size, size), np.uint8)
    captions = []
    for k, scene in enumerate(views.scenes(0, count)):
        rng = np.random.default_rng([seed, HELD_OUT, k, 0])
        view = render(scene, views.banks, (size, size), sample_box(rng, scene, params))
        images[k], labels[k] = view.image, view.label
        captions.append(write_caption(rng, areas(view.label), params.captions))
    return LabelledViews(normalise(images), labels, captions)


def class_miou(masks: Tensor, labels: NDArray[np.uint8]) -> float:
    """mIoU in percent of the largest mask per pixel: (B, classes, S, S), labels (B, S, S), no background plane."""
    predicted = masks.argmax(dim=1).numpy()
    rows = count_pixels(labels.reshape(len(labels), -1), predicted.reshape(len(labels), -1), masks.shape[1])
    counts = ConfusionCounts.collect([("all", rows)], masks.shape[1])
    hits, unions = counts.intersections_unions()
    return miou(hits[0], unions[0])


def caption_iou(masks: Tensor, views: LabelledViews) -> float:
    """CaptionIoU in percent of each view's mask (B, S, S) with what its caption rightly names; others are left out.

    Raises:
        UserError: no caption names anything.
    """
    counts = [
        count_mask(np.isin(label, caption.named), mask > THRESHOLD)
        for label, caption, mask in zip(views.labels, views.captions, masks.numpy(), strict=True)
        if caption.named
    ]
    if not counts:
        raise UserError("train_tcl: no caption of the held-out views names anything; raise val_views or captions.main")
    return caption_score(np.stack(counts)).iou


@torch.no_grad()
def held_out_text(clip: Clip, views: LabelledViews) -> Tensor:
    """Embeddings of the views' captions, then of the 28 classes: (B + 28, D), unit length."""
    captions = encode_text(clip.model, clip.tokenizer([caption.text for caption in views.captions]))
    return torch.cat([captions, class_features(clip.model, clip.tokenizer)])


@torch.no_grad()
def check_masks(model: TclModel | MaskClipModel, views: LabelledViews, text: Tensor) -> dict[str, float]:
    """mIoU of the 28 classes and CaptionIoU of a model on views, in percent; nothing is refined or mixed.

    ``text``: that of ``held_out_text``.
    """
    count, masks = len(views.captions), model.masks(views.images, text)
    own = _upsampled(masks[:, :count].diagonal().movedim(-1, 0).unsqueeze(1), views)
    return {
        "miou": class_miou(_upsampled(masks[:, count:], views), views.labels),
        "caption_iou": caption_iou(own.squeeze(1), views),
    }


def _upsampled(masks: Tensor, views: LabelledViews) -> Tensor:
    return F.interpolate(masks, views.images.shape[-2:], mode="bilinear", align_corners=False)
