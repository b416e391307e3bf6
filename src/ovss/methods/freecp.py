"""FreeCP (Chen et al., ICCV 2025): refine the class maps of a training-free dense CLIP, then purify the classes.

Maps of all classes (equation 1) are refined by affinity between patches (2, 3); redundancy purification drops classes
whose map changes too much (5), ambiguity purification lets crops of the image decide between classes whose refined maps
look alike (6 to 8). Follows the released code where it differs from the paper; the differences are settings.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ovss.errors import UserError
from ovss.evaluation.batch import Batch, Prediction, View
from ovss.evaluation.preprocess import resize_nearest
from ovss.methods import _freecp_purify as purify
from ovss.methods import _freecp_refine as refine
from ovss.methods._bases import Family, Variant, describe, patch_features
from ovss.methods._freecp_boxes import Border
from ovss.methods._freecp_decide import decide_maps
from ovss.models.crops import Cut, crop_features, expect_crops
from ovss.models.dense import HeadRule
from ovss.models.features import Features
from ovss.models.position import PositionRule
from ovss.models.text import Vocabulary

_UNUSED = (
    "prob_threshold",
    "area_threshold",
    "background_threshold",
    "prompt_denoising",
    "scales",
    "flip",
    "pamr",
    "crf",
)


@dataclass(frozen=True)
class Settings:
    """Every constant of the method.

    variant, family, gem_*: the dense CLIP, see ``ovss.methods._bases.Base``.
    rp: classes with a consistency above it stay. ap: classes that overlap at least this much are one group.
    purification: which stages, in which order; ``none`` stops after the refinement.
    vocabulary: ``all`` classes, or those in the label of the ``image`` or of each ``window`` (Table 1, "with GT"; the
    background's words always stay).
    affinity: attention of CLIP, or of a companion model. affinity_heads: ``code`` is the mean, but the first head with
    GEM. affinity_form: ``code`` (balanced, squared, from inside boxes) or ``average`` (the paper: attention as it is).
    activation: ``softmax`` over queries (code) or ``cosine`` (paper). consistency: see ``purify.consistency``.
    loser_scope: a class that loses a region goes from the whole ``window`` (code) or from the ``box`` (paper).
    box_threshold: share of a map's maximum. box_border: see ``boxes``. sinkhorn_rounds: of the balancing.
    epsilon: added to denominators, as released.
    """

    variant: Variant
    rp: float
    ap: float
    family: Family = "freecp_block"
    purification: Literal["none", "rp", "ap", "rp_ap", "ap_rp"] = "rp_ap"
    vocabulary: Literal["all", "image", "window"] = "all"
    affinity: Literal["clip", "dino", "sam", "maskformer"] = "clip"
    affinity_heads: Literal["code", "mean", "first"] = "code"
    affinity_form: refine.AffinityForm = "code"
    activation: refine.Activation = "softmax"
    consistency: purify.Consistency = "code"
    loser_scope: Literal["window", "box"] = "window"
    box_threshold: float = 0.4
    box_border: Border = "cut"
    sinkhorn_rounds: int = 3
    epsilon: float = 1e-8
    gem_depth: int = 7
    gem_depth_limit: Literal["layers", "none"] = "layers"
    gem_iterations: int = 1
    gem_stream: Literal["accumulate", "last_block"] = "accumulate"

    def __post_init__(self) -> None:
        """Refuse what is out of range."""
        for name in ("rp", "ap", "box_threshold"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"settings.{name}: {getattr(self, name)} is out of range; give a share from 0 to 1")
        for name, least in (("sinkhorn_rounds", 0), ("epsilon", 0), ("gem_iterations", 0)):
            if getattr(self, name) < least:
                raise UserError(f"settings.{name}: {getattr(self, name)} is out of range; give {least} or more")

    @property
    def position(self) -> PositionRule:
        """GEM's code interpolates position embeddings in its own way, for crops too."""
        return "antialias" if self.variant == "GEM" else "scale"

    @property
    def heads(self) -> HeadRule:
        """Heads of CLIP's affinity."""
        if self.affinity_heads == "code":
            return "first" if self.variant == "GEM" else "mean"
        return self.affinity_heads

    @property
    def refinement(self) -> tuple[Hashable, ...]:
        """What decides the refined maps of a vocabulary: rows that agree in it share them."""
        later = {"rp", "ap", "purification", "vocabulary", "consistency", "loser_scope"}
        return tuple(getattr(self, field.name) for field in fields(self) if field.name not in later)


def uses_labels(settings: Settings) -> bool:
    """Whether the row is told which classes an image shows."""
    return settings.vocabulary != "all"


def affinities(settings: Settings) -> tuple[tuple[PositionRule, HeadRule], ...]:
    """Affinities of CLIP that the row will ask for: cheaper made on the way through the blocks than later."""
    return ((settings.position, settings.heads),) if settings.affinity == "clip" else ()


def ahead(batch: Batch, vocabulary: Vocabulary, features: Sequence[Features], settings: Settings) -> None:
    """Say which crops ``segment`` will ask for: those of all rows then go through the network together."""
    for windows in _windows(batch, vocabulary, features, settings):
        windows.expect_crops(batch.protocol.ambiguity_crop)


def segment(batch: Batch, vocabulary: Vocabulary, features: Sequence[Features], settings: Settings) -> list[Prediction]:
    """Class per pixel of every image of a batch.

    Args:
        batch: images of one geometry and the row's protocol; labels where ``uses_labels`` says so.
        vocabulary: queries with their text features, background words first.
        features: of each image's windows, in the batch's order.
        settings: the method's settings.

    Raises:
        UserError: a protocol step that this method does not have, or a model or size that it needs is missing.
    """
    batch.protocol.refuse("freecp", *_UNUSED)
    return [
        Prediction(decide_maps(windows.purified(batch.protocol.ambiguity_crop), view.grid, batch.score_size(view),
                               vocabulary.background))
        for view, windows in zip(batch.views, _windows(batch, vocabulary, features, settings), strict=True)
    ]  # fmt: skip


def _windows(
    batch: Batch, vocabulary: Vocabulary, features: Sequence[Features], settings: Settings
) -> Iterator[Windows]:
    scale = float(batch.protocol.logit_scale or 0)
    for number, (view, each) in enumerate(zip(batch.views, features, strict=True)):
        allowed = _allowed(batch.labels[number], view, vocabulary, settings) if uses_labels(settings) else None
        yield Windows(each, vocabulary, settings, scale, allowed)


def _allowed(label: npt.NDArray[Any], view: View, vocabulary: Vocabulary, settings: Settings) -> Tensor:
    """(W, Q) bool: queries of the classes in the label of the image, or of each window; background words always."""
    ignored, shown = np.iinfo(label.dtype).max, torch.from_numpy(label.astype(np.int32))
    sizes = [shown] * view.grid.count
    if settings.vocabulary == "window":
        shown = resize_nearest(shown, view.input_size)
        rows, columns = view.grid.rows.spans, view.grid.columns.spans
        sizes = [shown[y0:y1, x0:x1] for y0, y1 in rows for x0, x1 in columns]
    query_class = vocabulary.query_class.cpu()
    there = torch.stack([torch.isin(query_class, part[part != ignored].unique()) for part in sizes])
    if vocabulary.background:
        there[:, query_class == 0] = True
    return there.to(vocabulary.features.device)


@dataclass(frozen=True)
class Windows:
    """FreeCP on the windows of one image; every step can be asked for by itself.

    features: of the windows. vocabulary: queries. settings: constants. scale: factor on cosines. allowed: (W, Q) bool,
    or None for all queries.
    """

    features: Features
    vocabulary: Vocabulary
    settings: Settings
    scale: float
    allowed: Tensor | None = None

    @property
    def grid(self) -> tuple[int, int]:
        """(h, w) of the patch grid."""
        return self.features.patch_grid()

    @property
    def num_background(self) -> int:
        """Background words; they take part in the softmax and nothing else."""
        return self.vocabulary.num_background if self.vocabulary.background else 0

    @property
    def key(self) -> tuple[Hashable, ...]:
        """What decides the refined maps."""
        allowed = None if self.allowed is None else self.allowed.cpu().numpy().tobytes()
        texts = (self.vocabulary.fingerprint, self.num_background, self.scale)
        return ("freecp", self.settings.refinement, texts, allowed)

    def affinity(self) -> Tensor:
        """(W, n, n) float32, rows = queries."""
        if self.settings.affinity != "clip":
            return self.features.get("companion_affinity", which=self.settings.affinity)
        return self.features.get("affinity", position=self.settings.position, heads=self.settings.heads)

    def flow(self) -> Tensor:
        """The affinity after balancing, made once for all rows of an image."""
        s = self.settings
        key = ("freecp flow", s.affinity, *affinities(s), s.sinkhorn_rounds, s.epsilon)
        return self.features.once(key, lambda: refine.balanced(self.affinity(), s.sinkhorn_rounds, s.epsilon))

    def query_maps(self) -> tuple[Tensor, Tensor]:
        """(W, Q, n) maps of all queries: as they are, and rescaled by one minimum and maximum of the window."""
        key = ("freecp queries", describe(self.settings), self.settings.activation, *self.key[2:])
        return self.features.once(key, self._query_maps)

    def _query_maps(self) -> tuple[Tensor, Tensor]:
        patches = patch_features(self.features, self.settings)
        maps = refine.query_maps(patches, self.vocabulary.features, self.scale, self.settings.activation, self.allowed)
        return maps, refine.min_max(maps, self.allowed)

    def maps(self) -> refine.ClassMaps:
        """Class maps before and after refinement."""
        return self.features.once(self.key, self._maps)

    def _maps(self) -> refine.ClassMaps:
        s, (prob, scaled) = self.settings, self.query_maps()
        classes = self.vocabulary.query_class
        scaled = refine.class_maps(scaled, classes, self.num_background)
        # Cosines may be negative; their consistency is taken after rescaling.
        prob = scaled if s.activation == "cosine" else refine.class_maps(prob, classes, self.num_background)
        if s.affinity_form == "average":
            return refine.ClassMaps(prob, scaled, refine.spread(scaled, self.affinity(), 1, s.epsilon))
        inside = refine.masked(scaled, self.grid, s.box_threshold, s.box_border)
        return refine.ClassMaps(prob, scaled, refine.spread(inside, self.flow(), 2, s.epsilon))

    def consistent(self) -> Tensor:
        """(W, F) bool: classes that redundancy purification keeps."""
        maps, s = self.maps(), self.settings
        return purify.consistency(maps.prob, maps.refined, s.consistency, s.epsilon) > s.rp

    def purified(self, crop: int | None) -> Tensor:
        """Refined maps of the classes that stay, (W, F, n), zero elsewhere; ``crop``: side of ambiguity's crops."""
        refined, kept = self.surviving(crop)
        return refined * kept[:, :, None]

    def surviving(self, crop: int | None) -> tuple[Tensor, Tensor]:
        """Refined maps (W, F, n) and which classes stay in which window, (W, F) bool."""
        s, refined = self.settings, self.maps().refined
        kept = torch.ones(refined.shape[:2], dtype=torch.bool, device=refined.device)
        if s.purification in ("rp", "rp_ap"):
            kept = self.consistent()
        if "ap" in s.purification:
            found = self.decisive()
            winners = self.winners(found, crop)
            if s.loser_scope == "box":
                refined = purify.clear_regions(refined, found, winners, self.grid)
            else:
                kept = purify.keep_groups(kept, found, winners)
        if s.purification == "ap_rp":
            kept = kept & self.consistent()
        return refined, kept

    def groups(self) -> list[tuple[int, tuple[int, ...]]]:
        """(window, classes) of every ambiguity group, among the classes that redundancy left or among all."""
        refined = self.maps().refined
        left = self.consistent().cpu().tolist() if self.settings.purification == "rp_ap" else None
        everything = list(range(refined.shape[1]))
        return [
            (window, members)
            for window, maps in enumerate(refined)
            for members in purify.groups(
                maps,
                everything if left is None else [c for c in everything if left[window][c]],
                self.settings.ap,
                self.settings.consistency,
            )
        ]

    def regions(self) -> list[purify.Region]:
        """Boxes in which the classes of a group look alike; rows that differ in the describing texts share them."""
        s = self.settings
        first = ("rp", s.rp) if s.purification == "rp_ap" else ("all",)
        return self.features.once(
            ("freecp regions", self.key, first, s.ap, s.consistency),
            lambda: purify.regions(self.maps().refined, self.groups(), self.grid, s.box_threshold, s.box_border),
        )

    def decisive(self) -> list[purify.Region]:
        """The regions whose winner changes anything."""
        found = self.regions()
        return found if self.settings.loser_scope == "box" else purify.contested(found)

    def expect_crops(self, crop: int | None) -> None:
        """Announce the crops of the regions that decide."""
        if crop is not None and "ap" in self.settings.purification:
            expect_crops(self.features, _cuts(self.decisive()), crop, self.settings.position)

    def region_logits(self, found: Sequence[purify.Region], crop: int) -> Tensor:
        """Logits of all classes at the crops of the regions that are not empty, (K, F)."""
        vocabulary, cuts = self.vocabulary, _cuts(found)
        text = vocabulary.features if vocabulary.descriptions is None else vocabulary.descriptions
        scores = self.scale * crop_features(self.features, cuts, crop, self.settings.position) @ text.T
        return refine.class_maps(scores[:, :, None], vocabulary.query_class, self.num_background)[:, :, 0]

    def winners(self, found: Sequence[purify.Region], crop: int | None) -> list[int | None]:
        """Winning class of every region (equation 8); None where it is empty.

        Raises:
            UserError: the protocol does not say how large crops are.
        """
        if all(region.empty for region in found):
            return [None] * len(found)
        if crop is None:
            raise UserError("protocol.ambiguity_crop: ambiguity purification needs the side of its crops in pixels")
        scores = iter(self.region_logits(found, crop).cpu())
        return [
            None if region.empty else region.members[int(next(scores)[list(region.members)].argmax())]
            for region in found
        ]


def _cuts(found: Sequence[purify.Region]) -> list[Cut]:
    return [(region.window, *region.box) for region in found if not region.empty]
