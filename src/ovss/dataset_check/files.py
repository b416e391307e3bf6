"""Where a data set's images and labels are: one's own folders, a prepared source, or archives that are there."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from ovss.config.datasets import uses_world
from ovss.config.params import SCALES
from ovss.data import layouts
from ovss.data.images import read_index
from ovss.data.layouts import Entry, folders
from ovss.data.places import MANUAL
from ovss.data.remote import RemoteFile, verify
from ovss.dataset_check.entry import FILE, OWN, Expected
from ovss.errors import UserError
from ovss.plan.data import source_job
from ovss.plan.job import Job
from ovss.plan.project import Project


def own_pairs(expected: Expected, root: Path) -> tuple[list[Entry], list[str]]:
    """Images and labels of a data set of one's own by name, and a sentence for each that has no partner.

    Raises:
        UserError: a folder is not there or has nothing to use.
    """
    entry = expected.own
    assert entry is not None
    images = _listed(expected, root, "images", entry.images, folders.IMAGE_SUFFIXES)
    labels = _listed(expected, root, "masks", entry.masks, folders.LABEL_SUFFIXES)
    lonely = [f"{images[item]}: there is no label {item}.png in {entry.masks}" for item in images.keys() - labels]
    lonely += [f"{labels[item]}: there is no image {item}.* in {entry.images}" for item in labels.keys() - images]
    return [Entry(item, images[item], labels[item]) for item in sorted(images.keys() & labels)], sorted(lonely)


def _listed(expected: Expected, root: Path, key: str, folder: str, suffixes: Sequence[str]) -> dict[str, Path]:
    try:
        return folders.files_in(root / folder, suffixes)
    except UserError as error:
        raise UserError(f"{FILE}: {OWN}.{expected.name}.{key}: {error}") from None


def find_pairs(project: Project, expected: Expected, scale: str, scratch: Path) -> list[Entry]:
    """Images and labels of a downloaded data set, unpacked into ``scratch`` where it is not prepared yet.

    Raises:
        UserError: a file has to be placed, or something has to be made first (the message has the command).
    """
    job = source_job(project, project.params.at(scale), expected.source)
    if isinstance(job, str):
        raise UserError(f"{expected.name}: {job}")
    if (project.root / job.done).is_file():
        at = project.root / job.directory
        return [Entry(row["id"], at / row["image"], at / row["label"]) for row in read_index(at)]
    files = {name: _archive(project, name, fetch) for name, fetch in job.inputs.items()}
    if missing := [name for name, found in files.items() if not found]:
        advice = _advice(project, job, missing, scale)
        raise UserError(f"{expected.name}: not there yet: {', '.join(missing)}; {advice}")
    print(f"{expected.name}: not prepared yet; unpacking its archives into {scratch}", file=sys.stderr)
    source = project.datasets.sources[expected.source]
    every = {file: path for found in files.values() for file, path in found.items()}
    return sorted(layouts.load(source.layout)(every, source.split, scratch))


def _archive(project: Project, name: str, fetch: Job) -> Mapping[str, Path]:
    """Files of an archive by name: fetched, or placed by hand and verified; none where some are missing."""
    if (project.root / fetch.done).is_file():
        return {path.name: path for path in sorted((project.root / fetch.directory).iterdir())}
    wanted = {file.name: file for file in project.datasets.archives[name].files}
    placed = {file: project.root / MANUAL / name / file for file in wanted}
    if not placed or not all(path.is_file() for path in placed.values()):
        return {}
    for file, path in placed.items():
        verify(path, RemoteFile.of(wanted[file].model_dump(mode="json")))
    return placed


def _advice(project: Project, job: Job, missing: Sequence[str], scale: str) -> str:
    """The command that makes a prepared source, and where its files can be placed instead."""
    generated = any(uses_world(project.datasets.archives[name]) for name in missing)
    offered = (scale,) if generated else (scale, *SCALES)
    scales = [name for name in offered if job.params["source"] in _sources(project, name)]
    make = f"make it with 'snakemake --config scale={scales[0]} -- {job.done}'" if scales else ""
    files = [f"{MANUAL / name / file.name} ({file.url})" for name in missing
             for file in project.datasets.archives[name].files
             if file.url and not file.url.startswith("world://")]  # fmt: skip
    place = f"place by hand: {', '.join(files)}" if files else ""
    return " or ".join(filter(None, (make, place))) or f"no column of params.yaml at scale {scale} uses it; add one"


def _sources(project: Project, scale: str) -> set[str]:
    """Sources of the columns of a scale: what its plan prepares."""
    known = project.datasets.datasets
    return {known[name].source for name in project.params.at(scale).columns.values() if name in known}
