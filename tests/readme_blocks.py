"""What the README tells to write and to run, and the files that its examples talk about."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np
import small_archives
from PIL import Image

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
SIZES = {"east": (40, 60), "north gate": (50, 50), "west": (60, 40)}
VALUES = {"east": [1, 2], "north gate": [1, 3, 4], "west": [1, 1, 1, 255]}


def section(title: str) -> str:
    """The text under a heading."""
    found = README.partition(f"\n## {title}\n")[2].partition("\n## ")[0]
    assert found, f"README.md has no section '{title}'"
    return found


def blocks(title: str, language: str = "") -> list[str]:
    """The code blocks of a section, in order; without a language: the commands."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", section(title), re.DOTALL | re.MULTILINE)
    return [text for kind, text in found if kind == language]


def commands(block: str, name: str) -> list[list[str]]:
    """The commands of a block that begin with a name, in words, without comments."""
    lines = [shlex.split(line, comments=True) for line in block.splitlines()]
    return [words for words in lines if words[:1] == [name]]


def insert(path: Path, after: tuple[str, ...], text: str) -> None:
    """Put text behind the last of some lines, each of which is looked for behind the one before it."""
    lines, at = path.read_text(encoding="utf-8").splitlines(keepends=True), -1
    for line in after:
        at = lines.index(f"{line}\n", at + 1)
    path.write_text("".join([*lines[: at + 1], text, *lines[at + 1 :]]), encoding="utf-8")


def replace(path: Path, old: str, new: str, after: str = "") -> None:
    """Replace the first occurrence behind some text."""
    text = path.read_text(encoding="utf-8")
    start = text.index(old, text.index(after))
    path.write_text(text[:start] + new + text[start + len(old) :], encoding="utf-8")


def draw_garden(folder: Path) -> None:
    """Three images, one of them a PNG, and their labels: gray PNGs, one with a palette."""
    for name in ("images", "labels"):
        (folder / name).mkdir(parents=True)
    for number, (name, (height, width)) in enumerate(SIZES.items()):
        suffix = "png" if name == "west" else "jpg"
        pixels = np.random.default_rng(number).integers(0, 255, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"images/{name}.{suffix}")
        label = small_archives.stripes(height, width, VALUES[name])
        palette = small_archives.voc_palette() if name == "east" else None
        (folder / f"labels/{name}.png").write_bytes(small_archives.png(label, palette))


def add_garden(project: Path) -> None:
    """Do what the README says of a data set of one's own: folders, entry, columns."""
    entry, in_params, in_columns = blocks("Your own data set", "yaml")
    draw_garden(project / "data/manual/garden")
    with (project / "datasets.yaml").open("a", encoding="utf-8") as stream:
        stream.write(f"\n{entry}")
    replace(project / "params.yaml", "  columns: *generated\n", in_params, after="\ntiny:\n")
    beyond = project / "papers/beyond.yaml"
    insert(beyond, ("columns:",), in_columns)
    replace(beyond, "    columns: [", "    columns: [Garden, ", after="\n  dense:\n")


def add_method(project: Path) -> tuple[str, str]:
    """Do what the README says of a method of one's own; returns (file, row) as it writes them."""
    (path,) = re.findall(r"`(src/[^`]+\.py)`:\n\n```python\n", section("Your own method"))
    (code,), (row,) = blocks("Your own method", "python"), blocks("Your own method", "yaml")
    (project / path).write_text(code, encoding="utf-8")
    insert(project / "papers/beyond.yaml", ("tables:", "  dense:", "    rows:"), row)
    return path, row
