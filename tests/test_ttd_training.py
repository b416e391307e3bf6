"""Training of TTD: adapters that live, savings that change nothing, runs that go on where they were killed."""

from __future__ import annotations

import dataclasses
import itertools
import multiprocessing
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from small_clip import small_clip
from torch import nn

from ovss.data.pairs import Pair
from ovss.errors import UserError
from ovss.models.grounder import Grounder
from ovss.models.openclip import open_clip
from ovss.models.tcl import TclModel
from ovss.models.weights import model_config
from ovss.training.ttd.attention import SplitAttention, split_attention
from ovss.training.ttd.augment import CropSettings, normalise, random_crop, valid_cells
from ovss.training.ttd.batches import pair_batches, steps_of
from ovss.training.ttd.fit import fit
from ovss.training.ttd.grounder import conv_of_doubled
from ovss.training.ttd.lora import LoraSettings, adapter_parameters, adapter_state, attach, refuse_dead, target_names
from ovss.training.ttd.lora import trained_parameters as trained
from ovss.training.ttd.loss import LossSettings
from ovss.training.ttd.merge import ADAPTERS_FILE, base_id, load_adapters, merged_state, save_adapters
from ovss.training.ttd.processes import Process, joined
from ovss.training.ttd.prune import Moments, pair_similarities
from ovss.training.ttd.step import Batch, TrainSettings, autocast, backward, batch_losses, encode_words, learning_rate
from ovss.training.ttd.towers import MaskClipTower, TclTower, texts

Tower = MaskClipTower | TclTower
CPU = torch.device("cpu")
SETTINGS = TrainSettings(steps=5, batch=4, lr=3e-3, precision="fp32", save_every=2, log_every=1)
CAPTIONS = ("a red dog on the grass", "two cats", "the dog and the ball", "a boat at sea , far away")


def random_values(model: nn.Module, seed: int = 3) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.copy_(
            torch.randn(parameter.shape, generator=generator) * max(1, parameter.shape[-1:].numel()) ** -0.5
        )


@torch.no_grad()
def base(kind: str, seed: int = 0, coarse: bool = False) -> Tower:
    clip = small_clip(seed=seed)
    if kind == "maskclip":
        return MaskClipTower(clip)
    grounder = Grounder(clip.visual)
    random_values(grounder)
    return TclTower(TclModel(clip, grounder).eval().requires_grad_(False), coarse)


def adapted(kind: str, settings: LoraSettings | None = None, coarse: bool = False, zero: bool = False) -> Tower:
    """A base with adapters whose outer factors are no longer zero."""
    tower = base(kind, coarse=coarse)
    attach(tower.model, settings or LoraSettings(), seed=1, unread=tower.unread)
    generator = torch.Generator().manual_seed(7)
    for name, factor in adapter_parameters(tower.model):
        if name.endswith("lora_B") and not zero:
            factor.data.copy_(torch.randn(factor.shape, generator=generator) * 0.05)
    return tower


def batch(step: int = 0, rows: slice = slice(0, 4)) -> Batch:
    images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(step))
    boxes = torch.tensor([[0, 0, 32, 32], [0, 8, 32, 32], [8, 0, 24, 32], [0, 0, 32, 20]])
    words = [list(dict.fromkeys(caption.split())) for caption in CAPTIONS]
    return Batch(images, boxes, CAPTIONS, words).part(rows)


def gradients(tower: Tower, settings: TrainSettings = SETTINGS) -> dict[str, torch.Tensor]:
    backward(tower, batch(), settings, CPU)
    return {name: factor.grad.clone() for name, factor in trained(tower.model) if factor.grad is not None}


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor], tolerance: float = 1e-6) -> None:
    assert first.keys() == second.keys()
    scale = max(float(each.abs().max()) for each in first.values())
    for name in first:
        torch.testing.assert_close(first[name], second[name], rtol=0, atol=tolerance * scale)


@pytest.mark.parametrize("masked", [False, True])
def test_split_attention_is_bit_equal_to_the_joint_one(masked: bool) -> None:
    joint = nn.MultiheadAttention(32, 4, batch_first=True)
    tokens = torch.randn(3, 11, 32)
    mask = torch.full((11, 11), -torch.inf).triu(1) if masked else None
    want = joint(tokens, tokens, tokens, need_weights=False, attn_mask=mask)[0]
    assert torch.equal(SplitAttention(joint)(tokens, tokens, tokens, attn_mask=mask)[0], want)


@pytest.mark.parametrize("preset", ["qv10", "mlp4"])
@pytest.mark.parametrize("kind", ["maskclip", "tcl"])
def test_fresh_adapters_change_nothing_and_all_of_them_learn(kind: str, preset: str) -> None:
    plain, tower = base(kind), adapted(kind, LoraSettings(preset), zero=True)
    images = batch().images
    torch.testing.assert_close(tower.pixels(images), plain.pixels(images), rtol=0, atol=1e-5)
    torch.testing.assert_close(texts(tower.clip, CAPTIONS), texts(plain.clip, CAPTIONS), rtol=0, atol=1e-5)
    assert all(".lora_" in name for name, each in tower.model.named_parameters() if each.requires_grad)
    moved = {name for name, each in gradients(tower).items() if each.abs().max() > 0}
    assert moved == {name for name, _ in trained(tower.model) if name.endswith("lora_B")}


def test_dead_adapters_are_refused() -> None:
    tower = base("maskclip")
    attach(tower.model, LoraSettings())  # the query of the value path is said to be read
    gradients(tower)
    with pytest.raises(UserError, match=r"2 factors have no part in the loss, visual.*resblocks\.2\.attn\.q_proj"):
        refuse_dead(tower.model)
    with pytest.raises(UserError, match="no layer named q_proj or v_proj"):
        attach(nn.Sequential(nn.Linear(2, 2)), LoraSettings())
    with pytest.raises(UserError, match="is not split"):
        target_names(base("maskclip").model, "qv10")


def test_peft_is_imported_without_the_models_it_knows_and_leaves_no_stand_ins() -> None:
    code = (
        "import sys; from ovss.training.ttd.lora import import_peft; peft = import_peft()\n"
        "print([name for name in ('transformers', 'transformers.utils', 'sympy') if name in sys.modules])\n"
        "from transformers import __version__; print(peft.LoraConfig(r=3).r, peft is import_peft())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["[]", "3 True"], done.stdout


@pytest.mark.parametrize(("preset", "clip_adds", "tcl_adds"), [("qv10", 614_400, 952_320), ("mlp4", 614_400, 952_320)])
def test_parameter_counts_of_the_paper(preset: str, clip_adds: int, tcl_adds: int) -> None:
    with torch.device("meta"):
        clip = open_clip.CLIP(**model_config("ViT-B-16-quickgelu"))
        both = nn.ModuleDict({"tower": clip, "grounder": Grounder(clip.visual)})
    alone = sum(each.numel() for each in clip.parameters())
    assert alone == 149_620_737
    whole = sum(each.numel() for each in both.parameters())
    assert whole - 1 == 178_346_246  # the published file has no logit scale of CLIP
    assert attach(both, LoraSettings(preset)) == tcl_adds
    assert round((whole - 1 + tcl_adds) / 1e6, 1) == 179.3
    assert alone + sum(each.numel() for name, each in adapter_parameters(both["tower"])) == 149_620_737 + clip_adds
    assert 149_620_737 + clip_adds == 150_235_137


def test_texts_cut_and_encoded_once_equal_whole_texts_one_by_one() -> None:
    tower = adapted("maskclip")
    features, present = encode_words(tower, batch().words, CPU)
    model = tower.clip.model
    for row, words in enumerate(batch().words):
        assert present[row].sum() == len(words)
        for place, word in enumerate(words):
            whole = model.encode_text(tower.clip.tokenizer([word]))[0]
            torch.testing.assert_close(features[row, place], whole, rtol=0, atol=1e-5)
    whole = model.encode_text(tower.clip.tokenizer(list(CAPTIONS)))
    torch.testing.assert_close(texts(tower.clip, CAPTIONS), whole, rtol=0, atol=1e-5)


def test_distinct_words_and_short_texts_are_all_that_is_encoded(monkeypatch: pytest.MonkeyPatch) -> None:
    tower, seen = adapted("maskclip"), []
    monkeypatch.setattr(tower.clip.model.token_embedding, "forward",
                        lambda tokens: seen.append(tuple(tokens.shape)) or F.embedding(
                            tokens, tower.clip.model.token_embedding.weight))  # fmt: skip
    batch_losses(tower, batch(), LossSettings(), "fp32", CPU)
    different = len({word for words in batch().words for word in words})
    assert seen == [(4, len(CAPTIONS[3].split()) + 2), (different, 3)]


@pytest.mark.parametrize("bias", [False, True])
def test_convolution_of_doubled_cells_on_the_coarse_grid(bias: bool) -> None:
    layer, cells = nn.Conv2d(5, 7, 3, padding=1, bias=bias).double(), torch.randn(2, 5, 4, 6, dtype=torch.float64)
    want = layer(F.interpolate(cells, scale_factor=2, mode="nearest"))
    torch.testing.assert_close(conv_of_doubled(cells, layer.weight, layer.bias), want, rtol=0, atol=1e-12)


def test_coarse_first_convolutions_give_the_same_pixels_and_gradients() -> None:
    fine, coarse = adapted("tcl"), adapted("tcl", coarse=True)
    images = batch().images
    want = fine.pixels(images).detach()
    torch.testing.assert_close(coarse.pixels(images).detach(), want, rtol=0, atol=1e-5 * float(want.abs().max()))
    same(gradients(fine), gradients(coarse), 1e-4)


def test_clips_last_image_block_is_not_run_where_the_grounder_has_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    tower = adapted("tcl")
    want = tower.pixels(batch().images)
    monkeypatch.setattr(tower.clip.visual.transformer.resblocks[-1], "forward", None)
    monkeypatch.setattr(tower.clip.visual.transformer.resblocks[-1].mlp, "forward", None)
    assert torch.equal(tower.pixels(batch().images), want)


@pytest.mark.parametrize("kind", ["maskclip", "tcl"])
def test_parts_of_a_batch_add_up(kind: str) -> None:
    parts = dataclasses.replace(SETTINGS, accumulate=3)
    same(gradients(adapted(kind)), gradients(adapted(kind), parts))


def test_half_precision_towers_have_full_precision_losses() -> None:
    tower = adapted("maskclip")
    half = batch_losses(tower, batch(), LossSettings(), "bf16", CPU)
    full = batch_losses(tower, batch(), LossSettings(), "fp32", CPU)
    assert half.total.dtype == torch.float32
    with autocast(CPU, "bf16"):
        assert tower.pixels(batch().images).dtype == torch.bfloat16
    assert 0 < abs(float(half.total.detach() - full.total.detach())) < 0.1 * float(full.total.detach())


def test_padding_takes_part_only_if_it_is_told_to() -> None:
    tower, plain = adapted("maskclip"), batch()
    noisy = dataclasses.replace(plain, boxes=torch.tensor([[0, 0, 32, 32]] * 4))
    found = [batch_losses(tower, each, LossSettings(ignore_padding=ignore), "fp32", CPU).total.item()
             for each in (plain, noisy) for ignore in (True, False)]  # fmt: skip
    assert found[0] != found[1] == found[2] == found[3]


def stream(first: int, end: int = 99) -> Iterator[Batch]:
    return (batch(step) for step in range(first, end))


def broken(first: int) -> Iterator[Batch]:
    yield from stream(first, 3)
    raise KeyboardInterrupt


@pytest.mark.parametrize("kind", ["maskclip", "tcl"])
def test_a_killed_run_ends_with_the_bytes_of_an_unbroken_one(kind: str, tmp_path: Path) -> None:
    unbroken, killed = tmp_path / "unbroken", tmp_path / "killed"
    for out in (unbroken, killed):
        out.mkdir()
    fit(adapted(kind), stream, SETTINGS, "base", unbroken)
    with pytest.raises(KeyboardInterrupt):
        fit(adapted(kind), broken, SETTINGS, "base", killed)
    assert "3,train,loss" in (killed / "curves.csv").read_text()  # one step more than was saved
    with pytest.raises(UserError, match="begun with another lr"):
        fit(adapted(kind), stream, dataclasses.replace(SETTINGS, lr=1.0), "base", killed)
    fit(adapted(kind, zero=True), stream, SETTINGS, "base", killed)
    files = sorted(each.name for each in unbroken.iterdir())
    assert files == sorted(each.name for each in killed.iterdir()) == [ADAPTERS_FILE, "curves.csv"]
    assert [name for name in files if (unbroken / name).read_bytes() != (killed / name).read_bytes()] == []
    start = adapter_state(adapted(kind).model)
    end = load_adapters(unbroken / ADAPTERS_FILE, "base")
    frozen = {name for name, each in adapter_parameters(adapted(kind).model) if not each.requires_grad}
    assert frozen == {name for name in start if torch.equal(start[name], end[name])}


def test_loss_falls(tmp_path: Path) -> None:
    settings = dataclasses.replace(SETTINGS, steps=25, lr=1e-2)
    fit(adapted("maskclip"), lambda first: (batch() for _ in range(first, 25)), settings, "base", tmp_path)
    rows = [line.split(",") for line in (tmp_path / "curves.csv").read_text().splitlines()]
    losses = [float(row[3]) for row in rows if row[2] == "loss"]
    assert losses[-1] < 0.7 * losses[0]


def test_pairs_that_end_early_are_reported(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="the pairs end after 2 of 5 steps"):
        fit(adapted("maskclip"), lambda first: stream(first, 2), SETTINGS, "base", tmp_path)


@pytest.mark.parametrize("settings", [LoraSettings(), LoraSettings("mlp4"), LoraSettings(scale=0.5)])
@pytest.mark.parametrize("kind", ["maskclip", "tcl"])
def test_merged_weights_give_the_adapted_outputs_on_the_plain_base(kind: str, settings: LoraSettings) -> None:
    tower, plain = adapted(kind, settings), base(kind)
    before = plain.pixels(batch().images)
    plain.model.load_state_dict(merged_state(plain.model.state_dict(), adapter_state(tower.model), settings.scale))
    want, after = tower.pixels(batch().images).detach(), plain.pixels(batch().images)
    torch.testing.assert_close(after, want, rtol=0, atol=1e-5 * float(want.abs().max()))
    assert (after - before).abs().max() > 1e-2 * want.abs().max()
    words = texts(tower.clip, CAPTIONS).detach()
    torch.testing.assert_close(texts(plain.clip, CAPTIONS), words, rtol=0, atol=1e-5 * float(words.abs().max()))


def test_adapters_of_another_base_rank_or_preset_are_refused(tmp_path: Path) -> None:
    ids = [base_id(base("maskclip", seed).model.state_dict()) for seed in (0, 0, 1)]
    assert ids[0] == ids[1] != ids[2]
    path = tmp_path / ADAPTERS_FILE
    save_adapters(path, adapter_state(adapted("maskclip").model), ids[0], LoraSettings())
    assert load_adapters(path, ids[0], LoraSettings()).keys() == adapter_state(adapted("maskclip").model).keys()
    with pytest.raises(UserError, match="made for base"):
        load_adapters(path, ids[2])
    with pytest.raises(UserError, match="its rank is 10, the settings say 3"):
        load_adapters(path, ids[0], LoraSettings(rank=3))
    with pytest.raises(UserError, match="its preset is qv10, the settings say mlp4"):
        load_adapters(path, ids[0], LoraSettings("mlp4"))
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match="no readable safetensors file"):
        load_adapters(path, ids[0])


def test_attention_that_cannot_be_split_is_refused() -> None:
    with pytest.raises(UserError, match="batch-first self-attention"):
        split_attention(nn.ModuleDict({"attn": nn.MultiheadAttention(8, 2, dropout=0.1, batch_first=True)}))


@pytest.mark.parametrize("size", [(480, 640), (1000, 300), (90, 60), (3, 900)])
def test_crops_keep_their_picture_inside_the_box(size: tuple[int, int]) -> None:
    image = np.full((*size, 3), 255, np.uint8)
    long_sides = set()
    for pair in range(12):
        crop = random_crop(image, CropSettings(), 5, pair)
        assert torch.equal(crop.image, random_crop(image, CropSettings(), 5, pair).image)
        top, left, bottom, right = crop.box
        inside = torch.zeros(448, 448, dtype=torch.bool)
        inside[top:bottom, left:right] = True
        assert torch.equal(inside, (crop.image != 0).all(dim=0)) and torch.equal(inside, (crop.image != 0).any(dim=0))
        long_sides.add(max(bottom - top, right - left))
        for grid in (28, 112):
            cells = valid_cells(torch.tensor([crop.box]), 448, (grid, grid))
            assert cells.any()
            share = float(inside.float().mean())
            assert abs(float(cells.float().mean()) - share) < 2.5 / grid
    assert len(long_sides) > 3 and min(long_sides) >= 320 and max(long_sides) <= 448


def test_colours_are_normalised_in_single_precision_one_by_one() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (40, 30, 3), dtype=np.uint8)
    mean, std = (np.asarray(each, np.float32) for each in (CropSettings().mean, CropSettings().std))
    wanted = ((picture.astype(np.float32) / 255 - mean) / std).transpose(2, 0, 1)
    found = np.empty((3, 40, 30), np.float32)
    normalise(picture, CropSettings().mean, CropSettings().std, found)
    assert found.tobytes() == wanted.tobytes()


def test_valid_cells_are_those_with_their_centre_inside() -> None:
    cells = valid_cells(torch.tensor([[0, 7, 32, 21], [9, 0, 11, 32]]), 32, (4, 4))
    assert cells[0, 0].tolist() == [False, True, True, False]
    assert cells[1, :, 0].tolist() == [False, True, False, False]


def test_moments_of_blocks_are_those_of_all_numbers() -> None:
    values, moments = torch.randn(1000, dtype=torch.float64) + 1e4, Moments()
    for block in values.split([1, 500, 0, 499]):
        moments.add(block)
    assert moments.threshold == pytest.approx(float(values.mean() + values.std(correction=0)), rel=1e-12)
    with pytest.raises(UserError, match="no pairs"):
        _ = Moments().threshold


def test_pair_similarity_is_the_cosine_of_the_mean_pixel_and_the_caption() -> None:
    tower, images = base("tcl"), batch().images
    pooled = (tower.pixels(images) + tower.pixels(images.flip(-1)).flip(2)).mean(dim=(1, 2))
    want = F.cosine_similarity(pooled, tower.clip.model.encode_text(tower.clip.tokenizer(list(CAPTIONS))))
    torch.testing.assert_close(pair_similarities(tower, images, CAPTIONS), want, rtol=0, atol=1e-5)


def test_learning_rate_falls_polynomially() -> None:
    rates = [learning_rate(step, TrainSettings(steps=10)) for step in (0, 5, 9)]
    assert rates == pytest.approx([1e-4, 1e-4 * 0.5**0.9, 1e-4 * 0.1**0.9])


def _one_of_two(rank: int, folder: Path) -> None:
    os.environ |= {"WORLD_SIZE": "2", "RANK": str(rank), "LOCAL_RANK": str(rank), "MASTER_ADDR": "127.0.0.1",
                   "MASTER_PORT": (folder / "port").read_text()}  # fmt: skip
    with joined() as process:
        rows = process.share(SETTINGS.batch)

        def shares(first: int) -> Iterator[Batch]:
            return (batch(step, rows) for step in range(first, 99))

        fit(adapted("maskclip"), shares, SETTINGS, "base", folder, process)


@pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="this torch has no gloo")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_two_processes_train_like_one(tmp_path: Path) -> None:
    alone, pair = tmp_path / "alone", tmp_path / "pair"
    for out in (alone, pair):
        out.mkdir()
    fit(adapted("maskclip"), stream, SETTINGS, "base", alone)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        (pair / "port").write_text(str(free.getsockname()[1]))
    context = multiprocessing.get_context("fork")
    children = [context.Process(target=_one_of_two, args=(rank, pair)) for rank in range(2)]
    for child in children:
        child.start()
    for child in children:
        child.join(60)
    assert [child.exitcode for child in children] == [0, 0]
    first, second = (load_adapters(out / ADAPTERS_FILE, "base") for out in (alone, pair))
    same(first, second, 1e-4)


def _begun_differently(rank: int, folder: Path) -> None:
    os.environ |= {"WORLD_SIZE": "2", "RANK": str(rank), "LOCAL_RANK": str(rank), "MASTER_ADDR": "127.0.0.1",
                   "MASTER_PORT": (folder / "port").read_text()}  # fmt: skip
    with joined() as process:
        fit(adapted("maskclip"), stream, SETTINGS, "base", folder / str(rank), process)


@pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="this torch has no gloo")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_processes_that_do_not_see_the_same_saved_state_are_refused(tmp_path: Path) -> None:
    for rank in range(2):
        (tmp_path / str(rank)).mkdir()
    with pytest.raises(KeyboardInterrupt):
        fit(adapted("maskclip"), broken, SETTINGS, "base", tmp_path / "0")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        (tmp_path / "port").write_text(str(free.getsockname()[1]))
    with pytest.raises(torch.multiprocessing.ProcessRaisedException, match=r"differ in the steps done \(0 to 2\)"):
        torch.multiprocessing.start_processes(_begun_differently, (tmp_path,), 2, start_method="fork")


class Numbered:
    """Ten pairs whose picture and caption say their number."""

    def __len__(self) -> int:
        return 10

    def __getitem__(self, position: int) -> Pair:
        return Pair(str(position), np.full((30, 40, 3), position, np.uint8), f"Pair {position} pair")


def test_batches_start_at_any_step_and_are_shared_without_a_change() -> None:
    crops = CropSettings(smallest=30, largest=50, side=40)

    def take(first: int, steps: int, process: Process) -> list[Batch]:
        return list(itertools.islice(pair_batches(Numbered(), 4, crops, 3, first, process, workers=1 + first), steps))

    whole, late = take(0, 5, Process()), take(3, 2, Process())
    assert steps_of(10, 4, epochs=3) == 6
    assert whole[0].words[0] == ("pair", whole[0].captions[0].split()[1])
    for epoch in (whole[:2], whole[2:4]):
        assert len({caption for each in epoch for caption in each.captions}) == 8
    assert whole[0].captions != whole[2].captions
    for each, again in zip(whole[3:], late, strict=True):
        assert again.captions == each.captions and torch.equal(again.images, each.images)
        assert torch.equal(again.boxes, each.boxes)
    shares = [take(0, 5, Process(rank, 2)) for rank in range(2)]
    for step, each in enumerate(whole):
        assert [*shares[0][step].captions, *shares[1][step].captions] == each.captions
        assert torch.equal(torch.cat([shares[0][step].images, shares[1][step].images]), each.images)
    with pytest.raises(UserError, match="10 pairs do not fill a batch of 11"):
        steps_of(10, 11)


class Counted(Numbered):
    """The same, counting what is read."""

    def __init__(self) -> None:
        self.read: list[int] = []

    def __getitem__(self, position: int) -> Pair:
        self.read.append(position)
        return super().__getitem__(position)


def test_the_next_batches_are_made_while_a_step_runs() -> None:
    pairs, crops = Counted(), CropSettings(smallest=30, largest=50, side=40)
    batches = pair_batches(pairs, 8, crops, 3, 0, Process(), workers=2)
    next(batches)
    deadline = time.monotonic() + 20
    while len(pairs.read) < 32 and time.monotonic() < deadline:
        time.sleep(0.002)
    time.sleep(0.05)
    assert len(pairs.read) == 32  # the batch in use, one put together, the crops of two more
