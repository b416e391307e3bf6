"""Outputs of the plan that segmenting takes: found, or made on first use where that means no more than a download."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ovss import runner
from ovss.data.places import manual_path
from ovss.data.user_limits import OFFLINE, offline
from ovss.errors import UserError
from ovss.plan.job import Job
from ovss.plan.project import Project

ON_USE = ("fetch", "weights", "text")
"""Stages that run here: they download, convert and encode class names. All others are for ``snakemake``."""


@dataclass(frozen=True)
class Download:
    """A file from the network; ``size``: how large it is, in words."""

    archive: str
    name: str
    url: str
    size: str


@dataclass(frozen=True)
class Outputs:
    """Outputs of a scale in a project's folder; ``sizes``: of files to download in words, by (archive, name)."""

    root: Path
    scale: str
    seed: int
    sizes: Mapping[tuple[str, str], str] = field(default_factory=dict)

    @classmethod
    def of(cls, project: Project, scale: str) -> Outputs:
        """Outputs of a project, with the sizes that its configuration states; of models at least their parameters."""
        sizes = {(name, file.name): _megabytes(file.bytes)
                 for name, archive in project.datasets.archives.items() for file in archive.files}  # fmt: skip
        for name, model in project.weights.weights.items():
            rough = f"{model.parameters / 1e6:,.0f} million parameters" if model.parameters else ""
            sizes |= {(name, file.name): _megabytes(file.bytes) or rough for file in model.files}
        return cls(project.root, scale, project.params.seed, sizes)

    def there(self, job: Job) -> bool:
        """Whether an output is complete."""
        return (self.root / job.done).is_file()

    def missing(self, jobs: Iterable[Job]) -> list[Job]:
        """What has to be made for some outputs, inputs first; what an output was made from is of no interest."""
        found: dict[str, Job] = {}

        def visit(job: Job) -> None:
            if not self.there(job) and job.directory not in found:
                for other in job.inputs.values():
                    visit(other)
                found[job.directory] = job

        for job in jobs:
            visit(job)
        return list(found.values())

    def elsewhere(self, jobs: Mapping[str, Job]) -> dict[str, Job]:
        """By name, what ``snakemake`` has to make: outputs themselves, or the models that encode their texts."""
        found: dict[str, Job] = {}
        for name, job in jobs.items():
            far = [each for each in self.missing([job]) if each.stage not in ON_USE]
            if far and far[-1] not in found.values():
                found[name] = far[-1]
        return found

    def provide(self, jobs: Mapping[str, Job]) -> dict[str, Path]:
        """Directories of outputs by name; downloads, conversions and texts are made if they are missing.

        Raises:
            UserError: an output needs a training or captions (the message has the command), a file has to be placed by
                hand, or a download fails.
        """
        if far := self.elsewhere(jobs):
            paths = " ".join(job.done for job in far.values())
            raise UserError(
                f"ovss segment: not made yet at scale {self.scale}: {', '.join(far)}; make them with "
                f"'snakemake --config scale={self.scale} -- {paths}', or everything with 'make reproduce'"
            )
        todo = self.missing(jobs.values())
        self._announce(todo)
        with contextlib.chdir(self.root):
            for job in todo:
                runner.run_jobs([job], self.root, self.seed)
        return {name: self.root / job.directory for name, job in jobs.items()}

    def downloads(self, jobs: Iterable[Job]) -> list[Download]:
        """Files that fetch jobs get from the network."""
        fetches = [job for job in jobs if job.stage == "fetch"]
        asked = ((str(job.params["archive"]), file) for job in fetches for file in job.params["files"])
        return [
            Download(archive, file["name"], file["url"], self.sizes.get((archive, file["name"])) or "size not known")
            for archive, file in asked
            if str(file.get("url")).startswith("http")
            and not (self.root / manual_path(archive, file["name"])).is_file()
        ]

    def _announce(self, todo: Iterable[Job]) -> None:
        """Say what will be downloaded; refuse where no network is allowed."""
        wanted = self.downloads(todo)
        if wanted and offline():
            places = "; ".join(f"{manual_path(file.archive, file.name)} ({file.url})" for file in wanted)
            raise UserError(f"{OFFLINE} is set, and files have to be downloaded; place them by hand: {places}")
        for file in wanted:
            print(f"ovss segment: downloads {file.name} of {file.archive} ({file.size}), once", file=sys.stderr)


def _megabytes(size: int | None) -> str:
    if size is None:
        return ""
    return f"{size / 1e6:,.0f} MB" if size >= 1e6 else f"{size / 1e3:,.0f} kB"
