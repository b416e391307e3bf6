"""Jobs of rows that are measured on images with texts: words, masks of captions and expressions, concepts (TTD)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ovss.config.papers import Cell
from ovss.config.params import Scale
from ovss.config.texts import TASKS
from ovss.plan.data import texts_job
from ovss.plan.job import Job, file_name
from ovss.plan.models import process_of
from ovss.plan.project import Project
from ovss.plan.training import PACKAGES

METRICS: Mapping[str, frozenset[str]] = {
    "tags": frozenset({"precision", "recall", "f1", "accuracy", "map"}),
    "captions": frozenset(
        {"caption_iou", "caption_iou_pooled", "caption_iou_both", "caption_iou_both_pooled", "fpr", "fnr"}
    ),
    "expressions": frozenset({"referring_iou", "referring_oiou"}),
    "concepts": frozenset({"map"}),
}
"""What can be measured at each task."""
_AT_REST = {"descriptions": None, "score_size": "original", "prob_threshold": 0.0, "area_threshold": 0.0}
"""Values that ask nothing of a text; others are handed on and refused there."""


@dataclass(frozen=True)
class TextRows:
    """Such rows of one scale."""

    project: Project
    scale: Scale

    def missing(self, name: str, method: str, metric: str) -> str:
        """Why a method's metric cannot be measured on a source, or nothing."""
        task = self.project.datasets.text_sources[name].task
        if method not in TASKS[task]:
            return f"method {method} does not answer what is asked here ({task})"
        return "" if metric in METRICS[task] else f"not implemented: metric {metric} for {task}"

    def job(self, name: str, cell: Cell, protocol: Mapping[str, Any], models: Mapping[str, Job]) -> Job | str:
        """The job of a row on a text source, or why its data are not there.

        Args:
            name: of the text source.
            cell: the row on it.
            protocol: values at this scale.
            models: ``model`` and ``companion_<name>``.
        """
        source = texts_job(self.project, self.scale, name)
        if isinstance(source, str):
            return source
        templates = cell.protocol.templates if cell.protocol.templates == "none" else protocol["templates"]
        asked = {key: value for key, value in protocol.items() if key not in _AT_REST or value != _AT_REST[key]}
        kept = {key: value for key, value in asked.items() if key != "names"}
        params: dict[str, Any] = {
            "method": cell.method,
            "settings": dict(cell.settings),
            "protocol": {**kept, "templates": templates},
            "task": self.project.datasets.text_sources[name].task,
            "source": name,
            "shard": [0, 1],
            "examples": self.scale.examples,
        }
        own = self.project.resources / f"templates_{templates}.txt"
        if own.is_file():
            params["template_lines"] = own.read_text(encoding="utf-8").splitlines()
        model = models["model"].name
        words = [name, model, cell.method, *(str(value) for _, value in sorted(cell.settings.items()))]
        label = file_name(words)
        inputs, modules = {**models, "source": source}, (f"ovss.methods.{cell.method}",)
        packages = PACKAGES.get(str(cell.settings.get("scoring")), ())
        process = process_of(self.scale, models["model"])
        # Tiny sources share a process as well.
        group = process if self.scale.world is not None else f"{name}-{process}"
        return self.project.job(
            "evaluate_texts", label, params, inputs, modules=modules, group=group, packages=packages
        )
