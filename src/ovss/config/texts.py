"""Sections of ``datasets.yaml`` for images with texts: sources to measure on, and pairs to train on."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from ovss.config.base import Strict

Task = Literal["tags", "captions", "expressions", "concepts"]
TASKS: Mapping[Task, tuple[str, ...]] = {
    "tags": ("ttd_tags",),
    "concepts": ("ttd_tags", "clip_surgery"),
    "captions": ("ttd_segment",),
    "expressions": ("ttd_segment",),
}
"""The methods that can be asked for each task."""


class TextSource(Strict):
    """One split of images with texts, and what is asked there.

    task: true words of captions, masks of captions, masks of expressions, or which concepts of a list an image shows.
    """

    title: str
    archives: tuple[str, ...] = Field(min_length=1)
    layout: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    split: str
    task: Task
    expected: dict[Literal["images", "texts", "masks"], Annotated[int, Field(ge=1)] | None] = Field(
        default_factory=dict
    )
    note: str | None = None

    @model_validator(mode="after")
    def _layout_exists(self) -> Self:
        if not (resources.files("ovss") / "data" / "text_layouts" / f"{self.layout}.py").is_file():
            raise ValueError(f"layout: there is no ovss/data/text_layouts/{self.layout}.py")
        return self

    def params(self, name: str) -> dict[str, Any]:
        """Parameters (JSON types) of the job that prepares it."""
        keep = {"archives", "layout", "split", "expected"}
        return {"source": name, **self.model_dump(mode="json", include=keep)}


class PairPart(Strict):
    """Shards of image-text pairs in one archive, and how many pairs the published collection has."""

    archive: str
    stem: str = Field(description="shards are named <stem>_00000.tar, ...; empty: 00000.tar, ...")
    expected: int | None = Field(default=None, ge=1)


class PairSet(Strict):
    """Image-text pairs to train on, by collection; each collection is pruned by its own statistics."""

    title: str
    parts: dict[str, PairPart] = Field(min_length=1)
    note: str | None = None
