"""Inputs for bench/freecp.py: a network with random weights and texts that make its maps behave like a trained one's.

With random weights and random texts the softmax is close to uniform, no class is redundant and none ambiguous. So the
image has ten regions of own colour and texture, and the text of a shown class points to where the patches of a region
lie (mean over five bases of the centred patch features). Every third shown class has a twin, nearly the same text; all
other classes point nowhere. Position embeddings are made smooth and queries and keys scaled up, so that attention is
neither blind to place nor uniform.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from dense import random_clip
from safetensors.torch import load_file, save_file
from torch import Tensor

from ovss.evaluation.batch import View, make_view
from ovss.evaluation.protocol import Protocol
from ovss.methods._bases import patch_features
from ovss.methods.dense_clip import Settings
from ovss.models.clip import CONFIG_FILE, WEIGHTS_FILE, Clip
from ovss.models.features import Features
from ovss.models.text import Vocabulary
from ovss.models.weights import model_config

BASES = ("vanilla", "MaskCLIP", "SCLIP", "ClearCLIP", "GEM")
TEXTS = ("template", "vicuna", "gpt35")
# Words of the background, classes without it, thresholds rp and ap.
DATA = {"stuff": (0, 171, 0.05, 0.7), "ade": (0, 150, 0.05, 0.7), "voc21": (26, 20, 0.15, 0.8)}
LOGIT_SCALE = 100.0  # of OpenAI's models
REGIONS = 10
SHARPNESS = 2.0  # on queries and keys
SPECIFIC = 0.25  # part of a text that is not common to all, as cosines between class names are high
TEXTURE, NOISE = 3.0, 1.0  # of the image, 8-bit steps
TWIN_NOISE, TEXT_NOISE = 0.15, 0.1


@dataclass(frozen=True)
class Scene:
    """view: the image. label: (H, W) class of every pixel. vocabularies: by (templates, descriptions)."""

    view: View
    label: npt.NDArray[np.uint8]
    protocol: Protocol
    texts: dict[str, Tensor]
    background: int

    def vocabulary(self, text: str = "template", descriptions: str | None = "vicuna") -> Vocabulary:
        count = len(self.texts[text])
        classes = (torch.arange(count) - self.background + 1).clamp_min(0) if self.background else torch.arange(count)
        return Vocabulary(
            tuple(map(str, range(count))),
            self.texts[text],
            classes.to(self.texts[text].device),
            None if descriptions is None else self.texts[descriptions],
            bool(self.background),
        )


def write_model(folder: Path) -> None:
    """A model directory of ViT-B/16 with random weights."""
    clip = random_clip("cpu")
    clip.model.logit_scale.fill_(math.log(LOGIT_SCALE))
    table = clip.visual.positional_embedding
    coarse = table[1:].T.reshape(1, -1, *clip.visual.grid_size)[:, :, ::4, ::4]
    table[1:] = F.interpolate(coarse, clip.visual.grid_size, mode="bicubic")[0].flatten(1).T
    for block in clip.visual.transformer.resblocks:
        block.attn.in_proj_weight[: 2 * clip.visual.conv1.out_channels] *= SHARPNESS
    save_file({name: value.contiguous() for name, value in clip.model.state_dict().items()}, folder / WEIGHTS_FILE)
    (folder / CONFIG_FILE).write_text(json.dumps({"model_cfg": model_config("ViT-B-16-quickgelu")}), encoding="utf-8")


def write_scene(file: Path, clip: Clip, data: str, size: tuple[int, int], short_side: int, crop: int) -> None:
    """Image, label and texts of one data set."""
    image, regions = picture(size)
    protocol = make_protocol(short_side, crop)
    view = make_view("bench", image, protocol.geometry, clip)
    background, count, _, _ = DATA[data]
    texts, classes = describe_regions(clip, view, regions, background, count)
    tensors = {"image": torch.from_numpy(image), "label": classes.to(torch.uint8)[torch.from_numpy(regions)], **texts}
    tensors["geometry"] = torch.tensor([short_side, crop, background])
    save_file(tensors, file)


def read_scene(file: Path, clip: Clip) -> Scene:
    tensors = load_file(file)
    short_side, crop, background = tensors["geometry"].tolist()
    protocol = make_protocol(short_side, crop)
    view = make_view("bench", tensors["image"].numpy(), protocol.geometry, clip)
    texts = {name: tensors[name].to(clip.device) for name in TEXTS}
    return Scene(view, tensors["label"].numpy(), protocol, texts, background)


def make_protocol(short_side: int, crop: int) -> Protocol:
    return Protocol(short_side, crop, 112, "none", "none", LOGIT_SCALE, ambiguity_crop=112)


def picture(size: tuple[int, int]) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """(H, W, 3) image of textured regions and the region of every pixel."""
    generator = np.random.default_rng(0)
    rows, columns = np.mgrid[: size[0], : size[1]]
    seeds = generator.random((REGIONS, 2)) * size
    regions = np.argmin([(rows - y) ** 2 + (columns - x) ** 2 for y, x in seeds], axis=0)
    wave = generator.uniform(0.02, 0.6, (REGIONS, 2))
    texture = np.sin(rows * wave[regions, 0] + columns * wave[regions, 1])
    colour = generator.integers(20, 236, (REGIONS, 3))[regions]
    noise = generator.normal(0, NOISE, (*size, 3))
    return np.clip(colour + TEXTURE * texture[..., None] + noise, 0, 255).astype(np.uint8), regions


def describe_regions(
    clip: Clip, view: View, regions: npt.NDArray[np.int64], background: int, count: int
) -> tuple[dict[str, Tensor], Tensor]:
    """Unit text features (Q, D) of every text, and the class shown by each region."""
    generator = torch.Generator().manual_seed(0)
    centres = region_centres(clip, view, regions)
    width = centres.shape[1]
    common = F.normalize(torch.randn(width, generator=generator), dim=0)
    specific = F.normalize(torch.randn(background + count, width, generator=generator), dim=1)
    places = background + torch.randperm(count, generator=generator)[: REGIONS + REGIONS // 3]
    shown, twins = places[:REGIONS], places[REGIONS:]
    specific[shown] = centres
    specific[twins] = centres[::3][: len(twins)] + TWIN_NOISE * specific[twins]
    texts = {}
    for name in TEXTS:
        noise = F.normalize(torch.randn(specific.shape, generator=generator), dim=1)
        own = F.normalize(F.normalize(specific, dim=1) + TEXT_NOISE * noise, dim=1)
        texts[name] = F.normalize((1 - SPECIFIC**2) ** 0.5 * common + SPECIFIC * own, dim=1)
    return texts, shown - background + (1 if background else 0)


def region_centres(clip: Clip, view: View, regions: npt.NDArray[np.int64]) -> Tensor:
    """Where the patches of each region lie, (REGIONS, D): centred patch features, mean over windows and bases."""
    side, (height, width) = clip.patch_size, view.input_size
    sums, names = torch.zeros(len(BASES), REGIONS, clip.visual.output_dim), []
    patches: list[list[Tensor]] = [[] for _ in BASES]
    for y0, y1 in view.grid.rows.spans:
        for x0, x1 in view.grid.columns.spans:
            y = np.arange(y0 + side // 2, y0 + (y1 - y0) // side * side, side) * regions.shape[0] // height
            x = np.arange(x0 + side // 2, x0 + (x1 - x0) // side * side, side) * regions.shape[1] // width
            names.append(torch.from_numpy(regions[y][:, x].ravel()))
            window = Features(clip, view.input[None, :, y0:y1, x0:x1])
            for base, found in zip(BASES, patches, strict=True):
                found.append(patch_features(window, Settings(base, "freecp_block"))[0].cpu())  # type: ignore[arg-type]
    region = torch.cat(names)
    for number, found in enumerate(patches):
        joined = torch.cat(found)
        sums[number].index_add_(0, region, joined - joined.mean(dim=0))
    return F.normalize(F.normalize(sums, dim=-1).sum(dim=0), dim=-1)
