"""One shared pass over all rows against the straightforward way: every row encodes every window by itself.

    python bench/dense.py [--images 1] [--side 336 448] [--crop 224] [--stride 112] [--device cpu]

ViT-B/16 with random weights; both ways in one process, one thread on a CPU (CPU seconds; on a GPU wall seconds). With
the defaults about 40 CPU seconds; for the six rows below expect a ratio near 4 at the native window of 224 and near 2.5
at others, where GEM's own position embeddings need a second pass through the blocks.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ovss.evaluation.batch import Batch, View, make_view
from ovss.evaluation.protocol import Protocol
from ovss.methods.dense_clip import Settings, segment
from ovss.models.clip import Clip, build_clip
from ovss.models.features import Features
from ovss.models.openclip import open_clip
from ovss.models.text import Vocabulary
from ovss.models.weights import model_config

ROWS = (
    Settings("vanilla", "full_block"),
    Settings("MaskCLIP", "full_block"),
    Settings("SCLIP", "full_block"),
    Settings("ClearCLIP", "attention_only"),
    Settings("SCLIP", "freecp_block"),
    Settings("GEM"),
)
QUERIES = 46


def random_clip(device: str) -> Clip:
    torch.manual_seed(0)
    config = model_config("ViT-B-16-quickgelu")
    return build_clip(config, open_clip.CLIP(**config).state_dict(), device=device)


def multiply_adds(clip: Clip, view: View) -> dict[str, float]:
    """Multiply-adds of the encoder: one block on all windows of an image, by part."""
    width, tokens = clip.visual.conv1.out_channels, view.grid.rows.patches * view.grid.columns.patches + 1
    count = view.grid.count
    projection, attention = tokens * width**2, tokens**2 * width
    return {
        "block": count * (12 * projection + 2 * attention),
        "attention": count * 2 * attention,
        "out and feed-forward": count * 9 * projection,
        "gem branch": count * (projection + 3 * 4 * attention),
    }


def straightforward(clip: Clip, view: View, vocabulary: Vocabulary, protocol: Protocol, row: Settings) -> np.ndarray:
    """One row as published code runs it: window by window, each upsampled, added up, averaged, resized."""
    height, width = view.input_size
    total = torch.zeros(len(vocabulary.queries), height, width, device=view.input.device)
    coverage = torch.zeros(height, width, device=view.input.device)
    for y0, y1 in view.grid.rows.spans:
        for x0, x1 in view.grid.columns.spans:
            window = view.input[None, :, y0:y1, x0:x1]
            scores = patch_scores(Features(clip, window), row) @ vocabulary.features.T
            grid = scores[0].T.reshape(1, -1, view.grid.rows.patches, view.grid.columns.patches)
            total[:, y0:y1, x0:x1] += F.interpolate(grid, (y1 - y0, x1 - x0), mode="bilinear")[0]
            coverage[y0:y1, x0:x1] += 1
    scores = F.interpolate((total / coverage)[None], view.original_size, mode="bilinear")[0]
    labels = (scores * protocol.logit_scale).softmax(0).argmax(0)
    return vocabulary.query_class[labels].cpu().numpy()


def patch_scores(features: Features, row: Settings) -> Tensor:
    if row.variant == "GEM":
        return features.get("gem", depth=row.gem_depth, iterations=row.gem_iterations)
    return features.get("dense", variant=row.variant, family=row.family)


def shared(clip: Clip, view: View, vocabulary: Vocabulary, protocol: Protocol) -> list[np.ndarray]:
    features = Features(clip, view.windows())
    batch = Batch((view,), protocol)
    return [segment(batch, vocabulary, [features], row)[0].labels for row in ROWS]


def timed(work: Callable[[], object]) -> tuple[object, float]:
    started = time.process_time() if not torch.cuda.is_initialized() else time.perf_counter()
    result = work()
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
        return result, time.perf_counter() - started
    return result, time.process_time() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1)
    parser.add_argument("--side", type=int, nargs=2, default=(336, 448), metavar=("H", "W"))
    parser.add_argument("--crop", type=int, default=224)
    parser.add_argument("--stride", type=int, default=112)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    clip = random_clip(arguments.device)
    protocol = Protocol(min(arguments.side), arguments.crop, arguments.stride, "none", "none", 40.0)
    generator = np.random.default_rng(0)
    vocabulary = Vocabulary(
        tuple(map(str, range(QUERIES))),
        F.normalize(torch.randn(QUERIES, 512), dim=-1).to(arguments.device),
        torch.arange(QUERIES).to(arguments.device),
    )
    with torch.inference_mode():
        compare(clip, protocol, vocabulary, [generator.integers(0, 256, (*arguments.side, 3), dtype=np.uint8)
                                             for _ in range(arguments.images)])  # fmt: skip


def compare(clip: Clip, protocol: Protocol, vocabulary: Vocabulary, images: list[np.ndarray]) -> None:
    views = [make_view(str(number), image, protocol.geometry, clip) for number, image in enumerate(images)]
    shared(clip, views[0], vocabulary, protocol)  # caches and allocator are warm for both ways
    print(f"{len(images)} image(s), {views[0].grid.count} windows of {protocol.crop}, {len(ROWS)} rows, seconds/image")
    together, shared_time = timed(lambda: [shared(clip, view, vocabulary, protocol) for view in views])
    total = 0.0
    for index, row in enumerate(ROWS):
        alone, seconds = timed(lambda row=row: [straightforward(clip, view, vocabulary, protocol, row)  # type: ignore[misc]
                                                for view in views])  # fmt: skip
        same = np.mean([np.mean(a == b[index]) for a, b in zip(alone, together, strict=True)])  # type: ignore[call-overload]
        total += seconds
        print(f"  {row.variant:10s} {row.family:15s} alone {seconds / len(views):8.2f}   same pixels {same:.4%}")
    print(f"  all rows   straightforward {total / len(views):8.2f}")
    print(f"  all rows   shared          {shared_time / len(views):8.2f}   ratio {total / shared_time:.2f}")
    print_cost(clip, views[0])


def print_cost(clip: Clip, view: View) -> None:
    """FLOPs (two per multiply-add) of the encoder, both ways."""
    part, blocks = multiply_adds(clip, view), len(clip.visual.transformer.resblocks)
    gem_blocks = min(ROWS[-1].gem_depth, blocks) - 1
    gem = blocks * part["block"] + gem_blocks * (part["gem branch"] + part["block"] / 4)
    each = [blocks * part["block"] + (part["attention"] if row.variant == "SCLIP" else 0) for row in ROWS[:-1]]
    branches = (len(ROWS) - 2) * part["out and feed-forward"] + 3 * part["attention"]
    native = (view.grid.rows.patches, view.grid.columns.patches) == tuple(clip.visual.grid_size)
    trunk = part["block"] * (blocks - 1) if native else 0.0
    together = blocks * part["block"] + branches + gem - trunk
    print(f"  encoder TFLOP/image: straightforward {2e-12 * (sum(each) + gem):.2f}, shared {2e-12 * together:.2f}, "
          f"ratio {(sum(each) + gem) / together:.2f}")  # fmt: skip


if __name__ == "__main__":
    main()
