"""Damage, tar headers as no program writes them, and a fence around what reads them."""

from __future__ import annotations

import resource
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from ovss.errors import UserError

END = bytes(1024)
FEW = settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
flips = st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(1, 255)), min_size=1, max_size=6)


def damaged(data: bytes, places: list[tuple[float, int]], length: float) -> bytes:
    """Bytes changed at places (a share of the whole), then cut to a share of the length."""
    changed = bytearray(data)
    for place, value in places:
        changed[int(len(changed) * place)] ^= value
    return bytes(changed[: int(len(changed) * length)])


class TooLate(BaseException):
    """Not caught by anything that takes damage for a plain error."""


def number(value: int) -> bytes:
    """A header's number of 12 bytes: octal digits, or binary for what they cannot hold."""
    if 0 <= value < 8**11:
        return b"%011o\0" % value
    return (b"\xff" if value < 0 else b"\x80") + (value % (1 << 88)).to_bytes(11, "big")


def header(name: bytes, size: int = 0, kind: bytes = b"0", link: bytes = b"", sparse: int | None = None) -> bytes:
    """One block; ``sparse`` = the size of a GNU sparse file of which nothing is stored."""
    block = bytearray(512)
    block[: len(name)] = name
    block[100:148] = b"0000644\x000000000\x000000000\x00" + number(size) + number(0)
    block[156:157], block[157 : 157 + len(link)] = kind, link
    block[257:265] = b"ustar\x0000" if sparse is None else b"ustar  \0"
    if sparse is not None:
        block[156:157], block[386:410], block[483:495] = b"S", number(0) * 2, number(sparse)
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def member(name: bytes, data: bytes = b"", kind: bytes = b"0", link: bytes = b"") -> bytes:
    """A header and its padded data."""
    return header(name, len(data), kind, link) + data + bytes(-len(data) % 512)


def note(**fields: str) -> bytes:
    """A pax header for the member behind it."""
    body = b""
    for key, value in fields.items():
        line = f" {key.replace('__', '.')}={value}\n".encode("utf-8", "surrogateescape")
        size = len(line) + 1
        while len(str(size)) + len(line) != size:
            size += 1
        body += str(size).encode() + line
    return member(b"note", body, b"x")


@contextmanager
def fenced(seconds: float = 5.0, megabytes: int = 512) -> Iterator[None]:
    """Stops what computes too long (waiting does not count); refuses more memory than that beyond what is in use."""

    def late(*_: object) -> None:
        raise TooLate(f"more than {seconds} s of computing")

    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = signal.signal(signal.SIGPROF, late)
    resource.setrlimit(resource.RLIMIT_AS, (used + (megabytes << 20), hard))
    signal.setitimer(signal.ITIMER_PROF, seconds, 0.2)  # again: a callback may swallow the first one
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def refusal(action: Callable[[], object], seconds: float = 5.0, megabytes: int = 512) -> str | None:
    """What a refused action says, in one line; None = it was done. Any other end is an error of the code under test."""
    try:
        with fenced(seconds, megabytes):
            action()
    except UserError as error:
        message = str(error)
        assert message and not set("\n\r") & set(message) and len(message) < 1500, ascii(message)
        return message
    return None
