"""Versions of the locked packages, for keys."""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path

from ovss.errors import UserError

_PIN = re.compile(r"^([A-Za-z0-9._-]+)==([^\s;\\]+)", re.MULTILINE)


def locked_versions(lock_file: Path) -> dict[str, str]:
    """Version by package name; a package pinned differently per Python version has all of them, joined by '|'.

    The key must not depend on the machine, so the markers are not evaluated.

    Raises:
        UserError: the lock file is missing or pins nothing.
    """
    try:
        pins = _PIN.findall(lock_file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{lock_file}: cannot be read ({error}); restore it from Git") from error
    if not pins:
        raise UserError(f"{lock_file}: pins no package; restore it from Git or run 'make lock'")
    versions: dict[str, set[str]] = defaultdict(set)
    for name, version in pins:
        versions[re.sub(r"[._]", "-", name.lower())].add(version)
    return {name: "|".join(sorted(found)) for name, found in versions.items()}
