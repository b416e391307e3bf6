"""Dense CLIP without training: vanilla, MaskCLIP, SCLIP, ClearCLIP and GEM as baselines.

MaskCLIP (Zhou et al. 2022, section 3.2), SCLIP (Wang et al. 2023, section 3.2 and its released post-processing),
ClearCLIP (Lan et al. 2024, section 3.3), GEM (Bousselham et al. 2024, section 3). Cosines of patch features and class
names, averaged over windows and resized, then the decision of the row's protocol.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ovss.evaluation.batch import Batch, Prediction
from ovss.evaluation.decide import decide
from ovss.methods._bases import Family, Variant, patch_features
from ovss.models.features import Features
from ovss.models.text import Vocabulary

_UNUSED = ("background_threshold", "prompt_denoising", "scales", "flip", "pamr", "crf")


@dataclass(frozen=True)
class Settings:
    """Every constant of the method; what each means is with ``ovss.methods._bases.Base``."""

    variant: Variant
    family: Family = "full_block"
    gem_depth: int = 7
    gem_depth_limit: Literal["layers", "none"] = "layers"
    gem_iterations: int = 1
    gem_stream: Literal["accumulate", "last_block"] = "accumulate"


def segment(batch: Batch, vocabulary: Vocabulary, features: Sequence[Features], settings: Settings) -> list[Prediction]:
    """Class per pixel of every image of a batch.

    Args:
        batch: images of one geometry and the row's protocol.
        vocabulary: queries with their text features.
        features: of each image's windows, in the batch's order.
        settings: the method's settings.

    Raises:
        UserError: a protocol step that this method does not have, or features the model cannot give.
    """
    batch.protocol.refuse("dense_clip", *_UNUSED)
    return [
        Prediction(decide(patch_features(each, settings) @ vocabulary.features.T, view.grid, batch.score_size(view),
                          vocabulary, batch.protocol))
        for view, each in zip(batch.views, features, strict=True)
    ]  # fmt: skip
