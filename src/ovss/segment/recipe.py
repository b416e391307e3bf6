"""What the plan says of segmenting one's own pictures: which outputs it takes, and the settings of the paper's row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ovss.errors import UserError
from ovss.plan.job import Job

MODEL, SEGMENTER, CAPTIONS = "model", "segmenter", "captions"
INDEX, SENTENCES = "index", "sentences"


@dataclass(frozen=True)
class Recipe:
    """How a paper's main row segments a picture, at one scale.

    jobs: by name, those whose outputs are used: ``model`` (CLIP), ``segmenter`` (DINO), ``captions`` (a collection),
    ``sentences`` (Sentence-BERT) and, where the plan has one, ``index`` (of that collection). settings, protocol: as in
    the row's parameters, with sizes of this scale.
    """

    scale: str
    method: str
    captions: str
    jobs: Mapping[str, Job]
    settings: Mapping[str, Any]
    protocol: Mapping[str, Any]

    def directories(self, root: Path, names: tuple[str, ...]) -> dict[str, Path]:
        """Output directories of some of the jobs, and of the index if it is there.

        Raises:
            UserError: outputs are missing; the message has the command that makes them.
        """
        missing = [name for name in names if not (root / self.jobs[name].done).is_file()]
        if missing:
            paths = " ".join(self.jobs[name].done for name in missing)
            raise UserError(
                f"ovss segment: not made yet at scale {self.scale}: {', '.join(missing)}; make them with "
                f"'snakemake --config scale={self.scale} -- {paths}', or everything with 'make reproduce'"
            )
        found = {name: root / self.jobs[name].directory for name in names}
        if INDEX in self.jobs and (root / self.jobs[INDEX].done).is_file():
            found[INDEX] = root / self.jobs[INDEX].directory
        return found


def read_recipe(root: Path, method: str, scale: str, captions: str) -> Recipe:
    """The recipe of a method's main row at a scale.

    Raises:
        UserError: no such method, or the scale cannot run it.
    """
    if method not in METHODS:
        raise UserError(f"--method: '{method}' is not one of {', '.join(METHODS)}, which need no class list")
    from ovss.plan.project import Project
    from ovss.plan.segment import own_image_jobs

    return own_image_jobs(Project.load(root), scale, captions)


METHODS = ("tag",)
