"""One step of TTD's training: both losses of a batch and their gradients (Jo et al. 2024, section 3, Table 6)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor

from ovss.errors import UserError
from ovss.training.ttd.augment import valid_cells
from ovss.training.ttd.lora import LoraSettings, trained_parameters
from ovss.training.ttd.loss import Losses, LossSettings, choose, losses, similarity_maps
from ovss.training.ttd.towers import Tower, distinct
from ovss.training.ttd.towers import texts as encode_texts

Precision = Literal["fp32", "bf16"]


@dataclass(frozen=True)
class TrainSettings:
    """Table 6 and what it leaves open.

    batch: images of an optimiser step, over all processes. accumulate: parts a process takes its share of them in.
    power: of the polynomial decay over all steps; no warm-up. precision: of the towers; losses are always float32.
    """

    steps: int
    batch: int = 32
    accumulate: int = 1
    lr: float = 1e-4
    weight_decay: float = 5e-5
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    power: float = 0.9
    precision: Precision = "bf16"
    loss: LossSettings = field(default_factory=LossSettings)
    lora: LoraSettings = field(default_factory=LoraSettings)
    seed: int = 0
    save_every: int = 500
    log_every: int = 50

    def __post_init__(self) -> None:
        """Refuse counts below one."""
        for name in ("steps", "batch", "accumulate", "save_every", "log_every"):
            if getattr(self, name) < 1:
                raise UserError(f"training.{name}: {getattr(self, name)} is below 1; use 1 or more")


@dataclass(frozen=True)
class Batch:
    """images: (B, 3, S, S) normalised; boxes: (B, 4) int64, valid part of each (``ovss.training.ttd.augment.Crop``);
    captions; words of each caption, unique, at least one; chosen: which of them another tagger selected, if any."""

    images: Tensor
    boxes: Tensor
    captions: Sequence[str]
    words: Sequence[Sequence[str]]
    chosen: Sequence[Sequence[bool]] | None = None

    def __post_init__(self) -> None:
        """Refuse lists of different lengths and captions without words."""
        sizes = {len(self.images), len(self.boxes), len(self.captions), len(self.words)}
        if len(sizes) != 1:
            raise UserError(f"batch: images, boxes, captions and words differ in number ({sorted(sizes)})")
        empty = next((caption for caption, words in zip(self.captions, self.words, strict=True) if not words), None)
        if empty is not None:
            raise UserError(f"batch: the caption '{empty}' has no words; leave such pairs out")

    def part(self, rows: slice) -> Batch:
        """Some of its pairs."""
        chosen = None if self.chosen is None else self.chosen[rows]
        return Batch(self.images[rows], self.boxes[rows], self.captions[rows], self.words[rows], chosen)


def autocast(device: torch.device, precision: Precision) -> torch.autocast:
    """The context the towers run in."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


def encode_words(tower: Tower, words: Sequence[Sequence[str]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Embeddings of the words of each caption (B, n, D), each distinct word encoded once; which are words (B, n)."""
    different, index, present = distinct(words)
    features = encode_texts(tower.clip, different)
    return features[index.to(device)], present.to(device)


def batch_losses(
    tower: Tower, batch: Batch, settings: LossSettings, precision: Precision, device: torch.device
) -> Losses:
    """Both losses of every image; towers under autocast, maps and losses in float32."""
    scale, bias = settings.sigmoid(tower.sigmoid)  # read before the towers run: it waits for the GPU
    with autocast(device, precision):
        pixels = tower.pixels(batch.images.to(device, non_blocking=True))
        texts = encode_texts(tower.clip, batch.captions)
        tags, present = encode_words(tower, batch.words, device)
    settings = replace(settings, scale=scale, bias=bias)
    valid = valid_cells(batch.boxes, batch.images.shape[-1], (pixels.shape[1], pixels.shape[2])).flatten(1)
    valid = (valid if settings.ignore_padding else torch.ones_like(valid)).to(device)
    pixels = pixels.flatten(1, 2)
    maps = similarity_maps(pixels, texts, tags, settings)
    given = None if batch.chosen is None else padded(batch.chosen, present)
    selected = choose(maps, pixels, tags, present, valid, settings.tagging, given)
    return losses(maps, selected, present, valid, settings)


def padded(rows: Sequence[Sequence[bool]], present: Tensor) -> Tensor:
    """Lists of different lengths as rows of (B, n) bool like ``present``."""
    longest = present.shape[1]
    return torch.tensor([[*row, *[False] * (longest - len(row))] for row in rows], device=present.device)


def slices(count: int, parts: int) -> Iterator[slice]:
    """``count`` rows in at most ``parts`` runs of nearly one length, none empty."""
    parts = min(parts, count)
    return (slice(k * count // parts, (k + 1) * count // parts) for k in range(parts))


def backward(tower: Tower, batch: Batch, settings: TrainSettings, device: torch.device) -> dict[str, Tensor]:
    """Add the gradients of a process's share of a step's images; sums to report, detached scalars.

    The terms are divided by the step's whole number of images, so that the gradients of parts and of processes add up
    to that of the batch.
    """
    whole = settings.batch
    sums = {name: torch.zeros((), device=device) for name in ("distill", "tag", "selected", "words")}
    for rows in slices(len(batch.captions), settings.accumulate):
        found = batch_losses(tower, batch.part(rows), settings.loss, settings.precision, device)
        ((found.distill + found.tag).sum() / whole).backward()
        sums["distill"] += found.distill.detach().sum() / whole
        sums["tag"] += found.tag.detach().sum() / whole
        sums["selected"] += found.selected.sum()
        sums["words"] += sum(map(len, batch.part(rows).words))
    return sums


def learning_rate(step: int, settings: TrainSettings) -> float:
    """Polynomial decay to zero: rate of step 0, 1, ..."""
    return settings.lr * math.pow(1 - step / settings.steps, settings.power)


def make_optimiser(tower: Tower, settings: TrainSettings) -> torch.optim.AdamW:
    """AdamW on the factors that learn, in the order of their names."""
    trained = [each for _, each in trained_parameters(tower.model)]
    return torch.optim.AdamW(
        trained, lr=settings.lr, betas=settings.betas, eps=settings.eps, weight_decay=settings.weight_decay
    )
