"""What a plan takes of the disk: downloads, and what is made of them, estimated by one formula a kind of output."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ovss.config.files import DownloadedFile
from ovss.plan.assumed import SIZES
from ovss.plan.cost import Costs, segments_of
from ovss.plan.job import Job
from ovss.plan.networks import Unknown, joint_of
from ovss.plan.project import Project


@dataclass(frozen=True)
class Download:
    """One archive or model to download. known: bytes of the files of known size; rough: whether one is only about so
    large. unknown: files of unknown size. there: whether it has been fetched; placed: files that lie in data/manual."""

    name: str
    title: str
    known: int
    rough: bool
    unknown: tuple[str, ...]
    there: bool
    placed: tuple[str, ...] = ()


def downloads(project: Project, jobs: Iterable[Job]) -> list[Download]:
    """What the fetch jobs of a plan bring from outside, largest first."""
    found = []
    for job in jobs:
        entry = project.datasets.archives.get(job.name) or project.weights.weights.get(job.name)
        if job.stage != "fetch" or entry is None:
            continue
        files: list[DownloadedFile] = [file for file in entry.files if not _inside(file)]
        if not files:
            continue
        placed = tuple(file.name for file in files if (project.root / "data/manual" / job.name / file.name).is_file())
        sizes = [file.bytes or 0 for file in files]
        rough = any(file.size is None and file.about is not None for file in files)
        unknown = tuple(file.name for file in files if file.bytes is None)
        there = (project.root / job.done).is_file()
        found.append(Download(job.name, entry.title, sum(sizes), rough, unknown, there, placed))
    return sorted(found, key=lambda each: (-each.known, each.name))


def _inside(file: DownloadedFile) -> bool:
    """Whether a file comes with the world or an installed package."""
    return (file.url or "").startswith(("world://", "package://"))


def made(project: Project, costs: Costs, job: Job) -> float | None:
    """Bytes that a job writes beside downloads; None: nothing is known to estimate with; 0: too little to count."""
    try:
        return _made(project, costs, job)
    except (Unknown, KeyError):
        return None


def _made(project: Project, costs: Costs, job: Job) -> float:
    if job.stage == "prepare":
        entry = project.datasets.sources[job.name]
        if entry.images is None:
            raise Unknown(job.name)
        return entry.images * SIZES.of_layout.get(entry.layout, SIZES.image)
    if job.stage == "prepare_texts":
        expected = project.datasets.text_sources[job.name].expected
        images = expected.get("images") or expected.get("texts")
        if images is None:
            raise Unknown(job.name)
        return images * SIZES.image
    if job.stage == "weights":
        return 0.0 if job.inputs["file"].name not in project.weights.weights else _weights(project, job.name)
    if job.stage == "captions":
        return costs.rows(job.params["collection"]) * (SIZES.caption + SIZES.number * joint_of(job.inputs["model"]))
    if job.stage == "index":
        captions = job.inputs["captions"]
        return costs.rows(captions.params["collection"]) * SIZES.index * joint_of(captions.inputs["model"])
    if job.stage in ("clusters", "evaluate", "label"):
        return costs.images(job)[0] * (SIZES.map if job.stage == "clusters" else SIZES.counts)
    if job.stage == "segments":
        vectors = segments_of(costs, job) * SIZES.wide * joint_of(job.inputs["model"])
        return costs.images(job)[0] * SIZES.map + vectors
    if job.stage == "retrieve":
        return segments_of(costs, job.inputs["segments"]) * SIZES.neighbours
    return 0.0


def _weights(project: Project, name: str) -> float:
    """Of a converted model: the files again, float16 as they came."""
    sizes = [file.bytes for file in project.weights.weights[name].files]
    known = [size for size in sizes if size is not None]
    if not known:
        raise Unknown(name)
    return float(sum(known))
