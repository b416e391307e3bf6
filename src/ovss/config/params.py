"""``params.yaml``: one seed, one scale, and every knob of every scale, typed."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from ovss.config.base import Strict, load_yaml
from ovss.config.tcl import TclTrainParams
from ovss.config.ttd import TtdScale
from ovss.config.world import ClipTrainParams, DinoTrainParams, WorldParams, WorldTexts

ScaleName = Literal["smoke", "tiny", "small", "full"]


class Bootstrap(Strict):
    """Paired bootstrap over images."""

    resamples: int = Field(default=1000, ge=10, description="number of resamples of the images")
    level: float = Field(default=0.95, gt=0, lt=1, description="confidence level of every interval")


class Training(Strict):
    """The models that a scale trains from scratch, by model name, and how long it trains those that rows ask for."""

    clip: dict[str, ClipTrainParams] = Field(default_factory=dict, description="CLIP models, by name")
    dino: dict[str, DinoTrainParams] = Field(default_factory=dict, description="DINO-style models, by name")
    tcl: dict[str, TclTrainParams] = Field(default_factory=dict, description="TCL models, by name")
    ttd: TtdScale = Field(default=TtdScale(), description="TTD's training of a base model")


class Scale(Strict):
    """One scale of the workflow."""

    about: str = Field(description="one sentence for the report: what this scale is")
    world: WorldParams | None = Field(
        default=None, description="the procedurally generated world; null where real data is used"
    )
    world_texts: dict[str, WorldTexts] = Field(
        default_factory=dict, description="images with texts in the generated world, by archive"
    )
    train: Training = Field(default_factory=Training, description="models trained from scratch at this scale")
    columns: dict[str, str | None] = Field(
        description="data set (datasets.yaml) behind each column of the papers' tables; null: none yet at this scale"
    )
    templates: str | None = Field(default=None, description="prompt templates used in place of every protocol's own")
    image_scales: tuple[float, ...] | None = Field(
        default=None, description="image scales used in place of those of protocols that name several"
    )
    descriptions: dict[str, str] = Field(
        default_factory=dict, description="set of descriptions used in place of each of the papers' sets"
    )
    model_input: int | None = Field(
        default=None, gt=0, description="input size of the models; pixel sizes of protocols are scaled by it / 224"
    )
    model_patch: int | None = Field(default=None, gt=0, description="patch size to which scaled sizes are rounded")
    shard_images: int | None = Field(default=None, gt=0, description="images per evaluation job; null: all in one")
    caption_rows: int = Field(default=250_000, gt=0, description="captions per shard of a caption collection")
    examples: int = Field(default=4, ge=0, description="images per data set whose predictions are kept for the gallery")
    bootstrap: Bootstrap = Field(default=Bootstrap())
    tolerance: float | None = Field(
        default=None, ge=0, description="largest difference to a published number that counts as within"
    )
    papers: list[str] | None = Field(default=None, description="papers to run; null: all")
    left_out: dict[str, tuple[str, ...]] = Field(
        default_factory=dict, description="data sets that a paper's rows are not run on at this scale, by paper"
    )
    tables: list[str] | None = Field(default=None, description="tables to run, as paper.table; null: all")


class Params(Strict):
    """The whole of params.yaml."""

    seed: int = Field(ge=0, description="the one seed of everything random")
    scale: ScaleName = Field(description="the scale that is run unless a command says otherwise")
    smoke: Scale
    tiny: Scale
    small: Scale
    full: Scale

    def at(self, scale: str | None = None) -> Scale:
        """The section of one scale (default: the chosen one)."""
        return getattr(self, scale or self.scale)


SCALES: tuple[str, ...] = ("smoke", "tiny", "small", "full")


def load_params(root: Path) -> Params:
    """Read ``params.yaml`` of a project."""
    return load_yaml(root / "params.yaml", Params, root)
