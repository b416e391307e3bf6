"""Captions in the report: which rows are shown, what is said of their words, and what their masks look like."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image

from ovss.data.text_images import TEXTS
from ovss.errors import UserError
from ovss.evaluation.items import ItemCounts, Words
from ovss.report import captioned
from ovss.report.inputs import Inputs, RowSource

SIZE = (20, 40)
CAPTIONS = {"a": "a dog and a cat", "b": "sea", "c": "red car"}
TRUE = {"dog", "cat", "sea"}


def left(share: float) -> Image.Image:
    """A mask of the left part of an image."""
    columns = np.arange(SIZE[1]) < share * SIZE[1]
    return Image.fromarray((np.broadcast_to(columns, SIZE) * 255).astype(np.uint8))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Gray photos whose left half the captions name."""
    folder, lines = tmp_path / "source", []
    folder.mkdir()
    for name, caption in CAPTIONS.items():
        Image.new("RGB", SIZE[::-1], (100, 100, 100)).save(folder / f"{name}.png")
        left(0.5).save(folder / f"mask_{name}.png")
        words = caption.split()
        lines.append({"id": name, "image": f"{name}.png", "caption": caption, "words": words,
                      "relevant": [word in TRUE for word in words], "mask": f"mask_{name}.png"})  # fmt: skip
    (folder / TEXTS).write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return folder


def masks(folder: Path, **shares: float) -> Path:
    """A row that kept masks of some captions."""
    (folder / "examples").mkdir(parents=True)
    for name, share in shares.items():
        left(share).save(folder / "examples" / f"{name}.png")
    return folder


def words(folder: Path, *chosen: str) -> Path:
    """A row that chose these words in every caption."""
    folder.mkdir()
    found = []
    for name, caption in CAPTIONS.items():
        picked, scores = [word in chosen for word in caption.split()], np.zeros(len(caption.split()))
        found.append(Words(name, [word in TRUE for word in caption.split()], picked, scores))
    ItemCounts.of_words(found).save(folder)
    return folder


def build(source: Path, *rows: tuple[str, str, Path], texts: int = 9, budget: int = 10**6) -> list[captioned.Captioned]:
    """What is shown of (task, title, directory); rows of one directory are one input."""
    names = {row: f"captioned/{number}" for number, row in enumerate(dict.fromkeys(row for _, _, row in rows))}
    entries: list[dict[str, Any]] = [
        {"input": names[row], "row": title, "task": task, "source": "sources/own"} for task, title, row in rows
    ]
    known = {name: RowSource(name, row, {}, "") for row, name in names.items()}
    return captioned.build(entries, Inputs({}, {}, {}, known, {"own": source}, {}, {}), texts, budget)


def pixels(uri: str) -> np.ndarray:
    with Image.open(io.BytesIO(base64.b64decode(uri.removeprefix("data:image/jpeg;base64,")))) as image:
        return np.array(image).astype(int)


def test_every_row_shows_its_words_and_how_many_are_true(source: Path, tmp_path: Path) -> None:
    right, wrong = words(tmp_path / "right", "dog", "sea"), words(tmp_path / "wrong", "a", "cat")
    (one,) = build(source, ("captions", "M", masks(tmp_path / "m", a=0.5)), ("tags", "W", wrong), ("tags", "R", right),
                   ("tags", "W again", wrong))  # fmt: skip
    assert one.words == [("a", False), ("dog", True), ("and", False), ("a", False), ("cat", True)]
    assert [(row.title, row.verdict) for row in one.chosen] == [
        ("W", "1 of 2 true words, 2 others"), ("R", "1 of 2 true words, 0 others")
    ]  # fmt: skip
    assert [word for word, chosen in one.chosen[0].words if chosen] == ["a", "a", "cat"]


def test_a_mask_is_tinted_where_it_is_and_dark_elsewhere(source: Path, tmp_path: Path) -> None:
    narrow, none = masks(tmp_path / "narrow", a=0.25), masks(tmp_path / "none", b=1.0)
    one = build(source, ("captions", "narrow", narrow), ("captions", "none", none))[0]
    photo, true, shown, missing = one.pictures
    assert (photo.title, true.title, shown.title) == ("image", "true mask", "narrow")
    assert (true.words, shown.words) == ("50 % of pixels", "25 % of pixels")
    assert (missing.title, missing.uri, missing.missing) == ("none", "", "this row kept no mask of this caption")
    for picture, end in ((true, 20), (shown, 10)):
        found = pixels(picture.uri)
        assert found.shape == (*SIZE, 3)
        for part, expected in ((found[:, : end - 4], (139, 88, 82)), (found[:, end + 4 :], (35, 35, 35))):
            assert np.abs(part.mean(axis=(0, 1)) - expected).max() < 12


def test_the_first_captions_with_a_mask_are_shown_as_far_as_they_fit(source: Path, tmp_path: Path) -> None:
    row = ("captions", "M", masks(tmp_path / "m", c=0.5, b=0.5))
    assert [one.id for one in build(source, row)] == ["b", "c"]
    assert [one.id for one in build(source, row, texts=1)] == ["b"]
    size = build(source, row)[0].size
    assert size == sum(len(picture.uri) for picture in build(source, row)[0].pictures) > 1000
    assert [one.id for one in build(source, row, budget=size)] == ["b"]
    assert build(source, row, budget=size - 1) == []
    assert build(source, ("tags", "W", words(tmp_path / "w", "dog"))) == [], "words alone have no pictures"
    with pytest.raises(UserError, match="no input 'sources/own' was given"):
        captioned.build(
            [{"input": "captioned/0", "row": "M", "task": "captions", "source": "sources/own"}],
            Inputs({}, {}, {}, {"captioned/0": RowSource("captioned/0", row[2], {}, "")}, {}, {}, {}), 1, 1,
        )  # fmt: skip


def test_true_words_are_bold_in_the_page_and_names_are_escaped(source: Path, tmp_path: Path) -> None:
    found = build(source, ("captions", "<i>", masks(tmp_path / "m", a=0.5)), ("tags", "W", words(tmp_path / "w")))
    environment = Environment(loader=PackageLoader("ovss.report"), autoescape=True, undefined=StrictUndefined)
    page = environment.get_template("captioned.html").render(captioned=found)
    assert "a <b>dog</b> and a <b>cat</b> " in page
    assert "<i>" not in page and page.count("&lt;i&gt;") == 2
    assert '<td class="text">none</td><td class="text">0 of 2 true words, 0 others</td>' in page


def test_rows_of_two_tables_with_one_title_are_both_shown(source: Path, tmp_path: Path) -> None:
    rows = [("captions", "TCL", masks(tmp_path / str(share), a=share)) for share in (0.25, 1.0)]
    rows += [("tags", "TCL", words(tmp_path / word, word)) for word in ("dog", "cat")]
    (one,) = build(source, *rows)
    assert [picture.words for picture in one.pictures[2:]] == ["25 % of pixels", "100 % of pixels"]
    assert [[word for word, chosen in row.words if chosen] for row in one.chosen] == [["dog"], ["cat"]]


def test_a_caption_whose_true_words_nobody_marked_is_shown_in_words(source: Path, tmp_path: Path) -> None:
    lines = [json.loads(line) | {"relevant": None} for line in (source / TEXTS).read_text().splitlines()]
    (source / TEXTS).write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    (one,) = build(source, ("captions", "M", masks(tmp_path / "m", c=0.5)), ("tags", "W", words(tmp_path / "w", "car")))
    assert one.words == [("red", False), ("car", False)]
    assert (one.chosen[0].words, one.chosen[0].verdict) == ([("red", False), ("car", True)], "true words not known")
