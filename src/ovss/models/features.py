"""Features of one image's windows, by name: computed when first asked for, once, shared by every row of a pass.

One image is the unit of computation: all its windows go through the network together, in chunks whose size depends on
nothing but the number of tokens. Matrix products of other shapes may differ in the last bit, so batching several
images would make a result depend on its neighbours; this way it depends on the image alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

from ovss.errors import UserError
from ovss.models import dense, gem, resnet
from ovss.models.clip import Clip
from ovss.models.position import PositionRule

# Tokens that go through a block at once: bounds memory (attention of ViT-B/16 at 384 pixels: 0.2 GB).
CHUNK_TOKENS = 8192


class Features:
    """Lazily computed tensors of the windows of one image under one geometry.

    windows: (W, 3, Hc, Wc) float32, normalised RGB, on the device of the model.
    """

    def __init__(self, clip: Clip, windows: Tensor) -> None:
        self.clip = clip
        self.windows = windows
        self._made: dict[tuple[object, ...], Any] = {}

    def get(self, name: str, **settings: object) -> Tensor:
        """The features of that name and settings, see ``FEATURES``; every later request gets the same tensor.

        Raises:
            UserError: no features of that name, or the model cannot give them.
        """
        if name not in FEATURES:
            raise UserError(f"features: '{name}' is not one of {', '.join(sorted(FEATURES))}")
        return self._once((name, *sorted(settings.items())), lambda: FEATURES[name](self, **settings))

    def _once(self, key: tuple[object, ...], make: Callable[[], Any]) -> Any:
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]

    def block_inputs(self, position: PositionRule) -> list[list[Tensor]]:
        """Chunks of windows; per chunk the L block inputs (w, N, d). At the native grid the rules do not differ."""
        visual = self._transformer()
        native = dense.patch_grid(visual, self.windows) == tuple(visual.grid_size)
        return self._once(
            ("block_inputs", "scale" if native else position),
            lambda: [dense.block_inputs(visual, chunk, position) for chunk in self.windows.split(self._chunk())],
        )

    def last_heads(self) -> list[dense.Heads]:
        """Per chunk query, key and value of the last block as trained."""
        block = self._transformer().transformer.resblocks[-1]
        return self._once(
            ("last_heads",), lambda: [dense.split_heads(block, inputs[-1]) for inputs in self.block_inputs("scale")]
        )

    def mixed(self, variant: dense.Variant) -> list[Tensor]:
        """Per chunk the last block's values mixed by a variant, (w, H, N, e); families share them."""
        return self._once(("mixed", variant), lambda: self._mix(variant))

    def _mix(self, variant: dense.Variant) -> list[Tensor]:
        if variant == "SCLIP":
            pairs = zip(self.last_heads(), self.mixed("ClearCLIP"), strict=True)
            return [dense.add_key_attention(heads, by_query) for heads, by_query in pairs]
        return [dense.mix_values(heads, variant) for heads in self.last_heads()]

    def _chunk(self) -> int:
        rows, columns = dense.patch_grid(self._transformer(), self.windows)
        return max(1, CHUNK_TOKENS // (rows * columns + 1))

    def _transformer(self) -> Any:
        if not self.clip.is_transformer:
            raise UserError("features: this model has a ResNet tower; only MaskCLIP's dense features exist for it")
        return self.clip.visual


def _tokens(features: Features, variant: dense.Variant, family: dense.Family) -> Tensor:
    """Unit features of every token of a last-block variant, class token first, (W, N, D)."""
    visual = features._transformer()
    block = visual.transformer.resblocks[-1]
    parts = [
        dense.joint_features(visual, dense.last_block(block, inputs[-1], mixed, variant, family))
        for inputs, mixed in zip(features.block_inputs("scale"), features.mixed(variant), strict=True)
    ]
    return torch.cat(parts)


def _dense(features: Features, variant: dense.Variant, family: dense.Family) -> Tensor:
    """Unit patch features of a last-block variant, (W, n, D)."""
    if not features.clip.is_transformer:
        return _resnet(features, variant)
    return features.get("tokens", variant=variant, family=family)[:, 1:]


def _resnet(features: Features, variant: dense.Variant) -> Tensor:
    if variant != "MaskCLIP":
        raise UserError(f"variant: {variant} needs a transformer; a ResNet CLIP has MaskCLIP alone")
    return resnet.resnet_features(features.clip.visual, features.windows)


def _gem_tokens(
    features: Features, depth: int, iterations: int, limit: gem.DepthLimit = "layers", stream: gem.Stream = "accumulate"
) -> Tensor:
    """Unit features of every token of GEM, class token first, (W, N, D)."""
    visual = features._transformer()
    start = gem.first_block(len(visual.transformer.resblocks), depth, limit)
    parts = [
        dense.joint_features(visual, gem.gem_tokens(visual, inputs, start, iterations, stream))
        for inputs in features.block_inputs("antialias")
    ]
    return torch.cat(parts)


def _gem(features: Features, **settings: object) -> Tensor:
    """Unit patch features of GEM, (W, n, D); settings as for ``gem_tokens``."""
    return features.get("gem_tokens", **settings)[:, 1:]


def _image(features: Features, position: PositionRule = "scale") -> Tensor:
    """Unit features of each window by the network as trained, (W, D)."""
    if not features.clip.is_transformer:
        return resnet.resnet_image_features(features.get("dense", variant="MaskCLIP", family="attention_only"))
    visual = features.clip.visual
    block = visual.transformer.resblocks[-1]
    parts = [
        dense.image_features(visual, dense.standard_block(block, inputs[-1]))
        for inputs in features.block_inputs(position)
    ]
    return torch.cat(parts)


def _affinity(features: Features, position: PositionRule = "scale", heads: Literal["mean", "first"] = "mean") -> Tensor:
    """Mean attention between patches in blocks 0..L-2, (W, n, n)."""
    visual = features._transformer()
    return torch.cat([dense.patch_affinity(visual, inputs, heads) for inputs in features.block_inputs(position)])


FEATURES: dict[str, Callable[..., Tensor]] = {
    "tokens": _tokens,
    "dense": _dense,
    "gem_tokens": _gem_tokens,
    "gem": _gem,
    "image": _image,
    "affinity": _affinity,
}
