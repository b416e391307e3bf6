"""Archives and weights that could not be fetched: one sentence each, and which of them a run goes on without.

A failed fetch writes ``data/failed/<archive>.new``. ``ovss reproduce`` runs what does not need the archive, renames the
file to ``data/failed/<archive>.txt``, and from then on the plan leaves the archive's cells empty, with that sentence as
the reason. The plan reads the ``.txt`` files alone, so that it does not change under a run that is at work. The next
``ovss reproduce`` forgets all of them and tries again.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from ovss.errors import UserError

FAILED = Path("data") / "failed"
"""Where the sentences are, relative to the project."""
_JUST_NOW, _LEFT_OUT = ".new", ".txt"
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


@contextlib.contextmanager
def noted(root: Path, archive: str) -> Iterator[None]:
    """Record why the fetch of an archive fails within; forget an earlier failure where it does not.

    A full disk is no fault of the archive: there everything fails, and nothing is recorded.

    Raises:
        UserError: what was raised within.
    """
    try:
        yield
    except UserError as error:
        if not (isinstance(error.__cause__, OSError) and error.__cause__.errno in _FULL):
            _write(root / FAILED / f"{archive}{_JUST_NOW}", _one_line(str(error), root))
        raise
    for suffix in (_JUST_NOW, _LEFT_OUT):
        (root / FAILED / f"{archive}{suffix}").unlink(missing_ok=True)


def go_on_without(root: Path) -> list[str]:
    """Leave out the archives that have failed since the last call; their names, sorted."""
    found = sorted((root / FAILED).glob(f"*{_JUST_NOW}"))
    for path in found:
        path.replace(path.with_suffix(_LEFT_OUT))
    return [path.stem for path in found]


def try_again(root: Path) -> list[str]:
    """Forget all failures; the names of the archives that the last run went on without."""
    left_out = sorted(left_out_of(root))
    for suffix in (_JUST_NOW, _LEFT_OUT):
        for path in (root / FAILED).glob(f"*{suffix}"):
            path.unlink(missing_ok=True)
    return left_out


def left_out_of(root: Path) -> dict[str, str]:
    """Why each archive is left out that the plan goes on without, by name."""
    return {path.stem: path.read_text(encoding="utf-8").strip() for path in (root / FAILED).glob(f"*{_LEFT_OUT}")}


def _one_line(text: str, root: Path) -> str:
    return " ".join(text.replace(f"{root}/", "").split()) + "\n"


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.part-{os.getpid()}")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)
