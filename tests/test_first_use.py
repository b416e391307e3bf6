"""Files without a published hash: locked at their first use, compared ever after, and the lock is part of Git."""

from __future__ import annotations

import hashlib
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from http_server import Server
from small_archives import tar_of, zip_of

from ovss.config.datasets import fetch_params, load_datasets
from ovss.config.weights import load_weights
from ovss.data import fetch, first_use
from ovss.data.places import CHECKSUMS, PARTIAL, manual_path
from ovss.errors import UserError
from ovss.jobs import JobContext, Machine

OLD, NEW = (tar_of({"a.txt": text}) for text in (b"old", b"new"))
LOCK = CHECKSUMS / "refcoco.yaml"


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def server(server: Server) -> Server:
    server.files = {"a.tar": OLD}
    return server


Fetch = Callable[..., dict[str, Any]]


@pytest.fixture
def fetched(server: Server, tmp_path: Path) -> Fetch:
    """Run the fetch job of files without a hash that the server has; facts of ``a.tar``."""

    def make(*names: str, **facts: object) -> dict[str, Any]:
        files = [{"name": name, "url": server.url("plain", name), **facts} for name in names or ("a.tar",)]
        out = tmp_path / f"out{len(list(tmp_path.glob('out*')))}"
        out.mkdir()
        params = {"archive": "refcoco", "files": files}
        found = fetch.run(JobContext(seed=0, machine=Machine(), params=params, out=out))
        return found["files"]["a.tar"]  # type: ignore[index, no-any-return]

    return make


def test_the_first_use_is_written_down_and_the_second_compared(
    server: Server, fetched: Fetch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fetched()["verified_by"] is None
    said = f"no hash is published; its sha256 {sha256(OLD)} is kept in data/checksums/refcoco.yaml"
    assert said in capsys.readouterr().err
    entry = {"size": len(OLD), "sha256": sha256(OLD), "source": server.url("plain", "a.tar")}
    assert yaml.safe_load(LOCK.read_text()) == {"files": {"a.tar": entry}}
    before = LOCK.read_bytes()
    assert fetched()["verified_by"] == "first use" and LOCK.read_bytes() == before
    assert [path.name for path in CHECKSUMS.iterdir()] == ["refcoco.yaml"], "no temporary file is left"
    assert not re.search(rb"20\d\d", before), "no date"


def test_another_file_is_refused_with_both_hashes_and_the_lock(server: Server, fetched: Fetch, tmp_path: Path) -> None:
    fetched()
    server.files["a.tar"] = NEW
    with pytest.raises(UserError) as caught:
        fetched()
    message = str(caught.value)
    assert f"its sha256 is {sha256(NEW)}, at the first use it was {sha256(OLD)}; if the new file is wanted" in message
    assert "state its sha256 in datasets.yaml or weights.yaml and delete data/checksums/refcoco.yaml" in message
    assert not list((tmp_path / "out1").iterdir()) and "\n" not in message
    LOCK.unlink()
    assert fetched()["sha256"] == sha256(NEW)
    assert yaml.safe_load(LOCK.read_text())["files"]["a.tar"]["sha256"] == sha256(NEW)


def test_a_shorter_or_longer_file_is_refused_with_both_hashes(server: Server, fetched: Fetch) -> None:
    fetched()
    for other in (OLD[:-512], OLD + bytes(5000)):
        server.files["a.tar"] = other
        with pytest.raises(UserError, match=rf"its sha256 is {sha256(other)}, at the first use it was {sha256(OLD)}"):
            fetched()


def test_a_file_placed_by_hand_is_locked_and_compared_as_well(fetched: Fetch) -> None:
    placed = manual_path("refcoco", "a.tar")
    placed.parent.mkdir(parents=True)
    placed.write_bytes(OLD)
    assert fetched()["url"] == "placed by hand"
    assert yaml.safe_load(LOCK.read_text())["files"]["a.tar"]["source"] == "placed by hand"
    placed.unlink()
    assert fetched()["verified_by"] == "first use", "the same bytes by another way"
    placed.write_bytes(NEW)
    with pytest.raises(
        UserError, match=rf"^data/manual/refcoco/a\.tar: its sha256 is {sha256(NEW)}.*{LOCK}; otherwise"
    ):
        fetched()


def test_a_published_hash_leaves_no_lock_and_looks_at_none(server: Server, fetched: Fetch) -> None:
    assert fetched(md5=hashlib.md5(OLD).hexdigest())["verified_by"] == "md5"
    assert not CHECKSUMS.exists()
    fetched()
    server.files["a.tar"] = NEW
    assert fetched(sha256=sha256(NEW))["verified_by"] == "sha256"


def test_what_fails_a_check_is_not_locked(server: Server, fetched: Fetch) -> None:
    for bad, words in ((OLD[:700], "damaged or truncated"), (b"<!doctype html>", "web page"), (b"", "it is empty")):
        server.files["a.tar"] = bad
        with pytest.raises(UserError, match=words):
            fetched()
        assert not LOCK.exists()
    server.files["b.zip"] = zip_of({"../evil": b"x"})
    server.files["a.tar"] = OLD
    with pytest.raises(UserError, match="outside the target"):
        fetched("a.tar", "b.zip")
    assert [*yaml.safe_load(LOCK.read_text())["files"]] == ["a.tar"]


def test_the_files_of_an_archive_share_a_lock(server: Server, fetched: Fetch) -> None:
    fetched()
    server.files["b.bin"] = b"b"
    fetched("a.tar", "b.bin")
    files = yaml.safe_load(LOCK.read_text())["files"]
    assert {name: entry["sha256"] for name, entry in files.items()} == {"a.tar": sha256(OLD), "b.bin": sha256(b"b")}


def test_a_locked_download_goes_on_where_it_stopped(server: Server, fetched: Fetch) -> None:
    fetched()
    (PARTIAL / "refcoco" / "a.tar.part").write_bytes(OLD[:600])
    fetched()
    assert server.requests[-1][2] == "bytes=600-", "the lock's sha256 tells in the end"


@pytest.mark.parametrize(
    ("text", "words"),
    [("files: [", "not valid YAML"), ("files: {a.tar: {size: 1}}", "sha256"), ("{}", "files"), ("", "None"),
     ("files: {a.tar: {size: 1, sha256: '" + "0" * 63 + "', source: x}}", "sha256")],
)  # fmt: skip
def test_a_damaged_lock_is_named(text: str, words: str, fetched: Fetch) -> None:
    LOCK.parent.mkdir(parents=True)
    LOCK.write_text(text)
    with pytest.raises(UserError, match=rf"data/checksums/refcoco\.yaml.*{words}"):
        fetched()


def test_git_keeps_locks_and_nothing_else_of_data(root: Path, tmp_path: Path) -> None:
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    (tmp_path / ".gitignore").write_text((root / ".gitignore").read_text())
    for path in ("checksums/a.yaml", "checksums/a.yaml.part-5", "manual/a/b.zip", "partial/a/b.part", "failed/a.txt"):
        (tmp_path / "data" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "data" / path).touch()
    listed = ["git", "ls-files", "--others", "--exclude-standard", "data"]
    found = subprocess.run(listed, cwd=tmp_path, capture_output=True, text=True, check=True).stdout.split()
    assert found == ["data/checksums/a.yaml"]


def test_a_lock_changes_no_parameter_of_the_fetch_job(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It appears while a run is at work; what gives another key is a hash that is stated."""
    params = fetch_params(load_datasets(root / "datasets.yaml"), "refcoco")
    monkeypatch.setattr(first_use, "lock_path", lambda _: pytest.fail("the plan looks at a lock"))
    assert fetch_params(load_datasets(root / "datasets.yaml"), "refcoco") == params
    assert {"sha256", "sha1", "md5"} <= set(params["files"][0]), "a stated hash is in the key"


def test_every_model_and_archive_without_a_hash_has_a_lock_of_its_own(root: Path) -> None:
    models, archives = load_weights(root / "weights.yaml").weights, load_datasets(root / "datasets.yaml").archives
    assert not set(models) & set(archives), "their files would share a folder by hand and a lock"
    assert {first_use.lock_path(name).name for name in (*models, *archives)} == {
        f"{name}.yaml" for name in (*models, *archives)
    }
