"""FreeCP step by step: boxes, vocabularies, purification and the decision, and what rows share or must not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import reference_freecp
import torch
import torch.nn.functional as F
from small_clip import PATCH, small_clip
from torch import Tensor

from ovss.errors import UserError
from ovss.evaluation.batch import Batch, View
from ovss.evaluation.protocol import Protocol
from ovss.methods import _freecp_purify as purify
from ovss.methods import _freecp_refine as refine
from ovss.methods import read_settings
from ovss.methods._freecp_boxes import box_mask, boxes, bright, union
from ovss.methods._freecp_decide import decide_maps
from ovss.methods.freecp import Settings, Windows, affinities, segment, uses_labels
from ovss.models import crops
from ovss.models.crops import crop_features
from ovss.models.features import Features
from ovss.models.text import Vocabulary
from ovss.models.windows import cut_windows, make_grid, stitch

CROP = 16
QUERIES, BACKGROUND = 12, 3
BASE: dict[str, Any] = {"variant": "SCLIP", "rp": 0.1, "ap": 0.6}
PROTOCOL = {"short_side": 40, "crop": 32, "stride": 16, "names": "own", "templates": "photo", "logit_scale": 60.0,
            "ambiguity_crop": CROP}  # fmt: skip


@pytest.fixture(scope="module")
def clip():
    return small_clip()


@pytest.fixture(scope="module")
def view() -> View:
    generator = torch.Generator().manual_seed(3)
    image = F.interpolate(torch.randn(1, 3, 6, 7, generator=generator), size=(45, 58), mode="bicubic")[0]
    return View("im0", (61, 77), torch.zeros(45, 58, 3, dtype=torch.uint8), image, make_grid((45, 58), 32, 16, PATCH))


@pytest.fixture(scope="module")
def words(clip, view: View) -> Vocabulary:
    """Queries near patch features of the image, so that several classes respond and some of them look alike."""
    generator = torch.Generator().manual_seed(5)
    with torch.inference_mode():
        patches = Features(clip, view.windows()).get("dense", variant="SCLIP", family="freecp_block").flatten(0, 1)
    anchors = patches[torch.randperm(len(patches), generator=generator)[: QUERIES // 2]].repeat_interleave(2, 0)
    text = F.normalize(anchors + 0.1 * torch.randn(anchors.shape, generator=generator), dim=1)
    other = F.normalize(text + 0.1 * torch.randn(anchors.shape, generator=generator), dim=1)
    classes = torch.tensor([0] * BACKGROUND + list(range(1, QUERIES - BACKGROUND + 1)))
    return Vocabulary(tuple(f"q{i}" for i in range(QUERIES)), text, classes, other, background=True)


def same_scale(clip):
    return replace(clip, logit_scale=PROTOCOL["logit_scale"])


def features(clip, view: View, settings: Settings | None = None) -> Features:
    return Features(clip, view.windows(), affinities=affinities(settings) if settings else ())


def run(
    clip, view: View, words: Vocabulary, label: np.ndarray | None = None, shared: Features | None = None, **changes
):
    settings = Settings(**{**BASE, **changes})
    batch = Batch((view,), Protocol.read(PROTOCOL), () if label is None else (label,))
    with torch.inference_mode():
        return segment(batch, words, [shared or features(clip, view, settings)], settings)[0].labels


def opened(clip, view: View, words: Vocabulary, **changes) -> Windows:
    return Windows(features(clip, view), words, Settings(**{**BASE, **changes}), 60.0)


def test_boxes_are_those_of_components_and_holes_by_hand() -> None:
    ring = np.zeros((6, 8), dtype=bool)
    ring[0:4, 1:5] = True
    ring[1:3, 2:4] = False  # a hole of 2 x 2, its box grown by one is the ring's
    ring[5, 7] = True  # touches both ends
    ring[4, 6] = True  # joined with it over the corner
    found = {tuple(row) for row in boxes(ring[None], "whole", holes=True).tolist()}
    assert found == {(0, 0, 1, 4, 5), (0, 4, 6, 6, 8)}
    assert len(boxes(ring[None], "whole", holes=True)) == 3
    cut = {tuple(row) for row in boxes(ring[None], "cut", holes=False).tolist()}
    assert cut == {(0, 0, 1, 4, 5), (0, 4, 6, 5, 7)}


def test_box_mask_equals_flood_fill_on_random_maps() -> None:
    generator = torch.Generator().manual_seed(0)
    maps = torch.rand(40, 7, 9, generator=generator) ** torch.randint(1, 9, (40, 1, 1), generator=generator)
    maps[3], maps[4] = 0.0, 1.0
    mask, found = box_mask(maps, 0.4, "cut"), boxes(bright(maps, 0.4), "cut", holes=True)
    for number, values in enumerate(maps.numpy()):
        np.testing.assert_array_equal(mask[number], reference_freecp.box_mask(values) > 0)
        ours = [(x0, y0, x1, y1) for m, y0, x0, y1, x1 in found.tolist() if m == number]
        assert sorted(ours or [(0, 0, 0, 0)]) == sorted(reference_freecp.boxes(values))
    assert not mask[3].any()


def test_union_of_no_box_and_of_an_empty_box_is_empty() -> None:
    assert not union(np.zeros((0, 5), dtype=np.int64), (2, 3, 4)).any()
    assert not union(np.array([[1, 2, 1, 2, 3]]), (2, 3, 4)).any()


def test_bright_compares_8_bit_levels_with_the_floor_of_the_threshold() -> None:
    values = torch.tensor([[[5 / 255 + 1e-4, 2 / 255 + 1e-4, 3 / 255 + 1e-4]]])
    assert bright(values, 0.4).tolist() == [[[True, False, True]]]  # 0.4 * 5 is 2 and the comparison is strict


def test_min_max_of_a_single_query_keeps_its_map_instead_of_dividing_by_zero() -> None:
    maps = torch.ones(1, 1, 4)
    assert torch.equal(refine.min_max(maps), maps)


def test_queries_outside_the_vocabulary_take_no_part_in_softmax_or_min_max() -> None:
    generator = torch.Generator().manual_seed(2)
    patches, text = (F.normalize(torch.randn(*shape, generator=generator), dim=-1) for shape in ((1, 5, 8), (4, 8)))
    allowed = torch.tensor([[True, False, True, True]])
    maps = refine.query_maps(patches, text, 20.0, "softmax", allowed)
    few = refine.query_maps(patches, text[allowed[0]], 20.0, "softmax")
    torch.testing.assert_close(maps[:, allowed[0]], few)
    assert not maps[:, 1].any()
    scaled = refine.min_max(maps, allowed)
    torch.testing.assert_close(scaled[:, allowed[0]], refine.min_max(few))
    assert not scaled[:, 1].any()


def test_a_class_with_several_names_takes_the_largest_map() -> None:
    maps = torch.tensor([[[0.1], [0.2], [0.3], [0.5]]])
    assert refine.class_maps(maps, torch.tensor([0, 1, 1, 2]), 1).flatten().tolist() == pytest.approx([0.3, 0.5])


def test_balanced_twice_equals_the_squared_transition() -> None:
    generator = torch.Generator().manual_seed(1)
    affinity = (8 * torch.rand(2, 9, 9, generator=generator)).softmax(dim=-1)
    maps = torch.rand(2, 4, 9, generator=generator)
    twice = refine.spread(maps, refine.balanced(affinity, 3, 1e-8), 2, 1e-8)
    once = refine.spread(maps, refine.transition(affinity, 3, 1e-8), 1, 1e-8)
    torch.testing.assert_close(twice, once, rtol=1e-5, atol=1e-5)


def test_overlaps_are_min_over_max_and_empty_maps_have_none() -> None:
    maps = torch.tensor([[1.0, 0.5, 0.0], [0.5, 0.5, 0.5], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    expected = torch.minimum(maps[:, None], maps).sum(2) / torch.maximum(maps[:, None], maps).sum(2)
    torch.testing.assert_close(purify.overlaps(maps, "code"), expected.nan_to_num(0.0))
    assert purify.groups(maps, [0, 1, 2, 3], 0.0, "code") == [(0, 1, 2, 3)]
    assert purify.groups(maps, [0, 1, 2, 3], 0.5, "code") == [(0, 1)]
    assert purify.groups(maps, [1], 0.0, "code") == []


def test_losers_go_from_the_window_or_from_the_box_alone() -> None:
    maps = torch.ones(1, 3, 6)
    found = [purify.Region(0, (0, 1), (0, 0, 1, 2)), purify.Region(0, (0, 1), (1, 1, 2, 3))]
    kept = torch.ones(1, 3, dtype=torch.bool)
    assert purify.keep_groups(kept, found, [0, 0]).tolist() == [[True, False, True]]
    assert purify.keep_groups(kept, found, [0, 1]).tolist() == [[True, True, True]]
    assert purify.contested([*found, purify.Region(0, (0, 1), (1, 1, 1, 3))]) == []
    assert purify.contested([*found, purify.Region(1, (0, 1), (1, 1, 1, 3))]) == found
    cleared = purify.clear_regions(maps, found, [0, 1], (2, 3))[0]
    assert cleared[0].tolist() == [1, 1, 1, 1, 0, 0]
    assert cleared[1].tolist() == [0, 0, 1, 1, 1, 1]


@pytest.mark.parametrize("background", [True, False])
def test_decision_is_the_arg_max_of_all_channels_with_the_background_first(background: bool) -> None:
    generator = torch.Generator().manual_seed(7)
    grid = make_grid((40, 56), 32, 16, 8)
    maps = torch.rand(grid.count, 5, 16, generator=generator)
    maps[:, 1] = 0.0
    maps[:2] = 0.0
    front = stitch(maps.transpose(1, 2), grid, (30, 44))
    full = torch.cat([1 - front.amax(dim=0, keepdim=True), front]) if background else front
    assert np.array_equal(decide_maps(maps, grid, (30, 44), background), full.argmax(dim=0).to(torch.uint8).numpy())
    assert not decide_maps(torch.zeros_like(maps), grid, (30, 44), background).any()


def test_background_wins_ties() -> None:
    grid = make_grid((8, 8), None, None, 8)
    half = torch.full((1, 2, 1), 0.5)
    assert not decide_maps(half, grid, (8, 8), background=True).any()
    assert (decide_maps(half + 0.01, grid, (8, 8), background=True) == 1).all()


LOOPS = [("SCLIP", "all", p) for p in ("none", "rp", "ap", "rp_ap", "ap_rp")]
LOOPS += [
    ("GEM", "all", "rp_ap"),
    ("MaskCLIP", "all", "ap_rp"),
    ("SCLIP", "image", "none"),
    ("SCLIP", "window", "none"),
]


@pytest.mark.parametrize(("variant", "vocabulary", "purification"), LOOPS)
def test_whole_method_equals_the_loop_over_windows_and_classes(
    clip, view, words, variant, vocabulary, purification
) -> None:
    settings = Settings(**BASE | {"variant": variant, "vocabulary": vocabulary, "purification": purification})
    label = np.zeros(view.original_size, dtype=np.uint8)
    label[:25, :30], label[40:, 50:], label[30:] = 4, 7, 2
    loop = reference_freecp.trace_image(same_scale(clip), view.input, view.original_size, words, settings, 32, 16,
                                        label=label, ambiguity_crop=CROP)  # fmt: skip
    batch = Batch((view,), Protocol.read(PROTOCOL), (label,))
    with torch.inference_mode():
        ours = segment(batch, words, [features(clip, view, settings)], settings)[0].labels
    differ = ours != loop.labels
    assert not differ.any() or loop.margin()[differ].max() < 1e-4
    assert len(np.unique(ours)) > 1


def test_the_stages_do_something_on_this_image(clip, view, words) -> None:
    """Guards the tests around it: some classes go, some groups form, some regions are decided."""
    window = opened(clip, view, words)
    with torch.inference_mode():
        assert 0 < int(window.consistent().sum()) < window.consistent().numel()
        found = window.regions()
        assert any(not region.empty for region in found)
        assert any(winner is not None for winner in window.winners(found, CROP))
        labels = {p: run(clip, view, words, purification=p) for p in ("none", "rp", "rp_ap", "ap")}
    assert len({values.tobytes() for values in labels.values()}) >= 3


@pytest.mark.parametrize(
    "change",
    [
        {"activation": "cosine"}, {"affinity_form": "average"}, {"box_border": "whole"}, {"consistency": "iou"},
        {"family": "full_block"}, {"affinity_heads": "first"}, {"loser_scope": "box"}, {"box_threshold": 0.7},
        {"sinkhorn_rounds": 0}, {"rp": 0.3},
    ],
)  # fmt: skip
def test_every_switch_changes_the_maps(clip, view, words, change) -> None:
    with torch.inference_mode():
        before, after = (opened(clip, view, words, **c).purified(CROP) for c in ({}, change))
    assert not torch.equal(before, after)


def test_known_classes_restrict_the_vocabulary_of_the_image_or_of_each_window(clip, view, words) -> None:
    label = np.full((61, 77), 255, dtype=np.uint8)
    label[:20, :20], label[50:, 70:] = 4, 7
    for scope in ("image", "window"):
        made = run(clip, view, words, label, vocabulary=scope, purification="none")
        assert set(np.unique(made)) <= {0, 4, 7}
    by_image, by_window = (
        run(clip, view, words, label, vocabulary=scope, purification="none") for scope in ("image", "window")
    )
    assert not np.array_equal(by_image, by_window)
    assert not run(clip, view, words, np.full_like(label, 255), vocabulary="image", purification="none").any()


def test_only_rows_with_known_classes_ask_for_labels() -> None:
    assert uses_labels(Settings(**BASE, vocabulary="window"))
    assert not uses_labels(Settings(**BASE))


def test_rows_share_features_and_change_nothing_for_each_other(clip, view, words) -> None:
    rows: list[dict[str, Any]] = [
        {}, {"purification": "none"}, {"purification": "ap"}, {"variant": "GEM"},
        {"variant": "GEM", "purification": "rp"}, {"loser_scope": "box"}, {"affinity_heads": "first"}, {"rp": 0.2},
        {"ap": 0.3}, {"variant": "ClearCLIP"},
    ]  # fmt: skip
    wanted = [at for row in rows for at in affinities(Settings(**{**BASE, **row}))]
    shared = Features(clip, view.windows(), affinities=wanted)
    templates_only = replace(words, descriptions=None)
    for row in [*rows, *reversed(rows)]:
        for text in (words, templates_only):
            alone, together = run(clip, view, text, **row), run(clip, view, text, shared=shared, **row)
            assert np.array_equal(alone, together)


def test_descriptions_decide_regions_and_nothing_before(clip, view, words) -> None:
    with torch.inference_mode():
        one, other = opened(clip, view, words), opened(clip, view, replace(words, descriptions=-words.features))
        assert one.regions() == other.regions()
        assert one.winners(one.regions(), CROP) != other.winners(other.regions(), CROP)


def test_images_of_a_batch_are_independent(clip, view, words) -> None:
    settings = Settings(**BASE)
    second = replace(view, input=view.input.flip(-1))
    with torch.inference_mode():
        both = segment(Batch((view, second), Protocol.read(PROTOCOL)), words,
                       [features(clip, each) for each in (view, second)], settings)  # fmt: skip
    assert np.array_equal(both[0].labels, run(clip, view, words))
    assert np.array_equal(both[1].labels, run(clip, second, words))


def test_affinity_of_a_companion_takes_the_place_of_clips(clip, view, words) -> None:
    class Even:
        def affinity(self, colours: Tensor, grid: tuple[int, int]) -> Tensor:
            assert colours.shape[-2:] == (32, 32)
            return torch.full((len(colours), 16, 16), 1 / 16)

    settings = Settings(**BASE, affinity="dino")
    with torch.inference_mode():
        made = Windows(Features(clip, view.windows(), view.colours, {"dino": Even()}), words, settings, 60.0).maps()
    assert not made.refined.any()  # an even affinity leaves nothing to tell patches apart by
    with pytest.raises(UserError, match=r"companions\.dino"):
        run(clip, view, words, affinity="dino")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rp": 1.5}, "settings.rp: 1.5 is out of range"),
        ({"ap": -0.1}, "settings.ap: -0.1 is out of range"),
        ({"box_threshold": 2.0}, "settings.box_threshold: 2.0 is out of range"),
        ({"purification": "rpap"}, "settings.purification: 'rpap' is not one of none, rp"),
    ],
)
def test_settings_out_of_range_are_refused_in_one_sentence(changes, message) -> None:
    with pytest.raises(UserError, match=message) as caught:
        read_settings(Settings, {**BASE, **changes}, "freecp")
    assert "\n" not in str(caught.value)


def test_protocol_steps_that_freecp_does_not_have_are_refused(clip, view, words) -> None:
    settings = Settings(**BASE)
    with pytest.raises(UserError, match=r"protocol\.prob_threshold: method freecp has no such step"):
        segment(Batch((view,), Protocol.read({**PROTOCOL, "prob_threshold": 0.1})), words,
                [features(clip, view)], settings)  # fmt: skip
    with torch.inference_mode(), pytest.raises(UserError, match=r"protocol\.ambiguity_crop"):
        segment(Batch((view,), Protocol.read({**PROTOCOL, "ambiguity_crop": None})), words,
                [features(clip, view)], settings)  # fmt: skip


def test_a_crop_is_cut_from_its_window_in_patches(clip, view) -> None:
    with torch.inference_mode():
        cut = cut_windows(view.input, view.grid)[1:2, :, 8:32, 0:16]
        small = F.interpolate(cut, size=(CROP, CROP), mode="bilinear", align_corners=False)
        expected = Features(clip, small).get("image", position="scale")
        ours = crop_features(features(clip, view), [(1, 1, 0, 4, 2)], CROP, "scale")
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-5)


def test_announced_crops_go_together_and_change_no_bit(clip, view, monkeypatch) -> None:
    cuts = [(w, y, x, y + 2, x + 2) for w in range(3) for y in range(3) for x in range(3)]
    with torch.inference_mode():
        alone = [crop_features(features(clip, view), [cut], CROP, "scale") for cut in cuts]
        shared, calls = features(clip, view), []
        encode = crops.encode_images
        monkeypatch.setattr(crops, "encode_images", lambda *a: calls.append(1) or encode(*a))
        crops.expect_crops(shared, cuts[5:], CROP, "scale")
        crops.expect_crops(shared, cuts[:9], CROP, "scale")
        crops.expect_crops(shared, cuts, CROP, "antialias")
        for cut, expected in zip(cuts, alone, strict=True):
            assert torch.equal(crop_features(shared, [cut], CROP, "scale"), expected)
    assert len(calls) == -(-len(cuts) // crops.BATCH)


def test_a_crop_has_the_same_bits_whoever_asked_before(clip, view, monkeypatch) -> None:
    cuts = [(w, y, x, y + 2, x + 2) for w in range(3) for y in range(3) for x in range(3)]
    with torch.inference_mode():
        together = crop_features(features(clip, view), cuts, CROP, "scale")
        one_by_one, calls = features(clip, view), []
        encode = crops.encode_images
        monkeypatch.setattr(crops, "encode_images", lambda *a: calls.append(1) or encode(*a))
        for cut, expected in zip(reversed(cuts), together.flip(0), strict=True):
            assert torch.equal(crop_features(one_by_one, [cut], CROP, "scale")[0], expected)
        again = crop_features(one_by_one, cuts, CROP, "scale")
    assert torch.equal(again, together)
    assert len(calls) == len(cuts)
