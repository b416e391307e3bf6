"""TTD's losses and their gradients against an independent float64 reference."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from ovss.errors import UserError
from ovss.methods._ttd_scores import largest_gap
from ovss.training.ttd.loss import Losses, LossSettings, choose, losses, min_max, similarity_maps, targets
from ovss.training.ttd.prune import kept

Arrays = dict[str, np.ndarray]
SPACES = {"cosine": "cosine", "sigmoid": "mask"}
SAMPLES = [f"s{number}" for number in range(5)]


@pytest.fixture(scope="module")
def arrays(ttd_golden: Path) -> Arrays:
    with np.load(ttd_golden / "ttd_golden.npz", allow_pickle=False) as found:
        return {name: found[name] for name in found.files}


class Case:
    """One sample as a batch of one image, with gradient."""

    def __init__(self, arrays: Arrays, sample: str, space: str, dtype: torch.dtype = torch.float64) -> None:
        self.want = {k.removeprefix(f"{sample}_{space}_"): torch.from_numpy(v.astype(float))
                     for k, v in arrays.items() if k.startswith(f"{sample}_{space}_")}  # fmt: skip

        def load(name: str) -> torch.Tensor:
            return torch.from_numpy(arrays[f"{sample}_{name}"]).to(dtype)[None].requires_grad_()

        self.inputs = {name: load(name) for name in ("pixels", "text", "tags")}
        self.settings = LossSettings(map=SPACES[space])
        self.maps = similarity_maps(self.inputs["pixels"].flatten(1, 2), self.inputs["text"], self.inputs["tags"],
                                    self.settings)  # fmt: skip
        self.present = torch.ones(1, self.inputs["tags"].shape[1], dtype=torch.bool)
        self.valid = torch.ones(1, self.maps.text.shape[1], dtype=torch.bool)
        self.selected = choose(self.maps, self.inputs["pixels"], self.inputs["tags"], self.present, self.valid, "pixel")

    def losses(self, settings: LossSettings) -> Losses:
        return losses(self.maps, self.selected, self.present, self.valid, settings)


def close(got: torch.Tensor, want: torch.Tensor, tolerance: float = 1e-9) -> None:
    torch.testing.assert_close(got.double(), want.reshape(got.shape), rtol=0, atol=tolerance)


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("sample", SAMPLES)
def test_maps_selection_targets_losses_and_gradients(arrays: Arrays, sample: str, space: str) -> None:
    case = Case(arrays, sample, space)
    _, union = targets(case.maps.tags, case.selected, case.valid)
    found = case.losses(case.settings)
    for name, got in {"map_text": case.maps.text, "map_tags": case.maps.tags, "union": union,
                      "L_distill": found.distill, "L_tag": found.tag, "L": found.total}.items():  # fmt: skip
        close(got.detach(), case.want[name])
    assert case.selected[0].tolist() == case.want["selected"].bool().tolist()
    assert int(case.selected.sum()) == int(case.want["k"])
    found.total.backward()
    for name, each in case.inputs.items():
        assert each.grad is not None
        close(each.grad[0], case.want[f"grad_{name}"])


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("sample", SAMPLES)
def test_other_reductions(arrays: Arrays, sample: str, space: str) -> None:
    case = Case(arrays, sample, space)
    summed = case.losses(LossSettings(pixels="sum"))
    close(summed.distill, case.want["L_distill_sum"])
    close(summed.tag, case.want["L_tag_sum"])
    close(case.losses(LossSettings(tags="mean")).tag, case.want["L_tag_tagmean"])


@pytest.mark.parametrize("space", SPACES)
def test_float32_is_close_and_selects_the_same(arrays: Arrays, space: str) -> None:
    for sample in SAMPLES:
        case = Case(arrays, sample, space, torch.float32)
        found = case.losses(case.settings)
        assert case.selected[0].tolist() == case.want["selected"].bool().tolist()
        close(found.total[None], case.want["L"], 1e-5)


@pytest.mark.parametrize("space", SPACES)
def test_padded_cells_and_words_change_nothing(arrays: Arrays, space: str) -> None:
    case = Case(arrays, "s2", space)
    flat = case.inputs["pixels"].detach().flatten(1, 2)
    # Padding that would win every maximum if it took part: the words themselves as cells, and a copy of the words.
    tags = case.inputs["tags"].detach()
    pixels = torch.cat([flat, tags, -tags], dim=1)
    valid = torch.arange(pixels.shape[1])[None] < flat.shape[1]
    words = torch.cat([tags, flat[:, :3]], dim=1)
    present = torch.arange(words.shape[1])[None] < tags.shape[1]
    maps = similarity_maps(pixels, case.inputs["text"].detach(), words, case.settings)
    selected = choose(maps, pixels, words, present, valid, "pixel")
    found = losses(maps, selected, present, valid, case.settings)
    close(found.distill, case.want["L_distill"])
    close(found.tag, case.want["L_tag"])
    everywhere = losses(maps, selected, present, torch.ones_like(valid), case.settings)
    assert abs(float(everywhere.total.detach()) - float(case.want["L"])) > 1e-3


def test_flat_map_has_a_zero_target() -> None:
    assert min_max(torch.full((2, 5), 0.3), torch.ones(2, 5, dtype=torch.bool)).abs().max() == 0


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("sample", SAMPLES)
def test_each_term_alone(arrays: Arrays, sample: str, space: str) -> None:
    case = Case(arrays, sample, space)
    close(case.losses(replace(case.settings, tag=False)).total, case.want["L_distill"])
    close(case.losses(replace(case.settings, distill=False)).total, case.want["L_tag"])


@pytest.mark.parametrize("sample", SAMPLES)
def test_words_of_the_pooled_image_and_words_given(arrays: Arrays, sample: str) -> None:
    case = Case(arrays, sample, "cosine")
    pixels, tags = case.inputs["pixels"].flatten(1, 2), case.inputs["tags"]
    scores = torch.from_numpy(arrays[f"{sample}_s_image"])[None]
    # Cells that are not valid would change every pooled embedding.
    noisy = torch.cat([pixels, 9 * torch.ones_like(pixels)], dim=1)
    valid = torch.cat([case.valid, ~case.valid], dim=1)
    found = choose(case.maps, noisy, tags, case.present, valid, "image")
    assert found.tolist() == largest_gap(scores).tolist()
    given = torch.zeros_like(case.present)
    chosen = choose(case.maps, pixels, tags, case.present, case.valid, "given", given)
    alone = losses(case.maps, chosen, case.present, case.valid, case.settings)
    assert float(alone.distill.detach()) == 0 and not alone.selected.any()
    close(alone.tag, case.maps.tags.detach().square().mean(dim=2).sum(dim=1))
    with pytest.raises(UserError, match="needs the chosen words"):
        choose(case.maps, pixels, tags, case.present, case.valid, "given")


def test_pruning(arrays: Arrays) -> None:
    assert kept(torch.from_numpy(arrays["prune_sims"])).tolist() == arrays["prune_keep"].tolist()
