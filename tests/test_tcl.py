"""TCL and MaskCLIP as bases of TTD: refinement against loops, windows, checkpoints with objects inside, adapters."""

from __future__ import annotations

import math
import os
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from small_clip import CONFIG, small_clip, state
from small_tcl import checkpoint, windows

from ovss.errors import UserError
from ovss.jobs import JobContext, Machine
from ovss.models import weights
from ovss.models.clip import build_clip
from ovss.models.clip_pixels import (
    finer_grid,
    image_tokens,
    pad_images,
    position_table,
    similarity_maps,
    value_tokens,
    with_background,
)
from ovss.models.features import Features
from ovss.models.grounder import Grounder, make_grounder
from ovss.models.maskclip_map import MaskClipModel
from ovss.models.openclip import open_clip
from ovss.models.pamr import Pamr, affinity, refine
from ovss.models.tcl import TclModel, load_tcl
from ovss.models.tcl_checkpoint import read_tcl, split_state
from ovss.models.tcl_text import TEMPLATES, mean_embedding
from ovss.models.windows import cut_windows, make_grid, stitch

TEXT = torch.randn(4, 16, generator=torch.Generator().manual_seed(5))


@pytest.fixture(scope="module")
def tcl() -> TclModel:
    parts = split_state(checkpoint(), "tiny")
    clip = build_clip(CONFIG, parts.clip)
    return TclModel(clip, make_grounder(clip.visual, parts.grounder, 2, "tiny")).eval().requires_grad_(False)


# Refinement


def matrix_by_loops(image: torch.Tensor, settings: Pamr) -> torch.Tensor:
    """What share of each pixel flows into each pixel in a step: (H*W, H*W) float64, pixel by pixel; borders repeat."""
    image = image.double()
    height, width = image.shape[-2:]
    flow = torch.zeros(height * width, height * width, dtype=torch.float64)
    for y in range(height):
        for x in range(width):
            places = [(min(max(y + dy * d, 0), height - 1), min(max(x + dx * d, 0), width - 1))
                      for d in settings.dilations for dy in (-1, 0, 1) for dx in (-1, 0, 1)]  # fmt: skip
            colours = torch.stack([image[:, i, j] for i, j in places])
            logits = -((image[:, y, x] - colours).abs() / (1e-8 + settings.spread * colours.std(dim=0))).mean(dim=1)
            logits[4::9] = -torch.inf
            for (i, j), weight in zip(places, torch.softmax(logits, 0), strict=True):
                flow[y * width + x, i * width + j] += weight
    return flow


def test_refinement_equals_loops_over_pixels() -> None:
    settings = Pamr(iterations=3, dilations=(1, 3), spread=0.3)
    image, masks = windows(1, 4, 6), torch.rand(1, 2, 4, 6, generator=torch.Generator().manual_seed(2))
    flow = torch.linalg.matrix_power(matrix_by_loops(image[0], settings), 3)
    expected = (masks[0].flatten(1).double() @ flow.T).unflatten(1, (4, 6))
    torch.testing.assert_close(refine(masks, image, settings)[0].double(), expected, rtol=0, atol=1e-6)


def test_refinement_does_not_see_chunks_batches_or_memory_layout() -> None:
    images, masks = windows(2, 9, 7), torch.rand(2, 7, 9, 5)
    expected = refine(masks, images, Pamr(iterations=3, dilations=(1, 2), chunk=99))
    scattered = masks.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    found = refine(scattered, images, Pamr(iterations=3, dilations=(1, 2), chunk=2))
    assert torch.equal(found, expected) and found.shape == (2, 7, 9, 7)
    torch.testing.assert_close(refine(masks[1:], images[1:], Pamr(3, (1, 2))), expected[1:], rtol=0, atol=1e-6)


def test_refinement_on_one_colour_is_the_mean_of_the_neighbours() -> None:
    weights_of = affinity(torch.ones(1, 3, 4, 4), Pamr(dilations=(1, 24)))
    torch.testing.assert_close(weights_of, torch.full((1, 16, 4, 4), 1 / 16))


# Pixel embeddings and masks


def test_maskclip_is_the_dense_clip_of_the_other_methods() -> None:
    clip, native = small_clip(), windows(2, 32, 32)
    ours = F.normalize(MaskClipModel(clip).pixel_embeddings(native), dim=1)
    theirs = Features(clip, native).get("dense", variant="MaskCLIP", family="full_block")
    torch.testing.assert_close(ours.flatten(2).transpose(1, 2), theirs, rtol=0, atol=1e-5)


def test_a_maskclip_mask_is_one_half_at_a_cosine_of_a_quarter() -> None:
    model = MaskClipModel(small_clip())
    assert model.to_masks(torch.tensor(0.25)) == 0.5
    assert model.to_masks(torch.tensor(1.0)) == pytest.approx(1 / (1 + math.exp(-7.5)))


def test_positions_are_resized_for_another_shape_with_as_many_patches() -> None:
    table = torch.randn(17, 3)
    assert position_table(table, (4, 4), (4, 4)) is table
    assert not torch.allclose(position_table(table, (4, 4), (2, 8)), table)


def test_the_value_path_takes_attention_with_separate_projections() -> None:
    block = small_clip().visual.transformer.resblocks[-1]
    expected = value_tokens(block, torch.ones(1, 3, 32))
    attention, value = block.attn, torch.nn.Linear(32, 32)
    value.weight.data, value.bias.data = attention.in_proj_weight[64:], attention.in_proj_bias[64:]
    parts = {name: getattr(block, name) for name in ("ln_1", "ls_1", "ln_2", "ls_2", "mlp")}
    split = SimpleNamespace(attn=SimpleNamespace(v_proj=value, out_proj=attention.out_proj), **parts)
    assert torch.equal(value_tokens(split, torch.ones(1, 3, 32)), expected)


def test_a_closed_gate_leaves_the_pixel_as_it_was_and_new_gates_are_closed() -> None:
    clip = small_clip()
    fresh = Grounder(clip.visual)
    fresh.image_proj.proj.data = torch.eye(32)[:, :16].contiguous()
    tokens = image_tokens(clip.visual, windows(1, 16, 24))
    plain = value_tokens(fresh.block, tokens[:, 1:]).transpose(1, 2).unflatten(2, (2, 3))
    expected = fresh.image_proj(plain.repeat_interleave(4, dim=2).repeat_interleave(4, dim=3))
    torch.testing.assert_close(fresh(tokens, (2, 3)), expected)
    assert torch.equal(fresh.sim2mask(torch.tensor(0.25)), torch.tensor(0.5))


def test_images_are_padded_with_the_larger_half_behind(tcl: TclModel) -> None:
    images = windows(1, 27, 35)
    padded, before = pad_images(images, 8)
    assert padded.shape == (1, 3, 32, 40) and before == (2, 2)
    assert torch.equal(padded[..., 2:29, 2:37], images) and padded.abs().sum() == images.abs().sum()
    whole = tcl.generate_masks(padded, TEXT, pamr=Pamr(1))
    torch.testing.assert_close(tcl.generate_masks(images, TEXT, pamr=Pamr(1)), whole[..., 2:29, 2:37])


def test_stitched_windows_are_the_mean_of_their_masks(tcl: TclModel) -> None:
    image = windows(1, 20, 37)[0]
    grid = make_grid((20, 37), crop=20, stride=10, patch=8, padding="patch")
    coarse = tcl.coarse_masks(cut_windows(image, grid), TEXT).flatten(2).transpose(1, 2)
    total, count = torch.zeros(4, 20, 37), torch.zeros(20, 37)
    for x0, x1 in grid.columns.spans:
        total[:, :, x0:x1] += tcl.generate_masks(image[None, :, :, x0:x1], TEXT)[0]
        count[:, x0:x1] += 1
    torch.testing.assert_close(stitch(coarse, finer_grid(grid, tcl.factor), (20, 37)), total / count)


def test_masks_of_a_batch_and_of_some_texts_are_those_of_each_alone(tcl: TclModel) -> None:
    images = windows(3, 24, 32)
    together = tcl.generate_masks(images, TEXT, pamr=Pamr(2))
    alone = tcl.generate_masks(images[1:2], TEXT[2:3], pamr=Pamr(2))
    torch.testing.assert_close(together[1:2, 2:3], alone, rtol=0, atol=1e-5)
    assert together.min() >= 0 and together.max() <= 1


def test_gradients_reach_the_first_and_the_last_weights(tcl: TclModel) -> None:
    parts = split_state(checkpoint(), "tiny")
    clip = build_clip(CONFIG, parts.clip)
    model = TclModel(clip, make_grounder(clip.visual, parts.grounder, 2, "tiny")).requires_grad_(True)
    model.masks(windows(1, 16, 16), TEXT).sum().backward()
    for reached in (
        clip.visual.conv1.weight,
        model.grounder.decoder.net[1].conv2.conv.weight,
        model.grounder.sim2mask.w,
    ):
        assert reached.grad is not None and reached.grad.abs().sum() > 0


def test_an_embedding_of_zero_is_like_nothing() -> None:
    assert torch.equal(similarity_maps(torch.zeros(1, 16, 1, 1), TEXT), torch.zeros(1, 4, 1, 1))


def test_the_background_is_first_and_constant() -> None:
    maps = with_background(torch.rand(2, 3, 2, 2), 0.4)
    assert maps.shape == (2, 4, 2, 2) and (maps[:, 0] == 0.4).all()


def test_template_embeddings_are_averaged_before_they_are_normalised() -> None:
    embeddings = torch.tensor([[3.0, 0.0], [0.0, 4.0]])
    torch.testing.assert_close(mean_embedding(embeddings), torch.tensor([0.6, 0.8]))
    assert len(set(TEMPLATES)) == 9 and all(form.count("{}") == 1 for form in TEMPLATES)


def test_a_full_size_tcl_has_the_published_number_of_parameters() -> None:
    with torch.device("meta"):
        clip = open_clip.CLIP(**open_clip.get_model_config("ViT-B-16-quickgelu"))
        grounder = Grounder(clip.visual)
    count = sum(value.numel() for part in (clip, grounder) for value in part.parameters())
    assert count == 178_346_246 + 1  # CLIP's logit scale, which TCL has no use for


# Checkpoints


class Runs:
    """An object whose unpickling calls a function, as any object in a file may."""

    def __init__(self, call: object, argument: str) -> None:
        self.call, self.argument = call, argument

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return self.call, (self.argument,)


class Setting:
    """An ordinary object of a foreign class."""

    def __init__(self) -> None:
        self.nested = {"lr": 1e-4, "steps": [1, 2]}


def made(name: str) -> None:
    Path(name).mkdir()


def write(path: Path, state: dict[str, torch.Tensor], **others: object) -> Path:
    torch.save({"model": state, "step": 3, **others}, path)
    return path


def test_objects_in_a_checkpoint_are_never_run(tmp_path: Path) -> None:
    path = write(tmp_path / "tcl.pth", checkpoint(), config=Setting(), trap=Runs(made, str(tmp_path / "trace")))
    found = read_tcl([path], "tcl")
    assert not (tmp_path / "trace").exists()
    assert torch.equal(found.grounder["sim2mask.w"], torch.tensor(9.0))
    blocked = write(tmp_path / "os.pth", checkpoint(), trap=Runs(os.mkdir, str(tmp_path / "trace")))
    with pytest.raises(UserError, match=r"os\.pth: cannot be read as a PyTorch checkpoint"):
        read_tcl([blocked], "tcl")
    assert not (tmp_path / "trace").exists()


def convert(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: list[str]) -> TclModel:
    monkeypatch.setattr(weights, "model_config", lambda name: CONFIG)
    (tmp_path / "out").mkdir()
    params = {"weights": "tcl", "files": files, "format": "pickle", "load": {"open_clip": ["tiny", "tcl"]},
              "norm": {"mean": [0.1, 0.2, 0.3], "std": [0.5, 0.5, 0.5]}}  # fmt: skip
    facts = weights.run(JobContext(0, Machine(), params, {"file": tmp_path}, tmp_path / "out"))
    model = load_tcl(tmp_path / "out")
    assert facts["parameters"] == sum(value.numel() for value in model.parameters())
    return model


def test_a_checkpoint_becomes_a_model_directory_that_gives_the_same_masks(tmp_path, monkeypatch, tcl: TclModel) -> None:
    write(tmp_path / "tcl.pth", checkpoint(), config=Setting())
    model, images = convert(tmp_path, monkeypatch, ["tcl.pth"]), windows(1, 30, 32)
    assert torch.equal(model.generate_masks(images, TEXT), tcl.generate_masks(images, TEXT))
    assert model.clip.mean == (0.1, 0.2, 0.3)
    assert not hasattr(load_tcl(tmp_path / "out", text=False).tower, "token_embedding")


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")
def test_what_the_checkpoint_leaves_out_comes_from_clip(tmp_path, monkeypatch, tcl: TclModel) -> None:
    from test_dense import write_checkpoint

    write(tmp_path / "tcl.pth", {key: value for key, value in checkpoint().items() if key.startswith("masker.")})
    with pytest.raises(UserError, match="tcl: the checkpoint leaves out CLIP; give CLIP's own file beside it"):
        read_tcl([tmp_path / "tcl.pth"], "tcl")
    write_checkpoint(tmp_path / "clip.pt", "torchscript", state())
    torch.save(factors(FEED, (2, 16), (64, 2)), tmp_path / "ttd.pt")
    tuned = read_tcl([tmp_path / name for name in ("tcl.pth", "ttd.pt", "clip.pt")], "tcl")
    assert not torch.allclose(tuned.clip[FEED_KEY].float(), state()[FEED_KEY], atol=1e-2)
    model, images = convert(tmp_path, monkeypatch, ["tcl.pth", "clip.pt"]), windows(1, 16, 16)
    expected = tcl.generate_masks(images, TEXT)
    torch.testing.assert_close(model.generate_masks(images, TEXT), expected, rtol=0, atol=2e-2)  # float16 in the file


def test_a_checkpoint_that_is_not_tcls_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"tensor 'masker\.extra' is not known in a TCL checkpoint"):
        split_state({**checkpoint(), "masker.extra": torch.ones(1)}, "tcl")
    earlier = {key.replace("backbone.transformer.resblocks.2.", "backbone.transformer.resblocks.1."): value
               for key, value in checkpoint().items()}  # fmt: skip
    with pytest.raises(UserError, match=r"copies block \[1\], not CLIP's last, 2"):
        split_state(earlier, "tcl")
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(UserError, match=r"list\.pth: there is no table of tensors in it"):
        read_tcl([tmp_path / "list.pth"], "tcl")
    with pytest.raises(UserError, match=r"no\.pth: this file is missing"):
        read_tcl([tmp_path / "no.pth"], "tcl")
    short = {key: value for key, value in split_state(checkpoint(), "t").grounder.items() if "conv2" not in key}
    with pytest.raises(UserError, match=r"tiny: grounder and CLIP do not fit: .*conv2"):
        make_grounder(small_clip().visual, short, 2, "tiny")


# Adapters of another program

FEED, CONVOLUTION = (
    "clip_text_encoder.transformer.resblocks.0.mlp.c_fc",
    "masker.image_encoder.decoder.decoder.net.0.conv.conv",
)
FEED_KEY = "transformer.resblocks.0.mlp.c_fc.weight"
FUSED = "clip_image_encoder.clip_visual.transformer.resblocks.0.attn"


def factors(
    layer: str, inner: tuple[int, ...], outer: tuple[int, ...], end: str = ".weight"
) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {f"{layer}.lora_A{end}": torch.randn(inner, generator=generator),
            f"{layer}.lora_B{end}": torch.randn(outer, generator=generator)}  # fmt: skip


def test_adapters_are_added_to_the_weights_they_name(tmp_path: Path) -> None:
    base = write(tmp_path / "tcl.pth", checkpoint())
    adapters = {
        **factors(f"base_model.model.{FEED}", (2, 16), (64, 2), ".default.weight"),
        **factors(CONVOLUTION, (2, 32, 3, 3), (32, 2, 1, 1)),
        **factors(f"{FUSED}.parametrizations.in_proj_weight.0", (2, 32), (96, 2), ""),
    }
    torch.save(adapters, tmp_path / "ttd.pt")
    before, after = read_tcl([base], "t"), read_tcl([base, tmp_path / "ttd.pt"], "t")
    inner, outer = factors(FEED, (2, 16), (64, 2)).values()
    change = outer @ inner
    torch.testing.assert_close(after.clip[FEED_KEY], before.clip[FEED_KEY] + change)
    pixels = torch.randn(1, 32, 4, 4)
    inner, outer = factors(CONVOLUTION, (2, 32, 3, 3), (32, 2, 1, 1)).values()
    expected = F.conv2d(pixels, before.grounder["decoder.net.0.conv.conv.weight"]) + F.conv2d(
        F.conv2d(pixels, inner), outer
    )
    found = F.conv2d(pixels, after.grounder["decoder.net.0.conv.conv.weight"])
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-3)
    changed = {key for part in ("clip", "grounder") for key in getattr(after, part)
               if not torch.equal(getattr(after, part)[key], getattr(before, part)[key])}  # fmt: skip
    assert changed == {FEED_KEY, "decoder.net.0.conv.conv.weight", "visual.transformer.resblocks.0.attn.in_proj_weight"}


def test_adapters_of_another_base_are_refused(tmp_path: Path) -> None:
    base = write(tmp_path / "tcl.pth", checkpoint())
    for adapters, message in (
        (factors("somewhere.else", (2, 16), (64, 2)), "the base has no tensor 'somewhere.else.weight'"),
        (factors(FEED, (2, 17), (64, 2)), "do not fit the weight"),
        (dict(list(factors(FEED, (2, 16), (64, 2)).items())[:1]), "half of the pair"),
        ({"factor": torch.ones(1)}, "neither a TCL nor adapters for one"),
        ({**factors(FEED, (2, 16), (64, 2)), "new": torch.ones(1)}, "'new' belongs to no tensor of the base"),
    ):
        torch.save(adapters, tmp_path / "ttd.pt")
        with pytest.raises(UserError, match=message):
            read_tcl([base, tmp_path / "ttd.pt"], "t")


def test_a_whole_checkpoint_after_the_first_replaces_it(tmp_path: Path) -> None:
    base, tuned = write(tmp_path / "tcl.pth", checkpoint()), write(tmp_path / "ttd.pt", checkpoint(seed=4))
    found, expected = read_tcl([base, tuned], "t"), split_state(checkpoint(seed=4), "t")
    assert all(torch.equal(found.grounder[key], expected.grounder[key]) for key in expected.grounder)
