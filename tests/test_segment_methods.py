"""``ovss segment`` with rows that label pixels: the stage's own label maps, classes of a user, names of rows."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from small_clip import write_model_directory

from ovss import cli
from ovss.errors import UserError
from ovss.evaluation import evaluate
from ovss.jobs import Item, JobContext, Machine
from ovss.models import text
from ovss.plan.job import Job
from ovss.plan.project import Project
from ovss.plan.segment import find_row, offered, own_maps
from ovss.root import find_root
from ovss.segment import command
from ovss.segment.classes import read_classes, with_background
from ovss.segment.legend import cut, drawing, entries, palette, with_legend
from ovss.segment.outputs import Outputs
from ovss.segment.pictures import read_picture
from ovss.segment.recipe import Asked, Maps, Named

NAMES = [["sky", "wall"], ["cat"], ["dog", "hound"], ["car"]]
PROTOCOL = {"short_side": 40, "crop": 32, "stride": 16, "names": "own", "templates": "photo", "logit_scale": 40.0}
ROWS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "sclip": ("dense_clip", {"variant": "SCLIP"}, {"prob_threshold": 0.3, "area_threshold": 0.05}),
    "gem": ("dense_clip", {"variant": "GEM"}, {"score_size": "input"}),
    "freecp": ("freecp", {"variant": "SCLIP", "rp": 0.05, "ap": 0.6}, {"ambiguity_crop": 16}),
    "ttd": ("ttd_segment", {"base": "maskclip"}, {"pamr": True, "background_threshold": 0.5, "scales": [1.0, 0.5]}),
}
SIZES = {"im0": (50, 70), "im1": (64, 48), "im2": (90, 30)}
COUNTS = {"num_classes": len(NAMES), "background": True}


def photo(size: tuple[int, int], seed: int) -> np.ndarray:
    blocks = np.random.default_rng(seed).integers(0, 256, (size[0] // 8 + 1, size[1] // 8 + 1, 3), dtype=np.uint8)
    return blocks.repeat(8, 0).repeat(8, 1)[: size[0], : size[1]]


def job(name: str) -> Job:
    return Job(name, name, "m", {}, {}, {}, {})


JOBS = {name: job(name) for name in ("model", "text", "descriptions")}


def recipe(row: str) -> Maps:
    method, settings, own = ROWS[row]
    params = {"method": method, "settings": settings, "dataset": {"name": "own", "labels": {}, **COUNTS},
              "protocol": {**PROTOCOL, **own}}  # fmt: skip
    jobs = JOBS if row == "freecp" else {name: JOBS[name] for name in ("model", "text")}
    return Maps("tiny", Named("p", "t", row, method), jobs, params, NAMES, {"dataset": "own"}, ())


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with a small random CLIP, its text features, and three pictures that are also a prepared source."""
    root = tmp_path_factory.mktemp("project")
    at = {name: root / each.directory for name, each in JOBS.items()}
    write_model_directory(at["model"])
    sentences = {word: [f"{word}.", f"a {word} by the road"] for names in NAMES for word in names}
    params = {"text": {"templates": "photo"}, "descriptions": {"templates": "own", "sentences": sentences}}
    for name in params:
        at[name].mkdir(parents=True)
    items = {name: Item({"queries": NAMES, **own}, {"model": at["model"]}, at[name]) for name, own in params.items()}
    text.run(JobContext(0, Machine(), items=items, finish=lambda *_: None))
    for folder in ("source", "labels"):
        (root / folder).mkdir()
    lines = ["id,image,label,height,width"]
    for number, (name, size) in enumerate(SIZES.items()):
        Image.fromarray(photo(size, number)).save(root / f"source/{name}.png")
        Image.fromarray(np.zeros(size, np.uint8)).save(root / f"labels/{name}.png")
        lines.append(f"{name},{name}.png,../labels/{name}.png,{size[0]},{size[1]}")
    (root / "source/index.csv").write_text("\n".join(lines) + "\n")
    for each in JOBS.values():
        (root / each.done).touch()
    for name in ("params.yaml", "Snakefile"):
        (root / name).touch()
    return root


@pytest.fixture
def ovss(project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Runs ``ovss segment`` in the project with a row of ``ROWS``: (exit status, standard output, standard error)."""
    monkeypatch.chdir(project)
    outputs = Outputs(project, "tiny", 0)
    monkeypatch.setattr(command, "read_recipe", lambda _, request, __: (recipe(request.method), outputs))

    def run(*arguments: str) -> tuple[int, str, str]:
        status = cli.main(["segment", "--scale", "tiny", *arguments])
        return status, *capsys.readouterr()

    return run


@pytest.mark.parametrize("row", ROWS)
def test_label_maps_are_those_of_the_stage(project: Path, ovss: Any, tmp_path: Path, row: str) -> None:
    assert ovss("source", "--method", row, "--out", str(tmp_path / "out"))[0] == 0
    ours = recipe(row)
    dataset = {"name": "own", "labels": {"kind": "identity", "classes": 4}, **COUNTS}
    params = {**ours.params, "dataset": dataset, "shard": [0, 1], "examples": len(SIZES)}
    inputs = {name: project / each.directory for name, each in ours.jobs.items()}
    (tmp_path / "row").mkdir()
    item = Item(params, {**inputs, "source": project / "source"}, tmp_path / "row")
    evaluate.run(JobContext(0, Machine(), items={"row": item}, finish=lambda *_: None))
    seen = set()
    for name, size in SIZES.items():
        with Image.open(tmp_path / f"out/{name}.labels.png") as labels:
            assert labels.mode == "P" and labels.size == (size[1], size[0])
            found, colours = np.array(labels), labels.getpalette()
        np.testing.assert_array_equal(found, np.array(Image.open(tmp_path / f"row/examples/{name}.png")))
        record = json.loads((tmp_path / f"out/{name}.json").read_text())
        assert [one["names"] for one in record["classes"]] == NAMES and record["classes"][0]["name"] == "background"
        assert [one["pixels"] for one in record["classes"]] == np.bincount(found.ravel(), minlength=4).tolist()
        for one in record["classes"]:
            shown = colours[3 * one["number"] : 3 * one["number"] + 3]
            assert one["colour"] == "#{:02x}{:02x}{:02x}".format(*shown)
        assert record["row"] == f"p.t.{row}" and record["files"]["labels"] == f"{name}.labels.png"
        assert record["background"]["words"] == NAMES[0]
        seen |= set(np.unique(found).tolist())
    assert len(seen) > 1


def test_a_damaged_picture_among_others_is_named_at_the_end_and_the_others_are_done(ovss: Any, tmp_path: Path) -> None:
    folder = tmp_path / "mixed"
    folder.mkdir()
    for number, name in enumerate(("a", "c", "d")):
        Image.fromarray(photo((40, 50), number)).save(folder / f"{name}.png")
    (folder / "b.jpg").write_bytes(b"no picture")
    (folder / "d.png").write_bytes((folder / "d.png").read_bytes()[:300])
    status, printed, message = ovss(str(folder), "--method", "sclip", "--out", str(tmp_path / "out"))
    assert status == 1 and [line.split(" -> ")[0] for line in printed.splitlines()] == [
        str(folder / "a.png"), str(folder / "c.png")]  # fmt: skip
    assert "2 of 4 pictures could not be segmented" in message and "b.jpg: not a picture" in message
    assert "d.png: not a picture" in message and "Traceback" not in message
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["a.json", "a.labels.png", "a.png", "c.json", "c.labels.png", "c.png"]
    assert ovss(str(folder / "b.jpg"), "--method", "sclip", "--out", str(tmp_path / "one"))[0] == 2


def test_no_class_is_value_255_and_said_in_the_record(
    project: Path, ovss: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    plane = recipe("ttd")
    settings = {**plane.params["settings"], "background_plane": "always"}
    protocol = {**plane.params["protocol"], "background_threshold": 0.55}
    dataset = {**plane.params["dataset"], "background": False}
    other = replace(plane, params={**plane.params, "settings": settings, "protocol": protocol, "dataset": dataset})
    monkeypatch.setattr(command, "read_recipe", lambda *_: (other, Outputs(project, "tiny", 0)))
    assert ovss("source/im0.png", "--method", "ttd", "--out", str(tmp_path))[0] == 0
    found = np.array(Image.open(tmp_path / "im0.labels.png"))
    record = json.loads((tmp_path / "im0.json").read_text())
    assert set(np.unique(found)) <= {0, 1, 2, 3, 255} and (found == 255).any()
    assert record["no_class"]["pixels"] == (found == 255).sum() and record["background"] is None


def test_a_row_that_is_told_what_an_image_shows_is_refused(
    project: Path, ovss: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = recipe("freecp")
    told = replace(told, params={**told.params, "settings": {**told.params["settings"], "vocabulary": "image"}})
    monkeypatch.setattr(command, "read_recipe", lambda *_: (told, Outputs(project, "tiny", 0)))
    status, _, message = ovss("source/im0.png", "--out", str(tmp_path / "out"))
    assert status == 2 and "told which classes an image shows" in message and not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def real() -> Project:
    return Project.load(find_root(Path(__file__).parent))


def never(jobs: Mapping[str, Job]) -> Mapping[str, Path]:
    raise AssertionError(f"{', '.join(jobs)} was asked for")


def test_every_short_name_is_a_row_and_planned_or_refused_in_one_sentence(real: Project) -> None:
    short = offered(real)
    assert {"clip", "maskclip", "sclip", "clearclip", "gem", "freecp", "tag", "tcl", "tcl_ttd"} <= short.keys()
    for name, row in short.items():
        assert find_row(real, name) == find_row(real, str(row)) == row
        if real.papers[row.paper].tables[row.table].row(row.row).run.captions is None:
            try:
                found = own_maps(real, "tiny", row, Asked(), never)
            except UserError as error:
                assert "\n" not in str(error)  # a method without a module, or weights without a tiny counterpart
                continue
            assert {"model", "text"} <= found.jobs.keys() and len(found.classes) == found.params["dataset"][
                "num_classes"
            ]


def test_default_classes_take_models_texts_and_settings_of_the_rows_own_cell(real: Project) -> None:
    from ovss.plan.rows import Rows

    row = find_row(real, "freecp")
    (planned,) = Rows(real, real.params.tiny).cell(real.papers["freecp"], "table2", row.row, "VOC21")
    ours = own_maps(real, "tiny", row, Asked(), never)
    assert {name: each.key for name, each in ours.jobs.items()} == {
        name: each.key for name, each in planned.inputs.items() if name != "source"
    }
    assert all(ours.params[name] == planned.params[name] for name in ("method", "settings", "protocol"))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("frecp", "did you mean freecp"),
        ("freecp.table2.sclip_frecp", "did you mean freecp.table2.sclip_freecp"),
        ("zzzz", "there is no 'zzzz'; 'ovss segment --list' has the names"),
        ("ttd.table2.b_s_pixel", "answers with words or scores"),
        ("ttd.table10.clip_surgery_reproduced", "answers with words or scores"),
        ("ttd.table3.tcl", "is measured on no data set with classes"),
    ],
)
def test_a_row_that_draws_nothing_or_is_not_there_is_refused_in_one_sentence(
    real: Project, name: str, words: str
) -> None:
    with pytest.raises(UserError) as refused:
        own_maps(real, "tiny", find_row(real, name), Asked(), never)
    assert words in str(refused.value) and "\n" not in str(refused.value)


def test_words_without_descriptions_get_their_prompts_and_are_said(real: Project) -> None:
    ours = own_maps(real, "tiny", find_row(real, "freecp"), Asked([["dog"], ["unicorn"]]), never)
    params = ours.jobs["descriptions"].params
    assert params["queries"] == ours.classes and ours.classes[1:] == [["dog"], ["unicorn"]]
    template = (real.resources / "templates_tiny.txt").read_text().splitlines()[0]
    assert params["sentences"]["unicorn"][0] == template.replace("{}", "unicorn")
    assert template.replace("{}", "dog") not in params["sentences"]["dog"]
    assert ours.facts["descriptions"]["words_without"] == ["unicorn"] and "unicorn" in ours.notes[0]
    assert "sentences" not in ours.jobs["text"].params


def test_a_data_set_brings_its_background_or_none_and_settings_that_fit(real: Project) -> None:
    asked = [["dog"], ["sky", "blue sky"]]
    for dataset, background in (("VOC21", True), ("ADE", False)):
        ours = own_maps(real, "tiny", find_row(real, "sclip"), Asked(asked, dataset), never)
        assert ours.background is background and ours.facts["settings_of"] == dataset
        assert [list(names) for names in ours.classes[int(background) :]] == asked
        assert ("prob_threshold" in ours.params["protocol"]) and bool(
            ours.params["protocol"]["prob_threshold"]
        ) is background
    with pytest.raises(UserError, match="--dataset: there is no 'VOC22' with classes at this scale; did you mean VOC2"):
        own_maps(real, "tiny", find_row(real, "sclip"), Asked(asked, "VOC22"), never)


def test_background_words_that_are_classes_are_no_background_words() -> None:
    listed = [["sky", "wall"], ["cat"]]
    assert with_background(listed, [["sky"], ["dog"]]) == [["wall"], ["sky"], ["dog"]]
    assert with_background(listed, [["sky"], ["wall"]]) == [["background"], ["sky"], ["wall"]]
    assert with_background(listed, [["dog"], ["Background", "floor"]]) == [["Background", "floor"], ["dog"]]


def test_classes_are_read_from_a_list_or_a_file(tmp_path: Path) -> None:
    file = tmp_path / "classes.txt"
    file.write_text("\ufeffcat\n\nsofa, couch\r\n", encoding="utf-8")
    assert read_classes(None, file)[0] == [["cat"], ["sofa", "couch"]]
    assert read_classes("cat, sofa,cat", None) == ([["cat"], ["sofa"]], "--classes")
    assert read_classes(None, None)[0] is None
    many = "\n".join(map(str, range(256)))
    refused = {"": "no class is in the file", "cat\ncat\n": "line 2 has 'cat' a second time",
               "cat, , dog": "line 1 has an empty name", many: "256 classes"}  # fmt: skip
    for content, words in refused.items():
        file.write_text(content)
        with pytest.raises(UserError, match=words):
            read_classes(None, file)
    with pytest.raises(UserError, match="give one of them"):
        read_classes("cat", file)
    with pytest.raises(UserError, match="cannot be read"):
        read_classes(None, tmp_path / "none.txt")


def fetch(name: str, url: str) -> Job:
    return Job("fetch", name, "ovss.data.fetch", {"archive": name, "files": [
        {"name": "w.bin", "url": url, "mirrors": [], "size": 5, "sha256": None, "sha1": None, "md5": None}]},
        {}, {}, {})  # fmt: skip


def test_weights_are_fetched_on_first_use_and_trainings_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "w.bin").write_bytes(b"12345")
    outputs = Outputs(tmp_path, "full", 0, {("far", "w.bin"): "1,234 MB"})
    local = fetch("near", f"file://{tmp_path}/w.bin")
    at = outputs.provide({"file": local})
    assert (at["file"] / "w.bin").read_bytes() == b"12345" and "downloads" not in capsys.readouterr().err
    assert outputs.missing([local]) == [] and outputs.provide({"file": local}) == at
    monkeypatch.setenv("OVSS_OFFLINE", "1")
    with pytest.raises(UserError, match=r"place them by hand: data/manual/far/w\.bin \(https://example\.org/w\)"):
        outputs.provide({"model": fetch("far", "https://example.org/w")})
    monkeypatch.setenv("OVSS_OFFLINE", "0")
    monkeypatch.setattr("ovss.segment.outputs.runner.run_jobs", lambda *_: None)
    outputs.provide({"model": fetch("far", "https://example.org/w")})
    assert "downloads w.bin of far (1,234 MB), once" in capsys.readouterr().err
    clip = Job("train_clip", "clip", "m", {}, {}, {}, {})
    texts = Job("text", "texts", "m", {}, {"model": clip}, {}, {})
    with pytest.raises(UserError, match=f"scale full: model; make them with 'snakemake .* -- {clip.done}', or everyth"):
        outputs.provide({"model": clip, "text": texts})


def test_the_legend_names_every_class_that_is_there_with_its_colour_and_cuts_long_names() -> None:
    labels = np.repeat(np.arange(40, dtype=np.uint8), 40).reshape(40, 40)
    found = entries(labels, [[f"class number {i} with a rather long name"] for i in range(41)], background=True)
    sheet = with_legend(np.zeros((300, 400, 3), np.uint8), found)[300:]
    flat = {tuple(pixel) for pixel in sheet.reshape(-1, 3).tolist()}
    assert {entry.colour for entry in found if entry.pixels} <= flat and found[40].colour not in flat
    assert (
        palette(found)[: 3 * 41] == [value for entry in found for value in entry.colour] and len(palette(found)) == 768
    )
    assert cut("a long name", 30, 15).endswith("…") and cut("cat", 300, 15) == "cat"
    cells = np.arange(9, dtype=np.uint8).reshape(3, 3)
    for size in ((9, 3), (30, 300), (1, 1)):
        drawn = drawing(photo(size, 1), cells, entries(cells, [[str(i)] for i in range(9)], False))
        assert drawn.shape[1] >= 384 and drawn.dtype == np.uint8


def test_texts_that_no_table_has_are_made_beside_the_workflows_outputs(real: Project) -> None:
    ours = own_maps(real, "tiny", find_row(real, "sclip"), Asked([["unicorn"]]), never)
    assert ours.jobs["text"].directory.startswith("data/own_texts/") and ours.jobs["text"].stage == "text"
    assert ours.jobs["text"].done == f"{ours.jobs['text'].directory}/origin.json"


def test_sixteen_bit_pictures_are_read_as_eight_bit_ones(tmp_path: Path) -> None:
    values = np.arange(0, 65536, 64, dtype=np.uint16).reshape(32, 32)
    Image.fromarray(values).save(tmp_path / "deep.png")
    np.testing.assert_array_equal(read_picture(tmp_path / "deep.png")[:, :, 1], values >> 8)


@pytest.mark.slow
def test_the_list_has_every_name_and_what_it_needs(
    real: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(real.root)
    assert cli.main(["segment", "--list", "--scale", "full"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert set(offered(real)) == {line[0] for line in lines if line and f"[{offered(real).get(line[0])}]:" in line}
