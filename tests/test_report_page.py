"""The report page: complete, self-contained, honest about what is empty, and the same bytes every time."""

from __future__ import annotations

import dataclasses
import json
import re
from functools import cache
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import report_inputs
from hypothesis import given
from hypothesis import strategies as st

from ovss import origin
from ovss.errors import UserError
from ovss.jobs import JobContext
from ovss.report import bars, forest, formats, origins, page, words
from ovss.report.inputs import load
from ovss.report.rownames import row_names
from ovss.report.summary import cell_counts
from ovss.report.tableview import build

VOID = {"meta", "link", "br", "img", "input", "hr", "path", "rect", "circle", "use", "image"}


class Outline(HTMLParser):
    """Checks nesting and gathers ids, references and the text of every table."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.ids: list[str] = []
        self.references: list[tuple[str, str, str]] = []
        self.rows: dict[str, str] = {}
        self._row = ""

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._note(tag, dict(attrs))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._note(tag, dict(attrs))
        if tag not in VOID:
            self.open.append(tag)

    def _note(self, tag: str, attributes: dict[str, str | None]) -> None:
        if name := attributes.get("id"):
            self.ids.append(name)
            if tag == "tr":
                self._row = name
                self.rows[name] = ""
        for key in ("src", "href", "xlink:href", "srcset", "data", "action"):
            if value := attributes.get(key):
                self.references.append((tag, key, value))

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open[-1] == tag, f"</{tag}> closes <{self.open[-1:]}>"
        self.open.pop()
        if tag == "tr":
            self._row = ""

    def handle_data(self, data: str) -> None:
        if self._row:
            self.rows[self._row] += f" {data.strip()}"


@cache
def outline(text: str) -> Outline:
    parsed = Outline()
    parsed.feed(text)
    parsed.close()
    assert parsed.open == []
    return parsed


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> tuple[JobContext, str]:
    ctx = report_inputs.context(tmp_path_factory.mktemp("tiny"))
    page.run(ctx)
    return ctx, (ctx.out / "index.html").read_text(encoding="utf-8")


def tables(ctx: JobContext) -> list[dict[str, Any]]:
    folders = [path for name, path in ctx.inputs.items() if name.startswith("tables/")]
    return [json.loads((folder / "table.json").read_text(encoding="utf-8")) for folder in folders]


def test_html_is_well_formed_and_ids_are_unique(tiny: tuple[JobContext, str]) -> None:
    parsed = outline(tiny[1])
    assert len(parsed.ids) == len(set(parsed.ids))


def test_every_link_inside_the_page_has_its_target(tiny: tuple[JobContext, str]) -> None:
    parsed = outline(tiny[1])
    inside = {value[1:] for tag, _, value in parsed.references if tag == "a" and value.startswith("#")}
    assert inside <= set(parsed.ids)


def test_nothing_but_plain_links_leads_outside(tiny: tuple[JobContext, str]) -> None:
    _, text = tiny
    for tag, _, value in outline(text).references:
        assert value.startswith(("#", "data:")) or (tag == "a" and value.startswith("https://"))
    assert not re.search(r"@import|url\((?!#|data:)", text)
    assert not re.search(r"\b(fetch|XMLHttpRequest|WebSocket|sendBeacon)\b", text)


def test_every_row_of_every_table_is_there_with_its_published_values(tiny: tuple[JobContext, str]) -> None:
    ctx, text = tiny
    rows = outline(text).rows
    assert len(tables(ctx)) == 40
    for table in tables(ctx):
        for row in table["rows"]:
            shown = rows[f"{formats.slug(table['paper'], table['table'])}-{row['id']}"].split()
            for cell in row["cells"].values():
                if cell["published"] is not None:
                    assert set(formats.published(cell["published"]).split()) <= set(shown)


def test_every_own_number_is_shown_and_links_to_its_origin(tiny: tuple[JobContext, str]) -> None:
    ctx, text = tiny
    own = [cell for table in tables(ctx) for row in table["rows"] for cell in row["cells"].values() if cell["ours"]]
    assert len(own) > 500
    assert text.count('<a class="num"') == len(own)
    assert all(f'href="#o-{cell["key"]}" title="key {cell["key"]} · commit' in text for cell in own)


def test_every_empty_cell_points_to_a_reason(tiny: tuple[JobContext, str]) -> None:
    _, text = tiny
    empty = re.findall(r'<td class="own empty">.*?</td>', text)
    assert empty and all(re.search(r'class="note" href="#[\w-]+"', cell) for cell in empty)
    assert "leftImg8bit_trainvaltest.zip" in text


def test_numbers_of_a_small_scale_are_marked_as_effects_only(tiny: tuple[JobContext, str]) -> None:
    _, text = tiny
    assert "It does not reproduce the published number beside it" in text
    assert text.count('<b class="apart">effects only</b>') == 40
    assert 'class="verdict' not in text


def test_names_are_escaped(tiny: tuple[JobContext, str]) -> None:
    _, text = tiny
    assert "GEM <i>" not in text and "stuff 0 <b>" not in text
    assert "GEM &lt;i&gt;" in text and "Segmentation &lt;tag&gt;" in text


def test_explanations_stand_beside_their_claims_and_nowhere_else(tiny: tuple[JobContext, str]) -> None:
    for name in report_inputs.papers():
        claims = [tiny[1].split(f'id="{name}-claim-{name}-claim-{i}"')[1].split("</li>")[0].split("</tr>")[0]
                  for i in range(4)]  # fmt: skip
        assert [text.count("Because of") for text in claims] == [0, 1, 0, 1]
        assert "Because of 1 &amp; so on." in claims[1]


def test_page_is_small_and_figures_lie_beside_it(tiny: tuple[JobContext, str]) -> None:
    ctx, text = tiny
    assert len(text.encode()) < 3_000_000
    figures = sorted(path.name for path in (ctx.out / "figures").iterdir())
    assert {"freecp-table2.svg", "tag-claims.svg", "classes-tiny-voc21.svg", "curves-clip.svg"} <= set(figures)


def test_gallery_shows_image_truth_and_every_method_or_the_reason(tiny: tuple[JobContext, str]) -> None:
    _, text = tiny
    strips = re.findall(r'<div class="strip".*?</div>', text, re.DOTALL)
    assert [strip.count("<figure>") for strip in strips] == [8, 8, 8, 4, 4, 4]
    assert sum("this row kept no prediction of this image" in strip for strip in strips) == 1


def test_words_stand_beside_their_pictures_with_class_scores_and_captions(tiny: tuple[JobContext, str]) -> None:
    section = tiny[1].split('<section id="words">')[1].split("</section>")[0]
    examples = section.split('<div class="named" role')[1:]
    assert [part.count("<img ") for part in examples] == [4, 4, 3, 3]
    first = json.loads((tiny[0].inputs["words/0"] / "words/im0.json").read_text(encoding="utf-8"))["segments"]
    rows = examples[0].split("<tbody>")[1].split("</tbody>")[0].split("<tr>")[1:]
    for row, found in zip(rows, sorted(first, key=lambda one: -one["pixels"]), strict=True):
        shown = unescape(re.sub(r"<[^>]+>", " ", row))
        share = f"{100 * found['pixels'] / 96**2:.1f} %"
        numbers = (f"{found['similarity']:.2f}", f"{found['score']:.2f}".replace("-", "−"), share)
        for text in (found["word"], found["class"] or "none", *numbers, *found["candidates"], *found["captions"][:3]):
            assert text in shown
        assert found["captions"][3] not in shown and "and 7 more captions" in shown


def test_words_are_left_out_beyond_their_budget_and_a_damaged_file_is_named(
    tiny: tuple[JobContext, str], tmp_path: Path
) -> None:
    ctx = tiny[0]
    entries, inputs = [{**entry, "row": "x"} for entry in ctx.params["words"][:1]], load(ctx.inputs)
    (whole,) = words.build(entries, report_inputs.DATASETS, inputs, 3, 10**9)
    (cut,) = words.build(entries, report_inputs.DATASETS, inputs, 3, whole.examples[0].size)
    assert [example.image for example in whole.examples] == ["im0", "im1", "im2"]
    assert cut.examples == whole.examples[:1] and cut.note == "2 more images left out to keep the page small"
    (tmp_path / "words").mkdir()
    (tmp_path / "words/im0.json").write_text('{"image": "im0", "segments": [{"cluster": 1}]}', encoding="utf-8")
    broken = {**ctx.inputs, "words/0": tmp_path}
    with pytest.raises(UserError, match=r"words/im0\.json: its segments lack one of candidates"):
        words.build(entries, report_inputs.DATASETS, load(broken), 3, 10**9)


def test_collections_are_listed_with_their_index_or_without(tiny: tuple[JobContext, str]) -> None:
    section = tiny[1].split('<section id="collections">')[1].split("</section>")[0]
    rows = [" ".join(unescape(re.sub(r"<[^>]+>", " ", row)).split()) for row in section.split("<tr>")[2:]]
    assert rows == [
        "Captions <tiny_pmd> tiny_pmd 2 400 000 531 MiB 96 0123456789ab duplicate 1 234, not utf-8 2 "
        "IVF64,SQ8 100.2 8 97.3 % 1 000 queries",
        "Captions <words> words 812 184 KiB 96 0123456789ab duplicate 1 234, not utf-8 2 no index",
    ]


def test_sections_on_words_and_collections_stay_away_without_them(tmp_path: Path) -> None:
    params = {"scale": "smoke", "about": "Nothing yet.", "papers": {}, "words": [], "collections": []}
    page.run(JobContext(0, report_inputs.Machine(), params, {}, tmp_path))
    text = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert 'id="words"' not in text and 'id="collections"' not in text and "#words" not in text


def test_same_inputs_give_the_same_bytes(tiny: tuple[JobContext, str], tmp_path: Path) -> None:
    ctx, text = tiny
    page.run(dataclasses.replace(ctx, out=tmp_path, inputs=dict(reversed(ctx.inputs.items()))))
    papers = list(report_inputs.papers())
    assert papers == list(ctx.params["papers"])
    assert (tmp_path / "index.html").read_text(encoding="utf-8") == text
    for path in sorted((ctx.out / "figures").iterdir()):
        assert (tmp_path / "figures" / path.name).read_bytes() == path.read_bytes()


def test_full_scale_shows_difference_and_verdict_and_no_tiny_world(tmp_path: Path) -> None:
    made = report_inputs.World(tmp_path / "in", "full")
    lines = [{"method": "a", "VOC": "40.0"}, {"method": "b", "VOC": "23.0"}]
    made.table("freecp", "table9", lines)
    out = tmp_path / "out"
    out.mkdir()
    params = {"scale": "full", "about": "Real data.", "papers": {}, "datasets": {}, "gallery": []}
    page.run(JobContext(0, report_inputs.Machine(), params, made.inputs, out))
    text = (out / "index.html").read_text(encoding="utf-8")
    assert 'class="verdict v-within">✓' in text and "effects only" not in text and 'id="world"' not in text


def test_empty_inputs_give_a_page_that_says_so(tmp_path: Path) -> None:
    params = {"scale": "smoke", "about": "Nothing yet.", "papers": report_inputs.papers()}
    page.run(JobContext(0, report_inputs.Machine(), params, {}, tmp_path))
    text = (tmp_path / "index.html").read_text(encoding="utf-8")
    outline(text)
    for what in ("No claim of", "No table of", "No row was", "No predictions were", "No trained model was"):
        assert what in text


def test_a_row_edited_after_it_was_made_is_refused(tmp_path: Path) -> None:
    made = report_inputs.World(tmp_path / "in", "tiny")
    made.table("freecp", "table9", [{"method": "a", "VOC": "40.0"}, {"method": "b", "VOC": "23.0"}])
    (made.inputs["rows/0"] / "counts.npz").write_bytes(b"better numbers")
    out = tmp_path / "out"
    out.mkdir()
    params = {"scale": "tiny", "about": "One row.", "papers": {}}
    page.run(JobContext(0, report_inputs.Machine(), params, made.inputs, out))
    text = unescape((out / "index.html").read_text(encoding="utf-8"))
    assert '<span class="dash">refused</span>' in text and "its bytes are not those that the job wrote" in text
    assert str(tmp_path) not in text


@pytest.mark.parametrize("kind", ["citation", "not_implemented"])
def test_rows_that_nobody_ran_say_why_instead_of_numbers(kind: str) -> None:
    cell = {"published": 41.5, "ours": None, "why": "not implemented: method x", "key": None, "verdict": "not_run"}
    row = {"id": "r", "labels": {"method": "X"}, "kind": kind, "note": None, "cells": {"A": cell}}
    column = {"id": "A", "label": "A", "dataset": "tiny_voc21"}
    view = build(_table([column], [row]), {})
    assert view.rows[0].cells == [] and view.rows[0].reason and view.rows[0].published == ["41.5"]
    counts = {count.word: count.count for count in cell_counts([view])}
    assert counts["cited" if kind == "citation" else "not implemented"] == sum(counts.values()) == 1


def _table(columns: list[dict[str, Any]], rows: list[dict[str, Any]]) -> dict[str, Any]:
    return {"paper": "p", "table": "t", "title": "T", "metric": "miou", "unit": "%", "higher_is_better": True,
            "scale": "tiny", "key_columns": ["method"], "columns": columns, "rows": rows}  # fmt: skip


def test_rows_of_one_method_are_told_apart_by_the_labels_that_differ() -> None:
    labels = [{"method": name, "k": k, "g": "x"} for name, k in (("A", 1), ("A", 2), ("B", 2))]
    rows = [{"id": f"r{i}", "labels": row} for i, row in enumerate(labels)]
    names = row_names({"key_columns": ["g", "k", "method"], "rows": rows})
    assert names == {"r0": "A · k 1", "r1": "A · k 2", "r2": "B"}


@given(st.lists(st.tuples(st.floats(-50, 50), st.floats(0, 9), st.floats(0, 9)), min_size=1, max_size=8))
def test_forest_draws_every_interval_inside_the_plot(values: list[tuple[float, float, float]]) -> None:
    lines = [forest.Line(f"c{i}", d, d - a, d + b, "supported") for i, (d, a, b) in enumerate(values)]
    svg = forest.svg(lines, "x")
    ends = [float(x) for pair in re.findall(r'd="M([\d.-]+) [\d.]+H([\d.-]+)"', svg) for x in pair]
    assert len(ends) == 2 * len(lines) and min(ends) >= 92 and max(ends) <= 424 - 154


def test_bars_are_as_long_as_their_numbers() -> None:
    rows = [{"id": name, "labels": {"method": name}, "kind": "run", "cells": {"A": {"ours": value}}}
            for name, value in (("a", 20.0), ("b", 40.0))]  # fmt: skip
    svg = bars.draw(build(_table([{"id": "A", "label": "A", "dataset": "d"}], rows), {}))
    widths = [float(width) for width in re.findall(r'<rect x="0" y="[\d.]+" width="([\d.]+)"', svg)]
    assert np.isclose(widths[1], 2 * widths[0], atol=0.2)


@pytest.mark.parametrize(("value", "places", "text"), [(-1.25, 1, "−1.2"), (-0.04, 1, "0.0"), (3.0, 2, "3.00")])
def test_numbers_have_a_true_minus_and_no_negative_zero(value: float, places: int, text: str) -> None:
    assert formats.number(value, places) == text


def test_a_damaged_table_is_named(tmp_path: Path) -> None:
    (tmp_path / "table.json").write_text("{}", encoding="utf-8")
    params = {"scale": "tiny", "about": "", "papers": {}}
    with pytest.raises(UserError, match=r"table\.json: the table lacks 'paper'"):
        page.run(JobContext(0, report_inputs.Machine(), params, {"tables/a/b": tmp_path}, tmp_path))


def test_world_section_lists_every_archive_and_a_shared_picture_once(tiny: tuple[JobContext, str]) -> None:
    _, text = tiny
    section = text[text.index('<section id="world">') :]
    assert section.count('<figure class="preview">') == 3
    assert "50.0 %" in section and "puppy" in section and "a small dog on grass" in section


def test_shards_of_one_row_are_one_origin(tmp_path: Path) -> None:
    made = report_inputs.World(tmp_path / "in", "tiny")
    keys = []
    for index in range(3):
        key = f"{index:016x}"
        directory = made.folder(f"row-{index}", key)
        (directory / "counts.npz").write_bytes(b"%d" % index)
        parts = {"params": {"method": "dense_clip", "shard": [index, 3]}, "inputs": {}}
        origin.write(directory, {"key": key, "name": "row", "parts": parts, "wall_seconds": 10, "commit": "c0ffee"})
        made.inputs[f"rows/{index}"] = directory
        keys.append(key)
    found = origins.entries(load(made.inputs).rows_by_key.values(), {key: ["p.t.r.c"] for key in keys})
    (entry,) = origins.distinct(found)
    assert (entry.keys, entry.wall, entry.used_by) == (keys, "30.0 s", ["p.t.r.c"])
    assert found[keys[2]] is entry and len(entry.files) == 3
