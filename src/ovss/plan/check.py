"""Names in papers/*.yaml and params.yaml that nothing knows, and values that fit no setting, refused before a run."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping

from ovss.config.papers import Cell, Paper
from ovss.config.params import SCALES, Scale
from ovss.errors import UserError
from ovss.methods import fits, in_words
from ovss.plan.project import Project
from ovss.plan.settings import Setting

_MUST_HAVE = {
    "Settings": "a frozen dataclass Settings with every constant",
    "segment": "a function segment(batch, vocabulary, features, settings) -> list[Prediction]",
}


def check_row(project: Project, paper: Paper, where: str, cell: Cell) -> None:
    """Refuse a method, a setting or a data set that nothing knows."""
    methods, columns = project.methods, _columns(project)
    if cell.method in methods:
        _must_have(project, cell.method, "Settings")
        for name in cell.settings.keys() - methods[cell.method]:
            raise _unknown(paper, f"{where}.run.settings.{name}", f"method {cell.method} has no such setting",
                           name, methods[cell.method])  # fmt: skip
        _check_values(f"papers/{paper.paper}.yaml: {where}.run.settings", cell, methods[cell.method])
    elif cell.method not in paper.unwritten:
        what = f"there is no src/ovss/methods/{cell.method}.py, and 'unwritten' does not list it"
        raise _unknown(paper, f"{where}.run.method", what, cell.method, {*methods, *paper.unwritten})
    if cell.dataset not in columns:
        raise _unknown(paper, f"columns or {where}.run.dataset", f"'{cell.dataset}' is not a column of params.yaml "
                       "(at any scale)", cell.dataset, columns)  # fmt: skip


def _check_values(at: str, cell: Cell, known: Mapping[str, Setting]) -> None:
    """Refuse a value of another type, and settings without one. Ranges are the method's own matter: the job checks."""
    for name, setting in known.items():
        if name in cell.settings and not fits(cell.settings[name], setting.kind):
            raise UserError(f"{at}.{name}: {cell.settings[name]!r} is not {in_words(setting.kind)}; mend it in the "
                            "row, its preset or what is set for the data set")  # fmt: skip
        if setting.required and name not in cell.settings:
            raise UserError(f"{at}.{name}: method {cell.method} needs it, and there is no default; add it to the row "
                            "or its preset")  # fmt: skip


def _columns(project: Project) -> set[str]:
    """Names of data sets that some scale has: a data set of one's own may be on one alone."""
    return {name for scale in SCALES for name in project.params.at(scale).columns}


def check_segments(project: Project, method: str) -> None:
    """Refuse a method that cannot give every pixel a class."""
    _must_have(project, method, "segment")


def _must_have(project: Project, method: str, name: str) -> None:
    if name not in project.definitions[method]:
        raise UserError(f"src/ovss/methods/{method}.py: there is no '{name}' in it, which its rows need; "
                        f"write {_MUST_HAVE[name]}")  # fmt: skip


def check_data(project: Project, scale: Scale, column: str) -> None:
    """Refuse a data set that datasets.yaml does not have."""
    name, config = str(scale.columns[column]), project.datasets
    if name not in config.datasets and name not in config.text_sources:
        known = ", ".join(sorted([*config.datasets, *config.text_sources]))
        raise UserError(
            f"params.yaml: {project.params.scale}.columns.{column}: '{name}' is not a data "
            f"set of datasets.yaml; it has: {known}"
        )


def _unknown(paper: Paper, key: str, what: str, name: str, known: Iterable[str]) -> UserError:
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1)
    hint = f" (did you mean '{near[0]}'?)" if near else ""
    return UserError(f"papers/{paper.paper}.yaml: {key}: {what}{hint}; there are: {', '.join(names)}")
