"""Exact search, near-duplicates, the stage retrieve, prebuilt databases and indexes, against brute force."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ovss.errors import UserError
from ovss.evaluation.segments_file import write_segments
from ovss.jobs import Item, JobContext, Machine
from ovss.retrieval import build_index, index, retrieve, search
from ovss.retrieval.caption_index import CaptionIndex
from ovss.retrieval.neighbours import Neighbours, duplicate_links, pack_links, remove_duplicates, write_neighbours
from ovss.retrieval.prebuilt import Prebuilt
from ovss.retrieval.recipes import choose
from ovss.retrieval.search import TopK, search_exact, unit_queries
from ovss.retrieval.shards import Collection, Shard, publish, write_shard

DIMENSION, ROWS = 24, 900


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(search.BLOCKS, "cpu", (16, 128))


def vectors(rows: int = ROWS, seed: int = 0, copies: bool = True) -> np.ndarray:
    """Unit rows in a few clusters; every tenth is a copy of an earlier one (ties, also across shards)."""
    generator = np.random.default_rng(seed)
    centres = generator.normal(size=(30, DIMENSION))
    made = centres[generator.integers(30, size=rows)] + 0.5 * generator.normal(size=(rows, DIMENSION))
    if copies:
        made[10::10] = made[generator.integers(10, size=len(made[10::10]))]
    return (made / np.linalg.norm(made, axis=1, keepdims=True)).astype(np.float16)


def queries(count: int = 37, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, DIMENSION)).astype(np.float32)


def collection(folder: Path, rows: np.ndarray, shard_rows: int = 250, encoder: str = "e" * 64) -> Collection:
    folder.mkdir(parents=True)
    (made := folder / "made").mkdir()
    shards = []
    for number, first in enumerate(range(0, len(rows), shard_rows)):
        part = rows[first : first + shard_rows]
        texts = [f"caption {first + row}" for row in range(len(part))]
        shards.append(Shard(f"{number:05d}", len(part), write_shard(made, f"{number:05d}", texts, [part])))
    record = {"collection": "test", "rows": len(rows), "dimension": rows.shape[1], "encoder": encoder}
    publish(made, folder, shards, {**record, "shard_rows": shard_rows, "skipped": {}})
    return Collection.open(folder)


def brute_force(wanted: np.ndarray, rows: np.ndarray, keep: int) -> tuple[np.ndarray, np.ndarray]:
    unit = wanted / np.linalg.norm(wanted.astype(np.float64), axis=1, keepdims=True)
    scores = np.einsum("qd,nd->qn", unit, rows.astype(np.float64)).astype(np.float32)
    order = np.lexsort((np.broadcast_to(np.arange(len(rows)), scores.shape), -scores), axis=1)[:, :keep]
    return order, np.take_along_axis(scores, order, 1)


def segments(folder: Path, embeddings: np.ndarray) -> Path:
    numbers = list(range(len(embeddings)))
    picture = np.zeros((2, 2), np.uint8)
    write_segments(folder, [("a", picture, torch.from_numpy(embeddings), numbers, [1] * len(numbers))])
    return folder


@given(seed=st.integers(0, 10**6), keep=st.integers(1, 12), cut=st.integers(1, 40))
def test_the_running_best_are_those_of_a_full_sort_with_ties_by_id_in_any_order(seed: int, keep: int, cut: int) -> None:
    generator = np.random.default_rng(seed)
    scores = generator.choice([-0.5, -0.0, 0.0, 0.25, 0.25, 1.0], size=(3, 40)).astype(np.float32)
    top = TopK(3, keep)
    for first in generator.permutation(range(0, 40, cut)):
        top.merge(torch.from_numpy(scores[:, first : first + cut]), int(first))
    expected = np.lexsort((np.broadcast_to(np.arange(40), scores.shape), -scores), axis=1)[:, :keep]
    ids, found = top.result()
    np.testing.assert_array_equal(ids, expected)
    np.testing.assert_array_equal(found, np.take_along_axis(scores, expected, 1))


def test_exact_search_equals_brute_force_and_fills_up_with_minus_one(tmp_path: Path) -> None:
    rows = vectors()
    ids, scores = search_exact(queries(), collection(tmp_path / "c", rows), 60, progress=False)
    expected, cosines = brute_force(queries(), rows, 60)
    np.testing.assert_array_equal(ids, expected)
    np.testing.assert_allclose(scores, cosines, atol=1e-6)
    few, nothing = search_exact(queries(), collection(tmp_path / "few", rows[:4]), 6, progress=False)
    assert (
        (few[:, 4:] == -1).all() and np.isneginf(nothing[:, 4:]).all() and (np.sort(few[:, :4]) == np.arange(4)).all()
    )


def test_neither_shards_nor_other_queries_change_a_bit(tmp_path: Path) -> None:
    rows, wanted = vectors(), queries(50)
    whole = search_exact(wanted, collection(tmp_path / "one", rows, ROWS), 20, progress=False)
    cut = search_exact(wanted[20:41], collection(tmp_path / "cut", rows, 77), 20, progress=False)
    for one, other in zip(whole, cut, strict=True):
        assert one[20:41].tobytes() == other.tobytes()


def test_the_shapes_in_use_score_a_pair_alike_wherever_it_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    block, chunk = 64, 512
    generator = np.random.default_rng(0)
    query, row = (torch.from_numpy(generator.normal(size=(1, 768)).astype(np.float32)) for _ in range(2))
    scores = torch.mm(query.expand(block, -1).contiguous(), row.expand(chunk, -1).contiguous().T)
    assert len(scores.unique()) == 1


class Killed(BaseException):
    pass


def stop_at(monkeypatch: pytest.MonkeyPatch, shard: int) -> list[int]:
    """Collections break off at this shard (-1: never); returns the shards that were read."""
    read: list[int] = []
    original = Collection.verify_shard

    def verify(self: Collection, number: int) -> None:
        if number == shard:
            raise Killed
        read.append(number)
        original(self, number)

    monkeypatch.setattr(Collection, "verify_shard", verify)
    return read


def test_a_killed_search_goes_on_after_the_last_whole_shard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    opened = collection(tmp_path / "c", vectors())
    expected = search_exact(queries(), opened, 20, progress=False)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        stop_at(patch, 2)
        search_exact(queries(), opened, 20, scratch=tmp_path)
    saved = (tmp_path / "search.safetensors").read_bytes()
    with monkeypatch.context() as patch:
        read = stop_at(patch, -1)
        again = search_exact(queries(), opened, 20, scratch=tmp_path)
        assert read == [2, 3]
    assert [part.tobytes() for part in again] == [part.tobytes() for part in expected]
    for name, damage in {"short": saved[:-9], "flipped": saved[:-9] + b"X" + saved[-8:], "empty": b""}.items():
        (tmp_path / "search.safetensors").write_bytes(damage)
        capsys.readouterr()
        again = search_exact(queries(), opened, 20, scratch=tmp_path)
        assert [part.tobytes() for part in again] == [part.tobytes() for part in expected], name
        assert "damaged" in capsys.readouterr().out
    (tmp_path / "search.safetensors").write_bytes(saved)
    search_exact(queries(seed=5), opened, 20, scratch=tmp_path)
    assert "another search" in capsys.readouterr().out


def spoil(row: np.ndarray, value: float) -> np.ndarray:
    spoiled = row.copy()
    spoiled[3, 2] = value
    return spoiled


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_vector_that_is_not_finite_is_refused(tmp_path: Path, value: float) -> None:
    with pytest.raises(UserError, match=r"query 3 .*no direction"):
        unit_queries(spoil(queries(), value))
    opened = collection(tmp_path / "c", spoil(vectors(), value))
    with pytest.raises(UserError, match="shard 0: a vector is not finite"):
        search_exact(queries(), opened, 5, progress=False)
    with pytest.raises(UserError, match="shard 00000 has a vector that is not finite"):
        build_index.build(opened, choose("SQfp16", ROWS), tmp_path / "index", tmp_path, 0)


def test_a_zero_query_another_size_and_a_damaged_shard_are_refused(tmp_path: Path) -> None:
    opened = collection(tmp_path / "c", vectors())
    with pytest.raises(UserError, match=r"query 0 .*no direction"):
        search_exact(np.zeros((2, DIMENSION), np.float32), opened, 5, progress=False)
    with pytest.raises(UserError, match=r"24 numbers and queries 23"):
        search_exact(queries()[:, 1:], opened, 5, progress=False)
    path = tmp_path / "c" / "shards" / "00002.vectors.npy"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.unlink()
    path.write_bytes(data)
    for work in (
        lambda: search_exact(queries(), opened, 5, progress=False),
        lambda: build_index.build(opened, choose("SQfp16", ROWS), tmp_path / "index", tmp_path, 0),
    ):
        with pytest.raises(UserError, match=r"00002\.vectors\.npy"):
            work()


def components(linked: np.ndarray) -> list[int]:
    """First member of each component, by walking."""
    first, seen = [], set()
    for start in range(len(linked)):
        if start not in seen:
            first.append(start)
            todo = [start]
            while todo:
                here = todo.pop()
                if here not in seen:
                    seen.add(here)
                    todo += [int(other) for other in np.flatnonzero(linked[here] | linked[:, here])]
    return first


@given(seed=st.integers(0, 10**6), count=st.integers(0, 14), share=st.floats(0, 0.4))
def test_one_hit_of_each_component_remains_the_best_ranked(seed: int, count: int, share: float) -> None:
    linked = np.random.default_rng(seed).random((count, count)) < share
    assert remove_duplicates(linked) == components(linked)


def test_links_of_fewer_hits_are_those_within_them(tmp_path: Path) -> None:
    rows = vectors(20, seed=4)[None]
    linked = duplicate_links(rows, 0.3)
    ids = np.arange(20)[None].copy()
    ids[0, 18:] = -1
    texts = [(number, f"zweimal \u00fcber\n{number}") for number in range(18)]
    write_neighbours(tmp_path, ids, np.ones((1, 20), np.float32), pack_links(linked), texts)
    opened = Neighbours.open(tmp_path)
    sizes = set()
    for n in range(1, 21):
        assert opened.kept(0, n, deduplicate=True) == components(linked[0, : min(n, 18), : min(n, 18)])
        assert opened.kept(0, n, deduplicate=False) == list(range(min(n, 18)))
        sizes.add(len(opened.kept(0, n, deduplicate=True)))
    assert len(sizes) > 3, "the case links too few or too many hits to tell anything"
    assert opened.text(7) == "zweimal \u00fcber\n7"
    for wrong in (lambda: opened.text(19), lambda: opened.kept(0, 21, True)):
        with pytest.raises(UserError):
            wrong()


def model(folder: Path, content: bytes = b"weights") -> Path:
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(content)
    return folder


def run_retrieve(out: Path, items: dict[str, tuple[dict[str, Any], dict[str, Path]]]) -> dict[str, dict[str, Any]]:
    facts: dict[str, dict[str, Any]] = {}
    for name in items:
        (out / name).mkdir(parents=True)
    (out / "scratch").mkdir()
    made = {name: Item(params, inputs, out / name) for name, (params, inputs) in items.items()}
    retrieve.run(JobContext(0, Machine(), items=made, finish=facts.__setitem__, scratch=out / "scratch"))
    return facts


def files(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def test_items_of_a_pass_get_what_they_get_alone(tmp_path: Path) -> None:
    rows, clip = vectors(), model(tmp_path / "clip")
    captions = collection(tmp_path / "c", rows, encoder=hashlib.sha256(b"weights").hexdigest()).directory
    inputs = [
        {"model": clip, "captions": captions, "segments": segments(tmp_path / name, queries(9, seed))}
        for name, seed in (("s", 1), ("t", 2))
    ]
    wanted = {
        "many": ({"keep": 20, "duplicate_cosine": 0.94, "search": "exact"}, inputs[0]),
        "few": ({"keep": 7, "duplicate_cosine": 0.5, "search": "exact"}, inputs[0]),
        "other": ({"keep": 9, "duplicate_cosine": 0.94, "search": "exact"}, inputs[1]),
    }
    facts = run_retrieve(tmp_path / "together", wanted)
    assert facts["other"]["queries"] == 9 and facts["other"]["rows"] == ROWS
    for name, item in wanted.items():
        run_retrieve(tmp_path / f"only-{name}", {name: item})
        assert files(tmp_path / "together" / name) == files(tmp_path / f"only-{name}" / name)
    found = Neighbours.open(tmp_path / "together" / "few")
    expected, _ = brute_force(queries(9, 1), rows, 7)
    np.testing.assert_array_equal(found.ids, expected)
    assert found.text(int(expected[3, 2])) == f"caption {expected[3, 2]}"
    for row, hits in enumerate(rows[expected].astype(np.float64)):
        assert found.kept(row, 7, True) == components(hits @ hits.T > 0.5)
    stranger = {**inputs[0], "model": model(tmp_path / "stranger", b"others")}
    with pytest.raises(UserError, match="another model"):
        run_retrieve(tmp_path / "strange", {"x": (wanted["few"][0], stranger)})


def database(folder: Path, rows: np.ndarray, factory: str, stream: bool = False) -> Path:
    """A database in CaSED's layout."""
    import faiss
    import pyarrow as pa

    (inner := folder / "databases" / "x" / "vit-l-14" / "metadata").mkdir(parents=True)
    made = faiss.index_factory(rows.shape[1], factory, faiss.METRIC_INNER_PRODUCT)
    made.train(rows.astype(np.float32))
    made.add(rows.astype(np.float32))
    faiss.write_index(made, str(inner.parent / "text.index"))
    half = len(rows) // 2
    for name, part in (("b", range(half, len(rows))), ("a", range(half))):
        table = pa.table({"caption": [f"caption {row}" for row in part], "key": list(part)})
        new = pa.ipc.new_stream if stream else pa.ipc.new_file
        with new(str(inner / f"{name}.arrow"), table.schema) as writer:
            writer.write_table(table, max_chunksize=50)
    return folder


@pytest.mark.parametrize(("factory", "stream"), [("Flat", False), ("IVF4,Flat", True), ("OPQ4,IVF4,SQ8", False)])
def test_a_prebuilt_database_gives_its_own_hits_and_captions(tmp_path: Path, factory: str, stream: bool) -> None:
    rows = vectors(copies=False)  # FAISS leaves open which of equal rows it keeps
    folder = database(tmp_path / "d", rows, factory, stream)
    shutil.make_archive(str(tmp_path / "got" / "x"), "gztar", folder)
    inputs = {"model": model(tmp_path / "clip"), "segments": segments(tmp_path / "s", queries(70))}
    params = {"keep": 12, "duplicate_cosine": 0.94, "search": "prebuilt"}
    wanted = {"folder": (params, {**inputs, "database": folder}),
              "packed": (params | {"database": "x.tar.gz"}, {**inputs, "database": tmp_path / "got"})}  # fmt: skip
    run_retrieve(tmp_path / "out", wanted)
    assert files(tmp_path / "out" / "folder") == files(tmp_path / "out" / "packed")
    found = Neighbours.open(tmp_path / "out" / "folder")
    assert all(found.text(int(caption)) == f"caption {caption}" for caption in found.ids[found.ids >= 0])
    if factory == "Flat":
        expected, _ = brute_force(queries(70), rows, 12)
        np.testing.assert_array_equal(found.ids, expected)
        for row in range(70):
            hits = rows[expected[row]].astype(np.float64)
            assert found.kept(row, 12, True) == components(hits @ hits.T > 0.94)


def test_a_database_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    folder = database(tmp_path / "d", vectors(), "Flat")
    (inner,) = folder.rglob("vit-l-14")
    with pytest.raises(UserError, match="24 numbers and queries 3"):
        next(Prebuilt.open(folder, tmp_path).search(np.ones((2, 3), np.float32), 5))
    (inner / "metadata" / "b.arrow").unlink()
    with pytest.raises(UserError, match="900 vectors for 450 captions"):
        Prebuilt.open(folder, tmp_path)
    (inner / "metadata" / "a.arrow").write_bytes(b"ARROW1 no")
    with pytest.raises(UserError, match=r"a\.arrow: damaged"):
        Prebuilt.open(folder, tmp_path)
    (inner / "text.index").write_bytes(b"IxFI")
    with pytest.raises(UserError, match=r"a\.arrow|text\.index"):
        Prebuilt.open(folder, tmp_path)
    with pytest.raises(UserError, match="this kind of index cannot give its vectors back"):
        list(Prebuilt(inner, Forgetful(), list).search(np.ones((2, 3), np.float32), 5))


class Forgetful:
    d = 3

    def search_and_reconstruct(self, block: np.ndarray, keep: int) -> None:
        raise RuntimeError("Error in faiss: reconstruct not implemented for this type of index")


def run_index(out: Path, captions: Path, found: Path, recipe: str, scratch: Path, **more: Any) -> dict[str, Any]:
    out.mkdir()
    scratch.mkdir(exist_ok=True)
    params = {"recipe": recipe, "queries": 30, **more}
    return index.run(JobContext(0, Machine(), params, {"captions": captions, "segments": found}, out, scratch=scratch))


RECIPES = ("auto", "Flat", "IVF8,SQ8", "IVF8,PQ4np", "IVF8_HNSW4,PQ4np")


@pytest.mark.parametrize("recipe", RECIPES)
def test_an_index_finds_what_its_manifest_says_and_a_killed_build_goes_on(
    tmp_path: Path, recipe: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = vectors(copies=False)  # FAISS leaves open which of equal rows it keeps
    opened = collection(tmp_path / "c", rows)
    found = segments(tmp_path / "s", queries(40))
    facts = run_index(tmp_path / "index", opened.directory, found, recipe, tmp_path / "scratch")
    with monkeypatch.context() as patch, pytest.raises(Killed):
        stop_at(patch, 2)
        run_index(tmp_path / "killed", opened.directory, found, recipe, tmp_path / "again")
    (tmp_path / "again" / "00000.faiss").write_bytes(b"damaged")
    with monkeypatch.context() as patch:
        read = stop_at(patch, -1)
        run_index(tmp_path / "resumed", opened.directory, found, recipe, tmp_path / "again")
        assert read[:3] == [0, 2, 3], "only the damaged and the missing shards are added again"
    assert files(tmp_path / "index") == files(tmp_path / "resumed")
    assert facts["recall_at_10"] >= 0.95 and facts["rows"] == ROWS and facts["queries"] == 30
    exact, _ = brute_force(queries(40), rows, 10)
    ids, scores = CaptionIndex.open(tmp_path / "index", opened).search(queries(40), 10)
    hits = np.isin(ids, -1, invert=True)
    assert np.mean([np.isin(true, row).mean() for true, row in zip(exact, ids, strict=True)]) > 0.9
    if recipe != "IVF8,SQ8":  # stored vectors or all of them: cosines are exact
        np.testing.assert_allclose(scores[hits], np.take_along_axis(all_cosines(rows), ids, 1)[hits], atol=1e-3)
    if recipe in {"auto", "Flat"}:
        np.testing.assert_array_equal(ids, exact)
    alone, _ = CaptionIndex.open(tmp_path / "index", opened).search(queries(40)[7:8], 10)
    np.testing.assert_array_equal(alone[0], ids[7])


def all_cosines(rows: np.ndarray) -> np.ndarray:
    unit = queries(40) / np.linalg.norm(queries(40), axis=1, keepdims=True)
    return unit @ rows.astype(np.float32).T


def test_lists_are_the_fewest_that_reach_the_recall(tmp_path: Path) -> None:
    opened = collection(tmp_path / "c", vectors())
    facts = run_index(
        tmp_path / "index", opened.directory, segments(tmp_path / "s", queries(30)), "IVF16,SQ8", tmp_path
    )
    exact, _ = brute_force(queries(30), vectors(), 10)
    made = CaptionIndex.open(tmp_path / "index", opened)
    recalls = {}
    for nprobe in (1, 2, 4, 8, 16):
        made.set_effort(nprobe, 0)
        recalls[nprobe] = np.mean(
            [np.isin(t, f).mean() for t, f in zip(exact, made.search(queries(30), 10)[0], strict=True)]
        )
    assert facts["nprobe"] == min(nprobe for nprobe, recall in recalls.items() if recall >= 0.95) > 1


def test_an_index_of_other_captions_or_with_other_bytes_is_refused(tmp_path: Path) -> None:
    opened = collection(tmp_path / "c", vectors())
    found = segments(tmp_path / "s", queries(40))
    run_index(tmp_path / "index", opened.directory, found, "Flat", tmp_path)
    with pytest.raises(UserError, match="another model's text encoder"):
        CaptionIndex.open(tmp_path / "index", collection(tmp_path / "other", vectors(), encoder="f" * 64))
    with pytest.raises(UserError, match="900 captions, not the 899"):
        CaptionIndex.open(tmp_path / "index", collection(tmp_path / "less", vectors()[:-1]))
    with pytest.raises(UserError, match="24 numbers and queries 23"):
        CaptionIndex.open(tmp_path / "index", opened).search(queries()[:, 1:], 5)
    with (tmp_path / "index" / "index.faiss").open("r+b") as stream:
        stream.seek(-1, 2)
        stream.write(b"\x7f")
    with pytest.raises(UserError, match=r"index\.faiss: missing or not the bytes"):
        CaptionIndex.open(tmp_path / "index", opened)


REFUSED: Sequence[tuple[str, str]] = [("IVF8,PQ4", "PQ<bytes>np"), ("LSH", "write auto"), ("IVF901,SQ8", "901 lists")]


@pytest.mark.parametrize(("name", "reason"), REFUSED)
def test_recipes_that_are_slow_or_impossible_are_refused(name: str, reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        choose(name, ROWS)


def test_the_recipe_goes_by_size() -> None:
    sizes: dict[int, str] = {1_000_000: "SQfp16", 12_423_374: "IVF16384,SQ8", 70_000_000: "IVF32768_HNSW32,PQ64np"}
    assert {rows: choose("auto", rows).factory for rows in sizes} == sizes
    assert [choose("auto", rows, 32).k_factor for rows in sizes] == [0, 0, 32]
