"""What the cluster profiles ask for: partition and account from the environment, pods with the job's needs."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
from snakemake.profiles import ProfileConfigFileParser

KUBECTL = """#!/bin/sh
case "$1" in
  create) cat > "$STUB/manifest.json"; printf ovss-job-1 ;;
  get) printf '%s' "$STUB_SAYS"; exit "${STUB_ENDS:-0}" ;;
esac
"""


def profile(root: Path, name: str) -> dict[str, str | list[str]]:
    with (root / "profiles" / name / "config.yaml").open(encoding="utf-8") as stream:
        return dict(ProfileConfigFileParser().parse(stream))


def test_slurm_jobs_go_where_the_environment_says(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OVSS_PARTITION", "OVSS_ACCOUNT", "OVSS_WORKERS"):
        monkeypatch.delenv(name, raising=False)
    plain = profile(root, "slurm")["default-resources"]
    assert "cpus_per_gpu=1" in plain and not any("slurm_" in entry for entry in plain)
    monkeypatch.setenv("OVSS_PARTITION", "gpu-a100")
    monkeypatch.setenv("OVSS_ACCOUNT", "12345")
    monkeypatch.setenv("OVSS_WORKERS", "8")
    asked = profile(root, "slurm")["default-resources"]
    assert {"slurm_partition='gpu-a100'", "slurm_account='12345'", "cpus_per_gpu=8"} <= set(asked)


@pytest.fixture
def kubectl(tmp_path: Path) -> dict[str, str]:
    stub = tmp_path / "kubectl"
    stub.write_text(KUBECTL)
    stub.chmod(0o755)
    kept = {name: value for name, value in os.environ.items() if not name.startswith("OVSS_")}
    return {**kept, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}", "STUB": str(tmp_path)}


def script(root: Path, name: str, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    command = [str(root / "profiles" / "kubernetes" / name), *words]
    return subprocess.run(command, cwd=root, env=variables, capture_output=True, text=True, timeout=20, check=False)


def test_a_pod_gets_the_memory_the_time_and_the_gpus_of_its_rule(root: Path, kubectl: dict[str, str]) -> None:
    where = {"OVSS_CLAIM": "disk", "OVSS_IMAGE": "python:3.11", "OVSS_WORKERS": "8", "OVSS_DEVICE": "cuda"}
    rule = "Evaluate_" + "x" * 80
    done = script(root, "submit", rule, "8000", "240", "2", "/clone/run.sh", **kubectl, **where)
    assert (done.returncode, done.stdout) == (0, "ovss-job-1\n"), done.stderr
    job = json.loads(Path(kubectl["STUB"], "manifest.json").read_text())
    (container,) = job["spec"]["template"]["spec"]["containers"]
    assert container["resources"]["limits"] == {"memory": "8000M", "cpu": "8", "nvidia.com/gpu": "2"}
    assert container["resources"]["requests"] == container["resources"]["limits"], "a GPU without a limit is refused"
    assert job["spec"]["activeDeadlineSeconds"] == 240 * 60 and job["spec"]["backoffLimit"] == 0
    assert container["workingDir"] == str(root) and container["volumeMounts"][0]["mountPath"] == str(root.parent)
    assert {"name": "OVSS_DEVICE", "value": "cuda"} in container["env"]
    assert len(job["metadata"]["generateName"]) <= 57, "Kubernetes adds five letters and allows 63"


def test_a_job_without_gpu_asks_for_none_and_one_without_volume_is_refused(root: Path, kubectl: dict[str, str]) -> None:
    where = {"OVSS_CLAIM": "disk", "OVSS_IMAGE": "python:3.11"}
    script(root, "submit", "world", "1000", "30", "0", "/clone/run.sh", **kubectl, **where)
    (container,) = json.loads(Path(kubectl["STUB"], "manifest.json").read_text())["spec"]["template"]["spec"][
        "containers"
    ]
    assert set(container["resources"]["limits"]) == {"memory", "cpu"}
    refused = script(root, "submit", "world", "1000", "30", "0", "/clone/run.sh", **kubectl)
    assert refused.returncode == 2 and "OVSS_CLAIM, OVSS_IMAGE: not set" in refused.stderr


@pytest.mark.parametrize(
    "says, ends, expected",
    [
        ("", "0", "running"),
        ("SuccessCriteriaMet Complete ", "0", "success"),
        ("FailureTarget Failed ", "0", "failed"),
        ('Error from server (NotFound): jobs.batch "ovss-job-1" not found', "1", "failed"),
        ("Unable to connect to the server", "1", "running"),
    ],
)
def test_the_state_of_a_job(says: str, ends: str, expected: str, root: Path, kubectl: dict[str, str]) -> None:
    done = script(root, "status", "ovss-job-1", **kubectl, STUB_SAYS=says, STUB_ENDS=ends)
    assert (done.returncode, done.stdout.strip()) == (0, expected)
