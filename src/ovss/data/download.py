"""Download of one file: mirrors, retries, resume, checks; the name appears only when the bytes are right."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from ovss.data.remote import RemoteFile, move, problem_of, verify
from ovss.data.transfer import Failure, Partial, Patience, fetch, raise_if_full
from ovss.data.user_limits import OFFLINE, Budget, offline
from ovss.errors import UserError

__all__ = ["Patience", "RemoteFile", "download", "part_name"]

_LOCAL = "file://"


def download(
    file: RemoteFile,
    folder: Path,
    partial: Path | None = None,
    hint: str = "",
    patience: Patience | None = None,
    budget: Budget | None = None,
) -> dict[str, Any]:
    """Bring a file into ``folder`` under its name, complete and verified.

    Args:
        file: what to fetch; its addresses are tried in order (https, http, file).
        folder: where the finished file goes.
        partial: where the unfinished file is kept, to go on after an interruption; None = ``folder``.
        hint: what to do when no address works, or none may be asked (added to the message).
        patience: retries and time limits; None = the defaults.
        budget: how much may come; None = anything.

    Returns:
        what ``verify`` returns, and "url".

    Raises:
        UserError: no address gives the right bytes (the message says why, for each), the disk is full, no network may
            be used, or more would come than is allowed.
    """
    urls = [url for url in file.urls if url.startswith(_LOCAL) or not offline()]
    if file.urls and not urls:
        raise UserError(f"{file.name}: not downloaded, since {OFFLINE} is set{'; ' + hint if hint else ''}")
    partial = partial or folder
    for directory in (folder, partial):
        directory.mkdir(parents=True, exist_ok=True)
    part = Partial(partial / part_name(file))
    problems: list[str] = []
    for url in urls:
        _need_space(file, part)
        problem = _one_address(url, file, part, patience or Patience(), budget or Budget())
        if problem is None:
            facts = verify(part.path, file)
            move(part.path, folder / file.name)
            part.discard()
            return {**facts, "url": url}
        problems.append(f"{url}: {problem}")
    reasons = "; ".join(problems) or "no address is known"
    raise UserError(
        f"{file.name}: could not be downloaded ({reasons}){'; check the connection, or ' + hint if hint else ''}"
    )


def part_name(file: RemoteFile) -> str:
    """Name of the unfinished file."""
    return f"{file.name}.part"


def _one_address(url: str, file: RemoteFile, part: Partial, patience: Patience, budget: Budget) -> str | None:
    """Fetch from one address until the bytes are right; the problem in words if they never are."""
    problem, wrong_bytes = "", 0
    for attempt in range(patience.attempts):
        if attempt:
            time.sleep(patience.pause * 2 ** (attempt - 1))
        failure = _copy(url, part) if url.startswith(_LOCAL) else fetch(url, file, part, patience, budget)
        if failure is None:
            found = problem_of(part.path, file)
            if found is None:
                return None
            part.discard()
            problem, wrong_bytes = found, wrong_bytes + 1
            if wrong_bytes == 2:  # the second time from the first byte on: the server has another file
                return problem
        else:
            problem = failure.problem
            if failure.final:
                return problem
    return problem


def _copy(url: str, part: Partial) -> Failure | None:
    try:
        shutil.copyfile(unquote(urlsplit(url).path), part.path)
    except OSError as error:
        raise_if_full(error, part)
        return Failure(error.strerror or str(error), final=True)
    return None


def _need_space(file: RemoteFile, part: Partial) -> None:
    missing = (file.size or 0) - part.size
    free = shutil.disk_usage(part.path.parent).free
    if missing > free:
        raise UserError(f"{file.name}: needs {missing} more bytes, {part.path.parent} has {free} free; make room")
