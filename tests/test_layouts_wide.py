"""Labels of more than 255 values, and the readers behind them: MATLAB files, colours, polygons in gigabytes of JSON."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import struct
import tempfile
import tracemalloc
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_archives
from hostile import FEW, damaged, flips, refusal
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from small_archives import TRAP, Files, box, mat, thing, zip_of
from small_clip import write_model_directory
from test_evaluate import PROTOCOL, ROWS
from test_hostile_layouts import ODD, places_in, replaced

from ovss.config.datasets import labels_params, load_datasets
from ovss.data import instances, json_stream, prepare
from ovss.data.class_names import class_list
from ovss.data.images import read_colours
from ovss.data.labels import ignored_in, lookup_table, read_label
from ovss.data.layouts import Entry, ade20k_full, imagenet_s, lvis, sbd
from ovss.data.mat import LARGEST_FILE, read_label_map
from ovss.dataset_check.entry import Expected
from ovss.dataset_check.scan import scan
from ovss.dataset_check.sheet import draw
from ovss.dataset_check.summary import summary
from ovss.errors import UserError
from ovss.evaluation import evaluate
from ovss.evaluation.clusters import count_cells
from ovss.evaluation.confusion import ConfusionCounts, count_pixels
from ovss.evaluation.label_files import save_class_map
from ovss.jobs import Item, JobContext, Machine
from ovss.models import text
from ovss.report.gallery import _map
from ovss.report.palette import View

# --- label maps


def test_with_more_than_255_classes_65535_is_ignored_and_255_is_a_class() -> None:
    few, many = (lookup_table({"kind": "reduce_zero", "classes": classes}) for classes in (255, 256))
    assert (few.dtype, few[0], few[255], few[256], ignored_in(few)) == (np.uint8, 255, 254, 255, 255)
    assert (many.dtype, many[0], many[256], many[257], ignored_in(many)) == (np.uint16, 65535, 255, 65535, 65535)
    order = lookup_table({"kind": "order", "raw": ["1000..1299"], "first": 1, "other": 0})
    assert order[999] == 0 and order[1000] == 1 and order[1299] == 300
    table = lookup_table({"kind": "table", "values": {"0..299": 0} | {k: k - 299 for k in range(300, 600)}})
    assert (
        table[554] == 255
        and table[600] == 65535
        and lookup_table({"kind": "table", "values": {1: 0, 2: 255}})[2] == 255
    )


def test_a_map_of_few_classes_reads_values_of_16_bits() -> None:
    table = lookup_table({"kind": "identity", "classes": 51})
    assert table[np.array([0, 50, 51, 1000], np.uint16)].tolist() == [0, 50, 255, 255]


def test_only_a_source_with_values_above_255_is_kept_with_16_bits(tmp_path: Path) -> None:
    entries = []
    for number in range(3):
        (tmp_path / f"{number}.jpg").write_bytes(small_archives.jpg(0, 4, 6))
        Image.fromarray(np.full((4, 6), 7, np.uint16 if number == 2 else np.uint8)).save(tmp_path / f"{number}.png")
        entries.append(Entry(str(number), tmp_path / f"{number}.jpg", tmp_path / f"{number}.png"))
    for name, allowed, chosen, mode in (("a", [7], entries[:1], "L"), ("b", [7, 256], entries[1:], "I;16")):
        (tmp_path / name).mkdir()
        rows = prepare.convert(chosen, tmp_path / name, allowed)
        assert [row.pixels for row in rows] == [{7: 24}] * len(chosen)
        for path in (tmp_path / name / "labels").iterdir():
            with Image.open(path) as label:
                assert label.mode == mode
    assert "must be 8-bit" in str(refusal(lambda: read_label(tmp_path / "2.png", wide=False)))
    (tmp_path / "c").mkdir()
    with pytest.raises(UserError, match=r"^1: label value 7 does not occur"):
        prepare.convert([Entry("1", tmp_path / "b/images/1.jpg", tmp_path / "1.png")], tmp_path / "c", [0, 300])


@contextmanager
def traced() -> Iterator[Callable[[], int]]:
    """What says how much memory Python had at once since then, in bytes."""
    tracemalloc.start()
    try:
        yield lambda: tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_the_tables_in_datasets_yaml_fit_their_class_lists(root: Path) -> None:
    config = load_datasets(root / "datasets.yaml")
    tables = {
        name: lookup_table(labels_params(config, name)["labels"]) for name in ("ade847", "coco_things", "coco_object")
    }
    # ADE20K numbers its first 3,095 names in their order, so a number that is wrong would stand out
    names = [line.lower().replace("-", " ") for line in class_list("ade847.ProxyCLIP.txt")]
    numbered = [names[index] for index in tables["ade847"][:3096].tolist() if index != 65535]
    assert numbered == sorted(numbered) and len(numbered) == 827
    # COCO-Stuff's label maps number the things one lower than the annotations do
    assert tables["coco_things"][1:91].tolist() == tables["coco_object"][:90].tolist()
    few, many = (class_list(f"imagenet_s{count}.wordnet.txt") for count in (50, 919))
    assert set(few) < set(many) and len(many) == 920 and len(set(many)) == 919  # the bird and the machine: crane


# --- MATLAB files


def of_mat(data: bytes, *names: str) -> np.ndarray:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "a.mat")
        path.write_bytes(data)
        return read_label_map(path, *names)


LABEL = np.arange(12, dtype=np.uint16).reshape(3, 4) * 30
SOUND = {kind: mat({"LabelMap": LABEL}, kind == "packed") for kind in ("plain", "packed")}
STRUCTURE = mat({"GTcls": {"Segmentation": LABEL.astype(np.uint8), "Boundaries": np.zeros((20, 1), object)}})


def test_label_maps_of_matlab_files_are_read() -> None:
    for data in SOUND.values():
        np.testing.assert_array_equal(of_mat(data, "LabelMap"), LABEL)
    np.testing.assert_array_equal(of_mat(STRUCTURE, "GTcls", "Segmentation"), LABEL.astype(np.uint8))


def bomb() -> bytes:
    """A file of some 100 kB that unpacks to more than any label map has."""
    packed = zlib.compress(struct.pack("<II", 14, 4 * LARGEST_FILE) + bytes(4 * LARGEST_FILE), 1)
    return mat({})[:128] + struct.pack("<II", 15, len(packed)) + packed


OBJECTS = np.array([[{"a": 1}, "text"]], dtype=object)
BAD_MATS: dict[str, bytes] = {
    "nothing": b"",
    "a page": b"<html>log in</html>",
    "elements of nothing": mat({})[:128] + bytes(1 << 20),
    "a pickle": TRAP + bytes(200),
    "a pickle after the header": mat({})[:128] + TRAP,
    "version 7.3": b"MATLAB 7.3 MAT-file".ljust(124) + b"\0\x02IM\x89HDF",
    "another variable": mat({"Label": LABEL}),
    "objects": mat({"LabelMap": OBJECTS}),
    "another structure": mat({"GTcls": {"Label": LABEL}}),
    "three axes": mat({"LabelMap": np.zeros((2, 2, 2), np.uint8)}),
    "decimals": mat({"LabelMap": np.zeros((2, 2))}),
    "no pixels": mat({"LabelMap": np.zeros((0, 4), np.uint8)}),
    "cut": SOUND["packed"][:-9],
}


@pytest.mark.parametrize("data", BAD_MATS.values(), ids=BAD_MATS)
def test_what_is_no_label_map_in_a_matlab_file_is_refused(
    data: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert refusal(lambda: of_mat(data, "LabelMap"))
    assert refusal(lambda: of_mat(data, "GTcls", "Segmentation"))
    assert not list(tmp_path.iterdir())


def test_a_matlab_file_that_unpacks_to_any_number_of_bytes_is_refused() -> None:
    data = bomb()
    with traced() as peak:
        assert "after unpacking" in str(refusal(lambda: of_mat(data, "LabelMap")))
        assert peak() < 2.5 * LARGEST_FILE  # zlib doubles its buffer


@settings(FEW, max_examples=25)
@pytest.mark.parametrize("data", [*SOUND.values(), STRUCTURE], ids=[*SOUND, "structure"])
@given(places=flips, length=st.sampled_from([1.0, 1.0, 0.9, 0.4]))
def test_a_damaged_matlab_file_is_read_or_refused(data: bytes, places: list[tuple[float, int]], length: float) -> None:
    refusal(lambda: of_mat(damaged(data, places, length), "LabelMap"))
    refusal(lambda: of_mat(damaged(data, places, length), "GTcls", "Segmentation"))


def test_the_splits_of_sbd_are_its_lists_with_and_without_voc(tmp_path: Path) -> None:
    files, labels = small_archives.sbd()
    paths = placed(files, tmp_path)
    for split, expected in labels.items():
        found = {entry.id: read_label(entry.label) for entry in sbd.extract(paths, split, tmp_path / split)}
        assert sorted(found) == sorted(expected) and all((found[item] == expected[item]).all() for item in expected)
    assert (
        set(labels["train_aug"]) - set(labels["aug"]) == {"2007_000032"} and 255 not in labels["train"]["2007_000032"]
    )
    assert "there is no split 'all'" in str(refusal(lambda: sbd.extract(paths, "all", tmp_path / "all")))


def placed(files: Files, folder: Path) -> dict[str, Path]:
    (folder / "files").mkdir()
    for name, data in files.items():
        (folder / "files" / name).write_bytes(data)
    return {name: folder / "files" / name for name in files}


# --- colours


def test_class_numbers_are_in_the_colours() -> None:
    colours = np.array([[[9, 5, 1], [10, 5, 2], [119, 162, 3], [255, 255, 4]]], np.uint8)
    assert ade20k_full.class_numbers(colours).tolist() == [[5, 261, 11 * 256 + 162, 6655]]
    assert imagenet_s.values(np.array([[[50, 0, 0], [232, 3, 9], [151, 3, 0]]], np.uint8)).tolist() == [[50, 1000, 919]]


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "I;16"])
def test_a_coloured_label_is_never_converted(mode: str, tmp_path: Path) -> None:
    Image.new(mode, (3, 2)).save(tmp_path / "a.png")
    with pytest.raises(UserError, match=f"mode {mode} instead of RGB"):
        read_colours(tmp_path / "a.png")


def test_digits_in_a_name_that_are_not_the_md5_are_a_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files, labels = small_archives.imagenet_s()
    name, _ = small_archives.IMAGENET_S["ImageNetS50"]
    for digits in ("a" * 32, hashlib.md5(files[name]).hexdigest()):
        folder = tmp_path / digits
        folder.mkdir()
        only = {f"ImageNetS50-{digits}.zip": files[name], imagenet_s.IMAGES: files[imagenet_s.IMAGES]}
        found = imagenet_s.extract(placed(only, folder), "ImageNetS50", folder / "out")
        assert sorted(entry.id for entry in found) == sorted(labels["ImageNetS50"])
        assert ("not the digits in its name" in capsys.readouterr().err) == (digits == "a" * 32)
    missing = refusal(lambda: imagenet_s.extract({imagenet_s.IMAGES: tmp_path}, "ImageNetS50", tmp_path))
    assert str(missing).startswith("ImageNetS50-<md5>.zip: this file is needed")


# --- annotations of things

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3), max_leaves=8,
)  # fmt: skip


@settings(FEW, max_examples=40)
@given(
    tree=st.dictionaries(st.sampled_from("abcd"), st.lists(json_values, max_size=4) | json_values),
    chunk=st.integers(1, 9),
    indent=st.sampled_from([None, 1]),
    ascii_only=st.booleans(),
)
def test_lists_are_read_item_by_item(tree: dict[str, Any], chunk: int, indent: int | None, ascii_only: bool) -> None:
    data = json.dumps(tree, indent=indent, ensure_ascii=ascii_only).encode(errors="replace")
    lists = {key: value for key, value in json.loads(data).items() if isinstance(value, list)}
    old, json_stream._CHUNK = json_stream._CHUNK, chunk
    try:
        found = list(json_stream.items(io.BytesIO(data), set(lists)))
    finally:
        json_stream._CHUNK = old
    assert found == [(key, item) for key, items in lists.items() for item in items]


NO_LISTS = [b"", b"[]", b"{", b'{"a": [1}', b'{"a": 1}', b'{"a" []}', b'{"a": []} x', b'{"a": [1 2]}',
            b'{"a": ["\xff"]}', b'{"a": [' + b"[" * 100_000]  # fmt: skip


@pytest.mark.parametrize("data", NO_LISTS)
def test_what_is_no_object_of_lists_is_refused(data: bytes) -> None:
    with pytest.raises((ValueError, RecursionError)):
        list(json_stream.items(io.BytesIO(data), {"a"}))


def painted(annotation_file: Any, folder: Path, **changes: Any) -> dict[str, np.ndarray]:
    (folder / "out").mkdir()
    content = annotation_file if isinstance(annotation_file, bytes) else json.dumps(annotation_file).encode()
    (folder / "a.zip").write_bytes(zip_of({"a.json": content}))
    labels = instances.paint_file(folder / "a.zip", "a.json", lvis.listed, folder / "out", np.uint16, **changes)
    return {photo.id: read_label(path) for photo, path in labels.items()}


def photo(number: int, height: int = 20, width: int = 30) -> dict[str, Any]:
    url = f"http://images.cocodataset.org/val2017/{number:012d}.jpg"
    return {"id": number, "height": height, "width": width, "coco_url": url}


SMALL = {
    "annotations": [thing(1, 5, 3, [box(2, 2, 8, 9)], 42.0),
                    thing(2, 5, 300, {"size": [20, 30], "counts": [0, 600]}, 600.0)],
    "images": [photo(5)],
    "categories": [{"id": 3}, {"id": 300}],
}  # fmt: skip


def test_small_things_lie_on_large_ones_whatever_their_order(tmp_path: Path) -> None:
    truth = np.full((20, 30), 300)
    truth[2:8, 2:9] = 3
    for name, order in (("a", 1), ("b", -1)):
        (tmp_path / name).mkdir()
        found = painted({**SMALL, "annotations": SMALL["annotations"][::order]}, tmp_path / name)
        np.testing.assert_array_equal(found["000000000005"], truth)
        assert not list((tmp_path / name / "out").glob("*.jsonl"))
    assert "category 300 is none" in str(refusal(lambda: instances.paint(20, 30, SMALL["annotations"], "x", np.uint8)))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"images": []}, "no image is listed"),
        ({"images": [photo(5), photo(5)]}, "image 5 is there twice"),
        ({"images": [photo(5, 0, 4)]}, "an image of 0 x 4 pixels"),
        ({"images": [photo(5, 10**5, 10**5)]}, "an image of 100000 x 100000 pixels"),
        ({"images": [photo(5, 9, 9)]}, r"image 000000000005: a mask of size \(20, 30\) on an image of size \(9, 9\)"),
        ({"images": [photo(7)]}, "an annotation is of image 5, which is not listed"),
        ({"images": [{**photo(5), "coco_url": "http://x/val2017/../../a.jpg"}]}, "coco_url"),
        ({"categories": [{"id": 3}]}, "category 300 is not in the list of categories"),
        ({"annotations": {}}, "'annotations' is no list"),
    ],
)
def test_annotations_that_do_not_fit_together_are_refused(change: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"a\.zip: a\.json: .*{words}"):
        painted({**SMALL, **change}, tmp_path)


def test_odd_values_anywhere_among_the_annotations_are_used_or_refused() -> None:
    for number, path in enumerate(places_in(SMALL)):
        for value in ODD[number % 2 :: 2]:
            with tempfile.TemporaryDirectory() as folder:
                refusal(
                    lambda value=value, path=path, folder=folder: painted(replaced(SMALL, path, value), Path(folder))
                )
    with tempfile.TemporaryDirectory() as folder:
        assert refusal(lambda: painted(b'{"annotations": ' + b"[" * 100_000, Path(folder)))


def test_a_large_annotation_file_is_not_held_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Held as a whole, these 8 MB would take more than 8."""
    monkeypatch.setattr(json_stream, "_CHUNK", 1 << 16)
    drawn = {"size": [4, 4], "counts": "0" * 2000}
    many = [thing(number, number % 640, 3, drawn, 1.0) for number in range(4000)]
    content = json.dumps(
        {"annotations": many, "images": [photo(k, 4, 4) for k in range(640)], "categories": [{"id": 3}]}
    )
    (tmp_path / "a.zip").write_bytes(zip_of({"a.json": content.encode()}))
    assert len(content) > 8 << 20
    del many, content
    with traced() as peak:
        photos, parts = instances._deal(tmp_path / "a.zip", "a.json", lvis.listed, tmp_path)
        assert sum(len(found) for _, found in instances._by_photo(photos, parts, "a")) == 4000
        assert len(parts) == instances.PARTS and peak() < 4 << 20


# --- what follows


wide_labels = st.lists(st.sampled_from([0, 1, 254, 255, 256, 299, 65535]), min_size=6, max_size=6)


@given(truth=wide_labels, guess=st.lists(st.sampled_from([0, 255, 256, 299, 300]), min_size=6, max_size=6))
def test_pixels_of_class_255_are_counted_and_those_of_65535_are_not(truth: list[int], guess: list[int]) -> None:
    label, prediction = np.array([truth], np.uint16), np.array([guess], np.int16)
    counted = {(t, p): n for t, p, n in count_pixels(label, prediction, 300, ignored_in(label)).tolist()}
    assert counted == Counter((t, p) for t, p in zip(truth, guess, strict=True) if t != 65535)
    clusters = np.array([guess], np.int64) % 200
    cells = zip(*(part.tolist() for part in count_cells(clusters.astype(np.uint8), label)), strict=True)
    expected = Counter((p % 200, t) for t, p in zip(truth, guess, strict=True) if t != 65535)
    assert {(c, t): n for c, t, n in cells} == expected


@given(
    values=st.lists(st.sampled_from([0, 1, 254, 255]), min_size=8, max_size=8),
    clusters=st.lists(st.integers(0, 2), min_size=8, max_size=8),
)
def test_cells_do_not_depend_on_how_wide_the_label_is(values: list[int], clusters: list[int]) -> None:
    narrow, maps = np.array([values], np.uint8), np.array([clusters], np.uint8)
    wide = np.where(narrow == 255, 65535, narrow.astype(np.uint16))
    for one, two in zip(count_cells(maps, narrow), count_cells(maps, wide), strict=True):
        np.testing.assert_array_equal(one, two)


CLASSES = 300
WIDE_SET = {
    "name": "own",
    "labels": {"kind": "reduce_zero", "classes": CLASSES},
    "num_classes": CLASSES,
    "background": False,
}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two images with labels of 300 classes, a model and the features of 300 words."""
    root = tmp_path_factory.mktemp("wide")
    model = write_model_directory(root / "model")
    generator = np.random.default_rng(0)
    for folder in ("source/images", "source/labels", "text"):
        (root / folder).mkdir(parents=True)
    rows = []
    for name in ("a", "b"):
        Image.fromarray(generator.integers(0, 256, (48, 56, 3), dtype=np.uint8)).save(
            root / f"source/images/{name}.png"
        )
        label = generator.choice([0, 1, 254, 255, 256, 257, 300], (48, 56)).astype(np.uint16)
        Image.fromarray(label).save(root / f"source/labels/{name}.png")
        rows.append([name, f"images/{name}.png", f"labels/{name}.png", 48, 56])
    with (root / "source/index.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([["id", "image", "label", "height", "width"], *rows])
    words = Item(
        {"queries": [[f"w{k}"] for k in range(CLASSES)], "templates": "photo"}, {"model": model}, root / "text"
    )
    text.run(JobContext(0, Machine(), items={"text": words}, finish=lambda *_: None))
    return root


@pytest.mark.parametrize("row", ["sclip", "known"])
def test_a_pass_over_300_classes_counts_what_its_pictures_show(row: str, project: Path, tmp_path: Path) -> None:
    chosen, own = ROWS[row]
    inputs = {"model": project / "model", "source": project / "source", "text": project / "text"}
    method = "freecp" if row == "known" else "dense_clip"
    params = {"method": method, "settings": chosen, "dataset": WIDE_SET, "protocol": {**PROTOCOL, **own},
              "shard": [0, 1], "examples": 2}  # fmt: skip
    evaluate.run(JobContext(0, Machine(), items={"x": Item(params, inputs, tmp_path)}, finish=lambda *_: None))
    counts, table = ConfusionCounts.load(tmp_path), lookup_table(WIDE_SET["labels"])
    shown = 0
    for number, name in enumerate(counts.images):
        truth = table[read_label(project / f"source/labels/{name}.png")].ravel().tolist()
        guess = read_label(tmp_path / f"examples/{name}.png").ravel().tolist()
        expected = Counter((t, p) for t, p in zip(truth, guess, strict=True) if t != 65535)
        here = counts.image == number
        triples = zip(
            counts.truth[here].tolist(), counts.prediction[here].tolist(), counts.pixels[here].tolist(), strict=True
        )
        assert {(t, p): n for t, p, n in triples} == expected
        shown = max(shown, *guess)
        if row == "known":  # only classes of the label are asked for; 255 is one of them
            assert set(guess) <= {0, 253, 254, 255, 256, 299}
    assert shown < CLASSES and (row == "known" or shown > 255)


def test_class_maps_and_pictures_have_room_for_300_classes(project: Path, tmp_path: Path) -> None:
    save_class_map("a", np.array([[0, 1, 2]], np.uint8), np.array([299, 300, 255]), CLASSES, (1, 3), tmp_path)
    assert read_label(tmp_path / "examples/a.png").tolist() == [[299, 65535, 255]]
    table = lookup_table(WIDE_SET["labels"])
    view = View("own", "Own", [f"w{k}" for k in range(CLASSES)], False, table, Path(), {})
    assert len(np.unique(view.colours[[255, 300, 65535]], axis=0)) == 3
    for labels in (np.array([[255, 299]], np.uint16), np.arange(300, dtype=np.uint16).reshape(15, 20)):
        assert _map(labels, view).startswith("data:image/png;base64,")


def test_a_data_set_of_300_classes_is_checked_and_drawn(project: Path) -> None:
    names = [f"w{k}" for k in range(CLASSES)]
    table = lookup_table(WIDE_SET["labels"])
    expected = Expected("own", "Own", names, False, table, tuple(range(301)), "all")
    entries = [
        Entry(name, project / f"source/images/{name}.png", project / f"source/labels/{name}.png") for name in "ab"
    ]
    found = scan(entries, expected)
    assert not found.wrong and found.pixels.total() == 2 * 48 * 56
    lines = summary(expected, found).splitlines()
    assert [line.split()[0] for line in lines[3:9]] == ["0", "253", "254", "255", "256", "299"]
    assert lines[9].startswith("ignored: ") and lines[9].endswith("(raw 0)")
    assert draw(expected, found).width > 0
    wrong = scan(entries, Expected("own", "Own", names, False, table, tuple(range(300)), "all")).wrong
    assert len(wrong) == 2 and "raw value 300 is not in" in wrong[0]
