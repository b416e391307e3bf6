"""``datasets.yaml``: what is downloaded and how it is seen.

Archives (downloads), descriptions (sentences of class names), sources (one prepared split each), data sets (a source
seen with labels).
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from ovss.config.base import Strict, load_yaml
from ovss.config.descriptions import DescriptionSet
from ovss.config.files import DownloadedFile, fetched
from ovss.config.own import OwnDataset
from ovss.config.texts import PairSet, TextSource
from ovss.data.class_names import class_list
from ovss.data.label_maps import LabelMap, RawValues


class Archive(Strict):
    """Files that are downloaded together, their licence, and what a person must do where no download is possible.

    Without files it is a folder that a person fills (``data/manual/<name>``). world: the entry of params.yaml's
    world_texts that writes it, where that has another name.
    """

    title: str
    licence: str
    files: tuple[DownloadedFile, ...] = ()
    login: bool = False
    manual: str | None = None
    landing: str | None = None
    used_in: dict[str, str] = Field(default_factory=dict)
    world: str | None = None
    note: str | None = None

    @model_validator(mode="after")
    def _reachable(self) -> Archive:
        names = [file.name for file in self.files]
        if len(set(names)) < len(names):
            raise ValueError("two files have the same name")
        by_hand = [file.name for file in self.files if file.url is None]
        if (by_hand or self.login or not self.files) and not self.manual:
            raise ValueError(f"{', '.join(by_hand) or 'a login or folder'}: 'manual' must say what a person has to do")
        return self


class Source(Strict):
    """One split of one or more archives, brought into the common form (images, raw labels, index)."""

    archives: tuple[str, ...] = Field(min_length=1)
    layout: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    split: str
    images: int | None = Field(default=None, ge=1)
    allowed_values: RawValues | None = None
    note: str | None = None
    world_values: dict[str, Annotated[int, Field(ge=0)]] | None = None
    world_other: int | None = None


CaptionFormat = Literal[
    "caption_url_tsv", "url_caption_tsv", "wordnet_nouns", "words", "coco_captions", "redcaps", "sbu", "wit",
    "json_lines", "parquet", "cased",
]  # fmt: skip


class CaptionFiles(Strict):
    """Files of one archive that hold captions in one format."""

    archive: str
    format: CaptionFormat
    files: tuple[str, ...] = Field(min_length=1)


class Captions(Strict):
    """A caption collection: every caption or word of its files, in order."""

    title: str
    sources: tuple[CaptionFiles, ...] = Field(min_length=1)
    deduplicate: bool = Field(default=False, description="leave out captions that occurred before, letter by letter")
    rows: int | None = Field(default=None, ge=1, description="captions, roughly; for estimates, never checked")
    note: str | None = None


class Naming(Strict):
    """How a code base writes its class lists."""

    separator: str = Field(min_length=1)
    note: str | None = None


class Dataset(Strict):
    """A source seen through a label map, with its class names.

    classes: by naming, a file in ``ovss/resources/classes``, or the lines themselves.
    """

    title: str
    source: str
    labels: LabelMap
    background: bool = False
    classes: dict[str, str | tuple[str, ...]]
    note: str | None = None

    @property
    def num_classes(self) -> int:
        """Number of classes, background included."""
        return self.labels.num_classes

    def class_file(self, naming: str) -> str | tuple[str, ...]:
        """Class list (or its file) under a naming; the default list where the naming has none of its own."""
        return self.classes.get(naming, self.classes["default"])

    @model_validator(mode="after")
    def _class_lists(self) -> Dataset:
        if "default" not in self.classes:
            raise ValueError("classes: 'default' is missing")
        for naming, file in self.classes.items():
            lines = len(class_list(file) if isinstance(file, str) else file)
            if lines != self.num_classes:
                shown = file if isinstance(file, str) else "it"
                raise ValueError(f"classes.{naming}: {shown} has {lines} lines, the labels {self.num_classes} classes")
        return self


class Datasets(Strict):
    """The whole of ``datasets.yaml``."""

    references: dict[str, str] = Field(default_factory=dict)
    namings: dict[str, Naming]
    archives: dict[str, Archive]
    descriptions: dict[str, DescriptionSet] = Field(default_factory=dict)
    captions: dict[str, Captions] = Field(default_factory=dict)
    text_sources: dict[str, TextSource] = Field(default_factory=dict)
    pairs: dict[str, PairSet] = Field(default_factory=dict)
    sources: dict[str, Source]
    datasets: dict[str, Dataset]
    own: dict[str, OwnDataset] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _own_data_sets(self) -> Datasets:
        """An entry of one's own is an archive that a person fills, its only source, and a data set of its name."""
        for name, entry in self.own.items():
            for section, known in (("archives", self.archives), ("sources", self.sources), ("datasets", self.datasets)):
                if name in known:
                    raise ValueError(f"own.{name}: section '{section}' has this name, too; rename one of them")
            manual = f"images in {entry.images}, label PNGs in {entry.masks}"
            self.archives[name] = Archive(title=entry.title, licence=entry.licence, manual=manual)
            self.sources[name] = Source(
                archives=(name,), layout="folders", split="all", allowed_values=entry.allowed_values
            )
            self.datasets[name] = Dataset(
                title=entry.title,
                source=name,
                labels=entry.labels,
                background=entry.background,
                classes={"default": entry.classes},
            )
        return self

    @model_validator(mode="after")
    def _names_exist(self) -> Datasets:
        for name, archive in self.archives.items():
            stated = (ref for file in archive.files for refs in file.stated_in.values() for ref in refs)
            _known(f"archives.{name}.files.stated_in", stated, self.references, "references")
        for name, found in self.descriptions.items():
            _known(f"descriptions.{name}.files", found.files, self.datasets, "datasets")
            if found.archive is not None:
                _known(f"descriptions.{name}.archive", [found.archive], self.archives, "archives")
                files = {file.name: file for file in self.archives[found.archive].files}
                _known(f"descriptions.{name}.files", found.files.values(), files, f"archives.{found.archive}.files")
        for name, collection in self.captions.items():
            for part in collection.sources:
                where = f"captions.{name}.sources"
                _known(where, [part.archive], self.archives, "archives")
                offered = {file.name: file for file in self.archives[part.archive].files}
                _known(f"{where}.files", part.files, offered, f"archives.{part.archive}.files")
        for name, texts in self.text_sources.items():
            _known(f"text_sources.{name}.archives", texts.archives, self.archives, "archives")
        for name, pairs in self.pairs.items():
            _known(f"pairs.{name}", [part.archive for part in pairs.parts.values()], self.archives, "archives")
        if twice := sorted(set(self.text_sources) & set(self.datasets)):
            raise ValueError(f"text_sources.{twice[0]}: a data set has the same name; rename one of them")
        for name, source in self.sources.items():
            _known(f"sources.{name}.archives", source.archives, self.archives, "archives")
            _layout_exists(name, source.layout)
        for name, dataset in self.datasets.items():
            _known(f"datasets.{name}.source", [dataset.source], self.sources, "sources")
            _known(f"datasets.{name}.classes", dataset.classes, self.namings, "namings")
            allowed = self.sources[dataset.source].allowed_values
            named, _ = dataset.labels.table()
            if allowed is not None and not set(named) <= set(allowed):
                extra = sorted(set(named) - set(allowed))
                raise ValueError(f"datasets.{name}.labels: raw values {extra[:5]} are not allowed in {dataset.source}")
        return self


def _known(key: str, names: Any, known: Mapping[str, Any], section: str) -> None:
    missing = sorted(set(names) - set(known))
    if missing:
        raise ValueError(f"{key}: {', '.join(missing)} is not in section '{section}'")


def _layout_exists(source: str, layout: str) -> None:
    folder = resources.files("ovss") / "data" / "layouts"
    if not (folder / f"{layout}.py").is_file():
        raise ValueError(f"sources.{source}.layout: there is no ovss/data/layouts/{layout}.py")


def load_datasets(path: Path, root: Path | None = None) -> Datasets:
    """Read ``datasets.yaml``.

    Raises:
        UserError: names the file, the key and what is wrong.
    """
    return load_yaml(path, Datasets, root)


def fetch_params(config: Datasets, archive: str) -> dict[str, Any]:
    """Parameters (JSON types) of the job that fetches an archive; they hold facts that change bytes, not prose."""
    entry = config.archives[archive]
    return {"archive": archive, "files": fetched(entry.files)}


def prepare_params(config: Datasets, source: str) -> dict[str, Any]:
    """Parameters (JSON types) of the job that prepares a source; its inputs are {archive: fetch directory}."""
    keep = {"archives", "layout", "split", "images", "allowed_values"}
    return {"source": source, **config.sources[source].model_dump(mode="json", include=keep)}


def labels_params(config: Datasets, dataset: str) -> dict[str, Any]:
    """The data set part of a row's parameters: label map, number of classes, background."""
    entry = config.datasets[dataset]
    return {
        "name": dataset,
        "labels": entry.labels.model_dump(mode="json"),
        "num_classes": entry.num_classes,
        "background": entry.background,
    }


def uses_world(archive: Archive) -> bool:
    """Whether any file of the archive is made by the world job instead of downloaded."""
    return any((file.url or "").startswith("world://") for file in archive.files)
