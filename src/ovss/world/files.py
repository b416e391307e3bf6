"""Encoders and containers whose bytes depend on their contents only: PNG, JPEG, tar, zip, COCO run lengths."""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Array = NDArray[Any]
Files = dict[str, bytes]
"""Member name -> contents."""

STORED = (".jpg", ".png")
ZIP_DATE = (1980, 1, 1, 0, 0, 0)


def png(array: Array, palette: list[int] | None = None) -> bytes:
    """A PNG of uint8 (H, W), uint8 (H, W, 3) or uint16 (H, W); with ``palette`` (768 numbers) in mode P."""
    image = Image.fromarray(array)
    if palette is not None:
        image = Image.frombytes("P", image.size, array.tobytes())
        image.putpalette(palette)
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def jpeg(array: Array, grey: bool = False, quality: int = 90) -> bytes:
    """A JPEG of uint8 (H, W, 3), in one channel if ``grey``."""
    image = Image.fromarray(array)
    buffer = io.BytesIO()
    (image.convert("L") if grey else image).save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def voc_palette() -> list[int]:
    """PASCAL VOC's colour map: the bits of the index dealt out to red, green and blue; 768 numbers."""
    palette: list[int] = []
    for index in range(256):
        colour = [0, 0, 0]
        for bit in range(8):
            for channel in range(3):
                colour[channel] |= ((index >> (3 * bit + channel)) & 1) << (7 - bit)
        palette += colour
    return palette


def to_json(value: object) -> bytes:
    """Compact JSON in UTF-8."""
    return json.dumps(value, separators=(",", ":")).encode("utf-8")


def to_pickle(value: object) -> bytes:
    """A pickle of protocol 2 (Python 2's last); its bytes depend on the values, not on which are the same object."""
    buffer = io.BytesIO()
    pickler = pickle.Pickler(buffer, protocol=2)
    pickler.fast = True
    pickler.dump(value)
    return buffer.getvalue()


def write_tar(path: Path, files: Mapping[str, bytes]) -> None:
    """A plain ustar archive: members sorted, no times, no owners, mode 0644."""
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as archive:
        for name in sorted(files):
            member = tarfile.TarInfo(name)
            member.size, member.mtime, member.mode = len(files[name]), 0, 0o644
            archive.addfile(member, io.BytesIO(files[name]))


def write_zip(path: Path, files: Mapping[str, bytes]) -> None:
    """A zip: members sorted, dated 1980, mode 0644; images stored, all else deflated."""
    with zipfile.ZipFile(path, "w") as archive:
        for name in sorted(files):
            member = zipfile.ZipInfo(name, ZIP_DATE)
            member.external_attr, member.create_system = 0o100644 << 16, 3
            member.compress_type = zipfile.ZIP_STORED if name.endswith(STORED) else zipfile.ZIP_DEFLATED
            archive.writestr(member, files[name])


def checksums(path: Path) -> dict[str, object]:
    """{size, md5, sha256} of a file, read in pieces."""
    md5, sha256, size = hashlib.md5(usedforsecurity=False), hashlib.sha256(), 0
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            md5.update(piece)
            sha256.update(piece)
            size += len(piece)
    return {"size": size, "md5": md5.hexdigest(), "sha256": sha256.hexdigest()}


def run_lengths(mask: Array) -> list[int]:
    """Column-major run lengths of a (H, W) mask, zeros first (COCO's uncompressed RLE)."""
    flat = np.concatenate([[0], np.asarray(mask, bool).flatten(order="F").astype(np.int8), [0]])
    changes = np.flatnonzero(np.diff(flat))
    runs = np.diff(np.concatenate([[0], changes, [mask.size]])).tolist()
    return [int(r) for r in (runs[:-1] if runs[-1] == 0 else runs)]


def compressed_rle(mask: Array) -> dict[str, object]:
    """COCO's compressed RLE: each run minus the run two before, in groups of five bits, as text."""
    counts = run_lengths(mask)
    text: list[str] = []
    for i, count in enumerate(counts):
        rest = count - counts[i - 2] if i > 2 else count
        more = True
        while more:
            digit, rest = rest & 0x1F, rest >> 5
            more = rest != -1 if digit & 0x10 else rest != 0
            text.append(chr((digit | 0x20 if more else digit) + 48))
    return {"size": [int(n) for n in mask.shape], "counts": "".join(text)}
