"""Jobs that bring a data set in: world, fetch, prepare; and the class names it is asked for with."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from ovss.config.datasets import fetch_params, prepare_params, uses_world
from ovss.config.files import DownloadedFile
from ovss.config.params import Scale
from ovss.errors import UserError
from ovss.plan.job import Job
from ovss.plan.project import Project

MANUAL = "data/manual"


CAPTIONS = "tiny_captions"
"""The world's caption files, laid out like CC3M's and CC12M's."""


def world_job(project: Project, scale: Scale, archive: str) -> Job:
    """The job that generates one archive of the tiny world, with the label values that datasets.yaml gives it.

    Raises:
        UserError: the scale has no world, or the world no such archive.
    """
    if (texts := scale.world_texts.get(archive)) is not None:
        return project.job("world_texts", archive, texts.model_dump(mode="json"), {})
    world = scale.world
    if world is None or (archive not in world.data and archive != CAPTIONS):
        known = ", ".join(world.data) if world else "no world at this scale"
        raise UserError(f"params.yaml: world.data: there is no '{archive}' (there are: {known})")
    params = world.model_dump(mode="json")
    if archive == CAPTIONS:
        return project.job("world", archive, params | {"data": {}}, {})
    sources = project.datasets.sources.values()
    values = next((s.world_values for s in sources if archive in s.archives and s.world_values), {})
    drawn = world.data[archive].model_dump(mode="json") | {"values": dict(values)}
    return project.job("world", archive, params | {"data": {archive: drawn}, "cc3m": 0, "cc12m": 0}, {})


def fetch_job(project: Project, scale: Scale, archive: str) -> Job | str:
    """The job that downloads and verifies an archive, or why it cannot run (a file has to be placed by hand)."""
    entry = project.datasets.archives[archive]
    if archive in project.datasets.own:
        return own_job(project, archive)
    if not entry.files:
        return folder_job(project, archive)
    absent = absent_files(project, archive, entry.files, entry.login, entry.manual)
    if absent is not None and not project.placed:
        return absent.why
    inputs = {"world": world_job(project, scale, entry.world or archive)} if uses_world(entry) else {}
    return project.job("fetch", archive, fetch_params(project.datasets, archive) | marked(absent), inputs)


def folder_job(project: Project, archive: str) -> Job | str:
    """The job that takes in a folder that a person fills, or where it has to be.

    Its files are known by name and size: they are too many and too large to be read while planning.
    """
    folder = project.root / MANUAL / archive
    files = [[path.name, path.stat().st_size] for path in sorted(folder.glob("*")) if path.is_file()]
    absent = None if files else Absent((f"{MANUAL}/{archive}",), project.datasets.archives[archive].manual)
    if absent is not None and not project.placed:
        return absent.why
    return project.job("by_hand", archive, {"archive": archive, "files": files} | marked(absent), {})


def own_job(project: Project, name: str) -> Job | str:
    """The job that takes in the folders of a data set of one's own, or what is missing."""
    from ovss.data.own_folders import state

    entry = project.datasets.own[name]
    try:
        found = state(project.root / entry.images, project.root / entry.masks)
    except UserError as error:
        if not project.placed:
            return f"data to be placed by hand: {error}".replace(f"{project.root}/", "")
        found = marked(Absent((entry.images, entry.masks), None))
    params = {"own": name, "images": entry.images, "labels": entry.masks, **found}
    return project.job("own_folders", name, params, {})


@dataclass(frozen=True)
class Absent:
    """Files that are not there. paths: where they belong, relative to the project. manual: what a person has to do.

    failure: why they could not be fetched, where that was tried.
    """

    paths: tuple[str, ...]
    manual: str | None
    failure: str | None = None

    @property
    def why(self) -> str:
        """Why what needs them cannot run."""
        if self.failure is not None:
            return f"could not be fetched: {self.failure} ('make reproduce' tries again)"
        return f"data to be placed by hand: {', '.join(self.paths)}" + (f" ({self.manual})" if self.manual else "")


def marked(absent: Absent | None) -> dict[str, Any]:
    """What a job's parameters hold of files that are only taken to be there (``Project.placed``)."""
    return {} if absent is None else {"to_place": list(absent.paths)}


def absent_files(
    project: Project, name: str, files: Iterable[DownloadedFile], login: bool, manual: str | None
) -> Absent | None:
    """Files of an archive or a model that a person has to place, or that the last run could not fetch; None: none."""
    failure = project.left_out.get(name)
    wanted = [file for file in files if failure is not None or login or file.url is None]
    paths = [f"{MANUAL}/{name}/{file.name}" for file in wanted]
    absent = paths if failure is not None else [path for path in paths if not (project.root / path).is_file()]
    return Absent(tuple(absent), manual, failure) if absent else None


def source_job(project: Project, scale: Scale, source: str) -> Job | str:
    """The job that extracts and converts one split, or why it cannot run."""
    inputs: dict[str, Job] = {}
    for archive in project.datasets.sources[source].archives:
        job = fetch_job(project, scale, archive)
        if isinstance(job, str):
            return job
        inputs[archive] = job
    layout = project.datasets.sources[source].layout
    params = prepare_params(project.datasets, source)
    return project.job("prepare", source, params, inputs, modules=(f"ovss.data.layouts.{layout}",))


def texts_job(project: Project, scale: Scale, name: str) -> Job | str:
    """The job that extracts and converts one split of images with texts, or why it cannot run."""
    source = project.datasets.text_sources[name]
    inputs: dict[str, Job] = {}
    for archive in source.archives:
        job = fetch_job(project, scale, archive)
        if isinstance(job, str):
            return job
        inputs[archive] = job
    modules = (f"ovss.data.text_layouts.{source.layout}",)
    return project.job("prepare_texts", name, source.params(name), inputs, modules=modules)


def class_queries(project: Project, dataset: str, naming: str) -> list[list[str]]:
    """Query words of each class under a naming (several for a class with synonyms or background words)."""
    from ovss.data.class_names import read_class_names

    entry = project.datasets.datasets[dataset]
    listed = entry.class_file(naming)
    if not isinstance(listed, str):
        return [[name.strip() for name in line.split(",")] for line in listed]
    known: dict[str, Any] = dict(project.datasets.namings)
    separator = known[naming].separator if naming in known else ", "
    return read_class_names(listed, separator)
