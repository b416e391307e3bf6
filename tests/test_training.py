"""Training on the procedural world: own merges, exact short texts, reproducible weights."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from open_clip.model import CLIP
from safetensors.torch import load_file
from timm.models.vision_transformer import VisionTransformer

from ovss.config.world import ClipTrainParams, DinoTrainParams, Schedule, ViewParams
from ovss.errors import UserError
from ovss.jobs import JobContext, Machine
from ovss.training import clip, dino
from ovss.training.bpe import learn_merges, load_tokenizer, write_merges
from ovss.training.loop import Curves, fit, learning_rate, open_curves
from ovss.training.views import TRAIN, Views, normalise
from ovss.world.captions import templates
from ovss.world.classes import CLASSES, nouns

VIEWS = ViewParams(variants=2)
SMALL = Schedule(steps=3, batch=4, log_every=1)
CLIP_PARAMS = ClipTrainParams(
    views=VIEWS, schedule=SMALL, width=32, layers=2, text_width=32, text_layers=1, text_heads=1, merges=80, val_views=8,
    unmasked=0.4,
)  # fmt: skip
DINO_PARAMS = DinoTrainParams(views=VIEWS, schedule=SMALL, width=32, layers=1, heads=1, prototypes=16)


@pytest.fixture(autouse=True)
def few_captions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clip, "CAPTIONS_FOR_MERGES", 40)


def train(stage: object, params: ClipTrainParams | DinoTrainParams, out: Path) -> Path:
    out.mkdir()
    context = JobContext(seed=5, machine=Machine(), params={"model": params.model_dump(mode="json")}, out=out)
    stage.run(context)  # type: ignore[attr-defined]
    return out


@pytest.mark.parametrize(("stage", "params"), [(clip, CLIP_PARAMS), (dino, DINO_PARAMS)])
def test_three_steps_twice_give_the_same_bytes(
    stage: object, params: ClipTrainParams | DinoTrainParams, tmp_path: Path
) -> None:
    torch.rand(3)  # the state of the global generator must not matter
    first, second = train(stage, params, tmp_path / "1"), train(stage, params, tmp_path / "2")
    files = sorted(p.name for p in first.iterdir())
    assert files == sorted(p.name for p in second.iterdir())
    assert [f for f in files if (first / f).read_bytes() != (second / f).read_bytes()] == []


def test_clip_directory_loads_into_open_clip(tmp_path: Path) -> None:
    out = train(clip, CLIP_PARAMS, tmp_path / "model")
    config = json.loads((out / "open_clip_config.json").read_text())["model_cfg"]
    model = CLIP(config["embed_dim"], config["vision_cfg"], config["text_cfg"], quick_gelu=config["quick_gelu"])
    model.load_state_dict(load_file(str(out / "model.safetensors")))
    rows = list(csv.DictReader((out / "curves.csv").read_text().splitlines()))
    assert list(rows[0]) == ["step", "split", "metric", "value"]
    assert {r["metric"] for r in rows if r["split"] == "val"} >= {"retrieval_r1", "zero_shot_thing_top1"}
    assert [r["step"] for r in rows if r["metric"] == "loss"] == ["1", "2", "3"]


def test_dino_directory_loads_into_timm(tmp_path: Path) -> None:
    out = train(dino, DINO_PARAMS, tmp_path / "model")
    config = json.loads((out / "timm_config.json").read_text())
    VisionTransformer(**config["architecture"]).load_state_dict(load_file(str(out / "model.safetensors")))
    assert len(config["mean"]) == len(config["std"]) == 3


def test_tokenizer_returns_the_text_it_was_given(tmp_path: Path) -> None:
    texts = [t.format(noun) for name in CLASSES for noun in nouns(name) for t in templates()]
    write_merges(tmp_path / "bpe.txt.gz", learn_merges(texts, 500))
    tokenizer = load_tokenizer(tmp_path / "bpe.txt.gz", 32)
    for text in [*texts, "an unseen Wörd, 123!"]:
        assert "".join(tokenizer.decode(tokenizer.encode(text)).split()) == "".join(text.lower().split())
    assert all(len(tokenizer.encode(noun)) == 1 for name in CLASSES for noun in nouns(name))


def test_the_most_frequent_pair_is_merged_first() -> None:
    assert learn_merges(["ab ab ab cd"], 2) == [("a", "b</w>"), ("c", "d</w>")]
    assert learn_merges(["ab"], 9) == [("a", "b</w>")]


def test_cut_texts_have_the_features_of_whole_ones(tmp_path: Path) -> None:
    write_merges(tmp_path / "bpe.txt.gz", learn_merges(["a dog on the grass"], 20))
    tokenizer = load_tokenizer(tmp_path / "bpe.txt.gz", CLIP_PARAMS.context_length)
    torch.manual_seed(0)
    model = clip.build_model(clip.model_config(CLIP_PARAMS, tokenizer.vocab_size), 0.02).eval()
    tokens = tokenizer(["a dog", "the grass on the dog", ""])
    whole = model.encode_text(tokens, normalize=True)
    torch.testing.assert_close(clip.encode_text(model, tokens), whole, rtol=1e-5, atol=1e-6)


def test_views_depend_on_the_step_only() -> None:
    views = Views(5, TRAIN, VIEWS)
    later = views.batch(7, 6, 16)
    views.batch(1, 6, 16)
    again, fresh = views.batch(7, 6, 16), Views(5, TRAIN, VIEWS).batch(7, 6, 16)
    assert np.array_equal(later.images, again.images)
    assert np.array_equal(later.images, fresh.images)
    assert [c.text for c in later.captions] == [c.text for c in fresh.captions]


def test_no_view_is_seen_twice_and_streams_differ() -> None:
    batches = [Views(5, stream, VIEWS).batch(step, 6, 16) for stream in (TRAIN, 99) for step in range(5)]
    assert len({image.tobytes() for batch in batches for image in batch.images}) == 60


def test_normalised_pixels_have_the_stated_mean_and_deviation() -> None:
    image = np.full((1, 2, 2, 3), 255, np.uint8)
    torch.testing.assert_close(normalise(image), torch.full((1, 3, 2, 2), 2.0))


def test_learning_rate_rises_then_falls() -> None:
    schedule = Schedule(steps=100, batch=2, lr=1.0, warmup=0.1)
    rates = [learning_rate(step, schedule) for step in range(100)]
    assert rates[9] == max(rates) == pytest.approx(1.0)
    assert rates[:10] == sorted(rates[:10])
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[-1] == pytest.approx(0.01, abs=0.01)


def test_a_loss_that_is_not_finite_stops_with_a_clear_message(tmp_path: Path) -> None:
    model = torch.nn.Linear(1, 1)
    with open_curves(tmp_path / "curves.csv") as file, pytest.raises(UserError, match="not finite at step 0"):
        fit(model, SMALL, lambda step: (model.weight.sum() * float("nan"), {}), Curves(file))


def test_averaged_weights_are_what_is_kept(tmp_path: Path) -> None:
    def final(ema: float) -> float:
        torch.manual_seed(0)
        model = torch.nn.Linear(1, 1, bias=False)
        schedule = Schedule(steps=30, batch=2, lr=0.1, ema=ema, clip=1e9, weight_decay=0)
        with open_curves(tmp_path / "curves.csv") as file:
            fit(model, schedule, lambda step: ((model.weight - 5).square().sum(), {}), Curves(file))
        return model.weight.item()

    assert final(0.9) < final(0.0) <= 5.5


def test_an_optimiser_steps_alike_without_the_compiler() -> None:
    code = (
        "import sys, torch; from ovss.training.loop import one_thread\n"
        "def stepped():\n"
        "    weight = torch.nn.Parameter(torch.arange(4.0))\n"
        "    optimiser = torch.optim.AdamW([weight], lr=0.1)\n"
        "    for _ in range(3): optimiser.zero_grad(); weight.square().sum().backward(); optimiser.step()\n"
        "    return weight.tolist()\n"
        "with one_thread(0): without = stepped()\n"
        "absent = 'torch._dynamo' not in sys.modules\n"
        "print(absent, without == stepped(), without[0] == 0.0, without[3] < 2.9)\n"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("True True True True\n", "")
