"""The stage that takes in a data set of one's own: its folder of images and its folder of label PNGs."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ovss.data.layouts.folders import IMAGE_SUFFIXES, LABEL_SUFFIXES, files_in
from ovss.errors import UserError
from ovss.jobs import JobContext


def run(ctx: JobContext) -> dict[str, object]:
    """Link the files below ``images`` and ``labels``: they stay where they are.

    Params: own (name), images and labels (folders), files (how many) and digest (which), as planned.

    Raises:
        UserError: a folder is not there, or its files are others than when the run was planned.
    """
    images, labels = Path(ctx.params["images"]), Path(ctx.params["labels"])
    found = state(images, labels)
    if found != {name: ctx.params[name] for name in found}:
        raise UserError(f"{images}, {labels}: files changed since the run was planned; start the same command again")
    for name, path in _files(images, labels):
        (ctx.out / name).mkdir(exist_ok=True)
        (ctx.out / name / path.name).symlink_to(path.resolve())
    return {"own": ctx.params["own"], **found}


def state(images: Path, labels: Path) -> dict[str, Any]:
    """{"files", "digest"}: how many files, and a hash of the images' names and sizes and of the labels' bytes.

    Labels are small and are redrawn in place; images are not, and may be too large to be read while planning.

    Raises:
        UserError: a folder is not there or has nothing to use.
    """
    digest, count = hashlib.sha256(), 0
    for name, path in _files(images, labels):
        what = path.stat().st_size if name == "images" else hashlib.sha256(path.read_bytes()).hexdigest()
        digest.update(f"{name}/{path.name} {what}\n".encode())
        count += 1
    return {"files": count, "digest": digest.hexdigest()}


def _files(images: Path, labels: Path) -> Iterator[tuple[str, Path]]:
    for name, folder, suffixes in (("images", images, IMAGE_SUFFIXES), ("labels", labels, LABEL_SUFFIXES)):
        yield from ((name, path) for path in files_in(folder, suffixes).values())
