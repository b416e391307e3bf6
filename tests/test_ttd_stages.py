"""Pruning and training of TTD as stages: what they write, what they read, and runs that go on after a kill."""

from __future__ import annotations

import csv
import json
import multiprocessing
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from small_archives import jpg, tar_of
from small_clip import write_model_directory

from ovss.config.ttd import TtdChoices, TtdScale, job_params, prune_params
from ovss.data import index_pairs
from ovss.data.captions_words import CaptionWords
from ovss.data.pairs import Pairs
from ovss.errors import UserError
from ovss.jobs import JobContext, Machine
from ovss.models.grounder import Grounder
from ovss.models.ttd_base import open_base
from ovss.training.ttd import prune_pairs, tagging, train, worker
from ovss.training.ttd.bases import open_tower
from ovss.training.ttd.loss import LossSettings
from ovss.training.ttd.processes import Process
from ovss.training.ttd.resume import STATE_FILE
from ovss.training.ttd.settings import to_settings
from ovss.training.ttd.step import TrainSettings

COUNTS = {"cc3m": 7, "cc12m": 6}
NAMES = tuple(COUNTS)
SCALE = TtdScale(
    steps=5, batch=4, lr=3e-3, precision="fp32", smallest=24, largest=40, side=32, save_every=2, log_every=1,
    prune_side=32, prune_batch=4,
)  # fmt: skip
WORDS = ("a red dog", "the cats on grass", "two boats", "a bird in the sky", "an old car")


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A CLIP, a TCL around it, and two indexed collections."""
    root = tmp_path_factory.mktemp("ttd")
    found = {"clip": write_model_directory(root / "clip"), "tcl": write_model_directory(root / "tcl")}
    grounder = Grounder(open_base(found["clip"], "maskclip").clip.visual, 1)
    state = {name: torch.randn(each.shape) / 8 for name, each in grounder.state_dict().items()}
    save_file(state, found["tcl"] / "grounder.safetensors")
    (found["tcl"] / "tcl_config.json").write_text(json.dumps({"stages": 1}))
    for name, count in COUNTS.items():
        folder = root / name
        folder.mkdir()
        images = {f"{key:09d}.jpg": jpg(key, 24, 32) for key in range(count)}
        texts = {f"{key:09d}.txt": f"{WORDS[key % 5]} {key}".encode() for key in range(count)}
        (folder / f"{name}_00000.tar").write_bytes(tar_of(images | texts))
        params = {"collection": name, "stem": name, "expected": 9}
        index = run(index_pairs, root / f"index_{name}", params, {"shards": folder})
        found |= {f"shards_{name}": folder, f"index_{name}": index}
    return found


def run(stage: Any, out: Path, params: dict[str, Any], inputs: dict[str, Path], workers: int = 1) -> Path:
    out.mkdir(exist_ok=True)
    context = JobContext(5, Machine(workers=workers), params, inputs, out, scratch=out.with_name(f"{out.name}.scratch"))
    stage.run(context)
    return out


def trained(
    inputs: dict[str, Path], out: Path, scale: TtdScale = SCALE, workers: int = 1, kept: Path | None = None,
    llm: Path | None = None, **choices: Any,
) -> Path:  # fmt: skip
    choices = {"base": "maskclip", **choices}
    given = {**inputs, "model": inputs["tcl" if choices["base"] == "tcl" else "clip"]}
    given |= {"kept": kept} if kept else {}
    given |= {"companion_llm": llm} if llm else {}
    return run(train, out, job_params(TtdChoices(**choices), scale, NAMES), given, workers)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def curve(folder: Path, metric: str = "loss") -> list[float]:
    with (folder / "curves.csv").open() as file:
        return [float(row["value"]) for row in csv.DictReader(file) if row["metric"] == metric]


def test_settings_reach_the_loop(inputs: dict[str, Path]) -> None:
    choices = TtdChoices(
        base="maskclip", map="cosine", reduction="sum", tag_reduction="mean", distill=False, tagging="image",
        targets="mlp4", rank=3, ignore_padding=False, schedule=2.0, resize_filter="bilinear",
    )  # fmt: skip
    params = job_params(choices, SCALE.model_copy(update={"steps": None, "epochs": 3}), NAMES)
    assert "pruning" not in params and "prune_side" not in params
    clip = open_tower(inputs["clip"], "maskclip").clip
    train_settings, crops = to_settings(worker.Request(params, {}, "", 5, "cpu", 1).job, clip, 13, 5)
    assert isinstance(train_settings, TrainSettings)
    assert (train_settings.steps, train_settings.power, train_settings.seed) == (9, 2.0, 5)
    assert train_settings.loss == LossSettings(
        map="cosine", pixels="sum", tags="mean", distill=False, tagging="image", ignore_padding=False
    )
    assert (train_settings.lora.preset, train_settings.lora.linear_rank) == ("mlp4", 3)
    assert (crops.side, crops.filter, crops.mean) == (32, "bilinear", (0.5, 0.4, 0.3))
    assert TtdChoices().map == "mask" and TtdChoices(map="cosine").map == "cosine"
    for wrong, sentence in (({"side": 36}, "36 is no multiple of the patch side 8"), ({"batch": 14}, "do not fill"),
                            ({"processes": 5}, "5 cannot share a batch of 4")):  # fmt: skip
        job = worker.Request({**params, **wrong}, {}, "", 5, "cpu", 1).job
        with pytest.raises(UserError, match=sentence):
            to_settings(job, clip, 13, 5)


@pytest.mark.parametrize("base", ["maskclip", "tcl"])
def test_pruning_keeps_what_brute_force_keeps_and_goes_on(
    base: str, inputs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {**inputs, "model": inputs["clip" if base == "maskclip" else "tcl"]}
    params = prune_params(TtdChoices(base=base), SCALE, NAMES)  # type: ignore[arg-type]
    whole = run(prune_pairs, tmp_path / "whole", params, given, workers=3)
    facts = json.loads((whole / "facts.json").read_text())
    model = open_base(given["model"], base, text=True)  # type: ignore[arg-type]
    mean, std = (torch.tensor(each)[:, None, None] for each in (model.clip.mean, model.clip.std))
    for name, count in COUNTS.items():
        pairs, scores = Pairs(inputs[f"index_{name}"], inputs[f"shards_{name}"]), []
        for pair in pairs.read(range(count)):
            image = prune_pairs.Image.fromarray(pair.image).resize((32, 32), prune_pairs.FILTERS["bicubic"])
            pixels = (torch.from_numpy(np.array(image)).movedim(-1, 0) / 255 - mean) / std
            views = model.pixel_embeddings(torch.stack([pixels, pixels.flip(-1)])).mean(dim=(0, 2, 3))
            text = model.clip.model.encode_text(model.clip.tokenizer([pair.caption]))[0]
            scores.append(float(F.cosine_similarity(views, text, dim=0)))
        rows = np.flatnonzero(np.array(scores) > np.mean(scores) + np.std(scores))
        np.testing.assert_array_equal(np.load(whole / f"kept_{name}.npy"), rows)
        found = facts[name]
        assert (found["pairs"], found["expected"], found["kept"]) == (count, 9, len(rows))
        assert found["deviation"] == pytest.approx(np.std(scores), abs=1e-6)
        assert found["threshold"] == pytest.approx(np.mean(scores) + np.std(scores), abs=1e-6)
    monkeypatch.setattr(prune_pairs, "BATCHES", 1)
    similarities, calls = prune_pairs.pair_similarities, []

    def killed(*arguments: Any) -> torch.Tensor:
        calls.append(arguments)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return similarities(*arguments)

    monkeypatch.setattr(prune_pairs, "pair_similarities", killed)
    with pytest.raises(KeyboardInterrupt):
        run(prune_pairs, tmp_path / "broken", params, given)
    assert contents(run(prune_pairs, tmp_path / "broken", params, given)) == contents(whole)
    assert len(calls) == 5  # 2 + 2 batches, the last of them twice


@pytest.mark.parametrize("base", ["maskclip", "tcl"])
def test_a_trained_model_is_a_model_directory_with_the_adapters_in_it(
    base: str, inputs: dict[str, Path], tmp_path: Path
) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    for name, rows in (("cc3m", [1, 2, 5]), ("cc12m", [0, 4, 5])):
        np.save(kept / f"kept_{name}.npy", np.array(rows))
    out = trained(inputs, tmp_path / "out", base=base, kept=kept)
    files = {"adapters.safetensors", "curves.csv", "facts.json", "model.safetensors", "open_clip_config.json"}
    extra = {"grounder.safetensors", "tcl_config.json"} if base == "tcl" else set()
    assert set(contents(out)) == files | extra
    facts = json.loads((out / "facts.json").read_text())
    assert (facts["steps"], facts["epochs"], facts["pairs"], facts["seed"]) == (5, 3.333, 6, 5)
    assert facts["collections"]["cc12m"] == {"pairs": 6, "expected": 9, "kept": 3}
    numbers = facts["parameters"]
    assert 0 < numbers["trained"] < numbers["with_adapters"] - numbers["base"]
    before = open_tower(inputs["clip" if base == "maskclip" else "tcl"], base)  # type: ignore[arg-type]
    after = open_tower(out, base)  # type: ignore[arg-type]
    assert numbers["base"] == sum(each.numel() for each in after.model.parameters())
    changed = {name for name, each in after.model.state_dict().items()
               if not torch.equal(each, before.model.state_dict()[name])}  # fmt: skip
    inside = "tower.visual" if base == "tcl" else "visual"
    assert {f"{inside}.transformer.resblocks.{k}.attn.in_proj_weight" for k in range(2)} <= changed
    assert any("conv2" in name for name in changed) == (base == "tcl")
    assert all("in_proj_weight" in name or ".conv" in name for name in changed)


def test_nouns_are_what_the_tagger_says_of_every_caption(inputs: dict[str, Path], tmp_path: Path) -> None:
    tags = tagging.noun_tags("pattern")
    assert tags(["a red dog 3", "the cats on grass"]) == [[False, False, True, False], [False, True, False, True]]
    collections = (Pairs(inputs[f"index_{name}"], inputs[f"shards_{name}"]) for name in NAMES)
    captions = [pairs[position].caption for pairs in collections for position in range(len(pairs))]
    chosen = [each for row in tags(captions) for each in row]
    out = trained(inputs, tmp_path / "out", SCALE.model_copy(update={"steps": 1, "batch": 13}), tagging="nouns")
    assert curve(out, "selected_share") == pytest.approx([sum(chosen) / len(chosen)], rel=1e-5)


class Model:
    """Stands in for a language model: names the second word of each caption."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def answers(self, captions: Sequence[str], settings: object) -> list[str]:
        self.asked += captions
        return [caption.split()[1] for caption in captions]


def test_a_language_model_is_asked_once_and_not_again_after_a_kill(
    inputs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs, model = Pairs(inputs["index_cc3m"], inputs["shards_cc3m"]), Model()
    tagging.ask_llm(pairs, lambda: model, tmp_path, part=3)  # type: ignore[arg-type, return-value]
    captions = [pair.caption for pair in pairs.read(range(7))]
    assert model.asked == captions
    (tmp_path / "llm_000001.npz").unlink()
    tagging.ask_llm(pairs, lambda: model, tmp_path, part=3)  # type: ignore[arg-type, return-value]
    assert model.asked == captions + captions[3:6]
    tagging.ask_llm(pairs, lambda: pytest.fail("loaded"), tmp_path, part=3)
    chosen = tagging.LlmAnswers(tmp_path)(captions[::-1])
    assert chosen == [[k == 1 for k in range(len(CaptionWords.of(caption).tags))] for caption in captions[::-1]]
    monkeypatch.setattr(train, "load_llm", lambda directory, device: model)
    assert len(curve(trained(inputs, tmp_path / "out", tagging="llm", llm=tmp_path))) == 5
    with pytest.raises(UserError, match="name one as the input companion_llm"):
        trained(inputs, tmp_path / "none", tagging="llm")


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.cpu
def test_a_run_that_is_killed_ends_with_the_bytes_of_one_that_is_not(inputs: dict[str, Path], tmp_path: Path) -> None:
    scale = SCALE.model_copy(update={"steps": 24})
    whole = trained(inputs, tmp_path / "whole", scale, workers=2)
    out = tmp_path / "killed"
    state = tmp_path / "killed.scratch" / STATE_FILE
    child = multiprocessing.get_context("fork").Process(target=trained, args=(inputs, out, scale))
    child.start()
    deadline = time.monotonic() + 60
    while not state.exists() and child.is_alive() and time.monotonic() < deadline:
        time.sleep(0.002)
    assert child.pid is not None
    child.kill()
    child.join()
    assert child.exitcode == -signal.SIGKILL and state.exists() and not contents(out)
    assert contents(trained(inputs, out, scale)) == contents(whole)
    assert not state.exists() and len(curve(out)) == 24
    # Killed once more, between the last step and the merged weights: nothing is learnt again.
    again = tmp_path / "killed.again"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "_learn", lambda *arguments: pytest.fail("learnt again"))
        (tmp_path / "killed.scratch").rename(tmp_path / "killed.again.scratch")
        assert contents(trained(inputs, again, scale)) == contents(whole)


@pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="this torch has no gloo")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.cpu
def test_two_processes_agree_with_one_and_pass_on_what_is_wrong(
    inputs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "START", "fork")  # a new interpreter takes seconds to import what this one has
    one = trained(inputs, tmp_path / "one", SCALE)
    two = trained(inputs, tmp_path / "two", SCALE.model_copy(update={"processes": 2}))
    assert curve(two) == pytest.approx(curve(one), rel=1e-4)
    assert contents(two).keys() == contents(one).keys()
    request = json.loads((tmp_path / "two.scratch" / worker.REQUEST_FILE).read_text())
    with pytest.raises(UserError, match=r"base 'tcl' needs a grounder"):
        worker.learn_together(worker.Request(**{**request, "params": {**request["params"], "base": "tcl"}}), 2)


def _one_fails(request: worker.Request, process: Process) -> None:
    if process.rank:
        raise UserError("this process has found a damaged shard")
    torch.distributed.all_reduce(torch.zeros(1))


@pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="this torch has no gloo")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_the_error_of_the_process_that_fails_is_the_one_to_be_seen(
    inputs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "START", "fork")
    monkeypatch.setattr(worker, "learn", _one_fails)
    request = worker.Request({}, {}, str(tmp_path), 5, "cpu", 1)
    with pytest.raises(UserError, match=r"^this process has found a damaged shard$"):
        worker.learn_together(request, 2)


def test_more_processes_than_gpus_or_images_are_refused(inputs: dict[str, Path], tmp_path: Path) -> None:
    params = job_params(TtdChoices(base="maskclip"), SCALE, NAMES)
    given = {name: str(path) for name, path in {**inputs, "model": inputs["clip"]}.items()}
    request = worker.Request(params, given, str(tmp_path), 5, "cuda", 1)
    many = torch.cuda.device_count() + 1
    with pytest.raises(UserError, match=rf"train\.ttd\.processes: {many} processes need as many GPUs"):
        worker.learn_together(request, many)
    with pytest.raises(UserError, match="5 processes cannot share a batch of 4; start fewer"):
        worker.learn(request, Process(0, 5))


def test_the_entry_for_torchrun_says_what_is_wrong_in_one_sentence(
    inputs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    params = job_params(TtdChoices(base="tcl"), SCALE, NAMES)
    given = {name: str(path) for name, path in {**inputs, "model": inputs["clip"]}.items()}
    worker.write_request(worker.Request(params, given, str(tmp_path), 5, "cpu", 1))
    assert worker.main([str(tmp_path / worker.REQUEST_FILE)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("train_ttd: ") and "base 'tcl' needs a grounder" in line


def _hears_the_end_of_its_parent(request: worker.Request, process: Process) -> None:
    heard = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    (Path(request.folder) / str(process.rank)).write_text(str(heard))


@pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="this torch has no gloo")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_processes_hear_the_end_of_a_parent_that_runs_in_the_background(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "START", "fork")
    monkeypatch.setattr(worker, "learn", _hears_the_end_of_its_parent)
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as a shell does for a command followed by &
    try:
        worker.learn_together(worker.Request({}, {}, str(tmp_path), 5, "cpu", 1), 2)
    finally:
        signal.signal(signal.SIGINT, before)
    assert [(tmp_path / str(rank)).read_text() for rank in range(2)] == ["True", "True"]
