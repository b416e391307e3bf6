"""The protocol of a row: how an image becomes network input and scores become a decision."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

from ovss.errors import UserError


@dataclass(frozen=True)
class Geometry:
    """What decides the network input of an image; rows with equal geometries share it. Sizes in pixels."""

    resize: Literal["keep_ratio", "square"]
    short_side: int
    max_long_side: int
    crop: int | None
    stride: int | None
    window_padding: Literal["none", "patch"]
    normalisation: Literal["model", "clip", "imagenet", "none", "unit"]
    resize_filter: Literal["fixed_point", "antialias"] = "fixed_point"


@dataclass(frozen=True)
class Protocol:
    """Protocol values of one row on one data set; the meaning of each is in the papers' YAML schema.

    The logit scale is always a number here: a row that names none gets its model's own.
    """

    short_side: int
    crop: int | None
    stride: int | None
    names: str
    templates: str
    logit_scale: float
    resize: Literal["keep_ratio", "square"] = "keep_ratio"
    max_long_side: int = 2048
    window_padding: Literal["none", "patch"] = "none"
    normalisation: Literal["model", "clip", "imagenet", "none", "unit"] = "model"
    resize_filter: Literal["fixed_point", "antialias"] = "fixed_point"
    descriptions: str | None = None
    ambiguity_crop: int | None = None
    prob_threshold: float = 0.0
    area_threshold: float = 0.0
    background_threshold: float | None = None
    prompt_denoising: float | None = None
    score_size: Literal["original", "input"] = "original"
    scales: tuple[float, ...] = (1.0,)
    flip: bool = False
    pamr: bool = False
    crf: bool = False

    @classmethod
    def read(cls, values: Mapping[str, Any]) -> Protocol:
        """Protocol from a row's parameters.

        Raises:
            UserError: a value is missing or there is one too many.
        """
        known = {field.name for field in fields(cls)}
        if surplus := sorted(values.keys() - known):
            raise UserError(f"protocol.{surplus[0]}: no such protocol value; it has: {', '.join(sorted(known))}")
        try:
            return cls(**{**values, "scales": tuple(values.get("scales", (1.0,)))})
        except TypeError as error:
            raise UserError(f"protocol: a value is missing ({error})") from error

    @property
    def geometry(self) -> Geometry:
        """The part that decides the network input."""
        return Geometry(self.resize, self.short_side, self.max_long_side, self.crop, self.stride, self.window_padding,
                        self.normalisation, self.resize_filter)  # fmt: skip

    def refuse(self, method: str, *names: str) -> None:
        """Refuse protocol values other than the default that a method does not act on: none is ignored silently.

        Raises:
            UserError: one of ``names`` is not at its default.
        """
        defaults = {field.name: field.default for field in fields(self)}
        for name in names:
            if getattr(self, name) != defaults[name]:
                raise UserError(f"protocol.{name}: method {method} has no such step; leave it at {defaults[name]}")
