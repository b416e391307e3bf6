"""Training a small TCL: every term of the loss against loops, a start that equals MaskCLIP, directories that load."""

import csv
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from small_clip import RESNET_CONFIG, small_clip, windows, write_model_directory

from ovss.config.tcl import TclTrainParams, TclWeights
from ovss.config.world import CaptionStyle, Schedule, ViewParams
from ovss.errors import UserError
from ovss.jobs import JobContext, Machine
from ovss.models.clip import load_clip
from ovss.models.maskclip_map import MaskClipModel
from ovss.models.tcl import TclModel, load_tcl
from ovss.training import tcl
from ovss.training.tcl_check import LabelledViews, caption_iou, class_miou, held_out_views
from ovss.training.tcl_loss import (
    area_loss,
    contrast,
    feature_loss,
    hard_sample,
    image_loss,
    make_masks,
    pool,
    total_variation,
    weighted_terms,
)
from ovss.training.views import HELD_OUT, Views, normalise
from ovss.world.captions import Caption

VIEWS = ViewParams(variants=2)
PARAMS = TclTrainParams(views=VIEWS, schedule=Schedule(steps=2, batch=3, log_every=1), val_views=4)
LOG_SCALE = torch.tensor(math.log(9.0), dtype=torch.float64)


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# The loss


def contrast_by_loops(cosines: torch.Tensor, scale: float) -> float:
    count = len(cosines)
    total = 0.0
    for i in range(count):
        row = [math.exp(scale * cosines[i, j].item()) for j in range(count)]
        column = [math.exp(scale * cosines[j, i].item()) for j in range(count)]
        total -= math.log(row[i] / sum(row)) + math.log(column[i] / sum(column))
    return total / (2 * count)


def test_the_feature_loss_compares_captions_with_pixels_pooled_under_their_own_masks() -> None:
    pixels, text = random(3, 5, 2, 4), F.normalize(random(3, 5, seed=1), dim=-1)
    soft = random(3, 3, 2, 4, seed=2).sigmoid()
    cosines = torch.zeros(3, 3, dtype=torch.float64)
    for image in range(3):
        for caption in range(3):
            region = sum(
                soft[image, caption, y, x] * pixels[image, :, y, x] for y in range(2) for x in range(4)
            )  # its length does not count
            cosines[image, caption] = torch.dot(region, text[caption]) / region.norm()
    assert feature_loss(pixels, text, soft, LOG_SCALE).item() == pytest.approx(contrast_by_loops(cosines, 9.0), 1e-9)
    assert torch.allclose(pool(pixels, torch.ones_like(soft)), pixels.mean(dim=(2, 3)).unsqueeze(1))


def test_the_factor_on_cosines_stops_at_100() -> None:
    cosines = random(4, 4) / 10
    assert contrast(cosines, torch.tensor(9.0)).item() == pytest.approx(contrast_by_loops(cosines, 100.0))


def test_areas_of_own_and_foreign_masks() -> None:
    soft = torch.zeros(2, 2, 2, 2)
    soft[0, 0], soft[0, 1] = torch.tensor([[1.0, 0.0], [0.0, 0.0]]), 0.5
    assert area_loss(soft, 0.4).item() == pytest.approx(abs(0.125 - 0.4) + 0.25)


def test_total_variation_is_the_mean_step_across_plus_that_down() -> None:
    maps = torch.tensor([[[[0.0, 1.0, 4.0], [0.0, 1.0, 0.0]]]])
    assert total_variation(maps).item() == pytest.approx((1 + 3 + 1 + 1) / 4 + 4 / 3)


def test_a_hard_sample_is_zero_or_one_with_the_probability_of_the_soft_mask() -> None:
    torch.manual_seed(0)
    logits = torch.tensor([-1.5, 0.0, 2.0]).repeat(20_000, 1)
    for temperature in (0.5, 2.0):
        sample = hard_sample(logits, temperature)
        assert set(sample.unique().tolist()) == {0.0, 1.0}
        assert torch.allclose(sample.mean(0), logits[0].sigmoid(), atol=0.015)


def test_the_gradient_of_a_hard_sample_is_that_of_the_soft_one() -> None:
    logits = torch.linspace(-3, 3, 7).requires_grad_()
    torch.manual_seed(4)
    hard_sample(logits, 2.0).sum().backward()
    torch.manual_seed(4)
    soft = torch.sigmoid((logits.detach() + torch.rand(7).logit()) / 2.0)
    assert torch.allclose(logits.grad, soft * (1 - soft) / 2.0, atol=1e-6)


def test_the_image_loss_moves_masks_and_leaves_clip_alone() -> None:
    clip = small_clip()
    grounder = tcl.new_grounder(clip, 1, True)
    pixels = random(3, 16, 8, 8).float().requires_grad_()
    text = F.normalize(random(3, 16, seed=1).float(), dim=-1)
    torch.manual_seed(0)
    hard = make_masks(grounder, pixels, text, 1.0).hard
    images = windows(3, 32, 32)
    loss = image_loss(clip.visual, images, text, hard, torch.tensor(1.0))
    loss.backward()
    assert pixels.grad.abs().sum() > 0 and grounder.sim2mask.w.grad != 0
    assert all(parameter.grad is None for parameter in clip.model.parameters())
    cut = images * hard.detach().repeat_interleave(4, 2).repeat_interleave(4, 3)
    cosines = F.normalize(clip.visual(cut), dim=-1) @ text.T
    assert loss.item() == pytest.approx(contrast_by_loops(cosines, math.e), 1e-4)


def test_weights_belong_to_the_terms_they_name() -> None:
    weights = TclWeights(image=2, feature=3, area=5, smooth_pixels=7, smooth_masks=11)
    terms = {name: torch.tensor(float(10**k)) for k, name in enumerate(TclWeights.model_fields)}
    assert weighted_terms(weights, terms).item() == 2 + 30 + 500 + 7_000 + 110_000


# The start, the training, the result


@pytest.mark.parametrize("stages", [1, 2])
def test_a_new_grounder_gives_the_masks_of_maskclip_with_repeated_pixels(stages: int) -> None:
    clip, text = small_clip(), random(4, 16).float()
    found = TclModel(clip, tcl.new_grounder(clip, stages, True)).masks(windows(2, 32, 32), text)
    wanted = MaskClipModel(clip).masks(windows(2, 32, 32), text)
    for dim in (2, 3):
        wanted = wanted.repeat_interleave(2**stages, dim)
    assert torch.allclose(found, wanted, atol=1e-5)


def train(params: TclTrainParams, folder: Path) -> Path:
    out = folder / "tcl"
    out.mkdir(parents=True)
    clip = write_model_directory(folder / "clip")
    given = {"model": params.model_dump(mode="json")}
    tcl.run(JobContext(seed=5, machine=Machine(), params=given, inputs={"clip": clip}, out=out))
    return out


def test_two_runs_give_the_same_bytes_and_a_directory_that_loads(tmp_path: Path) -> None:
    torch.rand(3)  # the state of the global generator must not matter
    first, second = train(PARAMS, tmp_path / "1"), train(PARAMS, tmp_path / "2")
    files = sorted(path.name for path in first.iterdir())
    assert files == sorted(path.name for path in second.iterdir())
    assert [name for name in files if (first / name).read_bytes() != (second / name).read_bytes()] == []
    model, start = load_tcl(first), tcl.new_grounder(load_clip(tmp_path / "1" / "clip"), 1, True)
    assert model.factor == 2
    assert all(torch.equal(a, b) for a, b in zip(model.clip.model.state_dict().values(),
               load_clip(tmp_path / "1" / "clip").model.state_dict().values(), strict=True))  # fmt: skip
    moved = {
        name for name, value in start.state_dict().items() if not torch.equal(value, model.grounder.state_dict()[name])
    }
    assert {
        "sim2mask.w",
        "sim2mask.b",
        "image_proj.proj",
        "decoder.net.0.conv.gate.gate",
        "block.mlp.c_fc.weight",
    } <= moved
    rows = list(csv.DictReader((first / "curves.csv").read_text().splitlines()))
    assert {row["metric"] for row in rows if row["split"] == "train"} >= {"loss", *TclWeights.model_fields}
    assert {row["step"] for row in rows if row["metric"] == "maskclip_miou"} == {"0", "1", "2"}


def test_the_copied_block_stays_as_it_is_where_it_is_not_trained(tmp_path: Path) -> None:
    model = load_tcl(train(PARAMS.model_copy(update={"train_block": False}), tmp_path))
    last = model.tower.visual.transformer.resblocks[-1].state_dict()
    assert all(torch.equal(value, last[name]) for name, value in model.grounder.block.state_dict().items())


def test_a_resnet_is_refused() -> None:
    with pytest.raises(UserError, match="ResNet"):
        tcl.new_grounder(small_clip(RESNET_CONFIG), 1, True)


# Figures on held-out views


def test_held_out_views_are_those_of_the_stream_with_labels() -> None:
    drawn, wanted = held_out_views(3, VIEWS, 4, 32), Views(3, HELD_OUT, VIEWS).batch(0, 4, 32)
    assert torch.equal(drawn.images, normalise(wanted.images)) and drawn.captions == wanted.captions
    assert [np.bincount(label.ravel(), minlength=28).tolist() for label in drawn.labels] == (
        wanted.shares * 32 * 32
    ).round().astype(int).tolist()


def test_figures_of_masks_counted_by_hand() -> None:
    labels = np.array([[[0, 0], [1, 2]], [[1, 1], [1, 1]]], np.uint8)
    masks = torch.zeros(2, 3, 2, 2)
    masks[0, 0], masks[1, 1, 0], masks[1, 2, 1] = 0.1, 0.2, 0.3
    assert class_miou(masks, labels) == pytest.approx(100 * (2 / 4 + 2 / 5 + 0 / 3) / 3)
    captions = [Caption("a", (0, 2), ()), Caption("b", (), (1,))]
    own = torch.tensor([[[0.6, 0.5], [0.7, 0.2]], [[1.0, 1.0], [1.0, 1.0]]])
    assert caption_iou(own, LabelledViews(torch.zeros(2, 3, 2, 2), labels, captions)) == pytest.approx(100 * 1 / 4)


def test_captions_that_name_something_are_needed(tmp_path: Path) -> None:
    mute = PARAMS.model_copy(
        update={"views": VIEWS.model_copy(update={"captions": CaptionStyle(main=0, alone=0, others=0, stuff=0)})}
    )
    with pytest.raises(UserError, match="caption"):
        train(mute, tmp_path)
