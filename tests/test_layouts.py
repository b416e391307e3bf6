"""Each layout's whole path on small archives: download, verify, extract, convert, load."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import small_archives
from http_server import Server
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from ovss.config.datasets import Datasets, labels_params, prepare_params
from ovss.data import fetch, layouts, prepare, rle
from ovss.data.images import Images, read_image
from ovss.data.labels import lookup_table
from ovss.errors import UserError
from ovss.jobs import JobContext, Machine

Prepare = Callable[..., Path]


@pytest.fixture
def prepared(server: Server, config: Datasets, tmp_path: Path) -> Prepare:
    """Serve the files of a real source's archives, run its fetch and prepare jobs; image counts are the fixture's."""

    def make(source: str, files: small_archives.Files, images: int | None = None, workers: int = 1) -> Path:
        server.files = files
        inputs = {}
        for name in config.sources[source].archives:
            served = [file.name for file in config.archives[name].files]
            inputs[name] = _fetch(server, name, served, tmp_path / "fetch" / source / name)
        params = {**prepare_params(config, source), "images": images}
        out = tmp_path / "prepare" / f"{source}-{workers}"
        out.mkdir(parents=True)
        machine = Machine(workers=workers)
        facts = prepare.run(JobContext(seed=0, machine=machine, params=params, inputs=inputs, out=out))
        assert json.loads((out / "facts.json").read_text()) == facts
        return out

    return make


def _fetch(server: Server, archive: str, names: list[str], out: Path) -> Path:
    if not out.exists():
        out.mkdir(parents=True)
        entries = [
            {
                "name": name,
                "url": server.url("plain", name),
                "size": len(server.files[name]),
                "md5": hashlib.md5(server.files[name]).hexdigest(),
            }
            for name in names
        ]
        params = {"archive": archive, "files": entries}
        fetch.run(JobContext(seed=0, machine=Machine(), params=params, out=out))
    return out


def view(config: Datasets, dataset: str) -> np.ndarray:
    return lookup_table(labels_params(config, dataset)["labels"])


SOURCES = {
    "voc2012_val": ("voc2012", "val"),
    "voc2012_train": ("voc2012", "train"),
    "context_val": ("context", "val"),
    "context_train": ("context", "train"),
    "coco_val2017": ("coco_stuff", "val2017"),
    "coco_train2017": ("coco_stuff", "train2017"),
    "cityscapes_val": ("cityscapes", "val"),
    "cityscapes_train": ("cityscapes", "train"),
    "ade20k_val": ("ade20k", "validation"),
    "ade20k_train": ("ade20k", "training"),
}


@pytest.mark.parametrize("source", SOURCES)
def test_every_source_comes_out_as_it_was_drawn(source: str, prepared: Prepare) -> None:
    layout, split = SOURCES[source]
    files, labels = small_archives.BUILDERS[layout]()
    out = prepared(source, files, images=len(labels[split]))
    samples = list(Images(out, {"raw": np.arange(256, dtype=np.uint8)}))
    assert [sample.id for sample in samples] == sorted(labels[split])
    for sample in samples:
        np.testing.assert_array_equal(sample.labels["raw"], labels[split][sample.id])
        assert sample.image.dtype == np.uint8 and sample.image.shape == (*labels[split][sample.id].shape, 3)
    histogram = np.bincount(np.concatenate([label.ravel() for label in labels[split].values()]), minlength=256)
    found = json.loads((out / "facts.json").read_text())["pixels_of_value"]
    assert found == {str(value): int(histogram[value]) for value in np.flatnonzero(histogram)}
    assert sorted(path.name for path in out.iterdir()) == ["facts.json", "images", "index.csv", "labels"]


def test_images_keep_their_bytes_and_labels_are_gray(prepared: Prepare) -> None:
    out = prepared("voc2012_val", small_archives.voc2012()[0])
    assert (out / "images/2007_000039.jpg").read_bytes() == small_archives.jpg(1, 37, 50, gray=True)
    with Image.open(out / "labels/2007_000039.png") as label:
        assert label.mode == "L"
    assert (out / "index.csv").read_text().splitlines() == [
        "id,image,label,height,width",
        "2007_000033,images/2007_000033.jpg,labels/2007_000033.png,48,64",
        "2007_000039,images/2007_000039.jpg,labels/2007_000039.png,37,50",
    ]


def test_workers_change_nothing(prepared: Prepare) -> None:
    one, four = (prepared("ade20k_val", small_archives.ade20k()[0], workers=workers) for workers in (1, 4))
    names = sorted(str(path.relative_to(one)) for path in one.rglob("*") if path.is_file())
    assert [(one / name).read_bytes() for name in names] == [(four / name).read_bytes() for name in names]
    lut = {"raw": np.arange(256, dtype=np.uint8)}
    for a, b in zip(Images(one, lut, workers=1), Images(one, lut, workers=3), strict=True):
        assert a.id == b.id and (a.image == b.image).all() and (a.labels["raw"] == b.labels["raw"]).all()
    assert [sample.id for sample in Images(one, lut, 1, 2, workers=2)] == ["ADE_val_00000002"]
    assert next(iter(Images(one, lut, workers=2))).id == "ADE_val_00000001"  # stopping early ends the threads


def test_the_order_of_directory_listings_changes_nothing(prepared: Prepare, monkeypatch: pytest.MonkeyPatch) -> None:
    files = small_archives.ade20k()[0]
    first = prepared("ade20k_val", files)
    for name in ("iterdir", "glob", "rglob"):
        listed = getattr(Path, name)
        turned = lambda self, *args, listed=listed: reversed(sorted(listed(self, *args)))  # noqa: E731
        monkeypatch.setattr(Path, name, turned)
    second = prepared("ade20k_val", files, workers=2)
    assert (first / "index.csv").read_bytes() == (second / "index.csv").read_bytes()
    assert (first / "facts.json").read_bytes() == (second / "facts.json").read_bytes()


def test_a_gray_image_gets_three_equal_channels(prepared: Prepare) -> None:
    out = prepared("coco_val2017", small_archives.coco()[0])
    image = read_image(out / "images/000000000285.jpg")
    assert (image[..., 0] == image[..., 1]).all() and (image[..., 0] == image[..., 2]).all()


def test_unlabelled_counts_as_background_in_coco_object_only(prepared: Prepare, config: Datasets) -> None:
    out = prepared("coco_val2017", small_archives.coco((0, 89, 91, 181, 255))[0])
    views = {name: view(config, name) for name in ("coco_object", "coco_stuff", "coco_stuff27")}
    row = {name: label[0, ::13].tolist() for name, label in next(iter(Images(out, views))).labels.items()}
    assert row == {
        "coco_object": [1, 80, 0, 0, 0],
        "coco_stuff": [0, 79, 80, 170, 255],
        "coco_stuff27": [9, 4, 17, 24, 255],
    }


def test_a_later_segment_covers_an_earlier_one(prepared: Prepare, config: Datasets) -> None:
    out = prepared("context_val", small_archives.context()[0])
    views = {name: view(config, name) for name in ("context60", "context59")}
    labels = next(iter(Images(out, views, 1))).labels
    pixels = [(0, 0), (0, 40), (15, 25), (35, 10)]  # aeroplane, nothing, mountain, wood on top
    assert [labels["context60"][pixel] for pixel in pixels] == [1, 0, 35, 59]
    assert [labels["context59"][pixel] for pixel in pixels] == [0, 255, 34, 58]


def test_a_category_outside_the_mapping_is_refused(prepared: Prepare) -> None:
    with pytest.raises(UserError, match=r"trainval_merged\.json: 2008_000003: category id 1 is none of the 59 classes"):
        prepared("context_val", small_archives.context(last_id=1)[0])


def test_the_papers_count_of_context_is_not_accepted(prepared: Prepare) -> None:
    with pytest.raises(UserError, match="split 'val' has 2 images, 5105 are expected"):
        prepared("context_val", small_archives.context()[0], images=5105)


def test_the_expected_counts_are_those_of_the_files(config: Datasets) -> None:
    counts = {name: config.sources[name].images for name in SOURCES}
    assert counts == {
        "voc2012_val": 1449, "voc2012_train": 1464, "context_val": 5104, "context_train": 4996, "coco_val2017": 5000,
        "coco_train2017": 118287, "cityscapes_val": 500, "cityscapes_train": 2975, "ade20k_val": 2000,
        "ade20k_train": 20210,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("source", "files", "value"),
    [
        ("voc2012_val", small_archives.voc2012((0, 21)), 21),
        ("ade20k_val", small_archives.ade20k((0, 151)), 151),
        ("coco_val2017", small_archives.coco((0, 182)), 182),
        ("cityscapes_val", small_archives.cityscapes((0, 34)), 34),
    ],
)
def test_a_label_value_the_source_cannot_have_is_named(
    source: str, files: tuple[small_archives.Files, object], value: int, prepared: Prepare
) -> None:
    with pytest.raises(UserError, match=rf"^\w+: label value {value} does not occur"):
        prepared(source, files[0])


def ade_zip(changes: dict[str, bytes | None]) -> small_archives.Files:
    """The small ADE20K zip with members replaced (bytes) or left out (None)."""
    label = small_archives.png(np.ones((40, 56), np.uint8))
    root = "ADEChallengeData2016"
    members: dict[str, bytes | None] = {
        f"{root}/images/validation/ADE_val_00000001.jpg": small_archives.jpg(0, 40, 56),
        f"{root}/annotations/validation/ADE_val_00000001.png": label,
        **{f"{root}/{name}": content for name, content in changes.items()},
    }
    kept = {name: content for name, content in members.items() if content is not None}
    return {"ADEChallengeData2016.zip": small_archives.zip_of(kept)}


IMAGE, LABEL = "images/validation/ADE_val_00000001.jpg", "annotations/validation/ADE_val_00000001.png"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({IMAGE: b""}, r"ADE_val_00000001\.jpg: this image cannot be read \(it is empty\)"),
        ({IMAGE: b"<html>gone</html>"}, r"ADE_val_00000001\.jpg: this image cannot be read"),
        ({IMAGE: small_archives.jpg(0, 40, 56)[:300]}, r"ADE_val_00000001\.jpg: this image cannot be read"),
        ({LABEL: b""}, r"ADE_val_00000001\.png: this label image cannot be read"),
        ({LABEL: small_archives.png(np.zeros((40, 56, 3), np.uint8))}, "mode RGB"),
        ({LABEL: small_archives.png(np.zeros((40, 56), np.uint16))}, "mode I;16"),
        ({LABEL: small_archives.png(np.zeros((40, 57), np.uint8))}, "ADE_val_00000001: the image has size"),
        ({LABEL: None}, "ADE_val_00000001 has no label"),
        ({IMAGE: None}, "ADE_val_00000001 has no image"),
        ({IMAGE: None, LABEL: None}, "split 'validation' has 0 images"),
    ],
)
def test_a_damaged_pair_is_named(changes: dict[str, bytes | None], words: str, prepared: Prepare) -> None:
    with pytest.raises(UserError, match=words):
        prepared("ade20k_val", ade_zip(changes))


def test_an_id_in_the_list_without_files_is_named(prepared: Prepare) -> None:
    root = "VOCdevkit/VOC2012"
    listing = {f"{root}/ImageSets/Segmentation/val.txt": b"2007_000033\n\n"}
    with pytest.raises(UserError, match="2007_000033 has no image"):
        prepared("voc2012_val", {"VOCtrainval_11-May-2012.tar": small_archives.tar_of(listing)})


@pytest.mark.parametrize("listing", [b"", b"\n", b"../evil\n", b"a\na\n", b"\xff\n"])
def test_a_bad_split_list_is_named(listing: bytes, prepared: Prepare) -> None:
    files = {"VOCdevkit/VOC2012/ImageSets/Segmentation/val.txt": listing}
    with pytest.raises(UserError, match=r"Segmentation/val\.txt: this split list"):
        prepared("voc2012_val", {"VOCtrainval_11-May-2012.tar": small_archives.tar_of(files)})


@pytest.mark.parametrize("content", [b"{", b"[]", b'{"images": []}', b'{"images": [{}], "annos_segmentation": []}'])
def test_a_file_that_is_not_the_annotations_is_named(content: bytes, prepared: Prepare) -> None:
    files = {**small_archives.context()[0], "trainval_merged.json": content}
    with pytest.raises(UserError, match=r"trainval_merged\.json: "):
        prepared("context_val", files)


def test_a_missing_archive_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"stuffthingmaps_trainval2017\.zip: this file is needed"):
        layouts.load("coco_stuff")({"val2017.zip": _written(tmp_path, small_archives.coco()[0])}, "val2017", tmp_path)
    with pytest.raises(UserError, match="layout 'nothing' does not exist"):
        layouts.load("nothing")


def _written(folder: Path, files: small_archives.Files) -> Path:
    (folder / "val2017.zip").write_bytes(files["val2017.zip"])
    return folder / "val2017.zip"


def test_no_prepared_source_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not a prepared source"):
        Images(tmp_path, {})


# --- run-length code

masks = arrays.arrays(np.bool_, st.tuples(st.integers(1, 40), st.integers(1, 40)))


@settings(deadline=None)
@given(mask=masks)
def test_the_run_length_code_comes_back(mask: np.ndarray) -> None:
    np.testing.assert_array_equal(rle.decode(rle.encode(mask)), mask)


@settings(deadline=None)
@given(mask=masks)
def test_uncompressed_counts_are_runs_down_the_columns(mask: np.ndarray) -> None:
    runs, current = [0], False
    for value in mask.T.ravel().tolist():
        if value != current:
            runs.append(0)
            current = value
        runs[-1] += 1
    np.testing.assert_array_equal(rle.decode({"size": mask.shape, "counts": runs}), mask)
    assert rle.runs_of(rle.encode(mask)["counts"]).tolist() == runs


def test_long_runs_need_several_characters() -> None:
    mask = np.zeros((500, 700), dtype=bool)
    mask[3:450, 20:600] = True
    code = rle.encode(mask)
    assert rle.runs_of(code["counts"])[0] == 20 * 500 + 3
    np.testing.assert_array_equal(rle.decode(code), mask)


@pytest.mark.parametrize("counts", ["", "5", "o", "\x7f", "é", [3, -1, 2], [5], "P" * 40 + "0"])
def test_a_damaged_run_length_code_is_refused(counts: object) -> None:
    with pytest.raises(UserError, match="run-length code"):
        rle.decode({"size": [2, 2], "counts": counts})


def test_the_code_is_that_of_pycocotools() -> None:
    """The text was written by another encoder, whose output equals pycocotools' byte for byte."""
    mask = np.zeros((40, 60), dtype=bool)
    mask[5:35, 10:50] = True
    mask[12:20, 20:30] = False
    text = "e<n0:" + "0" * 18 + "YON8" + "2HN8" * 9 + "2?" + "0" * 38 + "[<"
    assert rle.encode(mask) == {"size": [40, 60], "counts": text}
    np.testing.assert_array_equal(rle.decode({"size": [40, 60], "counts": text.encode()}), mask)
