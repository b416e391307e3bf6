"""Training views: crops of procedural scenes with captions that are true for the crop, a function of seed and index."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from ovss.config.world import ViewParams
from ovss.world.captions import Caption, areas, write_caption
from ovss.world.classes import CLASSES
from ovss.world.scenes import Banks, Box, Scene, load_banks, render, sample_scene

MEAN = (0.5, 0.5, 0.5)
STD = (0.25, 0.25, 0.25)
"""Pixel normalisation of every model trained on the world."""
TRAIN, HELD_OUT, VOCABULARY = 20, 21, 22
"""Streams of scenes; the archives of ``ovss.world.build`` use others."""


@dataclass(frozen=True)
class Batch:
    """Views of one step: images uint8 (B, S, S, 3), their captions, class shares float64 (B, 28)."""

    images: NDArray[np.uint8]
    captions: list[Caption]
    shares: NDArray[np.float64]


def normalise(images: NDArray[np.uint8]) -> torch.Tensor:
    """uint8 (B, S, S, 3) -> float32 (B, 3, S, S) with MEAN and STD of the world's models."""
    scaled = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous().float().div_(255)
    return scaled.sub_(torch.tensor(MEAN).view(3, 1, 1)).div_(torch.tensor(STD).view(3, 1, 1))


def sample_box(rng: np.random.Generator, scene: Scene, params: ViewParams) -> Box:
    """A square part of the scene; the whole short side unless zoomed in."""
    r = rng.random(5).tolist()
    low, high = params.crop
    side = low * (high / low) ** r[0] if r[1] < params.zoom else 1.0
    x, y = r[3] * (scene.width - side), r[4] * (scene.height - side)
    if scene.things and r[2] < params.aimed:
        thing = scene.things[int(r[2] / params.aimed * len(scene.things))]
        x = thing.x - side * (0.25 + 0.5 * r[3])
        y = thing.y - side * (0.25 + 0.5 * r[4])
    return min(max(x, 0.0), scene.width - side), min(max(y, 0.0), scene.height - side), side, side


def scene_of(seed: int, stream: int, index: int, params: ViewParams, banks: Banks) -> Scene:
    """Scene ``index`` of a stream; every third is wide, every third tall."""
    rng = np.random.default_rng([seed, stream, index])
    return sample_scene(rng, params.style, banks, (1.0, 1.25, 0.8)[index % 3])


class Views:
    """The views of one stream. A batch shows as many scenes as it has views, so that no two of its captions describe
    one scene; the same scenes are cropped anew for ``crops_per_scene`` steps, because drawing them is the dearer part.
    """

    def __init__(self, seed: int, stream: int, params: ViewParams) -> None:
        self.seed, self.stream, self.params = seed, stream, params
        self.banks = load_banks(seed, params.variants)
        self._scenes: tuple[int, list[Scene]] = (-1, [])

    def scenes(self, group: int, count: int) -> list[Scene]:
        """Scenes ``group * count`` up to ``(group + 1) * count``; the last answer is kept."""
        first = group * count
        if self._scenes[0] != first or len(self._scenes[1]) != count:
            drawn = [scene_of(self.seed, self.stream, first + k, self.params, self.banks) for k in range(count)]
            self._scenes = (first, drawn)
        return self._scenes[1]

    def batch(self, step: int, count: int, size: int) -> Batch:
        """``count`` views of ``size`` pixels for step 0, 1, ...: a function of seed, stream, step and count only."""
        group, crop = divmod(step, self.params.crops_per_scene)
        images, shares = np.empty((count, size, size, 3), np.uint8), np.empty((count, len(CLASSES)))
        captions: list[Caption] = []
        for k, scene in enumerate(self.scenes(group, count)):
            rng = np.random.default_rng([self.seed, self.stream, group * count + k, crop])
            view = render(scene, self.banks, (size, size), sample_box(rng, scene, self.params))
            images[k], shares[k] = view.image, areas(view.label)
            captions.append(write_caption(rng, shares[k], self.params.captions))
        return Batch(images, captions, shares)


class _Steps(Dataset[Batch]):
    def __init__(self, views: Views, steps: int, count: int, size: int) -> None:
        self.views, self.steps, self.count, self.size = views, steps, count, size

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> Batch:
        return self.views.batch(step, self.count, self.size)


def _as_it_is(batch: Batch) -> Batch:
    return batch


def batches(views: Views, steps: int, count: int, size: int, ahead: bool) -> Iterator[Batch]:
    """The batches of steps 0, 1, ... in order; ``ahead``: drawn by a second process while the model learns."""
    workers = {"num_workers": 1, "prefetch_factor": 4} if ahead else {}
    loader = DataLoader(_Steps(views, steps, count, size), batch_size=None, collate_fn=_as_it_is, **workers)  # type: ignore[arg-type]
    return iter(loader)
