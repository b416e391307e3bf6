"""A method and a data set of one's own: what the README tells to write, done as it says, up to numbers in a table."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import readme_blocks
import yaml
from readme_blocks import blocks, commands
from scenario import Scenario, run
from small_clip import write_model_directory

from ovss import cli, methods, origin, runner
from ovss.errors import UserError
from ovss.evaluation.batch import Batch, Prediction
from ovss.evaluation.row import Row
from ovss.plan.job import Job
from ovss.plan.plan import Plan, load_plan
from ovss.publish import publish

TARGET = "beyond_dense"


def reduce_plan(folder: Path) -> None:
    """The one table that the README writes to, on the one data set of one's own, with a model of a few steps."""
    path = folder / "params.yaml"
    params = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert params["scale"] == "tiny", "the README names this scale's results"
    garden = {"Garden": params["tiny"]["columns"]["Garden"]}
    params["tiny"] |= {"columns": garden, "tables": ["beyond.dense"]}
    train = params["tiny"]["train"]
    train["clip"]["clip"]["schedule"] |= {"steps": 4, "batch": 8, "log_every": 2}
    path.write_text(yaml.safe_dump(params, sort_keys=False), encoding="utf-8")


@pytest.fixture(scope="module")
def project(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A copy of the project with the README's data set and method, from which this process takes its methods, too."""
    folder = tmp_path_factory.mktemp("own") / "project"
    folder.mkdir()
    for name in ("Snakefile", "params.yaml", "datasets.yaml", "weights.yaml"):
        shutil.copy(root / name, folder / name)
    (folder / ".snakemake").mkdir()
    (folder / "envs").symlink_to(root / "envs")
    (folder / "papers").mkdir()
    shutil.copy(root / "papers/beyond.yaml", folder / "papers")
    shutil.copytree(root / "src", folder / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    readme_blocks.add_garden(folder)
    reduce_plan(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(methods, "__file__", str(folder / "src/ovss/methods/__init__.py"))
        patch.setattr(methods, "__path__", [str(folder / "src/ovss/methods")])
        yield folder


@pytest.fixture(scope="module")
def method(project: Path) -> Path:
    """The README's method in the copy."""
    before = rows_of(load_plan(project))
    path, _ = readme_blocks.add_method(project)
    added = rows_of(load_plan(project)).items() - before.items()
    assert [name.split("-")[2] for _, name in added] == ["smoothed"], "no other row runs again"
    return project / path


def rows_of(plan: Plan) -> dict[str, str]:
    return {job.key: job.name for job in plan.jobs.values() if job.stage == "evaluate"}


def place_model(job: Job, project: Path) -> None:
    """A small model with random weights where the plan looks for the one that it would train."""
    out = write_model_directory(project / job.directory)
    origin.write(out, {"key": job.key, "stage": job.stage, "name": job.name, "facts": {}})


def make(job: Job, plan: Plan, project: Path) -> None:
    """Run a job after those that it needs, a pass as one, and none twice."""
    if (project / job.done).is_file():
        return
    if job.stage == "train_clip":
        place_model(job, project)
        return
    together = [job] if job.group is None else plan.groups[job.stage, job.group]
    for each in together:
        for other in each.inputs.values():
            make(other, plan, project)
    runner.run_jobs([each for each in together if not (project / each.done).is_file()], project, plan.seed)


def number(project: Path, row: str) -> float:
    """What was published of a row of the table on the data set of one's own."""
    table = json.loads((project / "results/tiny/beyond/dense.json").read_text(encoding="utf-8"))
    return float(table[row]["Garden"])


def test_the_data_set_and_the_method_of_the_readme_give_numbers_in_a_table(
    project: Path, method: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project)
    monkeypatch.setenv("OVSS_DEVICE", "cpu")
    plan = load_plan(project)
    make(plan.tables["beyond", "dense"], plan, project)
    publish(plan, project, TARGET)
    assert 0 < number(project, "smoothed") < 100
    (job,) = [job for job in plan.jobs.values() if job.params.get("method") == "smoothed"]
    assert job.params["settings"] == {"variant": "SCLIP", "temperature": 0.1}
    assert job.params["dataset"]["name"] == "garden" and origin.check(project / job.directory)
    shown = (project / "results/tiny/beyond/dense.md").read_text(encoding="utf-8")
    assert "My garden" in shown and "SCLIP, smoothed" in shown


def test_the_readme_names_commands_that_there_are(project: Path, method: Path) -> None:
    plan = load_plan(project)
    for title in ("Your own data set", "Your own method"):
        text = "".join(blocks(title))
        assert TARGET in plan.targets and ["snakemake", TARGET] in commands(text, "snakemake")
        for words in commands(text, "ovss"):
            assert cli._parser().parse_args(words[1:])


def test_the_readme_s_method_passes_the_linter(root: Path, method: Path) -> None:
    command = [sys.executable, "-m", "ruff", "check", "--config", str(root / "pyproject.toml"), str(method)]
    assert run(command, root).returncode == 0


@pytest.mark.parametrize(
    ("where", "old", "new", "message"),
    [
        ("row", "temperature: 0.1", "temprature: 0.1",
         "papers/beyond.yaml: tables.dense.rows.smoothed.run.settings.temprature: method smoothed has no such setting "
         "(did you mean 'temperature'?); there are: family, temperature, variant"),
        ("row", "temperature: 0.1", "temperature: warm",
         "papers/beyond.yaml: tables.dense.rows.smoothed.run.settings.temperature: 'warm' is not of type float; mend "
         "it in the row, its preset or what is set for the data set"),
        ("row", "variant: SCLIP", "variant: SKLIP",
         "papers/beyond.yaml: tables.dense.rows.smoothed.run.settings.variant: 'SKLIP' is not one of vanilla, "
         "MaskCLIP, SCLIP, ClearCLIP; mend it in"),
        ("row", "variant: SCLIP, ", "",
         "papers/beyond.yaml: tables.dense.rows.smoothed.run.settings.variant: method smoothed needs it, and there "
         "is no default; add it to the row or its preset"),
        ("row", "method: smoothed,", "method: smothed,",
         "papers/beyond.yaml: tables.dense.rows.smoothed.run.method: there is no src/ovss/methods/smothed.py, and "
         "'unwritten' does not list it (did you mean 'smoothed'?); there are: "),
        ("method", "def segment(", "def segments(",
         "src/ovss/methods/smoothed.py: there is no 'segment' in it, which its rows need; write a function "
         "segment(batch, vocabulary, features, settings) -> list[Prediction]"),
        ("method", "class Settings:", "class Setings:",
         "src/ovss/methods/smoothed.py: there is no 'Settings' in it, which its rows need; write a frozen dataclass "),
        ("method", "class Settings:", "class Settings",
         "src/ovss/methods/smoothed.py: line 13: expected ':'; mend the syntax before running"),
    ],
)  # fmt: skip
def test_a_newcomer_s_slip_is_one_sentence_before_anything_runs(
    project: Path, method: Path, where: str, old: str, new: str, message: str
) -> None:
    path = method if where == "method" else project / "papers/beyond.yaml"
    before = path.read_text(encoding="utf-8")
    readme_blocks.replace(path, old, new, after="" if where == "method" else "- id: smoothed\n")
    try:
        with pytest.raises(UserError) as caught:
            load_plan(project)
    finally:
        path.write_text(before, encoding="utf-8")
    assert str(caught.value).replace(f"{project}/", "").startswith(message)
    assert "\n" not in str(caught.value)


LABELS = np.zeros((4, 6), np.uint8)


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (None, "segment returned nothing; return a list with one Prediction for each of batch.views"),
        (Prediction(LABELS), "segment returned a Prediction; return a list with one Prediction"),
        (LABELS, "segment returned a ndarray; return a list with one Prediction"),
        ([LABELS], "segment returned a list of 1 (ndarray); return"),
        ([Prediction(LABELS)] * 2, "segment returned a list of 2 (Prediction); return"),
        ([], "segment returned a list of 0 (empty); return"),
        ([Prediction(LABELS.T)], "image im0: Prediction.labels is of shape (6, 4) and must be (4, 6), the size at "
                                 "which the protocol decides"),
        ([Prediction(LABELS[None])], "image im0: Prediction.labels is of shape (1, 4, 6) and must be (4, 6)"),
        ([Prediction(LABELS + 0.5)], "image im0: Prediction.labels must be a NumPy array of integers and is float64"),
        ([Prediction([[0]])], "image im0: Prediction.labels must be a NumPy array of integers and is list"),
        ([Prediction(LABELS + 4)], "image im0: Prediction.labels has values 4 to 4; classes are 0 to 2, 3 stands for"),
        ([Prediction(LABELS.astype(int) - 1)], "image im0: Prediction.labels has values -1 to -1; classes are 0 to 2"),
    ],
)  # fmt: skip
def test_a_wrong_return_value_is_one_sentence(returned: Any, message: str) -> None:
    def row(found: Any) -> Row:
        method: Any = SimpleNamespace(segment=lambda *given: found)
        nothing: Any = None
        return Row("row", Path(), "smoothed", method, nothing, nothing, nothing, {}, False, "view", 3, 0)

    view: Any = SimpleNamespace(id="im0", original_size=(4, 6))
    batch = Batch((view,), SimpleNamespace(score_size="original"))  # type: ignore[arg-type]
    features: Any = None
    with pytest.raises(UserError) as caught:
        row(returned).predict(batch, features)
    assert str(caught.value).startswith(f"method smoothed: {message}") and "\n" not in str(caught.value)
    assert row([Prediction(LABELS + 3)]).predict(batch, features).labels is not None


@pytest.mark.slow
def test_the_commands_of_both_sections_run_as_they_stand(root: Path, tmp_path: Path) -> None:
    """Everything by itself: the model is trained (a few steps), the table made by snakemake, a mistake shown."""
    scenario = Scenario.create(root, tmp_path)
    project = scenario.folder
    for name in ("params.yaml", "papers/beyond.yaml"):
        shutil.copy(root / name, project / name)
    readme_blocks.add_garden(project)
    told = ovss_and_snakemake("Your own data set")
    reduce_plan(project)
    for words in told:
        command(scenario, words)
    assert scenario.jobs()["evaluate"] == 14 and not (project / "data/checked").is_symlink()
    assert (project / "data/checked/garden.png").is_file()
    path, _ = readme_blocks.add_method(project)
    scenario.log.unlink()
    for words in ovss_and_snakemake("Your own method"):
        command(scenario, words)
    assert scenario.jobs() == {"evaluate": 1, "table": 1}, "the new row alone"
    assert 0 < number(project, "smoothed") < 100
    readme_blocks.replace(project / path, "Prediction(labels)", "Prediction(labels[::2])")
    failed = command(scenario, ["snakemake", TARGET], expect=1)
    assert "ovss: method smoothed: image east: Prediction.labels is of shape (20, 60) and must be (40, 60)" in failed
    assert "Traceback" not in failed


def ovss_and_snakemake(title: str) -> list[list[str]]:
    """All commands of a section, in order."""
    text = "".join(blocks(title))
    found = [words for name in ("ovss", "snakemake") for words in commands(text, name)]
    assert len(found) >= 2
    return found


def command(scenario: Scenario, words: list[str], expect: int = 0) -> str:
    module = {"ovss": "ovss.cli", "snakemake": "snakemake"}[words[0]]
    done: subprocess.CompletedProcess[str] = run(
        [sys.executable, "-m", module, *words[1:]], scenario.folder, env=scenario.env
    )
    assert done.returncode == expect, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout + done.stderr
