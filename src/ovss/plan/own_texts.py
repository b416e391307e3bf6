"""Text jobs of classes that a user names: prompt templates, or a set's descriptions where it has the word."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from ovss.config.descriptions import SHIPPED
from ovss.config.params import Scale
from ovss.data.descriptions import Sentences, read_sentences
from ovss.data.places import MANUAL
from ovss.errors import UserError
from ovss.plan.data import fetch_job
from ovss.plan.job import Job
from ovss.plan.models import process_of
from ovss.plan.project import Project

PLAIN_TEMPLATES = "openai80"
"""For a word without descriptions in a row that has nothing but descriptions, at scales with the papers' templates."""

OWN_TEXTS = "data/own_texts"
"""Where texts go that no table has asked for: DVC keeps ``work/text`` as the workflow made it. Can be deleted."""


@dataclass(frozen=True, eq=False)
class OwnText(Job):
    """A text job whose output is not among the workflow's."""

    @classmethod
    def of(cls, job: Job) -> OwnText:
        """The same job, made elsewhere."""
        return cls(**{each.name: getattr(job, each.name) for each in fields(job)})

    @property
    def directory(self) -> str:
        """Output directory, relative to the project."""
        return f"{OWN_TEXTS}/{self.name}.{self.key}"


Ready = Callable[[Mapping[str, Job]], Mapping[str, Path]]
"""Makes the outputs of jobs if they are missing; their directories, by the same names."""


@dataclass(frozen=True)
class Texts:
    """Jobs by input name; ``facts`` for the record and ``notes`` for the user: words without descriptions."""

    jobs: Mapping[str, Job]
    facts: Mapping[str, Any] = field(default_factory=dict)
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class OwnTexts:
    """The texts of a user's classes.

    dataset: whose descriptions are looked at first. classes: names of each class. models: of the row, ``model`` encodes
    the texts. ready: brings downloaded descriptions in, together with the models.
    """

    project: Project
    scale: Scale
    dataset: str
    classes: Sequence[Sequence[str]]
    models: Mapping[str, Job]
    ready: Ready

    def jobs(self, wanted: Mapping[str, str]) -> Texts:
        """The jobs that encode the classes.

        Args:
            wanted: templates or set of descriptions, by input name.

        Raises:
            UserError: a set of descriptions is not at hand.
        """
        sets = self.project.datasets.descriptions
        plain = next((texts for texts in wanted.values() if texts not in sets), None)
        forms = plain or self.scale.templates or PLAIN_TEMPLATES
        found: dict[str, Job] = {}
        facts: dict[str, Any] = {}
        notes: list[str] = []
        for key, texts in wanted.items():
            params: dict[str, Any] = {"queries": [list(names) for names in self.classes], "templates": texts}
            if texts in sets:
                params["sentences"], without = self._sentences(texts, forms)
                facts["descriptions"] = {"set": texts, "words_without": without, "templates_instead": forms}
                if without:
                    notes.append(f"descriptions {texts}: none for {', '.join(without)}; their prompts are used instead")
            elif lines := self._lines(texts):
                params["template_lines"] = lines
            found[key] = self._job(params, self.models["model"])
        return Texts(found, facts, tuple(dict.fromkeys(notes)))

    def _job(self, params: dict[str, Any], model: Job) -> Job:
        queries = sum(len(names) for names in self.classes)
        name = f"{len(self.classes)}classes-{queries}queries-{params['templates']}-own-{model.name}"
        return self.project.job("text", name, params, {"model": model}, group=process_of(self.scale, model))

    def _lines(self, templates: str) -> list[str] | None:
        own = self.project.resources / f"templates_{templates}.txt"
        return own.read_text(encoding="utf-8").splitlines() if own.is_file() else None

    def _sentences(self, name: str, forms: str) -> tuple[dict[str, list[str]], list[str]]:
        """Sentences of every word, its filled templates where the set has none, and those words."""
        from ovss.models.templates import templates  # imports open_clip, which most calls do not need

        known, words = self._known(name), dict.fromkeys(word for names in self.classes for word in names)
        prompts = templates(forms, self._lines(forms))
        without = [word for word in words if not known.get(word)]
        found = {word: list(known.get(word) or [form.replace("{}", word) for form in prompts]) for word in words}
        return found, without

    def _known(self, name: str) -> Sentences:
        """All sentences of a set; those for the data set win over those for others."""
        found: Sentences = {}
        for file in self._files(name):
            for word, lines in read_sentences(file).items():
                if lines:
                    found.setdefault(word, lines)
        return found

    def _files(self, name: str) -> Iterator[Path]:
        """Files of a set, that of the data set first."""
        chosen, root = self.project.datasets.descriptions[name], self.project.root
        if chosen.resource is not None:
            yield root / SHIPPED / chosen.resource
        elif chosen.archive is not None:
            fetched = fetch_job(self.project, self.scale, chosen.archive)
            if isinstance(fetched, str):
                raise UserError(f"descriptions {name}: {fetched}")
            folder = self.ready({**self.models, "descriptions": fetched})["descriptions"]
            first = chosen.files.get(self.dataset)
            yield from (folder / file for file in dict.fromkeys([first, *chosen.files.values()]) if file)
        else:
            folder = root / MANUAL / f"descriptions_{name}"
            files = sorted(folder.glob("*.json"), key=lambda file: (file.stem != self.dataset, file.name))
            if not files:
                raise UserError(f"descriptions {name}: none at {folder.relative_to(root)} ({chosen.manual})")
            yield from files
