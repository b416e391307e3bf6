"""The procedural world: reproducible archives in the originals' layouts, true labels, true captions."""

import io
import json
import re
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ovss.config.world import CaptionStyle, SceneStyle, WorldData, WorldParams
from ovss.jobs import JobContext, Machine
from ovss.world import build
from ovss.world.archives import CITY_COLOURS, borders
from ovss.world.captions import areas, write_caption
from ovss.world.classes import CLASSES, HABITAT, STUFF, THING_WEIGHTS, THINGS, nouns
from ovss.world.files import compressed_rle, png, run_lengths, voc_palette, write_tar, write_zip
from ovss.world.scenes import load_banks, render, sample_scene
from ovss.world.wordlists import OTHER_NOUNS, index_noun, words_alpha, world_nouns

VOC = {**dict.fromkeys(STUFF, 0), **{name: i + 1 for i, name in enumerate(THINGS)}}
ADE = {name: i + 1 for i, name in enumerate(CLASSES)}
COCO = dict(zip(CLASSES, [91, 95, 100, 110, 120, 130, 150, 181, *range(11), *range(12, 21)], strict=True))
CITY = {"road": 7, "wall": 12, "grass": 22, "sky": 23, "tree": 21, "house": 11, "person": 24, "car": 26, "bus": 28}
STREET = SceneStyle(kind="street")


def data(layout: str, values: dict[str, int], style: SceneStyle | None = None) -> WorldData:
    return WorldData(layout=layout, train=2, val=5, values=values, style=style or SceneStyle())


PARAMS = WorldParams(
    variants=2,
    data={
        "a_voc": data("voc2012", VOC),
        "b_ade": data("ade20k", ADE),
        "c_coco": data("coco", COCO),
        "d_context": data("context", ADE),
        "e_city": data("cityscapes", CITY, STREET),
    },
    cc3m=30,
    cc12m=20,
)


def make(out: Path) -> Path:
    out.mkdir()
    build.run(JobContext(seed=3, machine=Machine(), params=PARAMS.model_dump(mode="json"), out=out))
    return out


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("world") / "first")


def members(path: Path) -> dict[str, bytes]:
    if path.suffix == ".tar":
        with tarfile.open(path) as archive:
            return {m.name: archive.extractfile(m).read() for m in archive.getmembers()}  # type: ignore[union-attr]
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def pixels(contents: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(contents)))


def test_building_twice_gives_the_same_bytes(world: Path, tmp_path: Path) -> None:
    again = make(tmp_path / "second")
    names = sorted(p.relative_to(world) for p in world.rglob("*") if p.is_file())
    assert names == sorted(p.relative_to(again) for p in again.rglob("*") if p.is_file())
    assert [n for n in names if (world / n).read_bytes() != (again / n).read_bytes()] == []


def test_manifest_states_every_archive(world: Path) -> None:
    manifest = json.loads((world / "manifest.json").read_text())
    sizes = {p.name: p.stat().st_size for p in (world / "archives").iterdir()}
    assert {name: entry["size"] for name, entry in manifest.items()} == sizes
    assert all(len(e["md5"]) == 32 and len(e["sha256"]) == 64 for e in manifest.values())


def test_one_data_set_alone_gives_the_same_archive(world: Path, tmp_path: Path) -> None:
    alone = PARAMS.model_copy(update={"data": {"b_ade": PARAMS.data["b_ade"]}})
    build.run(JobContext(seed=3, machine=Machine(), params=alone.model_dump(mode="json"), out=tmp_path))
    name = "archives/ADEChallengeData2016.zip"
    assert (tmp_path / name).read_bytes() == (world / name).read_bytes()


def test_voc_is_laid_out_like_the_original(world: Path) -> None:
    files = members(world / "archives/VOCtrainval_11-May-2012.tar")
    root = "VOCdevkit/VOC2012/"
    val = files[root + "ImageSets/Segmentation/val.txt"].decode()
    assert val.endswith("\n\n")
    assert len(val.split()) == 5
    assert f"{root}JPEGImages/2012_004331.jpg" in files
    for name in val.split():
        label = Image.open(io.BytesIO(files[f"{root}SegmentationClass/{name}.png"]))
        assert label.mode == "P"
        assert label.getpalette()[3:6] == [128, 0, 0]  # type: ignore[index]
        assert set(np.unique(np.asarray(label))) <= {*range(21), 255}


def test_voc_has_a_void_border_around_things(world: Path) -> None:
    files = members(world / "archives/VOCtrainval_11-May-2012.tar")
    labels = [pixels(v) for k, v in files.items() if "SegmentationClass/" in k]
    with_things = [label for label in labels if ((label > 0) & (label < 255)).any()]
    assert with_things
    for label in with_things:
        thing = (label > 0) & (label < 255)
        background = label == 0
        assert not (thing[:, 1:] & background[:, :-1]).any()
        assert not (thing[1:] & background[:-1]).any()


def test_ade_values_are_the_declared_ones(world: Path) -> None:
    files = members(world / "archives/ADEChallengeData2016.zip")
    labels = [k for k in files if k.startswith("ADEChallengeData2016/annotations/validation/")]
    assert labels == [f"ADEChallengeData2016/annotations/validation/ADE_val_{k:08d}.png" for k in range(1, 6)]
    assert all(set(np.unique(pixels(files[k]))) <= set(range(29)) for k in labels)
    assert (pixels(files[labels[0]]) == 0).any(), "the first image has an unlabelled corner"
    assert "ADEChallengeData2016/images/.DS_Store" in files


def test_coco_has_grey_photographs_unlabelled_pixels_and_a_crowd(world: Path) -> None:
    photos = members(world / "archives/val2017.zip")
    modes = {Image.open(io.BytesIO(v)).mode for v in photos.values()}
    assert modes == {"L", "RGB"}
    maps = members(world / "archives/stuffthingmaps_trainval2017.zip")
    values = set().union(*(np.unique(pixels(v)).tolist() for v in maps.values()))
    assert values <= {*COCO.values(), 255}
    assert 255 in values
    notes = members(world / "archives/annotations_trainval2017.zip")
    instances = json.loads(notes["annotations/instances_val2017.json"])
    assert {f"val2017/{i['file_name']}" for i in instances["images"]} == set(photos)
    assert [a["iscrowd"] for a in instances["annotations"]].count(1) == 1
    captions = json.loads(notes["annotations/captions_val2017.json"])
    assert len(captions["annotations"]) == 5 * len(photos)


def test_coco_masks_agree_with_the_maps(world: Path) -> None:
    maps = members(world / "archives/stuffthingmaps_trainval2017.zip")
    notes = members(world / "archives/annotations_trainval2017.zip")
    for note in json.loads(notes["annotations/instances_train2017.json"])["annotations"]:
        label = pixels(maps[f"train2017/{note['image_id']:012d}.png"])
        x, y, w, h = note["bbox"]
        assert (label[y : y + h, x : x + w] == note["category_id"] - 1).any() or (label == 255).any()
        assert note["area"] <= w * h


def test_later_context_annotations_cover_earlier_ones(world: Path) -> None:
    merged = json.loads((world / "archives/trainval_merged.json").read_text())
    assert {i["phase"] for i in merged["images"]} == {"train", "val"}
    areas_by_image = {i["image_id"]: i["height"] * i["width"] for i in merged["images"]}
    overlapping = 0
    for image_id, size in areas_by_image.items():
        overlapping += sum(a["area"] for a in merged["annos_segmentation"] if a["image_id"] == image_id) > size
    assert overlapping > 0


def test_cityscapes_names_and_instance_ids(world: Path) -> None:
    truth = members(world / "archives/gtFine_trainvaltest.zip")
    photos = members(world / "archives/leftImg8bit_trainvaltest.zip")
    stems = {k.replace("leftImg8bit", "gtFine").replace("gtFine.png", "gtFine_labelIds.png") for k in photos}
    assert {k for k in truth if k.endswith("_labelIds.png")} == stems - {"README", "license.txt"}
    for name in (k for k in truth if k.endswith("_labelIds.png")):
        label = pixels(truth[name])
        instance = pixels(truth[name.replace("labelIds", "instanceIds")]).astype(int)
        assert set(np.unique(label)) <= {0, *CITY_COLOURS}
        assert np.array_equal(np.where(instance >= 1000, instance // 1000, instance), label)
        assert "/test/" not in name or not label.any()


def test_caption_files_have_their_columns_in_opposite_order(world: Path) -> None:
    cc3m = [line.split("\t") for line in (world / "archives/Train_GCC-training.tsv").read_text().splitlines()]
    cc12m = [line.split("\t") for line in (world / "archives/cc12m.tsv").read_text().splitlines()]
    assert (len(cc3m), len(cc12m)) == (30, 20)
    assert all(url.startswith("http://") and not text.startswith("http") for text, url in cc3m)
    assert all(url.startswith("http://") and not text.startswith("http") for url, text in cc12m)


def test_the_word_lists_are_laid_out_like_the_originals(world: Path) -> None:
    index = members(world / "archives/wordnet.zip")["wordnet/index.noun"].decode("ascii").splitlines()
    licence = [line for line in index if line.startswith("  ")]
    assert licence == index[: len(licence)] and licence
    entries = [line.split() for line in index[len(licence) :]]
    assert all(line.endswith("  ") for line in index)
    assert all(re.fullmatch(r"[a-z_]+ n 1 1 @ 1 0 \d{8}", " ".join(entry)) for entry in entries)
    lemmas = [entry[0] for entry in entries]
    assert lemmas == sorted(set(lemmas)) and "hot_dog" in lemmas
    words = members(world / "archives/words_alpha.zip")["words_alpha.txt"].decode("ascii").split("\r\n")
    assert words.pop() == "" and words == sorted(set(words))
    assert all(word.isalpha() and word.islower() for word in words)
    assert {lemma for lemma in lemmas if "_" not in lemma} < set(words)


def test_every_noun_of_the_captions_is_in_both_word_lists(world: Path) -> None:
    lemmas = {line.split()[0] for line in index_noun().decode().splitlines() if not line.startswith("  ")}
    assert {noun for name in CLASSES for noun in nouns(name)} <= lemmas
    assert len(OTHER_NOUNS) >= 150 and not set(OTHER_NOUNS) & set(world_nouns())
    captions = (world / "archives/Train_GCC-training.tsv").read_text().splitlines()
    known = {*words_alpha().decode().split(), "a", "an"}
    used = {word for line in captions for word in re.findall("[a-z]+", line.split("\t")[0].lower())}
    unlisted = used - known
    assert unlisted <= {"children", "dreaming", "found", "is", "made", "s", "seen", "unknown", "up", "your"}


def test_word_lists_come_with_captions_only(world: Path, tmp_path: Path) -> None:
    without = PARAMS.model_copy(update={"data": {"b_ade": PARAMS.data["b_ade"]}, "cc3m": 0, "cc12m": 0})
    build.run(JobContext(seed=3, machine=Machine(), params=without.model_dump(mode="json"), out=tmp_path))
    assert [path.name for path in (tmp_path / "archives").iterdir()] == ["ADEChallengeData2016.zip"]


def test_containers_do_not_depend_on_insertion_order(tmp_path: Path) -> None:
    files = {"b/x.txt": b"1" * 999, "a.png": b"2"}
    for write, kind in ((write_tar, "tar"), (write_zip, "zip")):
        write(tmp_path / f"1.{kind}", files)
        write(tmp_path / f"2.{kind}", dict(reversed(files.items())))
        assert (tmp_path / f"1.{kind}").read_bytes() == (tmp_path / f"2.{kind}").read_bytes()


def decode(counts: str) -> list[int]:
    """COCO's text run lengths, written from the format's definition."""
    values: list[int] = []
    rest = [ord(c) - 48 for c in counts]
    while rest:
        value = shift = 0
        while True:
            digit = rest.pop(0)
            value |= (digit & 31) << shift
            shift += 5
            if not digit & 32:
                break
        value -= (1 << shift) if digit & 16 else 0
        values.append(value + (values[-2] if len(values) > 2 else 0))
    return values


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 2**32))
def test_run_lengths_describe_the_mask(rows: int, columns: int, seed: int) -> None:
    mask = np.random.default_rng(seed).random((rows, columns)) < 0.5
    runs = run_lengths(mask)
    rebuilt = np.repeat(np.arange(len(runs)) % 2, runs).reshape((rows, columns), order="F")
    assert np.array_equal(rebuilt.astype(bool), mask)
    text = compressed_rle(mask)["counts"]
    assert isinstance(text, str)
    assert decode(text) == runs


def test_voc_palette_has_the_published_entries() -> None:
    palette = np.reshape(voc_palette(), (256, 3)).tolist()
    assert palette[1] == [128, 0, 0]
    assert palette[15] == [192, 128, 128]
    assert palette[255] == [224, 224, 192]
    assert Image.open(io.BytesIO(png(np.zeros((2, 2), np.uint8), voc_palette()))).mode == "P"


def test_borders_touch_both_sides_of_an_outline() -> None:
    instance = np.zeros((4, 6), np.uint8)
    instance[:, 3:] = 1
    assert np.flatnonzero(borders(instance)[0]).tolist() == [2, 3]


def test_scenes_do_not_depend_on_the_order_they_are_drawn_in() -> None:
    def draw(number: int) -> bytes:
        return build.draw_example(3, "b_ade", PARAMS.data["b_ade"], PARAMS, "val", number).view.image.tobytes()

    forwards = [draw(k) for k in range(4)]
    assert forwards == [draw(k) for k in reversed(range(4))][::-1]
    assert len(set(forwards)) == 4


def test_a_crop_shows_the_same_labels_as_the_whole_scene() -> None:
    banks = load_banks(3, 2)
    scene = sample_scene(np.random.default_rng(1), SceneStyle(), banks)
    whole = render(scene, banks, (128, 128))
    crop = render(scene, banks, (64, 64), (0.25, 0.25, 0.5, 0.5))
    assert np.mean(whole.label[32:96, 32:96] == crop.label) > 0.999


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.booleans())
def test_captions_name_what_is_shown_and_nothing_else(seed: int, street: bool) -> None:
    rng, banks = np.random.default_rng(seed), load_banks(3, 2)
    view = render(sample_scene(rng, STREET if street else SceneStyle(), banks), banks, (48, 48))
    caption = write_caption(rng, areas(view.label), CaptionStyle(wrong=0.5))
    words = set(caption.text.split())
    mentioned = {i for i, name in enumerate(CLASSES) if words & set(nouns(name))}
    assert mentioned == {*caption.named, *caption.wrong}
    assert {int(i) for i in np.unique(view.label)} >= set(caption.named)
    assert not {int(i) for i in np.unique(view.label)} & set(caption.wrong)


def test_class_tables_are_complete() -> None:
    assert len(CLASSES) == len(set(CLASSES)) == 28
    assert set(THING_WEIGHTS) == set(HABITAT) == set(THINGS)
    assert set().union(*HABITAT.values()) <= set(STUFF)
    every_noun = [noun for name in CLASSES for noun in nouns(name)]
    assert len(every_noun) == len(set(every_noun))
