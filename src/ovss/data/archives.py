"""Safe reading of tar, tar.gz, zip and .deb members: nothing is written outside the target, no links, no bombs."""

from __future__ import annotations

import gzip
import io
import lzma
import shutil
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any

from ovss.data import deb, tars
from ovss.errors import UserError

IGNORED_PARTS = frozenset({".DS_Store", "__MACOSX"})
_CHUNK = 1 << 20
# what tarfile, zipfile and the decompressors raise on damaged bytes (RuntimeError: encrypted, or unknown compression)
_DAMAGE = (tarfile.TarError, zipfile.BadZipFile, lzma.LZMAError, zlib.error, struct.error, EOFError, OSError, KeyError,
           IndexError, OverflowError, RuntimeError, ValueError, MemoryError)  # fmt: skip


@dataclass(frozen=True)
class Limits:
    """What an archive may unpack to; photographs and PNG maps hardly compress, so a large ratio is a bomb.

    ``spare_bytes`` of the disk are left free, whatever the archive holds.
    """

    ratio: float = 100.0
    slack_bytes: int = 64 << 20
    members: int = 2_000_000
    spare_bytes: int = 64 << 20


@dataclass(frozen=True)
class _Member:
    name: str
    regular: bool
    open: Callable[[], IO[bytes]]


def extract(archive: Path, out: Path, wanted: Callable[[str], bool], limits: Limits | None = None) -> list[str]:
    """Write the wanted members of an archive below ``out`` under their own names.

    Args:
        archive: a .tar, .tar.gz/.tgz, .zip or .deb file.
        out: directory to write into.
        wanted: called with each member's name (forward slashes), except directories and what the Finder leaves behind.
        limits: caps on number, total size and compression ratio; None = the defaults.

    Returns:
        Names written, sorted; the files are ``out / name``.

    Raises:
        UserError: the archive is damaged or truncated, a member's name leaves ``out`` (absolute, ``..``), a wanted
            member is a link or a device or occurs twice, the limits are passed, or the disk would be full.
    """
    limits = limits or Limits()
    written: list[str] = []
    with _members(archive) as members:
        budget, room = _budget(archive, limits), _room(out) - limits.spare_bytes
        for name, member in _wanted(members, archive, wanted, limits):
            size = _write(member, out / name, archive, budget, room)
            budget, room = budget - size, room - size
            written.append(name)
    return sorted(written)


def open_members(
    archive: Path, wanted: Callable[[str], bool], limits: Limits | None = None
) -> Iterator[tuple[str, IO[bytes]]]:
    """(name, stream) of each wanted member in the archive's order; a stream is valid until the next one is asked for.

    For members that are read once and need not be on disk; the rules are those of ``extract``.

    Raises:
        UserError: as ``extract``; also while a stream is read.
    """
    limits = limits or Limits()
    with _members(archive) as members:
        budget = [_budget(archive, limits)]
        for name, member in _wanted(members, archive, wanted, limits):
            with member.open() as source:
                yield name, io.BufferedReader(_Guarded(source, archive, budget), _CHUNK)


def check(archive: Path) -> None:
    """Read the members' headers, of a tar to the end, and write nothing.

    Raises:
        UserError: the archive is damaged or truncated, holds too many members, or a name leaves the target.
    """
    with _members(archive) as members:
        for _ in _wanted(members, archive, lambda _: False, Limits()):
            pass


@contextmanager
def open_file(path: Path, limits: Limits | None = None) -> Iterator[IO[bytes]]:
    """A plain or gzip-compressed file, read as it is needed.

    Raises:
        UserError: the file is missing, damaged or a bomb; also while it is read.
    """
    if not path.is_file():
        raise UserError(f"{path}: this file is missing; fetch it again")
    with path.open("rb") as plain:
        packed = plain.read(2) == b"\x1f\x8b"
        plain.seek(0)
        if not packed:
            yield plain
            return
        with gzip.GzipFile(fileobj=plain) as unpacked:
            yield io.BufferedReader(_Guarded(unpacked, path, [_budget(path, limits or Limits())]), _CHUNK)


def _budget(archive: Path, limits: Limits) -> int:
    return int(archive.stat().st_size * limits.ratio) + limits.slack_bytes


def _room(folder: Path) -> int:
    """Free bytes where a folder is, or will be."""
    return shutil.disk_usage(next(place for place in (folder, *folder.absolute().parents) if place.is_dir())).free


def _wanted(
    members: Iterator[_Member], archive: Path, wanted: Callable[[str], bool], limits: Limits
) -> Iterator[tuple[str, _Member]]:
    for count, member in enumerate(members, start=1):
        if count > limits.members:
            raise UserError(f"{archive}: more than {limits.members} members; this is not the expected archive")
        name = safe_name(member.name, archive)
        if name is None or not wanted(name):
            continue
        if not member.regular:
            raise UserError(f"{archive}: member {name!r} is a link or a device, not a file; refusing to unpack it")
        yield name, member


class _Guarded(io.RawIOBase):
    """Unpacked bytes of an archive; damage, and more bytes than ``budget[0]``, are errors that name the archive."""

    def __init__(self, source: IO[bytes] | gzip.GzipFile, archive: Path, budget: list[int]) -> None:
        self._source, self._archive, self._budget = source, archive, budget

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            data = self._source.read(len(buffer))
        except _DAMAGE as error:
            raise _damaged(self._archive, error) from error
        self._budget[0] -= len(data)
        if self._budget[0] < 0:
            raise _bomb(self._archive)
        buffer[: len(data)] = data
        return len(data)


def _damaged(archive: Path, error: Exception) -> UserError:
    reason = " ".join(str(error).split()) or type(error).__name__
    return UserError(f"{archive}: damaged or truncated archive ({reason}); delete it and fetch it again")


def _bomb(archive: Path) -> UserError:
    return UserError(f"{archive}: unpacks to far more than its own size; refusing it as a bomb")


def read_member(archive: Path, name: str, limit: int = 64 << 20) -> bytes:
    """Bytes of one member (a split list, say), at most ``limit``.

    Raises:
        UserError: there is no such member, it is larger than the limit, or the archive is damaged.
    """
    with _members(archive) as members:
        for member in members:
            if safe_name(member.name, archive) == name and member.regular:
                with member.open() as stream:
                    data = stream.read(limit + 1)
                if len(data) > limit:
                    raise UserError(f"{archive}: member {name!r} is larger than {limit} bytes")
                return data
    raise UserError(f"{archive}: there is no member {name!r}; this is not the expected archive")


def safe_name(name: str, archive: Path) -> str | None:
    """Name of a member with forward slashes, or None for what is always skipped (directories, Finder's files).

    Raises:
        UserError: the name is absolute, climbs with ``..``, or holds a backslash, a drive or a control character.
    """
    path = PurePosixPath(name)
    unsafe = path.is_absolute() or ".." in path.parts or "\\" in name or any(ord(char) < 32 for char in name)
    if unsafe or name[1:2] == ":":
        raise UserError(f"{archive}: member name {name!r} would be written outside the target; refusing the archive")
    if name.endswith("/") or not path.parts or IGNORED_PARTS & set(path.parts):
        return None
    return str(path)


def _write(member: _Member, target: Path, archive: Path, budget: int, room: int) -> int:
    """Stream a member into a new file and return its size."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with member.open() as source, target.open("xb") as sink:
            size = 0
            while chunk := source.read(_CHUNK):
                size += len(chunk)
                if size > budget:
                    raise _bomb(archive)
                if size > room:
                    raise UserError(
                        f"{archive}: member {member.name!r} does not fit on the disk, where {max(room, 0)} bytes may "
                        "be used; make room and start again"
                    )
                sink.write(chunk)
    except (FileExistsError, NotADirectoryError, IsADirectoryError):
        raise UserError(f"{archive}: member {member.name!r} collides with another member") from None
    except OSError as error:
        if error.errno is None:  # a decompressor's complaint
            raise
        raise UserError(f"{archive}: member {member.name!r} cannot be unpacked ({error.strerror})") from error
    return size


@contextmanager
def _members(archive: Path) -> Iterator[Iterator[_Member]]:
    """Members in the archive's order; anything that damage can raise becomes a UserError that names the file."""
    try:
        with archive.open("rb") as stream:
            start = stream.read(len(deb.MAGIC))
        if start.startswith(b"PK"):
            with zipfile.ZipFile(archive) as opened_zip:
                yield _zip_members(opened_zip, archive)
        elif start == deb.MAGIC:
            with (
                archive.open("rb") as package,
                tarfile.open(fileobj=deb.open_data(package, archive), tarinfo=tars.Header) as files,
            ):
                yield _tar_members(files, archive)
        else:
            with tarfile.open(archive, "r:*", tarinfo=tars.Header) as opened_tar:
                yield _tar_members(opened_tar, archive)
    except UserError:
        raise
    except FileNotFoundError:
        raise UserError(f"{archive}: this archive is missing; fetch it again") from None
    except _DAMAGE as error:
        raise _damaged(archive, error) from error


def _zip_members(opened: zipfile.ZipFile, archive: Path) -> Iterator[_Member]:
    for info in opened.infolist():
        kind = stat.S_IFMT(info.external_attr >> 16)

        def reader(info: zipfile.ZipInfo = info) -> IO[bytes]:
            if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):  # zipfile unpacks others in one go
                raise UserError(
                    f"{archive}: member {info.filename!r} is compressed in a way that is not read here; "
                    "repack it with deflate"
                )
            return opened.open(info)

        # orig_filename keeps what zipfile's own cleaning would hide (a NUL byte, a backslash)
        name = info.filename if info.orig_filename == info.filename else info.orig_filename
        yield _Member(name, kind in (0, stat.S_IFREG), reader)


def _tar_members(opened: tarfile.TarFile, archive: Path) -> Iterator[_Member]:
    for info in tars.members(opened):

        def reader(info: tarfile.TarInfo = info) -> IO[bytes]:
            stream = opened.extractfile(info)
            if stream is None:
                raise UserError(f"{archive}: member {info.name!r} is not a file")
            return stream

        yield _Member(info.name + ("/" if info.isdir() else ""), info.isreg(), reader)
    # tarfile takes a damaged header for the end of the archive; the real end is a block of zeros
    if opened.fileobj is not None:
        opened.fileobj.seek(opened.offset)
        if opened.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise UserError(f"{archive}: damaged or truncated archive (no end mark); delete it and fetch it again")
        while opened.fileobj.read(_CHUNK):  # to the end, so that gzip compares its checksum
            pass
