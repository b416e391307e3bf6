"""TTD's training step: operations with and without its savings, and steps per second.

    python bench/ttd.py [--batch 32] [--words 10] [--steps 0] [--device cpu] [--precision fp32]

ViT-B/16 at 448 pixels with rank-10 adapters. Operations (multiply and add count as two) are counted on tensors without
memory, one part at a time, forward and backward; about a minute. Captions are made up: four in ten words are stop-words
out of a list of ten, the rest one of 300 nouns, so the share of distinct words is not that of real captions. With
--steps N the step is also timed, with random weights; on a GPU take --device cuda --precision bf16 --steps 20, on a CPU
--batch 1 --steps 1 (half a minute of one thread for TCL).
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from ovss.models.clip import OPENAI_MEAN, OPENAI_STD, Clip
from ovss.models.grounder import Grounder
from ovss.models.openclip import open_clip
from ovss.models.tcl import TclModel
from ovss.models.text import encode_tokens
from ovss.models.weights import model_config
from ovss.training.ttd.lora import LoraSettings, attach
from ovss.training.ttd.step import Batch, TrainSettings, backward, encode_words, make_optimiser
from ovss.training.ttd.towers import MaskClipTower, TclTower, texts

SIDE, LENGTH, TERA = 448, 77, 1e12
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
    found: dict[str, Tower] = {"MaskCLIP": mask_clip, "TCL": TclTower(tcl), "TCL, coarse": TclTower(tcl, coarse=True)}
    for tower in (mask_clip, found["TCL"]):
        attach(tower.model, LoraSettings(), unread=tower.unread)
    return found


def make_batch(count: int, words: int, device: str) -> Batch:
    draw = random.Random(0)
    nouns = sorted({draw.choice("bcdfglmprst") + draw.choice(("oat", "ird", "ouse", "able", "ree")) + draw.choice(
        ("", "s", "ing", "er", "y", "ly")) for _ in range(4 * NOUNS)})[:NOUNS]  # fmt: skip
    rows = [[draw.choice(STOP_WORDS if draw.random() < 0.4 else nouns) for _ in range(words)] for _ in range(count)]
    images = torch.zeros(count, 3, SIDE, SIDE, device="meta") if device == "meta" else torch.randn(count, 3, SIDE, SIDE)
    boxes = torch.tensor([[0, 0, SIDE, SIDE]] * count)
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
    for name, plain in (("MaskCLIP", "MaskCLIP"), ("TCL", "TCL"), ("TCL, coarse", "TCL")):
        before, after = sum(cost[f"images, {plain}"]) + whole, sum(cost[f"images, {name}"]) + short
        print(f"step, {name:18}{before:9.2f} without text savings{after:9.2f} with, {before / after:.2f} times fewer")


def time_steps(batch: Batch, steps: int, device: str, settings: TrainSettings) -> None:
    for name, tower in towers(device).items():
        optimiser = make_optimiser(tower, settings)
        seconds = []
        for _ in range(steps + 1):
            started = time.perf_counter()
            optimiser.zero_grad(set_to_none=True)
            backward(tower, batch, settings, torch.device(device))["distill"].item()
            optimiser.step()
            if device == "cuda":
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - started)
        middle = sorted(seconds[1:])[steps // 2]
        memory = f", {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB" if device == "cuda" else ""
        print(f"step, {name:18}{middle:9.3f} s, {len(batch.captions) / middle:.1f} images/s{memory}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--words", type=int, default=10)
    parser.add_argument("--steps", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    given = parser.parse_args()
    if given.device == "cpu":
        torch.set_num_threads(1)
    count_operations(make_batch(given.batch, given.words, "meta"))
    if given.steps:
        settings = TrainSettings(steps=given.steps, batch=given.batch, precision=given.precision)
        time_steps(make_batch(given.batch, given.words, given.device), given.steps, given.device, settings)


if __name__ == "__main__":
    main()
