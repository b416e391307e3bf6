"""The stage that brings an archive's files in: downloaded, placed by hand, of a package, or of the generated world."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from ovss.data import archives, first_use
from ovss.data.download import download, part_name
from ovss.data.places import PARTIAL, manual_path
from ovss.data.remote import RemoteFile, copy, place, verify
from ovss.data.transfer import Partial
from ovss.data.user_limits import Budget, most_bytes
from ovss.errors import UserError
from ovss.jobs import JobContext

_WORLD, _PACKAGE = "world://", "package://"
_ARCHIVES = (".tar", ".tar.gz", ".tgz", ".zip", ".deb")


def run(ctx: JobContext) -> dict[str, object]:
    """Fetch the files of one archive.

    Params: archive (name), files (entries of datasets.yaml: name, url, mirrors, size, hashes).
    Inputs: ``world`` where an address starts with ``world://``. An address ``package://NAME/PATH`` is a file of the
    installed Python package NAME.
    Output: the files under their names. A file at ``data/manual/<archive>/<name>`` is verified and used as it is. What
    no hash is published of must be what it was at its first use (``ovss.data.first_use``).

    Returns:
        {"archive", "files": {name: {"size", "sha256", "verified_by", "url"}}}.

    Raises:
        UserError: a file cannot be had or is not the expected one, or more would be downloaded than the user allows.
    """
    archive = str(ctx.params["archive"])
    files = [first_use.expected(archive, RemoteFile.of(entry)) for entry in ctx.params["files"]]
    budget = Budget(most_bytes())
    budget.need(archive, sum(bytes_to_come(archive, file) for file in files))
    facts: dict[str, Any] = {}
    for file in files:
        if file.urls and file.urls[0].startswith(_WORLD):
            facts[file.name] = _from_world(file, ctx.inputs, ctx.out)
        elif file.urls and file.urls[0].startswith(_PACKAGE):
            facts[file.name] = _from_package(file, ctx.out)
        else:
            facts[file.name] = _from_outside(file, archive, ctx.out, budget)
    return {"archive": archive, "files": facts}


def bytes_to_come(archive: str, file: RemoteFile, root: Path = Path()) -> int:
    """Bytes of a file that will be downloaded; 0 where its size is not stated, or a person has placed it."""
    on_network = any(url.startswith("http") for url in file.urls)
    if not on_network or (root / manual_path(archive, file.name)).is_file():
        return 0
    return max(0, (file.size or 0) - Partial(root / PARTIAL / archive / part_name(file)).size)


def _from_outside(file: RemoteFile, archive: str, out: Path, budget: Budget) -> dict[str, Any]:
    by_hand = manual_path(archive, file.name)
    if by_hand.is_file():
        facts = {**verify(by_hand, file), "url": "placed by hand"}
        place(by_hand, out / file.name)
    elif not file.urls:
        raise UserError(f"{by_hand}: this file has to be placed by hand; 'make plan' says where it is to be had")
    else:
        hint = f"place the file at {by_hand} (it is published at {file.urls[0]})"
        facts = download(file, out, partial=PARTIAL / archive, hint=hint, budget=budget)
    if file.strongest is None:
        if file.name.endswith(_ARCHIVES):
            archives.check(out / file.name)
        lock = first_use.remember(archive, file.name, facts)
        print(f"{file.name}: no hash is published; its sha256 {facts['sha256']} is kept in {lock}", file=sys.stderr)
    return facts


def _from_world(file: RemoteFile, inputs: Mapping[str, Path], out: Path) -> dict[str, Any]:
    """Take a file of the generated world and check it against the world's manifest."""
    if "world" not in inputs:
        raise UserError(f"{file.name}: a world:// address needs the world job among the inputs")
    name = file.urls[0].removeprefix(_WORLD)
    manifest = inputs["world"] / "manifest.json"
    try:
        known = json.loads(manifest.read_text(encoding="utf-8"))[name]
        stated = RemoteFile(file.name, size=known["size"], sha256=known["sha256"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{manifest}: no entry for {name} ({type(error).__name__}); make the world again") from error
    source = inputs["world"] / "archives" / name
    facts = verify(source, stated)
    place(source, out / file.name)
    return {**facts, "url": file.urls[0]}


def _from_package(file: RemoteFile, out: Path) -> dict[str, Any]:
    """Copy a file that an installed distribution lists as its own, and check it against the hash that is stated."""
    address = file.urls[0].removeprefix(_PACKAGE)
    package = address.partition("/")[0]
    if file.sha256 is None:
        raise UserError(f"{file.name}: a package:// address needs a sha256; state it beside the address")
    try:
        listed = metadata.distribution(package).files or []
    except metadata.PackageNotFoundError:
        raise UserError(
            f"{file.name}: comes with the Python package {package}, which is not installed; run 'make setup'"
        ) from None
    found = next((entry for entry in listed if entry.as_posix() == address), None)
    if found is None:
        raise UserError(f"{file.name}: the Python package {package} has no file {address}; mend the address")
    source = Path(str(found.locate()))
    facts = verify(source, file)
    # A copy, no second name: a later change of the installed package must not reach the output.
    copy(source, out / file.name)
    return {**facts, "url": file.urls[0]}
