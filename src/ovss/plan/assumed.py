"""What estimates assume of data and machines that are not there yet; every number of theirs that no file states."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Throughput:
    """Operations a second of one GPU, everything between two images included, by the precision of the code."""

    gpu: str
    fp32: float
    bf16: float


THROUGHPUT = Throughput("an NVIDIA A100", fp32=5e12, bf16=60e12)
"""ASSUMED, not measured: a quarter of an A100's peak of 19.5 TFLOP/s in float32 without TF32 (all inference: torch's
matrix products are left at full float32, and ``ovss.runner`` switches TF32 off for convolutions), and a fifth of its
dense peak of 312 TFLOP/s in bfloat16 (towers in TTD's training and pruning). Peaks: NVIDIA's A100 data sheet."""


@dataclass(frozen=True)
class Typical:
    """Images and texts.

    image, of_layout: (H, W) in pixels of an image, and of one of a data set laid out so. caption, word, prompt: tokens
    of a text. words: of a caption, and candidates of a segment. crops: that FreeCP's ambiguity purification looks at in
    a window. kept: share of pairs that pruning leaves, that of a normal distribution above mean plus deviation.
    learning: forward passes that a step of low-rank training is worth: its backward pass needs no gradients of the
    weights, and so costs one more.
    """

    image: tuple[int, int]
    of_layout: Mapping[str, tuple[int, int]]
    caption: int
    word: int
    prompt: int
    words: int
    crops: int
    kept: float
    learning: float


TYPICAL = Typical(
    image=(480, 640),
    of_layout={"cityscapes": (1024, 2048)},
    caption=24,
    word=8,
    prompt=16,
    words=8,
    crops=4,
    kept=0.16,
    learning=2.0,
)


@dataclass(frozen=True)
class Sizes:
    """Bytes.

    image, of_layout: a prepared image with its label; images stay as they were downloaded (COCO val2017: 163 kB each;
    11 GB of Cityscapes are 5,000 images). caption: text and offset of a caption; number: one number of its vector
    (float16). index: the same in an index (8 bits and the id, see ``ovss.retrieval.recipes``). map: clusters of an
    image as a PNG. wide: a number of a segment's embedding (float32). neighbours: the 60 captions that are kept of a
    segment, with ids, scores and links. counts: of an image in a row.
    """

    image: int
    of_layout: Mapping[str, int]
    caption: int
    number: int
    index: float
    map: int
    wide: int
    neighbours: int
    counts: int


SIZES = Sizes(
    image=200_000,
    of_layout={"cityscapes": 2_300_000},
    caption=70,
    number=2,
    index=1.03,
    map=6_000,
    wide=4,
    neighbours=60 * (8 + 4 + 8),
    counts=600,
)

PROMPTS: Mapping[str, int] = {"openai80": 80, "tcl": 9}
"""Prompts that templates make of a word, where that is not one. They and the defaults below are facts of modules that
a plan does not import, since torch comes with them; a test compares them."""

DEFAULTS: Mapping[str, int] = {"n_clusters": 15, "gem_depth": 7, "gem_iterations": 1}
"""Settings that decide a cost, where a row leaves them to its method."""
