"""Images and labels of a prepared source, decoded in the order of its index."""

from __future__ import annotations

import csv
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from PIL import Image

from ovss.data.labels import read_label
from ovss.errors import UserError

FORMATS = ("JPEG", "PNG", "BMP", "TIFF", "WEBP")
"""What is taken for an image, whatever its name says: the formats of the data sets and of one's own folders.

Pillow would try some forty others, of which one runs another program and many were never meant for unknown bytes.
"""


@dataclass(frozen=True)
class Sample:
    """One image: RGB (H, W, 3) uint8, and per view its class indices (H, W).

    Class indices are uint8 with 255 = not scored, or, with more than 255 classes, uint16 with 65535.
    """

    id: str
    image: np.ndarray
    labels: Mapping[str, np.ndarray]


def read_image(path: Path) -> np.ndarray:
    """Decode an image to RGB.

    Gray and palette images get three channels. An EXIF orientation is not applied: the label maps of all data sets
    used here were drawn on the pixels as stored.

    Returns:
        (H, W, 3) uint8.

    Raises:
        UserError: the file is missing, empty, damaged or no image.
    """
    try:
        with Image.open(path, formats=FORMATS) as image:
            return np.array(image.convert("RGB"))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        reason = "it is empty" if path.is_file() and path.stat().st_size == 0 else str(error)
        raise UserError(f"{path}: this image cannot be read ({reason}); fetch the archive again") from error


def read_colours(path: Path) -> np.ndarray:
    """Values of an RGB image whose colours are numbers: it is read as it is, or not at all.

    Returns:
        (H, W, 3) uint8.

    Raises:
        UserError: the file is no image, is damaged, or has another mode.
    """
    try:
        with Image.open(path, formats=("PNG",)) as image:
            if image.mode == "RGB":
                return np.array(image)
            reason = f"mode {image.mode} instead of RGB"
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        reason = str(error)
    raise UserError(f"{path}: this coloured label image cannot be read ({reason}); fetch the archive again")


class Images:
    """Iterates over images ``start`` to ``stop`` of a prepared source, in the order of its index.

    Every iteration starts anew. At most ``2 * workers`` images are in memory beside the one handed out; the number of
    workers changes nothing else.

    Args:
        directory: a prepared source.
        lut_by_view: view -> raw label value -> class index (``ovss.data.labels.lookup_table``).
        start, stop: positions in the index; None = to the end.
        workers: threads that decode ahead.
    """

    def __init__(
        self,
        directory: Path,
        lut_by_view: Mapping[str, np.ndarray],
        start: int = 0,
        stop: int | None = None,
        workers: int = 1,
    ) -> None:
        self._directory = directory
        self._luts = dict(lut_by_view)
        self._rows = read_index(directory)[start:stop]
        self._workers = workers

    def __len__(self) -> int:
        """Number of images."""
        return len(self._rows)

    @property
    def ids(self) -> list[str]:
        """Ids in order."""
        return [row["id"] for row in self._rows]

    def __iter__(self) -> Iterator[Sample]:
        """Samples in order.

        Raises:
            UserError: an image or label cannot be read, or their sizes differ (names the file).
        """
        if self._workers <= 1:
            yield from map(self._read, self._rows)
            return
        rows = iter(self._rows)
        pool = ThreadPoolExecutor(self._workers)
        try:
            first = islice(rows, 2 * self._workers)
            ahead: deque[Future[Sample]] = deque(pool.submit(self._read, row) for row in first)
            while ahead:
                sample = ahead.popleft().result()
                ahead.extend(pool.submit(self._read, row) for row in islice(rows, 1))
                yield sample
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _read(self, row: Mapping[str, str]) -> Sample:
        image = read_image(self._directory / row["image"])
        path = self._directory / row["label"]
        raw = read_label(path)
        if raw.shape != image.shape[:2]:
            raise UserError(f"{path}: size {raw.shape}, but {image.shape[:2]} for its image; prepare the source again")
        return Sample(row["id"], image, {view: lut[raw] for view, lut in self._luts.items()})


def read_index(directory: Path) -> list[dict[str, str]]:
    """Lines of a prepared source's ``index.csv`` (id, image, label, height, width).

    Raises:
        UserError: the directory is no prepared source.
    """
    try:
        with (directory / "index.csv").open(newline="", encoding="utf-8") as stream:
            return list(csv.DictReader(stream))
    except OSError as error:
        raise UserError(f"{directory}: not a prepared source (index.csv: {error.strerror})") from error
