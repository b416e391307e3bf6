"""The evaluation pass: decisions against the published post-processing, and results that depend on nothing else."""

from __future__ import annotations

import csv
import io
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from small_clip import write_model_directory

from ovss.errors import UserError
from ovss.evaluation import evaluate
from ovss.evaluation.batch import Batch, Prediction
from ovss.evaluation.confusion import ConfusionCounts, count_pixels
from ovss.evaluation.decide import decide
from ovss.evaluation.progress import Progress
from ovss.evaluation.protocol import Protocol
from ovss.jobs import Item, JobContext, Machine
from ovss.models import text
from ovss.models.clip import load_clip
from ovss.models.features import Features
from ovss.models.text import Vocabulary, load_vocabulary
from ovss.models.windows import make_grid, stitch

NAMES = [["sky", "wall"], ["cat"], ["dog"], ["car"]]
PROTOCOL = {"short_side": 40, "max_long_side": 2048, "crop": 32, "stride": 16, "window_padding": "none", "names": "own",
            "templates": "photo", "logit_scale": 40.0, "prob_threshold": 0.0, "area_threshold": 0.0,
            "score_size": "original"}  # fmt: skip
ROWS = {
    "sclip": ({"variant": "SCLIP", "family": "full_block"}, {}),
    "clearclip": ({"variant": "ClearCLIP", "family": "attention_only"}, {"prob_threshold": 0.3}),
    "padded": ({"variant": "MaskCLIP"}, {"crop": 28, "window_padding": "patch", "short_side": 45}),
    "gem": ({"variant": "GEM"}, {"area_threshold": 0.1, "score_size": "input"}),
    "freecp": ({"variant": "SCLIP", "rp": 0.05, "ap": 0.6}, {"ambiguity_crop": 16, "logit_scale": None}),
    "known": ({"variant": "GEM", "rp": 0.05, "ap": 0.6, "vocabulary": "window"}, {"ambiguity_crop": 16}),
}
FREECP = ("freecp", "known")
SIZES = [(50, 70), (50, 70), (33, 41), (64, 48), (90, 30)]


def protocol(**changes) -> Protocol:
    return Protocol.read({**PROTOCOL, **changes})


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    """A prepared source of five images, a model and its text features for NAMES and NAMES reversed."""
    root = tmp_path_factory.mktemp("project")
    model = write_model_directory(root / "model")
    generator = np.random.default_rng(0)
    for folder in ("source/images", "source/labels", "text", "reversed", "short", "described"):
        (root / folder).mkdir(parents=True)
    with (root / "source/index.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["id", "image", "label", "height", "width"])
        for number, size in enumerate(SIZES):
            name = f"im{number}"
            blocks = generator.integers(0, 256, (size[0] // 8 + 1, size[1] // 8 + 1, 3), dtype=np.uint8)
            pixels = blocks.repeat(8, 0).repeat(8, 1)[: size[0], : size[1]]
            Image.fromarray(pixels).save(root / f"source/images/{name}.png")
            label = generator.choice([0, 1, 2, 3, 255], size).astype(np.uint8)
            Image.fromarray(label).save(root / f"source/labels/{name}.png")
            writer.writerow([name, f"images/{name}.png", f"labels/{name}.png", *size])
    lists = {"text": NAMES, "reversed": NAMES[::-1], "short": NAMES[:3]}
    items = {name: Item({"queries": queries, "templates": "photo"}, {"model": model}, root / name)
             for name, queries in lists.items()}  # fmt: skip
    sentences = {word: [f"{word}.", f"a {word} by the road"] for names in NAMES for word in names}
    described = {"queries": NAMES, "templates": "own", "sentences": sentences}
    items["described"] = Item(described, {"model": model}, root / "described")
    text.run(JobContext(0, Machine(), items=items, finish=lambda *_: None))
    return root


def item(project: Path, out: Path, row: str, shard=(0, 1), names: str = "text", **changes) -> Item:
    out.mkdir(parents=True)
    method_settings, own = ROWS[row]
    params = {
        "method": "freecp" if row in FREECP else "dense_clip",
        "settings": method_settings,
        "dataset": {"name": "own", "labels": {"kind": "identity", "classes": 4}, "num_classes": 4, "background": True},
        "protocol": {**PROTOCOL, **own, **changes},
        "shard": list(shard),
        "examples": 2,
    }
    inputs = {"model": project / "model", "source": project / "source", "text": project / names}
    return Item(params, inputs | ({"descriptions": project / "described"} if row in FREECP else {}), out)


def run(items: dict[str, Item], machine: Machine | None = None) -> dict[str, dict]:
    facts: dict[str, dict] = {}
    evaluate.run(JobContext(0, machine or Machine(), items=items, finish=facts.__setitem__))
    return facts


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


@pytest.fixture(scope="module")
def whole(project: Path, tmp_path_factory) -> Path:
    """All rows in one pass."""
    out = tmp_path_factory.mktemp("whole")
    facts = run({row: item(project, out / row, row) for row in ROWS})
    assert {name: fact["images"] for name, fact in facts.items()} == dict.fromkeys(ROWS, 5)
    return out


def test_a_pass_writes_counts_image_ids_and_the_first_images_predictions(whole: Path) -> None:
    for row in ROWS:
        assert sorted(contents(whole / row)) == ["counts.npz", "examples/im0.png", "examples/im1.png", "images.txt"]
        with Image.open(whole / row / "examples/im1.png") as picture:
            assert (picture.mode, picture.size) == ("L", (70, 50))


def test_counts_are_those_of_the_example_predictions(project: Path, whole: Path) -> None:
    counts = ConfusionCounts.load(whole / "sclip")
    label = np.array(Image.open(project / "source/labels/im0.png"))
    expected = count_pixels(label, np.array(Image.open(whole / "sclip/examples/im0.png")), 4)
    ours = counts.image == counts.images.index("im0")
    table = np.stack([counts.truth[ours], counts.prediction[ours], counts.pixels[ours]], axis=1)
    np.testing.assert_array_equal(table, expected)
    assert len(np.unique(expected[:, 1])) > 1


@pytest.mark.parametrize("machine", [Machine(workers=3, batch_size=1), Machine(workers=1, batch_size=64)])
def test_batch_size_and_workers_change_no_byte(project: Path, whole: Path, tmp_path: Path, machine: Machine) -> None:
    run({row: item(project, tmp_path / row, row) for row in ROWS}, machine)
    assert contents(tmp_path) == contents(whole)


@pytest.mark.parametrize("row", ROWS)
def test_a_row_alone_gives_the_bytes_it_gives_beside_others(project, whole, tmp_path: Path, row: str) -> None:
    run({row: item(project, tmp_path / row, row)})
    assert contents(tmp_path / row) == contents(whole / row)


def test_shards_together_are_the_whole(project: Path, whole: Path, tmp_path: Path) -> None:
    for index in range(3):
        run({"gem": item(project, tmp_path / str(index), "gem", shard=(index, 3))})
    joined = ConfusionCounts.concat([ConfusionCounts.load(tmp_path / str(index)) for index in range(3)])
    joined.save(tmp_path)
    assert (tmp_path / "counts.npz").read_bytes() == (whole / "gem/counts.npz").read_bytes()
    assert {path.name for path in tmp_path.glob("*/examples/*")} == {"im0.png", "im1.png"}


def test_permuting_the_classes_permutes_the_result(project: Path, whole: Path, tmp_path: Path) -> None:
    run({"row": item(project, tmp_path / "row", "sclip", names="reversed")})
    folders = (whole / "sclip", tmp_path / "row")
    straight, backwards = (np.array(Image.open(folder / "examples/im0.png")) for folder in folders)
    assert (straight == 3 - backwards).mean() > 0.999
    assert len(np.unique(straight)) > 1


def test_a_class_list_of_another_length_is_refused(project: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"data set own: the class list 'own' has 3 classes, the labels have 4"):
        run({"row": item(project, tmp_path / "row", "sclip", names="short")})


def test_an_image_smaller_than_a_patch_is_refused_by_name(project: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"image im0: 6x4 pixels after resizing is smaller than a patch of 8"):
        run({"row": item(project, tmp_path / "row", "sclip", short_side=4)})


@pytest.mark.parametrize(("key", "value"), [("flip", True), ("pamr", True), ("scales", [0.5, 1.0])])
def test_a_protocol_step_the_method_lacks_is_refused(project: Path, tmp_path: Path, key: str, value: object) -> None:
    with pytest.raises(UserError, match=rf"protocol\.{key}: method dense_clip has no such step"):
        run({"row": item(project, tmp_path / "row", "sclip", **{key: value})})


@given(st.integers(1, 500), st.integers(1, 20))
def test_shards_cut_the_images_without_gap_or_overlap(count: int, shards: int) -> None:
    ranges = [evaluate.shard_range(count, (index, shards)) for index in range(shards)]
    assert [number for start, stop in ranges for number in range(start, stop)] == list(range(count))
    assert max(stop - start for start, stop in ranges) - min(stop - start for start, stop in ranges) <= 1


@dataclass(frozen=True)
class Told:
    """Settings of a method that writes down what it is given."""

    labels: bool = False
    companion: str = ""


@pytest.fixture
def given_to(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Told, Batch, Vocabulary, Features]]:
    """What a method was called with, row by row and image by image."""
    calls: list[tuple[Told, Batch, Vocabulary, Features]] = []

    def segment(batch: Batch, vocabulary: Vocabulary, features: list[Features], told: Told) -> list[Prediction]:
        calls.append((told, batch, vocabulary, features[0]))
        return [Prediction(np.zeros(view.original_size, dtype=np.uint8)) for view in batch.views]

    method = SimpleNamespace(Settings=Told, segment=segment, uses_labels=lambda told: told.labels)
    monkeypatch.setattr("ovss.methods.load", lambda name: method)
    return calls


def told(
    project: Path, out: Path, inputs: dict[str, Path] | None = None, protocol: Any = None, **settings: Any
) -> Item:
    """A row of that method."""
    made = item(project, out, "sclip", **(protocol or {}))
    return Item({**made.params, "settings": settings}, {**made.inputs, **(inputs or {})}, out)


@pytest.mark.cpu
def test_a_method_gets_labels_if_it_asks_and_its_texts_and_the_model_s_logit_scale(project, tmp_path, given_to) -> None:
    described = {"descriptions": project / "described"}
    run({"a": told(project, tmp_path / "a", described, {"logit_scale": None}, labels=True),
         "b": told(project, tmp_path / "b")})  # fmt: skip
    assert len(given_to) == 10
    (_, with_labels, with_texts, _), (_, without, plain, _) = given_to[:2]
    np.testing.assert_array_equal(with_labels.labels[0], np.array(Image.open(project / "source/labels/im0.png")))
    assert without.labels == ()
    torch.testing.assert_close(with_texts.descriptions, load_vocabulary(project / "described").features)
    assert plain.descriptions is None and with_texts.background and plain.background
    torch.testing.assert_close(with_texts.features, plain.features)
    assert with_labels.protocol.logit_scale == load_clip(project / "model").logit_scale
    assert without.protocol.logit_scale == 40.0


def test_descriptions_of_other_words_are_refused_by_both_names(project: Path, tmp_path: Path) -> None:
    row = item(project, tmp_path / "row", "freecp")
    wrong = Item(row.params, {**row.inputs, "descriptions": project / "reversed"}, row.out)
    with pytest.raises(UserError, match=r"/reversed: describes other words than .*/text has"):
        run({"row": wrong})


@pytest.mark.cpu
def test_a_companion_is_loaded_once_and_rows_whose_companions_differ_share_nothing(
    project: Path, tmp_path: Path, given_to: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[str] = []

    def load_companion(directory: Path, device: str) -> str:
        loaded.append(directory.name)
        return f"the model of {directory.name} on {device}"

    monkeypatch.setitem(sys.modules, "ovss.models.companions", SimpleNamespace(load_companion=load_companion))
    one, other = ({"companion_dino": tmp_path / name} for name in ("small", "large"))
    run({"a": told(project, tmp_path / "a", one, companion="small"), "b": told(project, tmp_path / "b"),
         "c": told(project, tmp_path / "c", other, companion="large"),
         "d": told(project, tmp_path / "d", one, companion="small")})  # fmt: skip
    assert sorted(loaded) == ["large", "small"]
    assert len(given_to) == 20
    for row, _, _, features in given_to:
        if row.companion:
            assert features.companion("dino") == f"the model of {row.companion} on cpu"
    shared = [features for _, _, _, features in given_to[:4]]
    assert shared[0] is shared[1] is shared[2] is not shared[3], (
        "rows that agree share features, the odd one comes last"
    )


def test_a_pass_without_companions_does_not_import_them(project: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "ovss.models.companions", None)
    run({"row": item(project, tmp_path / "row", "sclip")})
    row = item(project, tmp_path / "other", "sclip")
    with pytest.raises(ImportError):
        run({"row": Item(row.params, {**row.inputs, "companion_dino": tmp_path}, row.out)})


def published_decision(scores: torch.Tensor, query_class: torch.Tensor, rule: Protocol) -> np.ndarray:
    """SCLIP's post-processing step by step, on whole score maps (Q, H, W)."""
    probability = (scores * rule.logit_scale).softmax(0)
    classes = int(query_class.max()) + 1
    hot = F.one_hot(query_class).T[:, :, None, None]
    per_class = (probability[None] * hot).max(1)[0]
    if rule.area_threshold > 0:
        chosen = F.one_hot(per_class.argmax(0), classes)
        area = chosen[:, :, 1:].sum((0, 1)).double()
        per_class[1:] *= (area > rule.area_threshold * area.sum()).to(per_class.dtype)[:, None, None]
    labels = per_class.argmax(0)
    labels[per_class.max(0)[0] < rule.prob_threshold] = 0
    return labels.numpy()


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from([0.0, 0.2, 0.4]),
    st.sampled_from([0.0, 0.1, 0.4]),
    st.sampled_from([1.0, 20.0]),
    st.integers(0, 2**31),
)
def test_decisions_equal_the_published_post_processing(prob: float, area: float, scale: float, seed: int) -> None:
    grid, generator = make_grid((40, 48), 32, 16, 8), torch.Generator().manual_seed(seed)
    query_class = torch.tensor([0, 0, 0, 1, 2, 2, 3, 4])
    scores = torch.randn(grid.count, 16, 8, generator=generator) + torch.randn(8, generator=generator)
    vocabulary = Vocabulary(("q",) * 8, torch.zeros(8, 4), query_class)
    rule = protocol(logit_scale=scale, prob_threshold=prob, area_threshold=area)
    ours = decide(scores, grid, (37, 51), vocabulary, rule)
    expected = published_decision(stitch(scores, grid, (37, 51)), query_class, rule)
    assert (ours != expected).mean() < 0.002  # a probability within rounding of the threshold


def test_bands_change_nothing(monkeypatch) -> None:
    grid = make_grid((40, 48), 32, 16, 8)
    scores = torch.randn(grid.count, 16, 5, generator=torch.Generator().manual_seed(3))
    vocabulary = Vocabulary(("q",) * 5, torch.zeros(5, 4), torch.arange(5))
    whole = decide(scores, grid, (80, 96), vocabulary, protocol(prob_threshold=0.3))
    monkeypatch.setattr("ovss.evaluation.decide.BAND_VALUES", 1500)
    np.testing.assert_array_equal(decide(scores, grid, (80, 96), vocabulary, protocol(prob_threshold=0.3)), whole)


def test_ties_go_to_the_lower_class() -> None:
    grid = make_grid((32, 32), None, None, 8)
    scores = torch.zeros(1, 16, 3)
    vocabulary = Vocabulary(("a", "b", "c"), torch.zeros(3, 4), torch.arange(3))
    assert (decide(scores, grid, (20, 20), vocabulary, protocol()) == 0).all()


def test_more_than_256_classes_keep_their_numbers() -> None:
    grid = make_grid((8, 8), None, None, 8)
    scores = torch.zeros(1, 1, 300)
    scores[..., 299] = 1
    vocabulary = Vocabulary(("q",) * 300, torch.zeros(300, 4), torch.arange(300))
    assert (decide(scores, grid, (8, 8), vocabulary, protocol()) == 299).all()


def test_progress_says_how_many_are_done_how_fast_and_how_long(capsys) -> None:
    progress = Progress("evaluate x", 10, every=0.0)
    progress(4)
    line = capsys.readouterr().err
    assert re.fullmatch(r"evaluate x: 4/10 images, [\d.]+ images/s, \d+ s left\n", io.StringIO(line).read())
