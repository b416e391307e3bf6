"""Jobs that bring a model in: trained from scratch at the tiny scales, downloaded and converted at the full one."""

from __future__ import annotations

from ovss.config.papers import ModelRole
from ovss.config.params import Scale
from ovss.plan.data import absent_files, folder_job, marked
from ovss.plan.job import Job
from ovss.plan.project import Project


def model_job(project: Project, scale: Scale, role: ModelRole) -> Job | str:
    """The job that makes the model that plays a role, or why there is none."""
    if scale.world is not None:
        return trained_job(project, scale, role.tiny) if role.tiny else "no tiny counterpart of this model"
    return weights_job(project, role.full) if role.full else "the weights are not published or not known"


def trained_job(project: Project, scale: Scale, name: str) -> Job | str:
    """The training job of a model of the tiny world."""
    if scale.world is None:
        return f"model {name} is trained at the tiny scales only"
    for stage, models in (("train_clip", scale.train.clip), ("train_dino", scale.train.dino)):
        if name in models:
            return project.job(stage, name, {"model": models[name].model_dump(mode="json")}, {})
    if name in scale.train.tcl:
        model = scale.train.tcl[name]
        clip, params = trained_job(project, scale, model.clip), {"model": model.model_dump(mode="json")}
        return clip if isinstance(clip, str) else project.job("train_tcl", name, params, {"clip": clip})
    if name in project.weights.weights and project.weights.weights[name].packaged:
        return weights_job(project, name)
    return f"model {name} is not trained at this scale"


def weights_job(project: Project, weights: str) -> Job | str:
    """The job that converts downloaded weights to the common model directory, or takes in a folder placed by hand."""
    entry = project.weights.weights.get(weights)
    if entry is None and weights in project.datasets.archives:
        return folder_job(project, weights)
    if entry is None:
        return f"weights {weights} are not in weights.yaml"
    absent = absent_files(project, weights, entry.files, False, entry.manual)
    if absent is not None and not project.placed:
        return absent.why
    fetch = project.job("fetch", weights, entry.fetch_params(weights) | marked(absent), {})
    return project.job("weights", weights, entry.convert_params(weights), {"file": fetch})


def process_of(scale: Scale, model: Job) -> str:
    """Which of a stage's jobs share a process: those of a model, at the tiny scales those of all tuned models.

    There a job is shorter than the imports that it needs.
    """
    return "tuned" if scale.world is not None and model.stage == "train_ttd" else model.name
