"""Parameters of the procedural world and of the models trained on it."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class SceneStyle(_Strict):
    """What the scenes of one data set look like."""

    kind: Literal["any", "street"] = Field(
        default="any", description="background layouts: any, or street scenes with a road"
    )
    things: list[float] = Field(default=[0.1, 0.35, 0.3, 0.25], description="weights of 0, 1, 2, ... things in a scene")
    sizes: tuple[float, float] = Field(default=(0.22, 0.55), description="side of a thing, in short sides of the scene")
    main: float = Field(default=1.35, description="factor on the size of the main thing")
    centred: float = Field(default=0.4, ge=0, le=1, description="0: the main thing anywhere, 1: in the centre")
    habitat: float = Field(default=0.6, ge=0, le=1, description="share of things that stand where their class belongs")
    brightness: tuple[float, float] = Field(default=(0.7, 1.2), description="range of the light's strength")
    tint: float = Field(default=0.07, ge=0, description="standard deviation of the light's colour")
    shading: float = Field(default=0.4, ge=0, description="largest fall of light from one side to the other")
    colour_noise: float = Field(default=12.0, ge=0, description="standard deviation of a scheme's colours, of 255")
    schemes: int = Field(default=3, ge=1, description="colour schemes in use per class (some classes have up to 6)")
    odd_colours: float = Field(
        default=0.05, ge=0, le=1, description="share of surfaces in the colours of another class"
    )
    grain: tuple[float, float] = Field(
        default=(2.0, 9.0), description="range of the film grain's standard deviation, of 255"
    )


class CaptionStyle(_Strict):
    """How captions are worded."""

    main: float = Field(default=0.95, description="probability that the largest thing is named")
    others: float = Field(default=0.2, description="probability for each other thing")
    stuff: float = Field(default=0.3, description="probability for each stuff class when a thing is named")
    alone: float = Field(default=0.95, description="probability for the largest stuff class when no thing is named")
    synonym: float = Field(default=0.25, description="probability of another noun than the class name")
    wrong: float = Field(default=0.1, description="probability of a noun for a class that is not in the image")
    tails: float = Field(default=0.35, description="probability of a phrase that has nothing to do with the image")
    template: float = Field(default=0.5, description="probability of a prompt template around the phrase")
    thing_area: float = Field(default=0.02, description="smallest share of the view at which a thing is nameable")
    stuff_area: float = Field(default=0.08, description="smallest share of the view at which stuff is nameable")


class WorldData(_Strict):
    """One archive set in the world."""

    layout: Literal["voc2012", "ade20k", "coco", "context", "cityscapes"] = Field(description="original to imitate")
    train: int = Field(ge=1, description="training images")
    val: int = Field(ge=1, description="validation images")
    shapes: list[tuple[int, int, float]] = Field(
        default=[(128, 160, 3), (160, 128, 1), (128, 128, 1), (128, 176, 1)], description="image rows, columns, weight"
    )
    style: SceneStyle = Field(default=SceneStyle(), description="the scenes")
    values: dict[str, int] = Field(
        default={}, description="raw label value of each class (the plan fills in datasets.yaml's world_values)"
    )


class WorldParams(_Strict):
    """The world: its drawings, its data sets, its captions."""

    variants: int = Field(default=48, ge=1, description="sprites per class; a quarter as many tiles per stuff class")
    data: dict[str, WorldData] = Field(description="archive name -> what to write")
    captions: CaptionStyle = Field(default=CaptionStyle(), description="captions of the caption files")
    caption_style: SceneStyle = Field(default=SceneStyle(), description="scenes behind the caption files")
    cc3m: int = Field(default=3000, ge=0, description="lines of Train_GCC-training.tsv; 0: no such file")
    cc12m: int = Field(default=6000, ge=0, description="lines of cc12m.tsv; 0: no such file")


class WorldTexts(_Strict):
    """What to draw; an archive whose count is 0 is not written."""

    variants: int = Field(default=48, ge=1, description="sprites per class, the same as the world's")
    style: SceneStyle = Field(default=SceneStyle(), description="the scenes")
    captions: CaptionStyle = Field(default=CaptionStyle(), description="the captions")
    shapes: list[tuple[int, int, float]] = Field(
        default=[(128, 160, 3), (160, 128, 1), (128, 128, 1), (128, 176, 1)], description="image rows, columns, weight"
    )
    tags: int = Field(default=0, ge=0, description="captions with true words (cc3m_for_evaluation.zip)")
    masks: int = Field(default=0, ge=0, description="of these, captions with the mask of what they name")
    concepts: int = Field(default=0, ge=0, description="images of each split of the list of concepts (NUS-WIDE.zip)")
    objects: int = Field(default=0, ge=0, description="objects in each of val, testA, testB (refcoco.zip and others)")
    cc3m: int = Field(default=0, ge=0, description="pairs to train on, as CC3M")
    cc12m: int = Field(default=0, ge=0, description="pairs to train on, as CC12M")
    mismatched: float = Field(default=0.2, ge=0, le=1, description="share of pairs whose caption is another scene's")
    pair_side: int = Field(default=80, ge=8, description="long side of the images of pairs in pixels")


class ViewParams(_Strict):
    """Training views: crops of scenes with captions that are true for the crop."""

    variants: int = Field(default=48, ge=1, description="sprites per class, the same as the world's")
    style: SceneStyle = Field(default=SceneStyle(), description="the scenes")
    captions: CaptionStyle = Field(default=CaptionStyle(), description="the captions")
    zoom: float = Field(default=0.9, ge=0, le=1, description="probability of a crop instead of the whole scene")
    crop: tuple[float, float] = Field(default=(0.25, 0.8), description="side of a crop, log-uniform, in short sides")
    aimed: float = Field(default=0.75, ge=0, le=1, description="share of crops that are centred on a thing")
    crops_per_scene: int = Field(default=4, ge=1, description="steps for which a scene is cropped anew")


class Schedule(_Strict):
    """How long and how fast to train."""

    steps: int = Field(ge=1, description="optimiser steps")
    batch: int = Field(ge=2, description="views per step")
    lr: float = Field(default=1e-3, gt=0, description="peak learning rate")
    scalar_lr: float = Field(
        default=10.0, gt=0, description="factor on the rate of scalars, that is CLIP's logit scale"
    )
    warmup: float = Field(default=0.08, ge=0, lt=1, description="share of the steps with a rising learning rate")
    weight_decay: float = Field(default=0.1, ge=0, description="AdamW weight decay of matrices")
    beta2: float = Field(default=0.98, gt=0, lt=1, description="AdamW second-moment decay")
    clip: float = Field(default=1.0, gt=0, description="largest gradient norm")
    ema: float = Field(default=0.0, ge=0, lt=1, description="decay of averaged weights, 0 = off")
    log_every: int = Field(default=50, ge=1, description="steps between lines of curves.csv")


class ClipTrainParams(_Strict):
    """A small CLIP trained from nothing on the world's views."""

    views: ViewParams = Field(default=ViewParams(), description="what it sees")
    schedule: Schedule = Field(description="optimiser")
    embed_dim: int = Field(default=96, description="joint dimension")
    image_size: int = Field(default=64, description="input side in pixels")
    patch_size: int = Field(default=8, description="patch side in pixels")
    width: int = Field(default=128, description="vision width")
    layers: int = Field(default=4, description="vision blocks")
    head_width: int = Field(default=32, description="vision head size")
    mlp_ratio: float = Field(
        default=2.0, gt=0, description="hidden width of the vision blocks' feed-forward part, in widths"
    )
    text_width: int = Field(default=64, description="text width")
    text_layers: int = Field(default=2, description="text blocks")
    text_heads: int = Field(default=2, description="text heads")
    context_length: int = Field(default=32, description="text tokens")
    merges: int = Field(default=600, description="byte-pair merges learnt from the captions")
    patch_dropout: float = Field(default=0.5, ge=0, lt=1, description="share of patches left out while training (FLIP)")
    unmasked: float = Field(default=0.1, ge=0, le=1, description="share of the steps, at the end, with all patches")
    position_std: float = Field(default=0.02, ge=0, description="initial spread of the position embeddings")
    quick_gelu: bool = Field(default=False, description="QuickGELU as OpenAI's weights, else GELU")
    val_views: int = Field(default=200, ge=1, description="held-out views for the curves")


class DinoTrainParams(_Strict):
    """A small self-distilled ViT (DINO) trained from nothing on the world's views."""

    views: ViewParams = Field(default=ViewParams(), description="what it sees")
    schedule: Schedule = Field(description="optimiser")
    width: int = Field(default=64, description="width")
    layers: int = Field(default=4, description="blocks")
    heads: int = Field(default=2, description="heads")
    image_size: int = Field(default=64, description="input side in pixels")
    patch_size: int = Field(default=8, description="patch side in pixels")
    prototypes: int = Field(default=256, description="output dimension of the head")
    local_crops: int = Field(default=2, ge=0, description="small crops per image, seen by the student only")
    momentum: float = Field(default=0.99, description="first value of the teacher's averaging, rising to 1")
    student_temperature: float = Field(default=0.1, description="softmax temperature of the student")
    teacher_temperature: float = Field(default=0.05, description="softmax temperature of the teacher")
    patch_loss: float = Field(default=1.0, ge=0, description="weight of the masked-patch loss (iBOT)")
