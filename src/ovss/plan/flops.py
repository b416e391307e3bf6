"""Operations of the networks, from their sizes alone: nothing is loaded, so a plan can be priced without any data.

A multiplication with its addition counts as two operations, as PyTorch's FlopCounterMode counts them; normalisation,
softmax and other work per element is left out, as there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Blocks:
    """A stack of transformer blocks of one width; its feed-forward part is ``mlp`` times as wide."""

    width: int
    layers: int
    mlp: int = 4

    def flops(self, tokens: int) -> int:
        """Of one sequence: query, key, value and output (8 N d^2), attention (4 N^2 d), feed-forward (4 mlp N d^2)."""
        return self.layers * self.block(tokens)

    def block(self, tokens: int) -> int:
        """Of one block."""
        return (8 + 4 * self.mlp) * tokens * self.width**2 + self.attention(tokens)

    def attention(self, tokens: int) -> int:
        """Of the two products of one attention: queries with keys, weights with values."""
        return 4 * tokens**2 * self.width


@dataclass(frozen=True)
class Vit:
    """A vision transformer: ``patch`` pixels a side, ``prefix`` tokens ahead, ``joint`` dimensions behind (0: none).

    native: side in pixels at which it was trained.
    """

    blocks: Blocks
    patch: int
    native: int
    joint: int = 0
    prefix: int = 1

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Patches of an image; pixels that fill no patch are dropped."""
        return height // self.patch, width // self.patch

    def tokens(self, height: int, width: int) -> int:
        """Tokens of an image."""
        rows, columns = self.grid(height, width)
        return rows * columns + self.prefix

    def image(self, height: int, width: int) -> int:
        """Of one image: patches, blocks, and the projection of every token."""
        tokens = self.tokens(height, width)
        patches = 2 * (tokens - self.prefix) * 3 * self.patch**2 * self.blocks.width
        return patches + self.blocks.flops(tokens) + 2 * tokens * self.blocks.width * self.joint

    def gem(self, height: int, width: int, branches: int, iterations: int) -> int:
        """Of GEM's self-self branches beside the last blocks: three times ``iterations`` + 1 attentions each."""
        tokens = self.tokens(height, width)
        attentions = 3 * (iterations + 1) * self.blocks.attention(tokens)
        return branches * (8 * tokens * self.blocks.width**2 + attentions)

    def attention_maps(self, height: int, width: int) -> int:
        """Of the attention between tokens that FreeCP sums up over all blocks but the last (half an attention each)."""
        return (self.blocks.layers - 1) * self.blocks.attention(self.tokens(height, width)) // 2

    def grounder(self, height: int, width: int, stages: int = 2) -> int:
        """Of TCL's decoder: in each stage, at twice the size of the one before, two 3x3 convolutions; a projection."""
        rows, columns = self.grid(height, width)
        cells = [rows * columns * 4**stage for stage in range(1, stages + 1)]
        convolutions = sum(2 * 2 * 9 * each * self.blocks.width**2 for each in cells)
        return convolutions + 2 * cells[-1] * self.blocks.width * self.joint


@dataclass(frozen=True)
class Counted:
    """A network whose operations were counted, not derived: ``flops`` of an image of ``side`` squared.

    fixed: its input has that size whatever the image; else operations grow with the pixels, as those of convolutions
    and of attention in windows do.
    """

    counted: int
    side: int
    fixed: bool = False

    def image(self, height: int, width: int) -> int:
        """Of one image."""
        return self.counted if self.fixed else self.counted * height * width // self.side**2


@dataclass(frozen=True)
class Text:
    """CLIP's text tower, and the joint dimension behind it."""

    blocks: Blocks
    joint: int

    def text(self, tokens: int) -> int:
        """Of one text; the projection is of one token."""
        return self.blocks.flops(tokens) + 2 * self.blocks.width * self.joint


_BASE, _LARGE, _SMALL = Blocks(768, 12), Blocks(1024, 24), Blocks(384, 12)
_CLIP_B = Vit(_BASE, patch=16, native=224, joint=512)
_CLIP_L = Vit(_LARGE, patch=14, native=224, joint=768)
# Counted with FlopCounterMode on the modules that the code runs, without weights (again in tests/test_plan_full.py):
# SAM's image encoder; below, the ResNet's trunk and all of MaskFormer.
_SAM_B = Counted(972_077_334_528, side=1024, fixed=True)
_SAM_L = Counted(2_985_680_306_176, side=1024, fixed=True)
_SAM_H = Counted(5_961_082_830_848, side=1024, fixed=True)

IMAGE_NETWORKS: dict[str, Vit | Counted] = {
    "ViT-B-16-quickgelu": _CLIP_B,
    "ViT-L-14-quickgelu": _CLIP_L,
    "ViT-L-14": _CLIP_L,
    "vit_base_patch16_224": Vit(_BASE, patch=16, native=224),
    "vit_small_patch16_224": Vit(_SMALL, patch=16, native=224),
    "vit_large_patch14_dinov2": Vit(_LARGE, patch=14, native=518),
    "vit_base_patch14_dinov2": Vit(_BASE, patch=14, native=518),
    "vit_small_patch14_dinov2": Vit(_SMALL, patch=14, native=518),
    "RN50x16-quickgelu": Counted(140_237_733_888, side=384),
    "samvit_base_patch16": _SAM_B,
    "samvit_large_patch16": _SAM_L,
    "samvit_huge_patch16": _SAM_H,
    "facebook/maskformer-swin-base-coco": Counted(593_236_146_176, side=800),
    # HQ-SAM's encoder is SAM's.
    "vit_b": _SAM_B,
    "vit_l": _SAM_L,
    "vit_h": _SAM_H,
}
"""Image networks by the name under which weights.yaml loads them: open_clip's, timm's, transformers' or HQ-SAM's.

Sizes: CLIP (Radford et al. 2021, Table 20), ViT and DINO (Caron et al. 2021, Table 1), DINOv2 (Oquab et al. 2023,
Table 17).
"""

TEXT_NETWORKS: dict[str, Text] = {
    "ViT-B-16-quickgelu": Text(Blocks(512, 12), 512),
    "ViT-L-14-quickgelu": Text(Blocks(768, 12), 768),
    "ViT-L-14": Text(Blocks(768, 12), 768),
    "RN50x16-quickgelu": Text(Blocks(768, 12), 768),
}
"""Text towers, likewise."""


@dataclass(frozen=True)
class Windows:
    """``count`` windows of ``height`` by ``width`` pixels."""

    count: int
    height: int
    width: int


def windows(size: Sequence[int], short: int, long: int, square: bool, crop: int | None, stride: int | None) -> Windows:
    """Windows of an image under a protocol, as ``ovss.evaluation.preprocess`` resizes and ``ovss.models.windows`` cuts.

    Args:
        size: (H, W) of the image.
        short: wanted shorter side.
        long: limit of the longer side.
        square: whether both sides become the shorter one.
        crop: side of a window; None: the whole image at once.
        stride: step of the windows.
    """
    factor = min(long / max(size), short / min(size))
    height, width = (short, short) if square else (int(side * factor + 0.5) for side in size)
    if crop is None or stride is None:
        return Windows(1, height, width)
    steps = [max(side - crop + stride - 1, 0) // stride + 1 for side in (height, width)]
    return Windows(steps[0] * steps[1], min(crop, height), min(crop, width))
