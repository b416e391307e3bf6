"""Resizing and sliding windows: against OpenCV's values and against the straightforward loops."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from ovss.errors import UserError
from ovss.evaluation.batch import make_view
from ovss.evaluation.preprocess import normalise, resize_bilinear, resize_nearest, resized_size
from ovss.evaluation.protocol import Geometry, Protocol
from ovss.models.windows import cut_windows, make_grid, stitch, window_spans

from small_clip import small_clip  # isort: skip

SIDES = st.integers(16, 90)
CROPS = st.integers(16, 64)
STRIDES = st.integers(8, 40)


def geometry(**changes) -> Geometry:
    values = {"short_side": 32, "crop": 32, "stride": 16, "names": "x", "templates": "none", "logit_scale": 1.0}
    return Protocol.read({**values, **changes}).geometry


def test_resize_gives_opencvs_bytes(root: Path) -> None:
    with np.load(root / "tests/golden/resize/opencv.npz") as file:
        image, expected, side = torch.from_numpy(file["image"]), file["resized"], int(file["short_side"])
    size = resized_size(tuple(image.shape[:2]), geometry(short_side=side))
    np.testing.assert_array_equal(resize_bilinear(image, size).numpy(), expected)


@settings(max_examples=30, deadline=None)
@given(SIDES, SIDES, SIDES, SIDES)
def test_resize_is_within_one_step_of_exact_bilinear(height: int, width: int, new_height: int, new_width: int) -> None:
    image = torch.randint(0, 256, (height, width, 3), dtype=torch.uint8)
    exact = F.interpolate(image.permute(2, 0, 1)[None].double(), (new_height, new_width), mode="bilinear")
    ours = resize_bilinear(image, (new_height, new_width)).permute(2, 0, 1)
    assert (ours.double() - exact[0]).abs().max() <= 1.0


@pytest.mark.parametrize(
    ("size", "changes", "expected"),
    [
        ((375, 500), {"short_side": 448}, (448, 597)),
        ((480, 640), {"short_side": 336}, (336, 448)),
        ((100, 1000), {"short_side": 448}, (205, 2048)),
        ((50, 70), {"short_side": 64, "resize": "square"}, (64, 64)),
    ],
)
def test_resized_size_follows_the_published_rule(size, changes, expected) -> None:
    assert resized_size(size, geometry(**changes)) == expected


def test_nearest_resize_takes_floor_of_the_scaled_index() -> None:
    label = torch.arange(12).reshape(3, 4)
    assert resize_nearest(label, (2, 6)).tolist() == [[0, 0, 1, 2, 2, 3], [4, 4, 5, 6, 6, 7]]


def test_normalisation_uses_the_models_own_statistics_unless_told_otherwise() -> None:
    image = torch.full((2, 2, 3), 128, dtype=torch.uint8)
    clip = small_clip()
    own = normalise(image, geometry(), clip)[:, 0, 0]
    expected = [(128 - 255 * mean) / (255 * std) for mean, std in zip(clip.mean, clip.std, strict=True)]
    torch.testing.assert_close(own, torch.tensor(expected))
    torch.testing.assert_close(
        normalise(image, geometry(normalisation="imagenet"), clip)[0, 0, 0], torch.tensor((128 - 123.675) / 58.395)
    )


def spans_by_loop(length: int, crop: int, stride: int) -> list[tuple[int, int]]:
    count = max(length - crop + stride - 1, 0) // stride + 1
    spans = []
    for index in range(count):
        end = min(index * stride + crop, length)
        spans.append((max(end - crop, 0), end))
    return spans


@settings(max_examples=60, deadline=None)
@given(SIDES, CROPS, STRIDES)
def test_windows_cover_every_pixel_and_have_one_length(length: int, crop: int, stride: int) -> None:
    spans = window_spans(length, crop, min(stride, crop))
    assert list(spans) == spans_by_loop(length, crop, min(stride, crop))
    assert {pixel for start, stop in spans for pixel in range(start, stop)} == set(range(length))
    assert {stop - start for start, stop in spans} == {min(crop, length)}


def test_a_window_larger_than_the_image_is_the_image() -> None:
    image = torch.randn(3, 24, 40)
    grid = make_grid((24, 40), crop=64, stride=32, patch=8)
    assert grid.count == 1
    torch.testing.assert_close(cut_windows(image, grid)[0], image)


def test_no_crop_is_one_window_of_the_whole_image() -> None:
    image = torch.randn(3, 24, 40)
    torch.testing.assert_close(cut_windows(image, make_grid((24, 40), None, None, 8))[0], image)


def test_padding_is_symmetric_with_the_larger_half_behind() -> None:
    image = torch.ones(3, 21, 24)
    (window,) = cut_windows(image, make_grid((21, 24), None, None, 8, "patch"))
    assert window.shape == (3, 24, 24)
    assert window[0, :, 0].tolist() == [0] + [1] * 21 + [0] * 2


def stitch_by_loop(maps: torch.Tensor, image, crop, stride, patch, padding, size) -> torch.Tensor:
    """Upsample every window, add up, divide by the coverage, resize: as the published code does it."""
    height, width = image
    total, coverage = torch.zeros(maps.shape[-1], height, width), torch.zeros(height, width)
    maps = iter(maps)
    for y0, y1 in spans_by_loop(height, crop, stride):
        for x0, x1 in spans_by_loop(width, crop, stride):
            pad_y, pad_x = (-(y1 - y0) % patch, -(x1 - x0) % patch) if padding == "patch" else (0, 0)
            encoded = (y1 - y0 + pad_y, x1 - x0 + pad_x)
            patches = next(maps).T.reshape(1, -1, encoded[0] // patch, encoded[1] // patch)
            up = F.interpolate(patches, encoded, mode="bilinear")[0]
            top, left = pad_y // 2, pad_x // 2
            total[:, y0:y1, x0:x1] += up[:, top : top + y1 - y0, left : left + x1 - x0]
            coverage[y0:y1, x0:x1] += 1
    return F.interpolate((total / coverage)[None], size, mode="bilinear")[0]


@settings(max_examples=40, deadline=None)
@given(SIDES, SIDES, CROPS, STRIDES, st.sampled_from(["none", "patch"]), SIDES, SIDES)
def test_stitching_equals_upsampling_and_averaging_every_window(
    height, width, crop, stride, padding, new_height, new_width
) -> None:
    stride = min(stride, crop)
    grid = make_grid((height, width), crop, stride, 8, padding)
    maps = torch.randn(grid.count, grid.rows.patches * grid.columns.patches, 3)
    expected = stitch_by_loop(maps, (height, width), crop, stride, 8, padding, (new_height, new_width))
    torch.testing.assert_close(stitch(maps, grid, (new_height, new_width)), expected, rtol=0, atol=2e-5)


def test_an_image_smaller_than_a_patch_is_refused_by_name() -> None:
    image = np.zeros((4, 4, 3), np.uint8)
    with pytest.raises(UserError, match=r"image tiny_one: 4x4 pixels .* smaller than a patch of 8"):
        make_view("tiny_one", image, geometry(short_side=4), small_clip())


def test_padding_rescues_an_image_smaller_than_a_patch() -> None:
    view = make_view("a", np.zeros((4, 4, 3), np.uint8), geometry(short_side=4, window_padding="patch"), small_clip())
    assert view.windows().shape == (1, 3, 8, 8)


def test_an_unknown_protocol_value_is_refused() -> None:
    with pytest.raises(UserError, match=r"protocol\.strde: no such protocol value"):
        geometry(strde=3)
