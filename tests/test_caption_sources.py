"""Caption files: every format in its real layout, single bad rows counted, a file of another kind refused."""

from __future__ import annotations

import csv
import gzip
import io
import json
import lzma
import tracemalloc
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_archives import tar_of, zip_of
from test_archives import debian

from ovss.errors import UserError
from ovss.retrieval.distinct import Seen, distinct
from ovss.retrieval.rows import json_array
from ovss.retrieval.sources import CaptionFile, Tally, caption_files, read_captions

NOUNS = (
    b"  1 A licence\n  2 of two lines  \n'hood n 1 2 @ ; 1 0 08641944  \nhot_dog n 2 2 @ + 2 1 10187710 07697537  \n"
)
WIT = ["language", "page_url", "caption_reference_description", "mime_type"]


def wit(rows: list[list[str]]) -> bytes:
    text = io.StringIO()
    csv.writer(text, delimiter="\t", lineterminator="\n").writerows([WIT, *rows])
    return gzip.compress(text.getvalue().encode(), mtime=0)


def notes(*captions: object) -> bytes:
    annotations = [{"id": k, "caption": text} for k, text in enumerate(captions)]
    others = {"info": {"year": 2017}, "images": [{"id": 1}, [2, "]"]], "licenses": 5}
    return json.dumps({**others, "annotations": annotations}).encode()


def parquet(column: str, values: list[str | None]) -> bytes:
    stream = io.BytesIO()
    pq.write_table(pa.table({"url": ["u"] * len(values), column: values}), stream, row_group_size=2)
    return stream.getvalue()


def arrow(values: list[str | None]) -> bytes:
    stream = io.BytesIO()
    table = pa.table({"image_path": ["p"] * len(values), "caption": values})
    with pa.ipc.new_file(stream, table.schema) as writer:
        writer.write_table(table)
    return stream.getvalue()


def package(name: str, content: bytes) -> bytes:
    return debian({"debian-binary": b"2.0\n", "data.tar.xz": lzma.compress(tar_of({name: content}))})


COCO = {
    "annotations/captions_val2017.json": notes("A cat.", "A \u201cdog\u201d"),
    "annotations/instances_val2017.json": b"{",
}
REDCAPS = {"annotations/cats_2017.json": notes("cats"), "annotations/dogs_2018.json": notes("dogs", "two")}
SBU = {"sbu-captions-all.json": json.dumps({"image_urls": ["u", "v"], "captions": ["one", "two"]}).encode()}
QUOTED = 'with "quotes"\nand a line'
ROWS = [["de", "u", "Hund", "x"], ["en", "u", "a dog", "x"], ["en", "u", "", "x"], ["en", "u", QUOTED, "x"]]
METADATA = "databases/c/vit-l-14/metadata"
CASED = {f"{METADATA}/1.arrow": arrow(["three"]), f"{METADATA}/0.arrow": arrow(["one", None])}
LEMMAS = ["'hood", "hot dog"]
CC3M = b"a dog\thttp://x/1\r\ncaf\xc3\xa9 , <PERSON>\thttps://x/2"
CC12M = b"http://x/1\ta dog\nhttps://x/2\t see http://y for it \n"
# a blank behind a format only makes another key of it
GOOD: dict[str, tuple[str, bytes, list[str]]] = {
    "caption_url_tsv": ("a.tsv", CC3M, ["a dog", "café , <PERSON>"]),
    "url_caption_tsv": ("a.tsv.gz", gzip.compress(CC12M, mtime=0), ["a dog", "see http://y for it"]),
    "wordnet_nouns": ("w.zip", zip_of({"wordnet/index.noun": NOUNS, "wordnet/index.verb": b"x"}), LEMMAS),
    "wordnet_nouns ": ("w.deb", package("usr/share/wordnet/index.noun", NOUNS), LEMMAS),
    "wordnet_nouns  ": ("index.noun", NOUNS, LEMMAS),
    "words": ("words_alpha.zip", zip_of({"words_alpha.txt": b"a\r\naa\r\n"}), ["a", "aa"]),
    "words ": ("w.deb", package("usr/share/dict/american-english", "Ångström\nzoo\n".encode()), ["Ångström", "zoo"]),
    "words  ": ("words.txt", b"\xef\xbb\xbfa\naa", ["a", "aa"]),
    "coco_captions": ("n.zip", zip_of(COCO), ["A cat.", "A “dog”"]),
    "redcaps": ("r.zip", zip_of(REDCAPS), ["cats", "dogs", "two"]),
    "sbu": ("s.tar.gz", gzip.compress(tar_of(SBU), mtime=0), ["one", "two"]),
    "json_lines": ("l.jsonl", b'{"caption": "one"}\n{"id": 5, "caption": "t\\u0077o"}\n', ["one", "two"]),
    "wit": ("w.tsv.gz", wit(ROWS), ["a dog", QUOTED]),
    "parquet": ("p.parquet", parquet("caption", ["one", "two", "three"]), ["one", "two", "three"]),
    "parquet ": ("p.parquet", parquet("text", ["one", "two", "three"]), ["one", "two", "three"]),
    "cased": ("c.tar.gz", gzip.compress(tar_of(CASED), mtime=0), ["one", "-", "three"]),
}


def read(folder: Path, kind: str, name: str, content: bytes) -> tuple[list[str], Tally]:
    (folder / name).write_bytes(content)
    tally = Tally()
    return list(read_captions([CaptionFile(folder / name, kind.strip())], folder / "scratch", tally)), tally


@pytest.mark.parametrize("kind", GOOD)
def test_each_format_gives_its_captions_in_the_file_s_order(tmp_path: Path, kind: str) -> None:
    name, content, captions = GOOD[kind]
    found, tally = read(tmp_path, kind, name, content)
    assert found == captions
    assert tally.rows == {tmp_path / name: len(captions)}


def test_a_folder_with_index_noun_will_do(tmp_path: Path) -> None:
    (tmp_path / "dict").mkdir()
    (tmp_path / "dict/index.noun").write_bytes(NOUNS)
    assert list(read_captions([CaptionFile(tmp_path, "wordnet_nouns")], tmp_path, Tally())) == ["'hood", "hot dog"]


LONG = b"x" * (3 << 20)
BAD: dict[str, tuple[bytes, dict[str, int]]] = {
    "caption_url_tsv": (b"one\n" b"a\tb\tc\n" b"caf\xe9\tu\n" b" \tu\n" b"http://x\ta dog\n" + LONG + b"\tu\n",
                        {"wrong number of columns": 2, "not UTF-8": 1, "empty caption": 1,
                         "an address in place of the caption": 1, "longer than 1 MiB": 1}),
    "words": (b"\ncaf\xe9\n", {"empty caption": 1, "not UTF-8": 1}),
    "wordnet_nouns": (b"run v 1 1 @ 1 0 00000000\nodd\n", {"not a line of index.noun": 2}),
    "json_lines": (b'{"text": "x"}\n{"caption": null}\nodd\n{"caption": "\\ud800"}\n[1]\n',
                   {"no field 'caption'": 2, "empty caption": 1, "not JSON": 1, "not UTF-8": 1}),
}  # fmt: skip
FILL = {"caption_url_tsv": b"fine\tu\n", "words": b"fine\n", "json_lines": b'{"caption": "fine"}\n',
        "wordnet_nouns": b"fine n 1 1 @ 1 0 00001740  \n"}  # fmt: skip


@pytest.mark.parametrize("kind", BAD)
def test_single_bad_rows_are_counted_by_reason_and_left_out(tmp_path: Path, kind: str) -> None:
    rows, reasons = BAD[kind]
    found, tally = read(tmp_path, kind, "file", FILL[kind] * 6 + rows + FILL[kind])
    assert found == ["fine"] * 7
    assert tally.reasons() == reasons


@pytest.mark.parametrize("kind", BAD)
def test_more_than_half_bad_rows_refuse_the_file(tmp_path: Path, kind: str) -> None:
    rows, reasons = BAD[kind]
    bad = sum(reasons.values())
    with pytest.raises(UserError, match=rf"file: {bad} of its {2 * bad - 1} rows are no captions \(.*: \d.*\?"):
        read(tmp_path, kind, "file", FILL[kind] * (bad - 1) + rows)
    read(tmp_path, kind, "file", FILL[kind] * bad + rows)


@pytest.mark.parametrize(
    ("kind", "name", "content", "message"),
    [
        ("caption_url_tsv", "a.tsv", b"one\ntwo\n", r"a\.tsv: none of its 2 rows is a caption "
         r"\(wrong number of columns: 2\); are the columns those of CC3M"),
        ("url_caption_tsv", "a.tsv", b"a\tb\tc\n", r"a\.tsv: none of its 1 rows .*are the columns those of CC12M"),
        ("caption_url_tsv", "a.tsv", b"http://x\ta dog\n" * 3, "an address in place of the caption: 3"),
        ("words", "a.txt", b"", r"a\.txt: this file is empty; fetch it again"),
        ("wordnet_nouns", "a.zip", zip_of({"index.verb": b"x"}), r"a\.zip: there is no index\.noun in it"),
        ("words", "a.zip", zip_of({"a.txt": b"x", "b.txt": b"y"}), "more than one word list"),
        ("coco_captions", "a.zip", zip_of({"captions_a.json": b'{"annotations": [{"caption": "x"}'}), "ends early"),
        ("coco_captions", "a.zip", zip_of({"captions_a.json": b'{"images": []}'}), "it has no 'annotations'"),
        ("sbu", "a.json", b'{"captions": ["x" 5]}', "cannot be read as JSON"),
        ("wit", "a.tsv", b"language\turl\nen\tu\n", "column caption_reference_description is missing"),
        ("wit", "a.tsv.gz", wit([["de", "u", "Hund", "x"]]), "none of its 1 rows is a caption .another language"),
        ("wit", "a.tsv.gz", GOOD["wit"][1][:-12], r"a\.tsv\.gz: damaged or truncated"),
        ("parquet", "a.parquet", b"PAR1 not at all PAR1", r"a\.parquet: damaged"),
        ("parquet", "a.parquet", parquet("title", ["x"]), r"no column 'caption or text' \(there are: url, title\)"),
        ("cased", "a.tar.gz", gzip.compress(tar_of({"text.index": b"x"}), mtime=0),
         r"there is no metadata/\*\.arrow in it"),
        ("cased", "a.tar", tar_of({"metadata/0.arrow": b"odd"}), r"a\.tar: damaged"),
    ],
)  # fmt: skip
def test_a_file_of_another_kind_is_one_clear_sentence(
    tmp_path: Path, kind: str, name: str, content: bytes, message: str
) -> None:
    with pytest.raises(UserError, match=message) as caught:
        read(tmp_path, kind, name, content)
    assert str(tmp_path / name) in str(caught.value)


def test_missing_files_formats_and_inputs_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"a\.tsv: this file is missing"):
        list(read_captions([CaptionFile(tmp_path / "a.tsv", "words")], tmp_path, Tally()))
    source = {"input": "archive_x", "format": "words", "files": ["a", "b"]}
    assert [file.path.name for file in caption_files([source], {"archive_x": tmp_path})] == ["a", "b"]
    wrong = [({"format": "odd"}, "'odd' is none of"), ({"input": "y"}, "'y' is not among"), ({"files": []}, "no file")]
    for change, message in wrong:
        with pytest.raises(UserError, match=message):
            caption_files([source | change], {"archive_x": tmp_path})


def test_bytes_that_are_no_utf8_cost_one_caption_of_a_json_or_parquet_file(tmp_path: Path) -> None:
    odd = notes("caf@", "fine", "good").replace(b"@", b"\xe9")
    assert read(tmp_path, "coco_captions", "captions_a.json", odd)[0] == ["fine", "good"]
    column = pa.array([b"caf\xe9", b"fine", b"good"], pa.binary()).view(pa.string())
    pq.write_table(pa.table({"caption": column}), tmp_path / "a.parquet")
    found, tally = read(tmp_path, "parquet", "a.parquet", (tmp_path / "a.parquet").read_bytes())
    assert (found, tally.reasons()) == (["fine", "good"], {"not UTF-8": 1})


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
)


@settings(max_examples=50)
@given(st.dictionaries(st.text(), values, max_size=4), st.lists(values, max_size=6), st.sampled_from([None, 2]))
def test_streamed_json_equals_parsed_json(others: dict[str, object], wanted: list[object], indent: int | None) -> None:
    text = json.dumps({**others, "wanted": wanted, "z": [1, 2]}, indent=indent).encode()
    assert list(json_array(io.BytesIO(text), "wanted")) == wanted


def test_a_long_json_file_is_read_piece_by_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    many = json.dumps({"skip": ["y" * 50] * 30_000, "a": ["x" * 50] * 30_000}).encode()
    tracemalloc.start()
    assert sum(1 for _ in json_array(io.BytesIO(many), "a")) == 30_000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20 < len(many) / 3


@given(st.lists(st.lists(st.integers(0, 30), max_size=12), max_size=12))
def test_a_number_is_fresh_where_it_occurs_first(chunks: list[list[int]]) -> None:
    seen, known = Seen(), set[int]()
    for chunk in chunks:
        fresh = seen.add(np.array(chunk, np.uint64))
        for number, is_fresh in zip(chunk, fresh.tolist(), strict=True):
            assert is_fresh == (number not in known)
            known.add(number)


def test_repeated_captions_are_left_out_letter_by_letter() -> None:
    assert list(distinct(["a dog", "A dog", "a dog", "cat", "cat "])) == ["a dog", "A dog", "cat", "cat "]


def test_reading_holds_a_few_rows_at_a_time(tmp_path: Path) -> None:
    def peak(kind: str, name: str, content: bytes) -> int:
        (tmp_path / name).write_bytes(content)
        tracemalloc.start()
        assert sum(1 for _ in read_captions([CaptionFile(tmp_path / name, kind)], tmp_path, Tally())) == 30_000
        used = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return used

    line = b"a rather long caption of a dog on the grass\thttp://world.invalid/1.jpg\n"
    assert peak("caption_url_tsv", "a.tsv", line * 30_000) < 1 << 20 < 30_000 * len(line) / 2
    many = notes(*["a rather long caption of a dog on the grass"] * 30_000)
    assert peak("coco_captions", "captions_a.json", many) < 1 << 20 < len(many) / 2
