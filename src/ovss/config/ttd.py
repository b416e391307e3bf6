"""Parameters of TTD's training: what the paper's rows vary, what a scale sets, and the two jobs made of them.

Source: Jo et al. 2024, Tables 5 to 8; what these leave open is a field with the value chosen here as its default.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, ValidationInfo, field_validator

from ovss.config.base import Strict

Base = Literal["maskclip", "tcl"]
Triple = tuple[float, float, float]
IMAGENET_MEAN: Triple = (0.485, 0.456, 0.406)
IMAGENET_STD: Triple = (0.229, 0.224, 0.225)
"""What TCL is trained and evaluated with."""


class TtdLearning(Strict):
    """What is learnt: base, losses, tags, adapters."""

    base: Base = Field(default="tcl", description="what makes pixel embeddings: MaskCLIP, or TCL's grounder")
    map: Literal["cosine", "mask"] = Field(
        default="mask",
        description="maps in the losses: cosines as Eq. 3 is printed, or the base's soft masks, "
        "which have the range 0..1 of the targets",
    )
    reduction: Literal["mean", "sum"] = Field(default="mean", description="of squared differences over the cells")
    tag_reduction: Literal["mean", "sum"] = Field(default="sum", description="of the tag loss over the words (Eq. 5)")
    distill: bool = Field(default=True, description="whether the caption's map learns from the union of its tags'")
    tag: bool = Field(default=True, description="whether the words' maps learn from themselves")
    tagging: Literal["pixel", "image", "nouns", "llm"] = Field(
        default="pixel",
        description="what selects words: largest gap of the best pixels, of the pooled image, a tagger's "
        "nouns, or a language model (input companion_llm)",
    )
    tagger: str = Field(default="pattern", description="part-of-speech tagger behind tagging: nouns")
    targets: Literal["qv10", "mlp4"] = Field(
        default="qv10", description="layers with adapters: query and value at rank 10, or feed-forward at rank 4"
    )
    rank: int | None = Field(default=None, ge=1, description="rank of the adapters on linear layers; null: the preset")
    convolution_rank: int = Field(default=10, ge=1, description="rank of the adapters on the grounder's convolutions")
    lora_scale: float = Field(default=1.0, gt=0, description="factor on the adapters' product (alpha over rank)")
    ignore_padding: bool = Field(default=True, description="whether padded cells stay out of scores and losses")
    schedule: float = Field(default=0.9, ge=0, description="power of the polynomial decay of the learning rate to 0")
    resize_filter: Literal["bicubic", "bilinear"] = Field(default="bicubic", description="how training views shrink")

    @field_validator("tag")
    @classmethod
    def _something_to_learn(cls, tag: bool, info: ValidationInfo) -> bool:
        if not tag and not info.data.get("distill", True):
            raise ValueError("tag and distill are both off; nothing is left to train, switch one on")
        return tag


class TtdChoices(TtdLearning):
    """``training.settings`` of a row in papers/ttd.yaml."""

    pruning: Literal["mean_plus_std", "none"] = Field(
        default="mean_plus_std", description="pairs more alike than mean plus deviation of their collection, or all"
    )
    prune_flip: bool = Field(default=True, description="whether pruning averages an image with its mirror image")
    max_words: int | None = Field(default=77, ge=1, description="longest caption in words; null: any")


class TtdLoop(Strict):
    """How long, how fast and on what sizes to train."""

    epochs: int = Field(default=1, ge=1, description="passes over the pairs that are kept")
    steps: int | None = Field(
        default=None, ge=1, description="exactly so many steps, over the pairs again and again; null: epochs decide"
    )
    batch: int = Field(default=32, ge=1, description="images of a step, over all processes")
    accumulate: int = Field(default=1, ge=1, description="parts in which a process takes its images of a step")
    lr: float = Field(default=1e-4, gt=0, description="first learning rate of AdamW")
    weight_decay: float = Field(default=5e-5, ge=0, description="of the adapters")
    precision: Literal["fp32", "bf16"] = Field(default="bf16", description="of the towers; losses are always float32")
    smallest: int = Field(default=320, ge=1, description="least long side of a training image, pixels")
    largest: int = Field(default=640, ge=1, description="greatest long side of a training image, pixels")
    side: int = Field(default=448, ge=1, description="side of the crop, pixels; smaller images are padded")
    coarse: bool = Field(
        default=False,
        description="run the first convolution of the grounder's stages before the doubling: fewer "
        "operations, equal up to rounding",
    )
    save_every: int = Field(
        default=500, ge=1, description="steps between saved states, from which a killed run goes on"
    )
    log_every: int = Field(default=50, ge=1, description="steps between lines of curves.csv")
    processes: int = Field(
        default=1, ge=1, description="processes that share every batch; each has a GPU, memory and workers of its own"
    )

    @field_validator("largest")
    @classmethod
    def _range(cls, largest: int, info: ValidationInfo) -> int:
        if largest < info.data.get("smallest", 1):
            raise ValueError(f"largest is below smallest ({info.data['smallest']}); swap them")
        return largest


class TtdScale(TtdLoop):
    """``train.ttd`` of a scale in params.yaml."""

    prune_side: int = Field(default=224, ge=1, description="side of the square images that pruning looks at, pixels")
    prune_batch: int = Field(default=64, ge=1, description="pairs that pruning encodes at a time")


class TtdJob(TtdLearning, TtdLoop):
    """Parameters of the stage ``train_ttd``."""

    collections: tuple[str, ...] = Field(min_length=1, description="collections of pairs, in the order of their rows")
    mean: Triple | None = Field(default=None, description="mean of RGB in 0..1; null: the model's own")
    std: Triple | None = Field(default=None, description="deviation of RGB in 0..1; null: the model's own")


class PruneJob(Strict):
    """Parameters of the stage ``prune``."""

    base: Base = Field(default="tcl", description="what makes pixel embeddings")
    side: int = Field(default=224, ge=1, description="side of the square images, pixels")
    flip: bool = Field(default=True, description="average an image with its mirror image")
    batch: int = Field(default=64, ge=1, description="pairs encoded at a time; decides rounding, so it is fixed")
    precision: Literal["fp32", "bf16"] = Field(default="bf16", description="of the towers")
    resize_filter: Literal["bicubic", "bilinear"] = Field(default="bicubic", description="how images are resized")
    mean: Triple | None = Field(default=None, description="mean of RGB in 0..1; null: the model's own")
    std: Triple | None = Field(default=None, description="deviation of RGB in 0..1; null: the model's own")
    collections: tuple[str, ...] = Field(min_length=1, description="collections of pairs, each with its own statistics")


def job_params(
    choices: TtdChoices,
    scale: TtdScale,
    collections: tuple[str, ...],
    mean: Triple | None = None,
    std: Triple | None = None,
) -> dict[str, Any]:
    """Parameters of ``train_ttd`` as JSON values: what its numbers depend on, and how often it is saved and shown."""
    learning = choices.model_dump(include=set(TtdLearning.model_fields))
    loop = scale.model_dump(include=set(TtdLoop.model_fields))
    job = TtdJob(**learning, **loop, collections=collections, mean=mean, std=std)
    return job.model_dump(mode="json")


def prune_params(
    choices: TtdChoices,
    scale: TtdScale,
    collections: tuple[str, ...],
    mean: Triple | None = None,
    std: Triple | None = None,
) -> dict[str, Any]:
    """Parameters of ``prune`` as JSON values: equal for all trainings of a base that prune alike."""
    job = PruneJob(
        base=choices.base,
        side=scale.prune_side,
        flip=choices.prune_flip,
        batch=scale.prune_batch,
        precision=scale.precision,
        resize_filter=choices.resize_filter,
        mean=mean,
        std=std,
        collections=collections,
    )
    return job.model_dump(mode="json")
