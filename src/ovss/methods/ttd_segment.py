"""Segmentation with class names by MaskCLIP or TCL, plain or tuned by TTD (Jo et al. 2024, section 4.1, Table 4).

A class's soft map is its embedding's similarity to every pixel's, through a sigmoid (``_ttd_maps``). Where the data set
has a background class, a constant map stands for it; the largest map wins a pixel. A CRF lets all labels compete
(``_ttd_crf``); HQ-SAM may refine what is predicted (``_ttd_refine``, Table 12).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ovss.errors import UserError
from ovss.evaluation.batch import Batch, Prediction, View
from ovss.evaluation.protocol import Protocol
from ovss.methods._ttd_crf import CrfBackend, label_probabilities
from ovss.methods._ttd_maps import Memo, PamrPlace, mean_maps
from ovss.methods._ttd_refine import HqSamRefine, refine
from ovss.models.clip import Clip
from ovss.models.clip_pixels import with_background
from ovss.models.features import Features
from ovss.models.hq_sam import HqSam
from ovss.models.text import Vocabulary
from ovss.models.ttd_base import Base, BaseModel, base_on

MODEL, SAM = "ttd_base", "hq_sam"
# Values of class maps that are held at once where nothing needs all of them.
MAP_VALUES = 1 << 25
_UNUSED = ("prob_threshold", "area_threshold", "prompt_denoising", "score_size", "descriptions", "ambiguity_crop")


@dataclass(frozen=True)
class Settings:
    """Every constant of the method.

    base: what is read from the model directory. kp_weight: share of MaskCLIP's masks in TCL's (TCL's own evaluation:
    0.3). pamr_at: see ``_ttd_maps.soft_maps``. background_plane: a constant map for "none of these" where the data set
    has such a class, or on every data set (then such a pixel gets no class at all). crf_backend: see
    ``ovss.models.crf_library``. refine: whether HQ-SAM follows. sam_region, sam_prompt, sam_strength, sam_hq_only:
    see ``_ttd_refine.HqSamRefine``.
    """

    base: Base
    kp_weight: float = 0.0
    pamr_at: PamrPlace = "auto"
    background_plane: Literal["with_class", "always"] = "with_class"
    crf_backend: CrfBackend = "torch"
    refine: Literal["none", "hq_sam"] = "none"
    sam_region: Literal["class", "component"] = "class"
    sam_prompt: Literal["hard", "soft"] = "hard"
    sam_strength: float = 10.0
    sam_hq_only: bool = False


def model_kind(settings: Settings) -> tuple[str, Base]:
    """Name of the model that the method reads from the model directory itself, and which."""
    return MODEL, settings.base


def open_model(directory: Path, kind: Base, clip: Clip) -> BaseModel:
    """That model, without text tower; ``clip`` is the directory's CLIP.

    Raises:
        UserError: see ``ovss.models.ttd_base.open_base``.
    """
    return base_on(clip, directory, kind)


def segment(batch: Batch, vocabulary: Vocabulary, features: Sequence[Features], settings: Settings) -> list[Prediction]:
    """Class per pixel of every image of a batch, at the image's size.

    Args:
        batch: images of one geometry and the row's protocol.
        vocabulary: queries with their text features.
        features: of each image, with the model of ``open_model`` among the companions, and ``hq_sam`` where it refines.
        settings: the method's settings.

    Raises:
        UserError: a protocol step that this method does not have, a threshold that is missing, or see ``soft_maps``.
    """
    batch.protocol.refuse("ttd_segment", *_UNUSED)
    plane = _plane(batch.protocol, vocabulary, settings)
    return [
        Prediction(_Scene(view, batch.protocol, vocabulary, each, settings, plane).labels())
        for view, each in zip(batch.views, features, strict=True)
    ]


def _plane(protocol: Protocol, vocabulary: Vocabulary, settings: Settings) -> float | None:
    """The constant map beside the classes; None: there is none."""
    if not vocabulary.background and settings.background_plane == "with_class":
        return None
    if protocol.background_threshold is None or protocol.background_threshold <= 0:
        raise UserError(
            "protocol.background_threshold: the background's constant map needs a number above 0; "
            "give one, 0.4 with TCL and 0.5 with MaskCLIP"
        )
    return protocol.background_threshold


@dataclass(frozen=True)
class _Scene:
    """One image of a row. Inside, label 0 is the plane where there is one, and classes follow it."""

    view: View
    protocol: Protocol
    vocabulary: Vocabulary
    features: Features
    settings: Settings
    plane: float | None

    def labels(self) -> npt.NDArray[np.integer]:
        """(H, W) class indices, the number of classes for "no class"."""
        text, owners = self._queries()
        whole = self.protocol.crf or self.settings.refine != "none"
        found = self._decide_together(text, owners) if whole else self._decide_in_parts(text, owners)
        classes = self.vocabulary.num_classes
        if self.plane is not None and not self.vocabulary.background:
            found = (found - 1) % (classes + 1)
        return found.to(torch.uint8 if classes < 256 else torch.int16).cpu().numpy()

    def _queries(self) -> tuple[Tensor, Tensor]:
        """Features of all queries but the background's, and the label of each."""
        kept = self.vocabulary.query_class >= int(self.vocabulary.background)
        ahead = self.plane is not None and not self.vocabulary.background
        return self.vocabulary.features[kept], self.vocabulary.query_class[kept] + int(ahead)

    def _maps(self, text: Tensor) -> Tensor:
        model = cast(BaseModel, self.features.companion(MODEL))
        return mean_maps(model, self.view.original, text, self.protocol, self.settings.kp_weight,
                         pamr_at=self.settings.pamr_at, memo=self._memo())  # fmt: skip

    def _memo(self) -> Memo:
        memo: Memo = self.features.once((MODEL,), dict)
        return memo

    def _decide_in_parts(self, text: Tensor, owners: Tensor) -> Tensor:
        """The first best query of every pixel, some queries at a time; the plane wins ties."""
        size = self.view.original_size
        start = -torch.inf if self.plane is None else self.plane
        best = torch.full(size, start, device=text.device)
        labels = torch.zeros(size, dtype=torch.int64, device=text.device)
        some = max(1, MAP_VALUES // (size[0] * size[1]))
        for part, names in zip(text.split(some), owners.split(some), strict=True):
            top, index = self._maps(part).max(dim=0)
            wins = top > best
            labels, best = torch.where(wins, names[index], labels), torch.where(wins, top, best)
        return labels

    def _decide_together(self, text: Tensor, owners: Tensor) -> Tensor:
        maps, memo = self._maps(text), self._memo()
        scores = torch.stack([maps[owners == label].amax(dim=0) for label in owners.unique_consecutive()])
        if self.plane is not None:
            scores = with_background(scores, self.plane)
        if self.protocol.crf:
            scores = label_probabilities(scores, self.view.original, self.settings.crf_backend, memo)
        labels = scores.max(dim=0).indices
        return labels if self.settings.refine == "none" else self._refined(labels, scores)

    def _refined(self, labels: Tensor, scores: Tensor) -> Tensor:
        chosen = self.settings
        how = HqSamRefine(chosen.sam_region, chosen.sam_prompt, chosen.sam_strength, chosen.sam_hq_only)
        sam = cast(HqSam, self.features.companion(SAM))
        return refine(self.view.original, labels, scores, sam, self.plane is not None, how)
