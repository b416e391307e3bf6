"""``weights.yaml``: pretrained models, where they come from, how they are loaded and preprocessed."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidatorFunctionWrapHandler, field_validator, model_validator

from ovss.config.base import Strict, load_yaml
from ovss.config.files import DownloadedFile, fetched


class Norm(Strict):
    """Normalisation of RGB values in 0..1, and the resize filter (null: not stated)."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: Literal["bicubic", "bilinear"] | None = None


class Loaders(Strict):
    """Names under which libraries know the model (null: they do not)."""

    open_clip: tuple[str, str] | None = Field(default=None, description="model name, pretrained tag")
    openai_clip: str | None = None
    timm: str | None = None
    transformers: str | None = None
    sentence_transformers: str | None = None
    segment_anything: str | None = None
    sam_hq: str | None = None
    torch_hub: str | None = None
    note: str | None = None


class WeightFile(DownloadedFile):
    """A file of a model: downloaded, placed by hand, or of an installed Python package (package://NAME/PATH)."""

    @field_validator("url", mode="wrap")
    @classmethod
    def _packaged(cls, url: Any, handler: ValidatorFunctionWrapHandler) -> Any:
        return url if re.fullmatch(r"package://\w+(/[\w+-][\w.+-]*)+", str(url)) else handler(url)

    @model_validator(mode="after")
    def _has_hash(self) -> WeightFile:
        if (self.url or "").startswith("package://") and self.sha256 is None:
            raise ValueError(f"{self.name}: a file of a package needs its sha256")
        return self


class Weight(Strict):
    """One pretrained model."""

    title: str
    licence: str
    used_in: dict[str, str] = Field(default_factory=dict)
    files: tuple[WeightFile, ...] = Field(min_length=1)
    format: Literal["torchscript", "pickle", "safetensors"]
    load: Loaders = Loaders()
    norm: Norm | None = None
    input: int | None = Field(default=None, ge=1, description="side of the square input, pixels")
    patch: int | None = Field(default=None, ge=1, description="patch side or total stride, pixels")
    embed_dim: int | None = Field(default=None, ge=1)
    parameters: int | None = Field(default=None, ge=1)
    manual: str | None = None
    note: str | None = None

    @model_validator(mode="after")
    def _reachable(self) -> Weight:
        by_hand = [file.name for file in self.files if file.url is None]
        if by_hand and not self.manual:
            raise ValueError(f"{', '.join(by_hand)}: 'manual' must say what a person has to do")
        return self

    @property
    def packaged(self) -> bool:
        """Whether every file comes with an installed package, so that it is there without a network."""
        return all((file.url or "").startswith("package://") for file in self.files)

    def fetch_params(self, name: str) -> dict[str, Any]:
        """Parameters (JSON types) of the fetch job; by-hand files lie under data/manual/<name>/."""
        return {"archive": name, "files": fetched(self.files)}

    def convert_params(self, name: str) -> dict[str, Any]:
        """Parameters (JSON types) of the job that turns the files into a model directory."""
        facts = self.model_dump(mode="json", include={"format", "norm", "input", "patch", "embed_dim"})
        load = self.load.model_dump(mode="json", exclude={"note"}, exclude_none=True)
        return {"weights": name, "files": [file.name for file in self.files], "load": load, **facts}


class Weights(Strict):
    """The whole of ``weights.yaml``."""

    references: dict[str, str] = Field(default_factory=dict)
    norms: dict[str, Norm] = Field(default_factory=dict)
    weights: dict[str, Weight]

    @model_validator(mode="after")
    def _names_exist(self) -> Weights:
        for name, weight in self.weights.items():
            for file in weight.files:
                missing = {ref for refs in file.stated_in.values() for ref in refs} - set(self.references)
                if missing:
                    raise ValueError(
                        f"weights.{name}.files.stated_in: {', '.join(sorted(missing))} is not in 'references'"
                    )
        return self


def load_weights(path: Path, root: Path | None = None) -> Weights:
    """Read ``weights.yaml``.

    Raises:
        UserError: names the file, the key and what is wrong.
    """
    return load_yaml(path, Weights, root)
