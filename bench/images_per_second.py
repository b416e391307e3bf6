"""Images per second of every method at real size, as a ratio to plain CLIP's in the same run.

    python bench/images_per_second.py [--images 1] [--methods CLIP TAG ...] [--device cuda] [--size 375 500]
                                      [--peak TFLOP/s]

The main row of each method as scale ``full`` plans it (tests/real_size.py), with random weights and text vectors, on
drawn pictures; with ``4 scales`` in its name a row of TTD with four scales and flips, which is not among the defaults.
What is the same for all pictures (texts, captions, loading) is left out, TAG's search and words too: they are done for
a whole data set. A process for each method; one thread on a CPU (CPU seconds), wall seconds on a GPU. Operations are
those of torch's FlopCounterMode (matrix products, convolutions, attention; not CRF, PAMR, k-means' bookkeeping), their
share is of --peak or, without it, of the fastest large float32 matrix product here. Peak memory is that of the process
while it works on a CPU, and what torch allocated on a GPU, weights included; there TAG must stay below 15 GB. Some ten
CPU minutes with two images. A record is in bench/images_per_second.md.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from dense import timed
from freecp import GIB, status
from torch.utils.flop_counter import FlopCounterMode

from ovss.data.images import Sample
from ovss.data.text_images import TextImage
from ovss.evaluation import evaluate, texts
from ovss.evaluation.batch import make_view
from ovss.evaluation.cluster_maps import load_segmenter
from ovss.evaluation.protocol import Protocol
from ovss.evaluation.row import companion_loader, group_rows, model_opener, read_row
from ovss.evaluation.text_row import ImageTexts, Models
from ovss.evaluation.text_row import read_row as read_text_row
from ovss.jobs import Item
from ovss.methods import _tag_segment as tag
from ovss.models.clip import load_clip, without_text
from ovss.models.features import Features
from ovss.plan.job import Job
from ovss.runner import machine

sys.path.append(str(Path(__file__).parents[1] / "tests"))
import real_size

ROOT = Path(__file__).resolve().parents[1]
BASE = "CLIP"
MORE = {
    "TTD, MaskCLIP, 4 scales": ("ttd", "table4", "maskclip_ttd", "VOC"),
    "TTD, TCL, 4 scales": ("ttd", "table4", "tcl_ttd", "VOC"),
}
ROWS = {**real_size.MAIN, **MORE}
MOST_BYTES = {"TAG": 15e9}
CAPTION = "a red car near the sea and a dog"
Segment = Callable[[np.ndarray], object]


def maker(rows: real_size.RealRows, folder: Path) -> real_size.Maker:
    """Models of earlier methods are still there."""
    made = {f"work/weights/{path.name}": path for path in folder.glob("work/weights/*") if path.suffix != ".files"}
    found = real_size.Maker(rows.project, folder, {}, made=made)
    found.replaced |= {"text": real_size.write_random_texts, "prepare": _nothing, "prepare_texts": _nothing}
    return found


def _nothing(job: Job, out: Path) -> None:
    """The pictures are handed over, not read."""


def of_maps(job: Job, made: real_size.Maker, device: str) -> Segment:
    """One picture through the stage evaluate."""
    clip = without_text(load_clip(made.make(job.inputs["model"]), device))
    inputs = {name: made.make(other) for name, other in job.inputs.items()}
    row = read_row("row", Item(job.params, inputs, Path()), clip, companion_loader(device), model_opener(clip))
    (group,) = group_rows([row])

    def segment(image: np.ndarray) -> None:
        sample = Sample("drawn", image, {row.view: np.zeros(image.shape[:2], np.uint8)})
        evaluate.evaluate_image(sample, group, clip, keep=row.examples)

    return segment


def of_texts(job: Job, made: real_size.Maker, device: str) -> Segment:
    """One picture with a caption or with concepts through the stage evaluate_texts."""
    row = read_text_row("row", Item(job.params, {}, Path()))
    models = Models(made.make(job.inputs["model"]), device)
    judge: Any = texts.judge_words if row.task == "tags" else texts.judge_concepts
    words = tuple(CAPTION.split() if row.task == "tags" else real_size.THINGS)
    marks = (True,) * len(words)

    def segment(image: np.ndarray) -> object:
        return list(judge(row, ImageTexts([TextImage("drawn", image, CAPTION, words, marks, None)], 0), models))

    return segment


def of_words(job: Job, made: real_size.Maker, device: str) -> Segment:
    """One picture through TAG's stages clusters and segments."""
    segments = job.inputs["segments"]
    clusters = segments.inputs["clusters"]
    clip = without_text(load_clip(made.make(segments.inputs["model"]), device))
    dino = load_segmenter(made.make(clusters.inputs["segmenter"]), device)
    settings = tag.Segmenting(**clusters.params["settings"], **segments.params["settings"])
    geometry = Protocol.read(segments.params["protocol"]).geometry

    def segment(image: np.ndarray) -> object:
        view = make_view("drawn", image, geometry, clip)
        return tag.propose(view, Features(clip, view.windows(), view.colours, {tag.SEGMENTER: dino}), settings)

    return segment


KINDS = {"evaluate": of_maps, "evaluate_texts": of_texts, "label": of_words}


def measure(name: str, arguments: argparse.Namespace, folder: Path) -> dict[str, float]:
    """Seconds and operations of one picture, and bytes."""
    rows = real_size.RealRows(ROOT)
    job = rows.job(*ROWS[name])
    pictures = [real_size.draw(*arguments.size, seed)[0] for seed in range(arguments.images)]
    with torch.inference_mode():
        segment = KINDS[job.stage](job, maker(rows, folder), arguments.device)
        segment(pictures[0][:64, :64].repeat(4, 0).repeat(4, 1))  # texts are encoded, kernels warm
        with FlopCounterMode(display=False) as counter:
            segment(pictures[0])
        if arguments.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        else:
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # forget the peak of loading
        _, seconds = timed(lambda: [segment(picture) for picture in pictures])
    used = torch.cuda.max_memory_allocated() if arguments.device == "cuda" else status("VmHWM") * GIB
    return {"seconds": seconds / len(pictures), "flops": counter.get_total_flops(), "bytes": used}


def fastest_product(device: str) -> float:
    """Operations per second of the best of some large float32 matrix products."""
    side = 8192 if device == "cuda" else 1536
    values = torch.randn(side, side, device=device)
    return max(2 * side**3 / timed(lambda: values @ values)[1] for _ in range(4))


def report(arguments: argparse.Namespace, found: dict[str, dict[str, float]], peak: float) -> None:
    cuda = arguments.device == "cuda"
    where = torch.cuda.get_device_name() if cuda else f"one thread of {os.cpu_count()} CPU cores"
    height, width = arguments.size
    said = "given" if arguments.peak else "of the fastest large matrix product here"
    print(f"{where}, torch {torch.__version__}, {arguments.images} picture(s) of {width}x{height}; shares are of "
          f"{peak / 1e12:.3g} TFLOP/s ({said}).\n")  # fmt: skip
    seconds = "wall" if cuda else "CPU"
    print(f"| method | {seconds} s/image | images/s | of CLIP's images/s | peak GiB | TFLOP/image | share of peak |")
    print("|---|---|---|---|---|---|---|")
    base = found[BASE]["seconds"]
    for name, line in found.items():
        spent, flops = line["seconds"], line["flops"]
        print(f"| {name} | {spent:.3g} | {1 / spent:.3g} | {base / spent:.3g} | {line['bytes'] / GIB:.2f} | "
              f"{flops / 1e12:.3f} | {flops / spent / peak:.0%} |")  # fmt: skip


def check_memory(found: dict[str, dict[str, float]], device: str) -> None:
    for name, most in MOST_BYTES.items():
        if device == "cuda" and name in found and found[name]["bytes"] > most:
            raise SystemExit(f"{name} took {found[name]['bytes'] / 1e9:.1f} GB of the GPU, more than {most / 1e9:.0f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1)
    parser.add_argument("--methods", nargs="+", choices=list(ROWS), default=list(real_size.MAIN))
    parser.add_argument("--device", choices=("cpu", "cuda"), default=machine().device)
    parser.add_argument("--size", type=int, nargs=2, default=(375, 500), metavar=("H", "W"))
    parser.add_argument("--peak", type=float, default=0.0, help="TFLOP/s of the device")
    parser.add_argument("--stage", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.zeros((), device=arguments.device)
    if arguments.stage is not None:
        print(json.dumps(measure(arguments.methods[0], arguments, arguments.stage)))
        return
    with tempfile.TemporaryDirectory() as folder:
        found = {}
        for name in dict.fromkeys([BASE, *arguments.methods]):
            command = [sys.executable, __file__, "--stage", folder, "--methods", name, "--device", arguments.device,
                       "--images", str(arguments.images), "--size", *map(str, arguments.size)]  # fmt: skip
            output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
            found[name] = json.loads(output.splitlines()[-1])
    report(arguments, found, arguments.peak * 1e12 or fastest_product(arguments.device))
    check_memory(found, arguments.device)


if __name__ == "__main__":
    main()
