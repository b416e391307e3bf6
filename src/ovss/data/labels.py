"""Labels: lookup tables from raw values to class indices, label images, class names."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pydantic import ValidationError

from ovss.data.class_names import read_class_names
from ovss.data.label_maps import HIGHEST_RAW, IGNORED, LABEL_MAP, ignored_index
from ovss.errors import UserError

__all__ = ["IGNORED", "check_values", "ignored_in", "is_wide", "lookup_table", "read_class_names", "read_label"]

_NARROW, _WIDE = ("P", "L"), ("I;16",)


def lookup_table(spec: Mapping[str, Any]) -> np.ndarray:
    """Table T with class index = T[raw value]; ignored: see ``ignored_in``.

    Args:
        spec: a label map of ``ovss.data.label_maps`` as plain JSON types.

    Returns:
        (65536,) uint8, or uint16 for more than 255 classes. Raw values of 8 and of 16 bits can both be looked up.

    Raises:
        UserError: the map is not valid.
    """
    try:
        label_map = LABEL_MAP.validate_python(dict(spec))
    except ValidationError as error:
        raise UserError(f"label map {dict(spec)!r:.120}: {error.errors()[0]['msg']}; see datasets.yaml") from None
    (values, other), classes = label_map.table(), label_map.num_classes
    ignored = ignored_index(classes)
    table = np.full(HIGHEST_RAW + 1, min(other, ignored), dtype=np.uint8 if ignored == IGNORED else np.uint16)
    table[list(values)] = [index if index < classes else ignored for index in values.values()]
    return table


def ignored_in(labels: np.ndarray) -> int:
    """The class index of pixels that are not scored: 255 in uint8 labels (or a table of them), 65535 in uint16 ones."""
    return int(np.iinfo(labels.dtype).max)


def is_wide(allowed: Collection[int] | None) -> bool:
    """Whether the labels of a source with these raw values are kept with 16 bits."""
    return allowed is not None and max(allowed, default=0) > IGNORED


def read_label(path: Path, wide: bool | None = None) -> np.ndarray:
    """Raw values of a label image: palette indices (mode P) or gray values (modes L, I;16), never colours.

    Args:
        path: the image.
        wide: whether values of 16 bits are wanted; False refuses such an image, None takes what is there.

    Returns:
        (H, W) uint8, or uint16 if ``wide`` is True, or None and the image has 16 bits.

    Raises:
        UserError: the file is no image, is damaged, or has another mode.
    """
    try:
        with Image.open(path, formats=("PNG",)) as image:
            if image.mode not in (_NARROW if wide is False else _NARROW + _WIDE):
                bits = "8-bit" if wide is False else "8-bit or 16-bit"
                raise UserError(
                    f"{path}: a label image must be {bits} gray or palette, this one has mode {image.mode}; "
                    "save the class numbers themselves, not colours"
                )
            return np.array(image, dtype=np.uint16 if wide or image.mode in _WIDE else np.uint8)
    except UserError:
        raise
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"{path}: this label image cannot be read ({error}); fetch the archive again") from error


def check_values(label: np.ndarray, allowed: Collection[int] | None, name: str | Path) -> np.ndarray:
    """Pixels per raw value of a label, after checking that the source allows each value.

    Args:
        label: (H, W) uint8 or uint16.
        allowed: raw values that may occur; None allows all.
        name: what the message calls the label.

    Returns:
        (256,) int64, or (65536,) for a uint16 label.

    Raises:
        UserError: names the label and the values that are not allowed.
    """
    pixels = np.bincount(label.ravel(), minlength=ignored_in(label) + 1)
    stray = sorted(set(np.flatnonzero(pixels).tolist()) - set(range(len(pixels)) if allowed is None else allowed))
    if stray:
        raise UserError(
            f"{name}: label value {', '.join(map(str, stray[:5]))} does not occur in this source; "
            "the archive is not the expected one or the file is damaged"
        )
    return pixels
