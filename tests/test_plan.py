"""The plan: what a key depends on, what stays empty and why, and what is refused before anything runs."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import yaml

from ovss.errors import UserError
from ovss.plan.job import Job
from ovss.plan.plan import Plan, load_plan
from ovss.plan.project import Project
from ovss.plan.rows import Empty
from ovss.plan.stages import STAGES

FILES = ("params.yaml", "datasets.yaml", "weights.yaml", "Snakefile", "papers", "src", "envs", "rules", "profiles")


@pytest.fixture
def copy(root: Path, tmp_path: Path) -> Path:
    for name in FILES:
        source = root / name
        if source.is_dir():
            shutil.copytree(source, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
        else:
            shutil.copy(source, tmp_path / name)
    return tmp_path


@cache
def planned(root: Path, scale: str | None = None) -> Plan:
    """The plan of the project as it is, made once."""
    return load_plan(root, scale)


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")


def keys(plan: Plan, stage: str) -> dict[str, str]:
    return {job.name: job.key for job in plan.jobs.values() if job.stage == stage}


def cell(plan: Plan, where: str) -> Job:
    """The one job of ``paper.table.row.column``."""
    paper, table, row, column = where.split(".")
    made = plan.cells[paper, table, row, column]
    assert not isinstance(made, Empty), made.why
    return made[0]


def rows(plan: Plan) -> dict[str, Job]:
    return {job.key: job for job in plan.jobs.values() if job.stage == "evaluate"}


def new_rows(before: Plan, after: Plan) -> set[str]:
    return rows(after).keys() - rows(before).keys()


def test_the_same_files_give_the_same_plan(root: Path, copy: Path) -> None:
    assert list(planned(root).jobs) == list(load_plan(copy).jobs)


def test_a_resampling_parameter_changes_tables_and_claims_but_no_row(root: Path, copy: Path) -> None:
    edit(copy / "params.yaml", "scale: tiny", "scale: smoke")
    before = planned(root, "smoke")
    edit(copy / "params.yaml", "resamples: 200", "resamples: 201")
    after = load_plan(copy)
    for stage in ("world", "fetch", "prepare", "train_clip", "text", "evaluate"):
        assert keys(before, stage) == keys(after, stage), stage
    for stage in ("table", "claims", "report"):
        assert not set(keys(before, stage).values()) & set(keys(after, stage).values()), stage


def test_a_data_set_s_size_changes_only_what_comes_from_it(root: Path, copy: Path) -> None:
    params = yaml.safe_load((copy / "params.yaml").read_text(encoding="utf-8"))
    params["tiny"]["world"]["data"]["tiny_ade20k"]["val"] += 1
    (copy / "params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
    before, after = planned(root, "tiny"), load_plan(copy, "tiny")
    changed = {name for name, key in keys(after, "evaluate").items() if key not in keys(before, "evaluate").values()}
    assert changed and all(name.startswith("tiny_ade") for name in changed)
    assert keys(before, "train_clip") == keys(after, "train_clip")
    changed_worlds = set(keys(after, "world").items()) - set(keys(before, "world").items())
    assert [name for name, _ in changed_worlds] == ["tiny_ade20k"]


def test_the_seed_changes_models_and_data(root: Path, copy: Path) -> None:
    edit(copy / "params.yaml", "seed: 0", "seed: 1")
    before, after = planned(root, "tiny"), load_plan(copy, "tiny")
    for stage in ("world", "train_clip", "train_dino", "evaluate", "table"):
        assert not set(keys(before, stage).values()) & set(keys(after, stage).values()), stage


def test_a_package_version_changes_only_the_stages_that_use_it(root: Path, copy: Path) -> None:
    lock = copy / "envs" / "requirements.lock"
    lock.write_text(lock.read_text(encoding="utf-8").replace("\ntimm==", "\ntimm==9."), encoding="utf-8")
    before, after = planned(root, "tiny"), load_plan(copy, "tiny")
    assert keys(before, "prepare") == keys(after, "prepare")
    assert not set(keys(before, "train_dino").values()) & set(keys(after, "train_dino").values())


def test_equal_rows_of_two_tables_are_one_job(root: Path) -> None:
    plan = planned(root, "tiny")
    one, other = (plan.cells["freecp", "table3", "baseline", "ADE"], plan.cells["freecp", "table1", "baseline", "ADE"])
    assert not isinstance(one, Empty) and not isinstance(other, Empty)
    assert one[0].key == other[0].key


def test_rows_of_one_source_and_model_share_a_pass(root: Path) -> None:
    plan = planned(root, "tiny")
    groups = {group: jobs for (stage, group), jobs in plan.groups.items() if stage == "evaluate"}
    sources = ("voc2012", "context", "coco", "cityscapes", "ade20k")
    assert {group for group in groups if group.endswith("-clip")} == {f"tiny_{name}_val-clip" for name in sources}
    views = {job.params["dataset"]["name"] for job in groups["tiny_voc2012_val-clip"]}
    assert views == {"tiny_voc21", "tiny_voc20"}


def test_every_cell_has_jobs_or_a_reason(root: Path) -> None:
    for scale in ("smoke", "tiny", "small", "full"):
        for at, made in planned(root, scale).cells.items():
            assert made.why if isinstance(made, Empty) else made, at


def test_the_dense_rows_fill_every_column_of_freecp_table_2_at_the_tiny_scale(root: Path) -> None:
    plan = planned(root, "tiny")
    for row in ("clip", "maskclip", "gem", "clearclip", "sclip"):
        for column in ("VOC21", "PC60", "Object", "VOC20", "City", "PC59", "ADE", "Stuff"):
            assert not isinstance(plan.cells["freecp", "table2", row, column], Empty), (row, column)


def test_a_freecp_row_has_descriptions_of_its_own_queries_and_sizes_of_its_scale(root: Path) -> None:
    plan = planned(root, "tiny")
    row = cell(plan, "freecp.table2.sclip_freecp.ADE")
    assert set(row.inputs) == {"model", "source", "text", "descriptions"}
    text, described = row.inputs["text"].params, row.inputs["descriptions"].params
    assert (text["templates"], described["templates"]) == ("tiny", "tiny_scenes")
    assert text["queries"] == described["queries"] and "sentences" not in text
    assert set(described["sentences"]) == {word for words in described["queries"] for word in words}
    assert row.params["protocol"]["ambiguity_crop"] == 32 and row.params["protocol"]["logit_scale"] is None
    for where in ("table3.rp", "table1.refine_with_gt", "table3.baseline_freecp_protocol"):
        other = cell(plan, f"freecp.{where}.ADE")
        assert set(other.inputs) == {"model", "source", "text"}, where
        assert not {"descriptions", "ambiguity_crop"} & set(other.params["protocol"]), where
    texts = {row: cell(plan, f"freecp.table4.{row}.GEM").inputs
             for row in ("freecp_vicuna_vicuna", "freecp_template_gpt35", "baseline_gpt35")}  # fmt: skip
    assert texts["freecp_vicuna_vicuna"]["text"] is texts["freecp_vicuna_vicuna"]["descriptions"]
    assert texts["freecp_template_gpt35"]["descriptions"] is texts["baseline_gpt35"]["text"]
    assert texts["baseline_gpt35"]["text"].params["templates"] == "tiny_names"


def test_one_run_stands_in_all_three_tables_that_print_it(root: Path) -> None:
    plan = planned(root, "tiny")
    for column in ("VOC21", "PC60", "Object", "City", "ADE", "Stuff"):
        places = ("table2.sclip_freecp", "table3.rp_ap", "table5.clip")
        assert len({cell(plan, f"freecp.{place}.{column}").key for place in places}) == 1, column
    for base, row in (("MaskCLIP", "maskclip"), ("SCLIP", "sclip"), ("GEM", "gem"), ("ClearCLIP", "clearclip")):
        one = cell(plan, f"freecp.table4.freecp_template_vicuna.{base}")
        assert one.key == cell(plan, f"freecp.table2.{row}_freecp.ADE").key


def test_the_other_model_is_an_input_and_its_code_counts_for_its_rows_alone(root: Path, copy: Path) -> None:
    plan = planned(root, "tiny")
    row = cell(plan, "freecp.table5.dino.ADE")
    assert row.inputs["companion_dino"].stage == "train_dino" and "transformers" in row.packages
    assert "ovss.models.companions" in row.sources and row.group == cell(plan, "freecp.table5.clip.ADE").group
    companions = copy / "src" / "ovss" / "models" / "companions.py"
    companions.write_text(companions.read_text(encoding="utf-8") + "\nADDED = 1\n", encoding="utf-8")
    after = load_plan(copy, "tiny")
    with_companion = {key for key, job in rows(after).items() if "companion_dino" in job.inputs}
    assert with_companion and new_rows(plan, after) == with_companion


def test_other_sentences_run_the_rows_again_that_read_them(root: Path, copy: Path) -> None:
    edit(copy / "datasets.yaml", "resource: tiny_scenes.json", "resource: tiny_names.json")
    before, after = planned(root, "tiny"), load_plan(copy, "tiny")
    texts = {key: {job.params["protocol"][name] for name in ("templates", "descriptions") if name in
                   job.params["protocol"]} for key, job in rows(after).items()}  # fmt: skip
    reading = {key for key, names in texts.items() if "tiny_scenes" in names}
    assert reading and new_rows(before, after) == reading
    for job in (rows(after)[key] for key in reading):
        if job.params["method"] == "freecp":
            assert job.params["settings"]["purification"] in ("ap", "ap_rp", "rp_ap")
        else:
            assert job.params["protocol"]["templates"] == "tiny_scenes"


@pytest.mark.parametrize(
    ("scale", "where", "why"),
    [
        ("tiny", "table5.sam.ADE", r"^companion sam: no tiny counterpart of this model$"),
        ("tiny", "table5.maskformer.ADE", r"^companion maskformer: no tiny counterpart of this model$"),
        ("tiny", "table6.l14_freecp.ADE", r"^model clip_deep is not trained at this scale$"),
        ("tiny", "table6.r50x16_freecp.ADE", r"^no tiny counterpart of this model$"),
        ("full", "table4.freecp_template_gpt35.SCLIP",
         r"data/manual/descriptions_gpt35/ade20k\.json \(FreeCP did not publish them; write .* 'ovss describe"),
        ("full", "table4.baseline_gpt35.GEM", r"data/manual/descriptions_gpt35/ade20k\.json"),
    ],
)  # fmt: skip
def test_a_cell_of_freecp_that_stays_empty_says_what_is_missing(root: Path, scale: str, where: str, why: str) -> None:
    table, row, column = where.split(".")
    found = planned(root, scale).cells["freecp", table, row, column]
    assert isinstance(found, Empty) and re.search(why, found.why), found


def test_every_table_of_freecp_is_a_target_and_the_small_scale_has_a_second_backbone(root: Path) -> None:
    plan = planned(root, "small")
    assert {f"freecp_table{number}" for number in range(1, 7)} <= plan.targets.keys()
    for row in ("l14_baseline", "l14_freecp", "l14_baseline_freecp_protocol"):
        assert cell(plan, f"freecp.table6.{row}.ADE").inputs["model"].name == "clip_deep"


def test_the_gallery_shows_the_rows_that_a_table_names(root: Path) -> None:
    shown = planned(root, "tiny").report.params["gallery"]
    rows = {name: [entry["row"] for entry in shown if entry["dataset"] == name] for name in ("tiny_ade", "tiny_voc20")}
    assert rows["tiny_ade"] == ["baseline", "refine", "rp", "ap", "ap_rp", "rp_ap"]
    assert rows["tiny_voc20"] == ["clip", "sclip", "maskclip_freecp", "gem_freecp", "sclip_freecp"]


def test_the_full_plan_downloads_descriptions_and_the_other_models(root: Path) -> None:
    plan = planned(root, "full")
    text = cell(plan, "freecp.table2.gem_freecp.ADE").inputs["descriptions"]
    assert text.inputs["sentences"].stage == "fetch" and text.params["sentences_file"] == "ade20k.py"
    for where, name in (("table5.dino", "dino"), ("table5.sam", "sam"), ("table5.maskformer", "maskformer"),
                        ("table6.r50x16_freecp", "dino")):  # fmt: skip
        row = cell(plan, f"freecp.{where}.ADE")
        assert row.inputs[f"companion_{name}"].stage == "weights", where
        assert row.params["protocol"]["ambiguity_crop"] == 112


def test_explanations_change_the_claims_of_their_scale_alone(root: Path, copy: Path) -> None:
    edit(copy / "papers" / "freecp.yaml", "    worse: table2.clip\n",
         "    worse: table2.clip\n    explanations: {tiny: {contradicted: too few steps}}\n")  # fmt: skip
    for scale, changed in (("tiny", {"freecp"}), ("smoke", set())):
        before, after = planned(root, scale), load_plan(copy, scale)
        assert {name for name, job in after.claims.items() if job.key != before.claims[name].key} == changed
        assert new_rows(before, after) == set()
    (first, *_) = after.claims["freecp"].params["claims"]
    assert first["explanations"] == {}


def test_the_full_plan_needs_no_data_and_names_what_is_missing(root: Path) -> None:
    plan = planned(root, "full")
    assert len(plan.jobs) >= 300
    why = plan.cells["freecp", "table2", "clip", "City"]
    if not (root / "data" / "manual" / "cityscapes").exists():
        assert isinstance(why, Empty)
        assert "data/manual/cityscapes/gtFine_trainvaltest.zip" in why.why
    assert not isinstance(plan.cells["freecp", "table2", "clip", "ADE"], Empty)


def test_planning_imports_nothing_heavy(root: Path) -> None:
    code = ("import sys; from pathlib import Path; from ovss.plan.plan import load_plan; "
            "load_plan(Path('.'), 'full').jobs; "
            "print([m for m in ('torch', 'pandas', 'matplotlib', 'numpy') if m in sys.modules])")  # fmt: skip
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_rules_are_the_stages_and_each_has_log_and_benchmark(root: Path) -> None:
    text = "".join(file.read_text(encoding="utf-8") for file in (root / "rules").glob("*.smk"))
    blocks = {block.split(":", 1)[0].strip(): block for block in text.split("\nrule ")[1:]}
    looped = {name for name, stage in STAGES.items() if stage.is_pass or stage.grouped}
    in_passes = {"text", "evaluate", "evaluate_texts", "clusters", "segments", "retrieve", "label", "train_ttd"}
    assert looped == {*in_passes, "table"}
    (passes,) = re.findall(r"flow\.passes\(([^()]*)\):", text.replace('flow.passes("table")', ""))
    assert set(re.findall(r'"(\w+)"', passes)) == in_passes
    assert 'flow.passes("table")' in text
    for name in STAGES.keys() - looped:
        assert "log:" in blocks[name] and "benchmark:" in blocks[name], name
    assert text.count("group.log,") == text.count("group.benchmark") == 2


def test_dvc_knows_every_table_of_every_paper(root: Path) -> None:
    listed = yaml.safe_load((root / "dvc.yaml").read_text(encoding="utf-8"))["stages"]["reproduce"]
    known = {next(iter(entry)) for entry in listed["metrics"]}
    tables = {f"results/${{scale}}/{name}/{table}.json"
              for name, paper in Project.load(root).papers.items() for table in paper.tables}  # fmt: skip
    assert known == tables
    tracked = {f"work/{name}" for name, stage in STAGES.items() if stage.tracked}
    assert tracked | {"results/${scale}/report"} == {next(iter(entry)) for entry in listed["outs"]}
    assert "work/by_hand" not in tracked, "links to what a person has placed"


FREECP = r"papers/freecp\.yaml: "
BASELINE = FREECP + r"tables\.table1\.rows\.baseline\.run\."


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("papers/freecp.yaml", "variant: SCLIP, family: full_block", "varient: SCLIP, family: full_block",
         BASELINE + r"settings\.varient: method dense_clip has no such setting \(did you mean 'variant'\?\); "),
        ("papers/freecp.yaml", "method: dense_clip,", "method: dense_klip,",
         BASELINE + r"method: there is no .*dense_klip\.py.*did you mean 'dense_clip'"),
        ("papers/freecp.yaml", "{label: VOC21, dataset: VOC21}", "{label: VOC21, dataset: VOC22}",
         FREECP + r".*'VOC22' is not a column of params\.yaml .*did you mean 'VOC2"),
        ("papers/freecp.yaml", "protocol: sclip,", "protocol: slip,", FREECP + r".*'slip' is not known; allowed: "),
        ("papers/freecp.yaml", "tables:\n", "tabels:\n", FREECP + r".*tabels: unknown key"),
        ("papers/freecp.yaml", "VOC21: 59.4,", "VOC21: [59.4],", FREECP + r"tables\.table1\.rows\.0\.published"),
        ("papers/freecp.yaml", "VOC21: 59.4,", "", r"published lacks column 'VOC21'; write its number, or null"),
        ("params.yaml", "VOC21: tiny_voc21", "VOC21: tiny_voc22", r"'tiny_voc22' is not a data set of datasets\.yaml"),
        ("datasets.yaml", "source: voc2012_val\n", "source: voc2013_val\n", r"datasets\.yaml: .*voc2013_val"),
    ],
)  # fmt: skip
def test_a_wrong_name_is_refused_with_file_key_and_what_is_allowed(
    copy: Path, file: str, old: str, new: str, message: str
) -> None:
    edit(copy / file, old, new)
    with pytest.raises(UserError, match=message):
        [load_plan(copy, scale) for scale in ("smoke", "tiny", "small")]


def test_a_method_without_a_module_is_shown_as_not_implemented(root: Path) -> None:
    found = planned(root, "tiny").cells["reclippp", "table3", "fixed_query", "voc"]
    assert isinstance(found, Empty) and "not implemented: method reclippp" in found.why


def test_a_pass_planned_before_a_change_is_refused(root: Path) -> None:
    plan = planned(root, "tiny")
    with pytest.raises(UserError, match="changed while the workflow was running"):
        plan.group("evaluate/tiny_ade20k_val-clip", "0" * 16)
    with pytest.raises(UserError, match="has no such output"):
        plan.find("work/table/freecp_table1.0000000000000000/origin.json")


def test_snakemake_plans_the_full_scale_without_any_data(root: Path) -> None:
    command = [sys.executable, "-m", "snakemake", "--dry-run", "--nolock", "--config", "scale=full", "--", "all"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    (total,) = {int(line.split()[1]) for line in (done.stdout + done.stderr).splitlines() if line.startswith("total ")}
    assert total >= 300
