"""Extraction: the wanted members and nothing else, never outside the target, damage named."""

from __future__ import annotations

import gzip
import io
import stat
import tarfile
import tempfile
import warnings
import zipfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ovss.data.archives import Limits, extract, open_file, open_members, read_member
from ovss.errors import UserError

FILES = {"root/a.txt": b"alpha" * 100, "root/deep/b.txt": b"beta", "root/c.jpg": b"gamma"}


def tar(path: Path, members: dict[str, bytes], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def special(path: Path, kind: bytes, target: str) -> Path:
    with tarfile.open(path, "w") as archive:
        info = tarfile.TarInfo("root/odd")
        info.type, info.linkname = kind, target
        archive.addfile(info)
    return path


def zipped(path: Path, members: dict[str, bytes], mode: int = 0o644) -> Path:
    with warnings.catch_warnings(), zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        warnings.simplefilter("ignore")  # zipfile cuts names at a NUL, so that two may become the same
        for name, content in members.items():
            info = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            info.external_attr = mode << 16
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, content)
    return path


def packed(kind: str, folder: Path, members: dict[str, bytes]) -> Path:
    if kind == "zip":
        return zipped(folder / "x.zip", members)
    if kind.startswith("deb"):
        inner = tar(folder / "inner", members, f"w:{kind.removeprefix('deb-')}")
        data = debian({"debian-binary": b"2.0\n", "control.tar.xz": b"odd", f"data.tar.{kind[4:]}": inner.read_bytes()})
        inner.unlink()
        (folder / "x.deb").write_bytes(data)
        return folder / "x.deb"
    return tar(folder / f"x.{kind}", members, "w:gz" if kind == "tar.gz" else "w")


def debian(members: dict[str, bytes]) -> bytes:
    """An ar file as dpkg-deb writes it: padded to even places."""
    out = b"!<arch>\n"
    for name, content in members.items():
        out += f"{name:<16}{1629015978:<12}{0:<6}{0:<6}{100644:<8}{len(content):<10}`\n".encode()
        out += content + b"\n" * (len(content) % 2)
    return out


def every(name: str) -> bool:
    return True


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


KINDS = pytest.mark.parametrize("kind", ["tar", "tar.gz", "zip", "deb-xz", "deb-gz"])


@KINDS
def test_wanted_members_are_written_and_no_others(tmp_path: Path, kind: str) -> None:
    archive = packed(kind, tmp_path, FILES)
    assert extract(archive, tmp_path / "out", lambda name: name.endswith(".txt")) == ["root/a.txt", "root/deep/b.txt"]
    assert tree(tmp_path / "out") == {name: FILES[name] for name in ("root/a.txt", "root/deep/b.txt")}


@KINDS
def test_what_the_finder_leaves_behind_is_skipped(tmp_path: Path, kind: str) -> None:
    extra = {"__MACOSX/root/._a.txt": b"x", "root/.DS_Store": b"x", "./root/d.txt": b"delta"}
    archive = packed(kind, tmp_path, {**FILES, **extra})
    assert extract(archive, tmp_path / "out", every) == sorted([*FILES, "root/d.txt"])


@KINDS
@pytest.mark.parametrize("name", ["../evil", "root/../../evil", "/evil", "root/..", "C:evil", "a\\..\\evil"])
def test_a_name_that_leaves_the_target_refuses_the_archive(tmp_path: Path, kind: str, name: str) -> None:
    archive = packed(kind, tmp_path, {name: b"x"})
    before = tree(tmp_path)
    with pytest.raises(UserError, match=r"x\..*outside the target"):
        extract(archive, tmp_path / "out", lambda _: False)  # even if nobody asked for it
    assert tree(tmp_path) == before


@pytest.mark.parametrize(
    ("kind", "target"),
    [(tarfile.SYMTYPE, "/etc/passwd"), (tarfile.LNKTYPE, "../../x"), (tarfile.CHRTYPE, ""), (tarfile.FIFOTYPE, "")],
)
def test_links_and_devices_are_refused(tmp_path: Path, kind: bytes, target: str) -> None:
    archive = special(tmp_path / "x.tar", kind, target)
    with pytest.raises(UserError, match="link or a device"):
        extract(archive, tmp_path / "out", every)
    assert extract(archive, tmp_path / "other", lambda _: False) == []


def test_a_symlink_in_a_zip_is_refused(tmp_path: Path) -> None:
    archive = zipped(tmp_path / "x.zip", {"root/link": b"/etc/passwd"}, stat.S_IFLNK | 0o777)
    with pytest.raises(UserError, match="link or a device"):
        extract(archive, tmp_path / "out", every)


@pytest.mark.parametrize("kind", ["tar.gz", "zip", "deb-xz"])
def test_a_bomb_is_stopped_before_it_fills_the_disk(tmp_path: Path, kind: str) -> None:
    archive = packed(kind, tmp_path, {"root/zeros": bytes(20 << 20)})
    with pytest.raises(UserError, match="bomb"):
        extract(archive, tmp_path / "out", every, Limits(ratio=100, slack_bytes=1 << 20))
    assert sum(len(content) for content in tree(tmp_path / "out").values()) < 8 << 20


@KINDS
def test_too_many_members_are_refused(tmp_path: Path, kind: str) -> None:
    archive = packed(kind, tmp_path, {f"{k}.txt": b"" for k in range(11)})
    with pytest.raises(UserError, match="more than 10 members"):
        extract(archive, tmp_path / "out", every, Limits(members=10))


@pytest.mark.parametrize("names", [["a", "a"], ["a", "a/b"], ["a/b", "a"]])
def test_members_that_collide_are_refused(tmp_path: Path, names: list[str]) -> None:
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        for name in names:
            archive.addfile(tarfile.TarInfo(name), io.BytesIO())
    with pytest.raises(UserError, match="collides"):
        extract(tmp_path / "x.tar", tmp_path / "out", every)


@pytest.mark.parametrize("content", [b"", b"<html>please log in</html>", b"PK", b"PK\x03\x04broken", b"\x1f\x8bbroken"])
def test_what_is_no_archive_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.zip").write_bytes(content)
    with pytest.raises(UserError, match=r"x\.zip: damaged or truncated"):
        extract(tmp_path / "x.zip", tmp_path / "out", every)


def test_a_missing_archive_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"x\.zip: this archive is missing"):
        extract(tmp_path / "x.zip", tmp_path / "out", every)


def test_an_encrypted_zip_is_named(tmp_path: Path) -> None:
    data = bytearray(zipped(tmp_path / "x.zip", {"root/a": b"x"}).read_bytes())
    for mark, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(mark) + offset] |= 1
    (tmp_path / "x.zip").write_bytes(data)
    with pytest.raises(UserError, match="encrypted"):
        extract(tmp_path / "x.zip", tmp_path / "out", every)


@KINDS
def test_one_member_can_be_read(tmp_path: Path, kind: str) -> None:
    archive = packed(kind, tmp_path, FILES)
    assert read_member(archive, "root/a.txt") == FILES["root/a.txt"]
    with pytest.raises(UserError, match=r"no member 'root/z\.txt'"):
        read_member(archive, "root/z.txt")
    with pytest.raises(UserError, match="larger than 10 bytes"):
        read_member(archive, "root/a.txt", limit=10)


names = st.text(alphabet=st.sampled_from("ab./\\~:\0\n é"), min_size=1, max_size=12)


@settings(max_examples=60, deadline=None)
@given(
    members=st.dictionaries(names, st.binary(max_size=8), min_size=1, max_size=4), kind=st.sampled_from(["tar", "zip"])
)
def test_no_name_ever_leads_outside(members: dict[str, bytes], kind: str) -> None:
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root, "home", "user")
        folder.mkdir(parents=True)
        archive = packed(kind, folder, members)
        before = tree(Path(root))
        try:
            written = extract(archive, folder / "out", every)
        except UserError:
            written = None
        inside = {name: content for name, content in tree(Path(root)).items() if name.startswith("home/user/out/")}
        assert {name: content for name, content in tree(Path(root)).items() if name not in inside} == before
        assert written is None or sorted(f"home/user/out/{name}" for name in written) == sorted(inside)


@settings(max_examples=60, deadline=None)
@given(kind=st.sampled_from(["tar", "tar.gz", "zip", "deb-xz"]), share=st.floats(0, 1, exclude_max=True))
def test_a_truncated_archive_never_passes(kind: str, share: float) -> None:
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root)
        archive = packed(kind, folder, FILES)
        data = archive.read_bytes()
        end = data.rstrip(b"\0")  # a tar's padding after its end mark carries nothing
        archive.write_bytes(data[: int(len(end) * share)])
        with pytest.raises(UserError, match=r"x\."):
            extract(archive, folder / "out", every)


@settings(max_examples=60, deadline=None)
@given(
    kind=st.sampled_from(["tar", "tar.gz", "zip", "deb-xz"]),
    place=st.floats(0, 1, exclude_max=True),
    value=st.integers(1, 255),
)
def test_damaged_bytes_give_the_true_content_or_a_clear_refusal(kind: str, place: float, value: int) -> None:
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root)
        archive = packed(kind, folder, FILES)
        data = bytearray(archive.read_bytes())
        data[int(len(data) * place)] ^= value
        archive.write_bytes(data)
        try:
            extract(archive, folder / "out", every)
        except UserError as error:
            assert str(archive) in str(error)
        try:
            found = {name: stream.read() for name, stream in open_members(archive, every)}
        except UserError as error:
            assert str(archive) in str(error)
        else:
            assert sorted(found.values()) == sorted(tree(folder / "out").values())


@KINDS
def test_members_are_read_one_after_another_without_touching_the_disk(tmp_path: Path, kind: str) -> None:
    archive = packed(kind, tmp_path, FILES)
    found = {name: stream.read() for name, stream in open_members(archive, lambda name: name.endswith(".txt"))}
    assert found == {name: FILES[name] for name in ("root/a.txt", "root/deep/b.txt")}
    assert list(tree(tmp_path)) == [archive.name]


@pytest.mark.parametrize("kind", ["tar.gz", "zip", "deb-xz"])
def test_a_bomb_is_stopped_while_it_is_read(tmp_path: Path, kind: str) -> None:
    archive = packed(kind, tmp_path, {"root/zeros": bytes(20 << 20)})
    with pytest.raises(UserError, match="bomb"):
        for _, stream in open_members(archive, every, Limits(slack_bytes=1 << 20)):
            while stream.read(1 << 16):
                pass


def test_a_gzip_file_is_read_like_a_plain_one_and_damage_is_named(tmp_path: Path) -> None:
    content = b"line\n" * 1000
    (tmp_path / "plain").write_bytes(content)
    (tmp_path / "packed.gz").write_bytes(gzip.compress(content))
    (tmp_path / "cut.gz").write_bytes(gzip.compress(content)[:-9])
    for name in ("plain", "packed.gz"):
        with open_file(tmp_path / name) as stream:
            assert stream.read() == content
    with pytest.raises(UserError, match=r"cut\.gz: damaged or truncated"), open_file(tmp_path / "cut.gz") as stream:
        stream.read()


def test_a_package_packed_in_another_way_or_without_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.deb").write_bytes(debian({"debian-binary": b"2.0\n", "data.tar.zst": b"odd"}))
    with pytest.raises(UserError, match=r"x\.deb: data\.tar\.zst is compressed in a way"):
        extract(tmp_path / "x.deb", tmp_path / "out", every)
    (tmp_path / "x.deb").write_bytes(debian({"debian-binary": b"2.0\n"}))
    with pytest.raises(UserError, match=r"x\.deb: a Debian package without data\.tar"):
        extract(tmp_path / "x.deb", tmp_path / "out", every)
