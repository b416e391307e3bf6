"""One's own pictures: which ones, their pixels, and where what is made of them goes."""

from __future__ import annotations

import contextlib
import io
import json
import os
import tempfile
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from ovss.errors import UserError

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
"""What counts as a picture in a folder."""


@dataclass(frozen=True)
class Picture:
    """A picture and the files to write: the drawing and the record."""

    path: Path
    drawing: Path
    record: Path


def find_pictures(paths: Iterable[Path], out: Path) -> list[Picture]:
    """The pictures that are named, folders replaced by the pictures in them, by name, each once.

    Raises:
        UserError: a path does not exist, a folder has no picture, two would be written to one file, or one to itself.
    """
    files = dict.fromkeys(file for path in paths for file in _files(path))
    pictures = [Picture(file, out / f"{file.stem}.png", out / f"{file.stem}.json") for file in files]
    if not pictures:
        raise UserError("ovss segment: no picture is named")
    taken: dict[Path, Path] = {}
    originals = {picture.path.resolve() for picture in pictures}
    for picture in pictures:
        if picture.drawing.resolve() in originals:
            raise UserError(f"{picture.drawing}: this would overwrite a picture of yours; give another --out")
        if other := taken.get(picture.drawing):
            raise UserError(f"{picture.path} and {other}: both would be written to {picture.drawing}; rename one")
        taken[picture.drawing] = picture.path
    return pictures


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        if not path.exists():
            raise UserError(f"{path}: there is no such file")
        return [path]
    found = sorted(file for file in path.iterdir() if file.suffix.lower() in SUFFIXES and file.is_file())
    if not found:
        raise UserError(f"{path}: no picture ({', '.join(SUFFIXES)}) is in this folder")
    return found


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                yield image
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        most = Image.MAX_IMAGE_PIXELS or 0
        raise UserError(f"{path}: more than {most:,} pixels; scale the picture down first") from None
    except (OSError, SyntaxError, ValueError) as error:
        empty = path.is_file() and path.stat().st_size == 0
        reason = "it is empty" if empty else getattr(error, "strerror", None) or str(error)
        raise UserError(f"{path}: not a picture that can be read ({reason}); give a whole JPEG or PNG file") from error


def check_picture(path: Path) -> None:
    """Look at a picture's header, so that what cannot be read is refused before any work is done.

    Raises:
        UserError: it is no picture, or has too many pixels.
    """
    with _opened(path):
        pass


def read_picture(path: Path) -> npt.NDArray[np.uint8]:
    """Pixels of a picture, upright as its EXIF data says: (H, W, 3) uint8 RGB.

    Raises:
        UserError: it is no picture, damaged, cut off, or has too many pixels.
    """
    with _opened(path) as image:
        return np.array(ImageOps.exif_transpose(image).convert("RGB"))


def prepare_folder(out: Path) -> None:
    """Make the folder for the results.

    Raises:
        UserError: it cannot be made or written to.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            pass
    except OSError as error:
        raise UserError(f"{out}: cannot be written to ({error.strerror}); give another --out") from error


def write_result(picture: Picture, drawing: npt.NDArray[np.uint8], record: Mapping[str, Any]) -> None:
    """Write drawing and record, each by a temporary name and a rename; the record comes last.

    Raises:
        UserError: the folder cannot be written to.
    """
    stream = io.BytesIO()
    Image.fromarray(drawing).save(stream, "PNG")
    text = json.dumps(record, ensure_ascii=False, indent=1, allow_nan=False) + "\n"
    for path, data in ((picture.drawing, stream.getvalue()), (picture.record, text.encode())):
        _write(path, data)


def _write(path: Path, data: bytes) -> None:
    part = path.with_name(f"{path.name}.part-{os.getpid()}")
    try:
        part.write_bytes(data)
        os.replace(part, path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise UserError(f"{path}: cannot be written ({error.strerror}); make room or give another --out") from error


def class_names(text: str | None) -> Sequence[str]:
    """Names in ``cat, dog, grass``; none where no list is given.

    Raises:
        UserError: the list is empty.
    """
    names = list(dict.fromkeys(name.strip() for name in (text or "").split(",") if name.strip()))
    if text is not None and not names:
        raise UserError("--classes: no name is in the list; write it like --classes 'cat, dog, grass'")
    return names
