"""Every kind of bad copy, from the server through the fetch stage to the stage that reads it: refused in one sentence.

Each case says what it is a bad copy of; nothing is left under a final name, and nothing is run or written elsewhere.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import pickle
import re
import tarfile
import zipfile
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import small_archives
from hostile import member
from http_server import PAGE, Server
from small_archives import Files, jpg, png, tar_of, zip_of
from test_text_images import refcoco

from ovss.config.datasets import Datasets, fetch_params, prepare_params
from ovss.data import archives, fetch, prepare, prepare_texts
from ovss.errors import UserError
from ovss.jobs import JobContext, Machine
from ovss.retrieval.sources import Tally, caption_files, read_captions

VOC = "VOCtrainval_11-May-2012.tar"
GOOD = small_archives.voc2012()[0][VOC]


def md5(data: bytes) -> str:
    return hashlib.md5(data).hexdigest()


class Case(NamedTuple):
    """What the server has, how it answers, what is stated of the file, and what the message says (None: it is used)."""

    data: bytes
    words: str | None
    mode: str = "plain"
    stated: bytes | None = GOOD


FILES = {
    "truncated file": Case(GOOD[: len(GOOD) // 2], r"it has \d+ bytes instead of \d+ \(cut short\)"),
    "truncated answer": Case(GOOD, r"broke off after \d+ bytes \(cut short\)", "truncated"),
    "truncated file of which nothing is stated": Case(GOOD[: len(GOOD) // 2], "damaged or truncated", stated=None),
    "wrong md5": Case(GOOD[:-1] + b"x", rf"its md5 is \w+ instead of {md5(GOOD)}"),
    "right size, wrong bytes": Case(bytes(len(GOOD)), rf"its md5 is {md5(bytes(len(GOOD)))} instead of"),
    "page with status 200": Case(GOOD, "it is a web page", "page"),
    "page in place of the file": Case(PAGE, "it is a web page", stated=None),
    "404": Case(GOOD, "the server answers 404", "missing/"),
    "302": Case(GOOD, None, "redirect"),
    "302 without end": Case(GOOD, "redirects without end", "loop"),
    "no Range": Case(GOOD, None, "no-range"),
    "another Range": Case(GOOD, None, "moved-range"),
    "changed ETag": Case(GOOD, None, "new-version"),
    "empty": Case(GOOD, "it is empty", "empty"),
}


def fetched(server: Server, config: Datasets, archive: str, case: Case, name: str, folder: Path) -> Path:
    """Run the fetch job of an archive for one file."""
    server.files = {name: case.data}
    (entry,) = [entry for entry in fetch_params(config, archive)["files"] if entry["name"] == name]
    known = {"md5": md5(case.stated), "size": len(case.stated)} if case.stated is not None else {}
    entry |= dict.fromkeys(("size", "sha256", "sha1", "md5")) | known
    entry |= {"url": server.url(case.mode, name), "mirrors": []}
    folder.mkdir(parents=True, exist_ok=True)
    params = {"archive": archive, "files": [entry]}
    fetch.run(JobContext(seed=0, machine=Machine(), params=params, out=folder))
    return folder


@pytest.mark.parametrize("case", FILES)
@pytest.mark.parametrize("resumed", [False, True])
def test_a_bad_copy_of_a_file(case: str, resumed: bool, server: Server, config: Datasets, tmp_path: Path) -> None:
    """Also where an earlier start left a part of the right file behind."""
    if resumed:
        (Path("data/partial/voc2012")).mkdir(parents=True)
        Path(f"data/partial/voc2012/{VOC}.part").write_bytes(GOOD[:1000])
        url = server.url(FILES[case].mode, VOC)
        stamp = f'{{"url": "{url}", "etag": "\\"{md5(GOOD)}\\"", "modified": ""}}'
        Path(f"data/partial/voc2012/{VOC}.part.json").write_text(stamp)
    out, words = tmp_path / "out", FILES[case].words
    if words is None:
        assert (fetched(server, config, "voc2012", FILES[case], VOC, out) / VOC).read_bytes() == GOOD
        return
    with pytest.raises(UserError, match=words):
        fetched(server, config, "voc2012", FILES[case], VOC, out)
    assert not Path("data/checksums").exists()
    assert FILES[case].stated is None or not list(out.iterdir())


def voc(changes: Files) -> bytes:
    """The small VOC with other members."""
    with tarfile.open(fileobj=BytesIO(GOOD)) as opened:
        members = {info.name: opened.extractfile(info).read() for info in opened if info.isreg()}  # type: ignore[union-attr]
    return tar_of({**members, **changes})


with tarfile.open(fileobj=BytesIO(GOOD)) as _tar:
    _IDS = _tar.extractfile("VOCdevkit/VOC2012/ImageSets/Segmentation/val.txt").read().split()  # type: ignore[union-attr]
JPG = f"VOCdevkit/VOC2012/JPEGImages/{_IDS[0].decode()}.jpg"
LABEL = f"VOCdevkit/VOC2012/SegmentationClass/{_IDS[0].decode()}.png"
EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n%%EOF\n"
MEMBERS = {
    "../evil": (member(b"../evil", b"x") + GOOD, "outside the target"),
    "absolute path": (member(b"/evil", b"x") + GOOD, "outside the target"),
    "symlink pointing outside": (
        member(JPG.encode(), kind=tarfile.SYMTYPE, link=b"/etc/passwd") + GOOD,
        "link or a device",
    ),
    "image that is HTML": (voc({JPG: PAGE}), r"\.jpg: this image cannot be read"),
    "image of 0 bytes": (voc({JPG: b""}), r"\.jpg: this image cannot be read \(it is empty\)"),
    "corrupt JPEG": (voc({JPG: jpg(0, 48, 64)[:300]}), r"\.jpg: this image cannot be read"),
    "image of a format that nobody expects": (voc({JPG: EPS}), r"\.jpg: this image cannot be read \(cannot identify"),
    "label that is HTML": (voc({LABEL: PAGE}), r"\.png: this label image cannot be read"),
    "label in another format": (voc({LABEL: jpg(0, 48, 64, gray=True)}), r"\.png: this label image cannot be read"),
    "label of another size": (voc({LABEL: png(np.zeros((3, 3), np.uint8))}), "its label"),
    "zip bomb": (b"", "refusing it as a bomb"),
    "gzip bomb": (b"", "refusing it as a bomb"),
}


def bomb(kind: str) -> bytes:
    """An image of 8 MiB that packs to a thousandth."""
    blank = bytes(8 << 20)
    if kind == "gzip bomb":
        return gzip.compress(tar_of({"VOCdevkit/VOC2012/ImageSets/Segmentation/val.txt": _IDS[0], JPG: blank}))
    stream = BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as opened:
        opened.writestr("VOCdevkit/VOC2012/ImageSets/Segmentation/val.txt", _IDS[0] + b"\n")
        opened.writestr(JPG, blank)
    return stream.getvalue()


@pytest.mark.parametrize("case", MEMBERS)
def test_a_bad_member_of_a_verified_archive(
    case: str, server: Server, config: Datasets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archives, "Limits", partial(archives.Limits, slack_bytes=1 << 20))
    data, words = MEMBERS[case]
    data = data or bomb(case)
    folder = fetched(server, config, "voc2012", Case(data, None, stated=data), VOC, tmp_path / "fetched")
    before = {path.name for path in tmp_path.iterdir()}
    out = tmp_path / "job" / "out"
    out.mkdir(parents=True)
    params = {**prepare_params(config, "voc2012_val"), "images": None}
    job: dict[str, Any] = {"seed": 0, "machine": Machine(), "params": params, "inputs": {"voc2012": folder}}
    with pytest.raises(UserError, match=words) as caught:
        prepare.run(JobContext(**job, out=out))
    assert "\n" not in str(caught.value) and not (out / "facts.json").exists()
    assert {path.name for path in tmp_path.iterdir()} == before | {"job"} and not list(tmp_path.rglob("evil*"))
    assert not any(path.is_symlink() for path in tmp_path.rglob("*"))


class Command:
    """Leaves a file behind when it is unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch OWNED",)


@pytest.mark.parametrize("archive", ["refcoco", "refcoco_plus", "refcocog"])
def test_a_malicious_pickle_in_a_zip(archive: str, server: Server, config: Datasets, tmp_path: Path) -> None:
    source = config.text_sources[f"{archive}_val"]
    name, by, _ = source.split.split("/")
    with zipfile.ZipFile(BytesIO(refcoco()["refcoco.zip"])) as opened:
        instances = opened.read("refcoco/instances.json")
    listed = pickle.dumps([Command()], protocol=2)
    data = zip_of({f"{name}/instances.json": instances, f"{name}/refs({by}).p": listed})
    inputs = {archive: fetched(server, config, archive, Case(data, None, stated=None), f"{name}.zip", tmp_path / "a")}
    (tmp_path / "coco2014").mkdir()
    (tmp_path / "coco2014" / "train2014.zip").write_bytes(refcoco()["train2014.zip"])
    (tmp_path / "out").mkdir()
    job: dict[str, Any] = {"seed": 0, "machine": Machine(), "params": source.params(archive), "out": tmp_path / "out"}
    words = rf"{re.escape(name)}\.zip: {re.escape(name)}/refs\({by}\)\.p: not a pickle of plain values.* GLOBAL"
    with pytest.raises(UserError, match=words):
        prepare_texts.run(JobContext(**job, inputs=inputs | {"coco2014": tmp_path / "coco2014"}))
    assert not list(tmp_path.rglob("OWNED"))
    pickle.loads(listed)
    assert Path("OWNED").is_file(), "the pickle is alive"


ROWS = {
    "1 column": (b"a dog\n", "wrong number of columns"),
    "3 columns": (b"a dog\thttp://x\tmore\n", "wrong number of columns"),
    "bad UTF-8": (b"a \xff dog\thttp://x\n", "not UTF-8"),
}


@pytest.mark.parametrize("case", ROWS)
def test_a_bad_row_of_a_table(case: str, server: Server, config: Datasets, tmp_path: Path) -> None:
    """Single bad rows are left out and counted."""
    row, reason = ROWS[case]
    name = "Train_GCC-training.tsv"
    data = b"".join(b"caption %d\thttp://x/%d\n" % (k, k) for k in range(9)) + row
    inputs = {"cc3m": fetched(server, config, "cc3m", Case(data, None, stated=data), name, tmp_path / "cc3m")}
    sources = [{"input": "cc3m", "format": "caption_url_tsv", "files": [name]}]
    tally = Tally()
    found = list(read_captions(caption_files(sources, inputs), tmp_path / "scratch", tally))
    assert found == [f"caption {k}" for k in range(9)] and tally.reasons() == {reason: 1}
