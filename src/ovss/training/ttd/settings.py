"""From the parameters of a training job to the settings of its parts."""

from __future__ import annotations

from ovss.config.ttd import Triple, TtdJob
from ovss.errors import UserError
from ovss.models.clip import Clip
from ovss.training.ttd.augment import CropSettings
from ovss.training.ttd.batches import steps_of
from ovss.training.ttd.lora import LoraSettings
from ovss.training.ttd.loss import LossSettings, Tagging
from ovss.training.ttd.step import TrainSettings


def normalisation(clip: Clip, mean: Triple | None, std: Triple | None) -> tuple[Triple, Triple]:
    """Mean and deviation of RGB in 0..1: those given, else the model's own."""
    return mean or clip.mean, std or clip.std


def whole_patches(side: int, clip: Clip, key: str) -> None:
    """Refuse a side that is cut by a patch.

    Raises:
        UserError: names ``key``.
    """
    if side % clip.patch_size:
        raise UserError(f"train.ttd.{key}: {side} is no multiple of the patch side {clip.patch_size}; choose one")


def lora_settings(job: TtdJob) -> LoraSettings:
    """The adapters of a job."""
    return LoraSettings(job.targets, job.rank, job.convolution_rank, job.lora_scale)


def loss_settings(job: TtdJob) -> LossSettings:
    """The losses of a job; words chosen by a tagger or a language model are handed over with the batches."""
    tagging: Tagging = "given" if job.tagging == "nouns" or job.tagging == "llm" else job.tagging
    return LossSettings(
        map=job.map, pixels=job.reduction, tags=job.tag_reduction, distill=job.distill, tag=job.tag,
        tagging=tagging, ignore_padding=job.ignore_padding,
    )  # fmt: skip


def train_settings(job: TtdJob, pairs: int, seed: int) -> TrainSettings:
    """The optimiser's settings of a job on so many pairs.

    Raises:
        UserError: the pairs do not fill a batch, or the batch has fewer images than there are processes.
    """
    if job.batch < job.processes:
        raise UserError(f"train.ttd.processes: {job.processes} cannot share a batch of {job.batch}; lower it")
    steps = steps_of(pairs, job.batch, job.epochs)
    return TrainSettings(
        steps=job.steps or steps, batch=job.batch, accumulate=job.accumulate, lr=job.lr,
        weight_decay=job.weight_decay, power=job.schedule, precision=job.precision, loss=loss_settings(job),
        lora=lora_settings(job), seed=seed, save_every=job.save_every, log_every=job.log_every,
    )  # fmt: skip


def crop_settings(job: TtdJob, clip: Clip) -> CropSettings:
    """The training views of a job.

    Raises:
        UserError: the crop is no whole number of patches.
    """
    whole_patches(job.side, clip, "side")
    mean, std = normalisation(clip, job.mean, job.std)
    return CropSettings(job.smallest, job.largest, job.side, mean, std, job.resize_filter)


def to_settings(job: TtdJob, clip: Clip, pairs: int, seed: int) -> tuple[TrainSettings, CropSettings]:
    """``train_settings`` and ``crop_settings``."""
    return train_settings(job, pairs, seed), crop_settings(job, clip)
