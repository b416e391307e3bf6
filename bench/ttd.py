"""TTD's training step: operations with and without its savings, and steps per second.

    python bench/ttd.py [--batch 32] [--words 10] [--side 448] [--steps 0] [--device cpu] [--precision fp32]

ViT-B/16 at 448 pixels with rank-10 adapters. Operations (multiply and add count as two) are counted on tensors without
memory, one part at a time, forward and backward; about a minute. Captions are made up: four in ten words are stop-words
out of a list of ten, the rest one of 300 nouns, so the share of distinct words is not that of real captions. With
--steps N steps are also timed with and without the savings, with random weights: same loss to 1e-5 in float32 (or it
stops), bytes kept for the backward pass, steps per second. On a GPU take --device cuda --precision bf16 --steps 20, on
a CPU --batch 1 --steps 1 (three minutes of one thread).
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from unittest import mock

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ovss.models.clip import OPENAI_MEAN, OPENAI_STD, Clip
from ovss.models.grounder import Grounder
from ovss.models.openclip import open_clip
from ovss.models.tcl import TclModel
from ovss.models.text import encode_tokens
from ovss.models.weights import model_config
from ovss.training.ttd import step
from ovss.training.ttd.lora import LoraSettings, attach, trained_parameters
from ovss.training.ttd.step import Batch, TrainSettings, encode_words, make_optimiser
from ovss.training.ttd.towers import MaskClipTower, TclTower, texts

LENGTH, TERA = 77, 1e12
STOP_WORDS = ("a", "the", "on", "in", "of", "with", "and", "at", "to", "is")
NOUNS = 300
Tower = MaskClipTower | TclTower


def towers(device: str) -> dict[str, Tower]:
    """Both bases with adapters, and TCL with coarse first convolutions; weights are shared between the last two."""
    config = model_config("ViT-B-16-quickgelu")

    def clip() -> Clip:
        with torch.device(device):
            model = open_clip.CLIP(**config).eval().requires_grad_(False)
        tokenizer = open_clip.SimpleTokenizer(context_length=LENGTH)
        return Clip(model, tokenizer, OPENAI_MEAN, OPENAI_STD, 224, 16, 100.0)

    mask_clip, base = MaskClipTower(clip()), clip()
    with torch.device(device):
        tcl = TclModel(base, Grounder(base.visual)).eval().requires_grad_(False)
    # An untrained grounder has closed gates and an empty projection: no part of it would be seen in a loss.
    tcl.grounder.image_proj.proj.data.copy_(base.visual.proj)
    for name, each in tcl.grounder.named_parameters():
        if name.endswith("gate"):
            each.data.fill_(0.5)
    found: dict[str, Tower] = {"MaskCLIP": mask_clip, "TCL": TclTower(tcl), "TCL, coarse": TclTower(tcl, coarse=True)}
    for tower in (mask_clip, found["TCL"]):
        attach(tower.model, LoraSettings(), unread=tower.unread)
        for _, factor in trained_parameters(tower.model):
            nn.init.normal_(factor, std=0.02)
    return found


def make_batch(count: int, words: int, side: int, device: str) -> Batch:
    draw = random.Random(0)
    nouns = sorted({draw.choice("bcdfglmprst") + draw.choice(("oat", "ird", "ouse", "able", "ree")) + draw.choice(
        ("", "s", "ing", "er", "y", "ly")) for _ in range(4 * NOUNS)})[:NOUNS]  # fmt: skip
    rows = [[draw.choice(STOP_WORDS if draw.random() < 0.4 else nouns) for _ in range(words)] for _ in range(count)]
    images = torch.zeros(count, 3, side, side, device="meta") if device == "meta" else torch.randn(count, 3, side, side)
    boxes = torch.tensor([[0, 0, side, side]] * count)
    return Batch(images, boxes, [" ".join(row) for row in rows], [list(dict.fromkeys(row)) for row in rows])


def whole_texts(clip: Clip, lines: Sequence[str]) -> Tensor:
    """Every text at full length."""
    return encode_tokens(clip, clip.tokenizer(list(lines)).to(clip.device))


def operations(run: Callable[[], Tensor]) -> tuple[float, float]:
    """Tera-operations forward and backward."""
    with FlopCounterMode(display=False) as forward:
        out = run()
    with FlopCounterMode(display=False) as back:
        out.sum().backward()
    return forward.get_total_flops() / TERA, back.get_total_flops() / TERA


def count_operations(batch: Batch) -> None:
    found, meta = towers("meta"), torch.device("meta")
    clip, every = found["MaskCLIP"].clip, [word for row in batch.words for word in row]
    print(f"{len(every)} words of {len(batch.words)} captions, {len(set(every))} distinct")
    parts: dict[str, Callable[[], Tensor]] = {
        f"images, {name}": lambda tower=tower: tower.pixels(batch.images) for name, tower in found.items()
    } | {
        "captions, whole": lambda: whole_texts(clip, batch.captions),
        "captions, cut": lambda: texts(clip, batch.captions),
        "words, each and whole": lambda: whole_texts(clip, every),
        "words, each, cut": lambda: texts(clip, every),
        "words, distinct, cut": lambda: encode_words(found["MaskCLIP"], batch.words, meta)[0],
    }
    cost = {name: operations(run) for name, run in parts.items()}
    for name, (forward, back) in cost.items():
        print(f"{name:24}{forward:9.3f} forward{back:9.3f} backward  Tera-operations")
    whole = sum(map(sum, (cost["captions, whole"], cost["words, each and whole"])))
    short = sum(map(sum, (cost["captions, cut"], cost["words, distinct, cut"])))
    print(f"text side{whole:24.3f} whole, one by one{short:9.3f} with, {whole / short:.1f} times fewer")
    for name, plain in (("MaskCLIP", "MaskCLIP"), ("TCL", "TCL"), ("TCL, coarse", "TCL")):
        before, after = sum(cost[f"images, {plain}"]) + whole, sum(cost[f"images, {name}"]) + short
        print(f"step, {name:18}{before:9.2f} without text savings{after:9.2f} with, {before / after:.2f} times fewer")


@contextmanager
def without_text_savings() -> Iterator[None]:
    """Steps that encode every word of every caption at full length."""

    def words_one_by_one(tower: Tower, rows: Sequence[Sequence[str]], device: torch.device) -> tuple[Tensor, Tensor]:
        parts = whole_texts(tower.clip, [word for row in rows for word in row]).split([len(row) for row in rows])
        lengths = torch.tensor([len(row) for row in rows], device=device)
        features = nn.utils.rnn.pad_sequence(list(parts), batch_first=True)
        return features, torch.arange(features.shape[1], device=device) < lengths[:, None]

    with mock.patch.multiple(step, encode_texts=whole_texts, encode_words=words_one_by_one):
        yield


class SavedBytes:
    """Bytes kept for the backward pass, each storage once, weights left out."""

    def __init__(self, tower: Tower) -> None:
        self.weights = {each.untyped_storage().data_ptr() for each in tower.model.parameters()}
        self.sizes: dict[int, int] = {}

    def pack(self, value: Tensor) -> Tensor:
        storage = value.untyped_storage()
        if storage.data_ptr() not in self.weights:
            self.sizes[storage.data_ptr()] = storage.nbytes()
        return value


def losses_of(tower: Tower, batch: Batch, settings: TrainSettings, device: str) -> tuple[float, float]:
    """Loss of a batch, and GiB kept for its backward pass."""
    saved = SavedBytes(tower)
    with torch.autograd.graph.saved_tensors_hooks(saved.pack, lambda value: value):
        total = step.batch_losses(tower, batch, settings.loss, settings.precision, torch.device(device)).total
    return float(total.detach()), sum(saved.sizes.values()) / 2**30


def seconds_of_step(tower: Tower, batch: Batch, steps: int, device: str, settings: TrainSettings) -> float:
    """The middle one of some steps behind a first one."""
    optimiser, seconds = make_optimiser(tower, settings), []
    for _ in range(steps + 1):
        started = time.perf_counter()
        optimiser.zero_grad(set_to_none=True)
        step.backward(tower, batch, settings, torch.device(device))["distill"].item()
        optimiser.step()
        if device == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    return sorted(seconds[1:])[steps // 2]


def time_steps(batch: Batch, steps: int, device: str, settings: TrainSettings) -> None:
    """Losses, memory and time with and without the savings, which must not change a loss."""
    found = towers(device)
    savings: dict[str, Callable[[], AbstractContextManager[None]]]
    savings = {"no savings": without_text_savings, "short texts": nullcontext, "short texts, coarse": nullcontext}
    cases = [("MaskCLIP", "MaskCLIP", how) for how in list(savings)[:2]]
    cases += [("TCL", name, how) for name, how in zip(("TCL", "TCL", "TCL, coarse"), savings, strict=True)]
    first: dict[str, tuple[float, float]] = {}
    for base, name, how in cases:
        tower = found[name]
        with savings[how]():
            loss, saved = losses_of(tower, batch, settings, device)
            state = {key: each.detach().clone() for key, each in trained_parameters(tower.model)}
            if device == "cuda":
                torch.cuda.reset_peak_memory_stats()
            middle = seconds_of_step(tower, batch, steps, device, settings)
        for key, each in trained_parameters(tower.model):
            each.data.copy_(state[key])
        before = first.setdefault(base, (loss, middle))
        off = abs(loss - before[0]) / before[0]
        peak = f", {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB at most" if device == "cuda" else ""
        print(f"step, {base:9}{how:20}{1 / middle:8.3f} steps/s ({before[1] / middle:.2f} times){saved:7.2f} GiB saved"
              f"{peak}, loss off by {off:.0e}")  # fmt: skip
        if settings.precision == "fp32" and off > 1e-5:
            raise SystemExit(f"{base}, {how}: the savings change the loss: {loss} instead of {before[0]}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--words", type=int, default=10)
    parser.add_argument("--side", type=int, default=448)
    parser.add_argument("--steps", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    given = parser.parse_args()
    if given.device == "cpu":
        torch.set_num_threads(1)
    count_operations(make_batch(given.batch, given.words, given.side, "meta"))
    if given.steps:
        settings = TrainSettings(steps=given.steps, batch=given.batch, precision=given.precision)
        time_steps(make_batch(given.batch, given.words, given.side, given.device), given.steps, given.device, settings)


if __name__ == "__main__":
    main()
