"""Tar headers that are believed only as far as they are possible.

The standard library reads a name or note of any size into memory, follows a negative size back to where it was, and
keeps every member that it has seen.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator

LARGEST_NOTE = 1 << 20
LARGEST_MEMBER = 1 << 50
_NOTES = frozenset({
    tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK,
})  # fmt: skip
DAMAGE = (tarfile.TarError, OSError, EOFError, ValueError, OverflowError, RuntimeError, MemoryError, LookupError)
"""What reading a damaged tar can raise (RuntimeError: notes for notes for notes)."""


class Header(tarfile.TarInfo):
    """A header with a possible size."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Header:
        """The header in a block.

        Raises:
            tarfile.HeaderError: the block is no header.
            tarfile.ReadError: it states an impossible size.
        """
        found = super().frombuf(buf, encoding, errors)
        check_size(found, LARGEST_NOTE if found.type in _NOTES else LARGEST_MEMBER)
        return found


def check_size(member: tarfile.TarInfo, largest: int) -> None:
    """Refuse a size that is negative or larger than this.

    Raises:
        tarfile.ReadError: it is.
    """
    if not 0 <= member.size <= largest:
        raise tarfile.ReadError(f"a header states {member.size} bytes")


def members(opened: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """Members of a tar opened with ``tarinfo=Header``, in order; those that were handed out are forgotten.

    Raises:
        tarfile.ReadError: a member is sparse, or a note states an impossible size for it.
    """
    for info in opened:
        check_size(info, LARGEST_MEMBER)
        if info.issparse():
            raise tarfile.ReadError(f"member {info.name!r} is sparse")
        yield info
        opened.members.clear()  # type: ignore[attr-defined]
