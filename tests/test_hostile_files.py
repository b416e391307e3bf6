"""Random, damaged and hostile archives: each is used or refused in one sentence, and nothing else happens.

Nothing outside the folder, no gigabytes of memory, no endless reading.
"""

from __future__ import annotations

import gzip
import io
import shutil
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import small_archives
from hostile import END, FEW, damaged, flips, header, member, note, refusal
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from small_archives import png, tar_of, zip_of
from test_archives import debian, every, packed, tree, zipped

from ovss.data.archives import Limits, extract, open_file, open_members, read_member
from ovss.data.images import FORMATS, read_image
from ovss.data.labels import read_label
from ovss.data.pairs import FACTS, INDEX, ROW, Pairs
from ovss.data.webdataset import read_shard

SMALL = Limits(slack_bytes=1 << 20, members=500)


def read_all(path: Path) -> list[bytes]:
    return [stream.read() for _, stream in open_members(path, every, SMALL)]


def gunzip(path: Path) -> bytes:
    with open_file(path, SMALL) as stream:
        return stream.read()


READERS: dict[str, Callable[[Path, Path], object]] = {
    "extract": lambda path, out: extract(path, out, every, SMALL),
    "nothing wanted": lambda path, out: extract(path, out, lambda _: False, SMALL),
    "stream": lambda path, out: read_all(path),
    "one member": lambda path, out: read_member(path, "a.txt", 1 << 16),
    "plain or gzip": lambda path, out: gunzip(path),
    "shard": lambda path, out: list(read_shard(path)),
}


def thrown(data: bytes, *readers: str) -> dict[str, str | None]:
    """What each reader says of a file with these bytes; its folder holds nothing else afterwards but what is in out."""
    said = {}
    for name in readers or READERS:
        with tempfile.TemporaryDirectory() as root:
            home = Path(root, "home", "user")
            home.mkdir(parents=True)
            (home / "file").write_bytes(data)
            said[name] = refusal(lambda name=name, home=home: READERS[name](home / "file", home / "out"), 5.0, 256)
            left = {path.relative_to(root).as_posix() for path in Path(root).rglob("*")}
            beside = {path for path in left if not path.startswith("home/user/out")}
            assert beside == {"home", "home/user", "home/user/file"}
            assert not any(path.is_symlink() for path in Path(root).rglob("*"))
    return said


# --- bytes

MAGICS = (
    b"",
    b"PK\x03\x04",
    b"PK\x05\x06",
    b"\x1f\x8b\x08",
    b"BZh9",
    b"\xfd7zXZ\x00",
    b"!<arch>\n",
    header(b"a.txt", 9),
)


@FEW
@given(magic=st.sampled_from(MAGICS), rest=st.binary(max_size=700))
def test_random_bytes_are_read_or_refused(magic: bytes, rest: bytes) -> None:
    said = thrown(magic + rest)
    assert said["extract"] or not (magic + rest).strip(b"\0")


MEMBERS = {"a.txt": b"alpha" * 60, "b/c.jpg": small_archives.jpg(0, 16, 16), "b/d.png": png(np.eye(9, dtype=np.uint8))}


def archive(kind: str) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        return packed(kind, Path(folder), MEMBERS).read_bytes()


ARCHIVES = {kind: archive(kind) for kind in ("tar", "tar.gz", "zip", "deb-xz")} | {"gz": gzip.compress(b"line\n" * 99)}


@FEW
@given(kind=st.sampled_from([*ARCHIVES]), places=flips, length=st.sampled_from([1.0, 1.0, 0.97, 0.6]))
def test_several_flipped_bits_and_a_cut_end_are_read_or_refused(
    kind: str, places: list[tuple[float, int]], length: float
) -> None:
    thrown(damaged(ARCHIVES[kind], places, length))


def test_archives_in_archives_stay_packed() -> None:
    inner = zip_of({"../evil": b"x", "a.txt": bytes(9 << 20)})
    for _ in range(5):
        inner = gzip.compress(tar_of({"a.txt": inner, "b.tar": inner}), mtime=0)
    assert thrown(inner, "extract", "stream") == {"extract": None, "stream": None}


# --- images

EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n%%EOF\n"


def drawn(kind: str) -> bytes:
    """A small image in one of Pillow's formats."""
    if kind == "EPS":  # a program, for which Pillow calls another one
        return EPS
    stream = io.BytesIO()
    Image.new("RGB" if kind != "PCX" else "L", (8, 8), 7).save(stream, kind)
    return stream.getvalue()


@pytest.mark.parametrize("kind", ["EPS", "GIF", "PPM", "TGA", "PCX", "SGI", "ICO", "JPEG2000", "PDF", "DDS"])
def test_only_the_expected_formats_are_images(kind: str, tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(drawn(kind))
    assert "this image cannot be read (cannot identify" in str(refusal(lambda: read_image(tmp_path / "a.jpg")))
    assert "this label image cannot be read" in str(refusal(lambda: read_label(tmp_path / "a.jpg")))


@pytest.mark.parametrize("kind", FORMATS)
def test_the_expected_formats_are_images_whatever_their_name(kind: str, tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(drawn(kind))
    assert read_image(tmp_path / "a.jpg").shape == (8, 8, 3)
    assert refusal(lambda: read_label(tmp_path / "a.jpg")), "no label has colours"


# --- names

NAMES = ["../evil", "/evil", "a/../../evil", "a/./b", ".", "..", "C:\\evil", "C:/evil", "c:evil", "\\\\host\\evil",
         "a\\b", "CON", "aux.txt", "a:stream", "a.", "a ", "~/evil", "$HOME/evil", "-rf", "x" * 255, "x" * 256,
         "d/" * 300 + "x", "é", "e\u0301", "\u202etxt.exe", "\u2024\u2024/evil", "\uff0e\uff0e/evil", "\U0001f431",
         "caf\udce9", "A/b", "a/B", "a/b", "a", "new\nline", "tab\t", "\x1b[31m", "del\x7f", "a.txt"]  # fmt: skip
KINDS = (tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE,
         tarfile.FIFOTYPE, tarfile.CONTTYPE, b"Z")  # fmt: skip
TARGETS = ("", "a.txt", "..", "../evil", "/etc/passwd", "out")


@settings(FEW, max_examples=30)
@given(
    members=st.lists(
        st.tuples(st.sampled_from(NAMES), st.sampled_from(KINDS), st.sampled_from(TARGETS)), min_size=1, max_size=3
    )
)
def test_hostile_names_links_and_devices_in_a_tar(members: list[tuple[str, bytes, str]]) -> None:
    data = b"".join(
        note(path=name, linkpath=link) + member(b"short", b"x" * (kind in KINDS[::7]), kind)
        for name, kind, link in members
    )
    said = thrown(data + END, "extract", "nothing wanted", "shard")
    hostile = [name for name, _, _ in members if name.startswith("/") or ".." in name.split("/") or "\\" in name]
    assert not hostile or said["extract"]


@FEW
@given(
    members=st.lists(st.tuples(st.sampled_from([*NAMES, "nul\0.txt"]), st.integers(0, 0xFFFF)), min_size=1, max_size=3)
)
def test_hostile_names_and_modes_in_a_zip(members: list[tuple[str, int]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        names = {name.encode("utf-8", "replace").decode(): b"x" for name, _ in members}
        data = zipped(Path(folder, "x.zip"), names, members[0][1]).read_bytes()
    thrown(data, "extract", "stream", "nothing wanted")


def test_nothing_is_written_through_a_link_that_came_before() -> None:
    for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE):
        data = member(b"link", kind=kind, link=b"..") + member(b"link/evil", b"x") + END
        assert "link or a device" in (thrown(data, "extract")["extract"] or "")


def test_names_that_differ_in_case_only_are_two_files(tmp_path: Path) -> None:
    for number, pack in enumerate((tar_of, zip_of)):
        (tmp_path / f"{number}").write_bytes(pack({"A/b": b"1", "a/B": b"2", "a/b": b"3"}))
        extract(tmp_path / f"{number}", tmp_path / f"out{number}", every)
        assert tree(tmp_path / f"out{number}") == {"A/b": b"1", "a/B": b"2", "a/b": b"3"}


# --- bombs


def zip_bomb(method: int, megabytes: int) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as opened:
        opened.writestr("a.txt", bytes(megabytes << 20))
    return stream.getvalue()


HEADS = b"".join(header(b"%d" % number) for number in range(2000)) + END
BOMBS = {
    "ratio": zip_bomb(zipfile.ZIP_DEFLATED, 40),
    "gzip": gzip.compress(tar_of({"a.txt": bytes(40 << 20)}), 1),
    "members": HEADS,
    "packed members": gzip.compress(HEADS),
    "sparse": header(b"a.txt", sparse=1 << 33) + END,
    "package": debian({"debian-binary": b"2.0\n", "data.tar.gz": gzip.compress(HEADS)}),
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_bomb_is_refused_in_little_memory(bomb: str) -> None:
    said = thrown(BOMBS[bomb], "extract", "stream")
    assert all(any(word in str(message) for word in ("bomb", "500 members", "sparse")) for message in said.values())


@pytest.mark.parametrize("pack", [tar_of, zip_of])
def test_some_of_the_disk_stays_free(
    pack: Callable[[dict[str, bytes]], bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also of an archive that is no bomb."""
    rng = np.random.default_rng(0)
    (tmp_path / "file").write_bytes(pack({name: rng.bytes(60_000) for name in ("a.txt", "b.txt")}))
    free = shutil.disk_usage(tmp_path)._replace(free=Limits().spare_bytes + 100_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: free)
    said = refusal(lambda: extract(tmp_path / "file", tmp_path / "new" / "out", every))
    assert "member 'b.txt' does not fit on the disk, where 40000 bytes may be used; make room and start" in str(said)
    extract(tmp_path / "file", tmp_path / "other", lambda name: name == "b.txt")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: free._replace(free=5))
    assert "where 0 bytes may be used" in str(refusal(lambda: extract(tmp_path / "file", tmp_path / "third", every)))


HUGE_NOTES = {
    "name of 2^60 bytes": header(b"L", 1 << 60, b"L") + END,
    "pax header of 8 GiB": header(b"a.txt") + header(b"x", 8**11 - 1, b"x") + END,
    "pax header that unpacks to 300 MiB": gzip.compress(header(b"x", 300 << 20, b"x") + bytes(300 << 20), 1),
}
TURNING_BACK = {
    "binary": header(b"a.txt") + header(b"c", -512, b"Z") + END,
    "pax": header(b"a.txt") + note(size="-1536") + header(b"c", 0, b"Z") + END,
}


@pytest.mark.parametrize("data", HUGE_NOTES.values(), ids=HUGE_NOTES)
def test_a_huge_name_is_refused_before_it_is_read(data: bytes) -> None:
    assert all(thrown(data, "extract", "nothing wanted", "stream", "shard").values())


@pytest.mark.parametrize("data", TURNING_BACK.values(), ids=TURNING_BACK)
@pytest.mark.parametrize("reader", ["nothing wanted", "shard"])
def test_a_negative_size_does_not_lead_round_in_circles(reader: str, data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        (path := Path(folder, "file")).write_bytes(data)
        readers: dict[str, Callable[[], object]] = {
            "nothing wanted": lambda: extract(path, path, lambda _: False),
            "shard": lambda: list(read_shard(path)),
        }
        assert refusal(readers[reader], seconds=0.3)


def test_a_bzip2_bomb_is_refused_in_little_memory(tmp_path: Path) -> None:
    (tmp_path / "x.zip").write_bytes(zip_bomb(zipfile.ZIP_BZIP2, 46))
    for read in (lambda: read_member(tmp_path / "x.zip", "a.txt", 1 << 20), lambda: read_all(tmp_path / "x.zip")):
        assert refusal(read, megabytes=32)


SHARDS = {
    "a device of 2^80 bytes": header(b"d", 1 << 80, b"Z") + END,
    "notes without end": (header(b"L", 1, b"L") + b"a" + bytes(511)) * 1500 + END,
    "sparse without a map": note(GNU__sparse__major="1", GNU__sparse__minor="0") + member(b"a.jpg", b"x" * 512) + END,
    "sparse with a bad map": note(GNU__sparse__map="1,x") + member(b"a.jpg") + END,
    "sparse": header(b"a.jpg", sparse=60 << 20) + END,
}


@pytest.mark.parametrize("data", SHARDS.values(), ids=SHARDS)
def test_a_hostile_shard_is_refused(data: bytes) -> None:
    assert thrown(header(b"a.txt") + data, "shard")["shard"]


def test_a_key_that_is_no_utf8_is_read_again(tmp_path: Path) -> None:
    data = member(b"caf\xe9.jpg", small_archives.jpg(0, 8, 8)) + member(b"caf\xe9.txt", b"a dog") + END
    (tmp_path / "00000.tar").write_bytes(data)
    (sample,) = read_shard(tmp_path / "00000.tar")
    image, text = sample.members["jpg"], sample.members["txt"]
    np.save(tmp_path / INDEX, np.array([(0, image.offset, len(image.data), text.offset, len(text.data))], ROW))
    (tmp_path / FACTS).write_text('{"shards": ["00000.tar"]}')
    assert Pairs(tmp_path, tmp_path)[0].caption == "a dog"
