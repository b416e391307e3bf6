"""``ovss segment``: the words that the stages find, words drawn on their own segments, and one-line refusals."""

from __future__ import annotations

import dataclasses
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from packaged_sentences import convert_encoder, fetch_encoder
from PIL import Image
from safetensors.torch import save_file
from small_clip import write_model_directory
from test_tag_segment import NORM, VIT, vit

from ovss import cli
from ovss.evaluation import cluster_maps, label, segments
from ovss.jobs import Item, JobContext, Machine
from ovss.plan.job import Job
from ovss.report.wordmap import draw, nearest, place_labels, word_colours, word_map
from ovss.retrieval import captions, encode, index, retrieve
from ovss.segment import command
from ovss.segment.legend import REST_COLOUR, enlarged
from ovss.segment.outputs import Outputs
from ovss.segment.recipe import Named, Words

SETTINGS = {"n_clusters": 5, "num_samples": 8, "keep": 12, "duplicate_cosine": 0.98, "search": "exact"}
PROTOCOL = {"short_side": 48, "crop": None, "stride": None, "resize": "square", "normalisation": "unit",
            "names": "", "templates": "none", "logit_scale": 1, "score_size": "input"}  # fmt: skip
THINGS, PLACES = ("dog", "cat", "boat", "house", "tree"), ("water", "road", "mountain")
CAPTIONS = [f"a {size} {thing} near the {place}" for size in ("small", "red", "old")
            for thing in THINGS for place in PLACES]  # fmt: skip
SIZES = {"im0": (50, 70), "im1": (64, 48)}
NAMING = {name: SETTINGS[name] for name in ("num_samples", "keep", "duplicate_cosine", "search")}


def job(name: str) -> Job:
    return Job(name, name, "m", {}, {}, {}, {})


USED = ("model", "segmenter", "captions", "sentences", "index")
RECIPE = Words(
    "tiny", Named("tag", "table2", "tag", "tag"), "pmd", {name: job(name) for name in USED}, SETTINGS, PROTOCOL
)


def photo(size: tuple[int, int], seed: int) -> np.ndarray:
    blocks = np.random.default_rng(seed).integers(0, 256, (size[0] // 8 + 1, size[1] // 8 + 1, 3), dtype=np.uint8)
    return blocks.repeat(8, 0).repeat(8, 1)[: size[0], : size[1]]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with small random models, captions, and two pictures that are also a prepared source."""
    root = tmp_path_factory.mktemp("project")
    for name in ("params.yaml", "Snakefile"):
        (root / name).touch()
    at = {name: root / job(name).directory for name in RECIPE.jobs}
    write_model_directory(at["model"])
    for name in ("segmenter", "captions"):
        at[name].mkdir(parents=True)
    (at["segmenter"] / "timm_config.json").write_text(json.dumps({"architecture": VIT, **NORM}))
    save_file({name: value.contiguous() for name, value in vit().state_dict().items()},
              at["segmenter"] / "model.safetensors")  # fmt: skip
    fetch_encoder(root / "fetched")
    convert_encoder(root / "fetched", at["sentences"])
    (root / "lists").mkdir()
    (root / "lists/a.tsv").write_text("".join(f"{text}\thttp://x\n" for text in CAPTIONS))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encode, "ROWS", 16)
        sources = [{"input": "archive_a", "format": "caption_url_tsv", "files": ["a.tsv"]}]
        params = {"collection": "pmd", "shard_rows": 30, "deduplicate": False, "sources": sources}
        inputs = {"model": at["model"], "archive_a": root / "lists"}
        captions.run(JobContext(7, Machine(), params, inputs, at["captions"], scratch=folder(root / "scratch")))
    for name in RECIPE.jobs:
        if name != "index":
            (root / RECIPE.jobs[name].done).touch()
    lines = ["id,image,label,height,width"]
    for number, (name, size) in enumerate(SIZES.items()):
        folder(root / "source")
        Image.fromarray(photo(size, number)).save(root / f"source/{name}.png")
        Image.fromarray(np.zeros(size, np.uint8)).save(folder(root / "labels") / f"{name}.png")
        lines.append(f"{name},{name}.png,../labels/{name}.png,{size[0]},{size[1]}")
    (root / "source/index.csv").write_text("\n".join(lines) + "\n")
    return root


def asked(project: Path, recipe: Words) -> Any:
    """In place of ``read_recipe``: a recipe with the class names that are asked for."""

    def read(_: Path, __: Any, classes: Any) -> tuple[Words, Outputs]:
        names = tuple(names[0] for names in classes.classes or ())
        return dataclasses.replace(recipe, classes=names), Outputs(project, "tiny", 0)

    return read


def folder(path: Path) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    return path


@pytest.fixture(autouse=True)
def short_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encode, "ROWS", 16)


@pytest.fixture
def ovss(project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Runs ``ovss segment`` in the project: (exit status, standard output, standard error)."""
    monkeypatch.chdir(project)
    monkeypatch.setattr(command, "read_recipe", asked(project, RECIPE))

    def run(*arguments: str) -> tuple[int, str, str]:
        status = cli.main(["segment", "--scale", "tiny", *arguments])
        return status, *capsys.readouterr()

    return run


def stages(project: Path, out: Path) -> Path:
    """The stages clusters, segments, retrieve and label on the same pictures; returns the output of the last."""
    at = {name: project / RECIPE.jobs[name].directory for name in RECIPE.jobs}
    own = {"model": at["model"], "source": project / "source"}
    common = {"method": "tag", "protocol": PROTOCOL, "shard": [0, 1]}

    def run(stage: Any, params: dict[str, Any], inputs: dict[str, Path]) -> Path:
        made = folder(out / stage.__name__)
        context = JobContext(0, Machine(), items={"one": Item(params, inputs, made)}, finish=lambda *_: None,
                             scratch=folder(out / "scratch"))  # fmt: skip
        stage.run(context)
        return made

    inputs = {"source": own["source"], "segmenter": at["segmenter"]}
    made = run(cluster_maps, {**common, "settings": {"n_clusters": SETTINGS["n_clusters"]}}, inputs)
    found = run(segments, {**common, "settings": {}}, {**own, "clusters": made})
    search = {name: SETTINGS[name] for name in ("keep", "duplicate_cosine", "search")}
    nearest = run(retrieve, search, {"model": at["model"], "captions": at["captions"], "segments": found})
    dataset = {"name": "d", "labels": {"kind": "identity", "classes": 3}, "num_classes": 3, "background": False}
    params = {**common, "settings": NAMING, "dataset": dataset, "classes": [["cat"], ["dog"], ["sea"]], "examples": 2}
    inputs = {**own, "segments": found, "neighbours": nearest, "sentences": at["sentences"]}
    return run(label, params, inputs)


@pytest.mark.cpu
def test_words_scores_and_classes_are_those_of_the_stages(project: Path, ovss: Any, tmp_path: Path) -> None:
    status, printed, _ = ovss("source", "--out", str(tmp_path / "new/out"), "--classes", "cat, dog, sea")
    assert status == 0
    assert [line.split(" -> ")[0] for line in printed.splitlines()] == ["source/im0.png", "source/im1.png"]
    rows = stages(project, tmp_path / "stages")
    for name, size in SIZES.items():
        found = json.loads((tmp_path / f"new/out/{name}.json").read_text())
        expected = json.loads((rows / f"words/{name}.json").read_text())["segments"]
        fields = ("cluster", "pixels", "word", "score", "class", "similarity", "candidates")
        order = sorted(expected, key=lambda one: (-one["pixels"], one["cluster"]))
        assert [[one[field] for field in fields] for one in found["segments"]] == [
            [one[field] for field in fields] for one in order
        ]
        assert [[text["text"] for text in one["captions"]] for one in found["segments"]] == [
            one["captions"] for one in order
        ]
        assert sum(one["share"] for one in found["segments"]) == pytest.approx(1, abs=1e-4)
        assert found["size"] == {"width": size[1], "height": size[0]} and found["search"] == "exact"
        assert found["settings"]["n_clusters"] == 5 and found["image"] == f"source/{name}.png"
        clusters = np.array(Image.open(rows / f"words/{name}.png"))
        words = {one["cluster"]: one["word"] for one in expected}
        drawn = np.array(Image.open(tmp_path / f"new/out/{name}.png"))
        picture = enlarged(np.array(Image.open(project / f"source/{name}.png")))
        left = (drawn.shape[1] - picture.shape[1]) // 2
        above = drawn[: picture.shape[0], left : left + picture.shape[1]]
        np.testing.assert_array_equal(above, draw(picture, clusters, words, rest=REST_COLOUR))
        assert drawn.shape[0] > picture.shape[0]  # the legend
        labels = np.array(Image.open(tmp_path / f"new/out/{name}.labels.png"))
        assert labels.shape == size
        fine = nearest(clusters, size)
        for one in found["classes"]:
            of_word = [cluster for cluster, word in words.items() if word == one["name"]]
            np.testing.assert_array_equal(labels == one["number"], np.isin(fine, of_word))
    names = [f"{name}{suffix}" for name in SIZES for suffix in (".json", ".labels.png", ".png")]
    assert sorted(path.name for path in (tmp_path / "new/out").iterdir()) == names


def test_the_index_is_used_if_it_is_there_and_clusters_can_be_chosen(
    project: Path, ovss: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert ovss("source/im0.png", "--out", str(tmp_path / "exact"), "--clusters", "3")[0] == 0
    at = {name: project / RECIPE.jobs[name].directory for name in RECIPE.jobs}
    stages(project, tmp_path / "stages")
    inputs = {"captions": at["captions"], "segments": tmp_path / "stages/ovss.evaluation.segments"}
    other = dataclasses.replace(RECIPE, jobs={**RECIPE.jobs, "index": job("indexed")})
    made = folder(project / other.jobs["index"].directory)
    index.run(JobContext(7, Machine(), {"recipe": "Flat", "queries": 4}, inputs, made, scratch=folder(tmp_path / "s")))
    (made / "origin.json").touch()
    monkeypatch.setattr(command, "read_recipe", asked(project, other))
    assert ovss("source/im0.png", "--out", str(tmp_path / "indexed"), "--clusters", "3")[0] == 0
    exact, indexed = (json.loads((tmp_path / f"{name}/im0.json").read_text()) for name in ("exact", "indexed"))
    assert (exact["search"], indexed["search"]) == ("exact", "Flat")
    assert len(exact["segments"]) <= 3 and "class" not in exact["segments"][0]
    assert [one["word"] for one in exact["segments"]] == [one["word"] for one in indexed["segments"]]


def test_a_turned_photo_is_drawn_upright(ovss: Any, tmp_path: Path) -> None:
    image = Image.fromarray(photo((40, 64), 3))
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(tmp_path / "phone.jpg", exif=exif)
    assert ovss(str(tmp_path / "phone.jpg"), "--out", str(tmp_path / "out"))[0] == 0
    with Image.open(tmp_path / "out/phone.png") as drawn, Image.open(tmp_path / "out/phone.labels.png") as labels:
        assert labels.size == (40, 64) and drawn.height > drawn.width >= 400  # enlarged ten times, above the legend


def test_damaged_pictures_among_others_are_named_and_left_out(ovss: Any, tmp_path: Path) -> None:
    for name in ("a", "c"):
        Image.fromarray(photo((40, 50), 1)).save(folder(tmp_path / "mixed") / f"{name}.png")
    (tmp_path / "mixed/b.png").write_bytes(b"no picture")
    status, printed, message = ovss(str(tmp_path / "mixed"), "--out", str(tmp_path / "out"))
    assert status == 1 and len(printed.splitlines()) == 2 and "1 of 3 pictures could not be segmented" in message
    assert "b.png: not a picture" in message and not (tmp_path / "out/b.json").exists()
    one, other = (json.loads((tmp_path / f"out/{name}.json").read_text())["segments"] for name in "ac")
    assert one == other
    (tmp_path / "mixed/a.png").write_bytes(b"")
    (tmp_path / "mixed/c.png").write_bytes(b"")
    assert ovss(str(tmp_path / "mixed"), "--out", str(tmp_path / "none"))[0] == 1


@pytest.fixture(scope="module")
def bad(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tmp_path = tmp_path_factory.mktemp("bad")
    (tmp_path / "notes.txt").write_text("no picture")
    (tmp_path / "empty.jpg").touch()
    stream = io.BytesIO()
    Image.fromarray(photo((90, 90), 1)).save(stream, "JPEG")
    (tmp_path / "cut.jpg").write_bytes(stream.getvalue()[: len(stream.getvalue()) // 2])
    Image.new("1", (9500, 9500)).save(tmp_path / "huge.png")
    for name in ("nothing", "a", "b"):
        folder(tmp_path / name)
    for name in ("a/x.png", "b/x.png", "x.png"):
        Image.fromarray(photo((20, 20), 1)).save(tmp_path / name)
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["missing.png"], "missing.png: there is no such file"),
        (["notes.txt"], "notes.txt: not a picture that can be read"),
        (["empty.jpg"], "it is empty"),
        (["cut.jpg"], "cut.jpg: not a picture that can be read (image file is truncated"),
        (["huge.png"], "huge.png: more than 89,478,485 pixels; scale the picture down"),
        (["nothing"], "nothing: no picture (.bmp"),
        (["a", "b"], "both would be written to"),
        (["x.png", "--out", "."], "this would overwrite a picture of yours"),
        (["x.png", "--out", "notes.txt/out"], "cannot be written to"),
        (["x.png", "--clusters", "200"], "settings.n_clusters: 200 clusters"),
        (["x.png", "--classes", " , "], "--classes: no name"),
    ],
)
def test_bad_input_gets_one_sentence_and_writes_nothing(
    arguments: list[str], words: str, bad: Path, ovss: Any, tmp_path: Path
) -> None:
    paths = [name if name.startswith("-") or name in ("200", " , ") else str(bad / name) for name in arguments]
    out = [] if "--out" in paths else ["--out", str(tmp_path / "out")]
    status, printed, message = ovss(*paths, *out)
    last = message.strip().splitlines()[-1]
    assert status == 2 and not printed and last.startswith("ovss: ") and words in last and "Traceback" not in message
    assert not list((tmp_path / "out").glob("*"))


def test_missing_outputs_are_named_with_the_command_that_makes_them(
    project: Path, ovss: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    other = dataclasses.replace(RECIPE, jobs={**RECIPE.jobs, "captions": job("never"), "sentences": job("nor")})
    monkeypatch.setattr(command, "read_recipe", asked(project, other))
    status, _, message = ovss("source/im0.png", "--out", str(tmp_path / "out"))
    assert status == 2 and f"snakemake --config scale=tiny -- {job('never').done}'" in message
    assert "make reproduce" in message and "tiny: captions;" in message and not (tmp_path / "out").exists()


def cells(seed: int, size: tuple[int, int], count: int) -> np.ndarray:
    """Cells around random points, (H, W) uint8."""
    centres = np.random.default_rng(seed).uniform(0, 1, (count, 2))
    at = np.stack(np.meshgrid(*(np.linspace(0, 1, side) for side in size), indexing="ij"), -1)
    return ((at[:, :, None] - centres) ** 2).sum(-1).argmin(-1).astype(np.uint8)


WORDS = ["sky", "tree", "traditional", "dog", "sky", "water", "building", "mushroom", "cat", "i"]


@given(st.integers(0, 2**16), st.integers(1, 10), st.sampled_from([(48, 48), (90, 30)]),
       st.sampled_from([(120, 160), (427, 640), (1000, 300)]))  # fmt: skip
def test_words_are_written_in_the_picture_once_on_their_segments_and_not_over_each_other(
    seed: int, count: int, small: tuple[int, int], size: tuple[int, int]
) -> None:
    names, words = word_map(cells(seed, small, count), dict(enumerate(WORDS)))
    found = place_labels(words, names, size)
    large = {name for number, name in enumerate(names) if (words == number).mean() > 0.03}
    assert large <= {one.text for one in found}
    rows, columns = (np.arange(new) * old // new for old, new in zip(words.shape, size, strict=True))
    fine = words[rows[:, None], columns]
    covered = np.zeros(size, int)
    for one in found:
        left, top, right, bottom = one.box
        assert 0 <= left < right <= size[1] and 0 <= top < bottom <= size[0]
        on = (fine[top:bottom, left:right] == names.index(one.text)).mean()
        # A larger picture is laid out at 448 pixels, so a box may stick out by less than one of these.
        assert on > 0 and (not one.inside or on >= (1 if max(size) <= 448 else 0.9))
        covered[top:bottom, left:right] += one.inside
    assert max(size) > 448 or covered.max(initial=0) <= 1


def test_equal_words_share_colour_and_region_and_drawing_changes_no_byte_twice() -> None:
    image, clusters = photo((160, 200), 1), cells(3, (40, 50), 8)
    words = {cluster: WORDS[cluster] for cluster in range(8)}
    drawn = draw(image, clusters, words)
    assert drawn.shape == image.shape and drawn.dtype == np.uint8 and drawn.flags.c_contiguous
    np.testing.assert_array_equal(drawn, draw(image.copy(), clusters.copy(), dict(reversed(words.items()))))
    names, merged = word_map(clusters, words)
    assert len(names) == 7 and names.count("sky") == 1
    assert (merged == names.index("sky")).sum() == np.isin(clusters, [0, 4]).sum()
    assert len(set(word_colours([f"w{i}" for i in range(25)]).values())) == 25
    alone = draw(np.zeros((60, 60, 3), np.uint8), np.zeros((4, 4), np.uint8), {})
    assert len(np.unique(alone.reshape(-1, 3), axis=0)) == 1  # no word: one flat grey, and nothing is written
