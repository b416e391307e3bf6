"""The files of a segments directory: cluster maps and embeddings of all images.

images.txt: image ids, one a line. maps.zip: one PNG per image (mode L, cluster of every pixel), stored, with fixed
dates. segments.safetensors: ``embeddings`` (S, D) float32 and, int32 (S,) each, ``image`` (number of the line in
images.txt), ``cluster`` and ``pixels``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ovss.errors import UserError
from ovss.evaluation.maps_file import IMAGES_FILE, MapsFile, MapsWriter

TENSORS_FILE = "segments.safetensors"
_COLUMNS = ("image", "cluster", "pixels")
_VECTORS_FILE = "embeddings.part"


@dataclass(frozen=True)
class SegmentsFile:
    """Segments of all images, in the order of ``images`` and then of clusters; ``maps`` has the cluster maps.

    embeddings: (S, D) float32, not normalised. image, cluster, pixels: (S,) int32.
    """

    maps: MapsFile
    images: tuple[str, ...]
    embeddings: Tensor
    image: Tensor
    cluster: Tensor
    pixels: Tensor

    @classmethod
    def open(cls, directory: Path) -> SegmentsFile:
        """Read a segments directory; maps are read when asked for.

        Raises:
            UserError: a file is missing or damaged, or the files do not belong together.
        """
        maps = MapsFile.open(directory)
        try:
            tensors = load_file(directory / TENSORS_FILE)
            columns = [tensors[name] for name in _COLUMNS]
            embeddings = tensors["embeddings"]
        except (OSError, ValueError, KeyError, SafetensorError) as error:
            raise UserError(f"{directory}: not a readable segments directory ({error}); make it again") from error
        lengths = {len(embeddings), *map(len, columns)}
        if len(lengths) > 1 or (len(embeddings) and int(columns[0].max()) >= len(maps.images)):
            raise UserError(f"{directory}: {TENSORS_FILE} and {IMAGES_FILE} do not belong together; make it again")
        return cls(maps, maps.images, embeddings, *columns)

    def map(self, image_id: str) -> npt.NDArray[np.uint8]:
        """Cluster of every pixel of one image, (H, W) uint8; errors as ``MapsFile.map``."""
        return self.maps.map(image_id)


class SegmentsWriter:
    """Writes a segments directory image by image; embeddings wait on disk, not in memory.

    ``release`` lets go of its files however the work ends, ``close`` makes the directory complete.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._rows: list[tuple[int, int, int]] = []
        self._dimension = 0
        self._maps = MapsWriter(directory)
        self._vectors = (directory / _VECTORS_FILE).open("wb")

    @property
    def images(self) -> list[str]:
        """Ids of the images so far."""
        return self._maps.images

    @property
    def segments(self) -> int:
        """Number of segments so far."""
        return len(self._rows)

    def add(
        self,
        image_id: str,
        cluster_map: npt.NDArray[np.uint8],
        embeddings: Tensor,
        clusters: Sequence[int],
        pixels: Sequence[int],
    ) -> None:
        """Append one image.

        Args:
            image_id: its id.
            cluster_map: (H, W) uint8.
            embeddings: (n, D) float32 on the CPU.
            clusters: number in the map of each of these n segments.
            pixels: and its pixels.
        """
        self._vectors.write(embeddings.contiguous().numpy().tobytes())
        self._dimension = embeddings.shape[1]
        number = len(self.images)
        self._rows += [(number, int(index), int(area)) for index, area in zip(clusters, pixels, strict=True)]
        self._maps.add(image_id, cluster_map)

    def release(self) -> None:
        """Close the files."""
        self._maps.release()
        self._vectors.close()

    def close(self) -> None:
        """Write what is left; the directory is complete afterwards."""
        self.release()
        vectors = self.directory / _VECTORS_FILE
        table = torch.tensor(self._rows, dtype=torch.int32).reshape(-1, 3)
        read = np.fromfile(vectors, dtype=np.float32).reshape(len(table), self._dimension)
        columns = {name: table[:, index].contiguous() for index, name in enumerate(_COLUMNS)}
        save_file({"embeddings": torch.from_numpy(read), **columns}, self.directory / f"{TENSORS_FILE}.part")
        self._maps.close()
        (self.directory / f"{TENSORS_FILE}.part").rename(self.directory / TENSORS_FILE)
        vectors.unlink()


def write_segments(
    directory: Path,
    images: Iterable[tuple[str, npt.NDArray[np.uint8], Tensor, Sequence[int], Sequence[int]]],
) -> SegmentsFile:
    """Write a segments directory of images given as the arguments of ``SegmentsWriter.add``, and open it."""
    writer = SegmentsWriter(directory)
    try:
        for image in images:
            writer.add(*image)
        writer.close()
    finally:
        writer.release()
    return SegmentsFile.open(directory)
