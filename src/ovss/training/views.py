"""Training views: crops of procedural scenes with captions that are true for the crop, a function of seed and index."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from ovss.config.world import ViewParams
from ovss.world.captions import Caption, areas, write_caption
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


def scene_of(seed: int, stream: int, index: int, params: ViewParams, banks: Banks) -> tuple[Scene, np.random.Generator]:
    """Scene ``index`` of a stream and the generator to go on with."""
    rng = np.random.default_rng([seed, stream, index])
    aspect = (1.0, 1.25, 0.8)[index % 3]
    return sample_scene(rng, params.style, banks, aspect), rng


def make_batch(seed: int, stream: int, first: int, count: int, size: int, params: ViewParams) -> Batch:
    """``count`` views of ``size`` pixels, ``crops_per_scene`` from each of the scenes ``first``, first + 1, ..."""
    banks = load_banks(seed, params.variants)
    images = np.empty((count, size, size, 3), np.uint8)
    captions: list[Caption] = []
    shares = np.empty((count, 28))
    for k in range(count):
        if k % params.crops_per_scene == 0:
            scene, rng = scene_of(seed, stream, first + k // params.crops_per_scene, params, banks)
        view = render(scene, banks, (size, size), sample_box(rng, scene, params))
        images[k] = view.image
        shares[k] = areas(view.label)
        captions.append(write_caption(rng, shares[k], params.captions))
    return Batch(images, captions, shares)


def batch_of_step(seed: int, step: int, count: int, size: int, params: ViewParams) -> Batch:
    """The training batch of ``step`` (0, 1, ...); no scene occurs in two steps."""
    per_step = -(-count // params.crops_per_scene)
    return make_batch(seed, TRAIN, step * per_step, count, size, params)
