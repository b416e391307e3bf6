"""Downloads: verified bytes under the final name or a clear sentence and nothing."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from http_server import Server, serve

from ovss import cli, downloads, reproduce
from ovss.config.datasets import fetch_params, load_datasets
from ovss.data import fetch, transfer
from ovss.data.download import Patience, RemoteFile, download
from ovss.data.places import PARTIAL, manual_path
from ovss.data.user_limits import Budget, most_bytes
from ovss.errors import UserError
from ovss.jobs import JobContext, Machine
from ovss.plan.job import Job

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


def test_a_changed_file_starts_anew(server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    url = server.url("plain", "a.tar")
    interrupted(tmp_path, OTHER[:100_000], {"url": url, "etag": etag(OTHER), "modified": ""})
    download(unknown(url), tmp_path, patience=QUICK)
    assert (tmp_path / "a.tar").read_bytes() == CONTENT
    assert "a.tar: the file on the server has changed since the first part came" in capsys.readouterr().err


@pytest.mark.parametrize("mode", ["no-range", "moved-range", "new-version"])
def test_a_server_that_cannot_go_on_starts_anew(server: Server, tmp_path: Path, mode: str) -> None:
    url = server.url(mode, "a.tar")
    interrupted(tmp_path, CONTENT[:100_000], {"url": url, "etag": etag(CONTENT), "modified": ""})
    download(unknown(url), tmp_path, patience=QUICK)
    assert (tmp_path / "a.tar").read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("mode", "words"), [("moved-range", "went on with another range"), ("new-version", "has changed.*another ETag")]
)
def test_a_rest_that_does_not_belong_to_the_part_is_named(
    server: Server, tmp_path: Path, mode: str, words: str
) -> None:
    url = server.url(mode, "a.tar")
    interrupted(tmp_path, CONTENT[:100_000], {"url": url, "etag": etag(CONTENT), "modified": ""})
    assert re.search(words, refusal(unknown(url), tmp_path, Patience(attempts=1)))


PAGES = {
    "log-in page": b"<!DOCTYPE html>\n<html><head><title>Log in</title>",
    "confirmation": b"<html><head><title>Google Drive - Virus scan warning</title>",
    "byte order mark": b"\xef\xbb\xbf\r\n<!doctype HTML PUBLIC '-//W3C//DTD HTML 4.01//EN'>",
    "comment first": b"<!-- proxy -->\n<!-- 5 -->\n<HTML lang='de'>",
    "XHTML": b"<?xml version='1.0' encoding='utf-8'?>\n<!DOCTYPE html PUBLIC '-//W3C//DTD XHTML 1.0 Strict//EN'>",
    "no head": b"  <body>Forbidden",
}


@pytest.mark.parametrize("page", PAGES)
def test_every_kind_of_page_is_told_from_the_file(server: Server, tmp_path: Path, page: str) -> None:
    server.pages["a.tar"] = PAGES[page]
    message = refusal(unknown(server.url("page", "a.tar")), tmp_path)
    assert "it is a web page, not the file (a login or a confirmation is asked for)" in message


@pytest.mark.parametrize("start", [b"<htmlish", b"<?xml version='1.0'?><svg/>", b"x<html>", b"<!-- <html> -->", b"<"])
def test_what_only_resembles_a_page_is_a_file(server: Server, tmp_path: Path, start: bytes) -> None:
    server.files["a.tar"] = start + b" and more"
    assert download(unknown(server.url("plain", "a.tar")), tmp_path, patience=QUICK)["size"] == len(start) + 9


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


def other_file_system(monkeypatch: pytest.MonkeyPatch, *, full: bool = False, cut: bool = False) -> list[Path]:
    """Renames between folders fail, as they do between file systems; the names that copies were written to."""
    real_replace, real_copy, seen = os.replace, shutil.copyfile, list[Path]()

    def replace(source: str | Path, target: str | Path) -> None:
        if Path(source).parent != Path(target).parent:
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
        real_replace(source, target)

    def copyfile(source: Path, target: Path) -> None:
        seen.append(target)
        real_copy(source, target)
        if full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if cut:
            target.write_bytes(target.read_bytes()[:1000])
            raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", replace)
    monkeypatch.setattr(shutil, "copyfile", copyfile)
    return seen


def test_a_file_that_comes_from_another_file_system_gets_its_name_when_it_is_whole(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copies = other_file_system(monkeypatch)
    download(known(server.url("plain", "a.tar")), tmp_path / "out", tmp_path / "partial", patience=QUICK)
    assert (tmp_path / "out" / "a.tar").read_bytes() == CONTENT and not list((tmp_path / "partial").iterdir())
    assert [path.parent for path in copies] == [tmp_path / "out"] and copies[0].name.startswith("a.tar.part-")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a.tar"]


@pytest.mark.parametrize(("trouble", "error"), [("full", UserError), ("cut", KeyboardInterrupt)])
def test_no_half_file_is_left_on_another_file_system(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trouble: str, error: type[BaseException]
) -> None:
    with monkeypatch.context() as patch:
        other_file_system(patch, **{trouble: True})
        with pytest.raises(error):
            download(known(server.url("plain", "a.tar")), tmp_path / "out", tmp_path / "partial", patience=QUICK)
    assert not list((tmp_path / "out").iterdir())
    assert (tmp_path / "partial" / "a.tar.part").read_bytes() == CONTENT, "the next start need not fetch it again"


def test_progress_has_a_rate_and_the_time_left(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(transfer, "LOGGED_S", 0.0)
    monkeypatch.setattr(transfer, "_CHUNK", 1 << 16)
    download(known(server.url("plain", "a.tar")), tmp_path, patience=QUICK)
    assert re.search(r"a\.tar: +\d+%.*\d+k/300k \[\d+:\d+<\d+:\d+, +[\d.]+[kM]?B/s\]", capsys.readouterr().err)


# --- what the user forbids


@pytest.fixture
def no_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a socket was opened")

    for name in ("socket", "create_connection", "getaddrinfo"):
        monkeypatch.setattr(socket, name, refuse)


@pytest.mark.usefixtures("no_socket")
def test_offline_opens_no_socket_and_says_where_the_file_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OVSS_OFFLINE", "1")
    message = refusal(unknown("http://127.0.0.1:9/a.tar", "https://x.invalid/a"), tmp_path, hint="place it at data/x")
    assert message == "a.tar: not downloaded, since OVSS_OFFLINE is set; place it at data/x"
    (tmp_path / "source.tar").write_bytes(CONTENT)
    local = known("http://127.0.0.1:9/a.tar", (tmp_path / "source.tar").as_uri())
    assert download(local, tmp_path / "out", patience=QUICK)["url"].startswith("file://")


@pytest.mark.usefixtures("no_socket")
def test_the_stage_says_offline_which_file_to_place_where(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OVSS_OFFLINE", "1")
    entry = {"name": "a.tar", "url": "http://127.0.0.1:9/a.tar", "mirrors": ["http://127.0.0.1:8/a.tar"]}
    with pytest.raises(UserError) as caught:
        fetch.run(job(here / "out", [entry]))
    assert str(caught.value) == (
        "a.tar: not downloaded, since OVSS_OFFLINE is set; place the file at data/manual/cityscapes/a.tar "
        "(it is published at http://127.0.0.1:9/a.tar)"
    )
    manual_path("cityscapes", "a.tar").parent.mkdir(parents=True)
    manual_path("cityscapes", "a.tar").write_bytes(CONTENT)
    fetch.run(job(here / "again", [{**entry, "sha256": SHA256}]))


@pytest.mark.parametrize(("flags", "expected"), [(["--offline"], "1"), ([], "0")])
def test_a_run_hands_offline_to_all_its_processes(
    flags: list[str], expected: str, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    monkeypatch.chdir(root)
    monkeypatch.setenv("OVSS_OFFLINE", "0")
    monkeypatch.setattr(reproduce, "reproduce", lambda *_: seen.append(os.environ["OVSS_OFFLINE"]) or 0)
    assert cli.main(["reproduce", *flags]) == 0 and seen == [expected]


def test_offline_can_be_switched_off(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OVSS_OFFLINE", "0")
    download(known(server.url("plain", "a.tar")), tmp_path, patience=QUICK)


@pytest.mark.parametrize(
    ("text", "size"),
    [("50G", 50 * 10**9), ("1.5t", 1500 * 10**9), ("700 MB", 700 * 10**6), ("512MiB", 512 << 20), ("0", 0), ("9", 9)],
)
def test_a_cap_is_written_as_people_write_sizes(text: str, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OVSS_MAX_DOWNLOAD", text)
    assert most_bytes() == size
    monkeypatch.setenv("OVSS_MAX_DOWNLOAD", " ")
    assert most_bytes() is None


@pytest.mark.parametrize("text", ["many", "-5G", "1e9", "5 GG", "50P", "²G", "9" * 99])
def test_a_cap_that_is_no_size_is_named(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OVSS_MAX_DOWNLOAD", text)
    with pytest.raises(UserError, match=r"OVSS_MAX_DOWNLOAD: .* is no size; write 50G"):
        most_bytes()


def test_a_stated_size_above_the_cap_is_refused_before_the_first_request(
    server: Server, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.files["b.tar"] = CONTENT
    files = [{"name": name, "url": server.url("plain", name), "size": len(CONTENT), "sha256": SHA256}
             for name in ("a.tar", "b.tar")]  # fmt: skip
    monkeypatch.setenv("OVSS_MAX_DOWNLOAD", "500K")
    with pytest.raises(UserError, match=r"^cityscapes: 600000 bytes would be downloaded, OVSS_MAX_DOWNLOAD allows 500"):
        fetch.run(job(here / "out", files))
    assert server.requests == []
    (here / PARTIAL / "cityscapes").mkdir(parents=True)
    interrupted(here / PARTIAL / "cityscapes", CONTENT[:150_000], {})
    fetch.run(job(here / "again", files))
    assert server.requests[0][2] == "bytes=150000-", "what has come already is not counted"


@pytest.mark.parametrize("mode", ["plain", "unsaid"])
def test_an_unstated_size_is_refused_when_the_server_says_it_or_while_it_comes(
    server: Server, tmp_path: Path, mode: str
) -> None:
    message = refusal(unknown(server.url(mode, "a.tar")), tmp_path, budget=Budget(200_000))
    assert "OVSS_MAX_DOWNLOAD allows" in message and "(of 200000)" in message
    kept = (tmp_path / "a.tar.part").stat().st_size
    assert kept <= 200_000 and (mode == "unsaid" or kept == 0)


def test_the_files_of_an_archive_share_the_cap(server: Server, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server.files["b.tar"] = CONTENT
    monkeypatch.setenv("OVSS_MAX_DOWNLOAD", "500K")
    files = [{"name": name, "url": server.url("plain", name), "sha256": SHA256} for name in ("a.tar", "b.tar")]
    with pytest.raises(
        UserError, match=r"^b\.tar: 300000 bytes would be downloaded, .* allows 200000 more \(of 500000\)"
    ):
        fetch.run(job(here / "out", files))


def test_a_run_is_refused_by_the_sum_of_what_it_would_fetch(
    root: Path, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = load_datasets(root / "datasets.yaml")
    names = ("voc2012", "coco_val2017", "coco_stuffthingmaps", "tiny_voc2012", "ade20k150")
    jobs = {name: Job("fetch", name, "", fetch_params(config, name), {}, {}, {}) for name in names}
    (here / jobs["ade20k150"].directory).mkdir(parents=True)
    (here / jobs["ade20k150"].done).touch()
    monkeypatch.setattr("ovss.plan.plan.load_plan", lambda _: SimpleNamespace(jobs=jobs))
    sizes = {"voc2012": 1999639040, "coco_val2017": 815585330, "coco_stuffthingmaps": 0, "tiny_voc2012": 0}
    assert downloads.sizes(jobs.values(), here) == sizes
    monkeypatch.setenv("OVSS_MAX_DOWNLOAD", "2815224369")
    with pytest.raises(
        UserError, match=r"^OVSS_MAX_DOWNLOAD: this run would download 2815224370 bytes.*: voc2012 1999"
    ):
        downloads.check(here)
    monkeypatch.setenv("OVSS_MAX_DOWNLOAD", "2815224370")
    downloads.check(here)


# --- the stage


def job(out: Path, files: list[dict[str, object]], **inputs: Path) -> JobContext:
    out.mkdir(parents=True)
    params = {"archive": "cityscapes", "files": files}
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
    fetch.run(job(here / "out", [entry]))
    assert (here / "out" / "a.tar").read_bytes() == CONTENT
    placed.write_bytes(OTHER)
    with pytest.raises(UserError, match=r"data/manual/cityscapes/a\.tar: its md5 is"):
        fetch.run(job(here / "again", [entry]))


def test_a_missing_file_names_its_place_and_what_to_do(here: Path) -> None:
    with pytest.raises(UserError) as caught:
        fetch.run(job(here / "out", [{"name": "a.tar", "url": None}]))
    assert str(caught.value) == (
        "data/manual/cityscapes/a.tar: this file has to be placed by hand; 'make plan' says where it is to be had"
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
