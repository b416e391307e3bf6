"""How a row segments one's own pictures: which outputs it takes, and its settings and protocol at a scale."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ovss.plan.job import Job

MODEL, SEGMENTER, CAPTIONS = "model", "segmenter", "captions"
INDEX, SENTENCES = "index", "sentences"


@dataclass(frozen=True)
class Named:
    """A row of a paper: ``paper.table.row``, the short name it has (or None), and its words for people."""

    paper: str
    table: str
    row: str
    method: str
    title: str = ""
    paper_title: str = ""
    name: str | None = None

    def __str__(self) -> str:
        """``paper.table.row``."""
        return f"{self.paper}.{self.table}.{self.row}"


@dataclass(frozen=True)
class Words:
    """A row that finds its own words in captions (TAG).

    jobs: by name, those whose outputs are used: ``model`` (CLIP), ``segmenter`` (DINO), ``captions`` (a collection),
    ``sentences`` (Sentence-BERT) and, where the plan has one, ``index`` (of that collection). settings, protocol: as in
    the row's parameters, with sizes of this scale. classes: names of which each word gets the nearest, or none.
    """

    scale: str
    row: Named
    captions: str
    jobs: Mapping[str, Job]
    settings: Mapping[str, Any]
    protocol: Mapping[str, Any]
    classes: Sequence[str] = ()


@dataclass(frozen=True)
class Asked:
    """The classes that a user wants: names of each class, a column of params.yaml or a data set, both or neither."""

    classes: Sequence[Sequence[str]] | None = None
    dataset: str | None = None
    origin: str = "--classes"


@dataclass(frozen=True)
class Maps:
    """A row that gives each pixel one of some classes.

    jobs: inputs of the stage evaluate by name, without the images: ``model``, ``text``, ``descriptions``,
    ``companion_<name>``. params: those of the stage. classes: names of each class, in class order; class 0 is the
    background where ``params["dataset"]["background"]`` says so. facts: for the record, whose classes and settings
    these are. notes: what a user should know before anything is made.
    """

    scale: str
    row: Named
    jobs: Mapping[str, Job]
    params: Mapping[str, Any]
    classes: Sequence[Sequence[str]]
    facts: Mapping[str, Any]
    notes: Sequence[str] = ()

    @property
    def background(self) -> bool:
        """Whether class 0 is "none of the others"."""
        return bool(self.params["dataset"]["background"])
