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

Pixels = npt.NDArray[np.uint8]
SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
"""What counts as a picture in a folder."""
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP")
"""What a picture may be, whatever it is called: Pillow reads many more formats, some of them by other programs."""


@dataclass(frozen=True)
class Picture:
    """A picture and the files to write: the drawing, the label map and the record."""

    path: Path
    drawing: Path
    labels: Path
    record: Path

    @classmethod
    def at(cls, path: Path, out: Path) -> Picture:
        """A picture whose files go to a folder."""
        return cls(path, *(out / f"{path.stem}{suffix}" for suffix in (".png", ".labels.png", ".json")))

    @property
    def outputs(self) -> tuple[Path, Path, Path]:
        """The files to write."""
        return self.drawing, self.labels, self.record


def find_pictures(paths: Iterable[Path], out: Path) -> list[Picture]:
    """The pictures that are named, folders replaced by the pictures in them, by name, each once.

    Raises:
        UserError: a path does not exist, a folder has no picture, two would be written to one file, or one to itself.
    """
    files = dict.fromkeys(file for path in paths for file in _files(path))
    pictures = [Picture.at(file, out) for file in files]
    if not pictures:
        raise UserError("ovss segment: no picture is named; 'ovss segment --help' says how")
    taken: dict[Path, Path] = {}
    originals = {picture.path.resolve() for picture in pictures}
    for picture in pictures:
        for output in picture.outputs:
            if output.resolve() in originals:
                raise UserError(f"{output}: this would overwrite a picture of yours; give another --out")
            if other := taken.get(output):
                raise UserError(f"{picture.path} and {other}: both would be written to {output}; rename one")
            taken[output] = picture.path
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
            with Image.open(path, formats=FORMATS) as image:
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


def read_picture(path: Path) -> Pixels:
    """Pixels of a picture, upright as its EXIF data says: (H, W, 3) uint8 RGB.

    Raises:
        UserError: it is no picture, damaged, cut off, or has too many pixels.
    """
    with _opened(path) as image:
        upright = ImageOps.exif_transpose(image)
        if upright.mode.startswith("I;16"):  # Pillow would cut 16-bit values off at 255
            upright = Image.fromarray((np.asarray(upright) >> 8).astype(np.uint8))
        return np.array(upright.convert("RGB"))


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


def write_result(
    picture: Picture, drawing: Pixels, labels: Pixels, palette: Sequence[int], record: Mapping[str, Any]
) -> None:
    """Write drawing, label map and record, each by a temporary name and a rename; the record comes last.

    Args:
        picture: what they are of.
        drawing: (H', W', 3) uint8 RGB.
        labels: (H, W) uint8, written as a PNG of mode P whose values are these.
        palette: red, green and blue of each of the 256 values.
        record: JSON values.

    Raises:
        UserError: the folder cannot be written to.
    """
    indexed = Image.fromarray(labels, "P")
    indexed.putpalette(list(palette))
    text = json.dumps(record, ensure_ascii=False, indent=1, allow_nan=False) + "\n"
    contents = (_png(Image.fromarray(drawing)), _png(indexed), text.encode())
    for path, data in zip(picture.outputs, contents, strict=True):
        _write(path, data)


def _png(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


def _write(path: Path, data: bytes) -> None:
    part = path.with_name(f"{path.name}.part-{os.getpid()}")
    try:
        part.write_bytes(data)
        os.replace(part, path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise UserError(f"{path}: cannot be written ({error.strerror}); make room or give another --out") from error
