"""Caption collections: unit vectors that no neighbour changes, verified shards, and a killed run that goes on."""

from __future__ import annotations

import hashlib
import json
import signal
import time
import warnings
from collections.abc import Sequence
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from small_archives import tar_of
from small_clip import small_clip, write_model_directory
from test_caption_sources import arrow

from ovss.errors import UserError
from ovss.jobs import JobContext, Machine
from ovss.models.clip import Clip
from ovss.models.text import encode_texts
from ovss.retrieval import captions as stage
from ovss.retrieval import encode
from ovss.retrieval.encode import encode_unit
from ovss.retrieval.shards import Collection

COLOURS = ("red", "green", "blue", "grey", "extraordinarily colourful and quite unbelievably large")
TEXTS = [
    f"{colour} {animal} number {k}" for k in range(6) for colour in COLOURS for animal in ("dog", "café cat", "cow")
]
PARAMS = {"collection": "small", "shard_rows": 16, "deduplicate": False,
          "sources": [{"input": "archive_cc", "format": "caption_url_tsv", "files": ["a.tsv"]}]}  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model_directory(tmp_path_factory.mktemp("model") / "clip")


@pytest.fixture(scope="module")
def clip() -> Clip:
    return small_clip()


@pytest.fixture(autouse=True)
def short_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encode, "ROWS", 8)


def context(folder: Path, model: Path, params: dict[str, Any] = PARAMS, texts: Sequence[str] = TEXTS) -> JobContext:
    for name in ("in", "out", "scratch"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    if not (folder / "in/a.tsv").exists():
        (folder / "in/a.tsv").write_text("".join(f"{text}\thttp://x\n" for text in texts))
    inputs = {"model": model, "archive_cc": folder / "in"}
    return JobContext(7, Machine(), params, inputs, folder / "out", scratch=folder / "scratch")


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_vectors_are_those_of_the_text_encoder(clip: Clip) -> None:
    texts = [*TEXTS[:20], "word " * 60]
    expected = F.normalize(torch.cat([encode_texts(clip, [text]) for text in texts]), dim=-1)
    torch.testing.assert_close(encode_unit(clip, texts), expected, atol=1e-6, rtol=0)


def test_a_vector_does_not_depend_on_the_other_texts(clip: Clip, monkeypatch: pytest.MonkeyPatch) -> None:
    together = encode_unit(clip, TEXTS)
    alone = torch.cat([encode_unit(clip, [text]) for text in TEXTS])
    assert torch.equal(together, alone)
    order = torch.randperm(len(TEXTS), generator=torch.Generator().manual_seed(1))
    assert torch.equal(encode_unit(clip, [TEXTS[i] for i in order]), together[order])
    monkeypatch.setattr(encode, "CHUNK", 7)
    assert torch.equal(encode_unit(clip, TEXTS), together)


def test_the_memory_of_the_tokenizer_is_bounded_and_changes_nothing(
    clip: Clip, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = encode_unit(clip, TEXTS)
    monkeypatch.setattr(encode, "_REMEMBERED", 3)
    monkeypatch.setattr(encode, "CHUNK", 5)
    assert torch.equal(encode_unit(clip, TEXTS), expected)
    assert set(clip.tokenizer.cache) == {"<start_of_text>", "<end_of_text>"}  # type: ignore[attr-defined]


def test_a_broken_text_tower_is_refused() -> None:
    clip = small_clip()
    clip.model.ln_final.weight.data[0] = float("nan")
    with pytest.raises(UserError, match="not finite"):
        encode_unit(clip, ["a dog"])


@pytest.mark.cpu
def test_a_collection_holds_every_caption_with_its_vector(tmp_path: Path, model: Path, clip: Clip) -> None:
    facts = stage.run(context(tmp_path, model))
    found = Collection.open(tmp_path / "out", check=True)
    encoder = hashlib.sha256((model / "model.safetensors").read_bytes()).hexdigest()
    assert facts == {"rows": 90, "dimension": 16, "encoder": encoder, "skipped": {}, "shards": 6}
    assert (found.rows, found.dimension, found.encoder, found.prebuilt) == (90, 16, encoder, None)
    assert [shard.rows for shard in found.shards] == [16] * 5 + [10]
    assert [found.first_row(k) for k in range(6)] == [0, 16, 32, 48, 64, 80]
    assert found.captions(range(90)) == TEXTS
    assert found.captions([89, 3, np.int64(3), 17]) == [TEXTS[89], TEXTS[3], TEXTS[3], TEXTS[17]]
    vectors = np.concatenate([found.vectors(k) for k in range(6)])
    assert vectors.dtype == np.float16 and isinstance(found.vectors(0), np.memmap)
    assert np.array_equal(vectors, encode_unit(clip, TEXTS).half().numpy())
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["manifest.json", "shards"]
    for row in (-1, 90):
        with pytest.raises(IndexError, match=f"row {row} is not among the 90 rows of 'small'"):
            found.captions([row])


def test_shard_size_changes_no_vector(tmp_path: Path, model: Path) -> None:
    stage.run(context(tmp_path / "a", model))
    stage.run(context(tmp_path / "b", model, PARAMS | {"shard_rows": 1000}))
    small, large = Collection.open(tmp_path / "a/out"), Collection.open(tmp_path / "b/out")
    assert np.array_equal(np.concatenate([small.vectors(k) for k in range(6)]), large.vectors(0))


def test_what_is_left_out_is_in_the_manifest_and_printed(
    tmp_path: Path, model: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    ctx = context(tmp_path, model, PARAMS | {"deduplicate": True}, ["a dog", "a cat", "a dog", "a dog", "", "a\tb\tc"])
    assert stage.run(ctx)["skipped"] == {"duplicate": 2, "empty caption": 1, "wrong number of columns": 1}
    found = Collection.open(tmp_path / "out")
    assert found.captions([0, 1]) == ["a dog", "a cat"]
    manifest = json.loads((tmp_path / "out/manifest.json").read_text())
    assert manifest["skipped"]["duplicate"] == 2
    assert manifest["sources"] == [{"file": "a.tsv", "format": "caption_url_tsv", "rows": 4}]
    printed = capfd.readouterr().err
    assert "a.tsv: 4 captions; left out: 1 empty caption, 1 wrong number of columns" in printed
    assert "all files: 2 captions; left out: 2 duplicate" in printed


def test_a_bad_file_is_refused_before_anything_is_encoded(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.tsv").write_bytes(b"fine\thttp://x\n" * 20 + b"odd\n" * 21)
    monkeypatch.setattr(stage, "load_clip", lambda *_: pytest.fail("the model was loaded"))
    with pytest.raises(UserError, match=r"a\.tsv: 21 of its 41 rows are no captions \(wrong number of columns: 21\)"):
        stage.run(context(tmp_path, model))
    assert tree(tmp_path / "out") == {}


def test_cased_s_index_comes_along_and_its_rows_stay(tmp_path: Path, model: Path) -> None:
    root = "databases/cc12m/vit-l-14"
    files = {f"{root}/text.index": b"an index", f"{root}/metadata/0.arrow": arrow(["a dog", None, "a dog"])}
    (tmp_path / "in").mkdir()
    (tmp_path / "in/c.tar").write_bytes(tar_of(files))
    params = PARAMS | {"sources": [{"input": "archive_cc", "format": "cased", "files": ["c.tar"]}]}
    stage.run(context(tmp_path, model, params))
    found = Collection.open(tmp_path / "out", check=True)
    assert found.captions(range(3)) == ["a dog", "-", "a dog"]
    assert found.prebuilt is not None and found.prebuilt.read_bytes() == b"an index"
    found.prebuilt.write_bytes(b"an inde")
    with pytest.raises(UserError, match=r"text\.index: missing or not the bytes"):
        Collection.open(tmp_path / "out")
    with pytest.raises(UserError, match="turn it off"):
        stage.run(context(tmp_path / "other", model, params | {"deduplicate": True}))


@pytest.mark.parametrize("name", ["00001.vectors.npy", "00001.text", "00001.offsets.npy"])
def test_a_corrupt_shard_is_named(tmp_path: Path, model: Path, name: str) -> None:
    stage.run(context(tmp_path, model))
    path = tmp_path / "out/shards" / name
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)
    found = Collection.open(tmp_path / "out")
    found.verify_shard(0)
    with pytest.raises(UserError, match=f"{name}: missing or not the bytes"):
        found.verify_shard(1)
    with pytest.raises(UserError, match=f"{name}: missing or not the bytes"):
        Collection.open(tmp_path / "out", check=True)
    path.write_bytes(data[:-1])
    with pytest.raises(UserError, match=f"{name}: missing or not the bytes"):
        Collection.open(tmp_path / "out")


@pytest.mark.parametrize("content", [None, "{", "{}", '{"format": 2}'])
def test_a_manifest_that_cannot_be_read_is_named(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(UserError, match=r"manifest\.json: .*make the collection again"):
        Collection.open(tmp_path)


def stop_in_fourth_shard(folder: Path, model: Path, mark: Path) -> None:
    """The stage in a process of its own, which waits to be killed while it encodes its fourth part."""
    true, calls = stage.encode_unit, 0

    def slow(clip: Clip, texts: Sequence[str]) -> np.ndarray:
        nonlocal calls
        calls += bool(texts)
        if calls == 4:
            mark.touch()
            time.sleep(600)
        return true(clip, texts)

    stage.encode_unit = slow
    stage.run(context(folder, model))


def counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every text that is encoded from now on."""
    true, texts = encode_unit, list[str]()
    monkeypatch.setattr(stage, "encode_unit", lambda clip, some: texts.extend(some) or true(clip, some))
    return texts


def test_a_killed_run_goes_on_where_it_was(tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, mark = tmp_path / "killed", tmp_path / "mark"
    child = get_context("fork").Process(target=stop_in_fourth_shard, args=(folder, model, mark))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of Python 3.12: this process has threads, idle ones
        child.start()
    deadline = time.monotonic() + 120
    while not mark.exists() and child.is_alive() and time.monotonic() < deadline:
        time.sleep(0.05)
    child.kill()
    child.join()
    assert child.exitcode == -signal.SIGKILL
    names = {path.name for path in (folder / "scratch/shards").iterdir()}
    assert {"00002.json", "00003.vectors.npy.part"} <= names and "00003.json" not in names
    damaged = folder / "scratch/shards/00001.vectors.npy"
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"?")
    stage.run(context(tmp_path / "whole", model))
    encoded = counted(monkeypatch)
    stage.run(context(folder, model))
    assert encoded == TEXTS[16:32] + TEXTS[48:]
    assert tree(folder / "out") == tree(tmp_path / "whole/out")
    assert Collection.open(folder / "out", check=True).captions(range(90)) == TEXTS


def test_finished_shards_of_other_captions_are_not_used(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage.run(context(tmp_path, model))
    encoded = counted(monkeypatch)
    (tmp_path / "in/a.tsv").write_text("".join(f"{text}\tu\n" for text in [*TEXTS[:40], "a new one", *TEXTS[40:]]))
    again = context(tmp_path, model)
    (tmp_path / "other").mkdir()
    stage.run(JobContext(7, Machine(), again.params, again.inputs, tmp_path / "other", scratch=tmp_path / "scratch"))
    assert encoded == [*TEXTS[32:40], "a new one", *TEXTS[40:]]
    assert Collection.open(tmp_path / "other", check=True).captions([40, 90]) == ["a new one", TEXTS[-1]]
