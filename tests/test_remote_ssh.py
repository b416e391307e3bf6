"""A DVC remote over SSH: the README's commands against a server of the test's own, from a run to a clone that pulls."""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from readme_blocks import blocks, commands
from scenario import Scenario, run

NOTHING: Counter[str] = Counter()
SSHD = shutil.which("sshd", path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"]))
SEPARATION = Path("/run/sshd")
"""Empty folder that a server started by root insists on; the path is compiled in."""
CONFIG = """
ListenAddress 127.0.0.1
Port {port}
HostKey {folder}/host
AuthorizedKeysFile {folder}/user.pub
PidFile none
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
Subsystem sftp internal-sftp
ForceCommand internal-sftp
"""

pytestmark = pytest.mark.slow
needs_a_server = pytest.mark.skipif(
    SSHD is None or shutil.which("ssh-keygen") is None,
    reason="needs sshd and ssh-keygen, which are not installed (openssh-server, openssh-client)",
)


@dataclass
class Server:
    """A running sshd that lets this user in by one key, and to files alone (no shell)."""

    key: Path
    store: Path
    address: str


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    limit = time.monotonic() + 20
    while time.monotonic() < limit and process.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise AssertionError(f"sshd did not start: {log.read_text(encoding='utf-8') if log.exists() else 'no log'}")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder, port = tmp_path_factory.mktemp("sshd"), free_port()
    for name in ("host", "user"):
        keygen = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", str(folder / name)]
        assert run(keygen, folder).returncode == 0
    (folder / "config").write_text(CONFIG.format(port=port, folder=folder), encoding="utf-8")
    made = os.geteuid() == 0 and not SEPARATION.exists()
    if made:
        SEPARATION.mkdir(mode=0o755)
    log = folder / "log"
    process = subprocess.Popen([str(SSHD), "-D", "-f", str(folder / "config"), "-E", str(log)])
    try:
        wait_for(port, process, log)
        store = folder / "store"
        yield Server(folder / "user", store, f"{getpass.getuser()}@127.0.0.1:{port}{store}")
    finally:
        process.terminate()
        process.wait(timeout=20)
        if made:
            SEPARATION.rmdir()


@pytest.fixture(scope="module")
def project(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Scenario:
    """A copy of the project that has run, seen by a user whose home has no keys."""
    folder = tmp_path_factory.mktemp("remote")
    made = Scenario.create(root, folder)
    made.env |= {"HOME": str(folder), "SSH_AUTH_SOCK": ""}
    made.reproduce()
    made.commit("first run")
    return made


def told(about: str) -> list[list[str]]:
    """The README's ``dvc`` commands about one kind of remote."""
    (block,) = [block for block in blocks("Remotes") if about in block]
    return commands(block, "dvc")


def on(scenario: Scenario, words: list[str], places: dict[str, str]) -> None:
    """Run one of the README's commands with its example names replaced by real ones."""
    for example, place in places.items():
        words = [word.replace(example, place) for word in words]
    scenario.dvc(*words[1:])


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for name in ("work", "results") for path in (folder / name).rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@needs_a_server
def test_a_clone_that_pulls_over_ssh_runs_nothing_and_has_the_same_bytes(
    project: Scenario, server: Server, tmp_path: Path
) -> None:
    places = {"you@host/srv/ovss-store": server.address, "~/.ssh/id_ed25519": str(server.key)}
    (local,) = [words for words in told("ssh://") if "--local" in words]
    for words in told("ssh://"):
        on(project, words, places)
    project.commit("the remote is a server")
    project.dvc("push", "--quiet")
    assert any(server.store.rglob("??/*")), "the store lies where the address says"
    shutil.rmtree(project.folder / ".dvc" / "cache")

    assert run(["git", "clone", "--quiet", str(project.folder), str(tmp_path / "clone")], tmp_path).returncode == 0
    clone = Scenario(tmp_path / "clone", tmp_path / "jobs.log")
    clone.env = clone.environment(clone.folder) | {name: project.env[name] for name in ("HOME", "SSH_AUTH_SOCK")}
    assert server.address in (clone.folder / ".dvc" / "config").read_text(encoding="utf-8")
    refused = run([sys.executable, "-m", "dvc", "pull"], clone.folder, env=clone.env)
    assert refused.returncode != 0 and "Permission denied" in refused.stderr, "the key is no part of the clone"
    assert not (clone.folder / "work").exists()

    on(clone, local, places)
    clone.dvc("pull", "--quiet")
    planned = run([sys.executable, "-m", "snakemake", "--dry-run"], clone.folder, env=clone.env)
    assert planned.returncode == 0 and "Nothing to be done" in planned.stdout + planned.stderr
    shutil.rmtree(clone.folder / "results")
    assert clone.reproduce() == NOTHING
    assert clone.git("status", "--porcelain").strip() == "", "results made from what was pulled are those in Git"
    assert contents(clone.folder) == contents(project.folder)


def test_the_other_commands_are_what_dvc_takes_and_keep_secrets_out_of_git(root: Path, tmp_path: Path) -> None:
    (tmp_path / ".dvc").mkdir()
    for name in ("config", ".gitignore"):
        shutil.copy(root / ".dvc" / name, tmp_path / ".dvc" / name)
    scenario = Scenario(tmp_path, tmp_path / "jobs.log")
    scenario.env = scenario.environment(root)
    scenario.git("init", "--quiet")
    for words in told("--local store url /"):
        scenario.dvc(*words[1:])
    assert "url = /mnt/" in (tmp_path / ".dvc" / "config.local").read_text(encoding="utf-8")
    (tmp_path / ".dvc" / "config.local").unlink()
    for words in told("s3://"):
        scenario.dvc(*words[1:])
    shared, local = ((tmp_path / ".dvc" / name).read_text(encoding="utf-8") for name in ("config", "config.local"))
    assert "url = s3://" in shared and "key" not in shared
    assert "secret_access_key = " in local
    assert scenario.git("status", "--porcelain", "--ignored", ".dvc/config.local").startswith("!!")
