"""Cluster maps of all images in one file.

images.txt: ids, one a line. maps.zip: one PNG per image (mode L, cluster of every pixel), stored, with fixed dates.
"""

from __future__ import annotations

import io
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from ovss.errors import UserError

IMAGES_FILE, MAPS_FILE = "images.txt", "maps.zip"
# The oldest date a zip entry can have: the same maps give the same bytes.
_ZIP_DATE = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True)
class MapsFile:
    """Maps by image id, read when asked for."""

    archive: zipfile.ZipFile
    images: tuple[str, ...]

    @classmethod
    def open(cls, directory: Path) -> MapsFile:
        """Open the maps of a directory.

        Raises:
            UserError: a file is missing or damaged.
        """
        try:
            images = tuple((directory / IMAGES_FILE).read_text(encoding="utf-8").splitlines())
            return cls(zipfile.ZipFile(directory / MAPS_FILE), images)
        except (OSError, ValueError, zipfile.BadZipFile) as error:
            raise UserError(f"{directory}: its cluster maps cannot be read ({error}); make it again") from error

    def map(self, image_id: str) -> npt.NDArray[np.uint8]:
        """Cluster of every pixel of one image, (H, W) uint8.

        Raises:
            UserError: there is no such map, or it is damaged.
        """
        try:
            with Image.open(io.BytesIO(self.archive.read(f"{image_id}.png"))) as picture:
                return np.array(picture)
        except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
            where = self.archive.filename
            raise UserError(f"{where}: the map of image {image_id} cannot be read ({error}); make it again") from error


class MapsWriter:
    """Writes maps image by image; ``release`` lets go of the file however the work ends, ``close`` completes it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.images: list[str] = []
        directory.mkdir(parents=True, exist_ok=True)
        self._archive = zipfile.ZipFile(directory / f"{MAPS_FILE}.part", "w", zipfile.ZIP_STORED)

    def add(self, image_id: str, cluster_map: npt.NDArray[np.uint8]) -> None:
        """Append the map of one image, (H, W) uint8."""
        stream = io.BytesIO()
        Image.fromarray(cluster_map).save(stream, "png")
        self._archive.writestr(zipfile.ZipInfo(f"{image_id}.png", _ZIP_DATE), stream.getvalue())
        self.images.append(image_id)

    def release(self) -> None:
        """Close the file."""
        self._archive.close()

    def close(self) -> None:
        """Write what is left; the maps are complete afterwards."""
        self.release()
        text = "".join(f"{image}\n" for image in self.images)
        (self.directory / IMAGES_FILE).write_text(text, encoding="utf-8")
        (self.directory / f"{MAPS_FILE}.part").rename(self.directory / MAPS_FILE)
