"""``ovss diff``: the published results of two commits, cell by cell, with intervals that know noise."""

from __future__ import annotations

from pathlib import Path

from ovss.diff.compare import compare
from ovss.diff.results import read_side
from ovss.diff.text import report

__all__ = ["main"]


def main(repo: Path, rev_a: str, rev_b: str | None, scale: str) -> str:
    """Compare results/<scale>/ at ``rev_a`` with ``rev_b`` (None: the working tree) and say what differs and why.

    Where the row directories behind both numbers are under work/, a paired bootstrap over images says whether their
    difference is noise, and their origins say which parts of the key differ.

    Raises:
        UserError: not a repository, an unknown revision, or no results of that scale at one of them.
    """
    before, after = read_side(repo, rev_a, scale), read_side(repo, rev_b, scale)
    return report(scale, before, after, compare(repo, before, after))
