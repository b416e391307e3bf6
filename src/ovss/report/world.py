"""The section on the tiny world: how often each class occurs, what the captions say, what scenes look like."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from ovss.errors import UserError
from ovss.report.formats import flat, is_number
from ovss.report.gallery import png_uri
from ovss.report.inputs import read_json

_SIDE, _PREVIEWS, _CAPTIONS = 720, 3, 12


@dataclass(frozen=True)
class World:
    """What one world job tells about itself."""

    names: list[str]
    facts: list[tuple[str, str]]
    frequencies: list[tuple[str, float, float]]
    captions: list[str]
    previews: list[tuple[str, str]]


def load(directories: Mapping[str, Path]) -> list[World]:
    """The worlds of some world jobs; jobs that tell the same (several archives of one world) are listed once.

    Raises:
        UserError: a world.json or a preview is damaged.
    """
    found: dict[str, tuple[list[str], Path, dict[str, Any]]] = {}
    for name, directory in directories.items():
        if (directory / "world.json").is_file():
            told = read_json(directory / "world.json")
            same = {key: told[key] for key in ("frequencies", "captions") if key in told}
            found.setdefault(repr(sorted(same.items())), ([], directory, told))[0].append(name)
    return [_world(names, directory, told) for names, directory, told in found.values()]


def _world(names: list[str], directory: Path, told: Mapping[str, Any]) -> World:
    counts = {str(name): float(value) for name, value in dict(told.get("frequencies", {})).items() if is_number(value)}
    top = max(counts.values(), default=0.0) or 1.0
    captions = [_caption(entry) for entry in list(told.get("captions", []))[:_CAPTIONS]]
    facts = [(name, str(value)) for name, value in flat(told).items() if isinstance(value, str | int | float)
             and not name.startswith(("frequencies", "captions"))]  # fmt: skip
    previews = [(path.stem, _picture(path)) for path in sorted(directory.rglob("*.png"))[:_PREVIEWS]]
    return World(names, facts, [(name, value, round(100 * value / top, 1)) for name, value in counts.items()],
                 captions, previews)  # fmt: skip


def _caption(entry: Any) -> str:
    return str(entry.get("caption", entry)) if isinstance(entry, Mapping) else str(entry)


def _picture(path: Path) -> str:
    try:
        with Image.open(path) as image:
            scale = min(1.0, _SIDE / max(image.size))
            size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
            return png_uri(image.convert("RGB").resize(size, Image.Resampling.LANCZOS).quantize(128))
    except (OSError, SyntaxError, ValueError) as error:
        raise UserError(f"{path}: no readable preview ({error}); delete the folder and rerun its job") from error
