"""Jobs of a training that a row asks for: pairs and their index, pruning, adapters (TTD)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ovss.config.base import validate
from ovss.config.papers import Paper
from ovss.config.params import Scale
from ovss.config.runs import Training
from ovss.config.texts import PairPart
from ovss.config.ttd import IMAGENET_MEAN, IMAGENET_STD, TtdChoices, job_params, prune_params
from ovss.errors import UserError
from ovss.plan.data import fetch_job
from ovss.plan.job import Job
from ovss.plan.project import Project

METHODS = ("ttd",)
PACKAGES = {"nouns": ("textblob",), "llm": ("transformers", "tokenizers")}
"""What taggers use beside a stage's own packages."""


@dataclass(frozen=True)
class Trainings:
    """Trained models of one scale."""

    project: Project
    scale: Scale

    def model(
        self, paper: Paper, where: str, training: Training, base: Job, companions: Mapping[str, Job]
    ) -> Job | str:
        """The job that trains a base model as a row wants it, or why it cannot run.

        Raises:
            UserError: a setting that the training does not have, or pairs that nothing knows; names ``where``.
        """
        if training.method not in METHODS:
            return f"not implemented: training {training.method}"
        choices = validate(dict(training.settings), TtdChoices, f"papers/{paper.paper}.yaml: {where}.run.training")
        pairs = self._pairs(paper, where, training.data, choices)
        if isinstance(pairs, str):
            return pairs
        names = tuple(name.removeprefix("index_") for name in pairs if name.startswith("index_"))
        own = choices.base == "tcl" and self.scale.world is None
        mean, std = (IMAGENET_MEAN, IMAGENET_STD) if own else (None, None)
        asked = {f"companion_{name}": job for name, job in companions.items()}
        inputs = {"model": base, **pairs, **asked}
        if choices.pruning == "mean_plus_std":
            params = prune_params(choices, self.scale.train.ttd, names, mean, std)
            looked_at = {"model": base, **pairs}
            inputs["kept"] = self.project.job("prune", f"{role_name(training.data)}-{base.name}", params, looked_at)
        params = job_params(choices, self.scale.train.ttd, names, mean, std)
        said = [f"{key}_{value}" for key, value in sorted(training.settings.items())]
        said += [job.name for job in companions.values()]
        name = "-".join([base.name, training.method, *said])[:140]
        # At the tiny scales a training is shorter than the import of what it needs, so those of a base share a process.
        group = f"{base.name}-{training.method}" if self.scale.world is not None else name
        packages = PACKAGES.get(choices.tagging, ())
        return self.project.job("train_ttd", name, params, inputs, group=group, packages=packages)

    def _pairs(self, paper: Paper, where: str, data: str, choices: TtdChoices) -> dict[str, Job] | str:
        """Inputs ``shards_<collection>`` and ``index_<collection>``, or what is missing."""
        role = paper.pairs.get(data)
        if role is None:
            known = ", ".join(sorted(paper.pairs)) or "none"
            raise UserError(
                f"papers/{paper.paper}.yaml: {where}.run.training.data: '{data}' is not among pairs: {known}"
            )
        name = role.full if self.scale.world is None else role.tiny
        if name is None:
            return f"no pairs for {data} at this scale"
        found: dict[str, Job] = {}
        for collection, part in self.project.datasets.pairs[name].parts.items():
            shards = fetch_job(self.project, self.scale, part.archive)
            if isinstance(shards, str):
                return shards
            found |= {
                f"shards_{collection}": shards,
                f"index_{collection}": self._index(collection, part, shards, choices),
            }
        return found

    def _index(self, collection: str, part: PairPart, shards: Job, choices: TtdChoices) -> Job:
        params = {"collection": collection, "stem": part.stem, "expected": part.expected,
                  "rules": {"max_words": choices.max_words}}  # fmt: skip
        return self.project.job("index_pairs", f"{part.archive}-{collection}", params, {"shards": shards})


def role_name(data: str) -> str:
    """The name of pairs as part of a file name."""
    return data.lower().replace("+", "_")
