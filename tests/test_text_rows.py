"""Rows that judge texts: what is counted, figures with weights, the stage on a small source, and the way to a table."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save_file
from small_clip import CONFIG
from small_tcl import STAGES, checkpoint

from ovss import origin
from ovss.data.captions_words import CaptionWords
from ovss.data.text_images import TEXTS, read_texts
from ovss.errors import UserError
from ovss.evaluation import texts as stage
from ovss.evaluation.batch import make_view
from ovss.evaluation.bootstrap import image_weights, resample_items
from ovss.evaluation.caption_metrics import caption_score, count_mask, mean_iou, overall_iou
from ovss.evaluation.item_metrics import figure, value
from ovss.evaluation.items import IDS_FILE, ITEMS_FILE, Concepts, ItemCounts, Mask, Words
from ovss.evaluation.protocol import Protocol
from ovss.evaluation.tag_metrics import class_map, count_words, pooled, sample_map
from ovss.evaluation.text_row import Models
from ovss.evaluation.trained_on import trained_on
from ovss.jobs import Item, JobContext, Machine
from ovss.methods import _ttd_maps, ttd_tags
from ovss.methods._ttd_scores import TagSelection, select, tag_scores
from ovss.models.clip import CONFIG_FILE, MERGES_FILE, WEIGHTS_FILE
from ovss.models.tcl_checkpoint import split_state
from ovss.models.templates import TCL
from ovss.models.text import encode_texts, encode_words, fill, mean_embedding
from ovss.models.ttd_base import open_base
from ovss.report.rows import Bootstrap, Measure, Rows

SELECTION = ("precision", "recall", "f1", "accuracy")
FIGURES = {
    "words": (*SELECTION, "map"),
    "masks": ("caption_iou", "caption_iou_pooled", "caption_iou_both", "caption_iou_both_pooled", "fpr", "fnr",
              "referring_oiou"),
    "scores": ("map",),
}  # fmt: skip


MEANS: dict[str, Any] = {"caption_iou": "sample_fg", "caption_iou_pooled": "pooled_fg",
                         "caption_iou_both": "sample_bgfg", "caption_iou_both_pooled": "pooled_bgfg"}  # fmt: skip


def items(kind: str, seed: int, texts: int = 9) -> list[Any]:
    """Random texts; the first has nothing to find."""
    random = np.random.default_rng(seed)

    def bools(number: int, size: int) -> list[bool]:
        return ((random.random(size) < 0.4) & (number > 0)).tolist()

    found: list[Any] = []
    for number in range(texts):
        if kind == "words":
            size = int(random.integers(0, 6)) if number else 3
            scores = random.random(size).round(1).astype(np.float32)
            found.append(Words(f"t{number}", bools(number, size), (random.random(size) < 0.5).tolist(), scores))
        elif kind == "masks":
            mask = np.array(bools(number, 30)), np.array(bools(number, 30))
            found.append(Mask(f"t{number}", count_mask(mask[0].reshape(5, 6), mask[1].reshape(5, 6))))
        else:
            found.append(Concepts(f"t{number}", bools(number, 4), random.random(4).round(1).astype(np.float32)))
    return found


COLLECT: dict[str, Callable[[Any], ItemCounts]] = {
    "words": ItemCounts.of_words, "masks": ItemCounts.of_masks, "scores": ItemCounts.of_scores
}  # fmt: skip


def by_hand(kind: str, found: list[Any], name: str) -> float:
    """The figure by the published measures."""
    if kind == "scores":
        return class_map(np.array([each.truth for each in found]), np.array([each.scores for each in found]))
    if kind == "masks":
        counts = np.array([each.counts for each in found])
        if name in MEANS:
            return caption_score(counts, MEANS[name]).iou
        return overall_iou(counts) if name == "referring_oiou" else getattr(caption_score(counts), name)
    if name == "map":
        return sample_map([np.array(each.truth) for each in found], [each.scores for each in found])
    return pooled(np.array([count_words(np.array(each.truth), np.array(each.chosen)) for each in found]))[name]


EVERY = [(kind, name) for kind, names in FIGURES.items() for name in names]


@pytest.mark.parametrize(("kind", "name"), EVERY)
@given(seed=st.integers(0, 40))
@settings(max_examples=10)
def test_a_figure_of_texts_alike_is_the_published_measure(kind: str, name: str, seed: int) -> None:
    found = items(kind, seed)
    counts = COLLECT[kind](found)
    assert value(counts, name) == pytest.approx(by_hand(kind, found, name))


@pytest.mark.parametrize(("kind", "name"), [pair for pair in EVERY if pair[0] != "scores"])
def test_a_text_of_weight_three_counts_as_three_texts(kind: str, name: str) -> None:
    found = items(kind, 2)
    repeated = [each._replace(id=f"{each.id}{again}") for each in found for again in range(3 if each.id == "t4" else 1)]
    weights = np.array([[3.0 if each.id == "t4" else 1.0 for each in found]])
    assert figure(COLLECT[kind](found), name)(weights)[0] == pytest.approx(by_hand(kind, repeated, name))


def test_weighted_ranking_by_loops() -> None:
    counts, random = COLLECT["scores"](items("scores", 3, 30)), np.random.default_rng(0)
    weights = random.integers(1, 9, (2, 30)).astype(float)
    found = figure(counts, "map")(weights)
    for row, expected in zip(weights, found, strict=True):
        precisions = []
        for concept in range(4):
            truth, scores = counts.arrays["truth"][:, concept], counts.arrays["scores"][:, concept]
            above = total = hits = 0.0
            for place in sorted(range(30), key=lambda place: -scores[place]):
                above += row[place]
                if truth[place]:
                    hits += row[place]
                    total += row[place] * hits / above
            precisions.append(100 * total / hits)
        assert expected == pytest.approx(np.mean(precisions))


def test_the_two_rates_and_the_iou_add_up_to_one() -> None:
    counts = COLLECT["masks"](items("masks", 1))
    parts = [value(counts, name) for name in ("caption_iou", "fpr", "fnr")]
    assert parts[0] / 100 + parts[1] + parts[2] == pytest.approx(1)
    assert value(counts, "referring_iou") == parts[0] == pytest.approx(mean_iou(counts.arrays["counts"]))


@pytest.mark.parametrize("kind", FIGURES)
def test_order_and_shards_change_no_byte(kind: str, tmp_path: Path) -> None:
    found = items(kind, 4)
    whole = COLLECT[kind](found)
    parts = [COLLECT[kind](found[5:]), COLLECT[kind]([]), COLLECT[kind](found[:5])]
    for name, counts in (("whole", whole), ("back", COLLECT[kind](found[::-1])), ("parts", ItemCounts.concat(parts))):
        (tmp_path / name).mkdir()
        counts.save(tmp_path / name)
        loaded = ItemCounts.load(tmp_path / name)
        assert loaded.kind == kind
        for file in (ITEMS_FILE, IDS_FILE):
            assert (tmp_path / name / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()
    with pytest.raises(ValueError, match="counted twice"):
        ItemCounts.concat([whole, whole])
    other = COLLECT["masks" if kind != "masks" else "words"](items("masks" if kind != "masks" else "words", 4))
    with pytest.raises(ValueError, match="different things"):
        ItemCounts.concat([whole, other])


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("counts", lambda array: -array), ("counts", lambda array: array[:, :3]), ("counts", lambda array: array[1:]),
        ("counts", lambda array: array.astype(float)), ("kind", lambda array: np.array("words")),
        ("kind", lambda array: np.array("pixels")), ("counts", None),
    ],
)  # fmt: skip
def test_a_damaged_file_is_refused_by_name(name: str, change: Any, tmp_path: Path) -> None:
    COLLECT["masks"](items("masks", 1)).save(tmp_path)
    with np.load(tmp_path / ITEMS_FILE) as file:
        arrays = {key: file[key] for key in file}
    with (tmp_path / ITEMS_FILE).open("wb") as stream:
        if change is None:
            stream.write(b"PK")
        else:
            np.savez(stream, **{**arrays, name: change(arrays[name])})
    with pytest.raises(UserError, match=r"items\.npz: .*run again"):
        ItemCounts.load(tmp_path)


def test_figures_that_do_not_exist_say_why() -> None:
    chosen = ItemCounts.of_words([Words("a", [True], [True], np.array([np.nan]))])
    assert value(chosen, "f1") == 100
    with pytest.raises(UserError, match="no ranking"):
        value(chosen, "map")
    with pytest.raises(UserError, match="'caption_iou' is not known for texts with words; there are precision"):
        value(chosen, "caption_iou")
    empty = ItemCounts.of_masks([Mask("a", np.array([0, 0, 0, 9]))])
    for name in ("caption_iou", "caption_iou_pooled"):
        with pytest.raises(UserError, match="no text has a pixel"):
            value(empty, name)
    with pytest.raises(UserError, match="no concept is shown"):
        value(ItemCounts.of_scores([Concepts("a", [False], np.array([1.0]))]), "map")


def write_row(folder: Path, key: str, found: list[Any], kind: str = "words") -> Path:
    out = folder / f"row.{key}"
    out.mkdir()
    COLLECT[kind](found).save(out)
    origin.write(out, {"key": key, "stage": "evaluate_texts", "name": "row", "parts": {}})
    return out


def test_a_table_reads_texts_and_pairs_rows_of_the_same_texts(tmp_path: Path) -> None:
    found = items("words", 5, 40)
    better = [each._replace(chosen=each.truth) for each in found]
    inputs = {"a": write_row(tmp_path, "aa", found[:20]), "b": write_row(tmp_path, "bb", found[20:]),
              "c": write_row(tmp_path, "cc", better)}  # fmt: skip
    rows = Rows(inputs, Bootstrap(70, 0.95, 3))
    base, best = rows.score(["a", "b"], Measure("f1")), rows.score(["c"], Measure("f1"))
    assert base.images == best.images == tuple(sorted(each.id for each in found))
    assert (base.keys, base.classes, best.resampled.value) == (("aa", "bb"), None, 100)
    weights = image_weights(base.images, 3, 1, 50)[19]
    assert base.resampled.resamples[69] == figure(COLLECT["words"](found), "f1")(weights[None])[0]
    assert min((best.resampled - base.resampled).resamples) > 0
    (tmp_path / "row.aa" / ITEMS_FILE).write_bytes(b"")
    with pytest.raises(UserError, match=r"origin missing or edited: (?!.*/tmp)"):
        Rows(inputs, Bootstrap(70, 0.95, 3)).score(["a"], Measure("f1"))


def test_a_bootstrap_needs_texts() -> None:
    with pytest.raises(UserError, match="needs texts"):
        resample_items(ItemCounts.of_masks([]), "caption_iou")


# The stage

SIDES = ((40, 48), (48, 40), (33, 61))
CAPTIONS = (
    (0, "the dog on the mat ."),
    (0, "a cat"),
    (0, "Dog and dog"),
    (1, "red car near a tree"),
    (2, "two birds in the sky"),
    (2, "sea"),
)
TAGS = {"short_side": 32, "crop": None, "stride": None, "resize": "square", "templates": "none", "flip": True}
MASKS = {"short_side": 32, "crop": 32, "stride": 16, "templates": "none", "background_threshold": 0.4,
         "scales": [1.0, 0.5], "flip": True, "pamr": True}  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("models") / "tcl"
    directory.mkdir()
    parts = split_state(checkpoint(), "tiny")
    norm = {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.25, 0.3]}
    (directory / CONFIG_FILE).write_text(json.dumps({"model_cfg": CONFIG, "preprocess_cfg": norm}))
    # A tokenizer of letters: CLIP's own takes long to read.
    (directory / MERGES_FILE).write_bytes(gzip.compress(b"#version\nd o\no g</w>"))
    (directory / "tcl_config.json").write_text(json.dumps({"stages": STAGES}))
    for name, tensors in ((WEIGHTS_FILE, parts.clip), ("grounder.safetensors", parts.grounder)):
        save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, directory / name)
    return directory


def write_source(folder: Path, concepts: tuple[str, ...] = ()) -> Path:
    """Three images with the captions, or once each with a list of concepts."""
    folder.mkdir()
    random, lines = np.random.default_rng(1), []
    for number, side in enumerate(SIDES):
        coarse = random.integers(0, 255, (side[0] // 8, side[1] // 8, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize(side[::-1]).save(folder / f"{number}.png")
        Image.fromarray(((np.indices(side).sum(axis=0) % 50 < 25) * 255).astype(np.uint8)).save(
            folder / f"m{number}.png"
        )
    for place, (number, caption) in enumerate([(0, ""), (1, ""), (2, "")] if concepts else CAPTIONS):
        words = concepts or tuple(caption.lower().split())
        relevant = [bool(random.integers(0, 2)) for _ in words]
        lines.append({"id": f"t{place}", "image": f"{number}.png", "caption": caption, "words": words,
                      "relevant": relevant, "mask": f"m{number}.png"})  # fmt: skip
    (folder / TEXTS).write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_source(tmp_path_factory.mktemp("sources") / "captions")


def row(task: str, method: str, protocol: dict[str, Any], **chosen: Any) -> dict[str, Any]:
    return {"task": task, "method": method, "settings": chosen, "protocol": protocol, "source": "it",
            "examples": 2}  # fmt: skip


def run(
    out: Path, model: Path, source: Path, rows: dict[str, dict[str, Any]], shard: tuple[int, int] = (0, 1),
    workers: int = 1, **inputs: Path,
) -> dict[str, ItemCounts]:  # fmt: skip
    done: dict[str, Any] = {}
    made = {}
    for name, params in rows.items():
        (out / name).mkdir(parents=True)
        made[name] = Item({**params, "shard": list(shard)}, {"model": model, "source": source, **inputs}, out / name)
    stage.run(JobContext(0, Machine(workers=workers), items=made, finish=done.__setitem__))
    counts = {name: ItemCounts.load(out / name) for name in rows}
    assert {name: facts["texts"] for name, facts in done.items()} == {
        name: len(each.ids) for name, each in counts.items()
    }
    return counts


WORDS = {
    "pixel": row("tags", "ttd_tags", TAGS, base="tcl"),
    "pixel_maskclip": row("tags", "ttd_tags", TAGS, base="maskclip", stop_words="reject"),
    "scores": row("tags", "ttd_tags", {**TAGS, "templates": "photo"}, base="tcl", mirrored="scores"),
    "text": row("tags", "ttd_tags", TAGS, base="tcl", scoring="image_text", selection="threshold", threshold=0.2),
    "nouns": row("tags", "ttd_tags", TAGS, base="tcl", scoring="nouns"),
}


def test_words_have_the_scores_of_their_tags(model: Path, source: Path, tmp_path: Path) -> None:
    found = run(tmp_path, model, source, WORDS)
    base, text = open_base(model, "tcl", text=True), read_texts(source)[2]
    geometry = Protocol.read({"names": "", "logit_scale": 1.0, **TAGS}).geometry
    with Image.open(source / text.image) as image:
        seen = make_view("x", np.array(image), geometry, base.clip).input[None]
    pixels = (base.pixel_embeddings(seen) + base.pixel_embeddings(seen.flip(-1)).flip(-1))[0] / 2
    tags, caption = encode_words(base.clip, ("dog", "and"), ["{}"]), encode_words(base.clip, [text.caption], ["{}"])[0]
    for name, how in (("pixel", TagSelection()), ("text", TagSelection("image_text", "threshold", 0.2))):
        scores = tag_scores(pixels, caption, tags, how)
        chosen = select(scores, how).tolist()
        of_text = {array: found[name].per_item(array)[2].tolist() for array in ("scores", "chosen", "truth")}
        expected = [scores[0].item(), scores[1].item(), scores[0].item()]
        assert of_text["scores"] == pytest.approx(expected, abs=1e-6)
        assert of_text["chosen"] == [chosen[0], chosen[1], chosen[0]]
        assert of_text["truth"] == list(text.relevant or ())
    assert not found["pixel_maskclip"].per_item("chosen")[2][1]  # a stop-word
    assert not np.allclose(found["scores"].arrays["scores"], found["pixel"].arrays["scores"], atol=1e-4)
    assert found["nouns"].per_item("chosen")[0].tolist() == [False, True, False, False, True, False]
    assert np.isnan(found["nouns"].arrays["scores"]).all()


SEGMENTED = {
    "tcl": row("expressions", "ttd_segment", MASKS, base="tcl"),
    "maskclip": row("captions", "ttd_segment", {**MASKS, "pamr": False, "crf": True, "scales": [1.0]}, base="maskclip"),
}


def test_masks_are_the_maps_above_the_threshold_and_expressions_do_not_compete(
    model: Path, source: Path, tmp_path: Path
) -> None:
    found = run(tmp_path, model, source, SEGMENTED)
    for name, params in SEGMENTED.items():
        base = open_base(model, params["settings"]["base"], text=True)
        protocol = Protocol.read({"names": "", "logit_scale": 1.0, **params["protocol"]})
        for text, counts in zip(read_texts(source), found[name].arrays["counts"], strict=True):
            forms = stage.read_row("x", Item({**params, "shard": [0, 1]}, {}, tmp_path)).forms
            with Image.open(source / text.image) as image, Image.open(source / str(text.mask)) as mask:
                pixels, truth = torch.from_numpy(np.array(image)), np.array(mask) > 0
            maps = _ttd_maps.soft_maps(base, pixels, encode_words(base.clip, [text.caption], forms), protocol)
            assert np.abs(count_mask(truth, (maps[0] > 0.4).numpy()) - counts).max() <= 2
        pictures = sorted(path.name for path in (tmp_path / name / "examples").iterdir())
        assert pictures == ["t0.png", "t1.png"]
        picture = np.array(Image.open(tmp_path / name / "examples" / "t0.png"))
        assert picture.shape == SIDES[0] and set(np.unique(picture)) <= {0, 255}
        assert (picture > 0).sum() == found[name].arrays["counts"][0, :2].sum()


def test_tcls_templates_are_averaged_for_texts_as_for_classes(model: Path, tmp_path: Path) -> None:
    models, found = Models(model), []
    for chosen in ({"templates": "tcl"}, {"templates": "own"}):
        params = {**SEGMENTED["tcl"], "protocol": {**MASKS, **chosen}, "template_lines": list(TCL)}
        found.append(models.features(stage.read_row("x", Item(params, {}, tmp_path)), ["a dog"])[0])
    clip = models.base(ttd_tags.Settings()).clip
    assert torch.equal(found[0], mean_embedding(encode_texts(clip, fill("a dog", TCL))))
    assert torch.equal(found[1], encode_words(clip, ["a dog"], TCL)[0])
    assert not torch.allclose(found[0], found[1], atol=1e-4)


def test_shards_workers_and_company_change_no_byte(model: Path, source: Path, tmp_path: Path) -> None:
    rows = {**{name: WORDS[name] for name in ("pixel", "scores", "nouns")}, "tcl": SEGMENTED["tcl"]}
    whole = run(tmp_path / "whole", model, source, rows)
    parts = [run(tmp_path / str(part), model, source, rows, (part, 2), workers=3) for part in range(2)]
    alone = run(tmp_path / "alone", model, source, {"scores": WORDS["scores"]})
    for name in rows:
        joined = ItemCounts.concat([part[name] for part in parts])
        assert all(np.array_equal(joined.arrays[key], each, equal_nan=each.dtype.kind == "f")
                   for key, each in whole[name].arrays.items())  # fmt: skip
    assert np.array_equal(alone["scores"].arrays["scores"], whole["scores"].arrays["scores"])


def test_the_texts_of_an_image_stay_in_one_shard(source: Path) -> None:
    texts = read_texts(source)
    assert [stage.shard_range(texts, (part, 3)) for part in range(3)] == [(0, 3), (3, 4), (4, 6)]
    assert [stage.shard_range(texts, (part, 4)) for part in range(4)] == [(0, 0), (0, 3), (3, 4), (4, 6)]


def test_concepts_have_scores_in_the_order_of_the_list(model: Path, tmp_path: Path) -> None:
    names = ("sky", "dog", "sea")
    source = write_source(tmp_path / "concepts", names)
    protocol = {**TAGS, "flip": False, "templates": "own"}
    rows = {"ttd": row("concepts", "ttd_tags", protocol, base="tcl"),
            "surgery": row("concepts", "clip_surgery", protocol)}  # fmt: skip
    rows = {name: {**params, "template_lines": ["a {} .", "{}"]} for name, params in rows.items()}
    found = run(tmp_path / "out", model, source, rows)
    base = open_base(model, "tcl", text=True)
    with Image.open(source / "1.png") as image:
        geometry = Protocol.read({"names": "", "logit_scale": 1.0, **protocol}).geometry
        seen = make_view("x", np.array(image), geometry, base.clip).input
    text = encode_words(base.clip, names, ["a {} .", "{}"])
    expected = tag_scores(base.pixel_embeddings(seen[None])[0], text[0], text, TagSelection())
    assert found["ttd"].arrays["scores"][1] == pytest.approx(expected.numpy(), abs=1e-6)
    assert found["ttd"].arrays["truth"].tolist() == [list(each.relevant or ()) for each in read_texts(source)]
    assert found["surgery"].arrays["scores"].shape == (3, 3)
    assert not np.allclose(found["surgery"].arrays["scores"], found["ttd"].arrays["scores"])


def test_a_language_model_chooses_without_images(
    model: Path, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Llm:
        def answers(self, captions: list[str], how: Any) -> list[str]:
            return ["dog, sea, the" for _ in captions]

    (tmp_path / TEXTS).write_text((source / TEXTS).read_text())  # no images there
    monkeypatch.setattr(ttd_tags, "load_llm", lambda directory, device: Llm() if directory == model else None)
    rows = {"llm": row("tags", "ttd_tags", TAGS, base="tcl", scoring="llm")}
    found = run(tmp_path / "out", model, tmp_path, rows, companion_llm=model)["llm"]
    words = [word for each in read_texts(source) for word in CaptionWords.of(each.caption).words]
    assert found.arrays["chosen"].tolist() == [word in ("dog", "sea", "the") for word in words]
    with pytest.raises(UserError, match="companion 'llm'"):
        run(tmp_path / "none", model, tmp_path, rows)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task": "captions"}, "row it: method 'ttd_tags' cannot be asked for 'captions'"),
        ({"settings": {"base": "tcl", "scoring": "verbs"}}, r"settings\.scoring"),
        ({"settings": {"base": "tcl", "threshold": 2.0}}, r"settings\.threshold"),
        ({"protocol": {**TAGS, "crop": 16, "stride": 8}}, r"protocol\.crop: .* whole image"),
        ({"protocol": {**TAGS, "pamr": True}}, r"protocol\.pamr"),
        ({"protocol": {**TAGS, "score_size": "input"}}, r"protocol\.score_size"),
        ({"protocol": {**TAGS, "templates": "own"}}, "templates: 'own'"),
        ({"task": "concepts"}, r"protocol\.flip"),
        ({"task": "concepts", "protocol": {**TAGS, "flip": False}}, "different lists of concepts"),
        ({**SEGMENTED["tcl"], "protocol": {**MASKS, "background_threshold": None}}, "above which value"),
        ({**SEGMENTED["maskclip"], "protocol": {**MASKS, "pamr": False, "crf": True, "background_threshold": 0.0}},
         r"protocol\.background_threshold: 0\.0 .* above 0"),
        ({**SEGMENTED["tcl"], "settings": {"base": "tcl", "refine": "hq_sam"}}, r"settings\.refine"),
        ({**SEGMENTED["tcl"], "settings": {"base": "tcl", "background_plane": "always"}}, r"settings\.background_pl"),
    ],
)  # fmt: skip
def test_rows_that_make_no_sense_are_refused(
    changes: dict[str, Any], message: str, model: Path, source: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message):
        run(tmp_path, model, source, {"it": {**WORDS["pixel"], **changes}})


@pytest.mark.parametrize(("task", "field"), [("tags", "relevant"), ("captions", "mask")])
def test_a_source_without_what_is_judged_by_is_refused(
    task: str, field: str, model: Path, source: Path, tmp_path: Path
) -> None:
    lines = [json.loads(line) for line in (source / TEXTS).read_text().splitlines()]
    (tmp_path / TEXTS).write_text("".join(json.dumps({**line, field: None}) + "\n" for line in lines))
    rows = {"it": WORDS["nouns"] if task == "tags" else SEGMENTED["maskclip"]}
    with pytest.raises(UserError, match=f"task '{task}' needs texts with .*, and text t0 has none"):
        run(tmp_path / "out", model, tmp_path, rows)


def test_the_origin_of_a_tuned_row_says_how_many_pairs_there_were(tmp_path: Path) -> None:
    assert trained_on(tmp_path) == {}
    collections = {"cc3m": {"kept": 3, "pairs": 12, "expected": 20}, "cc12m": {"kept": 5, "pairs": 5, "expected": None}}
    (tmp_path / "facts.json").write_text(json.dumps({"collections": collections}))
    assert trained_on(tmp_path) == {"trained_on": "5 of 5 pairs of cc12m, 3 of 12 pairs of cc3m (20 expected)"}
    (tmp_path / "facts.json").write_text("{}")
    with pytest.raises(UserError, match=r"facts\.json: no record of the training .*remove the directory"):
        trained_on(tmp_path)
