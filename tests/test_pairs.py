"""Shards of image-text pairs: what is used, what is left out and counted, what is refused."""

from __future__ import annotations

import gzip
import io
import json
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_archives import Files, jpg, png, tar_of

from ovss.data import index_pairs
from ovss.data.ahead import in_order
from ovss.data.pairs import Pairs
from ovss.data.webdataset import CutShardError, read_shard, shards_in
from ovss.errors import UserError
from ovss.jobs import JobContext, Machine
from ovss.world import tags

LONG = " ".join(["word"] * 200).encode()


def pair(key: str, text: bytes = b"a cat on a sofa", image: bytes | None = None, kind: str = "jpg") -> Files:
    picture = jpg(int(key), 24, 32) if image is None else image
    return {f"{key}.{kind}": picture, f"{key}.txt": text, f"{key}.json": b'{"status": "success"}'}


def write(folder: Path, name: str, *pairs: Files) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / name).write_bytes(tar_of({member: data for one in pairs for member, data in one.items()}))
    return folder / name


def index(shards: Path, out: Path, workers: int = 1, **params: object) -> dict[str, object]:
    out.mkdir()
    params = {"collection": "cc3m", "stem": "cc3m", "expected": None, **params}
    machine, scratch = Machine(workers=workers), out.with_name("scratch") / out.name.split("-")[0]
    inputs = {"shards": shards}
    return index_pairs.run(JobContext(seed=0, machine=machine, params=params, inputs=inputs, out=out, scratch=scratch))


@pytest.fixture
def crawled(tmp_path: Path) -> Path:
    """Three shards, a number missing between them, with everything a crawl brings."""
    shards = tmp_path / "shards"
    good = [pair(f"00000{k:04d}") for k in range(8)]
    gray = pair("000000008", b"  grey\n\tand  wide ", jpg(3, 16, 40, gray=True))
    clear = pair("000000009", b"\xef\xbb\xbfa logo", png(np.full((9, 7, 4), 99, np.uint8)), "png")
    write(shards, "cc3m_00000.tar", *good, gray, clear)
    write(
        shards,
        "cc3m_00001.tar",
        pair("000010000", image=b"<!DOCTYPE html><html>gone</html>"),
        pair("000010001", image=jpg(1, 64, 64)[:700]),
        pair("000010002", image=b""),
        pair("000010003", b" \n"),
        pair("000010004", LONG),
        pair("000010005", b"caf\xe9"),
        {"000010006.jpg": jpg(6, 24, 32), "000010006.json": b"{}"},
        {"000010007.txt": b"a caption alone"},
        pair("000010008", b"a bird"),
    )
    write(shards, "cc3m_00003.tar", pair("000030000", b"the last one"))
    write(shards, "cc12m_00000.tar", pair("000000000", b"of another collection"))
    return shards


def test_what_cannot_be_used_is_left_out_and_counted(
    crawled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    facts = index(crawled, tmp_path / "index", expected=24)
    assert facts["left_out"] == {
        "a web page in place of the image": 1, "caption is not UTF-8": 1, "caption of more than 77 words": 1,
        "empty caption": 1, "empty image": 1, "image cannot be read": 1, "no caption": 1, "no image": 1,
    }  # fmt: skip
    assert (facts["pairs"], facts["expected"], facts["absent_shards"]) == (12, 24, [2])
    assert json.loads((tmp_path / "index/facts.json").read_text()) == facts
    assert "cc3m: 12 pairs of 24 expected (50.0 %); 1 left out: a web page" in capsys.readouterr().err


def test_pairs_come_as_they_lie_in_the_shards(crawled: Path, tmp_path: Path) -> None:
    index(crawled, tmp_path / "index")
    pairs = Pairs(tmp_path / "index", crawled)
    assert [pairs[k].id for k in (0, 7, 10, 11)] == [
        "cc3m_00000/000000000", "cc3m_00000/000000007", "cc3m_00001/000010008", "cc3m_00003/000030000",
    ]  # fmt: skip
    assert [pairs[k].caption for k in range(7, 12)] == [
        "a cat on a sofa", "grey and wide", "a logo", "a bird", "the last one",
    ]  # fmt: skip
    assert [pairs[k].image.shape for k in (0, 8, 9)] == [(24, 32, 3), (16, 40, 3), (9, 7, 3)]
    with Image.open(io.BytesIO(jpg(5, 24, 32))) as image:
        np.testing.assert_array_equal(pairs[5].image, np.array(image.convert("RGB")))
    with pytest.raises(IndexError):
        pairs[12]


def test_a_longer_caption_is_used_where_the_rule_says_so(crawled: Path, tmp_path: Path) -> None:
    assert index(crawled, tmp_path / "index", rules={"max_words": None})["pairs"] == 13
    with pytest.raises(UserError, match=r"cc3m: rules: longest: unknown key.*allowed here: cut_shards, max_words"):
        index(crawled, tmp_path / "other", rules={"longest": 3})


def test_workers_and_order_change_nothing(crawled: Path, tmp_path: Path) -> None:
    one, three = (index(crawled, tmp_path / f"index{workers}", workers) for workers in (1, 3))
    assert one == three
    assert (tmp_path / "index1/pairs.npy").read_bytes() == (tmp_path / "index3/pairs.npy").read_bytes()
    kept = Pairs(tmp_path / "index1", crawled, keep=np.array([11, 3]))
    assert [found.id for found in kept.read([1, 0, 1], workers=2)] == [
        "cc3m_00000/000000003", "cc3m_00003/000030000", "cc3m_00000/000000003",
    ]  # fmt: skip
    with pytest.raises(UserError, match="rows to keep reach 12, the index has 12 pairs"):
        Pairs(tmp_path / "index1", crawled, keep=np.array([12]))


def test_a_shard_cut_anywhere_is_noticed(tmp_path: Path) -> None:
    """Whatever the length, what came before is whole, and the end is no silent end."""
    path = write(tmp_path / "s", "cc3m_00000.tar", *[pair(f"00000000{k}") for k in range(3)])
    whole, data = list(read_shard(path)), path.read_bytes()
    last = max(member.offset + len(member.data) for member in whole[-1].members.values())
    for length in range(512, last + 512, 137):
        path.write_bytes(data[:length])
        found = []
        with pytest.raises(
            CutShardError, match=r"cc3m_00000\.tar: this shard ends in the middle \(.+download it again"
        ):
            for sample in read_shard(path):
                found.append(sample)
        assert found == whole[: len(found)] and len(found) < 3


def test_a_cut_shard_stops_the_index_or_gives_what_it_has(crawled: Path, tmp_path: Path) -> None:
    shard = crawled / "cc3m_00000.tar"
    shard.write_bytes(shard.read_bytes()[:-14000])
    with pytest.raises(UserError, match=r"cc3m_00000\.tar: this shard ends in the middle"):
        index(crawled, tmp_path / "refused")
    facts = index(crawled, tmp_path / "used", rules={"cut_shards": "use", "max_words": None})
    assert facts["left_out"]["in a shard that ends in the middle"] == 1  # type: ignore[index]
    pairs = Pairs(tmp_path / "used", crawled)
    assert 4 < len(pairs) < 13 and [found.id for found in pairs.read(range(len(pairs)))][-2:] == [
        "cc3m_00001/000010008", "cc3m_00003/000030000",
    ]  # fmt: skip


def test_a_killed_run_goes_on_after_its_finished_shards(
    crawled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = crawled.joinpath("cc3m_00003.tar").read_bytes()
    crawled.joinpath("cc3m_00003.tar").write_bytes(whole[:700])
    with pytest.raises(UserError, match=r"cc3m_00003\.tar: this shard ends in the middle"):
        index(crawled, tmp_path / "index-killed")
    crawled.joinpath("cc3m_00003.tar").write_bytes(whole)
    read, reader = list[str](), index_pairs.read_shard
    monkeypatch.setattr(index_pairs, "read_shard", lambda path: (read.append(path.name), reader(path))[1])
    again = index(crawled, tmp_path / "index-again")
    assert read == ["cc3m_00003.tar"]
    assert again == index(crawled, tmp_path / "unbroken")
    assert (tmp_path / "index-again/pairs.npy").read_bytes() == (tmp_path / "unbroken/pairs.npy").read_bytes()


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", r"no plain tar file \(empty file\)"),
        (b"<html>log in</html>" * 99, "no plain tar file"),
        (gzip.compress(tar_of(pair("000000000")), mtime=0), "no plain tar file"),
    ],
)
def test_a_file_that_is_no_shard_is_named(data: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / "cc3m_00000.tar").write_bytes(data)
    with pytest.raises(UserError, match=rf"cc3m_00000\.tar: {words}"):
        index(tmp_path, tmp_path / "index")


def test_shards_are_taken_by_number_and_stem(tmp_path: Path) -> None:
    for name in ("gcc-train-000010.tar", "gcc-train-000009.tar", "00000.tar", "gcc-train-000001.tar.part", "notes.tar"):
        (tmp_path / name).write_bytes(b"")
    assert [path.name for path in shards_in(tmp_path, "gcc-train")] == ["gcc-train-000009.tar", "gcc-train-000010.tar"]
    assert [path.name for path in shards_in(tmp_path, "")] == ["00000.tar"]
    with pytest.raises(UserError, match=r"there is no shard cc_00000\.tar"):
        shards_in(tmp_path, "cc")
    (tmp_path / "gcc-train_9.tar").write_bytes(b"")
    with pytest.raises(UserError, match=r"have the same number"):
        shards_in(tmp_path, "gcc-train")


def test_a_collection_of_rubbish_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "s", "cc3m_00000.tar", pair("000000000", b""), pair("000000001"))
    with pytest.raises(UserError, match=r"cc3m: only 1 pairs can be used \(1 empty caption\)"):
        index(tmp_path / "s", tmp_path / "index")


def test_a_shard_that_changed_since_is_named(crawled: Path, tmp_path: Path) -> None:
    index(crawled, tmp_path / "index")
    write(crawled, "cc3m_00000.tar", *[pair(f"00000{k:04d}", b"another text, of another length") for k in range(10)])
    with pytest.raises(UserError, match=r"cc3m_00000\.tar: not the shard that was indexed"):
        list(Pairs(tmp_path / "index", crawled).read(range(10)))
    with pytest.raises(UserError, match="no index of pairs"):
        Pairs(tmp_path, crawled)


def test_the_worlds_pairs_are_shards_like_the_originals(tmp_path: Path) -> None:
    params = tags.WorldTexts(variants=2, cc3m=5, cc12m=3, mismatched=0.0)
    for name, files in tags.archives(3, params).items():
        (tmp_path / name).write_bytes(tar_of(files))
    facts = [index(tmp_path, tmp_path / f"index_{name}", stem=name) for name in ("cc3m", "cc12m")]
    assert [(found["pairs"], found["left_out"]) for found in facts] == [(5, {}), (3, {})]
    pairs = Pairs(tmp_path / "index_cc3m", tmp_path)
    assert [found.id for found in pairs.read(range(5))] == [
        f"cc3m_{shard:05d}/{shard:05d}{k:04d}" for shard, k in ((0, 0), (0, 1), (1, 0), (1, 1), (1, 2))
    ]
    for number, found in enumerate(pairs.read(range(5))):
        view, caption = tags.draw(3, (tags.PAIRS, 0, number), params, params.pair_side)
        assert found.caption == caption.text and found.image.shape == view.image.shape
        assert max(found.image.shape) == 80 and np.abs(found.image.astype(int) - view.image).mean() < 12


def test_a_caption_is_read_without_its_image(crawled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index(crawled, tmp_path / "index")
    pairs = Pairs(tmp_path / "index", crawled)
    wanted = [found.caption for found in pairs.read(range(12))]
    monkeypatch.setattr(Image, "open", lambda stream: pytest.fail("an image was opened"))
    assert [pairs.caption(position) for position in range(12)] == wanted
    (crawled / "cc3m_00000.tar").unlink()
    with pytest.raises(UserError, match=r"cc3m_00000\.tar: not the shard that was indexed"):
        pairs.caption(0)


def test_no_more_is_read_ahead_than_promised() -> None:
    done, lock = [], threading.Lock()

    def work(item: int) -> int:
        with lock:
            done.append(item)
        return -item

    results = in_order(work, iter(range(100)), workers=2)
    first = next(results)
    time.sleep(0.05)
    assert first == 0 and len(done) <= 2 * 2 + 1
    assert list(results) == [-item for item in range(1, 100)]


def test_an_error_comes_at_its_place_and_ends_the_threads() -> None:
    before = threading.active_count()

    def checked(limit: int) -> Callable[[int], int]:
        return lambda item: item if item < limit else 1 // 0

    found = []
    with pytest.raises(ZeroDivisionError):
        for item in in_order(checked(5), range(50), workers=3):
            found.append(item)
    assert found == [0, 1, 2, 3, 4] and threading.active_count() == before
