"""The dense CRF that refines maps of MaskCLIP in TTD (Jo et al. 2024, Table 6), on the image's own pixels.

The paper gives no constants; these are the defaults of the same author's other published code. Energies are minus the
logarithm of the maps, background among them, made to add up to 1 at every pixel.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ovss.models import crf
from ovss.models.crf_library import CrfBackend, marginals


@dataclass(frozen=True)
class Crf:
    """Constants: steps of the mean field, and deviations and weights of its two kernels.

    gaussian: pixels, weight. bilateral: pixels, colours of 0..255, weight. clip: the least probability.
    """

    steps: int = 10
    gaussian: tuple[float, float] = (1.0, 3.0)
    bilateral: tuple[float, float, float] = (67.0, 3.0, 4.0)
    clip: float = 1e-5


CRF = Crf()


def label_probabilities(planes: Tensor, image: Tensor, backend: CrfBackend, memo: dict[Hashable, Any]) -> Tensor:
    """Probabilities of labels that compete for every pixel, after the CRF.

    Args:
        planes: (K, H, W) float32, positive scores of the labels, background among them.
        image: (H, W, 3) uint8 RGB on the same device.
        backend: see ``ovss.models.crf_library``.
        memo: keeps what depends on the image alone.

    Returns:
        (K, H, W) float32, adding to 1 over the labels.

    Raises:
        UserError: the backend is not installed.
    """
    unary = crf.unary_energy(planes / planes.sum(dim=0).clamp(min=CRF.clip), CRF.clip)
    if backend == "torch":
        found = crf.mean_field(unary, _edges(image, memo), CRF.steps)
    else:
        found = marginals(unary, image, CRF.gaussian, CRF.bilateral, CRF.steps, backend)
    return found.T.unflatten(1, (image.shape[0], image.shape[1]))


def _edges(image: Tensor, memo: dict[Hashable, Any]) -> list[tuple[crf.Edges, float]]:
    (near, near_weight), (far, colour, far_weight) = CRF.gaussian, CRF.bilateral
    if "bilateral" not in memo:
        memo["bilateral"] = crf.make_edges(crf.positions_and_colours(image, far, colour))
    gaussian = crf.position_edges((image.shape[0], image.shape[1]), near, image.device)
    return [(gaussian, near_weight), (memo["bilateral"], far_weight)]


def foreground_maps(
    maps: Tensor, threshold: float, image: Tensor, backend: CrfBackend, memo: dict[Hashable, Any]
) -> Tensor:
    """Every map against the background on its own, in values that the same threshold cuts.

    A probability p of the map becomes threshold * p / (1 - p), at most 1: what the map would have to be beside a
    background of ``threshold`` to get that share without a CRF.

    Args:
        maps: (N, H, W) float32 in 0..1.
        threshold: the background's constant map, above 0.
        image, backend, memo: as for ``label_probabilities``.

    Returns:
        (N, H, W) float32 in 0..1.
    """
    refined = []
    for one in maps:
        background, text = label_probabilities(
            torch.stack([torch.full_like(one, threshold), one]), image, backend, memo
        )
        refined.append((threshold * text / background.clamp(min=CRF.clip)).clamp(max=1.0))
    return torch.stack(refined) if refined else maps
