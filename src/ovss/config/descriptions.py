"""Section ``descriptions`` of ``datasets.yaml``: where the sentences of a set come from, and what a text job needs."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from ovss.config.base import Strict
from ovss.data.descriptions import read_sentences, sentences_of
from ovss.data.places import manual_path
from ovss.errors import UserError

SHIPPED = Path("src/ovss/resources/descriptions")
"""Sentences that come with the project, relative to its folder."""


class DescriptionSet(Strict):
    """Sentences for every query word, from exactly one place.

    resource: a JSON file in ``ovss/resources/descriptions``. archive and files: an archive and, for each data set, the
    file of it. manual: what a person does to place ``data/manual/descriptions_<set>/<data set>.json``.
    """

    title: str
    licence: str
    resource: str | None = None
    archive: str | None = None
    files: dict[str, str] = Field(default_factory=dict)
    manual: str | None = None
    note: str | None = None

    @model_validator(mode="after")
    def _one_place(self) -> DescriptionSet:
        if sum(place is not None for place in (self.resource, self.archive, self.manual)) != 1:
            raise ValueError("give exactly one of 'resource', 'archive' and 'manual'")
        if (self.archive is not None) != bool(self.files):
            raise ValueError("'archive' and 'files' (data set: file of the archive) go together")
        return self


@dataclass(frozen=True)
class TextNeeds:
    """What a text job gets beside ``queries``: parameters, and the archive whose fetch is its input ``sentences``."""

    params: dict[str, Any]
    archive: str | None = None


def description_set(
    sets: Mapping[str, DescriptionSet], name: str, dataset: str, words: Iterable[str], root: Path
) -> TextNeeds | str:
    """What the text job of a data set needs to use a set of descriptions.

    Sentences that are at hand (shipped or placed by hand) become parameters, those of the asked words alone, so that an
    edit changes the keys of the features it changes and no other. Downloaded ones are read by the text job.

    Args:
        sets: ``Datasets.descriptions``.
        name: name of the set.
        dataset: name of the data set.
        words: its query words.
        root: the project's folder.

    Returns:
        The needs, or why there are none (a file to be placed by hand, a data set that the set does not have).

    Raises:
        UserError: no such set, or sentences at hand that are damaged or lack a word.
    """
    if name not in sets:
        near = difflib.get_close_matches(name, sets, n=1)
        hint = f" (did you mean '{near[0]}'?)" if near else ""
        raise UserError(f"descriptions: datasets.yaml has no set '{name}'{hint}; it has: {', '.join(sorted(sets))}")
    chosen = sets[name]
    if chosen.archive is not None:
        if dataset not in chosen.files:
            return f"there are no descriptions '{name}' for {dataset}"
        return TextNeeds({"sentences_file": chosen.files[dataset]}, chosen.archive)
    if chosen.resource is not None:
        return _at_hand(name, root / SHIPPED / chosen.resource, words)
    by_hand = manual_path(f"descriptions_{name}", f"{dataset}.json")
    if not (root / by_hand).is_file():
        return f"data to be placed by hand: {by_hand} ({chosen.manual})"
    return _at_hand(name, root / by_hand, words)


def _at_hand(name: str, file: Path, words: Iterable[str]) -> TextNeeds:
    found = sentences_of(read_sentences(file), words, f"descriptions {name} ({file})")
    return TextNeeds({"sentences": {word: list(lines) for word, lines in found.items()}})
