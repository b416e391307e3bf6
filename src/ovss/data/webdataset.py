"""Shards of image-text pairs as img2dataset writes them: plain tar files, the members of one pair side by side.

A shard is ``<stem>_%05d.tar`` (also ``<stem>-%06d.tar`` and, with an empty stem, ``%05d.tar``); a pair is
``<key>.jpg``, ``<key>.txt`` and perhaps ``<key>.json``. Nothing is unpacked to disk.
"""

from __future__ import annotations

import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path, PurePosixPath

from ovss.data import tars
from ovss.errors import UserError

LARGEST_MEMBER = 64 << 20


class CutShardError(UserError):
    """A shard that ends in the middle; everything before its last complete pair was handed out."""


@dataclass(frozen=True)
class Member:
    """Contents of a member and where they begin in the shard, in bytes."""

    offset: int
    data: bytes


@dataclass
class Sample:
    """The members with one key, by extension (lower case, without the dot)."""

    key: str
    members: dict[str, Member] = field(default_factory=dict)


def shards_in(folder: Path, stem: str) -> list[Path]:
    """Shards of a collection in the order of their numbers.

    Raises:
        UserError: there is none, or two have the same number.
    """
    pattern = re.compile((re.escape(stem) + "[_-]" if stem else "") + r"(?P<number>\d+)\.tar")
    found = {path: int(match["number"]) for path in folder.glob("*.tar") if (match := pattern.fullmatch(path.name))}
    if not found:
        raise UserError(
            f"{folder}: there is no shard {stem + '_' if stem else ''}00000.tar, ...; place the shards there"
        )
    shards = sorted(found, key=lambda path: (found[path], path.name))
    for one, other in pairwise(shards):
        if found[one] == found[other]:
            raise UserError(f"{folder}: {one.name} and {other.name} have the same number; remove one of them")
    return shards


def absent_numbers(shards: list[Path]) -> list[int]:
    """Numbers missing between the first shard of a collection (0) and its last one."""
    numbers = {int(re.findall(r"\d+", path.stem)[-1]) for path in shards}
    return sorted(set(range(max(numbers) + 1)) - numbers)


def read_shard(path: Path) -> Iterator[Sample]:
    """Samples of a shard in its order, one in memory at a time.

    Raises:
        CutShardError: the shard ends in the middle.
        UserError: it is missing, no plain tar file, or holds a member twice or one that is far too large for an image.
    """
    try:
        with tarfile.open(path, "r:", tarinfo=tars.Header) as archive:
            yield from _samples(archive, path)
    except UserError:
        raise
    except FileNotFoundError:
        raise UserError(f"{path}: this shard is missing; place it there again") from None
    except tars.DAMAGE as error:
        if _begins_as_tar(path):
            raise _cut(path, " ".join(str(error).split())) from error
        raise UserError(
            f"{path}: no plain tar file ({' '.join(str(error).split())}); download this shard again"
        ) from error


def _begins_as_tar(path: Path) -> bool:
    try:
        with tarfile.open(path, "r:", tarinfo=tars.Header):
            return True
    except tars.DAMAGE:
        return False


def _cut(path: Path, reason: str) -> CutShardError:
    return CutShardError(f"{path}: this shard ends in the middle ({reason}); write or download it again")


def _samples(archive: tarfile.TarFile, path: Path) -> Iterator[Sample]:
    sample: Sample | None = None
    for info in tars.members(archive):
        if not info.isreg():
            continue
        name = PurePosixPath(info.name)
        stem, _, extension = name.name.partition(".")
        key = (name.parent / stem).as_posix()
        if sample is not None and sample.key != key:
            yield sample
            sample = None
        sample = sample or Sample(key)
        if extension.lower() in sample.members:
            raise UserError(f"{path}: member {info.name!r} occurs twice; write or download this shard again")
        sample.members[extension.lower()] = Member(info.offset_data, _contents(archive, info, path))
    _check_end(archive, path)
    if sample is not None:
        yield sample


def _contents(archive: tarfile.TarFile, info: tarfile.TarInfo, path: Path) -> bytes:
    if info.size > LARGEST_MEMBER:
        raise UserError(f"{path}: member {info.name!r} has {info.size} bytes, too many for an image or a caption")
    stream = archive.extractfile(info)
    data = stream.read() if stream is not None else b""
    if len(data) != info.size:
        raise _cut(path, f"member {info.name!r} has {len(data)} of {info.size} bytes")
    return data


def _check_end(archive: tarfile.TarFile, path: Path) -> None:
    """The end is a block of zeros; tarfile takes a damaged header, and the file's end, for it."""
    assert archive.fileobj is not None
    archive.fileobj.seek(archive.offset)
    if archive.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise _cut(path, "no end mark")
