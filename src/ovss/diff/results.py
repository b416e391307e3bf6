"""The published results of one commit or of the working tree, and how their tables are defined there."""

from __future__ import annotations

import csv
import json
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from ovss.errors import UserError

_FIELDS = ("row", "column", "ours", "key")


@dataclass(frozen=True)
class Cell:
    """An own number (None: the cell is empty) and the keys of the row directories it comes from."""

    ours: float | None
    keys: tuple[str, ...]


Cells = Mapping[tuple[str, str], Cell]


@dataclass(frozen=True)
class Side:
    """Cells of every table by "paper/table" and (row, column); ``read`` gives a file's text there, None if absent."""

    name: str
    scale: str
    tables: Mapping[str, Cells]
    read: Callable[[str], str | None]

    def paper(self, table: str) -> Mapping[str, Any]:
        """The paper's file papers/<paper>.yaml, {} where there is none."""
        return self._yaml(f"papers/{table.partition('/')[0]}.yaml")

    def definition(self, table: str) -> Mapping[str, Any]:
        """The table's entry in its paper's file, {} where there is none."""
        found = (self.paper(table).get("tables") or {}).get(table.partition("/")[2])
        return found if isinstance(found, dict) else {}

    def params(self) -> Mapping[str, Any]:
        """The file params.yaml, {} where there is none."""
        return self._yaml("params.yaml")

    def claims(self) -> dict[str, str]:
        """Verdict of every published claim, by "paper/claim"."""
        verdicts = {}
        for paper in sorted({table.partition("/")[0] for table in self.tables}):
            path = f"results/{self.scale}/{paper}/claims.json"
            try:
                for claim in json.loads(self.read(path) or "{}").get("claims", ()):
                    verdicts[f"{paper}/{claim['id']}"] = str(claim["verdict"])
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise UserError(f"{self.name}: {path} is not a claims file ({error})") from error
        return verdicts

    def _yaml(self, path: str) -> Mapping[str, Any]:
        try:
            value = yaml.safe_load(self.read(path) or "")
        except yaml.YAMLError as error:
            raise UserError(f"{self.name}: {path} is not YAML ({error})") from error
        return value if isinstance(value, dict) else {}


def read_side(repo: Path, revision: str | None, scale: str) -> Side:
    """Tables under results/<scale>/ at a revision, or in the working tree if it is None.

    Raises:
        UserError: unknown revision, no tables there, or a damaged file.
    """
    folder = f"results/{scale}"
    if revision is None:
        name, read = "working tree", _working_reader(repo)
        paths = [path.relative_to(repo).as_posix() for path in (repo / folder).rglob("*.csv")]
    else:
        commit = _commit(repo, revision)
        name, read = f"{revision} ({commit[:9]})", _commit_reader(repo, commit)
        listed = _git(repo, "ls-tree", "-r", "-z", "--name-only", "--full-tree", commit, "--", f"{folder}/")
        paths = [path for path in (listed or "").split("\0") if path.endswith(".csv")]
    tables = {}
    for path in sorted(paths):
        if (cells := _cells(read(path) or "", f"{name}: {path}")) is not None:
            tables[PurePosixPath(path).relative_to(folder).with_suffix("").as_posix()] = cells
    if not tables:
        raise UserError(f"{name}: no tables under {folder}/; run 'make reproduce' there or name another scale")
    return Side(name, scale, tables, cache(read))


def _commit(repo: Path, revision: str) -> str:
    if _git(repo, "rev-parse", "--git-dir") is None:
        raise UserError(f"{repo}: not a Git repository, so it has no revision {revision!r}")
    known = None
    if not revision.startswith("-"):
        known = _git(repo, "rev-parse", "--verify", "--quiet", f"{revision}^{{commit}}")
    if known is None:
        raise UserError(
            f"{revision!r} is not a commit, branch or tag of this repository; 'git log --oneline' lists some"
        )
    return known.strip()


def _git(repo: Path, *arguments: str) -> str | None:
    """Output of a git command, None where it fails."""
    try:
        done = subprocess.run(["git", "-C", str(repo), *arguments], capture_output=True, check=False)
    except FileNotFoundError as error:
        raise UserError("git is not installed: revisions cannot be read") from error
    return None if done.returncode else done.stdout.decode("utf-8")


def _commit_reader(repo: Path, commit: str) -> Callable[[str], str | None]:
    return lambda path: _git(repo, "show", f"{commit}:{path}")


def _working_reader(repo: Path) -> Callable[[str], str | None]:
    return lambda path: (repo / path).read_text(encoding="utf-8") if (repo / path).is_file() else None


def _cells(text: str, where: str) -> Cells | None:
    """Cells of a table's CSV file; None for a CSV file that is something else."""
    reader = csv.DictReader(text.splitlines())
    if not set(_FIELDS) <= set(reader.fieldnames or ()):
        return None
    cells = {}
    for line in reader:
        ours, key = line["ours"] or "", line["key"] or ""
        try:
            value = float(ours) if ours else None
        except ValueError as error:
            raise UserError(f"{where}, line {reader.line_num}: {ours!r} is not a number") from error
        cells[line["row"], line["column"]] = Cell(value, tuple(key.split(";")) if key else ())
    return cells
