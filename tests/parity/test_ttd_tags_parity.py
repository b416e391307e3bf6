"""TTD's scores, selection and measures against independent float64 arrays and lists."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ovss.data.captions_words import CaptionWords
from ovss.evaluation.caption_metrics import boxes, caption_score, count_mask, mean_iou, overall_iou
from ovss.evaluation.metrics import metric
from ovss.evaluation.tag_metrics import (
    average_precision,
    class_aps,
    class_map,
    count_words,
    macro,
    pooled,
    sample_map,
)
from ovss.methods import _ttd_scores as scores
from ovss.methods._ttd_scores import TagSelection, largest_gap, tag_scores


@pytest.fixture(scope="module")
def arrays(ttd_golden: Path) -> dict[str, np.ndarray]:
    with np.load(ttd_golden / "ttd_golden.npz", allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


@pytest.fixture(scope="module")
def lists(ttd_golden: Path) -> dict[str, Any]:
    return json.loads((ttd_golden / "ttd_golden.json").read_text(encoding="utf-8"))


@pytest.fixture(params=range(5))
def sample(request: pytest.FixtureRequest, arrays: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    """What the reference has for one of the samples s0 to s4; pixels as (C, H, W)."""
    mark = f"s{request.param}_"
    found = {
        name.removeprefix(mark): torch.from_numpy(value) for name, value in arrays.items() if name.startswith(mark)
    }
    return {**found, "pixels": found["pixels"].permute(2, 0, 1)}


def close(found: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


CASES: dict[str, dict[str, Any]] = {
    "s_pixel": {"scoring": "pixel"},
    "s_image": {"scoring": "image"},
    "s_image_unitpool": {"scoring": "image", "pool": "unit"},
    "s_text": {"scoring": "text"},
    "s_image_plus_text": {"scoring": "image_text"},
    "s_seg": {"scoring": "segment_share"},
    "p_image_softmax100": {"scoring": "image", "selection": "threshold"},
    "p_text_softmax100": {"scoring": "text", "selection": "threshold"},
    "p_sum_softmax100": {"scoring": "image_text", "selection": "threshold"},
    "p_image_minmax": {"scoring": "image", "selection": "threshold", "score_range": "minmax"},
    "p_text_minmax": {"scoring": "text", "selection": "threshold", "score_range": "minmax"},
}


@pytest.mark.parametrize("name", CASES)
def test_scores_are_those_of_the_reference(name: str, sample: dict[str, torch.Tensor]) -> None:
    found = tag_scores(sample["pixels"], sample["text"], sample["tags"], TagSelection(**CASES[name]))
    close(found, sample[name])


def test_maps_and_selection_are_those_of_the_reference(sample: dict[str, torch.Tensor]) -> None:
    maps = scores.cosine_maps(sample["pixels"], sample["tags"])
    close(maps, sample["cosine_map_tags"])
    close(scores.cosine_maps(sample["pixels"], sample["text"][None])[0], sample["cosine_map_text"])
    for space, own in (("cosine", maps), ("sigmoid", (10 * maps - 2.5).sigmoid())):
        found = largest_gap(scores.pixel_scores(own))
        assert torch.equal(found, sample[f"{space}_selected"]), space
        assert int(found.sum()) == int(sample[f"{space}_k"])


def test_the_largest_gap_cases(lists: dict[str, Any]) -> None:
    assert len(lists["gap_cases"]) > 10
    for case in lists["gap_cases"]:
        found = largest_gap(torch.tensor(case["scores"], dtype=torch.float64))
        assert (found.int().tolist(), int(found.sum())) == (case["selected"], case["k"]), case["scores"]


def test_measures_of_selected_words(lists: dict[str, Any]) -> None:
    given, expected = lists["tag_selection"], lists["tag_selection"]["expected"]
    truths, chosen = ([np.array(each, bool) for each in given[name]] for name in ("gt", "pred"))
    counts = np.stack([count_words(*pair) for pair in zip(truths, chosen, strict=True)])
    assert counts.sum(axis=0).tolist() == [expected[name] for name in ("TP", "FP", "FN", "TN")]
    for name, value in pooled(counts).items():
        assert value == pytest.approx(100 * expected[name], rel=1e-9), name
        assert macro(counts)[name] == pytest.approx(100 * expected[f"macro_{name}"], rel=1e-9), name
    ranked = [np.array(each) for each in given["scores"]]
    assert sample_map(truths, ranked) == pytest.approx(100 * given["sample_mAP"], rel=1e-9)
    for truth, values, wanted in zip(truths, ranked, given["per_sample_AP"], strict=True):
        assert average_precision(truth, values) == pytest.approx(
            np.nan if wanted is None else 100 * wanted, nan_ok=True
        )


def test_mean_average_precision_over_classes(arrays: dict[str, np.ndarray], lists: dict[str, Any]) -> None:
    wanted = [np.nan if each is None else 100 * each for each in lists["nus"]["per_class"]]
    given = arrays["nus_gt"], arrays["nus_scores"]
    np.testing.assert_allclose(class_aps(*given), wanted, rtol=1e-9)
    assert class_map(*given) == pytest.approx(100 * lists["nus"]["class_mAP"], rel=1e-9)


@pytest.fixture(scope="module")
def mask_counts(arrays: dict[str, np.ndarray]) -> np.ndarray:
    pairs = zip(arrays["caption_gt"] > 0, arrays["caption_pred"] > 0, strict=True)
    return np.stack([count_mask(*pair) for pair in pairs])


@pytest.mark.parametrize("mean", ["sample_fg", "pooled_fg", "pooled_bgfg", "sample_bgfg"])
def test_caption_iou_in_every_reading(mean: Any, mask_counts: np.ndarray, lists: dict[str, Any]) -> None:
    assert mask_counts.tolist() == lists["caption"]["counts_TP_FP_FN_TN"]
    found = caption_score(mask_counts, mean)
    assert [found.iou / 100, found.fpr, found.fnr] == pytest.approx(lists["caption"][mean], rel=1e-9)


def test_referring_expressions(mask_counts: np.ndarray, lists: dict[str, Any]) -> None:
    assert mean_iou(mask_counts) == pytest.approx(100 * lists["referring"]["mIoU"], rel=1e-9)
    assert overall_iou(mask_counts) == pytest.approx(100 * lists["referring"]["oIoU"], rel=1e-9)
    each = [mean_iou(row[None]) / 100 for row in mask_counts]
    assert each == pytest.approx(lists["referring"]["per"], rel=1e-9)


def test_rates_of_classes_are_shares_of_the_union(arrays: dict[str, np.ndarray], lists: dict[str, Any]) -> None:
    """The metrics that all papers share give TTD's mIoU, mFPR and mFNR."""
    expected = lists["segmentation"]
    counted = arrays["seg_gt"] != 255
    truth, predicted = arrays["seg_gt"][counted], arrays["seg_pred"][counted]
    size = expected["num_classes"]
    areas = [np.bincount(each, minlength=size) for each in (truth[truth == predicted], truth, predicted)]
    for name, key, scale in (("miou", "mIoU", 100), ("fpr", "mFPR", 1), ("fnr", "mFNR", 1)):
        assert metric(name)(*areas, "skip") == pytest.approx(scale * expected[key], rel=1e-9), name


def test_boxes(arrays: dict[str, np.ndarray], lists: dict[str, Any]) -> None:
    masks = [*(arrays["caption_gt"] > 0), np.zeros((4, 4), bool)]
    assert [None if box is None else list(box) for box in boxes(masks)] == lists["boxes"]


def test_words_of_captions(lists: dict[str, Any]) -> None:
    for case in lists["split"]:
        found = CaptionWords.of(case["caption"])
        assert (list(found.words), list(found.tags)) == (case["words"], case["tags_unique"])
