"""FreeCP against the published code: every stage of a window, ambiguity's crops, and sliding windows to the end."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from reference_clip import Reference

from ovss.methods import _freecp_purify as purify
from ovss.methods import _freecp_refine as refine
from ovss.methods._freecp_boxes import box_mask
from ovss.methods._freecp_decide import decide_maps
from ovss.methods.freecp import Settings, Windows, affinities
from ovss.models.features import Features
from ovss.models.text import Vocabulary
from ovss.models.windows import Grid, cut_windows, make_grid, stitch

TOLERANCE = 1e-4
CROP = 112
STAGES = {
    "prob", "prob_minmax", "affinity_raw", "transition", "box_mask", "refined", "rp_consistency", "rp_survivors",
    "ap_soft_iou", "final_classes", "final_maps", "class_logits", "upsampled", "prediction",
    "ablation_ap_only_classes", "ablation_ap_then_rp_classes",
}  # fmt: skip
MARGIN = "prediction_margin_lt_1e3"


def vocabulary(reference: Reference, background: bool) -> Vocabulary:
    """Background words (class 0) and classes, or the classes alone."""
    count = len(reference.query)
    words = reference.num_background if background else 0
    first = 0 if background else reference.num_background
    classes = torch.tensor([max(0, i - words + bool(words)) for i in range(count - first)])
    names = tuple(map(str, range(count - first)))
    return Vocabulary(names, reference.query[first:], classes, reference.query_llm[first:], background)


def windows(reference: Reference, case: dict[str, Any], background: bool, grid: Grid, **changes: Any) -> Windows:
    settings = Settings(
        variant=case["variant"], rp=case["rp_threshold"], ap=case["ap_threshold"],
        gem_depth=reference.gem_depth, gem_depth_limit="none", **changes,
    )  # fmt: skip
    pixels = cut_windows(reference.images[case["image"]][0], grid)
    features = Features(reference.clip, pixels, affinities=affinities(settings))
    return Windows(features, vocabulary(reference, background), settings, reference.clip.logit_scale)


def whole(reference: Reference, image: str) -> Grid:
    height, width = reference.images[image].shape[-2:]
    return make_grid((height, width), None, None, reference.clip.patch_size)


@pytest.fixture(scope="session")
def one_window(reference: Reference) -> Callable[..., Windows]:
    @cache
    @torch.inference_mode()
    def of(name: str, purification: str) -> Windows:
        case = reference.stage_cases[name]
        grid = whole(reference, case["image"])
        return windows(reference, case, case["background"], grid, purification=purification)

    return of


def scores(maps: torch.Tensor, grid: Grid, size: tuple[int, int], background: bool) -> torch.Tensor:
    front = stitch(maps.transpose(1, 2), grid, size)
    return torch.cat([1 - front.amax(dim=0, keepdim=True), front]) if background else front


@torch.inference_mode()
def stage(kind: str, window: Windows, reference: Reference, case: dict[str, Any]) -> np.ndarray | torch.Tensor:
    height, width = window.grid
    grid, size = whole(reference, case["image"]), tuple(reference.images[case["image"]].shape[-2:])
    settings, maps = window.settings, window.maps()
    if kind in ("prob", "prob_minmax"):
        return window.query_maps()[kind == "prob_minmax"][0].unflatten(1, (height, width))
    if kind == "affinity_raw":
        return window.affinity()[0]
    if kind == "transition":
        return refine.transition(window.affinity(), settings.sinkhorn_rounds, settings.epsilon)[0]
    if kind == "box_mask":
        mask = box_mask(maps.scaled.unflatten(2, (height, width)), settings.box_threshold, settings.box_border)
        return mask[0].to(torch.uint8)
    if kind == "refined":
        return maps.refined[0].unflatten(1, (height, width))
    if kind == "rp_consistency":
        return purify.consistency(maps.prob, maps.refined, settings.consistency, settings.epsilon)[0]
    if kind == "rp_survivors":
        return window.consistent()[0].nonzero()[:, 0]
    if kind == "ap_soft_iou":
        return purify.overlaps(maps.refined[0][window.consistent()[0]], settings.consistency)
    if kind == "class_logits":
        features = window.features.get("image", position=settings.position)
        return (window.scale * features @ window.vocabulary.features.T)[0]
    if kind in ("final_classes", "ablation_ap_only_classes", "ablation_ap_then_rp_classes"):
        return window.surviving(CROP)[1][0].nonzero()[:, 0]
    final = window.purified(CROP)
    if kind == "final_maps":
        return final[0].unflatten(1, (height, width))
    if kind == "upsampled":
        return stitch(final.transpose(1, 2), grid, size)
    assert kind == "prediction"
    return decide_maps(final, grid, size, case["background"])


def test_stage_equals_the_published_code(stage_array: str, reference: Reference, one_window) -> None:
    name, _, kind = stage_array.rpartition("__")
    if kind == MARGIN:
        return
    assert kind in STAGES
    purification = {"ablation_ap_only_classes": "ap", "ablation_ap_then_rp_classes": "ap_rp"}.get(kind, "rp_ap")
    computed = stage(kind, one_window(name, purification), reference, reference.stage_cases[name])
    compare(np.asarray(computed), reference.stages[stage_array], reference.stages.get(f"{name}__{MARGIN}"), kind)


def compare(computed: np.ndarray, expected: np.ndarray, close: np.ndarray | None, kind: str) -> None:
    assert computed.shape == expected.shape
    if kind == "prediction":
        assert close is not None
        np.testing.assert_array_equal(computed[close == 0], expected[close == 0])
    elif np.issubdtype(expected.dtype, np.integer):
        np.testing.assert_array_equal(computed, expected)
    else:
        np.testing.assert_allclose(computed, expected, rtol=0, atol=TOLERANCE)


def test_groups_boxes_logits_and_winners_equal_the_published_code(reference: Reference, one_window) -> None:
    for name, case in reference.stage_cases.items():
        window = one_window(name, "rp_ap")
        with torch.inference_mode():
            found = window.regions()
            groups = {members for _, members in window.groups()}
            logits = iter(window.region_logits(found, CROP).tolist())
            ours = {
                (region.members, *(side * reference.clip.patch_size for side in region.box)): (
                    None if region.empty else next(logits), winner
                )
                for region, winner in zip(found, window.winners(found, CROP), strict=True)
            }  # fmt: skip
        assert groups == {tuple(sorted(group)) for group in case["ap_groups"] if len(group) > 1}
        expected = {}
        for crop in case["ap_crops"]:
            x0, y0, x1, y1 = crop["box_pixels_x0y0x1y1"]
            expected[tuple(sorted(crop["group"])), y0, x0, y1, x1] = crop
        assert ours.keys() == expected.keys()
        for key, crop in expected.items():
            values, winner = ours[key]
            assert winner == crop["winner"]
            if winner is not None:
                np.testing.assert_allclose([values[c] for c in crop["group"]], crop["logits"], rtol=0, atol=TOLERANCE)


def test_groups_among_all_classes_equal_the_published_code(reference: Reference, one_window) -> None:
    checked = 0
    for name, case in reference.stage_cases.items():
        if "ablation_ap_only_groups" in case:
            with torch.inference_mode():
                groups = {members for _, members in one_window(name, "ap").groups()}
            assert groups == {tuple(sorted(group)) for group in case["ablation_ap_only_groups"] if len(group) > 1}
            checked += 1
    assert checked or not any("SCLIP" in name for name in reference.stage_cases)


@pytest.fixture(scope="session")
def slid(reference: Reference) -> Callable[[str], tuple[torch.Tensor, Grid]]:
    @cache
    @torch.inference_mode()
    def of(name: str) -> tuple[torch.Tensor, Grid]:
        case = reference.slide_cases[name]
        size = tuple(reference.images[case["image"]].shape[-2:])
        grid = make_grid(size, case["crop"], case["stride"], reference.clip.patch_size)
        return windows(reference, case, case["background_prompts"], grid).purified(CROP), grid

    return of


def test_sliding_window_equals_the_published_code(slide_array: str, reference: Reference, slid) -> None:
    name, _, kind = slide_array.rpartition("__")
    if kind == MARGIN:
        return
    case, (maps, grid) = reference.slide_cases[name], slid(name)
    size, background = tuple(case["original_size_hw"]), case["background_prompts"]
    if kind == "scores_every3":
        computed = scores(maps, grid, size, background)[:, ::3, ::3].numpy()
    else:
        assert kind == "prediction"
        computed = decide_maps(maps, grid, size, background)
    compare(computed, reference.slide[slide_array], reference.slide.get(f"{name}__{MARGIN}"), kind)
