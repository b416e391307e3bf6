"""Metrics against brute force, torchmetrics and worked values."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ovss.errors import UserError
from ovss.evaluation.confusion import ConfusionCounts, count_pixels
from ovss.evaluation.metrics import METRICS, mean_over_classes, metric, miou, per_class_iou

CLASSES = 4
LABELS = hnp.arrays(np.uint8, (5, 6), elements=st.sampled_from([0, 1, 2, 3, 255]))
PREDICTIONS = hnp.arrays(np.int64, (5, 6), elements=st.integers(0, CLASSES - 1))


def sums(label: np.ndarray, prediction: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    counts = ConfusionCounts.collect([("a", count_pixels(label, prediction, CLASSES))], CLASSES)
    hit, truth, predicted = counts.areas()
    return hit[0], truth[0], predicted[0]


def brute_force_ious(label: np.ndarray, prediction: np.ndarray) -> list[float | None]:
    out: list[float | None] = []
    for c in range(CLASSES):
        pairs = [(t == c, p == c) for t, p in zip(label.flat, prediction.flat, strict=True) if t != 255]
        union = sum(t or p for t, p in pairs)
        out.append(100 * sum(t and p for t, p in pairs) / union if union else None)
    return out


@settings(deadline=None)
@given(LABELS, PREDICTIONS)
def test_miou_equals_brute_force_under_both_conventions(label: np.ndarray, prediction: np.ndarray) -> None:
    hit, truth, predicted = sums(label, prediction)
    ious = brute_force_ious(label, prediction)
    present = [value for value in ious if value is not None]
    union = truth + predicted - hit
    assert miou(hit, union, "zero") == pytest.approx(sum(present) / CLASSES)
    if present:
        assert miou(hit, union, "skip") == pytest.approx(sum(present) / len(present))
    assert [None if np.isnan(v) else v for v in per_class_iou(hit, union)] == pytest.approx(ious)


def random_pair(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Labels and predictions in which some classes, drawn at random, do not occur."""
    random = np.random.default_rng(seed)
    present = np.append(random.permutation(CLASSES)[: random.integers(1, CLASSES + 1)], 255).astype(np.uint8)
    label, noise = random.choice(present, (8, 8)), random.choice(present[:-1], (8, 8)).astype(np.int64)
    return label, np.where((random.random((8, 8)) < 0.5) & (label != 255), label, noise)


# MulticlassJaccardIndex(4, ignore_index=255, average="macro") of torchmetrics 1.9.0 on random_pair(seed).
TORCHMETRICS = [0.6142857, 1.0, 0.6515151, 1.0, 0.4686625, 0.3916799, 0.6312709, 0.4511905]


@pytest.mark.parametrize(("seed", "expected"), list(enumerate(TORCHMETRICS)))
def test_miou_equals_recorded_values_of_torchmetrics(seed: int, expected: float) -> None:
    hit, truth, predicted = sums(*random_pair(seed))
    assert miou(hit, truth + predicted - hit, "skip") == pytest.approx(100 * expected, abs=1e-4)


@pytest.mark.slow
@settings(deadline=None, max_examples=50)
@given(LABELS, PREDICTIONS)
def test_miou_equals_torchmetrics(label: np.ndarray, prediction: np.ndarray) -> None:
    # Importing torchmetrics takes half a minute: hence slow, and hence the recorded values above.
    torch = pytest.importorskip("torch")
    from torchmetrics.classification import MulticlassJaccardIndex

    hit, truth, predicted = sums(label, prediction)
    if not truth.any():
        return
    theirs = MulticlassJaccardIndex(num_classes=CLASSES, ignore_index=255, average="macro")
    value = theirs(torch.from_numpy(prediction), torch.from_numpy(label.astype(np.int64)))
    assert miou(hit, truth + predicted - hit, "skip") == pytest.approx(100 * float(value), abs=1e-4)


@settings(deadline=None)
@given(LABELS, PREDICTIONS, st.permutations(list(range(CLASSES))))
def test_renaming_classes_permutes_their_ious(label: np.ndarray, prediction: np.ndarray, order: list[int]) -> None:
    table = np.full(256, 255, np.uint8)
    table[:CLASSES] = order
    hit, truth, predicted = sums(label, prediction)
    other_hit, other_truth, other_predicted = sums(table[label], table[prediction].astype(np.int64))
    first = per_class_iou(hit, truth + predicted - hit)
    second = per_class_iou(other_hit, other_truth + other_predicted - other_hit)
    assert np.array_equal(second[order], first, equal_nan=True)


@settings(deadline=None)
@given(LABELS, PREDICTIONS)
def test_iou_false_positives_and_false_negatives_share_the_union(label: np.ndarray, prediction: np.ndarray) -> None:
    areas = sums(label, prediction)
    if areas[1].any():
        iou, fpr, fnr = (float(METRICS[name](*areas, "skip")) for name in ("miou", "fpr", "fnr"))
        assert iou / 100 + fpr + fnr == pytest.approx(1)


@settings(deadline=None)
@given(LABELS, PREDICTIONS)
def test_pixel_accuracy_is_the_share_of_right_labelled_pixels(label: np.ndarray, prediction: np.ndarray) -> None:
    valid = label != 255
    if valid.any():
        expected = 100 * (label[valid] == prediction[valid]).mean()
        assert float(METRICS["pixel_accuracy"](*sums(label, prediction), "skip")) == pytest.approx(expected)


def test_published_rows_of_false_positive_and_negative_rates_sum_to_one_with_the_iou() -> None:
    # VOC2012 of the TCL+TTD results: mIoU 61.1, mFPR 0.185, mFNR 0.204.
    hit, truth, predicted = np.array([611]), np.array([611 + 204]), np.array([611 + 185])
    assert [float(METRICS[n](hit, truth, predicted, "skip")) for n in ("miou", "fpr", "fnr")] == pytest.approx(
        [61.1, 0.185, 0.204]
    )


def test_an_absent_class_is_skipped_or_counts_zero() -> None:
    intersection, union = np.array([5, 0, 0]), np.array([10, 10, 0])
    assert miou(intersection, union, "skip") == 25.0
    assert miou(intersection, union, "zero") == pytest.approx(50 / 3)
    assert per_class_iou(intersection, union)[:2].tolist() == [50.0, 0.0]


def test_leading_axes_are_independent() -> None:
    values = np.array([[1.0, np.nan], [np.nan, np.nan], [3.0, 5.0]])
    assert np.array_equal(mean_over_classes(values, "skip"), [1.0, np.nan, 4.0], equal_nan=True)
    assert mean_over_classes(values, "zero").tolist() == [0.5, 0.0, 4.0]


def test_no_class_at_all_is_refused_and_never_nan() -> None:
    with pytest.raises(UserError, match="no class occurs"):
        miou(np.zeros(3), np.zeros(3), "skip")


def test_unknown_names_are_refused_with_what_is_allowed() -> None:
    with pytest.raises(UserError, match="'nan' is unknown, use one of skip, zero"):
        miou(np.ones(1), np.ones(1), "nan")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="'dice' is unknown, use one of fnr, fpr, miou, pixel_accuracy"):
        metric("dice")
