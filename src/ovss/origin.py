"""Where an output comes from: ``origin.json`` beside every job's files, and the check that nobody edited either."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ovss.errors import UserError

FILE = "origin.json"


@dataclass(frozen=True)
class Origin:
    """Provenance of one output: key and its parts, commit, seed, device, cost, sha256 of every file."""

    record: Mapping[str, Any]

    @property
    def key(self) -> str:
        """Content key of the output."""
        return str(self.record["key"])

    @property
    def files(self) -> Mapping[str, str]:
        """sha256 by path relative to the output directory."""
        return self.record["files"]


def sha256(path: Path) -> str:
    """sha256 of a file, read in blocks."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _seal(record: Mapping[str, Any]) -> str:
    body = {name: value for name, value in record.items() if name != "seal"}
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def hash_files(directory: Path) -> dict[str, str]:
    """sha256 of every file below a directory (``origin.json`` left out), in sorted order."""
    files = sorted(path for path in directory.rglob("*") if path.is_file() and path != directory / FILE)
    return {path.relative_to(directory).as_posix(): sha256(path) for path in files}


def write(directory: Path, record: Mapping[str, Any]) -> Origin:
    """Hash every file of an output and write its sealed ``origin.json``."""
    full = {**record, "files": hash_files(directory)}
    full["seal"] = _seal(full)
    (directory / FILE).write_text(json.dumps(full, sort_keys=True, indent=1) + "\n", encoding="utf-8")
    return Origin(full)


def read(directory: Path) -> Origin:
    """Read an output's origin.

    Raises:
        UserError: it is missing, was edited, or belongs to another output.
    """
    path = directory / FILE
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        sealed = record["seal"] == _seal(record) and isinstance(record["files"], dict)
    except FileNotFoundError:
        raise UserError(
            f"{path}: missing, so nothing says how this output was made; delete the folder and rerun"
        ) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: not an origin record ({error}); run 'ovss verify --repair'") from error
    if not sealed:
        raise UserError(f"{path}: was edited after the job wrote it; run 'ovss verify --repair'")
    if record["key"] != directory.name.rpartition(".")[2]:
        raise UserError(f"{path}: belongs to key {record['key']}, not to this folder; run 'ovss verify --repair'")
    return Origin(record)


def problems(directory: Path) -> Iterator[str]:
    """One sentence for every file of an output that is missing, added or not what the job wrote."""
    try:
        origin = read(directory)
    except UserError as error:
        yield str(error)
        return
    found = hash_files(directory)
    for name in sorted(found.keys() | origin.files.keys()):
        if name not in found:
            yield f"{directory / name}: missing"
        elif name not in origin.files:
            yield f"{directory / name}: was not written by the job"
        elif found[name] != origin.files[name]:
            yield f"{directory / name}: its bytes are not those that the job wrote"


def check(directory: Path) -> Origin:
    """Read an output's origin and compare every file with it.

    Raises:
        UserError: names the first file that is missing, added or changed.
    """
    for problem in problems(directory):
        raise UserError(f"{problem}; run 'ovss verify --repair'" if "ovss verify" not in problem else problem)
    return read(directory)
