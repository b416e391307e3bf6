"""One HTTP request into a growing file: goes on where an earlier one stopped, if it is still the same file."""

from __future__ import annotations

import errno
import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests
import urllib3
from tqdm import tqdm

from ovss.data.remote import RemoteFile
from ovss.data.user_limits import Budget
from ovss.errors import UserError

_CHUNK = 1 << 20
LARGEST = 1 << 37
"""Bytes that are taken of a file whose size is not known."""
PROGRESS_S = 0.5
"""Seconds between two states of the progress bar in a terminal."""
LOGGED_S = 30.0
"""Seconds between two lines of progress where stderr is no terminal."""
_TRY_AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504})


@dataclass(frozen=True)
class Patience:
    """How often and how long to try (seconds); nothing here changes the bytes."""

    attempts: int = 4
    pause: float = 1.0
    connect: float = 15.0
    read: float = 60.0


@dataclass(frozen=True)
class Failure:
    """Why a request did not bring the file; ``final`` = asking this address again is no use."""

    problem: str
    final: bool


@dataclass(frozen=True)
class Stamp:
    """What identifies the version of a file on its server (empty = the server does not say)."""

    url: str = ""
    etag: str = ""
    modified: str = ""

    @classmethod
    def of(cls, url: str, response: requests.Response) -> Stamp:
        """From a response's headers; a weak ETag does not promise equal bytes and is dropped."""
        etag = response.headers.get("ETag", "")
        return cls(url, "" if etag.startswith("W/") else etag, response.headers.get("Last-Modified", ""))

    def continues(self, url: str) -> bool:
        """Whether this address can be asked for the rest of exactly this version."""
        return self.url == url and bool(self.etag or self.modified)


class Partial:
    """The growing file and, beside it, the stamp of the version it is a part of."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._note = path.with_name(path.name + ".json")
        try:
            self.stamp = Stamp(**json.loads(self._note.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            self.stamp = Stamp()

    @property
    def size(self) -> int:
        """Bytes so far."""
        return self.path.stat().st_size if self.path.exists() else 0

    def restart(self, stamp: Stamp) -> None:
        """Empty the file; what comes now is the version ``stamp``."""
        self.path.write_bytes(b"")
        self.stamp = stamp
        self._note.write_text(json.dumps(asdict(stamp)) + "\n", encoding="utf-8")

    def discard(self) -> None:
        """Remove the file and its stamp."""
        self.stamp = Stamp()
        self.path.unlink(missing_ok=True)
        self._note.unlink(missing_ok=True)


def fetch(url: str, file: RemoteFile, part: Partial, patience: Patience, budget: Budget) -> Failure | None:
    """Ask an http(s) address once; None = the body came to its end (nothing else is checked here).

    Raises:
        UserError: the disk is full, or more would come than is allowed (what has come stays for the next start).
    """
    start = _resume_from(url, file, part)
    headers = {"Accept-Encoding": "identity", "User-Agent": "ovss-repro"}
    if start:
        headers["Range"] = f"bytes={start}-"
        if part.stamp.continues(url):
            headers["If-Range"] = part.stamp.etag or part.stamp.modified
    try:
        limits = (patience.connect, patience.read)
        with requests.get(url, headers=headers, stream=True, timeout=limits) as response:
            return _receive(url, response, start, file, part, budget)
    except requests.exceptions.TooManyRedirects:
        return Failure("it redirects without end", final=True)
    except UserError:
        raise
    except (requests.exceptions.InvalidURL, requests.exceptions.InvalidSchema) as error:
        return Failure(f"not an address that can be asked ({error})", final=True)
    except (requests.exceptions.Timeout, urllib3.exceptions.TimeoutError):
        return Failure(f"no answer within {patience.read:g} s", final=False)
    except requests.exceptions.RequestException:
        return Failure("no connection (is this machine offline?)", final=False)
    except urllib3.exceptions.HTTPError:
        return Failure(f"the connection broke off after {part.size} bytes (cut short)", final=False)
    except ValueError as error:  # an address to go on to, or a length, that neither library could read
        return Failure(f"its answer makes no sense ({' '.join(str(error)[:99].split())})", final=True)


def raise_if_full(error: OSError, part: Partial) -> None:
    """Turn "no space left" into a sentence; other errors pass."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        raise UserError(
            f"{part.path}: the disk is full after {part.size} bytes; make room and start again, it goes on from there"
        ) from error


def _resume_from(url: str, file: RemoteFile, part: Partial) -> int:
    """Bytes to keep: those of the same version, or of any version if a hash will tell in the end."""
    complete = file.size is not None and part.size >= file.size
    return part.size if not complete and (part.stamp.continues(url) or file.strongest) else 0


def _receive(
    url: str, response: requests.Response, start: int, file: RemoteFile, part: Partial, budget: Budget
) -> Failure | None:
    hops = [urlsplit(answer.url).scheme for answer in (*response.history, response)]
    if hops[0] == "https" and "http" in hops and not file.sha256:
        return Failure("it redirects from https to an unprotected address", final=True)
    status = response.status_code
    if status == 416:  # the file has no byte there: ours is too long or another version
        part.discard()
        return Failure("the server has no such range", final=False)
    if status not in (200, 206):
        return Failure(f"the server answers {status} {response.reason}", final=status not in _TRY_AGAIN)
    stamp = Stamp.of(url, response)
    changed = part.stamp.url == url and part.stamp != stamp
    if status == 200:
        if start and changed:
            print(f"{file.name}: the file on the server has changed since the first part came; it is fetched anew",
                  file=sys.stderr)  # fmt: skip
        part.restart(stamp)
    elif part.stamp.url == url and part.stamp.etag != stamp.etag:
        part.discard()
        return Failure("the file on the server has changed since the first part came (another ETag)", final=False)
    elif not response.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
        part.discard()
        return Failure("the server went on with another range", final=False)
    return _append(response, file, part, budget)


def _append(response: requests.Response, file: RemoteFile, part: Partial, budget: Budget) -> Failure | None:
    length = response.headers.get("Content-Length", "")
    total = part.size + int(length) if length.isdecimal() and len(length) < 19 else file.size
    most = LARGEST if file.size is None else file.size
    budget.need(file.name, 0 if total is None else max(0, total - part.size))
    try:
        with part.path.open("ab") as sink, _bar(file.name, part.size, total) as bar:
            for chunk in response.raw.stream(_CHUNK, decode_content=False):
                budget.spend(file.name, len(chunk))
                sink.write(chunk)
                bar.update(len(chunk))
                if sink.tell() > most:
                    return Failure(f"it is larger than {most} bytes", final=True)
    except OSError as error:
        raise_if_full(error, part)
        raise
    if total is not None and part.size != total:
        return Failure(f"only {part.size} of {total} bytes came (cut short)", final=False)
    return None


def _bar(name: str, start: int, total: int | None) -> tqdm[Any]:
    """Progress on stderr with rate and time left; a line every ``LOGGED_S`` where stderr is no terminal."""
    every = PROGRESS_S if sys.stderr.isatty() else LOGGED_S
    return tqdm(desc=name, initial=start, total=total, unit="B", unit_scale=True, mininterval=every, delay=every,
                file=sys.stderr, leave=False)  # fmt: skip
