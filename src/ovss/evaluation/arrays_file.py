"""Arrays and ids in two files whose bytes depend on nothing but what is in them."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

# The oldest date a zip entry can have.
_ZIP_DATE = (1980, 1, 1, 0, 0, 0)


def write_arrays(path: Path, arrays: Mapping[str, npt.ArrayLike]) -> None:
    """Write an npz file (stored, not compressed) that ``numpy.load`` reads.

    Args:
        path: of the file.
        arrays: by name, of any shape and dtype but objects.
    """
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(arrays):
            entry = zipfile.ZipInfo(f"{name}.npy", _ZIP_DATE)
            entry.create_system = 3  # the same on every operating system
            values: npt.NDArray[Any] = np.asarray(arrays[name])
            with archive.open(entry, "w") as file:
                np.lib.format.write_array(file, values, version=(1, 0), allow_pickle=False)


def write_ids(path: Path, ids: Iterable[str]) -> None:
    """Write one id a line."""
    path.write_text("".join(f"{name}\n" for name in ids), encoding="utf-8", newline="\n")
