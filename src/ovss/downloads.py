"""Whether what a run would download is within what the user allows."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from ovss.data.fetch import bytes_to_come
from ovss.data.remote import RemoteFile
from ovss.data.user_limits import MAX_DOWNLOAD, most_bytes
from ovss.errors import UserError
from ovss.plan.job import Job

_NAMED = 5


def sizes(jobs: Iterable[Job], root: Path) -> dict[str, int]:
    """Bytes that the fetch jobs among these would still download, by archive; as far as sizes are stated."""
    found: dict[str, int] = {}
    for job in jobs:
        if job.stage == "fetch" and not (root / job.done).is_file():
            files = (RemoteFile.of(entry) for entry in job.params["files"])
            found[job.name] = sum(bytes_to_come(job.name, file, root) for file in files)
    return found


def check(root: Path) -> None:
    """Refuse a run before its first byte if the stated sizes of its downloads exceed the user's cap together.

    Raises:
        UserError: they do, or the cap is not a size.
    """
    most = most_bytes()
    if most is None:
        return
    from ovss.plan.plan import load_plan

    wanted = sizes(load_plan(root).jobs.values(), root)
    total = sum(wanted.values())
    if total > most:
        largest = sorted(wanted.items(), key=lambda item: -item[1])[:_NAMED]
        named = ", ".join(f"{name} {size}" for name, size in largest)
        raise UserError(
            f"{MAX_DOWNLOAD}: this run would download {total} bytes, {most} are allowed (the largest: {named}); "
            "raise it, place files under data/manual, or choose fewer tables"
        )
