"""The section on the tiny world: how often each class occurs, what the captions say, what scenes look like."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from ovss.errors import UserError
from ovss.report.gallery import jpeg_uri
from ovss.report.inputs import read_json

_WIDTH, _CAPTIONS = 880, 16
SPLIT = "val"
"""The split whose frequencies are shown: the one that rows are evaluated on."""


@dataclass(frozen=True)
class World:
    """What the world jobs of a scale tell about it.

    datasets: (name, validation images). classes: (name, percent of the validation images of each data set that show
    it). synonyms: (class, other words in captions). previews: (name, data URI).
    """

    datasets: list[tuple[str, int]]
    classes: list[tuple[str, list[float]]]
    captions: list[str]
    synonyms: list[tuple[str, str]]
    previews: list[tuple[str, str]]


def load(directories: Mapping[str, Path]) -> World | None:
    """Join what the world jobs tell (one per archive, all of one world); None without any.

    Raises:
        UserError: a world.json or a preview is damaged.
    """
    found = [(path, read_json(path / "world.json")) for path in directories.values() if (path / "world.json").is_file()]
    if not found:
        return None
    worlds = [world for _, world in found]
    splits = {name: counts for world in worlds for name, counts in world.get("frequencies", {}).items()}
    counted = {name: counts[SPLIT] for name, counts in sorted(splits.items()) if counts.get(SPLIT, {}).get("images")}
    captions = dict.fromkeys(text for world in worlds for text in world.get("captions", []))
    names = worlds[0].get("classes", [])
    return World(
        datasets=[(name, int(counts["images"])) for name, counts in counted.items()],
        classes=[(name, [_percent(counts, name) for counts in counted.values()]) for name in names],
        captions=list(captions)[:_CAPTIONS],
        synonyms=[(name, ", ".join(words)) for name, words in worlds[0].get("synonyms", {}).items()],
        previews=_previews([path for path, _ in found]),
    )


def _percent(counts: Mapping[str, Any], name: str) -> float:
    return round(100 * float(counts.get("in_images", {}).get(name, 0)) / float(counts["images"]), 1)


def _previews(directories: list[Path]) -> list[tuple[str, str]]:
    """Every picture once: several archives of one world come with the same sprites."""
    pictures: dict[bytes, Path] = {}
    for directory in directories:
        for path in sorted(directory.glob("*.png")):
            pictures.setdefault(path.read_bytes(), path)
    paths = sorted(pictures.values(), key=lambda path: path.name)
    return [(path.stem.replace("_", " ", 1), _picture(path)) for path in paths]


def _picture(path: Path) -> str:
    try:
        with Image.open(path) as image:
            scale = min(1.0, _WIDTH / image.width)
            size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
            return jpeg_uri(image.convert("RGB").resize(size, Image.Resampling.LANCZOS))
    except (OSError, SyntaxError, ValueError) as error:
        raise UserError(f"{path}: no readable preview ({error}); delete the folder and rerun its job") from error
