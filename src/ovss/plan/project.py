"""A project's configuration files and sources, read once and checked against each other."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ovss import failures
from ovss.config.base import load_yaml
from ovss.config.datasets import Datasets
from ovss.config.papers import Paper
from ovss.config.params import Params, load_params
from ovss.config.weights import Weights
from ovss.errors import UserError
from ovss.plan.closure import Closure
from ovss.plan.job import Job
from ovss.plan.lock import locked_versions
from ovss.plan.settings import Setting, SettingsFiles
from ovss.plan.stages import STAGES

PAPER_ORDER = ("tag", "ttd", "freecp", "reclippp", "sseg", "beyond")


@dataclass(frozen=True)
class Project:
    """Everything a plan is made from.

    placed: plan as if every file were there that a person has to place, and every archive that could not be fetched.
    Jobs that need such files name them under ``to_place``; their keys are those of no run.
    """

    root: Path
    params: Params
    datasets: Datasets
    weights: Weights
    papers: dict[str, Paper]
    closure: Closure
    versions: dict[str, str]
    placed: bool = False

    @classmethod
    def load(cls, root: Path) -> Project:
        """Read and validate all configuration.

        Raises:
            UserError: names the file and key of the first problem.
        """
        files = sorted((root / "papers").glob("*.yaml"), key=_paper_order)
        papers = {file.stem: load_yaml(file, Paper, root) for file in files}
        for name, paper in papers.items():
            if paper.paper != name:
                raise UserError(
                    f"papers/{name}.yaml: paper: is '{paper.paper}'; it must equal the file's name '{name}'"
                )
        return cls(
            root,
            load_params(root),
            load_yaml(root / "datasets.yaml", Datasets, root),
            load_yaml(root / "weights.yaml", Weights, root),
            papers,
            Closure(root / "src", memory=root / ".snakemake" / "ovss-sources.json"),
            locked_versions(root / "envs" / "requirements.lock"),
        )

    @cached_property
    def left_out(self) -> dict[str, str]:
        """Why each archive is left out that a run could not fetch, by name."""
        return failures.left_out_of(self.root)

    @property
    def resources(self) -> Path:
        """Folder of the package's data files."""
        return self.root / "src" / "ovss" / "resources"

    def job(self, stage: str, name: str, params: dict[str, Any], inputs: dict[str, Job], **more: Any) -> Job:
        """A job of a stage; ``modules`` in ``more`` are imported by name, ``packages`` used beside the stage's own."""
        kind = STAGES[stage]
        modules = (kind.module, *more.pop("modules", ()))
        sources = self.closure.of(modules)
        used = (*kind.packages, *more.pop("packages", ()))
        packages = {name: self.versions.get(name, "not locked") for name in used}
        files = more.pop("files", {})
        seed = self.params.seed if kind.seeded else None
        return Job(stage, name, kind.module, params, inputs, {**sources, **files}, packages, seed=seed, **more)

    @cached_property
    def _settings_files(self) -> SettingsFiles:
        return SettingsFiles(self.root / "src")

    @property
    def _methods_folder(self) -> Path:
        return self.root / "src" / "ovss" / "methods"

    @cached_property
    def methods(self) -> dict[str, dict[str, Setting]]:
        """The settings of every implemented method, read from its file without importing it."""
        files = sorted(self._methods_folder.glob("[a-z]*.py"))
        return {file.stem: self._settings_files.read(file, "Settings") for file in files}

    @cached_property
    def definitions(self) -> dict[str, frozenset[str]]:
        """Names of the classes and functions in the file of every implemented method, its own and imported ones."""
        return {name: self._settings_files.defined(self._methods_folder / f"{name}.py") for name in self.methods}

    def settings_of(self, method: str, part: str) -> frozenset[str]:
        """Names of the settings in one part of a method: a dataclass in one of its modules ``_<method>_*.py``."""
        files = sorted(self._methods_folder.glob(f"_{method}_*.py"))
        return frozenset(name for file in files for name in self._settings_files.read(file, part))


def _paper_order(file: Path) -> tuple[int, str]:
    known = PAPER_ORDER.index(file.stem) if file.stem in PAPER_ORDER else len(PAPER_ORDER)
    return known, file.stem
