"""Labels: lookup tables from raw values to class indices, label images, class names."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pydantic import ValidationError

from ovss.data.class_names import read_class_names
from ovss.data.label_maps import IGNORED, LABEL_MAP
from ovss.errors import UserError

__all__ = ["IGNORED", "check_values", "lookup_table", "read_class_names", "read_label"]


def lookup_table(spec: Mapping[str, Any]) -> np.ndarray:
    """Table T with class index = T[raw value]; 255 = ignored.

    Args:
        spec: a label map of ``ovss.data.label_maps`` as plain JSON types.

    Returns:
        (256,) uint8.

    Raises:
        UserError: the map is not valid.
    """
    try:
        values, other = LABEL_MAP.validate_python(dict(spec)).table()
    except ValidationError as error:
        raise UserError(f"label map {dict(spec)!r:.120}: {error.errors()[0]['msg']}; see datasets.yaml") from None
    table = np.full(256, other, dtype=np.uint8)
    table[list(values)] = list(values.values())
    return table


def read_label(path: Path) -> np.ndarray:
    """Raw values of a label image: palette indices (mode P) or gray values (mode L), never colours.

    Returns:
        (H, W) uint8.

    Raises:
        UserError: the file is no image, is damaged, or has another mode.
    """
    try:
        with Image.open(path) as image:
            if image.mode not in ("P", "L"):
                raise UserError(
                    f"{path}: a label image must be 8-bit gray or palette, this one has mode {image.mode}; "
                    "fetch the archive again"
                )
            return np.array(image, dtype=np.uint8)
    except UserError:
        raise
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"{path}: this label image cannot be read ({error}); fetch the archive again") from error


def check_values(label: np.ndarray, allowed: Collection[int] | None, name: str | Path) -> np.ndarray:
    """Pixels per raw value of a label, after checking that the source allows each value.

    Args:
        label: (H, W) uint8.
        allowed: raw values that may occur; None allows all.
        name: what the message calls the label.

    Returns:
        (256,) int64.

    Raises:
        UserError: names the label and the values that are not allowed.
    """
    pixels = np.bincount(label.ravel(), minlength=256)
    stray = sorted(set(np.flatnonzero(pixels).tolist()) - set(range(256) if allowed is None else allowed))
    if stray:
        raise UserError(
            f"{name}: label value {', '.join(map(str, stray[:5]))} does not occur in this source; "
            "the archive is not the expected one or the file is damaged"
        )
    return pixels
