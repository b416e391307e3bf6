"""Per-image confusion counts against brute force, and their files."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path

import numpy as np
import pytest
from counted_rows import random_counts
from hypothesis import given, settings
from hypothesis import strategies as st

from ovss.errors import UserError
from ovss.evaluation.confusion import ConfusionCounts, count_pixels

CLASSES = 5


def image(seed: int, ignore: int = 255) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    shape = tuple(random.integers(1, 9, 2))
    label = random.integers(0, CLASSES, shape).astype(np.uint8)
    label[random.random(shape) < 0.2] = ignore
    return label, random.integers(0, CLASSES + 1, shape)


def brute_force(label: np.ndarray, prediction: np.ndarray) -> dict[tuple[int, int], int]:
    table: dict[tuple[int, int], int] = {}
    for truth, predicted in zip(label.ravel().tolist(), prediction.ravel().tolist(), strict=True):
        if truth != 255:
            table[truth, predicted] = table.get((truth, predicted), 0) + 1
    return table


@settings(deadline=None)
@given(st.integers(0, 10_000))
def test_counts_equal_a_loop_over_pixels(seed: int) -> None:
    label, prediction = image(seed)
    rows = count_pixels(label, prediction, CLASSES)
    assert {(t, p): n for t, p, n in rows.tolist()} == brute_force(label, prediction)
    assert rows[:, :2].tolist() == sorted(rows[:, :2].tolist())


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int32, np.int64])
def test_the_type_of_the_prediction_changes_nothing(dtype: type) -> None:
    label, prediction = image(3)
    assert np.array_equal(count_pixels(label, prediction.astype(dtype), CLASSES), count_pixels(label, prediction, 5))


def test_an_image_that_is_all_ignored_has_no_counts() -> None:
    rows = count_pixels(np.full((3, 4), 255, np.uint8), np.zeros((3, 4), np.int64), CLASSES)
    assert rows.shape == (0, 3)


def test_the_ignore_value_can_be_any_label() -> None:
    rows = count_pixels(np.array([[0, 1]], np.uint8), np.array([[1, 1]]), 2, ignore=0)
    assert rows.tolist() == [[1, 1, 1]]


@pytest.mark.parametrize(
    ("label", "prediction", "message"),
    [
        ([[0, 5]], [[0, 0]], "label has the value 5"),
        ([[0, 1]], [[0, 6]], "prediction has the value 6"),
        ([[0, 1]], [[0, -1]], "prediction has the negative value -1"),
        ([[0, 1]], [[0]], "must have one shape"),
    ],
)
def test_values_outside_the_classes_are_refused(label: list, prediction: list, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        count_pixels(np.array(label), np.array(prediction), CLASSES)


@settings(deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 6))
def test_areas_equal_sums_over_masks(seed: int, images: int) -> None:
    pairs = [image(seed + index) for index in range(images)]
    counts = ConfusionCounts.collect(
        ((f"{index:02d}", count_pixels(*pair, CLASSES)) for index, pair in enumerate(pairs)), CLASSES
    )
    intersection, truth, prediction = counts.areas()
    for index, (label, predicted) in enumerate(pairs):
        valid = label != 255
        for c in range(CLASSES):
            assert truth[index, c] == (label == c).sum()
            assert prediction[index, c] == (valid & (predicted == c)).sum()
            assert intersection[index, c] == ((label == c) & (predicted == c)).sum()
            assert counts.intersections_unions()[1][index, c] == (valid & ((label == c) | (predicted == c))).sum()


def same(a: ConfusionCounts, b: ConfusionCounts) -> bool:
    arrays = all(np.array_equal(getattr(a, n), getattr(b, n)) for n in ("image", "truth", "prediction", "pixels"))
    return a.images == b.images and a.num_classes == b.num_classes and arrays


@settings(deadline=None)
@given(st.permutations(list(range(6))))
def test_the_order_in_which_images_are_counted_changes_nothing(order: list[int]) -> None:
    counted = [(f"{index}", count_pixels(*image(index), CLASSES)) for index in range(6)]
    assert same(
        ConfusionCounts.collect([counted[index] for index in order], CLASSES),
        ConfusionCounts.collect(counted, CLASSES),
    )


@settings(deadline=None)
@given(st.lists(st.integers(0, 2), min_size=7, max_size=7))
def test_any_cut_into_shards_gives_the_same_counts(shard_of: list[int]) -> None:
    counted = [(f"{index}", count_pixels(*image(index), CLASSES)) for index in range(7)]
    shards = [
        ConfusionCounts.collect([c for c, s in zip(counted, shard_of, strict=True) if s == shard], CLASSES)
        for shard in (2, 0, 1)
    ]
    assert same(ConfusionCounts.concat(shards), ConfusionCounts.collect(counted, CLASSES))


def test_shards_that_overlap_or_differ_in_classes_are_refused() -> None:
    with pytest.raises(ValueError, match="'image000' is counted twice"):
        ConfusionCounts.concat([random_counts(1), random_counts(2)])
    with pytest.raises(ValueError, match="different numbers of classes"):
        ConfusionCounts.concat([random_counts(1), random_counts(1, classes=3, first=50)])
    with pytest.raises(ValueError, match="no counts"):
        ConfusionCounts.concat([])


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 1000), images=st.integers(0, 4))
def test_a_file_gives_back_what_was_saved(tmp_path_factory: pytest.TempPathFactory, seed: int, images: int) -> None:
    counts, directory = random_counts(seed, images=images), tmp_path_factory.mktemp("row")
    counts.save(directory)
    assert same(ConfusionCounts.load(directory), counts)


def test_the_same_counts_give_the_same_bytes_at_another_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def digest() -> str:
        random_counts(7).save(tmp_path)
        return hashlib.sha256((tmp_path / "counts.npz").read_bytes()).hexdigest()

    first, now = digest(), time.time()
    monkeypatch.setattr(time, "time", lambda: now + 1e6)
    assert digest() == first


def test_image_ids_with_odd_characters_survive(tmp_path: Path) -> None:
    names = ("frankfurt_000000_000294", "naïve image", "\u2028line")
    counts = ConfusionCounts.collect(((name, count_pixels(*image(1), CLASSES)) for name in names), CLASSES)
    counts.save(tmp_path)
    assert set(ConfusionCounts.load(tmp_path).images) == set(names)


def damage_cut(directory: Path) -> None:
    path = directory / "counts.npz"
    path.write_bytes(path.read_bytes()[:-40])


def damage_ids(directory: Path) -> None:
    (directory / "images.txt").write_text("image000\n" * 12)


def damage_fewer_images(directory: Path) -> None:
    (directory / "images.txt").write_text("image000\n")


def damage_field(directory: Path) -> None:
    np.savez(directory / "counts.npz", image=np.zeros(1, np.int32))


def damage_type(directory: Path) -> None:
    with np.load(directory / "counts.npz") as file:
        arrays = dict(file)
    np.savez(directory / "counts.npz", **arrays | {"pixels": arrays["pixels"].astype(np.float64)})


@pytest.mark.parametrize("damage", [damage_cut, damage_ids, damage_fewer_images, damage_field, damage_type])
def test_damaged_files_are_refused_with_the_name_of_the_file(tmp_path: Path, damage: object) -> None:
    random_counts(1).save(tmp_path)
    damage(tmp_path)  # type: ignore[operator]
    with pytest.raises(UserError, match=r"counts\.npz.*remove the directory and run again"):
        ConfusionCounts.load(tmp_path)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        ConfusionCounts.load(tmp_path)
