"""FreeCP: all rows of one data set in one pass, against one plain SCLIP pass and against the straightforward loop.

    python bench/freecp.py [--data stuff|ade|voc21] [--device cpu] [--size 480 640]

ViT-B/16 with random weights under FreeCP's protocol (short side 448, windows of 384 every 112, crops of 112). Rows:
five bases alone and with FreeCP, Table 1 (refined, with and without known classes), Table 3 (orders of purification,
templates alone), Table 4 (eight texts on four bases). One thread on a CPU (CPU seconds; on a GPU wall seconds). About
nine CPU minutes: three passes over all rows, the inputs (see freecp_scene.py), and the loop on a smaller image.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from dense import multiply_adds, timed
from freecp_scene import BASES, DATA, Scene, read_scene, write_model, write_scene

from ovss.evaluation.batch import Batch
from ovss.methods import dense_clip, freecp
from ovss.models import crops, dense, gem
from ovss.models.clip import Clip, load_clip, without_text
from ovss.models.features import Features
from ovss.models.text import Vocabulary

sys.path.append(str(Path(__file__).parents[1] / "tests"))
import reference_freecp

GIB = 2**30
MARGIN = 1e-5
SMALL = {"size": (192, 256), "short_side": 192, "crop": 160}
# Where time is spent: module, function, name of the part. A part's time excludes the parts called within it, but crops
# keep theirs.
PARTS: tuple[tuple[Any, str, str], ...] = (
    (dense, "encode", "encoder"),
    (dense, "attention_weights", "affinity"),
    (gem, "gem_tokens", "GEM stream"),
    (dense, "split_heads", "(caller)"),
    (dense, "mix_values", "last block's variants"),
    (dense, "add_key_attention", "last block's variants"),
    (dense, "last_block", "last block's variants"),
    (dense, "joint_features", "last block's variants"),
    (freecp.refine, "query_maps", "softmax over queries"),
    (freecp.refine, "min_max", "softmax over queries"),
    (freecp.refine, "balanced", "balancing"),
    (freecp.refine, "spread", "refinement"),
    (freecp.refine, "masked", "boxes"),
    (freecp.purify, "regions", "boxes"),
    (freecp.purify, "consistency", "consistency, groups"),
    (freecp.purify, "groups", "consistency, groups"),
    (crops, "encode_images", "crops"),
    (freecp, "decide_maps", "stitching, decision"),
    (dense_clip, "decide", "stitching, decision"),
)


@dataclass(frozen=True)
class Row:
    name: str
    module: Any
    settings: Any
    vocabulary: Vocabulary


def all_rows(scene: Scene, data: str) -> list[Row]:
    """Tables 1 to 4 of the paper on one data set; every vocabulary exists once."""
    _, _, rp, ap = DATA[data]
    names = [
        ("template", "vicuna"),
        ("template", None),
        ("template", "gpt35"),
        ("vicuna", "vicuna"),
        ("gpt35", "gpt35"),
    ]
    texts = {pair: scene.vocabulary(*pair) for pair in names}
    usual = texts["template", "vicuna"]

    def alone(base: str, text: Vocabulary, name: str) -> Row:
        return Row(name, dense_clip, dense_clip.Settings(base, "freecp_block"), text)  # type: ignore[arg-type]

    def full(base: str, text: Vocabulary, name: str, **more: Any) -> Row:
        return Row(name, freecp, freecp.Settings(base, rp, ap, **more), text)  # type: ignore[arg-type]

    rows = [alone(base, usual, f"{base} alone") for base in BASES]
    rows += [full(base, usual, f"{base} + FreeCP") for base in BASES]
    rows += [full("SCLIP", usual, f"refine, {which}", purification="none", vocabulary=which)
             for which in ("all", "image", "window")]  # fmt: skip
    rows += [full("SCLIP", usual, order, purification=order) for order in ("rp", "ap", "ap_rp", "rp_ap")]
    rows += [full("SCLIP", texts["template", None], "rp_ap, templates")]
    for base in BASES[1:]:
        rows += [alone(base, texts[name, name] if name != "template" else usual, f"{base} alone, {name}")
                 for name in ("template", "vicuna", "gpt35")]  # fmt: skip
        rows += [full(base, text, f"{base} + FreeCP, {first}/{second or first}")
                 for (first, second), text in texts.items()]  # fmt: skip
    return rows


def run_rows(clip: Clip, scene: Scene, rows: list[Row]) -> tuple[list[np.ndarray], Features]:
    """Labels of every row, from features that all rows share."""
    affinities = [kind for row in rows if row.module is freecp for kind in freecp.affinities(row.settings)]
    shared = Features(clip, scene.view.windows(), scene.view.colours, affinities=affinities)
    batch = Batch((scene.view,), scene.protocol, (scene.label,))
    for row in rows:
        if row.module is freecp:
            freecp.ahead(batch, row.vocabulary, [shared], row.settings)
    return [row.module.segment(batch, row.vocabulary, [shared], row.settings)[0].labels for row in rows], shared


class Clock:
    """Seconds by part, each without the parts called within."""

    def __init__(self, cuda: bool) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.cuda = cuda
        self._stack: list[str] = []
        self._since = 0.0

    def _switch(self, push: str | None) -> None:
        if self.cuda:
            torch.cuda.synchronize()
        now = time.perf_counter() if self.cuda else time.process_time()
        if self._stack:
            self.seconds[self._stack[-1]] += now - self._since
        self._since = now
        if push is None:
            self._stack.pop()
        else:
            self._stack.append(push)

    def name(self, part: str, arguments: tuple[Any, ...]) -> str:
        above = self._stack[-1]
        if above == "crops" or part == "(caller)":
            return above
        return "encoder (GEM's positions)" if part == "encoder" and "antialias" in arguments else part

    def run(self, work: Callable[[], Any]) -> Any:
        """Do some work with every part of PARTS under the clock."""
        saved = [(module, name, getattr(module, name)) for module, name, _ in PARTS]
        for (module, name, function), (_, _, part) in zip(saved, PARTS, strict=True):
            setattr(module, name, self._timed(function, part))
        self._switch("everything else")
        try:
            return work()
        finally:
            self._switch(None)
            for module, name, function in saved:
                setattr(module, name, function)

    def _timed(self, function: Callable[..., Any], part: str) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            self._switch(self.name(part, arguments))
            try:
                return function(*arguments, **named)
            finally:
                self._switch(None)

        return call


def print_times(clip: Clip, scene: Scene, rows: list[Row]) -> int:
    """Times of a plain pass and of all rows, whole and by part; returns the number of crops."""
    plain = [row for row in rows if row.name == "SCLIP alone"]
    _, base = timed(lambda: run_rows(clip, scene, plain))
    result, together = timed(lambda: run_rows(clip, scene, rows))
    shared: Features = result[1]  # type: ignore[index]
    print(
        f"  one plain SCLIP pass {base:7.2f} s\n"
        f"  all {len(rows)} rows          {together:7.2f} s, ratio {together / base:.2f}"
    )
    encoded = crops_encoded(shared, scene, rows)
    print_maps(shared, scene, rows, encoded)
    for title, chosen in (("one plain SCLIP pass", plain), ("all rows", rows)):
        clock = Clock(torch.cuda.is_initialized())
        clock.run(partial(run_rows, clip, scene, chosen))
        print(f"  {title}, by part:")
        for part, seconds in sorted(clock.seconds.items(), key=lambda item: -item[1]):
            print(f"    {part:26s} {seconds:7.2f} s  {seconds / base:5.2f} of a plain pass")
    return encoded


def freecp_windows(shared: Features, scene: Scene, row: Row) -> freecp.Windows:
    return freecp.Windows(shared, row.vocabulary, row.settings, scene.protocol.logit_scale)


def print_maps(shared: Features, scene: Scene, rows: list[Row], encoded: int) -> None:
    """How much there is to purify."""
    for base in BASES:
        row = next(row for row in rows if row.name == f"{base} + FreeCP")
        window = freecp_windows(shared, scene, row)
        filled = (window.maps().refined.amax(dim=2) > 0).sum(dim=1).tolist()
        left = window.consistent().sum(dim=1).tolist()
        print(
            f"    {base:10s} classes with a map per window {filled}, left by RP {left}, boxes {len(window.regions())}"
        )
    print(f"    crops encoded for all rows: {encoded}")


def crops_encoded(shared: Features, scene: Scene, rows: list[Row]) -> int:
    """Different crops, by position rule, of the regions that decide anything."""
    found = set()
    for row in rows:
        if row.module is freecp and "ap" in row.settings.purification:
            for region in freecp.purify.contested(freecp_windows(shared, scene, row).regions()):
                found.add((row.settings.position, region.window, region.box))
    return len(found)


def print_cost(clip: Clip, scene: Scene, encoded: int) -> None:
    """Operation counts of the encoder and what lies behind it, and the bytes of what is kept."""
    part, blocks = multiply_adds(clip, scene.view), len(clip.visual.transformer.resblocks)
    width, view = clip.visual.conv1.out_channels, scene.view
    windows, patches = view.grid.count, view.grid.rows.patches * view.grid.columns.patches
    queries, small = len(scene.texts["template"]), (scene.protocol.ambiguity_crop or 0) // clip.patch_size
    sclip = blocks * part["block"] + part["attention"]
    counts = {
        "blocks, twice": 2 * blocks * part["block"] - part["block"],
        "last block's variants": 3 * part["out and feed-forward"] + 1.5 * part["attention"],
        "GEM stream": 6 * (part["gem branch"] + part["block"] / 4),
        "affinity": (blocks - 1) * part["attention"] / 2 * (1 + 1 / 12),
        "crops": encoded * blocks * (12 * (small**2 + 1) * width**2 + 2 * (small**2 + 1) ** 2 * width),
        "refinement": 15 * windows * 2 * queries * patches**2,
    }
    total = sum(counts.values())
    print(f"  TFLOP/image: plain SCLIP {2e-12 * sclip:.2f}, all rows {2e-12 * total:.2f}, ratio {total / sclip:.2f}")
    print("    of a plain pass: " + ", ".join(f"{name} {value / sclip:.2f}" for name, value in counts.items()))
    maps, inputs = 4 * windows * queries * patches, 4 * windows * (patches + 1) * width
    print(f"  MB: one set of class maps {maps / 1e6:.0f}, one affinity {4 * windows * patches**2 / 1e6:.0f}, one block "
          f"input {inputs / 1e6:.0f}, all block inputs of both passes {2 * blocks * inputs / 1e6:.0f}")  # fmt: skip


def print_loop(clip: Clip, scene: Scene, rows: list[Row]) -> None:
    """FreeCP's rows against the loops of tests/reference_freecp.py on a smaller image."""
    chosen = [row for row in rows if row.module is freecp and "FreeCP, " not in row.name]
    result, fast = timed(lambda: run_rows(clip, scene, chosen))
    labels: list[np.ndarray] = result[0]  # type: ignore[index]
    print(f"  {scene.view.grid.count} windows of {scene.protocol.crop}, {len(chosen)} rows, against the loop:")
    slow, worst = 0.0, 0
    for row, found in zip(chosen, labels, strict=True):
        trace, seconds = timed(partial(loop, clip, scene, row))
        slow += seconds
        margin = trace.margin()  # type: ignore[attr-defined]
        differs, near = found != trace.labels, margin < MARGIN  # type: ignore[attr-defined]
        worst += int((differs & ~near).sum())
        same = 1 - (differs & ~near).sum() / max((~near).sum(), 1)
        print(
            f"    {row.name:20s} same labels {1 - differs.mean():.4%}; {same:.4%} without the {near.mean():.2%} whose "
            f"margin is below {MARGIN:.0e}; largest margin of a difference {margin[differs].max(initial=0):.0e}"
        )
    print(f"    pixels that differ beyond that margin: {worst}")
    print(f"    loop {slow:.2f} s, all rows together {fast:.2f} s, ratio {slow / fast:.1f}")


def loop(clip: Clip, scene: Scene, row: Row) -> reference_freecp.Trace:
    view, protocol = scene.view, scene.protocol
    return reference_freecp.trace_image(
        clip, view.input.cpu(), view.original_size, row.vocabulary, row.settings, int(protocol.crop or 0),
        int(protocol.stride or 0), label=scene.label, ambiguity_crop=int(protocol.ambiguity_crop or 0),
    )  # fmt: skip


def peak(folder: Path, data: str) -> None:
    """Prints memory of a process that does nothing but load a model and run all rows on one image, as JSON."""
    clip = without_text(load_clip(folder))
    scene = read_scene(folder / f"{data}.safetensors", clip)
    rows = all_rows(scene, data)
    loaded, loading = status("VmRSS"), maximum()
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # forget the peak of loading
    with torch.inference_mode():
        run_rows(clip, scene, rows)
    print(json.dumps({"loaded": loaded, "loading": loading, "running": status("VmHWM"), "all": maximum()}))


def maximum() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / GIB


def status(field: str) -> float:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) * 1024 / GIB


def prepare(folder: Path, data: str, size: tuple[int, int]) -> None:
    """Model and scenes in a folder, made in a process of its own: a child inherits its parent's peak memory."""
    write_model(folder)
    clip = load_clip(folder)
    with torch.inference_mode():
        write_scene(folder / f"{data}.safetensors", clip, data, size, 448, 384)
        write_scene(folder / f"{data}_small.safetensors", clip, data, **SMALL)  # type: ignore[arg-type]


def child(stage: str, folder: Path, arguments: argparse.Namespace) -> str:
    size = [str(side) for side in arguments.size]
    command = [
        sys.executable,
        __file__,
        "--stage",
        stage,
        "--folder",
        str(folder),
        "--data",
        arguments.data,
        "--size",
        *size,
    ]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=sorted(DATA), default="stuff")
    parser.add_argument("--size", type=int, nargs=2, default=(480, 640), metavar=("H", "W"))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--no-loop", action="store_true", help="leave the comparison with the loop out")
    parser.add_argument("--folder", type=Path, help="keep model and inputs there, and use those that are there")
    parser.add_argument("--stage", choices=("prepare", "peak"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.stage == "prepare":
        prepare(arguments.folder, arguments.data, tuple(arguments.size))
    elif arguments.stage == "peak":
        peak(arguments.folder, arguments.data)
    else:
        with tempfile.TemporaryDirectory() as temporary:
            measure(arguments.folder or Path(temporary), arguments)


def measure(folder: Path, arguments: argparse.Namespace) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    file, small = (folder / f"{arguments.data}{suffix}.safetensors" for suffix in ("", "_small"))
    if not small.exists():
        child("prepare", folder, arguments)
    memory = json.loads(child("peak", folder, arguments))
    clip = load_clip(folder, arguments.device)
    scene = read_scene(file, clip)
    rows = all_rows(scene, arguments.data)
    print(
        f"{arguments.data}, {len(scene.texts['template'])} queries, {scene.view.grid.count} windows, {arguments.device}"
    )
    print("  GiB of a CPU process: {loaded:.2f} with the model ({loading:.2f} at most while loading), at most "
          "{running:.2f} while all rows run; {all:.2f} over its whole life".format(**memory))  # fmt: skip
    with torch.inference_mode():
        scene_small = read_scene(small, clip)
        run_rows(clip, scene_small, rows[:1])  # allocator and kernels are warm
        print_cost(clip, scene, print_times(clip, scene, rows))
        if not arguments.no_loop:
            print_loop(clip, scene_small, all_rows(scene_small, arguments.data))


if __name__ == "__main__":
    main()
