"""Jobs of one machine share no GPU, a killed job frees its own, and a scheduler's choice is kept."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ovss import gpus

HOLD = """
import os, sys, time
from pathlib import Path
from ovss import gpus
gpus.reserve(int(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), pause=0.02)
print(os.environ.get("CUDA_VISIBLE_DEVICES", "none"), flush=True)
time.sleep(60)
"""


@pytest.fixture
def devices(tmp_path: Path) -> Path:
    for name in ("nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm"):
        (tmp_path / name).touch()
    return tmp_path


def hold(count: int, devices: Path, **variables: str) -> subprocess.Popen[str]:
    environment = {
        name: value for name, value in os.environ.items() if name not in {"CUDA_VISIBLE_DEVICES", "OVSS_DEVICE"}
    }
    environment.pop("SLURM_JOB_ID", None)
    return subprocess.Popen([sys.executable, "-c", HOLD, str(count), str(devices / "locks"), str(devices)],
                            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
                            env={**environment, **variables})  # fmt: skip


def sees(process: subprocess.Popen[str]) -> str:
    assert process.stdout
    return process.stdout.readline().strip()


def end(*processes: subprocess.Popen[str]) -> None:
    for process in processes:
        process.kill()
        process.wait()
        if process.stdout:
            process.stdout.close()


def test_two_jobs_see_one_gpu_each_and_a_third_waits_until_one_is_killed(devices: Path) -> None:
    first, second = hold(1, devices), hold(1, devices)
    try:
        assert {sees(first), sees(second)} == {"0", "1"}
        third = hold(1, devices)
        try:
            time.sleep(0.5)
            free = [name for name in ("0", "1") if gpus._take([name], 1, devices / "locks")]
            assert free == [], "the third holds nothing, the other two hold theirs"
            end(first)
            assert sees(third) in {"0", "1"}
        finally:
            end(third)
    finally:
        end(first, second)


def test_a_job_of_two_gpus_takes_both_or_none(devices: Path) -> None:
    one = hold(1, devices)
    try:
        assert sees(one) == "0"
        assert gpus._take(["0", "1"], 2, devices / "locks") == {}
        taken = gpus._take(["0", "1"], 1, devices / "locks")
        assert list(taken) == ["1"], "the one that the failed try had locked is free again"
        taken["1"].close()
    finally:
        end(one)


@pytest.mark.parametrize(
    "environment, expected",
    [
        ({}, ["0", "1"]),
        ({"CUDA_VISIBLE_DEVICES": "3, GPU-ab"}, ["3", "GPU-ab"]),
        ({"CUDA_VISIBLE_DEVICES": ""}, []),
        ({"OVSS_DEVICE": "cpu"}, []),
        ({"SLURM_JOB_ID": "7", "CUDA_VISIBLE_DEVICES": "0"}, []),
    ],
)
def test_the_gpus_to_share_are_those_that_nobody_has_given_out(
    environment: dict[str, str], expected: list[str], devices: Path
) -> None:
    assert gpus.visible(environment, devices) == expected


def test_a_machine_without_a_gpu_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CUDA_VISIBLE_DEVICES", "OVSS_DEVICE", "SLURM_JOB_ID"):
        monkeypatch.delenv(name, raising=False)
    gpus.reserve(1, tmp_path / "locks", tmp_path)
    assert "CUDA_VISIBLE_DEVICES" not in os.environ and not (tmp_path / "locks").exists()
