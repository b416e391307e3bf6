"""Damaged archives and odd annotations through every layout: prepared, or refused in one sentence.

A refused split leaves no facts behind, and nothing outside its folder.
"""

from __future__ import annotations

import io
import json
import pickle
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_archives
from hostile import FEW, damaged, flips, refusal
from http_server import PAGE
from hypothesis import given, settings
from hypothesis import strategies as st
from small_archives import Files, png, tar_of, zip_of
from test_archives import tree
from test_fixtures_full import COLLECTIONS
from test_text_images import nuswide, refcoco, tagmask

from ovss.data import polygons, prepare, prepare_texts, rle
from ovss.data.labels import read_label
from ovss.jobs import JobContext, Machine
from ovss.retrieval.sources import CaptionFile, Tally, read_captions

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::RuntimeWarning")  # Pillow on damaged images
LAYOUTS: dict[str, tuple[Files, str]] = {
    "voc2012": (small_archives.voc2012()[0], "val"),
    "context": (small_archives.context()[0], "train"),
    "ade20k": (small_archives.ade20k()[0], "validation"),
    "coco_stuff": (small_archives.coco()[0], "val2017"),
    "cityscapes": (small_archives.cityscapes()[0], "val"),
    "sbd": (small_archives.sbd()[0], "train_aug"),
    "pascal_context_459": (small_archives.context459()[0], "train"),
    "ade20k_full": (small_archives.ade20k_full()[0], "validation"),
    "lvis": (small_archives.lvis()[0], "val"),
    "imagenet_s": (small_archives.imagenet_s()[0], "ImageNetS919"),
    "coco_instances": (small_archives.coco_things()[0], "val2017"),
    "cc3m_tagmask": (tagmask(), "masks"),
    "nuswide": (nuswide(), "test"),
    "refcoco": (refcoco(), "refcoco/unc/val"),
}
ALLOWED = dict.fromkeys(("pascal_context_459", "ade20k_full", "lvis", "imagenet_s"), tuple(range(6656)))  # 16 bits
TEXT_LAYOUTS = ("cc3m_tagmask", "nuswide", "refcoco")


def prepared(layout: str, files: Files, split: str) -> str | None:
    """Prepare a split; the refusal. Nothing but the output has changed, and it is whole if there was no refusal."""
    with tempfile.TemporaryDirectory() as root:
        folder, out = Path(root, "files"), Path(root, "out")
        folder.mkdir()
        out.mkdir()
        for name, data in files.items():
            (folder / name).write_bytes(data)
        before = tree(folder)
        params = {"source": "it", "archives": ["a"], "layout": layout, "split": split,
                  "allowed_values": ALLOWED.get(layout)}  # fmt: skip
        stage = prepare_texts if layout in TEXT_LAYOUTS else prepare
        job = JobContext(seed=0, machine=Machine(), params=params, inputs={"a": folder}, out=out)
        said = refusal(lambda: stage.run(job))
        assert tree(folder) == before and sorted(path.name for path in Path(root).iterdir()) == ["files", "out"]
        assert not any(path.is_symlink() for path in out.rglob("*"))
        assert (out / "facts.json").is_file() == (said is None)
        assert said is not None or not (out / "unpacked").exists()
        return said


@settings(FEW, max_examples=6)
@pytest.mark.parametrize("layout", LAYOUTS)
@given(data=st.data())
def test_a_damaged_archive_is_prepared_or_refused(layout: str, data: st.DataObject) -> None:
    files, split = LAYOUTS[layout]
    name = data.draw(st.sampled_from(sorted(files)))
    content = data.draw(
        st.one_of(
            st.builds(damaged, st.just(files[name]), flips, st.sampled_from([1.0, 1.0, 0.9])),
            st.sampled_from([b"", PAGE, b"[]", b"null", *files.values()]),
            st.binary(max_size=99),
        )
    )
    prepared(layout, {**files, name: content}, split)


@settings(FEW, max_examples=20)
@given(kind=st.sampled_from(["jpg", "png"]), places=flips, length=st.sampled_from([1.0, 1.0, 0.9]))
def test_damaged_pixels_in_a_sound_archive_are_read_or_refused(
    kind: str, places: list[tuple[float, int]], length: float
) -> None:
    root = "VOCdevkit/VOC2012"
    files = {
        f"{root}/ImageSets/Segmentation/val.txt": b"a\n",
        f"{root}/JPEGImages/a.jpg": small_archives.jpg(0, 24, 32),
        f"{root}/SegmentationClass/a.png": png(np.eye(24, 32, dtype=np.uint8)),
    }
    name = next(name for name in files if name.endswith(kind))
    changed = {**files, name: damaged(files[name], places, length)}
    prepared("voc2012", {"VOCtrainval_11-May-2012.tar": tar_of(changed)}, "val")


def blank_png(height: int, width: int) -> bytes:
    """A PNG that says it has this size."""
    data = bytearray(png(np.zeros((4, 4), np.uint8)))
    data[16:24] = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    checked = zlib.crc32(bytes(data[12:29]))
    data[29:33] = checked.to_bytes(4, "big")
    return bytes(data)


def test_a_label_of_a_billion_pixels_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(blank_png(30000, 30000))
    assert refusal(lambda: read_label(tmp_path / "a.png"))
    assert refusal(lambda: prepare_texts.union([tmp_path / "a.png"], (4, 4)))


# --- annotations

ODD: list[Any] = ["a dog \ud800", 10**30, None, -1, 1e999, "../../x", "x" * 400, [], {}, [[]], [-2, -2], [10**6, 10**6],
                  [[1e9, 0, 0, 1e9, 1, 1]], [5]]  # fmt: skip


def places_in(tree: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Paths to everything in a JSON value; of a list only to its first element."""
    yield path
    below = tree.items() if isinstance(tree, dict) else enumerate(tree[:1]) if isinstance(tree, list) else ()
    for key, value in below:
        yield from places_in(value, (*path, key))


def replaced(tree: Any, path: tuple[Any, ...], value: Any) -> Any:
    if not path:
        return value
    copy = tree.copy()
    copy[path[0]] = replaced(tree[path[0]], path[1:], value)
    return copy


MERGED = json.loads(LAYOUTS["context"][0]["trainval_merged.json"])
with zipfile.ZipFile(io.BytesIO(LAYOUTS["refcoco"][0]["refcoco.zip"])) as _zip:
    INSTANCES = json.loads(_zip.read("refcoco/instances.json"))
    REFS = pickle.loads(_zip.read("refcoco/refs(unc).p"))


def pickled(text: bytes) -> bytes:
    """The value of a JSON text as a pickle; of a text that is none, lists in lists."""
    try:
        return pickle.dumps(json.loads(text), protocol=2)
    except (ValueError, RecursionError):
        return b"]" * len(text) + b"a" * (len(text) - 1) + b"."


JSONS: dict[str, tuple[str, Any, Callable[[bytes], Files]]] = {
    "merged": ("context", MERGED, lambda text: {"trainval_merged.json": text}),
    "refs": ("refcoco", REFS, lambda text: refcoco(data=pickled(text))),
    "instances": (
        "refcoco",
        INSTANCES,
        lambda text: {
            "refcoco.zip": zip_of(
                {
                    "refcoco/instances.json": text,
                    "refcoco/refs(unc).p": pickle.dumps(REFS, protocol=2),
                }
            )
        },
    ),
    "note": (
        "cc3m_tagmask",
        {"caption": "a dog", "tags": ["dog"]},
        lambda text: tagmask({"json_refined/a_1.json": text}),
    ),
}


@pytest.mark.parametrize("kind", JSONS)
def test_odd_values_anywhere_in_an_annotation_file_are_used_or_refused(kind: str) -> None:
    layout, good, files = JSONS[kind]
    assert prepared(layout, {**LAYOUTS[layout][0], **files(json.dumps(good).encode())}, LAYOUTS[layout][1]) is None
    for number, path in enumerate(places_in(good)):
        for value in [*ODD[:2], *ODD[2 + number % 3 :: 3]]:
            text = json.dumps(replaced(good, path, value)).encode()
            prepared(layout, {**LAYOUTS[layout][0], **files(text)}, LAYOUTS[layout][1])


@pytest.mark.parametrize("kind", JSONS)
def test_deeply_nested_json_is_refused(kind: str) -> None:
    layout, _, files = JSONS[kind]
    assert prepared(layout, {**LAYOUTS[layout][0], **files(b"[" * 100_000)}, LAYOUTS[layout][1])


@FEW
@given(
    size=st.lists(st.integers(-3, 9), max_size=3), counts=st.one_of(st.text(max_size=20), st.lists(st.integers(0, 99)))
)
def test_random_run_length_codes_are_masks_or_refused(size: list[int], counts: object) -> None:
    code = {"size": [abs(side) for side in size], "counts": counts}
    if refusal(lambda: rle.decode(code)) is None:
        assert list(rle.decode(code).shape) == code["size"]


CODES: dict[str, dict[str, Any]] = {
    "a terabyte": {"size": [10**6, 10**6], "counts": [10**12]},
    "negative sides": {"size": [-2, -2], "counts": [4]},
    "endless side": {"size": [1e999, 1], "counts": [1]},
    "run beyond 64 bits": {"size": [2, 2], "counts": [10**30]},
    "runs in a table": {"size": [2, 2], "counts": [[1, 3]]},
    "runs whose sum wraps": {"size": [2, 2], "counts": [2**62] * 4 + [4]},  # numpy would crash the interpreter
}


@pytest.mark.parametrize("code", CODES.values(), ids=CODES)
def test_an_impossible_run_length_code_is_refused(code: dict[str, Any]) -> None:
    assert refusal(lambda: rle.decode(code))


corners = st.lists(st.floats(-500, 500) | st.integers(-9, 99) | st.just(float("nan")), max_size=12)


@FEW
@given(polygon=corners)
def test_random_polygons_are_masks_or_refused(polygon: list[float]) -> None:
    if refusal(lambda: polygons.fill([polygon], 12, 9)) is None:
        assert polygons.fill([polygon], 12, 9).shape == (12, 9)


@pytest.mark.parametrize("polygon", [[0, 0, 1e9, 0, 1e9, 1e9], [0, 9, 1e300, 0, 1, 1], [9e5, 0, 0, 1] * 999, 5, None])
def test_an_impossible_polygon_is_refused(polygon: Any) -> None:
    assert refusal(lambda: polygons.fill([polygon], 8, 8))


# --- captions

TEXT_FILES = {name: (kind, *files.items()) for name, (kind, files, _) in COLLECTIONS.items()}


def captions_of(kind: str, name: str, data: bytes) -> str | None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, name)
        path.write_bytes(data)
        return refusal(lambda: list(read_captions([CaptionFile(path, kind)], Path(folder, "scratch"), Tally())))


@settings(FEW, max_examples=4)
@pytest.mark.parametrize("archive", [name for name in TEXT_FILES if name != "yfcc_pmd"])
@given(places=flips, length=st.sampled_from([1.0, 0.9, 0.3]))
def test_a_damaged_caption_file_is_read_or_refused(
    archive: str, places: list[tuple[float, int]], length: float
) -> None:
    kind, (name, data) = TEXT_FILES[archive]
    captions_of(kind, name, damaged(data, places, length))


@pytest.mark.parametrize(
    ("kind", "start"), [("sbu", b'{"captions": '), ("coco_captions", b'{"annotations": '), ("json_lines", b"")]
)
def test_deeply_nested_captions_are_refused(kind: str, start: bytes) -> None:
    assert captions_of(kind, "a.json", start + b"[" * 100_000 + b"\n")


def test_a_column_whose_name_is_no_utf8_is_refused() -> None:
    _, (name, data) = TEXT_FILES["yfcc_pmd"]
    assert captions_of("parquet", name, data.replace(b"caption", b"\xff\xfeption"))
