"""TAG's first half: all 23 variants of Tables 3 to 7 on one data set against one variant alone.

    python bench/tag.py [--images 2] [--clusters 5 10 15 20 25] [--device cpu]

CLIP ViT-L/14 and DINOv2 ViT-B/14 with random weights at 448 pixels, settings of the released code. The 23 variants
differ in their captions and words; of images they need no more than five segmentations, one per cluster count, and
those share both networks and the CRF's lattices. Search and words are not measured here. Images are flat patches under
light noise: how many corners the CRF's lattice has depends on them. One thread on a CPU (CPU seconds; on a GPU wall
seconds). About six CPU minutes with the defaults.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from dense import timed
from freecp import GIB, maximum, status

from ovss.evaluation.batch import View, make_view
from ovss.evaluation.protocol import Protocol
from ovss.methods import _tag_cluster as clustering
from ovss.methods import _tag_segment as tag
from ovss.models import crf
from ovss.models.clip import Clip, build_clip, without_text
from ovss.models.dino import Dino
from ovss.models.features import Features
from ovss.models.openclip import open_clip
from ovss.models.resized import Norm
from ovss.models.timm_models import import_timm
from ovss.models.weights import model_config

SIDE, VARIANTS, USUAL = 448, 23, 15
NORM = Norm((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
PROTOCOL = Protocol(SIDE, None, None, "", "none", 1.0, resize="square", normalisation="unit")
STEPS = 30  # k-means steps assumed in the count of operations


def models(device: str) -> tuple[Clip, Dino]:
    torch.manual_seed(0)
    config = model_config("ViT-L-14-quickgelu")
    clip = build_clip(config, open_clip.CLIP(**config).state_dict(), device=device)
    dino = import_timm().create_model("vit_base_patch14_dinov2", pretrained=False, num_classes=0, dynamic_img_size=True)
    return without_text(clip), Dino(dino.float().eval().requires_grad_(False).to(device), NORM)


def picture(seed: int) -> np.ndarray:
    generator = np.random.default_rng(seed)
    blocks = generator.integers(0, 256, (10, 14, 3)).repeat(48, 0).repeat(48, 1)
    return (blocks + generator.normal(0, 4, blocks.shape)).clip(0, 255).astype(np.uint8)


def views(count: int, clip: Clip) -> list[View]:
    return [make_view(str(seed), picture(seed), PROTOCOL.geometry, clip) for seed in range(count)]


def run(clip: Clip, dino: Dino, images: Sequence[View], clusters: Sequence[int]) -> list[tag.Proposal]:
    """Segments of every image for every cluster count, as the stage makes them."""
    found = []
    for view in images:
        features = Features(clip, view.windows(), view.colours, {tag.SEGMENTER: dino})
        found += [tag.propose(view, features, tag.Segmenting(n_clusters=count)) for count in clusters]
    return found


def parts(
    clip: Clip, dino: Dino, view: View, clusters: Sequence[int]
) -> tuple[list[tuple[str, float]], dict[str, int]]:
    """Seconds of each step on one image, and the corners of the CRF's lattices."""
    features, times = Features(clip, view.windows(), view.colours, {tag.SEGMENTER: dino}), []
    settings = [tag.Segmenting(n_clusters=count) for count in clusters]
    scene = tag.scene_of(view, features)
    upsampling = tag.Upsampling.between(features.patch_grid(), view.input_size, clip.device)

    def clock(name: str, work: Any) -> Any:
        result, seconds = timed(work)
        times.append((name, seconds))
        return result

    gem = {"depth": 7, "iterations": 1, "limit": "layers", "stream": "accumulate"}
    clock("CLIP, blocks", lambda: features.block_inputs("antialias"))
    clock("CLIP, GEM stream", lambda: features.get("gem_projected", **gem))
    tokens = clock("DINO", lambda: scene.tokens("hub"))
    found = [clock(f"k-means, k = {one.n_clusters}", lambda one=one: clustering.cluster(scene, one))
             for one in settings]  # fmt: skip
    crf.position_edges.cache_clear()  # of an image size, not of an image
    edges = clock("CRF, lattices", lambda: clustering.edges(scene, settings[0]))
    maps = [clustering.cluster_maps(tokens, each.centres, one, scene.upsampling())
            for each, one in zip(found, settings, strict=True)]  # fmt: skip
    refined = [clock(f"CRF, k = {one.n_clusters}", lambda one=one, each=each: clustering.refine(each, edges, one))
               for each, one in zip(maps, settings, strict=True)]  # fmt: skip
    dense = features.get("gem_projected", **gem)[0, 1:]
    clock(
        "embeddings", lambda: [tag.segment_embeddings(each.argmax(0), len(each), dense, upsampling) for each in refined]
    )
    names = ("Gaussian", "bilateral")
    return times, {name: edge.corners for name, (edge, _) in zip(names, edges, strict=True)}


def flops(clusters: Sequence[int], corners: dict[str, int]) -> dict[str, float]:
    """Operations of one image, two per multiply-add."""
    tokens, pixels, restarts, steps = (SIDE // 14) ** 2 + 1, SIDE**2, 8, 10
    blocks = {
        width: 12 * tokens * width**2 + 2 * tokens**2 * width for width in (1024, 768)
    }  # projections, feed-forward; attention
    branch = 4 * tokens * 1024**2 + 3 * 4 * tokens**2 * 1024
    total = sum(clusters)
    sides = {"Gaussian": 3, "bilateral": 6}
    once = sum(2 * sides[name] * pixels + 3 * sides[name] * count for name, count in corners.items())
    return {
        "CLIP, blocks": 2 * 23 * blocks[1024],
        "CLIP, GEM stream": 2 * 6 * branch,
        "DINO": 2 * 12 * blocks[768],
        "k-means": 2 * STEPS * restarts * total * 2 * tokens * 768,
        "CRF": 2 * steps * total * once,
        "embeddings": 2 * total * (pixels * 32 + tokens * 768),
    }


def memory_model(images: Sequence[int], corners: dict[str, int]) -> dict[str, float]:
    """Bytes of what one image needs at the same time; float32, int32, and int64 on the way."""
    tokens, pixels, most = (SIDE // 14) ** 2 + 1, SIDE**2, max(images)
    kept = 24 * tokens * 1024 * 4 + 2 * tokens * 768 * 4
    lattices = sum(
        pixels * side * 2 * (4 + 4) + 3 * (4 + 4) * side * corners[name]
        for name, side in (("Gaussian", 3), ("bilateral", 6))
    )
    making = 8 * 6 * pixels * 8  # the bilateral kernel's simplices, numbers of their corners, and these sorted
    values = (10 * pixels + 3 * max(corners.values())) * most * 4
    return {
        "block inputs, tokens": kept,
        "lattices": lattices,
        f"making them or {most} marginals": max(making, values),
    }


def peak(clusters: Sequence[int], device: str) -> None:
    """Prints the memory of a process that loads the networks and segments one image, as JSON."""
    clip, dino = models(device)
    (view,) = views(1, clip)
    loaded, loading = status("VmRSS"), maximum()
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # forget the peak of loading
    with torch.inference_mode():
        run(clip, dino, [view], clusters)
    used = torch.cuda.max_memory_allocated() / GIB if clip.device.type == "cuda" else status("VmHWM") - loaded
    print(json.dumps({"loaded": loaded, "loading": loading, "used": used}))


def measure(arguments: argparse.Namespace) -> None:
    counts = arguments.clusters
    command = [sys.executable, __file__, "--stage", "peak", "--device", arguments.device, "--clusters"]
    outputs = [subprocess.run([*command, *map(str, chosen)], check=True, stdout=subprocess.PIPE, text=True).stdout
               for chosen in ([USUAL], counts)]  # fmt: skip
    memory = [json.loads(output) for output in outputs]
    clip, dino = models(arguments.device)
    images = views(arguments.images, clip)
    with torch.inference_mode():
        run(clip, dino, images[:1], [2])  # allocator and kernels are warm
        one_found, one = timed(lambda: run(clip, dino, images, [USUAL]))
        all_found, together = timed(lambda: run(clip, dino, images, counts))
        times, corners = parts(clip, dino, images[0], counts)
    alike(one_found, all_found, counts)  # type: ignore[arg-type]
    report(arguments, (one, together), memory, times, corners)


def alike(one: list[tag.Proposal], together: list[tag.Proposal], counts: list[int]) -> None:
    """The variant alone and beside the others is the same to the last bit."""
    beside = together[counts.index(USUAL) :: len(counts)]
    if not all((a.map == b.map).all() and a.embeddings.equal(b.embeddings) for a, b in zip(one, beside, strict=True)):
        raise AssertionError("a segmentation depends on the others of its pass")


def report(
    arguments: argparse.Namespace,
    seconds: tuple[float, float],
    memory: list[dict[str, float]],
    times: list[tuple[str, float]],
    corners: dict[str, int],
) -> None:
    one, together = seconds
    counts = arguments.clusters
    print(f"{arguments.images} image(s) of {SIDE}x{SIDE}, {arguments.device}, cluster counts {counts}")
    print(f"  one variant (k = {USUAL})   {one / arguments.images:8.2f} s/image")
    print(f"  all {VARIANTS} variants       {together / arguments.images:8.2f} s/image, ratio {together / one:.2f}")
    print("  one image, by step:")
    for name, spent in times:
        print(f"    {name:20s} {spent:8.2f} s")
    print("  corners of the CRF's lattices: " + ", ".join(f"{name} {count}" for name, count in corners.items()))
    for title, chosen in ((f"k = {USUAL}", [USUAL]), ("all", counts)):
        work = flops(chosen, corners)
        print(f"  GFLOP/image, {title} ({STEPS} k-means steps): {sum(work.values()) / 1e9:.0f} = "
              + " + ".join(f"{name} {value / 1e9:.1f}" for name, value in work.items()))  # fmt: skip
    print(f"  GiB with both networks {memory[0]['loaded']:.2f} ({memory[0]['loading']:.2f} at most while loading)")
    for title, chosen, found in zip((f"k = {USUAL}", "all"), ([USUAL], counts), memory, strict=True):
        kept = memory_model(chosen, corners)
        terms = " + ".join(f"{name} {value / GIB:.2f}" for name, value in kept.items())
        print(f"  GiB beyond them for one image, {title}: {found['used']:.2f}; to be kept at once {terms}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=2)
    parser.add_argument("--clusters", type=int, nargs="+", default=[5, 10, USUAL, 20, 25], help=f"{USUAL} among them")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--stage", choices=("peak",), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.stage is None and USUAL not in arguments.clusters:
        parser.error(f"--clusters must have {USUAL}, the variant that is also run alone")
    torch.set_num_threads(1)
    if arguments.stage == "peak":
        peak(arguments.clusters, arguments.device)
    else:
        measure(arguments)


if __name__ == "__main__":
    main()
