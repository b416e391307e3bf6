"""What ``datasets.yaml`` says of a data set, whether it is downloaded or one's own, in one form."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy.typing as npt

from ovss.config.base import read_yaml, validate
from ovss.config.datasets import Datasets
from ovss.config.own import OwnDataset, OwnSection
from ovss.data.class_names import read_class_names
from ovss.data.labels import lookup_table
from ovss.errors import UserError

FILE = "datasets.yaml"
OWN = "own"


@dataclass(frozen=True)
class Expected:
    """A data set as it is described.

    table: raw value -> class (``ovss.data.labels.lookup_table``). allowed: raw values that may occur, None: all.
    images: how many there must be, None: not said. own: its entry, where it is one's own; source: its source, else.
    """

    name: str
    title: str
    classes: list[str]
    background: bool
    table: npt.NDArray[Any]
    allowed: tuple[int, ...] | None
    split: str
    images: int | None = None
    source: str = ""
    own: OwnDataset | None = None


def read_entry(root: Path, name: str) -> Expected:
    """Read a data set's entry and check it.

    Raises:
        UserError: there is no such data set, or the first thing that is wrong with its entry.
    """
    data = read_yaml(root / FILE)
    if not isinstance(data, dict):
        raise UserError(f"{FILE}: this is no list of sections; restore it with 'git checkout -- {FILE}'")
    own: Any = data.pop(OWN, None) or {}
    if not isinstance(own, dict) or name in own:
        section = validate({OWN: {name: own[name]} if isinstance(own, dict) else own}, OwnSection, FILE)
        return _own(name, section.own[name], data)
    config = validate(data, Datasets, FILE)
    if name in config.datasets:
        return of_section_datasets(config, name)
    if name in config.text_sources:
        raise UserError(f"{FILE}: '{name}' is of images with texts; 'ovss dataset check' is for images with labels")
    known = sorted([*config.datasets, *own])
    near = difflib.get_close_matches(name, known, n=1)
    hint = f" (did you mean '{near[0]}'?)" if near else ""
    raise UserError(f"{FILE}: there is no data set '{name}'{hint}; there are: {', '.join(known)}")


def _own(name: str, entry: OwnDataset, others: dict[str, Any]) -> Expected:
    for section in ("archives", "sources", "datasets"):
        if name in (others.get(section) or {}):
            raise UserError(f"{FILE}: {OWN}.{name}: section '{section}' has this name, too; rename one of them")
    table = lookup_table(entry.labels.model_dump(mode="json"))
    classes = _shown(entry.names, entry.background)
    return Expected(name, entry.title, classes, entry.background, table, entry.allowed_values, "all", own=entry)


def of_section_datasets(config: Datasets, name: str) -> Expected:
    """An entry of section ``datasets``; that the lists have a line per class is checked where the file is read."""
    entry = config.datasets[name]
    source = config.sources[entry.source]
    for naming, file in entry.classes.items():
        if isinstance(file, str):
            read_class_names(file, config.namings[naming].separator)
    default = entry.class_file("default")
    lines = read_class_names(default) if isinstance(default, str) else [line.split(",") for line in default]
    classes = _shown(lines, entry.background)
    table = lookup_table(entry.labels.model_dump(mode="json"))
    return Expected(name, entry.title, classes, entry.background, table, source.allowed_values, source.split,
                    source.images, entry.source)  # fmt: skip


def _shown(names: list[list[str]], background: bool) -> list[str]:
    """The first name of each class; class 0 is named for what it is where its names are those of many things."""
    first = [found[0] for found in names]
    return ["background", *first[1:]] if background else first
