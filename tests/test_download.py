"""Downloads: verified bytes under the final name or a clear sentence and nothing."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from http_server import Server, serve

from ovss.data import fetch, transfer
from ovss.data.download import Patience, RemoteFile, download
from ovss.data.places import PARTIAL, manual_path
from ovss.errors import UserError
from ovss.jobs import JobContext, Machine

CONTENT = np.random.default_rng(0).bytes(300_000)
OTHER = np.random.default_rng(1).bytes(300_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
QUICK = Patience(attempts=3, pause=0.0, connect=2.0, read=2.0)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with serve({"a.tar": CONTENT}) as running:
        yield running


def known(*urls: str, **facts: object) -> RemoteFile:
    return RemoteFile("a.tar", urls, **{"size": len(CONTENT), "sha256": SHA256, **facts})


def unknown(*urls: str) -> RemoteFile:
    return RemoteFile("a.tar", urls)


def refusal(file: RemoteFile, folder: Path, patience: Patience = QUICK, **kwargs: object) -> str:
    """The message of the refusal; the final name must not exist after it."""
    with pytest.raises(UserError) as caught:
        download(file, folder, patience=patience, **kwargs)
    assert not (folder / "a.tar").exists()
    return str(caught.value)


@pytest.mark.parametrize("mode", ["plain", "no-range", "redirect", "once", "drip", "gzip"])
def test_bytes_arrive_verified_and_nothing_else_is_left(server: Server, tmp_path: Path, mode: str) -> None:
    server.pause_s = 0.0
    facts = download(known(server.url(mode, "a.tar")), tmp_path, patience=QUICK)
    assert (tmp_path / "a.tar").read_bytes() == CONTENT
    assert [path.name for path in tmp_path.iterdir()] == ["a.tar"]
    assert facts == {"size": 300_000, "sha256": SHA256, "verified_by": "sha256", "url": server.url(mode, "a.tar")}


def test_without_a_published_hash_the_sha256_is_measured(server: Server, tmp_path: Path) -> None:
    facts = download(unknown(server.url("plain", "a.tar")), tmp_path, patience=QUICK)
    assert (facts["sha256"], facts["verified_by"]) == (SHA256, None)


@pytest.mark.parametrize("kind", ["sha256", "sha1", "md5"])
def test_the_strongest_known_hash_decides(server: Server, tmp_path: Path, kind: str) -> None:
    right = hashlib.new(kind, CONTENT).hexdigest()
    weaker = {other: None for other in ("sha256", "sha1", "md5")}
    for other in ("md5", "sha1", "sha256"):
        if other == kind:
            break
        weaker[other] = "0" * 32  # a wrong weaker hash is not looked at
    url = server.url("plain", "a.tar")
    facts = download(known(url, **{**weaker, kind: right}), tmp_path / "right", patience=QUICK)
    assert (facts["verified_by"], facts["sha256"]) == (kind, SHA256)
    assert f"its {kind} is {right} instead of 0" in refusal(known(url, **{**weaker, kind: "0" * len(right)}), tmp_path)


@pytest.mark.parametrize(
    ("mode", "words"),
    [
        ("missing/", "the server answers 404"),
        ("forbidden", "the server answers 403"),
        ("busy", "the server answers 503"),
        ("loop", "redirects without end"),
        ("truncated", "cut short"),
        ("page", "web page"),
        ("empty", "it is empty"),
    ],
)
def test_a_bad_answer_is_named_and_leaves_no_file(server: Server, tmp_path: Path, mode: str, words: str) -> None:
    message = refusal(unknown(server.url(mode, "a.tar")), tmp_path)
    assert words in message and server.url(mode, "a.tar") in message


def test_right_size_but_wrong_bytes_are_refused_after_one_more_try(server: Server, tmp_path: Path) -> None:
    server.files["a.tar"] = OTHER
    assert "its sha256 is" in refusal(known(server.url("plain", "a.tar")), tmp_path)
    assert len(server.requests) == 2 and not (tmp_path / "a.tar.part").exists()


def test_a_wrong_size_is_told_without_hashing(server: Server, tmp_path: Path) -> None:
    message = refusal(known(server.url("plain", "a.tar"), size=300_001, sha256=None), tmp_path)
    assert "it has 300000 bytes instead of 300001 (cut short)" in message


def test_the_next_mirror_is_asked_when_one_fails(server: Server, tmp_path: Path) -> None:
    urls = [
        server.url("missing/", "a.tar"),
        "http://127.0.0.1:9/a.tar",
        server.url("page", "a.tar"),
        server.url("plain", "a.tar"),
    ]
    assert download(known(*urls), tmp_path, patience=QUICK)["url"] == urls[3]


def test_no_connection_is_told_with_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    message = refusal(unknown("http://127.0.0.1:9/a.tar"), tmp_path, hint="place the file at data/manual/x/a.tar")
    assert "offline" in message and message.endswith("place the file at data/manual/x/a.tar")


def test_a_server_that_stays_silent_is_given_up(server: Server, tmp_path: Path) -> None:
    server.pause_s = 5.0
    start = time.monotonic()
    message = refusal(unknown(server.url("drip", "a.tar")), tmp_path, Patience(attempts=1, read=0.2))
    assert "no answer within 0.2 s" in message and time.monotonic() - start < 3


def interrupted(folder: Path, kept: bytes, stamp: dict[str, str]) -> None:
    (folder / "a.tar.part").write_bytes(kept)
    (folder / "a.tar.part.json").write_text(json.dumps(stamp))


def etag(content: bytes) -> str:
    return f'"{hashlib.md5(content).hexdigest()}"'


@pytest.mark.parametrize("hashed", [True, False])
def test_an_interrupted_download_goes_on_where_it_stopped(server: Server, tmp_path: Path, hashed: bool) -> None:
    url = server.url("plain", "a.tar")
    interrupted(tmp_path, CONTENT[:100_000], {"url": url, "etag": etag(CONTENT), "modified": ""})
    download(known(url) if hashed else unknown(url), tmp_path, patience=QUICK)
    assert (tmp_path / "a.tar").read_bytes() == CONTENT
    assert server.requests == [("GET", "/plain/a.tar", "bytes=100000-")]


def test_a_cut_off_answer_is_continued_within_the_same_call(server: Server, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cut short"):
        download(known(server.url("truncated", "a.tar")), tmp_path, patience=QUICK)
    assert [asked for _, _, asked in server.requests] == ["", "bytes=150000-", "bytes=225000-"]
    kept = (tmp_path / "a.tar.part").read_bytes()
    assert kept == CONTENT[: len(kept)] and len(kept) > 250_000
    download(known(server.url("plain", "a.tar")), tmp_path, patience=QUICK)  # a mirror finishes what the first began
    assert (tmp_path / "a.tar").read_bytes() == CONTENT and server.requests[-1][2] == f"bytes={len(kept)}-"


def test_a_changed_file_starts_anew(server: Server, tmp_path: Path) -> None:
    url = server.url("plain", "a.tar")
    interrupted(tmp_path, OTHER[:100_000], {"url": url, "etag": etag(OTHER), "modified": ""})
    download(unknown(url), tmp_path, patience=QUICK)
    assert (tmp_path / "a.tar").read_bytes() == CONTENT


@pytest.mark.parametrize("mode", ["no-range", "moved-range"])
def test_a_server_that_cannot_go_on_starts_anew(server: Server, tmp_path: Path, mode: str) -> None:
    url = server.url(mode, "a.tar")
    interrupted(tmp_path, CONTENT[:100_000], {"url": url, "etag": etag(CONTENT), "modified": ""})
    download(unknown(url), tmp_path, patience=QUICK)
    assert (tmp_path / "a.tar").read_bytes() == CONTENT


def test_a_part_longer_than_the_file_is_dropped(server: Server, tmp_path: Path) -> None:
    url = server.url("plain", "a.tar")
    interrupted(tmp_path, CONTENT + b"more", {"url": url, "etag": etag(CONTENT), "modified": ""})
    download(unknown(url), tmp_path, patience=QUICK)
    assert (tmp_path / "a.tar").read_bytes() == CONTENT


def test_a_part_of_another_file_is_noticed_by_the_hash(server: Server, tmp_path: Path) -> None:
    interrupted(tmp_path, OTHER[:100_000], {"url": "http://elsewhere/a.tar", "etag": "", "modified": ""})
    download(known(server.url("plain", "a.tar")), tmp_path, patience=QUICK)
    assert (tmp_path / "a.tar").read_bytes() == CONTENT


def test_without_stamp_and_hash_nothing_old_is_kept(server: Server, tmp_path: Path) -> None:
    (tmp_path / "a.tar.part").write_bytes(OTHER[:100_000])
    download(unknown(server.url("plain", "a.tar")), tmp_path, patience=QUICK)
    assert (tmp_path / "a.tar").read_bytes() == CONTENT


def test_a_full_disk_is_told_and_keeps_what_came(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class FullAfterOneChunk:
        def __init__(self, raw: object) -> None:
            self._raw, self.close = raw, raw.close  # type: ignore[attr-defined]

        def stream(self, *_: object, **__: object) -> Iterator[bytes]:
            yield self._raw.read(100_000)  # type: ignore[attr-defined]
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    append = transfer._append

    def full(response: object, *rest: object) -> object:
        response.raw = FullAfterOneChunk(response.raw)  # type: ignore[attr-defined]
        return append(response, *rest)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(transfer, "_append", full)
        assert "the disk is full after 100000 bytes" in refusal(known(server.url("plain", "a.tar")), tmp_path)
    download(known(server.url("plain", "a.tar")), tmp_path, patience=QUICK)
    assert server.requests[-1][2] == "bytes=100000-"


def test_too_little_room_is_told_before_the_first_byte(server: Server, tmp_path: Path) -> None:
    assert "make room" in refusal(known(server.url("plain", "a.tar"), size=1 << 60), tmp_path)
    assert server.requests == []


def test_local_files_are_copied_and_verified(tmp_path: Path) -> None:
    (tmp_path / "source.tar").write_bytes(CONTENT)
    download(known((tmp_path / "source.tar").as_uri()), tmp_path / "out", patience=QUICK)
    assert (tmp_path / "out" / "a.tar").read_bytes() == CONTENT
    assert "No such file" in refusal(known((tmp_path / "gone.tar").as_uri()), tmp_path)


# --- the stage


def job(out: Path, files: list[dict[str, object]], manual: str | None = None, **inputs: Path) -> JobContext:
    out.mkdir(parents=True)
    params = {"archive": "cityscapes", "files": files, "manual": manual}
    return JobContext(seed=0, machine=Machine(), params=params, inputs=inputs, out=out)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_stage_downloads_and_reports(server: Server, here: Path) -> None:
    entry = {"name": "a.tar", "url": server.url("plain", "a.tar"), "mirrors": [], "sha256": SHA256}
    facts = fetch.run(job(here / "out", [entry]))
    assert (here / "out" / "a.tar").read_bytes() == CONTENT
    assert facts["files"]["a.tar"]["verified_by"] == "sha256"  # type: ignore[index]
    assert list((here / PARTIAL / "cityscapes").iterdir()) == []


def test_a_file_placed_by_hand_is_verified_and_used(here: Path) -> None:
    placed = manual_path("cityscapes", "a.tar")
    placed.parent.mkdir(parents=True)
    placed.write_bytes(CONTENT)
    entry = {"name": "a.tar", "url": None, "md5": hashlib.md5(CONTENT).hexdigest()}
    fetch.run(job(here / "out", [entry], "register at https://example.org"))
    assert (here / "out" / "a.tar").read_bytes() == CONTENT
    placed.write_bytes(OTHER)
    with pytest.raises(UserError, match=r"data/manual/cityscapes/a\.tar: its md5 is"):
        fetch.run(job(here / "again", [entry], "register at https://example.org"))


def test_a_missing_file_names_its_place_and_what_to_do(here: Path) -> None:
    with pytest.raises(UserError) as caught:
        fetch.run(job(here / "out", [{"name": "a.tar", "url": None}], "register at https://example.org"))
    assert str(caught.value) == (
        "data/manual/cityscapes/a.tar: this file has to be placed by hand: register at https://example.org"
    )


def test_the_generated_world_is_taken_from_its_job_and_verified(here: Path) -> None:
    archives = here / "world" / "archives"
    archives.mkdir(parents=True)
    (archives / "a.tar").write_bytes(CONTENT)
    (here / "world" / "manifest.json").write_text(json.dumps({"a.tar": {"size": len(CONTENT), "sha256": SHA256}}))
    entry = {"name": "a.tar", "url": "world://a.tar"}
    facts = fetch.run(job(here / "out", [entry], world=here / "world"))
    assert facts["files"]["a.tar"]["sha256"] == SHA256  # type: ignore[index]
    (archives / "a.tar").unlink()
    (archives / "a.tar").write_bytes(OTHER)
    with pytest.raises(UserError, match="its sha256 is"):
        fetch.run(job(here / "again", [entry], world=here / "world"))
