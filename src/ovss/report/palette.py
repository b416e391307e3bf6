"""A data set as the gallery needs it, and the colours of its classes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ovss.data.labels import ignored_in

# Five: hues of indices 8, 13 or 21 apart are close, and none of these is a multiple of 5.
_TONES = ((0.62, 0.80), (0.88, 0.95), (0.50, 0.55), (0.32, 0.97), (0.95, 0.70))
_BACKGROUND, _IGNORED_COLOUR, _NO_CLASS = (58, 62, 68), (232, 232, 232), (255, 255, 255)


@dataclass(frozen=True)
class View:
    """A data set as the gallery needs it."""

    name: str
    title: str
    classes: list[str]
    background: bool
    table: npt.NDArray[Any]
    source: Path
    index: Mapping[str, Mapping[str, str]]

    @property
    def ignored(self) -> int:
        """The class index of pixels that are not scored."""
        return ignored_in(self.table)

    @property
    def colours(self) -> npt.NDArray[np.uint8]:
        """(256, 3) uint8: hues a golden angle apart in five tones; background dark, ignored light, no class white.

        (65536, 3) with more than 255 classes.
        """
        colours = np.full((self.ignored + 1, 3), _IGNORED_COLOUR, np.uint8)
        colours[: len(self.classes)] = [colour(i) for i in range(len(self.classes))]
        if self.background:
            colours[0] = _BACKGROUND
        colours[len(self.classes)] = _NO_CLASS
        return colours


def colour(index: int) -> tuple[int, int, int]:
    """RGB of a class index."""
    saturation, value = _TONES[index % len(_TONES)]
    hue = (0.11 + index * 0.618034) % 1.0
    ramp = [abs((hue * 6 + shift) % 6 - 3) - 1 for shift in (0, 4, 2)]
    red, green, blue = (round(255 * value * (1 - saturation + saturation * min(max(part, 0.0), 1.0))) for part in ramp)
    return red, green, blue
