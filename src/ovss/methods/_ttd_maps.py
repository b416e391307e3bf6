"""Soft maps of texts over an image, from a base of TTD with test-time augmentation (Jo et al. 2024, section 3.3).

Maps of sliding windows are averaged at the image's own size, then over scales and the mirrored image (the README of
TTD), as mmsegmentation's augmented test does it. Windows are padded with zeros to whole patches, and PAMR refines
their coarse maps, as in TCL's evaluation (Cha et al. 2023, code); with several scales it refines their mean once
(README). A CRF comes last (TTD, Table 6, for MaskCLIP). What texts do not decide is made once per image and kept.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ovss.errors import UserError
from ovss.evaluation.preprocess import normalise, resize, resized_size
from ovss.evaluation.protocol import Geometry, Protocol
from ovss.methods._ttd_crf import CrfBackend, foreground_maps
from ovss.models.clip_pixels import finer_grid, image_tokens, maskclip_embeddings, similarity_maps
from ovss.models.features import CHUNK_TOKENS
from ovss.models.maskclip_map import maskclip_masks
from ovss.models.pamr import Pamr, refine, refine_coarse
from ovss.models.tcl import TclModel
from ovss.models.ttd_base import BaseModel, embed_tokens
from ovss.models.windows import Grid, cut_windows, make_grid, stitch

PamrPlace = Literal["auto", "window", "end"]
Memo = dict[Hashable, Any]
PAMR = Pamr()


def soft_maps(
    model: BaseModel,
    image: Tensor,
    text: Tensor,
    protocol: Protocol,
    kp_weight: float = 0.0,
    *,
    pamr_at: PamrPlace = "auto",
    crf_backend: CrfBackend = "torch",
    memo: Memo | None = None,
) -> Tensor:
    """Soft maps of texts that do not compete: each is decided by the background threshold alone.

    Args:
        model: see ``ovss.models.ttd_base.open_base``.
        image: (H, W, 3) uint8 RGB, the original pixels.
        text: (N, D) float32, embeddings of any length.
        protocol: sizes, windows, normalisation, scales, flip, pamr, crf, background_threshold.
        kp_weight: share of MaskCLIP's masks in TCL's ("knowledge-preserving"; TCL's own evaluation: 0.3).
        pamr_at: ``window``: coarse maps of every window; ``end``: the mean; ``auto``: the end if there are several
            scales, else the windows.
        crf_backend: see ``ovss.models.crf_library``.
        memo: kept by the caller for this image and model, shared by its texts and protocols; changes no result.

    Returns:
        (N, H, W) float32 in 0..1 on the model's device, at the image's size. After a CRF, a value is above the
        threshold where the text is likelier than the background.

    Raises:
        UserError: settings that do not go together, or a view of the image is smaller than a patch.
    """
    memo = {} if memo is None else memo
    maps = mean_maps(model, image, text, protocol, kp_weight, pamr_at=pamr_at, memo=memo)
    if not protocol.crf:
        return maps
    if protocol.background_threshold is None:
        raise UserError("protocol.background_threshold: a CRF of single texts needs it; give the base's threshold")
    return foreground_maps(maps, protocol.background_threshold, image.to(maps.device), crf_backend, memo)


def mean_maps(
    model: BaseModel,
    image: Tensor,
    text: Tensor,
    protocol: Protocol,
    kp_weight: float = 0.0,
    *,
    pamr_at: PamrPlace = "auto",
    memo: Memo | None = None,
) -> Tensor:
    """The same without the CRF: mean over scales and flips, PAMR. Arguments and result as for ``soft_maps``."""
    memo = {} if memo is None else memo
    _check(model, protocol, kp_weight)
    image = image.to(model.clip.device)
    size = (image.shape[0], image.shape[1])
    early = pamr_at == "window" or (pamr_at == "auto" and len(protocol.scales) == 1)
    total = torch.zeros(len(text), *size, device=image.device)
    count = 0
    for view in _views(model, image, protocol, memo):
        masks = _window_masks(model, view, text, kp_weight, PAMR if protocol.pamr and early else None)
        whole = stitch(masks.flatten(2).transpose(1, 2), finer_grid(view.grid, model.factor), size)
        total += whole.flip(-1) if view.flipped else whole
        count += 1
    mean = total / count
    if protocol.pamr and not early:
        mean = refine(mean[None], normalise(image, protocol.geometry, model.clip)[None], PAMR)[0]
    return mean


def _check(model: BaseModel, protocol: Protocol, kp_weight: float) -> None:
    if protocol.pamr and protocol.crf:
        raise UserError("protocol.crf: maps are refined by PAMR or by a CRF, not by both; leave one of them out")
    if kp_weight and not isinstance(model, TclModel):
        raise UserError("settings.kp_weight: MaskCLIP has nothing to be mixed with; leave it at 0 for base: maskclip")
    if not 0 <= kp_weight <= 1:
        raise UserError(f"settings.kp_weight: {kp_weight} is no share; give a number from 0 to 1")
    if not protocol.scales or min(protocol.scales) <= 0:
        raise UserError(f"protocol.scales: {list(protocol.scales)} must be positive numbers, at least one")


@dataclass(frozen=True)
class _View:
    """Windows of the image at one scale: (W, 3, Hc, Wc) float32, and what is kept about them."""

    windows: Tensor
    grid: Grid
    flipped: bool
    kept: Memo

    def once(self, name: str, make: Callable[[], Tensor]) -> Tensor:
        return _once(self.kept, name, make)

    @property
    def patches(self) -> tuple[int, int]:
        return self.grid.rows.patches, self.grid.columns.patches


def _once(memo: Memo, key: Hashable, make: Callable[[], Any]) -> Any:
    if key not in memo:
        memo[key] = make()
    return memo[key]


def _views(model: BaseModel, image: Tensor, protocol: Protocol, memo: Memo) -> Iterator[_View]:
    for scale in protocol.scales:
        geometry = _scaled(protocol.geometry, scale)
        for flipped in (False, True) if protocol.flip else (False,):
            yield _once(memo, ("view", geometry, flipped), partial(_look, model, image, geometry, flipped))


def _scaled(geometry: Geometry, scale: float) -> Geometry:
    """The size of the image times a scale; windows keep theirs."""
    short, long = (max(1, int(side * scale + 0.5)) for side in (geometry.short_side, geometry.max_long_side))
    return replace(geometry, short_side=short, max_long_side=long, window_padding="patch")


def _look(model: BaseModel, image: Tensor, geometry: Geometry, flipped: bool) -> _View:
    pixels = resize(image, resized_size((image.shape[0], image.shape[1]), geometry), geometry)
    seen = normalise(pixels, geometry, model.clip)
    size = (seen.shape[-2], seen.shape[-1])
    grid = make_grid(size, geometry.crop, geometry.stride, model.clip.patch_size, geometry.window_padding)
    return _View(cut_windows(seen.flip(-1) if flipped else seen, grid), grid, flipped, {})


def _window_masks(model: BaseModel, view: _View, text: Tensor, kp_weight: float, pamr: Pamr | None) -> Tensor:
    """Coarse masks of all windows, (W, N, f*h, f*w); the steps of ``TclModel.coarse_masks``."""
    visual, grid = model.tower.visual, view.patches
    chunk = max(1, CHUNK_TOKENS // (grid[0] * grid[1] + 1))

    def in_chunks(part: Callable[[Tensor], Tensor], whole: Tensor) -> Tensor:
        return torch.cat([part(each) for each in whole.split(chunk)])

    tokens = view.once("tokens", lambda: in_chunks(lambda each: image_tokens(visual, each), view.windows))
    pixels = view.once("pixels", lambda: in_chunks(lambda each: embed_tokens(model, each, grid), tokens))
    masks = model.to_masks(similarity_maps(pixels, text))
    if pamr is not None:
        masks = refine_coarse(masks, view.windows, pamr)
    if not kp_weight:
        return masks
    dense = view.once("dense", lambda: in_chunks(lambda each: maskclip_embeddings(visual, each, grid), tokens))
    kept = maskclip_masks(similarity_maps(dense, text))
    kept = F.interpolate(kept, masks.shape[-2:], mode="bilinear", align_corners=False)
    return kp_weight * kept + (1 - kp_weight) * masks
