"""Text jobs: the queries of a data set with templates, or with a set of descriptions."""

from __future__ import annotations

from typing import Any

from ovss.config.descriptions import TextNeeds, description_set
from ovss.config.params import Scale
from ovss.data.places import manual_path
from ovss.plan.data import class_queries, fetch_job
from ovss.plan.job import Job
from ovss.plan.models import process_of
from ovss.plan.project import Project


def own_texts(project: Project, scale: Scale, values: dict[str, Any]) -> dict[str, Any]:
    """Protocol values with the templates and descriptions that the scale uses in place of the papers'."""
    sets = project.datasets.descriptions
    if values["templates"] in sets:
        templates = scale.descriptions.get(values["templates"], values["templates"])
    else:
        templates = scale.templates or values["templates"]
    found = {**values, "templates": templates}
    if "descriptions" in found:
        found["descriptions"] = scale.descriptions.get(found["descriptions"], found["descriptions"])
    return found


def text_job(project: Project, scale: Scale, dataset: str, names: str, texts: str, model: Job) -> Job | str:
    """The job that encodes a class list, or why there is none (descriptions that are not at hand).

    Args:
        project: the project.
        scale: the scale.
        dataset: whose classes.
        names: the naming of its class list.
        texts: templates or a set of descriptions.
        model: the model's job.

    Raises:
        UserError: a set of descriptions lacks a word.
    """
    queries = class_queries(project, dataset, names)
    params: dict[str, Any] = {"queries": queries, "templates": texts}
    inputs = {"model": model}
    if texts in project.datasets.descriptions:
        words = [word for names in queries for word in names]
        needs = description_set(project.datasets.descriptions, texts, dataset, words, project.root)
        if isinstance(needs, str):
            if not project.placed or project.datasets.descriptions[texts].manual is None:
                return needs
            needs = TextNeeds({"to_place": [str(manual_path(f"descriptions_{texts}", f"{dataset}.json"))]})
        params |= needs.params
        if needs.archive is not None:
            fetched = fetch_job(project, scale, needs.archive)
            if isinstance(fetched, str):
                return fetched
            inputs["sentences"] = fetched
    own = project.resources / f"templates_{texts}.txt"
    if own.is_file():
        params["template_lines"] = own.read_text(encoding="utf-8").splitlines()
    count = sum(len(names) for names in queries)
    name = f"{len(queries)}classes-{count}queries-{texts}-{model.name}"
    return project.job("text", name, params, inputs, group=process_of(scale, model))
