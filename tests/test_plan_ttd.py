"""The plan of rows that are trained or measured on images with texts, and folders that a person fills."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from ovss.data import by_hand
from ovss.errors import UserError
from ovss.jobs import JobContext, Machine
from ovss.plan.job import Job
from ovss.plan.plan import Plan, load_plan
from ovss.plan.rows import Empty
from ovss.plan.workflow import Workflow

FILES = ("params.yaml", "datasets.yaml", "weights.yaml", "papers", "src", "envs")


@pytest.fixture
def copy(root: Path, tmp_path: Path) -> Path:
    for name in FILES:
        if (root / name).is_dir():
            shutil.copytree(root / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
        else:
            shutil.copy(root / name, tmp_path / name)
    return tmp_path


@pytest.fixture(scope="module")
def tiny(root: Path) -> Plan:
    return load_plan(root, "tiny")


def cell(plan: Plan, where: str) -> Job:
    """The one job of ``table.row.column`` of TTD."""
    table, row, column = where.split(".")
    made = plan.cells["ttd", table, row, column]
    assert not isinstance(made, Empty), made.why
    (job,) = made
    return job


def reason(plan: Plan, where: str) -> str:
    table, row, column = where.split(".")
    made = plan.cells["ttd", table, row, column]
    assert isinstance(made, Empty)
    return made.why


def test_a_tuned_row_reads_the_trained_model_everywhere(tiny: Plan) -> None:
    row, base = cell(tiny, "table4.tcl_ttd.VOC"), cell(tiny, "table4.tcl_multi_scale.VOC")
    model = row.inputs["model"]
    assert model.stage == "train_ttd" and model.inputs["model"] is base.inputs["model"]
    assert row.inputs["text"].inputs["model"] is model
    assert {name: job.stage for name, job in model.inputs.items()} == {
        "model": "train_tcl", "kept": "prune", "index_cc3m": "index_pairs", "index_cc12m": "index_pairs",
        "shards_cc3m": "fetch", "shards_cc12m": "fetch",
    }  # fmt: skip
    assert row.params["protocol"] == base.params["protocol"], "a base and its tuned form are measured alike"


def test_a_training_that_several_tables_ask_for_is_one(tiny: Plan) -> None:
    places = ("table2.b_s_pixel_ttd.recall", "table4.tcl_ttd.VOC", "table5a.both.CaptionIoU", "table7.pruned.mIoU_VOC",
              "table5b.s_pixel.mIoU_VOC", "table11.tcl_ttd.RefCOCO_val")  # fmt: skip
    assert len({cell(tiny, place).inputs["model"].key for place in places}) == 1
    trainings = [job for job in tiny.jobs.values() if job.stage == "train_ttd"]
    # both bases; cosine, distill alone, tag alone, nouns, image, all pairs
    assert len(trainings) == 8
    assert len({job.inputs["kept"].key for job in trainings if "kept" in job.inputs}) == 2


def test_pruning_and_losses_reach_the_training(tiny: Plan) -> None:
    everything, kept = (cell(tiny, f"table7.{row}.num_samples") for row in ("all_pairs", "pruned"))
    assert (everything.stage, kept.stage) == ("train_ttd", "train_ttd")
    assert "kept" not in everything.inputs and "kept" in kept.inputs
    assert everything.params == kept.params
    alone = cell(tiny, "table5a.tag_only.mIoU_VOC").inputs["model"]
    assert (alone.params["distill"], alone.params["tag"]) == (False, True)
    assert "times differ from run to run" in reason(tiny, "table7.pruned.train_hours")


def test_rows_on_texts_have_a_task_and_no_class_names(tiny: Plan) -> None:
    words, masks = cell(tiny, "table2.b_s_image.recall"), cell(tiny, "table3.tcl.CaptionIoU")
    assert (words.stage, words.params["task"], masks.params["task"]) == ("evaluate_texts", "tags", "captions")
    assert words.params["protocol"]["templates"] == "none" and "template_lines" not in words.params
    assert masks.params["protocol"]["templates"] == "tiny" and masks.params["template_lines"]
    assert not {"names", "normalisation"} & masks.params["protocol"].keys()
    assert masks.params["protocol"]["scales"] == [1.0, 0.5], "the scale's own image scales"
    assert "scales" not in cell(tiny, "table3.tcl_single_scale.CaptionIoU").params["protocol"]
    assert words is cell(tiny, "table2.b_s_image.f1"), "all measures of a row are one job"
    assert cell(tiny, "table10.tcl_ttd.mAP_NUSWIDE").params["task"] == "concepts"
    tuned = {cell(tiny, f"table5a.{row}.mIoU_VOC").group for row in ("both", "tag_only", "distill_only")}
    assert tuned == {"tiny_voc2012_val-tuned"}, "one process for all tuned models, with a pass for each"


def test_a_training_of_several_processes_asks_for_as_many_gpus(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OVSS_DEVICE", raising=False)
    text = (copy / "params.yaml").read_text(encoding="utf-8")
    (copy / "params.yaml").write_text(text.replace("ttd: &ttd {", "ttd: &ttd {processes: 4, "), encoding="utf-8")
    flow = Workflow(copy, load_plan(copy, "smoke"), full_graph=True)
    wanted = {each.stage: each.resources for each in flow.passes("train_ttd", "evaluate")}
    memory = [wanted["train_ttd"]["mem_mb"](None, attempt) for attempt in (1, 2)]
    assert (wanted["train_ttd"]["gpu"], memory) == (4, [16000, 32000]), "a second try gets twice the memory"
    assert wanted["evaluate"]["gpu"] == 1
    monkeypatch.setenv("OVSS_DEVICE", "cpu")
    assert "gpu" not in flow.resources("train_ttd", 4)


def test_a_row_that_measures_another_thing_says_so_to_its_table(tiny: Plan) -> None:
    rows = {row["id"]: row["cells"] for row in tiny.tables["ttd", "table3"].params["table"]["rows"]}
    assert rows["tcl_pooled"]["CaptionIoU"]["metric"] == "caption_iou_pooled"
    assert "metric" not in rows["tcl"]["CaptionIoU"]
    assert rows["tcl_pooled"]["CaptionIoU"]["inputs"] == rows["tcl"]["CaptionIoU"]["inputs"]


def test_what_needs_another_model_says_so(tiny: Plan) -> None:
    assert "llm" in reason(tiny, "table2.a_vicuna_7b.recall")
    assert "hq_sam" in reason(tiny, "table12.tcl_ttd_sam.mIoU_VOC")


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("papers/ttd.yaml", "distill: false, tag: true", "distil: false, tag: true",
         r"papers/ttd\.yaml: tables\.table5a\.rows\.tag_only\.run\.training.*distil.*distill"),
        ("papers/ttd.yaml", "distill: false, tag: true", "distill: false, tag: false", "nothing is left to train"),
        ("papers/ttd.yaml", "CC3M+CC12M: {full", "CC3M: {full", r"training\.data: 'CC3M\+CC12M' is not among pairs"),
        ("params.yaml", "CC3M-Tags: tiny_cc3m_tags", "CC3M-Tags: tiny_cc3m_tag", "'tiny_cc3m_tag' is not a data set"),
        ("datasets.yaml", "{archive: tiny_pairs, stem: cc3m}", "{archive: pair, stem: cc3m}", "pair is not in"),
        ("datasets.yaml", "layout: nuswide,", "layout: nuswid,", r"there is no ovss/data/text_layouts/nuswid\.py"),
    ],
)  # fmt: skip
def test_a_wrong_name_is_refused(copy: Path, file: str, old: str, new: str, message: str) -> None:
    text = (copy / file).read_text(encoding="utf-8")
    assert old in text
    (copy / file).write_text(text.replace(old, new), encoding="utf-8")
    with pytest.raises(UserError, match=message):
        load_plan(copy, "smoke")


def test_pairs_of_the_full_scale_are_taken_from_a_folder(copy: Path) -> None:
    assert "data/manual/cc3m_pairs (fetch the images" in reason(load_plan(copy, "full"), "table5a.both.mIoU_VOC")
    for name in ("cc3m_pairs", "cc12m_pairs"):
        (copy / "data" / "manual" / name).mkdir(parents=True)
        (copy / "data" / "manual" / name / "00000.tar").write_bytes(b"x" * 5)
    made = load_plan(copy, "full").cells["ttd", "table5a", "both", "mIoU_VOC"]
    assert not isinstance(made, Empty) and len(made) == 8, "a job for every 200 images"
    row = made[0]
    shards = row.inputs["model"].inputs["shards_cc12m"]
    assert (shards.stage, shards.params["files"]) == ("by_hand", [["00000.tar", 5]])
    assert row.inputs["model"].params["mean"] == [0.485, 0.456, 0.406], "TCL's normalisation"


def test_a_folder_that_has_changed_since_it_was_planned_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(by_hand, "MANUAL", tmp_path)
    folder, out = tmp_path / "a", tmp_path / "out"
    folder.mkdir()
    out.mkdir()
    (folder / "00000.tar").write_bytes(b"x" * 5)
    ctx = JobContext(0, Machine(), {"archive": "a", "files": [["00000.tar", 5]]}, {}, out)
    assert by_hand.run(ctx) == {"archive": "a", "files": 1, "bytes": 5}
    assert (out / "00000.tar").read_bytes() == b"x" * 5
    (folder / "00000.tar").write_bytes(b"x" * 4)
    with pytest.raises(UserError, match=r"00000\.tar: has 4 bytes, 5 were planned"):
        by_hand.run(ctx)
    (folder / "00000.tar").unlink()
    with pytest.raises(UserError, match=r"00000\.tar: is missing, 5 were planned"):
        by_hand.run(ctx)
