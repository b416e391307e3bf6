"""Running a job: outputs appear complete or not at all, and what goes wrong is one sentence."""

from __future__ import annotations

import errno
import sys
import types
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from ovss import origin, runner
from ovss.errors import UserError
from ovss.jobs import JobContext, Machine
from ovss.plan.job import Job
from ovss.plan.stages import STAGES, Stage

Run = Callable[[JobContext], dict[str, object] | None]


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Job]:
    """A job whose stage module is a function of the test."""
    for name, is_pass in (("stage", False), ("pass", True)):
        monkeypatch.setitem(STAGES, name, Stage(name, "stage_of_a_test", ("numpy",), is_pass=is_pass))

    def build(run: Run, inputs: dict[str, Job] | None = None, group: str | None = None, name: str = "one") -> Job:
        module = types.ModuleType("stage_of_a_test")
        module.run = run  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "stage_of_a_test", module)
        stage = "stage" if group is None else "pass"
        return Job(stage, name, "stage_of_a_test", {"name": name}, inputs or {}, {}, {"numpy": "1"}, group, 7)

    return build


def write(ctx: JobContext) -> dict[str, object]:
    (ctx.out / "data.txt").write_text(f"{ctx.params['name']} {ctx.seed}")
    return {"lines": 1}


def files(root: Path) -> list[str]:
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())


def test_an_output_has_its_files_and_a_sealed_origin(make: Callable[..., Job], tmp_path: Path) -> None:
    job = make(write)
    runner.run_jobs([job], tmp_path, seed=7)
    record = origin.check(tmp_path / job.directory).record
    assert files(tmp_path) == sorted([f"{job.directory}/data.txt", f"{job.directory}/origin.json"])
    assert record["key"] == job.key and record["facts"] == {"lines": 1} and record["seed"] == 7
    assert record["peak_memory_bytes"] > 0 and record["device"] in ("cpu", "cuda")


def test_a_failing_job_leaves_nothing(make: Callable[..., Job], tmp_path: Path) -> None:
    def fail(ctx: JobContext) -> None:
        write(ctx)
        raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError, match="in the middle"):
        runner.run_jobs([make(fail)], tmp_path, seed=7)
    assert files(tmp_path) == []


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES, errno.EROFS])
def test_a_full_or_unwritable_disk_is_one_sentence_and_leaves_nothing(
    make: Callable[..., Job], tmp_path: Path, number: int
) -> None:
    def full(ctx: JobContext) -> None:
        write(ctx)
        raise OSError(number, "the system's words", str(ctx.out / "data.txt"))

    with pytest.raises(UserError, match=r"data\.txt: cannot be written \(the system's words\); make room or mend"):
        runner.run_jobs([make(full)], tmp_path, seed=7)
    assert files(tmp_path) == []


def test_an_error_of_the_job_s_own_is_not_called_a_full_disk(make: Callable[..., Job], tmp_path: Path) -> None:
    def missing(ctx: JobContext) -> None:
        (ctx.out / "absent").read_text()

    with pytest.raises(FileNotFoundError):
        runner.run_jobs([make(missing)], tmp_path, seed=7)


def test_outputs_of_a_pass_that_were_finished_before_a_failure_stay(make: Callable[..., Job], tmp_path: Path) -> None:
    def half(ctx: JobContext) -> None:
        for number, (name, item) in enumerate(ctx.items.items()):
            (item.out / "data.txt").write_text(name)
            if number:
                raise RuntimeError("the second one")
            ctx.finish(name, {})

    jobs = [make(half, group="pass", name=name) for name in ("a", "b")]
    with pytest.raises(RuntimeError, match="the second one"):
        runner.run_jobs(jobs, tmp_path, seed=7)
    assert files(tmp_path) == [f"{jobs[0].directory}/data.txt", f"{jobs[0].directory}/origin.json"]


def test_a_process_makes_one_pass_for_each_model(
    make: Callable[..., Job], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = [make(write, name=name) for name in ("m", "n")]
    runner.run_jobs(models, tmp_path, seed=7)
    seen: list[set[Path]] = []

    def whole(ctx: JobContext) -> None:
        seen.append({item.inputs["model"] for item in ctx.items.values()})
        for name in ctx.items:
            ctx.finish(name, {})

    monkeypatch.setitem(STAGES, "pass", replace(STAGES["pass"], shares=("model",)))
    rows = [make(whole, {"model": models[k % 2]}, group="pass", name=f"row{k}") for k in range(4)]
    runner.run_jobs(rows, tmp_path, seed=7)
    assert seen == [{tmp_path / models[0].directory}, {tmp_path / models[1].directory}]
    assert all((tmp_path / row.done).is_file() for row in rows)


def test_a_pass_that_forgets_an_output_is_an_error(make: Callable[..., Job], tmp_path: Path) -> None:
    job = make(lambda ctx: None, group="pass")
    with pytest.raises(RuntimeError, match="ended without finishing"):
        runner.run_jobs([job], tmp_path, seed=7)


def test_a_missing_input_is_named(make: Callable[..., Job], tmp_path: Path) -> None:
    first = make(write)
    with pytest.raises(UserError, match=r"input 'data' of work/stage/two\.\w+ is missing; run 'make reproduce'"):
        runner.run_jobs([make(write, {"data": first}, name="two")], tmp_path, seed=7)


def test_a_module_that_the_key_does_not_hold_is_noticed(
    make: Callable[..., Job], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def importing(ctx: JobContext) -> dict[str, object]:
        sys.modules.setdefault("ovss.made_up", types.ModuleType("ovss.made_up"))
        return write(ctx)

    monkeypatch.setenv(runner.CHECK_CLOSURE, "1")
    try:
        with pytest.raises(RuntimeError, match=r"imported ovss\.made_up, which its key does not hold"):
            runner.run_jobs([make(importing)], tmp_path, seed=7)
    finally:
        sys.modules.pop("ovss.made_up", None)


@pytest.mark.parametrize(
    ("name", "value"), [("OVSS_DEVICE", "gpu"), ("OVSS_WORKERS", "0"), ("OVSS_BATCH_SIZE", "many")]
)
def test_a_wrong_machine_setting_is_named(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=f"{name}: '{value}' is not"):
        runner.machine()


@pytest.mark.parametrize(("device", "set_to", "readers"), [("cpu", None, 1), ("cuda", None, 3), ("cuda", "5", 5)])
def test_a_gpu_is_fed_by_more_readers_than_a_cpu(
    monkeypatch: pytest.MonkeyPatch, device: str, set_to: str | None, readers: int
) -> None:
    monkeypatch.delenv("OVSS_WORKERS", raising=False)
    if set_to:
        monkeypatch.setenv("OVSS_WORKERS", set_to)
    monkeypatch.setattr(runner, "_device", lambda asked: device)
    monkeypatch.setattr(runner.os, "sched_getaffinity", lambda pid: {0, 1, 2})
    assert runner.machine() == Machine(device, readers, 8)


def test_several_outputs_of_one_process_are_each_complete(make: Callable[..., Job], tmp_path: Path) -> None:
    jobs = [make(write, name=name) for name in ("a", "b")]
    runner.run_jobs(jobs, tmp_path, seed=7)
    assert [origin.check(tmp_path / job.directory).record["name"] for job in jobs] == ["a", "b"]
