"""Label maps, class lists and the facts in datasets.yaml and weights.yaml."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from ovss.config.base import validate
from ovss.config.datasets import Datasets, fetch_params, labels_params, load_datasets
from ovss.config.weights import Weights, load_weights
from ovss.data.labels import check_values, lookup_table, read_class_names, read_label
from ovss.errors import UserError


@pytest.fixture(scope="module")
def config(root: Path) -> Datasets:
    return load_datasets(root / "datasets.yaml")


@pytest.fixture(scope="module")
def weights(root: Path) -> Weights:
    return load_weights(root / "weights.yaml")


@pytest.fixture(scope="module")
def raw(root: Path) -> dict[str, Any]:
    return yaml.safe_load((root / "datasets.yaml").read_text())


def table_of(config: Datasets, dataset: str) -> np.ndarray:
    """The table after a trip through JSON, as a job gets it."""
    return lookup_table(json.loads(json.dumps(labels_params(config, dataset)))["labels"])


# --- tables


def test_identity_keeps_the_classes_and_ignores_the_rest() -> None:
    table = lookup_table({"kind": "identity", "classes": 21})
    assert table.dtype == np.uint8 and table[:21].tolist() == [*range(21)]
    assert len(table) == 65536 and set(table[21:].tolist()) == {255}


def test_reduce_zero_moves_classes_down_and_ignores_zero() -> None:
    table = lookup_table({"kind": "reduce_zero", "classes": 20})
    assert table[:21].tolist() == [255, *range(20)] and set(table[21:].tolist()) == {255}


@given(
    raw=st.lists(st.integers(0, 255), min_size=1, max_size=40, unique=True),
    first=st.integers(0, 3),
    other=st.sampled_from([0, 255]),
)
def test_order_numbers_the_listed_values(raw: list[int], first: int, other: int) -> None:
    table = lookup_table({"kind": "order", "raw": raw, "first": first, "other": other})
    assert [int(table[value]) for value in raw] == [first + k for k in range(len(raw))]
    assert {int(table[value]) for value in range(256) if value not in raw} <= {other}


def test_ranges_include_both_ends_and_json_keys_are_numbers() -> None:
    table = lookup_table({"kind": "table", "values": {"3..5": 0, "9": 1}, "other": 255})
    assert {k: int(table[k]) for k in range(256) if table[k] != 255} == {3: 0, 4: 0, 5: 0, 9: 1}


@pytest.mark.parametrize(
    "spec",
    [
        {"kind": "nothing"},
        {"kind": "identity", "classes": 0},
        {"kind": "identity", "classes": 21, "extra": 1},
        {"kind": "order", "raw": [1, 1]},
        {"kind": "order", "raw": ["5..7", 6]},
        {"kind": "order", "raw": [65536]},
        {"kind": "order", "raw": [1, 2], "other": 2},
        {"kind": "order", "raw": [1, 2], "first": 32767},
        {"kind": "identity", "classes": 32768},
        {"kind": "table", "values": {"1..3": 0, 2: 1}},
        {"kind": "table", "values": {1: 0, 2: 2}},
        {"kind": "table", "values": {}},
        {},
    ],
)
def test_a_wrong_map_is_refused(spec: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="label map"):
        lookup_table(spec)


def test_cityscapes_has_the_19_training_ids(config: Datasets) -> None:
    table = table_of(config, "cityscapes")
    evaluated = {
        7: 0, 8: 1, 11: 2, 12: 3, 13: 4, 17: 5, 19: 6, 20: 7, 21: 8, 22: 9, 23: 10, 24: 11, 25: 12, 26: 13, 27: 14,
        28: 15, 31: 16, 32: 17, 33: 18,
    }  # fmt: skip
    assert {k: int(table[k]) for k in range(256) if table[k] != 255} == evaluated


def test_coco_skips_the_names_that_were_never_annotated(config: Datasets) -> None:
    never = {11, 25, 28, 29, 44, 65, 67, 68, 70, 82, 90}
    stuff, things = table_of(config, "coco_stuff"), table_of(config, "coco_object")
    named = [k for k in range(182) if k not in never]
    assert [int(stuff[k]) for k in named] == list(range(171)) and {int(stuff[k]) for k in {*never, 255}} == {255}
    assert [int(things[k]) for k in named if k <= 90] == list(range(1, 81))
    assert {int(things[k]) for k in [*never, *range(91, 182), 255]} == {0}


def test_coco_stuff_27_covers_every_value_with_27_classes(config: Datasets) -> None:
    table = table_of(config, "coco_stuff27")
    assert set(table[:182].tolist()) == set(range(27)) and table[255] == 255
    names = [line[0] for line in read_class_names("coco_stuff27.ReCLIP.txt")]
    examples = {
        0: "person",
        16: "animal",
        2: "vehicle",
        105: "sky",
        154: "water",
        123: "plant",
    }
    assert {k: names[table[k]] for k in examples} == examples


def test_only_coco_object_scores_void(config: Datasets) -> None:
    allowed = {name: max(config.sources[entry.source].allowed_values or ()) for name, entry in config.datasets.items()}
    void = [name for name, highest in allowed.items() if highest == 255]
    scored = {name for name in void if table_of(config, name)[255] != 255}
    assert scored == {"coco_object", "tiny_object"}


@pytest.mark.parametrize("source", [f"tiny_{name}_val" for name in ("voc2012", "ade20k", "coco", "cityscapes")])
def test_the_generated_world_paints_what_the_data_sets_read(source: str, config: Datasets) -> None:
    for dataset in [name for name, entry in config.datasets.items() if entry.source == source]:
        table, names = table_of(config, dataset), read_class_names(config.datasets[dataset].class_file("default"))
        painted = config.sources[source].world_values or {}
        for name, value in painted.items():
            index = int(table[value])
            assert name in names[index] if index != 255 else all(name not in words for words in names)


def test_the_generated_context_is_painted_with_sorted_category_ids(config: Datasets) -> None:
    painted = config.sources["tiny_context_val"].world_values or {}
    names = read_class_names("tiny_context60.txt")
    assert [[name] for name in painted] == names[1:] and list(painted.values()) == sorted(painted.values())


# --- label images


@pytest.mark.parametrize("mode", ["L", "P"])
def test_gray_and_palette_labels_are_read_as_numbers(mode: str, tmp_path: Path) -> None:
    image = Image.new(mode, (3, 2), 7)
    if mode == "P":
        image.putpalette([255 - k // 3 for k in range(768)])
    image.save(tmp_path / "label.png")
    np.testing.assert_array_equal(read_label(tmp_path / "label.png"), np.full((2, 3), 7, np.uint8))


def test_stray_values_are_named() -> None:
    label = np.array([[0, 0, 21]], dtype=np.uint8)
    assert check_values(label, range(22), "x")[[0, 21]].tolist() == [2, 1]
    assert check_values(label, None, "x").sum() == 3
    with pytest.raises(UserError, match=r"^2007_000033: label value 21 does not occur"):
        check_values(label, range(21), "2007_000033")


# --- class lists


def test_names_of_a_class_are_parted_and_stripped(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("sky, wall\nperson in shirt \nbed")
    assert read_class_names(tmp_path / "list.txt") == [["sky", "wall"], ["person in shirt"], ["bed"]]
    (tmp_path / "list.txt").write_text("sky; wall\n")
    assert read_class_names(tmp_path / "list.txt", "; ") == [["sky", "wall"]]


@pytest.mark.parametrize("text", ["", "sky\n\nwall", "sky, , wall"])
def test_an_empty_name_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text(text)
    with pytest.raises(UserError, match=r"line \d has an empty class name"):
        read_class_names(tmp_path / "list.txt")


def test_a_missing_list_is_named() -> None:
    with pytest.raises(UserError, match=r"nothing\.txt"):
        read_class_names("nothing.txt")


@pytest.mark.parametrize(
    ("dataset", "naming", "index", "names"),
    [
        ("voc21", "freecp", 15, ["person in shirt jeans dress sweater skirt jacket"]),
        ("voc21", "clearclip", 0, ["background"]),
        ("voc20", "sclip", 3, ["ship"]),
        ("voc20", "tag", 19, ["tv monitor"]),
        ("ade20k", "freecp", 44, ["chestofdrawers"]),
        ("context60", "freecp", 0, ["background"]),
    ],
)
def test_each_naming_has_its_words(config: Datasets, dataset: str, naming: str, index: int, names: list[str]) -> None:
    file = config.datasets[dataset].class_file(naming)
    assert read_class_names(file, config.namings[naming].separator)[index] == names


@pytest.mark.parametrize("naming", ["freecp", "sclip", "proxyclip"])
def test_the_background_of_voc_is_26_words(config: Datasets, naming: str) -> None:
    words = read_class_names(config.datasets["voc21"].class_file(naming), config.namings[naming].separator)[0]
    assert len(words) == 26 and words[:3] == ["sky", "wall", "tree"]


# --- the files


def broken(raw: dict[str, Any], path: str, value: Any) -> str:
    """The message about datasets.yaml with one key changed."""
    data = json.loads(json.dumps(raw))
    *way, last = path.split("/")
    node = data
    for key in way:
        node = node[int(key) if isinstance(node, list) else key]
    node[last] = value
    with pytest.raises(UserError) as caught:
        validate(data, Datasets, "datasets.yaml")
    return str(caught.value)


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("datasets/voc21/source", "voc", "datasets.voc21.source: voc is not in section 'sources'"),
        ("datasets/voc21/classes/default", "voc20.mmseg.txt", "voc20.mmseg.txt has 20 lines, the labels 21 classes"),
        ("datasets/voc21/classes/default", "nothing.txt", "nothing.txt"),
        ("datasets/voc21/classes/nobody", "voc21.mmseg.txt", "nobody is not in section 'namings'"),
        ("datasets/voc21/classes", {"freecp": "voc21.FreeCP.txt"}, "'default' is missing"),
        ("datasets/ade20k/source", "voc2012_val", "datasets.ade20k.labels: raw values"),
        ("datasets/voc21/colour", "red", "unknown key"),
        ("sources/voc2012_val/archives", ["voc"], "voc is not in section 'archives'"),
        ("sources/voc2012_val/layout", "voc2013", "there is no ovss/data/layouts/voc2013.py"),
        ("sources/voc2012_val/layout", "../../x", "sources.voc2012_val.layout"),
        ("archives/voc2012/files/0/sha256", "abc", "sha256 has 64 lower-case hexadecimal digits"),
        ("archives/voc2012/files/0/sha256", None, "a hash comes with the source that states it"),
        ("archives/voc2012/files/0/name", "../x.tar", "no folder"),
        ("archives/voc2012/files/0/url", "ftp://x", "an address starts with"),
        ("archives/voc2012/files/0/url", None, "'manual' must say what a person has to do"),
        ("archives/voc2012/files/0/stated_in", {"sha256": ["hearsay"], "sha1": [], "md5": []}, "hearsay"),
        ("archives/cityscapes/manual", None, "'manual' must say what a person has to do"),
    ],
)
def test_a_mistake_in_datasets_yaml_is_named(raw: dict[str, Any], path: str, value: Any, words: str) -> None:
    assert words in broken(raw, path, value)


def test_every_word_of_the_licence_and_place_is_there(config: Datasets, weights: Weights) -> None:
    for name, entry in {**config.archives, **weights.weights}.items():
        assert entry.licence and (entry.files or entry.manual), name  # without files: a folder that a person fills


def test_the_hash_in_an_address_of_openai_is_the_hash(weights: Weights) -> None:
    models = [weights.weights[name] for name in ("clip_vitb16_openai", "clip_vitl14_openai", "clip_rn50x16_openai")]
    assert [str(model.files[0].url).split("/")[-2] for model in models] == [model.files[0].sha256 for model in models]


def test_sam_names_start_their_md5(weights: Weights) -> None:
    for name in ("sam_vit_b", "sam_vit_l", "sam_vit_h"):
        file = weights.weights[name].files[0]
        digits = re.search(r"_([0-9a-f]{6})\.pth", file.name)
        assert digits and str(file.md5).startswith(digits[1])


def test_jobs_get_no_prose(config: Datasets, weights: Weights) -> None:
    params = [fetch_params(config, "cc3m"), weights.weights["all_mpnet_base_v2"].fetch_params("all_mpnet_base_v2")]
    for job in params:
        assert json.loads(json.dumps(job)) == job
        keys = {key for file in job["files"] for key in file}
        assert keys == {"name", "url", "mirrors", "size", "sha256", "sha1", "md5"}
    assert "note" not in json.dumps(weights.weights["tcl"].convert_params("tcl"))
