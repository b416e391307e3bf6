"""The matrix-product bootstrap against a loop that draws images one by one, and what intervals must do."""

from __future__ import annotations

import numpy as np
import pytest
from counted_rows import random_counts
from hypothesis import given, settings
from hypothesis import strategies as st

from ovss.errors import UserError
from ovss.evaluation import bootstrap
from ovss.evaluation.bootstrap import image_weights, interval, mean, paired, paired_difference, resample
from ovss.evaluation.confusion import ConfusionCounts
from ovss.evaluation.metrics import miou


def loop(counts: ConfusionCounts, absent: str, seed: int, resamples: int) -> list[float]:
    """Repeat every image as often as its weight says, one resample after the other."""
    intersection, union = counts.intersections_unions()
    values = []
    for index in range(resamples):
        block, row = divmod(index, 50)
        times = image_weights(counts.images, seed, block, 50)[row].astype(int)
        drawn = [image for image, repeats in enumerate(times) for _ in range(repeats)]
        values.append(miou(intersection[drawn].sum(axis=0), union[drawn].sum(axis=0), absent))  # type: ignore[arg-type]
    return values


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 1000), st.sampled_from(["skip", "zero"]), st.integers(1, 120))
def test_resamples_equal_a_loop_over_drawn_images(seed: int, absent: str, resamples: int) -> None:
    counts = random_counts(seed, images=5, classes=3)
    found = resample(counts, "miou", absent, seed, resamples)  # type: ignore[arg-type]
    assert found.resamples.tolist() == pytest.approx(loop(counts, absent, seed, resamples))
    totals = [area.sum(axis=0) for area in counts.intersections_unions()]
    assert found.value == pytest.approx(miou(*totals, absent=absent))  # type: ignore[arg-type]


def test_weights_are_whole_and_no_image_is_ever_lost() -> None:
    weights = image_weights([f"i{n}" for n in range(9)], seed=1, block=0, rows=50)
    assert np.array_equal(weights, np.rint(weights)) and weights.min() >= 1


def test_weights_are_exponential() -> None:
    drawn = np.concatenate([image_weights([f"i{n}" for n in range(20)], 0, block, 50) for block in range(200)]) / 1024
    assert abs(drawn.mean() - 1) < 0.01 and abs(drawn.var() - 1) < 0.03
    assert abs((drawn > 1).mean() - np.exp(-1)) < 0.01


def test_a_class_that_one_image_holds_does_not_shift_the_interval() -> None:
    """39 images with class 0 right, one with class 1 wrong: dropping that image would double the mean."""
    right, wrong = np.array([[0, 0, 90], [0, 1, 10]]), np.array([[1, 0, 100]])
    counts = ConfusionCounts.collect([*((f"i{n:02d}", right) for n in range(39)), ("odd", wrong)], 2)
    value, low, high = interval(counts, resamples=400)
    assert low <= value <= high and high < 1.1 * value


def test_equal_image_lists_share_their_resamples_and_others_do_not() -> None:
    first = image_weights(("a", "b", "c"), 0, 0, 50)
    assert np.array_equal(first, image_weights(("a", "b", "c"), 0, 0, 50))
    assert not np.array_equal(first, image_weights(("a", "b", "d"), 0, 0, 50))
    assert not np.array_equal(first, image_weights(("a", "b", "c"), 1, 0, 50))
    assert not np.array_equal(first, image_weights(("a", "b", "c"), 0, 1, 50))


def test_more_resamples_begin_with_the_same_ones() -> None:
    counts = random_counts(1)
    few, many = resample(counts, resamples=70).resamples, resample(counts, resamples=300).resamples
    assert np.array_equal(many[:70], few)


def test_resampled_areas_are_exact_however_the_product_is_cut() -> None:
    counts = random_counts(1)
    weights = image_weights(counts.images, 0, 0, 50)
    areas = np.concatenate(counts.areas(), axis=1).astype(float)
    cut = np.concatenate([row[None] @ areas for row in weights])
    assert np.array_equal(weights @ areas, cut)


@given(st.integers(0, 200), st.sampled_from([0.5, 0.9, 0.99]))
@settings(deadline=None, max_examples=10)
def test_a_wider_level_contains_the_narrower_interval(seed: int, level: float) -> None:
    value, low, high = interval(random_counts(seed), seed=seed, resamples=100, level=level)
    _, outer_low, outer_high = interval(random_counts(seed), seed=seed, resamples=100, level=0.995)
    assert outer_low <= low <= high <= outer_high
    assert low >= 0 and high <= 100 and 0 <= value <= 100


def test_the_interval_has_about_the_nominal_coverage() -> None:
    truth = resample(random_counts(0, images=3000, classes=2, world=1), resamples=1).value
    covered = 0
    for start in range(0, 3000, 30):
        _, low, high = interval(random_counts(0, images=30, classes=2, first=start, world=1), resamples=200)
        covered += low <= truth <= high
    assert 85 <= covered <= 100


def test_identical_rows_differ_by_exactly_zero() -> None:
    assert paired_difference(random_counts(1), random_counts(1), resamples=50) == (0.0, 0.0, 0.0)


@given(st.integers(0, 100))
@settings(deadline=None, max_examples=10)
def test_swapping_the_rows_mirrors_the_interval(seed: int) -> None:
    a, b = random_counts(seed), random_counts(seed + 1)
    difference, low, high = paired_difference(a, b, resamples=60)
    assert paired_difference(b, a, resamples=60) == pytest.approx((-difference, -high, -low))


def test_pairing_makes_the_interval_of_similar_rows_much_narrower() -> None:
    base = random_counts(1, images=60, hit=0.5)
    pixels = base.pixels + (np.arange(len(base.pixels)) % 7 == 0)
    near = ConfusionCounts(base.images, base.image, base.truth, base.prediction, pixels, base.num_classes)
    _, low, high = paired_difference(base, near)
    _, alone_low, alone_high = interval(base)
    assert high - low < 0.5 * (alone_high - alone_low)


def test_a_much_better_row_is_better_beyond_noise() -> None:
    difference, low, high = paired_difference(random_counts(1, hit=0.8), random_counts(2, hit=0.2))
    assert 0 < low < difference < high


def test_rows_on_other_images_are_not_paired() -> None:
    with pytest.raises(UserError, match=r"different images \(12 and 11\)"):
        paired(random_counts(1), random_counts(1, images=11))


def test_the_mean_of_data_sets_is_taken_resample_by_resample() -> None:
    a, b = resample(random_counts(1), resamples=60), resample(random_counts(2, first=40), resamples=60)
    both = mean([a, b])
    assert both.value == pytest.approx((a.value + b.value) / 2)
    assert both.resamples == pytest.approx((a.resamples + b.resamples) / 2)


def test_what_cannot_be_resampled_is_refused() -> None:
    with pytest.raises(UserError, match="needs images and resamples, not 0"):
        resample(ConfusionCounts.collect([], 3))
    with pytest.raises(UserError, match="no class occurs in these 1 images"):
        resample(ConfusionCounts.collect([("a", np.zeros((0, 3), np.int64))], 3))
    with pytest.raises(UserError, match="level must lie between 0 and 1"):
        interval(random_counts(1), level=1.0, resamples=10)


def test_five_thousand_images_of_stuff_fit_in_little_memory() -> None:
    import tracemalloc

    random = np.random.default_rng(0)
    n, classes, entries = 5000, 171, 20
    counts = ConfusionCounts(
        tuple(f"{i:05d}" for i in range(n)),
        np.repeat(np.arange(n, dtype=np.int32), entries),
        random.integers(0, classes, n * entries).astype(np.int16),
        random.integers(0, classes, n * entries).astype(np.int16),
        random.integers(1, 9999, n * entries),
        classes,
    )
    tracemalloc.start()
    bootstrap.resample(counts, resamples=100)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 200e6
