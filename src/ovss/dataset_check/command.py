"""The command: find a data set's files, read them all, say what is wrong or what is there, draw the contact sheet."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from ovss.data.labels import ignored_in
from ovss.data.layouts import Entry
from ovss.data.prepare import check_count
from ovss.dataset_check.entry import Expected, read_entry
from ovss.dataset_check.files import find_pairs, own_pairs
from ovss.dataset_check.scan import scan
from ovss.dataset_check.sheet import draw
from ovss.dataset_check.summary import summary
from ovss.errors import UserError
from ovss.plan.project import Project

SHEETS = Path("data") / "checked"
SCRATCH = Path("data") / "scratch"
EXAMPLES = 10


def main(name: str, scale: str | None, out: Path | None, root: Path) -> int:
    """Check one data set: 0 where all is right, 1 where files are wrong (they are listed).

    Args:
        name: a data set of ``datasets.yaml``.
        scale: at which generated data are looked for; None: the project's.
        out: the contact sheet; None: ``data/checked/<name>.png``.
        root: the project's folder.

    Raises:
        UserError: the entry is wrong, its files are not there, or the sheet cannot be written.
    """
    expected, sheet = read_entry(root, name), out or root / SHEETS / f"{name}.png"
    if expected.own:
        entries, lonely = own_pairs(expected, root)
        return _check(expected, entries, lonely, sheet)
    project = Project.load(root)
    (root / SCRATCH).mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix="dataset-", dir=root / SCRATCH) as scratch:
        entries = find_pairs(project, expected, scale or project.params.scale, Path(scratch))
        check_count(expected.source, expected.split, len(entries), expected.images)
        return _check(expected, entries, [], sheet)


def _check(expected: Expected, entries: Sequence[Entry], lonely: Sequence[str], sheet: Path) -> int:
    found = scan(entries, expected)
    if wrong := [*lonely, *found.wrong]:
        return _refuse(expected, wrong, len(entries) + len(lonely))
    values = np.array(sorted(found.pixels), np.int64)
    if (expected.table[values] == ignored_in(expected.table)).all():
        raw = ", ".join(map(str, values.tolist()[:5]))
        raise UserError(f"{expected.name}: every pixel is ignored (raw values: {raw}); labels does not fit the files")
    print(summary(expected, found))
    try:
        sheet.parent.mkdir(parents=True, exist_ok=True)
        draw(expected, found).save(sheet, "PNG")
    except OSError as error:
        raise UserError(f"{sheet}: cannot be written ({error.strerror or error}); give another --out") from error
    print(f"contact sheet: {sheet}")
    return 0


def _refuse(expected: Expected, wrong: Sequence[str], total: int) -> int:
    lines = [f"ovss: {expected.name}: {len(wrong)} of {total} pairs of image and label are wrong:"]
    lines += [f"  {sentence}" for sentence in wrong[:EXAMPLES]]
    if len(wrong) > EXAMPLES:
        lines.append(f"  ... and {len(wrong) - EXAMPLES} more")
    print("\n".join(lines), file=sys.stderr)
    return 1
