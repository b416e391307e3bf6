"""Files for which no hash is published: what came at the first use is written down, and must be what comes later.

``data/checksums/<archive>.yaml`` is part of the repository, so that everybody who shares it has the same bytes under
one key of the fetch job. The key does not hold it, because it appears while the run that it belongs to is at work.
Another file gets another key by stating its sha256 in datasets.yaml or weights.yaml; the lock is not looked at then.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import Field

from ovss.config.base import Strict, load_yaml
from ovss.data.places import CHECKSUMS
from ovss.data.remote import RemoteFile

_HEAD = """\
# Files without a published hash, as they were at their first use here; later copies must be the same. Commit this file.
# If another file is wanted: state its sha256 in datasets.yaml or weights.yaml, so that what was made from the old one
# is made again, and delete this file.
"""


class Known(Strict):
    """A file as it was at its first use."""

    size: Annotated[int, Field(ge=1)]
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    source: str


class Lock(Strict):
    """The whole of a lock file."""

    files: dict[str, Known]


def lock_path(archive: str) -> Path:
    """The lock file of an archive (or of a model), relative to the repository."""
    return CHECKSUMS / f"{archive}.yaml"


def expected(archive: str, file: RemoteFile) -> RemoteFile:
    """The file with the sha256 of its first use, where there was one and no hash is published.

    Raises:
        UserError: the lock file is damaged.
    """
    path = lock_path(archive)
    if file.strongest is not None or not path.is_file():
        return file
    known = load_yaml(path, Lock).files.get(file.name)
    return file if known is None else replace(file, sha256=known.sha256, lock=str(path))


def remember(archive: str, name: str, facts: Mapping[str, Any]) -> Path:
    """Write down size, sha256 and source (``url``) of a file that was checked; the lock file.

    What the file holds of the archive's other files stays.

    Raises:
        UserError: the lock file is damaged.
    """
    path = lock_path(archive)
    files = load_yaml(path, Lock).model_dump()["files"] if path.is_file() else {}
    files[name] = {"size": facts["size"], "sha256": facts["sha256"], "source": facts["url"]}
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.part-{os.getpid()}")
    text = yaml.safe_dump({"files": files}, sort_keys=True, width=1 << 16)
    temporary.write_text(_HEAD + text, encoding="utf-8")
    os.replace(temporary, path)
    return path
