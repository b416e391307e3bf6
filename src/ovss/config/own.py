"""Section ``own`` of ``datasets.yaml``: a data set of one's own, a folder of images and a folder of label PNGs."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import BeforeValidator, Field, model_validator

from ovss.config.base import Strict
from ovss.data.label_maps import LabelMap, RawValues, ignored_index


def _listed(value: object) -> object:
    return [value] if isinstance(value, int) else value


class OwnDataset(Strict):
    """All that is said of a data set of one's own: where its files are, and what the values in its labels mean."""

    title: str = Field(min_length=1)
    images: str = Field(min_length=1, description="folder of the images, from the project's folder on")
    masks: str = Field(
        min_length=1,
        description="folder of the label PNGs (8-bit, or 16-bit for values above 255; a PNG named as its image)",
    )
    labels: LabelMap
    classes: tuple[str, ...] = Field(description="names of each class in class order, parted by ', '")
    ignore: Annotated[RawValues, BeforeValidator(_listed, json_schema_input_type=int | list[int | str])] = Field(
        default=(), description="raw values that are not scored; a value that neither this nor labels has is refused"
    )
    background: bool = Field(default=False, description="class 0 is 'none of the others'")
    licence: str = "one's own"
    note: str | None = None

    @property
    def names(self) -> list[list[str]]:
        """Names of each class."""
        return [[name.strip() for name in line.split(",")] for line in self.classes]

    @property
    def allowed_values(self) -> tuple[int, ...]:
        """Raw values that may occur."""
        return tuple(sorted({*self.labels.table()[0], *self.ignore}))

    @model_validator(mode="after")
    def _classes(self) -> Self:
        if len(self.classes) != self.labels.num_classes:
            raise ValueError(f"classes has {len(self.classes)} names, labels gives {self.labels.num_classes} classes")
        if blank := [number for number, names in enumerate(self.names) if not all(names)]:
            raise ValueError(f"classes: class {blank[0]} has an empty name")
        if twice := sorted({line for line in self.classes if self.classes.count(line) > 1}):
            raise ValueError(f"classes: '{twice[0]}' is there twice")
        return self

    @model_validator(mode="after")
    def _ignored(self) -> Self:
        known, other = self.labels.table()
        for value in self.ignore:
            if (index := known.get(value, other)) != ignored_index(self.labels.num_classes):
                raise ValueError(f"ignore: raw value {value} is class {index} in labels; take it out of one of them")
        return self


class OwnSection(Strict):
    """The section alone, which is checked before and without the rest of the file."""

    own: dict[str, OwnDataset]
