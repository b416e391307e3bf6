"""The papers' files: they hold the published numbers, all of them, and mistakes in them are named."""

from __future__ import annotations

import copy
import csv
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ovss.config.base import load_yaml, validate
from ovss.config.papers import Cell, Claim, Paper
from ovss.config.runs import Protocol
from ovss.errors import UserError

ROOT = Path(__file__).parents[1]
PUBLISHED = ROOT / "tests" / "data" / "published"
PAPERS = {file.stem: load_yaml(file, Paper, ROOT) for file in sorted((ROOT / "papers").glob("*.yaml"))}
TABLES = [(file.parent.name, file.stem) for file in sorted(PUBLISHED.glob("*/*.csv"))]
DENSE_REFUSES = {"background_threshold", "prompt_denoising", "scales", "flip", "pamr", "crf"}


def canonical(value: object) -> object:
    """A number where it reads as one, else the text; blank is None."""
    text = "" if value is None else str(value)
    try:
        return float(text)
    except ValueError:
        return text or None


def csv_rows(text: str) -> list[dict[str, object]]:
    return [{key: canonical(value) for key, value in row.items()} for row in csv.DictReader(io.StringIO(text))]


def yaml_rows(paper: Paper, table: str) -> list[dict[str, object]]:
    rows = [row for row in paper.tables[table].rows if row.kind != "extra"]
    return [{key: canonical(value) for key, value in {**row.labels, **row.published}.items()} for row in rows]


@pytest.mark.parametrize(("paper", "table"), TABLES)
def test_a_table_equals_the_published_one_in_both_directions(paper: str, table: str) -> None:
    published = csv_rows((PUBLISHED / paper / f"{table}.csv").read_text(encoding="utf-8"))
    assert yaml_rows(PAPERS[paper], table) == published
    keys = set(PAPERS[paper].tables[table].key_columns) | set(PAPERS[paper].tables[table].columns)
    assert all(set(row) == keys for row in published)


def test_every_table_with_published_numbers_has_its_csv() -> None:
    ours = {(name, key) for name, paper in PAPERS.items() for key, table in paper.tables.items()
            if any(value is not None for row in table.rows for value in row.published.values())}  # fmt: skip
    assert ours == set(TABLES)


def test_a_published_number_that_is_changed_lost_or_added_is_seen() -> None:
    text = (PUBLISHED / "freecp" / "table3.csv").read_text(encoding="utf-8")
    ours = yaml_rows(PAPERS["freecp"], "table3")
    assert ours != csv_rows(text.replace("65.8", "65.9", 1))
    assert ours != csv_rows(text.replace(",24.9", ",", 1))
    assert ours != csv_rows(text + "New,1,2,3,4,5,6\n")


@pytest.mark.parametrize("name", sorted(PAPERS))
def test_the_file_opens_with_its_command_its_cost_and_what_to_expect(name: str) -> None:
    text = (ROOT / "papers" / f"{name}.yaml").read_text(encoding="utf-8")
    head = text.split("\npaper:")[0]
    assert all(word in head for word in (f"snakemake {name}", "Cost at full scale", "Expect"))


def numbers(paper: Paper, claim: Claim) -> Iterator[tuple[str, float, float]]:
    """(column, better, worse) where the paper printed both."""
    for better_column, worse_column in claim.pairs(paper):
        sides = []
        for place, column in ((claim.better, better_column), (claim.worse, worse_column)):
            table, _, row = place.partition(".")
            sides.append(paper.tables[table].row(row).published.get(column))
        if all(isinstance(side, int | float) for side in sides):
            yield better_column, float(sides[0]), float(sides[1])  # type: ignore[arg-type]


@pytest.mark.parametrize("name", sorted(PAPERS))
def test_no_claim_is_contradicted_by_the_numbers_that_the_paper_printed(name: str) -> None:
    paper = PAPERS[name]
    wrong = []
    for claim in paper.claims:
        table = paper.tables[claim.better.partition(".")[0]]
        for column, better, worse in numbers(paper, claim):
            direction = paper.columns[column].higher_is_better
            if not claim.holds(better, worse, table.higher_is_better if direction is None else direction):
                wrong.append((claim.id, column, better, worse))
    assert wrong == []


def test_derived_columns_agree_with_the_printed_averages_but_for_one_known_misprint() -> None:
    off = []
    for paper in PAPERS.values():
        for name, table in paper.tables.items():
            for column, derived in table.derived.items():
                for row in table.rows:
                    parts = [row.published.get(part) for part in derived.parts]
                    printed = row.published.get(column)
                    if printed is not None and all(isinstance(part, int | float) for part in parts):
                        mean = sum(map(float, parts)) / len(parts)  # type: ignore[arg-type]
                        if abs(mean - float(printed)) > 0.0501:
                            off.append((paper.paper, name, row.id, column))
    assert off == [("ttd", "table4", "maskclip", "Avg")]


@pytest.mark.parametrize("name", sorted(PAPERS))
def test_every_cell_of_every_row_resolves(name: str) -> None:
    paper = PAPERS[name]
    for table_name, table in paper.tables.items():
        for row in table.rows:
            cells = [paper.cell(table_name, row.id, column) for column in table.columns]
            assert row.run is None or any(cells), f"{table_name}.{row.id} runs nowhere"
            assert row.run is not None or not any(cells)


def cells() -> Iterator[tuple[str, Cell]]:
    for paper in PAPERS.values():
        for name, table in paper.tables.items():
            for line in table.rows:
                for column in table.columns:
                    cell = paper.cell(name, line.id, column)
                    if cell is not None:
                        yield f"{paper.paper}.{name}.{line.id}.{column}", cell


def test_rows_of_dense_clip_ask_for_what_it_has() -> None:
    dense = {where: cell for where, cell in cells() if cell.method == "dense_clip"}
    assert {cell.settings["variant"] for cell in dense.values()} == {"vanilla", "MaskCLIP", "SCLIP", "ClearCLIP", "GEM"}
    for where, cell in dense.items():
        assert (cell.settings["variant"] == "GEM") == ("family" not in cell.settings), where
        assert not DENSE_REFUSES & set(cell.protocol.params()), where


def test_a_protocol_name_means_the_same_in_every_paper() -> None:
    seen: dict[tuple[str, str], dict[str, Any]] = {}
    for paper in PAPERS.values():
        datasets = {column.dataset for column in paper.columns.values() if column.dataset}
        for name, protocol in paper.protocols.items():
            for dataset in datasets:
                params = protocol.on(dataset).params()
                assert seen.setdefault((name, dataset), params) == params, f"{paper.paper}: {name} on {dataset}"


def test_settings_and_protocols_are_overridden_in_their_order() -> None:
    paper = PAPERS["freecp"]
    city = paper.cell("table2", "sclip_freecp", "City")
    assert city is not None
    assert city.settings == {"variant": "SCLIP", "purification": "rp_ap", "affinity": "clip", "rp": 0.1, "ap": 0.8}
    assert (city.protocol.short_side, city.protocol.crop, city.protocol.stride) == (560, 224, 112)
    only_rp = paper.cell("table3", "rp", "VOC21")
    assert only_rp is not None and only_rp.settings["purification"] == "rp" and only_rp.settings["rp"] == 0.15
    vicuna = paper.cell("table4", "baseline_vicuna", "GEM")
    assert vicuna is not None and (vicuna.dataset, vicuna.settings) == ("ADE", {"variant": "GEM"})
    assert vicuna.protocol.templates == "vicuna" and vicuna.protocol.descriptions is None
    assert paper.cell("table2", "sclip", "Avg") is None
    assert paper.cell("table2", "reco", "VOC21") is None


def test_rows_of_freecp_have_what_ambiguity_purification_needs_and_no_other_row_has_it() -> None:
    freecp = {where: cell for where, cell in cells() if cell.method == "freecp"}
    assert len(freecp) > 100
    for where, cell in freecp.items():
        asks = "ap" in str(cell.settings["purification"])
        assert cell.protocol.ambiguity_crop == (112 if asks else None), where
        assert asks or cell.protocol.descriptions is None, where
        assert cell.protocol.logit_scale is None, where
        companion = {str(cell.settings["affinity"])} - {"clip"}
        assert set(cell.companions) == companion and not cell.needs, where
    for where, cell in cells():
        if cell.method == "dense_clip":
            assert (cell.protocol.ambiguity_crop, cell.protocol.descriptions) == (None, None), where


def test_every_setting_that_a_difference_of_freecp_names_is_run_on_its_other_side() -> None:
    paper = PAPERS["freecp"]
    switches = {d.switch: d for d in paper.differences if d.switch and d.switch.startswith("settings.")}
    assert set(switches) >= {f"settings.{name}" for name in (
        "loser_scope", "consistency", "activation", "affinity_form", "affinity_heads", "box_border", "family", "ap",
        "vocabulary", "gem_stream")}  # fmt: skip
    extras = {name: [cell for table in difference.tables for row in paper.tables[table].rows if row.extra_of
                     for column in paper.tables[table].columns if (cell := paper.cell(table, row.id, column))]
              for name, difference in switches.items()}  # fmt: skip
    for name in switches.keys() - {"settings.rp", "settings.affinity"}:  # no other value known; rows of their own
        assert any(name.partition(".")[2] in cell.settings for cell in extras[name]), name


def test_a_row_can_be_another_tables_run_in_some_columns() -> None:
    paper = PAPERS["ttd"]
    assert paper.cell("table8", "nltk", "f1") == paper.cell("table2", "a_nltk", "f1")
    segmentation = paper.cell("table8", "nltk", "mIoU_VOC")
    assert segmentation is not None and segmentation.method == "ttd_segment"


def test_a_row_that_names_its_data_set_and_measure_is_followed() -> None:
    cell = PAPERS["ttd"].cell("readme_results", "text_tcl", "mIoU")
    assert cell is not None and (cell.dataset, cell.metric) == ("CC3M-TagMask", "caption_iou")
    other = PAPERS["ttd"].cell("readme_results", "coco2014", "mIoU")
    assert other is not None and (other.dataset, other.protocol.background_threshold) == ("Object2014", 0.45)


def test_protocol_parameters_leave_out_what_is_at_its_default() -> None:
    sclip = PAPERS["freecp"].protocols["sclip"].on("VOC21")
    assert sclip.params() == {
        "short_side": 336, "max_long_side": 2048, "crop": 224, "stride": 112, "window_padding": "none",
        "names": "sclip", "templates": "openai80", "logit_scale": 65.0, "prob_threshold": 0.1,
        "area_threshold": 0.1, "score_size": "original",
    }  # fmt: skip
    assert sclip.changed({"flip": True, "scales": [1.0, 0.5]}).params()["scales"] == [1.0, 0.5]


def test_every_field_of_a_protocol_is_described() -> None:
    assert all(field.description for field in Protocol.model_fields.values())


SMALL: dict[str, Any] = {
    "paper": "p", "title": "T", "citation": "C", "url": "U", "code": {"url": None, "licence": "MIT"},
    "models": {"m": {"full": "w"}},
    "columns": {"VOC21": {"label": "VOC", "dataset": "VOC21"}, "ADE": {"label": "ADE", "dataset": "ADE"}},
    "protocols": {"one": {"description": "d", "short_side": 448, "crop": 224, "stride": 112, "names": "sclip",
                          "templates": "openai80", "logit_scale": 40}},
    "tables": {"t": {"title": "T", "metric": "miou", "key_columns": ["method"], "columns": ["VOC21", "ADE"], "rows": [
        {"id": "a", "labels": {"method": "A"}, "published": {"VOC21": 1.0, "ADE": None},
         "run": {"method": "x", "model": "m", "protocol": "one"}},
        {"id": "b", "labels": {"method": "B"}, "published": {"VOC21": 2.0, "ADE": 3.0}, "citation": "elsewhere"},
        {"id": "c", "labels": {"method": "C"}, "extra_of": "a",
         "run": {"method": "x", "model": "m", "protocol": "one"}}]}},
    "differences": [{"id": "d", "paper": "p", "code": "c", "default": "code", "switch": None, "tables": ["t"],
                     "source": "s"}],
    "claims": [{"id": "e", "text": "t", "source": "s", "better": "t.b", "worse": "t.a", "columns": ["VOC21"]}],
}  # fmt: skip


def mistake(change: Callable[[dict[str, Any]], object]) -> str:
    """The message for a small paper with one change."""
    data = copy.deepcopy(SMALL)
    change(data)
    with pytest.raises(UserError) as caught:
        validate(data, Paper, "papers/p.yaml")
    return str(caught.value)


def row(data: dict[str, Any], index: int = 0) -> dict[str, Any]:
    return data["tables"]["t"]["rows"][index]  # type: ignore[no-any-return]


def test_the_small_paper_is_valid() -> None:
    paper = validate(copy.deepcopy(SMALL), Paper, "papers/p.yaml")
    assert [line.kind for line in paper.tables["t"].rows] == ["run", "citation", "extra"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda d: row(d).update(colour=1), ["rows.0.colour", "unknown key", "published"]),
        (lambda d: row(d)["run"].update(protocl="one"), ["rows.0.run.protocl", "did you mean 'protocol'"]),
        (lambda d: d["protocols"]["one"].update(short_side="big"), ["protocols.one.short_side", "integer"]),
        (lambda d: row(d)["published"].update(VOC21=True), ["rows.0.published.VOC21"]),
        (lambda d: row(d)["run"].update(protocol="two"), ["row 't.a'", "protocol 'two'", "allowed: one"]),
        (lambda d: row(d)["run"].update(model="n"), ["row 't.a'", "model 'n'", "allowed: m"]),
        (lambda d: row(d)["run"].update(preset="fast"), ["row 't.a'", "preset 'fast'", "none is defined"]),
        (lambda d: row(d)["run"].update(protocol_changes={"window": 1}), ["protocol_changes", "'window'", "crop"]),
        (lambda d: row(d)["run"].update(protocol_changes={"crop": "x"}), ["row 't.a'", "protocol_changes", "crop"]),
        (lambda d: row(d)["run"].update(columns=["City"]), ["row 'a'", "'City'", "allowed: ADE, VOC21"]),
        (lambda d: row(d)["run"].update(settings={"x": [1]}), ["rows.0.run.settings.x"]),
        (lambda d: row(d)["published"].pop("ADE"), ["row 'a'", "published lacks column 'ADE'", "null"]),
        (lambda d: row(d)["published"].update(City=1.0), ["row 'a'", "published column 'City'"]),
        (lambda d: row(d)["labels"].update(venue="V"), ["row 'a'", "label 'venue'", "allowed: method"]),
        (lambda d: row(d, 1).update(id="a"), ["row id 'a' is used twice"]),
        (lambda d: row(d, 1).pop("citation"), ["row 'b'", "exactly one of run, citation, derived"]),
        (lambda d: row(d).update(citation="x"), ["row 'a'", "exactly one of run, citation, derived"]),
        (lambda d: row(d, 1).update(extra_of="a"), ["row 'b'", "extra_of needs a run"]),
        (lambda d: row(d, 2).update(extra_of="z"), ["row 'c'", "row 'z'", "allowed: a, b"]),
        (lambda d: row(d).update(same_as={"t.z": ["ADE"]}), ["row 't.a'", "same_as", "'z'"]),
        (lambda d: d["tables"]["t"].update(metric="mIou"), ["tables.t.metric", "'miou'"]),
        (lambda d: d["tables"]["t"].update(columns=["VOC21", "ADE", "City"]), ["'City'"]),
        (lambda d: d["tables"]["t"].update(derived={"Avg": {"mean_of": ["ADE"]}}), ["derived: column 'Avg'"]),
        (lambda d: d["tables"]["t"].update(derived={"ADE": {}}), ["mean_of", "difference_of"]),
        (lambda d: d["protocols"]["one"].update(stride=None), ["crop and stride", "both"]),
        (lambda d: d["protocols"]["one"].update(per_column={"ADE": {"step": 1}}), ["protocols.one", "'step'", "crop"]),
        (lambda d: d["differences"][0].update(tables=["u"]), ["difference 'd'", "table 'u'", "allowed: t"]),
        (lambda d: d["differences"].append(d["differences"][0]), ["difference id 'd' is used twice"]),
        (lambda d: d["claims"].append(d["claims"][0]), ["claim id 'e' is used twice"]),
        (lambda d: d["claims"][0].update(better="t.z"), ["claim 'e'", "better", "row 'z'", "allowed: a, b, c"]),
        (lambda d: d["claims"][0].update(worse="u.a"), ["claim 'e'", "worse", "table 'u'"]),
        (lambda d: d["claims"][0].update(better="b"), ["better 'b'", "table.row"]),
        (lambda d: d["claims"][0].update(columns=["City"]), ["claim 'e'", "column 'City'"]),
        (lambda d: d["claims"][0].update(better="t.a"), ["same cell", "'t.a'"]),
        (lambda d: d["claims"][0].update(better_column="ADE"), ["better_column and worse_column"]),
        (lambda d: d["claims"][0].update(explanations={"huge": {}}), ["explanations.huge", "'tiny'"]),
        (lambda d: d["claims"][0].update(explanations={"tiny": {"true": "x"}}), ["explanations.tiny", "'supported'"]),
        (lambda d: d["tables"].update({"Table 2": d["tables"].pop("t")}), ["tables", "'Table 2'", "a-z"]),
        (lambda d: d.pop("models"), ["models", "required"]),
    ],
)  # fmt: skip
def test_a_mistake_is_named_with_its_key(change: Callable[[dict[str, Any]], object], words: list[str]) -> None:
    message = mistake(change)
    assert message.startswith("papers/p.yaml: ")
    assert [word for word in words if word not in message] == [], message


@pytest.mark.parametrize(
    ("kind", "margin", "higher", "better", "worse", "holds"),
    [
        ("greater", 0.0, True, 2.0, 1.0, True),
        ("greater", 0.0, True, 1.0, 1.0, False),
        ("greater", 1.0, True, 2.0, 1.0, False),
        ("lower", 0.0, False, 1.0, 2.0, True),
        ("lower", 0.0, True, 2.0, 1.0, False),
        ("not_worse", 0.0, True, 1.0, 1.0, True),
        ("not_worse", 0.5, True, 1.0, 1.5, True),
        ("not_worse", 0.4, True, 1.0, 1.5, False),
        ("not_worse", 0.0, False, 1.0, 1.5, True),
        ("not_worse", 0.0, False, 1.5, 1.0, False),
    ],
)
def test_what_a_claim_wants(kind: str, margin: float, higher: bool, better: float, worse: float, holds: bool) -> None:
    claim = Claim.model_validate(
        {"id": "c", "text": "t", "source": "s", "better": "t.a", "worse": "t.b", "kind": kind, "margin": margin}
    )
    assert claim.holds(better, worse, higher) is holds


def test_every_model_of_ttd_sees_the_normalisation_that_it_was_trained_with() -> None:
    paper = PAPERS["ttd"]
    for name, table in paper.tables.items():
        for row, column in ((row, column) for row in table.rows for column in table.columns):
            if cell := paper.cell(name, row.id, column):
                wanted = "clip" if cell.model == "clip_b16" else "imagenet"
                assert cell.protocol.normalisation == wanted, (name, row.id)
