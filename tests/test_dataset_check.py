"""``ovss dataset check``: the worked example of the README, and one sentence for everything that can be wrong."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import small_archives
from PIL import Image
from readme_blocks import SIZES, blocks, commands, draw_garden

from ovss import cli
from ovss.config.datasets import load_datasets
from ovss.data import layouts, own_folders, prepare
from ovss.data.layouts import Entry
from ovss.data.prepare import convert, write_index
from ovss.dataset_check import command, files
from ovss.dataset_check.entry import Expected, of_section_datasets, read_entry
from ovss.dataset_check.scan import Scan
from ovss.dataset_check.sheet import PAIRS, choose
from ovss.dataset_check.summary import summary
from ovss.errors import UserError
from ovss.jobs import JobContext, Machine
from ovss.plan.data import class_queries, source_job
from ovss.plan.job import Job
from ovss.plan.project import Project

ENTRY = "\n" + blocks("Your own data set", "yaml")[0]
Check = Callable[..., tuple[int, str, str]]


@pytest.fixture
def project(root: Path, tmp_path: Path) -> Path:
    """A copy of the project's files that decide what a data set is, with the garden of the README in it."""
    for name in ("Snakefile", "params.yaml", "datasets.yaml", "weights.yaml"):
        shutil.copy(root / name, tmp_path / name)
    for name in ("papers", "src", "envs"):
        (tmp_path / name).symlink_to(root / name)
    draw_garden(tmp_path / "data/manual/garden")
    add(tmp_path, ENTRY)
    return tmp_path


def add(project: Path, text: str) -> None:
    with (project / "datasets.yaml").open("a", encoding="utf-8") as stream:
        stream.write(text)


def change(project: Path, old: str, new: str) -> None:
    text = (project / "datasets.yaml").read_text(encoding="utf-8")
    assert old in text
    (project / "datasets.yaml").write_text(text.replace(old, new), encoding="utf-8")


@pytest.fixture
def check(project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Check:
    monkeypatch.chdir(project)

    def run(*arguments: str) -> tuple[int, str, str]:
        code = cli.main(["dataset", "check", *(arguments or ("garden",))])
        return code, *capsys.readouterr()

    return run


def test_worked_example_one_entry_and_two_folders_are_a_data_set(project: Path, check: Check) -> None:
    assert ["ovss", "dataset", "check", "garden"] in commands(blocks("Your own data set")[0], "ovss")
    code, out, err = check()
    sheet = project / "data/checked/garden.png"
    assert (code, err) == (0, "")
    assert out.splitlines() == [
        "garden: My garden",
        "split all: 3 images of 40..60 x 40..60 pixels, 3 classes",
        "class   scored  images  name",
        f"    0  {(1200 + 850 + 1800) / 6700:>7.2%}       3  grass",
        f"    1  {1200 / 6700:>7.2%}       1  path",
        f"    2  {1650 / 6700:>7.2%}       1  flower bed",
        f"ignored: {600 / 7300:.2%} of all pixels (raw 255)",
        f"contact sheet: {sheet}",
    ]
    with Image.open(sheet) as picture:
        assert picture.mode == "RGB" and len(picture.getcolors(1 << 20)) > 100


def test_the_sheet_goes_where_out_says_or_one_sentence_says_why_not(project: Path, check: Check) -> None:
    assert check("garden", "--out", "sheets/a.png")[0] == 0
    assert (project / "sheets/a.png").is_file() and not (project / "data/checked").exists()
    code, _, err = check("garden", "--out", "sheets")
    assert code == 2 and err == "ovss: sheets: cannot be written (Is a directory); give another --out\n"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("    title: My garden\n", "", "own.garden.title: this key is required and is missing"),
        ("masks:", "mask:", "own.garden.masks: this key is required and is missing; own.garden.mask: unknown key"),
        ("grass, path", "grass", "own.garden: classes has 2 names, labels gives 3 classes"),
        ("path,", "grass,", "own.garden: classes: 'grass' is there twice"),
        ("bed, f", "bed,, f", "own.garden: classes: class 2 has an empty name"),
        ("4: 2}", "4: 4}", "own.garden.labels.table: no raw value gives class 3"),
        ("ignore: 255", "ignore: [4]", "own.garden: ignore: raw value 4 is class 2 in labels; take it out of one"),
        ("ignore: 255", "ignore: 65536", "own.garden.ignore.0: input should be less than or equal to 65535 (it is "),
        ("garden/labels", "garden/label", "own.garden.masks: "),
        ("  garden:", "  voc21:", "there is no data set 'garden'; there are: "),
    ],
)  # fmt: skip
def test_a_wrong_entry_is_one_sentence(project: Path, check: Check, old: str, new: str, message: str) -> None:
    change(project, old, new)
    code, out, err = check()
    assert code == 2 and out == "" and err.count("\n") == 1
    assert err.startswith(f"ovss: datasets.yaml: {message}")


def test_a_name_that_two_sections_have_is_refused(project: Path, check: Check) -> None:
    change(project, "  garden:", "  voc21:")
    assert check("voc21")[2] == "ovss: datasets.yaml: own.voc21: section 'datasets' has this name, too; " \
        "rename one of them\n"  # fmt: skip
    assert "'tiny_nuswide' is of images with texts" in check("tiny_nuswide")[2]
    assert "there is no data set 'vocc21' (did you mean 'voc21'?)" in check("vocc21")[2]


def test_a_file_of_each_kind_that_is_wrong_is_named(project: Path, check: Check) -> None:
    garden = project / "data/manual/garden"
    label = np.ones((40, 60), np.uint8)

    def pair(name: str, pixels: np.ndarray, image: bytes = small_archives.jpg(5, 40, 60)) -> None:
        (garden / f"images/{name}.jpg").write_bytes(image)
        Image.fromarray(pixels).save(garden / f"labels/{name}.png")

    pair("colours", np.stack([label] * 3, axis=-1))
    pair("cut", label, small_archives.jpg(5, 40, 60)[:200])
    pair("empty", label, b"")
    pair("page", label, b"<html>log in</html>")
    pair("small", label[:20])
    pair("stray", label * 7)
    pair("turned", label.T)
    shutil.copy(garden / "images/east.jpg", garden / "images/alone.jpg")
    shutil.copy(garden / "labels/east.png", garden / "labels/lonely.png")
    code, out, err = check()
    assert code == 1 and out == "" and not (project / "data/checked").exists()
    first, *lines = err.splitlines()
    assert first == "ovss: garden: 9 of 12 pairs of image and label are wrong:"
    for line, (file, what) in zip(lines, (
        ("images/alone.jpg", "there is no label alone.png in data/manual/garden/labels"),
        ("labels/lonely.png", "there is no image lonely.* in data/manual/garden/images"),
        ("labels/colours.png", "a label image must be 8-bit gray or palette, this one has mode RGB; save the "),
        ("images/cut.jpg", "this image cannot be read ("),
        ("images/empty.jpg", "this image cannot be read (it is empty)"),
        ("images/page.jpg", "this image cannot be read (cannot identify image file"),
        ("labels/small.png", "60 x 20 pixels, but its image has 60 x 40"),
        ("labels/stray.png", "raw value 7 is not in labels or ignore"),
        ("labels/turned.png", "40 x 60 pixels, but its image has 60 x 40 (turned by 90 degrees: an EXIF"),
    ), strict=True):  # fmt: skip
        assert line.startswith(f"  {garden / file}: {what}")
        assert "archive" not in line


def test_at_most_ten_wrong_files_are_listed(project: Path, check: Check) -> None:
    for number in range(13):
        (project / f"data/manual/garden/images/x{number:02}.jpg").write_bytes(small_archives.jpg(1, 8, 8))
    lines = check()[2].splitlines()
    assert lines[0].startswith("ovss: garden: 13 of 16 pairs") and lines[-1] == "  ... and 3 more"
    assert len(lines) == 12 and "x09.jpg" in lines[10]


def test_folders_that_hold_something_else_are_one_sentence(project: Path, check: Check) -> None:
    images, labels = project / "data/manual/garden/images", project / "data/manual/garden/labels"
    (images / ".DS_Store").write_bytes(b"x")
    (images / "notes.txt").write_bytes(b"x")
    assert check()[0] == 0
    (images / "west.jpg").write_bytes(b"x")
    assert "west.png: west.jpg has the same name; rename one" in check()[2]
    (images / "west.jpg").unlink()
    (images / "more").mkdir()
    assert f"more: a folder in the folder; place all files side by side in {images}" in check()[2]
    (images / "more").rmdir()
    for path in labels.iterdir():
        path.unlink()
    assert f"own.garden.masks: {labels}: no file in this folder ends in .png; place the files in it" in check()[2]


def test_a_data_set_of_which_nothing_is_scored_is_refused(project: Path, check: Check) -> None:
    for path in (project / "data/manual/garden/labels").iterdir():
        with Image.open(path) as label:
            size = label.size
        Image.new("L", size, 255).save(path)
    code, _, err = check()
    assert code == 2
    assert err == "ovss: garden: every pixel is ignored (raw values: 255); labels does not fit the files\n"


def test_the_layout_leaves_the_originals_and_gives_the_same_pairs(project: Path, tmp_path: Path) -> None:
    garden, out = project / "data/manual/garden", tmp_path / "out"
    before = {path: path.read_bytes() for path in garden.rglob("*") if path.is_file()}
    (out / "unpacked").mkdir(parents=True)
    found = layouts.load("folders")({"images": garden / "images", "labels": garden / "labels"}, "all", out / "unpacked")
    assert [entry.id for entry in found] == sorted(SIZES)
    convert(found, out, {1, 2, 3, 4, 255})
    assert {path: path.read_bytes() for path in garden.rglob("*") if path.is_file()} == before
    assert sorted(path.name for path in (out / "images").iterdir()) == ["east.jpg", "north gate.jpg", "west.png"]


def test_the_plan_takes_in_the_folders_and_prepares_them(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project)

    loaded = Project.load(project)

    def planned() -> Job:
        job = source_job(loaded, loaded.params.at("full"), "garden")
        assert isinstance(job, Job)
        return job

    job = planned()
    assert class_queries(loaded, "garden", "freecp") == [["grass"], ["path"], ["flower bed", "flowers"]]
    at = {"garden": project / "taken", "out": project / "prepared"}
    for folder in at.values():
        folder.mkdir()
    own_folders.run(JobContext(0, Machine(), job.inputs["garden"].params, out=at["garden"]))
    facts = prepare.run(JobContext(0, Machine(), job.params, at, at["out"]))
    assert (facts["images"], facts["pixels_of_value"]["255"]) == (3, 600)
    assert {path.name for path in (project / "data/manual/garden/images").iterdir()} > {"east.jpg", "west.png"}
    label = project / "data/manual/garden/labels/east.png"
    with Image.open(label) as image:
        image.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(label)
    assert planned().key != job.key
    with pytest.raises(UserError, match="files changed since the run was planned"):
        own_folders.run(JobContext(0, Machine(), job.inputs["garden"].params, out=at["garden"]))
    shutil.rmtree(project / "data/manual/garden")
    missing = source_job(loaded, loaded.params.at("full"), "garden")
    assert str(missing).startswith("data to be placed by hand: data/manual/garden/images: there is no such folder")


ADE = "place by hand: data/manual/ade20k150/ADEChallengeData2016.zip (http://data.csail.mit.edu/"


@pytest.fixture
def shipped(project: Path, root: Path) -> Path:
    """The project without an entry of one's own, and with ADE20K's small archive as what is expected."""
    archive = small_archives.ade20k()[0]["ADEChallengeData2016.zip"]
    lines = (root / "datasets.yaml").read_text(encoding="utf-8").splitlines(keepends=True)
    start = next(number for number, line in enumerate(lines) if "- name: ADEChallengeData2016.zip" in line)
    drop = ("size:", "sha256:", "sha1:", "md5:", "stated_in:")
    kept = [line for n, line in enumerate(lines) if not (start < n < start + 9 and line.strip().startswith(drop))]
    (project / "datasets.yaml").write_text("".join(kept), encoding="utf-8")
    change(project, "images: 2000", "images: 3")
    (project / "ade.zip").write_bytes(archive)
    return project


def test_a_downloaded_data_set_says_what_makes_it_or_is_read_from_a_placed_archive(shipped: Path, check: Check) -> None:
    code, _, err = check("ade20k", "--scale", "full")
    assert code == 2 and err.count("\n") == 1
    assert err.startswith("ovss: ade20k: not there yet: ade20k150; make it with 'snakemake --config scale=full -- ")
    assert f"/origin.json' or {ADE}" in err
    (shipped / "data/manual/ade20k150").mkdir()
    shutil.copy(shipped / "ade.zip", shipped / "data/manual/ade20k150/ADEChallengeData2016.zip")
    code, out, err = check("ade20k", "--scale", "full")
    assert code == 0 and "not prepared yet; unpacking its archives" in err
    assert "split validation: 3 images of 48..64 x 37..64 pixels, 150 classes" in out
    assert "never there: building, sky" in out and "% of all pixels (raw 0)" in out
    assert not list((shipped / "data/scratch").iterdir())
    change(shipped, "images: 3,", "images: 4,")
    assert "split 'validation' has 3 images, 4 are expected" in check("ade20k", "--scale", "full")[2]


def test_a_data_set_that_needs_a_person_says_which_file_goes_where(check: Check, shipped: Path) -> None:
    code, _, err = check("cityscapes", "--scale", "full")
    assert code == 2 and "data to be placed by hand: data/manual/cityscapes/" in err


def test_a_prepared_source_is_read_where_it_is(shipped: Path) -> None:
    project, expected = Project.load(shipped), read_entry(shipped, "ade20k")
    job = source_job(project, project.params.at("full"), "ade20k_val")
    assert not isinstance(job, str)
    out = shipped / job.directory
    out.mkdir(parents=True)
    Image.new("RGB", (4, 2)).save(shipped / "a.png")
    Image.new("L", (4, 2), 3).save(shipped / "label.png")
    write_index(convert([Entry("a", shipped / "a.png", shipped / "label.png")], out, None), out)
    (out / "origin.json").touch()
    found = files.find_pairs(project, expected, "full", shipped)
    assert found == [Entry("a", out / "images/a.png", out / "labels/a.png")]


def test_every_shipped_entry_is_read(root: Path) -> None:
    config = load_datasets(root / "datasets.yaml")
    for name, entry in config.datasets.items():
        classes = of_section_datasets(config, name).classes
        assert len(classes) == entry.num_classes and (classes[0] == "background") == entry.background


def made_up(sets: list[set[int]]) -> tuple[Expected, Scan]:
    table = np.full(256, 255, np.uint8)
    table[:200] = np.arange(200)
    scan = Scan([(Entry(f"{n:03}", Path(), Path()), frozenset(values)) for n, values in enumerate(sets)])
    return Expected("x", "x", [f"c{n}" for n in range(200)], False, table, None, "all"), scan


def test_the_sheet_shows_a_class_that_only_one_image_has() -> None:
    expected, scan = made_up([{0, 1} | ({7} if n == 83 else {9} if n == 40 else set()) for n in range(100)])
    chosen = [entry.id for entry in choose(scan, expected.table)]
    assert len(chosen) == PAIRS and chosen == sorted(set(chosen)) and {"040", "083"} <= set(chosen)
    few, scan_of_few = made_up([{0}, {255}])
    assert [entry.id for entry in choose(scan_of_few, few.table)] == ["000", "001"]


def test_shares_are_of_the_scored_pixels() -> None:
    expected, scan = made_up([{0, 1, 255}])
    scan.sizes, scan.pixels = [(10, 10)], Counter({0: 30, 1: 10, 255: 60})
    lines = summary(expected, scan).splitlines()
    assert lines[3:6] == ["    0   75.00%       1  c0", "    1   25.00%       1  c1",
                          "ignored: 60.00% of all pixels (raw 255)"]  # fmt: skip


def test_a_command_without_a_project_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"datasets\.yaml: this file is missing"):
        command.main("garden", None, None, tmp_path)
