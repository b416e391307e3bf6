"""How a row of a table is run: protocol, named settings, training and the run itself."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, Literal, Self

from pydantic import Field, StrictBool, StrictFloat, StrictInt, StrictStr, model_validator

from ovss.config.base import Strict

Setting = StrictBool | StrictInt | StrictFloat | StrictStr
Settings = dict[str, Setting]
Metric = Literal[
    "miou", "fpr", "fnr", "caption_iou", "caption_iou_pooled", "caption_iou_both", "caption_iou_both_pooled",
    "precision", "recall", "f1", "accuracy", "map", "referring_iou", "referring_oiou", "class_preference",
    "space_preference", "seconds", "hours", "count", "text",
]  # fmt: skip


def need(what: str, name: str, known: Iterable[str]) -> None:
    """Refuse a name that is not known.

    Raises:
        ValueError: names what it is and what is allowed.
    """
    names = sorted(known)
    if name not in names:
        raise ValueError(f"{what} '{name}' is not known; allowed: {', '.join(names) or 'none is defined'}")


def unique(what: str, names: Iterable[str]) -> None:
    """Refuse a name that is given twice.

    Raises:
        ValueError: names the first one.
    """
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise ValueError(f"{what} '{twice[0]}' is used twice; every one needs its own")


class Protocol(Strict):
    """How images become predictions and predictions become numbers. Sizes are pixels of a model native to 224."""

    description: str = Field(description="Whose protocol it is, in one line.")
    resize: Literal["keep_ratio", "square"] = Field(
        default="keep_ratio", description="keep_ratio: fit short_side and max_long_side; square: short_side twice."
    )
    short_side: int = Field(gt=0, description="Shorter side after resizing.")
    max_long_side: int = Field(default=2048, gt=0, description="Limit of the longer side, ratio kept.")
    crop: int | None = Field(gt=0, description="Side of the sliding window; null: the whole image at once.")
    stride: int | None = Field(gt=0, description="Step of the sliding window; null with crop null.")
    window_padding: Literal["none", "patch"] = Field(
        default="none", description="patch: zero-pad a window symmetrically to whole patches and cut back."
    )
    normalisation: Literal["model", "clip", "imagenet", "none", "unit"] = Field(
        default="model",
        description="Mean and deviation: the model's own, CLIP's, ImageNet's; none: values 0..255; unit: values 0..1.",
    )
    resize_filter: Literal["fixed_point", "antialias"] = Field(
        default="fixed_point", description="fixed_point: OpenCV's bilinear; antialias: Pillow's bilinear."
    )
    names: str = Field(description="Which class-name list of the data set (datasets.yaml, classes).")
    templates: str = Field(description="Prompt templates that class names are put into, or a set of descriptions.")
    descriptions: str | None = Field(
        default=None, description="Set of descriptions (datasets.yaml) for ambiguity purification; null: the templates."
    )
    ambiguity_crop: int | None = Field(
        default=None, gt=0, description="Side to which ambiguity purification resizes the regions it looks at."
    )
    logit_scale: float | None = Field(
        gt=0, description="Factor on cosines before the softmax over queries; null: the model's own."
    )
    prob_threshold: float = Field(default=0.0, ge=0, le=1, description="Less sure pixels become class 0.")
    area_threshold: float = Field(default=0.0, ge=0, le=1, description="Classes covering less of the foreground go.")
    background_threshold: float | None = Field(default=None, description="Constant plane for the class background.")
    prompt_denoising: float | None = Field(default=None, description="Classes never this sure are dropped per image.")
    score_size: Literal["original", "input"] = Field(
        default="original", description="Size at which scores are decided and compared with the label."
    )
    scales: tuple[float, ...] = Field(default=(1.0,), description="Image scales whose scores are averaged.")
    flip: bool = Field(default=False, description="Average with the mirrored image.")
    pamr: bool = Field(default=False, description="Pixel-adaptive mask refinement of the scores.")
    crf: bool = Field(default=False, description="Dense CRF on the scores.")
    per_column: dict[str, dict[str, Any]] = Field(
        default_factory=dict, description="Fields that differ on a data set, by the name columns give it."
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.crop is None) != (self.stride is None):
            raise ValueError("crop and stride: give both or neither")
        for column in self.per_column:
            self.on(column)
        return self

    def changed(self, changes: Mapping[str, Any]) -> Protocol:
        """This protocol with other values for some fields.

        Raises:
            ValueError: a field that protocols do not have, or a value it cannot take.
        """
        fields = set(Protocol.model_fields) - {"description", "per_column"}
        for key in changes:
            need("protocol field", key, fields)
        return Protocol.model_validate({**self.model_dump(), **changes})

    def on(self, dataset: str) -> Protocol:
        """The protocol on one data set: its overrides applied and then gone."""
        changes = self.per_column.get(dataset, {})
        return self.model_copy(update={"per_column": {}}).changed(changes)

    def params(self) -> dict[str, Any]:
        """JSON values for a row's parameters: fields without default always, the others where they differ."""
        optional = ("resize", "normalisation", "resize_filter", "descriptions", "ambiguity_crop",
                    "background_threshold", "prompt_denoising", "scales", "flip", "pamr", "crf")  # fmt: skip
        values = self.model_dump(mode="json", exclude={"description", "per_column"})
        default = Protocol.model_fields
        return {key: value for key, value in values.items()
                if key not in optional or getattr(self, key) != default[key].default}  # fmt: skip


class Preset(Strict):
    """Settings of a method under one name, so that rows need not repeat them."""

    description: str
    settings: Settings = Field(default_factory=dict)
    companions: dict[str, str] = Field(default_factory=dict, description="As in a run.")
    per_column: dict[str, Settings] = Field(
        default_factory=dict, description="Settings that differ on a data set, by the name columns give it."
    )


class Training(Strict):
    """What must be trained before a row can run."""

    method: str = Field(description="Training method.")
    data: str = Field(description="Training data: 'images' of the column's own data set, or a caption collection.")
    settings: Settings = Field(default_factory=dict)
    companions: dict[str, str] = Field(
        default_factory=dict, description="Model roles that the training asks, by the name that it gives them."
    )


class Run(Strict):
    """A method with its settings: what makes a row's numbers."""

    method: str = Field(description="Name of the module under ovss.methods.")
    model: str | None = Field(description="Model role of this paper; null: the method needs none.")
    protocol: str = Field(description="Protocol of this paper.")
    preset: str | None = Field(default=None, description="Named settings of this paper, applied first.")
    settings: Settings = Field(default_factory=dict, description="The method's settings.")
    settings_per_column: dict[str, Settings] = Field(
        default_factory=dict, description="Settings that differ in a column of this table."
    )
    protocol_changes: dict[str, Any] = Field(default_factory=dict, description="Protocol fields this row changes.")
    companions: dict[str, str] = Field(
        default_factory=dict, description="Model roles beside the main one, by the name that the method gives them."
    )
    captions: str | None = Field(
        default=None,
        description="Caption collection (a role of this paper) from which segments take words.",
    )
    training: Training | None = None
    dataset: str | None = Field(default=None, description="Where rows, not columns, name the data set.")
    metrics: dict[str, Metric] = Field(
        default_factory=dict, description="Columns where this row measures another thing."
    )
    columns: tuple[str, ...] | None = Field(default=None, description="Only these columns; null: all of the table.")
    needs: tuple[str, ...] = Field(default=(), description="Resources that must be provided before the row can run.")
