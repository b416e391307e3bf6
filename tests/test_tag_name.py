"""TAG's words and classes, and the stage that labels: rules, bytes that depend on nothing else, clear refusals."""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from packaged_sentences import sentence_directory
from PIL import Image
from small_clip import write_model_directory

from ovss.errors import UserError
from ovss.evaluation import label, word_classes
from ovss.evaluation.clusters import cluster_classes, count_cells, count_clusters
from ovss.evaluation.confusion import ConfusionCounts, count_pixels
from ovss.evaluation.segments_file import write_segments
from ovss.jobs import Item, JobContext, Machine
from ovss.methods._tag_name import Naming, Reading, assign, choose, cosines, foreign_of, similarities
from ovss.models.clip import load_clip
from ovss.models.sentences import load_sentences
from ovss.retrieval.encode import encode_unit
from ovss.retrieval.neighbours import pack_links, write_neighbours

CLASSES = [["background", "wall"], ["cat", "kitten"], ["dog"], ["car"]]
PROTOCOL = {"short_side": 24, "crop": None, "stride": None, "resize": "square", "names": "own", "templates": "none",
            "logit_scale": None, "score_size": "input"}  # fmt: skip
SIZES = [(30, 40), (24, 24), (20, 50)]
# Captions of each image's clusters; several hits of one segment say what its words are.
CAPTIONS = [["a cat on a sofa", "two cats", "the cat sleeps"], ["a puppy", "old puppy, red puppy"], ["", "a truck"],
            ["truck by the road", "truck"]]  # fmt: skip
ROWS: dict[str, dict[str, Any]] = {
    "released": {},
    "paper": {"foreign_words": "excluded", "frequency": "more_than", "dedup": False},
    "plain": {"filter": False, "standardize": False, "remove": False, "num_samples": 2},
    "dropped": {"threshold": 0.62},
    "wrong": {"threshold": 0.62, "below_threshold": "wrong"},
}


def make_source(folder: Path) -> None:
    """Three images with labels of four classes; class 0 is the background."""
    generator = np.random.default_rng(0)
    (folder / "labels").mkdir(parents=True)
    with (folder / "index.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["id", "image", "label", "height", "width"])
        for number, size in enumerate(SIZES):
            truth = generator.choice([0, 1, 2, 3, 255], size).astype(np.uint8)
            Image.fromarray(truth).save(folder / f"labels/im{number}.png")
            writer.writerow([f"im{number}", f"images/im{number}.jpg", f"labels/im{number}.png", *size])


def maps() -> list[np.ndarray]:
    """Clusters in columns; cluster 4 is there and is no segment, as if its embedding were not finite."""
    columns = np.repeat([0, 1, 2, 3, 4, 0], 4).astype(np.uint8)
    return [np.tile(np.roll(columns, 4 * number), (24, 1)) for number in range(len(SIZES))]


def make_segments(folder: Path, images: range = range(3), length: int = 16) -> None:
    embeddings = torch.randn(12, length, generator=torch.Generator().manual_seed(3))
    write_segments(folder, [(f"im{number}", maps()[number], embeddings[4 * number : 4 * number + 4], range(4),
                             [192, 96, 96, 96]) for number in images])  # fmt: skip


def make_neighbours(folder: Path, images: range = range(3)) -> None:
    """Five captions kept of each search; the first segment of image 1 has none, the last two hits are duplicates."""
    folder.mkdir(parents=True)
    texts = [text for captions in CAPTIONS for text in captions]
    count = 4 * len(images)
    ids = np.full((count, 5), -1, np.int64)
    for segment in range(count):
        captions = CAPTIONS[(segment + segment // 4) % 4] if images[segment // 4] != 1 or segment % 4 else []
        ids[segment, : len(captions)] = [texts.index(text) for text in captions]
    links = np.zeros((count, 5, 5), bool)
    links[:, 1, 2] = links[:, 2, 1] = True
    used = sorted({int(number) for number in ids.ravel() if number >= 0})
    write_neighbours(folder, ids, np.zeros(ids.shape, np.float32), pack_links(links), [(i, texts[i]) for i in used])


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("project")
    make_source(root / "source")
    make_segments(root / "segments")
    make_neighbours(root / "neighbours")
    write_model_directory(root / "model")
    sentence_directory(root / "sentences")
    return root


def item(project: Path, out: Path, row: str = "released", shard: tuple[int, int] = (0, 1), **inputs: Path) -> Item:
    out.mkdir(parents=True)
    dataset = {"name": "own", "labels": {"kind": "identity", "classes": 4}, "num_classes": 4, "background": True}
    params = {"method": "tag", "settings": {"keep": 5, "num_samples": 5, **ROWS[row]}, "dataset": dataset,
              "classes": CLASSES, "protocol": PROTOCOL, "shard": list(shard), "examples": 2}  # fmt: skip
    own = {name: project / name for name in ("model", "source", "segments", "neighbours")}
    return Item(params, {**own, "sentences": project / "sentences/encoder", **inputs}, out)


def run(items: dict[str, Item], machine: Machine | None = None) -> dict[str, dict[str, int]]:
    facts: dict[str, dict[str, int]] = {}
    label.run(JobContext(0, machine or Machine(), items=items, finish=facts.__setitem__))
    return facts


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


@pytest.fixture(scope="module")
def whole(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All rows in one pass."""
    out = tmp_path_factory.mktemp("whole")
    facts = run({row: item(project, out / row, row) for row in ROWS})
    assert all((each["images"], each["segments"]) == (3, 12) for each in facts.values())
    assert facts["released"]["below_threshold"] == 0 < facts["wrong"]["below_threshold"] < 12
    return out


def lines(folder: Path) -> list[dict[str, Any]]:
    with gzip.open(folder / "segments.jsonl.gz", "rt", encoding="utf-8") as stream:
        return [json.loads(line) for line in stream]


def slow_words(project: Path, segments: list[dict[str, Any]], zero: bool) -> list[str]:
    """The word of every segment from its candidates, image by image, in the plainest way."""
    embeddings = torch.randn(12, 16, generator=torch.Generator().manual_seed(3))
    clip = load_clip(project / "model")
    found = []
    for number, segment in enumerate(segments):
        vectors = encode_unit(clip, segment["candidates"])
        scores = torch.nn.functional.cosine_similarity(vectors, embeddings[number][None]).tolist()
        best = max(range(len(scores)), key=lambda place: (scores[place], -place))
        image = [other for other in segments if other["image"] == segment["image"] and other is not segment]
        found.append(image[0]["candidates"][0] if zero and scores[best] < 0 else segment["candidates"][best])
    return found


@pytest.mark.parametrize("row", ["released", "paper"])
def test_words_and_classes_are_those_of_a_slow_reading(project: Path, whole: Path, row: str) -> None:
    segments = lines(whole / row)
    assert [each["word"] for each in segments] == slow_words(project, segments, zero=row == "released")
    encoder = load_sentences(project / "sentences/encoder")
    names = ["cat", "dog", "car"]
    for each in segments:
        similar = (encoder.encode([each["word"]]) @ encoder.encode(names).T)[0]
        assert (each["class"], each["class_index"]) == (names[int(similar.argmax())], int(similar.argmax()) + 1)
        assert each["similarity"] == pytest.approx(float(similar.max()), abs=1e-5)


def test_both_masks_meet_a_segment_whose_own_words_are_all_negative(whole: Path) -> None:
    zero, excluded = lines(whole / "released"), lines(whole / "paper")
    assert any(each["score"] == 0 and each["word"] not in each["candidates"] for each in zero)
    assert any(each["score"] < 0 for each in excluded)
    assert all(each["word"] in each["candidates"] for each in excluded)


def test_captions_are_the_kept_ones_and_none_makes_the_word_object(whole: Path) -> None:
    released, paper, plain = (lines(whole / row) for row in ("released", "paper", "plain"))
    assert released[0]["captions"] == ["a cat on a sofa", "two cats"]  # the third is a near-duplicate of the second
    assert paper[0]["captions"] == CAPTIONS[0]
    assert plain[0]["candidates"] == ["a", "cat", "cats", "on", "sofa", "two"]
    assert released[4]["captions"] == [] and released[4]["candidates"] == ["object"]
    assert [(each["image"], each["cluster"], each["pixels"]) for each in released[:2]] == [("im0", 0, 192),
                                                                                          ("im0", 1, 96)]  # fmt: skip


@pytest.mark.parametrize("row", ROWS)
def test_counts_are_those_of_a_pixel_by_pixel_count(project: Path, whole: Path, row: str) -> None:
    by_place = {(each["image"], each["cluster"]): each["class_index"] for each in lines(whole / row)}
    found = ConfusionCounts.load(whole / row)
    assert found.images == ("im0", "im1", "im2")
    for number, size in enumerate(SIZES):
        truth = np.array(Image.open(project / f"source/labels/im{number}.png"))
        small = truth[(np.arange(24) * size[0] // 24)[:, None], np.arange(24) * size[1] // 24]
        below = 255 if row == "dropped" else 4
        classes = [by_place[f"im{number}", cluster] for cluster in range(4)]
        predicted = np.array([below if index is None else index for index in classes] + [4])[maps()[number]]
        small = np.where(predicted == 255, 255, small)
        expected = count_pixels(small, np.where(predicted == 255, 4, predicted), 4)
        ours = found.image == number
        table = np.stack([found.truth[ours], found.prediction[ours], found.pixels[ours]], axis=1)
        np.testing.assert_array_equal(table, expected)


def test_dropped_pixels_leave_the_label_and_wrong_ones_stay(whole: Path) -> None:
    every, dropped, wrong = (ConfusionCounts.load(whole / row) for row in ("released", "dropped", "wrong"))
    assert every.pixels.sum() == wrong.pixels.sum() > dropped.pixels.sum()
    assert (dropped.pixels[dropped.prediction < 4].sum()) == wrong.pixels[wrong.prediction < 4].sum()
    below = [each for each in lines(whole / "wrong") if each["class"] is None]
    assert below and all(each["similarity"] < 0.62 and each["class_index"] is None for each in below)


def test_the_first_images_get_pictures_of_classes_and_words(project: Path, whole: Path) -> None:
    assert sorted(contents(whole / "dropped")) == [
        "counts.npz", "examples/im0.png", "examples/im1.png", "images.txt", "segments.jsonl.gz", "words/im0.json",
        "words/im0.png", "words/im1.json", "words/im1.png",
    ]  # fmt: skip
    with Image.open(whole / "dropped/examples/im0.png") as picture:
        assert (picture.mode, picture.size) == ("L", (40, 30))
        assert np.array(picture)[0, -1] == next(each["class_index"] for each in lines(whole / "dropped"))
        assert 255 in np.array(picture)
    with Image.open(whole / "dropped/words/im0.png") as picture:
        np.testing.assert_array_equal(np.array(picture), maps()[0])
        assert picture.mode == "L"
    record = json.loads((whole / "dropped/words/im1.json").read_text())
    assert record == {"image": "im1", "segments": lines(whole / "dropped")[4:8]}


@pytest.mark.parametrize("row", ROWS)
def test_a_row_alone_gives_the_bytes_it_gives_beside_others(
    project: Path, whole: Path, tmp_path: Path, row: str
) -> None:
    run({row: item(project, tmp_path / row, row)}, Machine(workers=3, batch_size=64))
    assert contents(tmp_path / row) == contents(whole / row)


def test_shards_together_are_the_whole(project: Path, whole: Path, tmp_path: Path) -> None:
    for index, images in enumerate((range(1), range(1, 3))):
        make_segments(tmp_path / f"segments{index}", images)
        make_neighbours(tmp_path / f"neighbours{index}", images)
        inputs = {name: tmp_path / f"{name}{index}" for name in ("segments", "neighbours")}
        run({"a": item(project, tmp_path / f"out{index}", shard=(index, 2), **inputs)})
    parts = [tmp_path / f"out{index}" for index in range(2)]
    pictures = [name for part in parts for name in contents(part) if name.startswith("examples")]
    assert pictures == ["examples/im0.png", "examples/im1.png"]
    assert [each["image"] for part in parts for each in lines(part)] == [f"im{i}" for i in range(3) for _ in range(4)]
    joined = ConfusionCounts.concat([ConfusionCounts.load(part) for part in parts])
    assert joined.images == ConfusionCounts.load(whole / "released").images


def test_two_sources_in_one_pass_give_the_bytes_of_two_passes(
    project: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_source(tmp_path / "another")
    make_segments(tmp_path / "segments")
    (tmp_path / "neighbours").mkdir()
    write_neighbours(tmp_path / "neighbours", np.repeat([[0], [1], [2]], 4, axis=0), np.zeros((12, 1), np.float32),
                     pack_links(np.zeros((12, 1, 1), bool)), [(0, "a truck"), (1, "a red bus"), (2, "")])  # fmt: skip
    inputs = {"source": tmp_path / "another", **{name: tmp_path / name for name in ("segments", "neighbours")}}

    def other(out: Path) -> Item:
        return changed(item(project, out, **inputs), settings={"keep": 5, "num_samples": 1, "min_count": 1})

    loaded, encoded = count_calls(monkeypatch, "load_sentences"), count_calls(monkeypatch, "encode_unit")
    finished = list(run({"a": other(tmp_path / "beside"), "b": item(project, tmp_path / "first")}))
    assert finished == ["b", "a"] and project / "source" < tmp_path / "another"
    assert len(loaded) == 1
    texts = [text for _, some in encoded for text in some]
    assert len(encoded) == 2 and len(texts) == len(set(texts))
    run({"a": other(tmp_path / "alone")})
    assert contents(tmp_path / "beside") == contents(tmp_path / "alone") != contents(tmp_path / "first")
    assert contents(tmp_path / "first") == contents(whole / "released")


def count_calls(monkeypatch: pytest.MonkeyPatch, name: str) -> list[tuple[Any, ...]]:
    """Arguments of every call of a function of the module that names segments, from now on."""
    calls: list[tuple[Any, ...]] = []
    original = getattr(word_classes, name)

    def counted(*arguments: Any) -> Any:
        calls.append(arguments)
        return original(*arguments)

    monkeypatch.setattr(word_classes, name, counted)
    return calls


def changed(made: Item, **values: Any) -> Item:
    return replace(made, params={**made.params, **values})


REFUSED: dict[str, tuple[Callable[[Item], Item], str]] = {
    "steps": (lambda made: changed(made, protocol={**PROTOCOL, "pamr": True}), r"protocol\.pamr: method tag has no"),
    "size": (lambda made: changed(made, protocol={**PROTOCOL, "score_size": "original"}), r"protocol\.score_size"),
    "classes": (lambda made: changed(made, classes=CLASSES[:3]), "the class list 'own' has 3 classes, the labels"),
    "setting": (lambda made: changed(made, settings={"colour": 1}), r"settings\.colour: method tag has no such"),
    "captions": (lambda made: changed(made, settings={"num_samples": 6}), "6 captions a segment are asked for and 5"),
    "shard": (lambda made: changed(made, shard=[0, 3]), r"segments: its 3 images are not the 1 of .*source"),
    "encoder": (lambda made: replace(made, inputs={**made.inputs, "sentences": made.inputs["model"]}),
                r"modules\.json: not readable, so this is no sentence encoder"),
    "model": (lambda made: replace(made, inputs={**made.inputs, "model": made.inputs["sentences"]}),
              "not a readable open_clip configuration"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_refused_by_one_sentence(project: Path, tmp_path: Path, case: str) -> None:
    change, message = REFUSED[case]
    with pytest.raises(UserError, match=message):
        run({"a": change(item(project, tmp_path / "out"))})


def test_inputs_of_other_segments_or_models_are_refused(project: Path, tmp_path: Path) -> None:
    make_neighbours(tmp_path / "neighbours", range(2))
    with pytest.raises(UserError, match=r"neighbours: has captions for 8 segments, .*segments has 12; retrieve again"):
        run({"a": item(project, tmp_path / "a", neighbours=tmp_path / "neighbours")})
    make_segments(tmp_path / "segments", length=20)
    with pytest.raises(UserError, match=r"segments: its embeddings have 20 values, texts of .*model have 16"):
        run({"a": item(project, tmp_path / "b", segments=tmp_path / "segments")})


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"num_samples": 61}, r"num_samples: 61 is out of range; give 1 to 60"), ({"min_count": -1}, "min_count: -1"),
     ({"threshold": 1.5}, r"threshold: 1\.5 is out of range"),
     ({"filter": False, "min_count": 5}, "min_count: without filter nothing uses it; leave it at 2"),
     ({"filter": False, "tagger": "flair"}, "tagger: without filter"),
     ({"standardize": False, "singular": "dictionary"}, "singular: without standardize nothing uses it")],
)  # fmt: skip
def test_a_setting_out_of_range_or_of_a_step_that_does_not_run_is_refused(settings: dict, message: str) -> None:
    with pytest.raises(UserError, match=rf"settings\.{message}"):
        Naming(**settings)


def test_the_reading_leaves_out_what_does_not_change_candidates() -> None:
    same = Naming(threshold=0.5, below_threshold="wrong", foreign_words="excluded")
    assert Reading.of(Naming()) == Reading.of(same) != Reading.of(Naming(min_count=5))


def test_equal_scores_go_to_the_first_word_and_the_first_class() -> None:
    words = np.float32([[0.6, 0.8], [0, 1], [0, 1], [0.6, 0.8]])
    scores = cosines(np.float32([0, 3]), words)
    assert choose(scores, ["bus", "cat", "cow", "dog"]) == ("cat", 1.0)
    index, similarity = assign(np.float32([[0.1, 0.5, 0.5], [0.2, 0.1, 0.0]]), 0.5)
    assert index.tolist() == [1, -1] and similarity.tolist() == [0.5, np.float32(0.2)]
    assert cosines(np.zeros(2, np.float32), words).tolist() == [0, 0, 0, 0]


def test_a_foreign_word_wins_only_over_negative_scores() -> None:
    assert choose(np.float32([-0.2, -0.1]), ["bus", "cat"], ["sheep", "sofa"]) == ("sheep", 0.0)
    assert choose(np.float32([-0.2, -0.1]), ["bus", "cat"])[0] == "cat"
    assert choose(np.float32([-0.2, 0.1]), ["bus", "cat"], ["sheep"])[0] == "cat"
    own = [["b"], ["c"], ["a"]]
    assert [list(foreign_of(segment, own)) for segment in range(3)] == [["c"], ["b"], ["b"]]
    assert list(foreign_of(0, [["a"]])) == []


@given(st.integers(1, 300), st.integers(0, 299))
def test_a_word_s_similarities_do_not_depend_on_the_other_words(count: int, number: int) -> None:
    words = torch.randn(300, 8, generator=torch.Generator().manual_seed(0))
    classes = torch.randn(5, 8, generator=torch.Generator().manual_seed(1))
    some = words[torch.randperm(300, generator=torch.Generator().manual_seed(count))[:count]]
    word = some[number % count]
    assert torch.equal(similarities(some, classes)[number % count], similarities(word[None], classes)[0])


@given(arrays(np.uint8, (6, 7), elements=st.integers(0, 4)),
       arrays(np.uint8, (12, 5), elements=st.sampled_from([0, 1, 2, 255])),
       arrays(np.int64, 4, elements=st.integers(-1, 2)), st.booleans())  # fmt: skip
def test_counting_cells_equals_counting_pixels(clusters, truth, index, drop) -> None:
    classes = cluster_classes(np.arange(4), index, 3, "dropped" if drop else "wrong")
    found = count_clusters(count_cells(clusters, truth), classes, 3)
    small = truth[(np.arange(6) * 2)[:, None], np.arange(7) * 5 // 7]
    predicted = np.append(index, 3)[clusters]
    small = np.where((predicted < 0) & drop, 255, small)
    np.testing.assert_array_equal(found, count_pixels(small, np.where(predicted < 0, 3, predicted), 3))
