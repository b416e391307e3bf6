"""What is said of a run before money is spent on it, and what a run does about an archive that cannot be fetched."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import MISSING, fields, replace
from pathlib import Path

import pytest
import torch
from scenario import Scenario, run
from small_clip import CONFIG, small_clip, windows
from torch.utils.flop_counter import FlopCounterMode

from ovss import failures, reproduce, runner
from ovss.config.params import Scale
from ovss.errors import UserError
from ovss.methods import dense_clip, freecp, tag
from ovss.models import dense, gem
from ovss.models.grounder import Grounder
from ovss.models.templates import NAMES, templates
from ovss.models.text import encode_tokens
from ovss.models.windows import make_grid
from ovss.plan import flops, manual, show
from ovss.plan.assumed import DEFAULTS, PROMPTS
from ovss.plan.cost import Costs, rounded
from ovss.plan.disk import downloads
from ovss.plan.job import Job
from ovss.plan.plan import Plan, make_plan
from ovss.plan.project import Project
from ovss.plan.rows import Empty

TABLES = ["freecp.table5", "ttd.table5a", "tag.table3"]
LINKED = ("src", "papers", "envs", "params.yaml", "datasets.yaml", "weights.yaml")


def elsewhere(project: Project, folder: Path) -> Project:
    """The same project in a folder that has no data."""
    for name in LINKED:
        (folder / name).symlink_to(project.root / name)
    return replace(project, root=folder)


def scaled(project: Project, **changes: object) -> Project:
    full: Scale = project.params.full.model_copy(update=changes)
    return replace(project, params=project.params.model_copy(update={"full": full}))


@pytest.fixture(scope="module")
def project(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The full scale with three tables."""
    return elsewhere(scaled(Project.load(root), tables=TABLES), tmp_path_factory.mktemp("full"))


@pytest.fixture(scope="module")
def plan(project: Project) -> Plan:
    return make_plan(project, "full")


def counted(run: object) -> int:
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        run()  # type: ignore[operator]
    return counter.get_total_flops()


# The formulas.


@pytest.fixture(scope="module")
def vit() -> flops.Vit:
    vision = CONFIG["vision_cfg"]
    return flops.Vit(flops.Blocks(vision["width"], vision["layers"]), vision["patch_size"], 32, CONFIG["embed_dim"])


def test_operations_of_a_vit_are_those_that_torch_counts(vit: flops.Vit) -> None:
    clip, images = small_clip(), windows(1, 40, 56)
    blocks = clip.visual.transformer.resblocks

    def forward() -> None:
        inputs, _ = dense.encode(clip.visual, images, "scale")
        dense.joint_features(clip.visual, dense.standard_block(blocks[-1], inputs[-1]))

    assert counted(forward) == vit.image(40, 56)
    maps = counted(lambda: dense.encode(clip.visual, images, "scale", ["mean"]))
    assert maps - counted(lambda: dense.encode(clip.visual, images, "scale")) == vit.attention_maps(40, 56)
    inputs, _ = dense.encode(clip.visual, images, "antialias")
    branches = counted(lambda: gem.gem_tokens(clip.visual, inputs, 1, 1, "accumulate"))
    assert branches == vit.gem(40, 56, branches=2, iterations=1)


def test_operations_of_a_text_tower_and_of_tcl_s_decoder_are_those_that_torch_counts(vit: flops.Vit) -> None:
    clip, text = small_clip(), CONFIG["text_cfg"]
    tower = flops.Text(flops.Blocks(text["width"], text["layers"]), CONFIG["embed_dim"])
    assert counted(lambda: encode_tokens(clip, torch.ones(1, 12, dtype=torch.long))) == tower.text(12)
    grounder = Grounder(clip.visual)
    pixels = torch.randn(1, CONFIG["vision_cfg"]["width"], 5, 7)
    assert counted(lambda: grounder.image_proj(grounder.decoder(pixels))) == vit.grounder(40, 56)


def test_what_rows_leave_unsaid_is_what_methods_and_templates_say() -> None:
    for name, value in DEFAULTS.items():
        said = {each.default for module in (dense_clip, freecp, tag) for each in fields(module.Settings)
                if each.name == name and each.default is not MISSING}  # fmt: skip
        assert said == {value}, name
    assert {name: PROMPTS.get(name, 1) for name in NAMES} == {name: len(templates(name)) for name in NAMES}


@pytest.mark.parametrize("size", [(480, 640), (1024, 2048), (500, 333)])
@pytest.mark.parametrize(
    ("short", "crop", "stride"), [(448, 384, 112), (336, 224, 112), (448, 448, 224), (512, None, None)]
)
def test_windows_are_those_of_the_evaluation(
    size: tuple[int, int], short: int, crop: int | None, stride: int | None
) -> None:
    found = flops.windows(size, short, 2048, False, crop, stride)
    factor = min(2048 / max(size), short / min(size))
    grid = make_grid(tuple(int(side * factor + 0.5) for side in size), crop, stride, 16)  # type: ignore[arg-type]
    assert (found.count, found.height // 16, found.width // 16) == (grid.count, grid.rows.patches, grid.columns.patches)


@pytest.mark.slow
def test_networks_that_were_counted_are_counted_again() -> None:
    import open_clip
    import timm
    from transformers import MaskFormerConfig, MaskFormerForInstanceSegmentation, SwinConfig

    swin = SwinConfig(image_size=384, embed_dim=128, depths=[2, 2, 18, 2], num_heads=[4, 8, 16, 32], window_size=12,
                      out_features=["stage1", "stage2", "stage3", "stage4"])  # fmt: skip
    with torch.device("meta"):
        resnet = open_clip.create_model("RN50x16-quickgelu", device="meta").visual.eval()
        layers = torch.nn.Sequential(resnet.layer1, resnet.layer2, resnet.layer3, resnet.layer4)
        sam = timm.create_model("samvit_base_patch16").eval()
        maskformer = MaskFormerForInstanceSegmentation(MaskFormerConfig(backbone_config=swin)).eval()
        known = {
            "RN50x16-quickgelu": lambda side: layers(resnet.stem(torch.zeros(1, 3, side, side))),
            "samvit_base_patch16": lambda side: sam.forward_features(torch.zeros(1, 3, side, side)),
            "facebook/maskformer-swin-base-coco": lambda side: maskformer(pixel_values=torch.zeros(1, 3, side, side)),
        }
        for name, forward in known.items():
            entry = flops.IMAGE_NETWORKS[name]
            assert isinstance(entry, flops.Counted)
            assert counted(lambda: forward(entry.side)) == entry.counted, name  # noqa: B023


# The costs of a plan.


def jobs(plan: Plan, stage: str) -> list[Job]:
    return [job for job in plan.jobs.values() if job.stage == stage]


def test_costs_grow_with_the_number_of_images_and_are_shared_in_a_pass(project: Project, plan: Plan) -> None:
    costs, rows = Costs(project), jobs(plan, "evaluate")
    sources = project.datasets.sources
    twice = {name: source.model_copy(update={"images": 2 * (source.images or 0)}) for name, source in sources.items()}
    doubled = Costs(replace(project, datasets=project.datasets.model_copy(update={"sources": twice})))
    assert doubled.of(rows).work.fp32 == pytest.approx(2 * costs.of(rows).work.fp32) and costs.of(rows).work.fp32 > 0
    group = next(some for (stage, _), some in plan.groups.items() if stage == "evaluate" and len(some) > 2)
    apart, together = sum(costs.of([job]).work.fp32 for job in group), costs.of(group).work.fp32
    assert max(costs.of([job]).work.fp32 for job in group) < together < apart


def test_a_gpu_stage_without_a_formula_is_not_known_and_a_cpu_stage_costs_nothing(project: Project, plan: Plan) -> None:
    costs = Costs(project)
    assert costs.of(jobs(plan, "fetch")).work.hours == 0 and not costs.of(jobs(plan, "fetch")).unknown
    strange = replace(
        jobs(plan, "evaluate")[0], inputs={**jobs(plan, "evaluate")[0].inputs, "model": jobs(plan, "fetch")[0]}
    )
    assert str(costs.of([strange])) == "?"
    assert [rounded(hours) for hours in (0, 0.01, 0.44, 3.26, 47.4, 1234.0)] == [
        "0",
        "<0.1",
        "0.4",
        "3.3",
        "47",
        "1,200",
    ]


# What is shown.


@pytest.fixture(scope="module")
def steps(project: Project, plan: Plan) -> dict[str, manual.Step]:
    return {step.name: step for step in manual.steps(project, plan, manual.with_everything(project, "full"))}


@pytest.fixture(scope="module")
def shown(project: Project, plan: Plan) -> str:
    return show.overview(project, plan)


def test_the_overview_fits_100_columns_and_names_every_step_once(
    plan: Plan, steps: dict[str, manual.Step], shown: str
) -> None:
    assert max(map(len, shown.splitlines())) <= 100, max(shown.splitlines(), key=len)
    for step in steps.values():
        assert shown.count(f"\n  {step.name}: ") == 1
        for path in step.paths:
            assert f"    place   {path}\n" in shown
    passes = [group for stage, group in plan.groups if stage == "evaluate"]
    (line,) = [line.split() for line in shown.splitlines() if line.startswith("evaluate ")]
    assert line[1:4] == ["0", str(len(jobs(plan, "evaluate"))), str(len(passes))]


def test_downloads_state_exact_rough_and_unknown_sizes(project: Project, plan: Plan, shown: str) -> None:
    found = {each.name: each for each in downloads(project, plan.jobs.values())}
    assert found["coco_val2017"].known == 815585330 and not found["coco_val2017"].rough
    assert found["coco_stuffthingmaps"].known == 659000000 and found["coco_stuffthingmaps"].rough
    assert found["clip_vitb16_openai"].unknown == ("ViT-B-16.pt",)
    assert "about 660 MB  to fetch" in shown and "not known  to fetch" in shown


def test_a_step_says_which_cells_it_opens_and_which_by_itself(plan: Plan, steps: dict[str, manual.Step]) -> None:
    assert {"cc3m_pairs", "cc12m_pairs", "cc3m_tagmask", "cityscapes", "cased_pmd_top5"} <= set(steps)
    pairs, masks = steps["cc3m_pairs"], steps["cc3m_tagmask"]
    assert pairs.paths == ("data/manual/cc3m_pairs",) and pairs.cells == steps["cc12m_pairs"].cells and not pairs.alone
    assert masks.alone and set(masks.alone) < set(masks.cells)
    city = steps["cityscapes"]
    assert manual.opened(city.cells) == "freecp table5 4" and city.bytes == 11_241_000_000
    assert city.page == "https://www.cityscapes-dataset.com/downloads/" and "no redistribution" in city.licence
    for step in steps.values():
        assert all(isinstance(plan.cells[at], Empty) for at in step.cells)


def test_weights_that_a_person_has_to_place_empty_their_cells(project: Project, tmp_path: Path) -> None:
    full = scaled(elsewhere(project, tmp_path), tables=["ttd.table4"])
    made = make_plan(full, "full").cells
    waiting = {at for at, cell in made.items() if isinstance(cell, Empty) and "ttd_tcl/TCL+TTD.pt" in cell.why}
    assert waiting and any(not isinstance(cell, Empty) for cell in made.values())


def test_jobs_are_listed_with_inputs_and_costs(project: Project, plan: Plan) -> None:
    listed = show.job_list(plan, project.root, Costs(project), "captions").splitlines()
    assert sum(line.startswith("to run ") for line in listed) == len(jobs(plan, "captions")) >= 3
    assert any(line.strip().startswith("archive_cc12m: work/fetch/cc12m.") for line in listed)
    found = json.loads(show.as_json(plan, Costs(project)))["jobs"]
    hours = {job["stage"]: job["gpu_hours"] for job in found.values()}
    assert hours["captions"] > 0 and hours["fetch"] == 0
    assert "gpu_hours" not in next(iter(json.loads(show.as_json(plan))["jobs"].values()))


# An archive that cannot be fetched.


def test_an_archive_that_failed_empties_its_cells_and_no_others(project: Project, plan: Plan, tmp_path: Path) -> None:
    full, before = elsewhere(project, tmp_path), plan.cells
    with pytest.raises(UserError, match="is down"), failures.noted(tmp_path, "ade20k150"):
        raise UserError(f"{tmp_path}/x.zip:\n the server is down")
    assert failures.go_on_without(tmp_path) == ["ade20k150"]
    assert failures.left_out_of(tmp_path) == {"ade20k150": "x.zip: the server is down"}
    after = make_plan(full, "full")
    lost = {at for at, cell in after.cells.items() if isinstance(cell, Empty) and not isinstance(before[at], Empty)}
    uses = {at: cell[0].inputs["source"].name for at, cell in before.items() if not isinstance(cell, Empty)}
    assert lost == {at for at, source in uses.items() if source == "ade20k_val"} and len(lost) < len(uses)
    for at, cell in after.cells.items():
        if not isinstance(cell, Empty):
            assert [job.key for job in cell] == [job.key for job in before[at]], "other rows keep their keys"  # type: ignore[union-attr]
    (why,) = {cell.why for at, cell in after.cells.items() if at in lost and isinstance(cell, Empty)}
    assert why.startswith("could not be fetched: x.zip: the server is down")
    assert "    failed  x.zip: the server is down" in show.overview(full, after)


def fetch_job(url: str) -> Job:
    file = {"name": "a.txt", "url": url, "mirrors": [], "size": None, "sha256": None, "sha1": None, "md5": None}
    params = {"archive": "things", "files": [file]}
    return Job("fetch", "things", "ovss.data.fetch", params, {}, {}, {})


def test_a_failed_fetch_leaves_a_sentence_and_a_good_one_takes_it_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    source = tmp_path / "source.txt"
    job = fetch_job(f"file://{source}")
    with pytest.raises(UserError, match="could not be downloaded"):
        runner.run_jobs([job], tmp_path, seed=0)
    note = tmp_path / "data/failed/things.new"
    assert note.read_text().startswith("a.txt: could not be downloaded") and note.read_text().count("\n") == 1
    assert failures.left_out_of(tmp_path) == {}, "the plan of a run at work does not change"
    source.write_text("here")
    runner.run_jobs([job], tmp_path, seed=0)
    assert not note.exists() and (tmp_path / job.directory / "a.txt").read_text() == "here"


def test_a_full_disk_is_not_held_against_the_archive(tmp_path: Path) -> None:
    with pytest.raises(UserError), failures.noted(tmp_path, "things"):
        raise UserError("full") from OSError(28, "No space left on device")
    assert failures.go_on_without(tmp_path) == []


def test_a_run_goes_on_without_what_failed_says_so_and_tries_it_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    runs: list[dict[str, str]] = []

    def one_run(root: Path, dvc: list[str]) -> object:
        runs.append(failures.left_out_of(root))
        if runs[-1]:
            return "a plan"
        with pytest.raises(UserError), failures.noted(root, "things"):
            raise UserError("the address is dead")
        return None

    monkeypatch.setattr(reproduce, "_run", one_run)
    monkeypatch.setattr(reproduce, "_summary", lambda plan, root: "the summary")
    for _ in range(2):
        assert reproduce.reproduce(tmp_path) == 1
        out, err = capsys.readouterr()
        assert out == "the summary\n" and "going on without things" in err and "INCOMPLETE: things" in err
    assert runs == 2 * [{}, {"things": "the address is dead"}]
    monkeypatch.setattr(reproduce, "_run", lambda root, dvc: "a plan")
    assert reproduce.reproduce(tmp_path) == 0 and "INCOMPLETE" not in capsys.readouterr().err


@pytest.mark.slow
def test_a_run_with_a_dead_address_fills_every_other_cell_and_the_next_one_those(root: Path, tmp_path: Path) -> None:
    project = Scenario.create(root, tmp_path)
    command = [sys.executable, "-m", "ovss.cli"]
    planned = json.loads(run([*command, "plan", "--json"], project.folder, env=project.env).stdout)["jobs"]
    world = next(path for path, job in planned.items() if (job["stage"], job["name"]) == ("world", "tiny_ade20k"))
    subprocess.run([*command, "job", world], cwd=project.folder, env=project.env, check=True, capture_output=True)
    project.edit("datasets.yaml", "world://ADEChallengeData2016.zip", f"file://{tmp_path}/ADEChallengeData2016.zip")
    first = project.reproduce(expect=1)
    assert (first["evaluate"], first["prepare"], first["table"], first["report"]) == (6, 1, 1, 1)
    summary = run([*command, "summary"], project.folder, env=project.env).stdout
    assert "INCOMPLETE: tiny_ade20k could not be fetched, 6 cells are empty" in summary
    table = (project.folder / "results/smoke/freecp/table1.md").read_text(encoding="utf-8")
    assert "could not be fetched: ADEChallengeData2016.zip" in table
    shutil.copy(project.folder / world / "archives" / "ADEChallengeData2016.zip", tmp_path)
    second = project.reproduce()
    assert (second["fetch"], second["prepare"], second["evaluate"], second["table"]) == (1, 1, 6, 1)
    assert not failures.left_out_of(project.folder)
