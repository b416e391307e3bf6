"""How a source's raw label values become class indices: a small typed vocabulary, written in ``datasets.yaml``.

Light to import (no numpy); ``ovss.data.labels`` turns a map into a lookup table.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter, model_validator

IGNORED, IGNORED_WIDE = 255, 65535
"""The class index of pixels that are not scored: with at most 255 classes, and with more."""
HIGHEST_RAW = 65535
"""The highest raw value of a label image (16 bits)."""
MOST_CLASSES = 32767
"""Confusion counts keep class indices in 16 bits with a sign."""


def ignored_index(classes: int) -> int:
    """The class index of pixels that are not scored, with this many classes."""
    return IGNORED if classes <= IGNORED else IGNORED_WIDE


_RANGE = re.compile(r"(\d+)\.\.(\d+)")


def expand(items: Any) -> Any:
    """Raw values of a YAML list in which ``"3..7"`` stands for 3, 4, 5, 6, 7 (both ends included)."""
    if not isinstance(items, Iterable) or isinstance(items, str):
        return items
    values: list[Any] = []
    for item in items:
        found = _RANGE.fullmatch(item) if isinstance(item, str) else None
        values.extend(range(int(found[1]), int(found[2]) + 1) if found else [item])
    return values


def _expand_keys(table: Any) -> Any:
    if not isinstance(table, dict):
        return table
    flat: dict[Any, Any] = {}
    for key, value in table.items():
        for raw in expand([key]):
            if raw in flat:
                raise ValueError(f"raw value {raw} is given twice")
            flat[raw] = value
    return flat


def _unique(values: tuple[int, ...]) -> tuple[int, ...]:
    twice = sorted(value for value, count in Counter(values).items() if count > 1)
    if twice:
        raise ValueError(f"given twice: {', '.join(map(str, twice))}")
    return values


Raw = Annotated[int, Field(ge=0, le=HIGHEST_RAW)]
RawValues = Annotated[
    tuple[Raw, ...], BeforeValidator(expand, json_schema_input_type=list[int | str]), AfterValidator(_unique)
]
"""Raw values, each once; a list item ``"a..b"`` is a range."""


class _Map(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Identity(_Map):
    """Raw value k is class k for k < classes; every other value is ignored."""

    kind: Literal["identity"]
    classes: int = Field(ge=1, le=MOST_CLASSES)

    def table(self) -> tuple[dict[int, int], int]:
        """Class of each raw value, and the class of all values not in it."""
        return {raw: raw for raw in range(self.classes)}, ignored_index(self.classes)

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return self.classes


class ReduceZero(_Map):
    """Raw value k is class k - 1 for 1 <= k <= classes; 0 and every other value are ignored."""

    kind: Literal["reduce_zero"]
    classes: int = Field(ge=1, le=MOST_CLASSES)

    def table(self) -> tuple[dict[int, int], int]:
        """Class of each raw value, and the class of all values not in it."""
        return {raw: raw - 1 for raw in range(1, self.classes + 1)}, ignored_index(self.classes)

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return self.classes


def _ignored_of_order(given: dict[str, Any]) -> int:
    return ignored_index(given["first"] + len(given["raw"]))


class Order(_Map):
    """The raw values in class order: the i-th is class first + i; every other value is class ``other`` (or ignored)."""

    kind: Literal["order"]
    raw: RawValues = Field(min_length=1, max_length=MOST_CLASSES)
    first: int = Field(default=0, ge=0, le=MOST_CLASSES)
    other: int = Field(default_factory=_ignored_of_order, ge=0, le=IGNORED_WIDE)

    def table(self) -> tuple[dict[int, int], int]:
        """Class of each raw value, and the class of all values not in it."""
        return {raw: self.first + position for position, raw in enumerate(self.raw)}, self.other

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return self.first + len(self.raw)

    @model_validator(mode="after")
    def _other_is_a_class(self) -> Order:
        if self.num_classes > MOST_CLASSES:
            raise ValueError(f"{self.num_classes} classes, more than {MOST_CLASSES}")
        if self.other >= self.num_classes and self.other != ignored_index(self.num_classes):
            raise ValueError(f"other: {self.other} is no class and not {ignored_index(self.num_classes)} (ignored)")
        return self


def _ignored_of_table(given: dict[str, Any]) -> int:
    return ignored_index(max(set(given["values"].values()) - {IGNORED_WIDE}, default=0))


class Table(_Map):
    """The class of each raw value (a key ``"a..b"`` is a range); every other value is class ``other`` (or ignored).

    Class 255 stands for ignored pixels, or, where there are classes above it, 65535 does.
    """

    kind: Literal["table"]
    values: Annotated[
        dict[Raw, Raw],
        Field(min_length=1),
        BeforeValidator(_expand_keys, json_schema_input_type=dict[int | str, int]),
    ]
    other: int = Field(default_factory=_ignored_of_table, ge=0, le=IGNORED_WIDE)

    def table(self) -> tuple[dict[int, int], int]:
        """Class of each raw value, and the class of all values not in it."""
        return dict(self.values), self.other

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return max(self._used()) + 1

    def _used(self) -> set[int]:
        indices = {*self.values.values(), self.other} - {IGNORED_WIDE}
        return indices if max(indices, default=0) > IGNORED else indices - {IGNORED}

    @model_validator(mode="after")
    def _no_gap(self) -> Table:
        used = self._used()
        missing = sorted(set(range(max(used, default=-1) + 1)) - used)
        if missing or not used:
            raise ValueError(f"no raw value gives class {', '.join(map(str, missing)) or 0}")
        return self


LabelMap = Annotated[Identity | ReduceZero | Order | Table, Field(discriminator="kind")]
LABEL_MAP: TypeAdapter[Identity | ReduceZero | Order | Table] = TypeAdapter(LabelMap)
