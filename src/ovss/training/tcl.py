"""Train a small TCL (Cha et al. 2023) on the procedural world: a grounder on top of a CLIP that stays as it is.

Views and captions are drawn as those of ``ovss.training.clip``; the result is a model directory of ``ovss.models.tcl``.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from torch import Tensor, nn

from ovss.config.tcl import TclTrainParams
from ovss.errors import UserError
from ovss.jobs import JobContext
from ovss.models.clip import CONFIG_FILE, MERGES_FILE, WEIGHTS_FILE, Clip, load_clip
from ovss.models.clip_pixels import image_tokens
from ovss.models.dense import patch_grid
from ovss.models.grounder import Grounder
from ovss.models.maskclip_map import MaskClipModel
from ovss.models.tcl import TclModel
from ovss.models.tcl_checkpoint import write_grounder
from ovss.training.clip import encode_text
from ovss.training.loop import Curves, fit, one_thread, open_curves
from ovss.training.tcl_check import check_masks, held_out_text, held_out_views
from ovss.training.tcl_loss import (
    Temperatures,
    area_loss,
    feature_loss,
    image_loss,
    make_masks,
    total_variation,
    weighted_terms,
)
from ovss.training.views import TRAIN, Batch, Views, batches, normalise


class Learner(nn.Module):
    """What is trained: the grounder, and the temperatures of the loss."""

    def __init__(self, clip: Clip, params: TclTrainParams) -> None:
        super().__init__()
        self.grounder = new_grounder(clip, params.stages, params.train_block)
        self.temperatures = Temperatures(params.temperature)


def new_grounder(clip: Clip, stages: int, train_block: bool) -> Grounder:
    """A grounder whose masks are those of MaskCLIP, twice as fine per stage: block and projection are CLIP's own, gates
    are closed.

    Raises:
        UserError: the CLIP is a ResNet.
    """
    if not clip.is_transformer:
        raise UserError("train_tcl: the CLIP is a ResNet; TCL needs a vision transformer, name another model in 'clip'")
    grounder = Grounder(clip.visual, stages).requires_grad_(True)
    grounder.block.requires_grad_(train_block)
    grounder.image_proj.ln.load_state_dict(clip.visual.ln_post.state_dict())
    with torch.no_grad():
        grounder.image_proj.proj.copy_(clip.visual.proj)
    return grounder


def loss_terms(learner: Learner, clip: Clip, batch: Batch, hardness: float, area: float) -> dict[str, Tensor]:
    """The terms of the loss on a batch, named as in ``ovss.config.tcl.TclWeights``."""
    grounder, scales, images = learner.grounder, learner.temperatures, normalise(batch.images)
    with torch.no_grad():
        tokens = image_tokens(clip.visual, images)
        text = encode_text(clip.model, clip.tokenizer([caption.text for caption in batch.captions]))
    pixels = grounder(tokens, patch_grid(clip.visual, images))
    masks = make_masks(grounder, pixels, text, hardness)
    return {
        "image": image_loss(clip.visual, images, text, masks.hard, scales.image),
        "feature": feature_loss(pixels, text, masks.soft, scales.feature),
        "area": area_loss(masks.soft, area),
        "smooth_pixels": total_variation(pixels),
        "smooth_masks": total_variation(masks.soft),
    }


def train_tcl(params: TclTrainParams, clip: Clip, seed: int, curves: Curves, ahead: bool = False) -> Grounder:
    """Train a grounder; the caller has seeded torch. ``ahead``: views are drawn by a second process."""
    schedule, size = params.schedule, clip.image_size
    learner = Learner(clip, params)
    held_out = held_out_views(seed, params.views, params.val_views, size)
    text = held_out_text(clip, held_out)
    baseline = {f"maskclip_{name}": value for name, value in check_masks(MaskClipModel(clip), held_out, text).items()}
    views = batches(Views(seed, TRAIN, params.views), schedule.steps, schedule.batch, size, ahead)

    def loss_of(step: int) -> tuple[Tensor, dict[str, float]]:
        terms = loss_terms(learner, clip, next(views), params.hardness, params.area)
        return weighted_terms(params.weights, terms), {name: value.item() for name, value in terms.items()}

    def check() -> dict[str, float]:
        to_mask = learner.grounder.sim2mask
        learnt = {"mask_slope": to_mask.w.item(), "mask_offset": to_mask.b.item()}
        return {**check_masks(TclModel(clip, learner.grounder), held_out, text), **baseline, **learnt}

    curves.add(0, "val", check())
    fit(learner, schedule, loss_of, curves, check=check)
    return learner.grounder.eval().requires_grad_(False)


def copy_clip(source: Path, out: Path) -> None:
    """The files of a CLIP's model directory."""
    for name in (CONFIG_FILE, WEIGHTS_FILE, MERGES_FILE):
        if (source / name).exists():
            shutil.copyfile(source / name, out / name)


def run(ctx: JobContext) -> dict[str, object]:
    """Stage ``train_tcl``: params {model: ``TclTrainParams``}, input ``clip``; writes a model directory with curves."""
    params = TclTrainParams.model_validate(ctx.params["model"])
    clip = load_clip(ctx.inputs["clip"])
    with one_thread(ctx.seed), open_curves(ctx.out / "curves.csv") as file:
        grounder = train_tcl(params, clip, ctx.seed, Curves(file), ahead=True)
    copy_clip(ctx.inputs["clip"], ctx.out)
    parameters = write_grounder(ctx.out, clip, grounder.state_dict(), "train_tcl")
    return {
        "grounder_parameters": parameters,
        "parameters": parameters + sum(p.numel() for p in clip.model.parameters()),
    }
