"""Jobs of rows that are given no class names: caption collection and index, segments, neighbours, labels (TAG).

Every step has the settings that it uses and no others, so a row that differs in its words alone shares the segments and
the neighbours of the others.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ovss.config.papers import Cell, Paper
from ovss.config.params import Scale
from ovss.errors import UserError
from ovss.plan.data import class_queries, fetch_job
from ovss.plan.job import Job, file_name
from ovss.plan.project import Project

_GEOMETRY = ("resize", "short_side", "max_long_side", "crop", "stride", "window_padding", "normalisation",
             "resize_filter")  # fmt: skip
_NO_TEXTS = {"names": "", "templates": "none", "logit_scale": 1}
_SEARCH = ("keep", "duplicate_cosine", "search")
_QUERIES = 1000


@dataclass
class WordRows:
    """Jobs of such rows at one scale; ``indexes``: index job of every caption collection that some row searches."""

    project: Project
    scale: Scale
    indexes: dict[str, Job] = field(default_factory=dict)
    _parts: dict[tuple[str, str], frozenset[str]] = field(default_factory=dict)

    def jobs(
        self, paper: Paper, cell: Cell, models: Mapping[str, Job], shared: Mapping[str, Any], source: Job
    ) -> tuple[Job, Job, Job] | str:
        """The jobs (segments, retrieve, label) of a shard of a row, or why there are none.

        Args:
            paper: the paper of the row.
            cell: the row on a data set.
            models: ``model`` and ``companion_<name>``.
            shared: ``dataset``, ``protocol``, ``examples`` and ``shard`` as for a row of the stage evaluate.
            source: the prepared images.

        Raises:
            UserError: the row lacks a setting that the search needs.
        """
        model = models["model"]
        searched = self._searched(paper, cell, model)
        if isinstance(searched, str):
            return searched
        segments = self._segments(cell, models, shared, source)
        (kind, collection) = searched
        name = f"{collection.name}-{segments.name}"
        inputs = {"model": model, kind: collection, "segments": segments}
        found = self.project.job("retrieve", name[:150], self._search(paper, cell), inputs, group=collection.name)
        if kind == "captions" and collection.name not in self.indexes:
            self.indexes[collection.name] = self.index(collection, segments)
        return segments, found, self._label(paper, cell, models, shared, source, segments, found)

    def _searched(self, paper: Paper, cell: Cell, model: Job) -> tuple[str, Job] | str:
        """What is searched: our shards (``captions``) or a database as downloaded (``database``)."""
        role = paper.captions[str(cell.captions)]
        name = role.full if self.scale.world is None else role.tiny
        if name is None:
            at = "tiny counterpart of" if self.scale.world is not None else "public source for"
            return f"no {at} the caption collection {cell.captions}"
        if cell.settings.get("search") == "prebuilt":
            return self._database(name)
        made = self.collection(name, model)
        return made if isinstance(made, str) else ("captions", made)

    def collection(self, name: str, model: Job) -> Job | str:
        """The job that makes a caption collection for a CLIP, or why it cannot run.

        Raises:
            UserError: datasets.yaml has no such collection.
        """
        entry = self.project.datasets.captions.get(name)
        if entry is None:
            known = ", ".join(sorted(self.project.datasets.captions))
            raise UserError(f"papers: captions: '{name}' is not a caption collection of datasets.yaml; it has: {known}")
        inputs, sources = {"model": model}, []
        for part in entry.sources:
            fetched = fetch_job(self.project, self.scale, part.archive)
            if isinstance(fetched, str):
                return fetched
            inputs[f"archive_{part.archive}"] = fetched
            sources.append({"input": f"archive_{part.archive}", "format": part.format, "files": list(part.files)})
        params = {"collection": name, "sources": sources, "shard_rows": self.scale.caption_rows,
                  "deduplicate": entry.deduplicate}  # fmt: skip
        return self.project.job("captions", f"{name}-{model.name}", params, inputs)

    def _database(self, name: str) -> tuple[str, Job] | str:
        parts = [part for part in self.project.datasets.captions[name].sources if part.format == "cased"]
        if not parts:
            return f"caption collection {name}: no index of it was published"
        fetched = fetch_job(self.project, self.scale, parts[0].archive)
        return fetched if isinstance(fetched, str) else ("database", fetched)

    def _search(self, paper: Paper, cell: Cell) -> dict[str, Any]:
        missing = [name for name in _SEARCH if name not in cell.settings]
        if missing:
            raise UserError(
                f"papers/{paper.paper}.yaml: rows with captions need the setting '{missing[0]}'; add it to the preset"
            )
        return {name: cell.settings[name] for name in _SEARCH}

    def index(self, collection: Job, segments: Job) -> Job:
        """The job that makes an index of a caption collection and measures its recall on these segments."""
        params = {"recipe": "auto", "queries": _QUERIES}
        inputs = {"captions": collection, "segments": segments, "model": collection.inputs["model"]}
        return self.project.job("index", collection.name, params, inputs)

    def _part(self, cell: Cell, name: str) -> dict[str, Any]:
        at = (cell.method, name)
        if at not in self._parts:
            self._parts[at] = self.project.settings_of(*at)
        known = self._parts[at]
        return {key: value for key, value in cell.settings.items() if key in known}

    def _segments(self, cell: Cell, models: Mapping[str, Job], shared: Mapping[str, Any], source: Job) -> Job:
        """Clusters, which need no CLIP, and their embeddings by CLIP."""
        protocol = {key: shared["protocol"][key] for key in _GEOMETRY if key in shared["protocol"]} | _NO_TEXTS
        params = {"method": cell.method, "protocol": protocol, "shard": shared["shard"]}
        dino = models["companion_segmenter"]
        settings = self._part(cell, "Clustering")
        name = _name([source.name, dino.name, *_values(settings)], shared)
        clusters = self.project.job(
            "clusters", name, params | {"settings": settings}, {"source": source, "segmenter": dino},
            modules=(f"ovss.methods._{cell.method}_cluster",), group=f"{source.name}-{dino.name}{_shard(shared)}",
        )  # fmt: skip
        settings = self._part(cell, "Embedding")
        name = _name(
            [source.name, models["model"].name, *_values(clusters.params["settings"]), *_values(settings)], shared
        )
        inputs = {"model": models["model"], "source": source, "clusters": clusters}
        modules = (f"ovss.methods._{cell.method}_segment",)
        group = f"{source.name}-{models['model'].name}{_shard(shared)}"
        return self.project.job("segments", name, params | {"settings": settings}, inputs, modules=modules, group=group)

    def _label(
        self, paper: Paper, cell: Cell, models: Mapping[str, Job], shared: Mapping[str, Any], source: Job,
        segments: Job, neighbours: Job,
    ) -> Job:  # fmt: skip
        settings, dataset = self._part(cell, "Naming"), shared["dataset"]["name"]
        classes = class_queries(self.project, dataset, shared["protocol"]["names"])
        params = {"method": cell.method, "settings": settings, "classes": classes, **shared}
        inputs = {"model": models["model"], "source": source, "segments": segments, "neighbours": neighbours,
                  "sentences": models["companion_sentences"]}  # fmt: skip
        words = [dataset, models["model"].name, cell.method, str(cell.captions),
                 *_values(settings)]  # fmt: skip
        modules = (f"ovss.methods._{cell.method}_name",)
        # Of all sources: importing the sentence encoder costs more than labelling a small source.
        group = f"{models['model'].name}{_shard(shared)}"
        return self.project.job("label", _name(words, shared), params, inputs, modules=modules, group=group)


def _shard(shared: Mapping[str, Any]) -> str:
    index, count = shared["shard"]
    return f"-{index:04d}of{count:04d}" if count > 1 else ""


def _name(words: list[str], shared: Mapping[str, Any]) -> str:
    return file_name(words) + _shard(shared)


def _values(settings: Mapping[str, Any]) -> list[str]:
    return [str(value) for _, value in sorted(settings.items())]
