"""Features of one image's windows, by name: computed when first asked for, once, shared by every row of a pass.

One image is the unit of computation: all its windows go through the network together, in chunks whose size depends on
nothing but the number of tokens. Matrix products of other shapes may differ in the last bit, so batching several
images would make a result depend on its neighbours; this way it depends on the image alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from ovss.errors import UserError
from ovss.models import dense, gem, resnet
from ovss.models.clip import Clip
from ovss.models.position import PositionRule

# Tokens that go through a block at once: bounds memory (attention of ViT-B/16 at 384 pixels: 0.2 GB).
CHUNK_TOKENS = 8192


class Companion(Protocol):
    """Another model beside CLIP, as far as methods need it."""

    def affinity(self, colours: Tensor, grid: tuple[int, int]) -> Tensor:
        """(W, 3, Hc, Wc) float32 RGB in 0..1 and a patch grid (h, w) -> (W, h*w, h*w) float32, rows = queries."""


class Features:
    """Lazily computed tensors of the windows of one image under one geometry.

    windows: (W, 3, Hc, Wc) float32, normalised RGB, on the device of the model. colours: gives the same windows as RGB
    in 0..1, for other models. companions: those other models, by the name that the row gives them. affinities: those
    that some row will ask for; making them on the way changes what they cost and not what they are.
    """

    def __init__(
        self,
        clip: Clip,
        windows: Tensor,
        colours: Callable[[], Tensor] | None = None,
        companions: Mapping[str, Companion] | None = None,
        affinities: Iterable[tuple[PositionRule, dense.HeadRule]] = (),
    ) -> None:
        self.clip = clip
        self.windows = windows
        self._affinities = sorted(set(affinities))
        self._colours = colours
        self._companions = companions or {}
        self._made: dict[tuple[object, ...], Any] = {}

    def get(self, name: str, **settings: object) -> Tensor:
        """The features of that name and settings, see ``FEATURES``; every later request gets the same tensor.

        Raises:
            UserError: no features of that name, or the model cannot give them.
        """
        if name not in FEATURES:
            raise UserError(f"features: '{name}' is not one of {', '.join(sorted(FEATURES))}")
        return self.once((name, *sorted(settings.items())), lambda: FEATURES[name](self, **settings))

    def once(self, key: tuple[object, ...], make: Callable[[], Any]) -> Any:
        """What ``make`` returns, made at the first request under this key; rows of a pass share it."""
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]

    def many(self, keys: Sequence[tuple[object, ...]], make: Callable[[list[Any]], Iterable[Any]]) -> list[Any]:
        """As ``once`` for several keys: ``make`` gets those that nobody has asked for yet and returns one each."""
        missing = [key for key in dict.fromkeys(keys) if key not in self._made]
        if missing:
            self._made.update(zip(missing, make(missing), strict=True))
        return [self._made[key] for key in keys]

    def block_inputs(self, position: PositionRule) -> list[list[Tensor]]:
        """Chunks of windows; per chunk the L block inputs (w, N, d). At the native grid the rules do not differ."""
        native = self.patch_grid() == tuple(self.transformer().grid_size)
        return self.once(("block_inputs", "scale" if native else position), lambda: self._encode(position, native))

    def _encode(self, position: PositionRule, native: bool) -> list[list[Tensor]]:
        """Run blocks 0..L-2; wanted affinities are summed up on the way, where queries and keys are at hand."""
        wanted = [(at, heads) for at, heads in self._affinities if native or at == position]
        kinds = sorted({heads for _, heads in wanted})
        inputs, sums = [], []
        for chunk in self.windows.split(self._chunk()):
            one, affinity = dense.encode(self.transformer(), chunk, position, kinds)
            inputs.append(one)
            sums.append(affinity)
        for at, heads in wanted:
            self._made[_affinity_key(at, heads)] = torch.cat([each[heads] for each in sums])
        return inputs

    def last_heads(self) -> list[dense.Heads]:
        """Per chunk query, key and value of the last block as trained."""
        block = self.transformer().transformer.resblocks[-1]
        return self.once(
            ("last_heads",), lambda: [dense.split_heads(block, inputs[-1]) for inputs in self.block_inputs("scale")]
        )

    def mixed(self, variant: dense.Variant) -> list[Tensor]:
        """Per chunk the last block's values mixed by a variant, (w, H, N, e); families share them."""
        return self.once(("mixed", variant), lambda: self._mix(variant))

    def _mix(self, variant: dense.Variant) -> list[Tensor]:
        if variant == "SCLIP":
            pairs = zip(self.last_heads(), self.mixed("ClearCLIP"), strict=True)
            return [dense.add_key_attention(heads, by_query) for heads, by_query in pairs]
        return [dense.mix_values(heads, variant) for heads in self.last_heads()]

    def _chunk(self) -> int:
        rows, columns = self.patch_grid()
        return max(1, CHUNK_TOKENS // (rows * columns + 1))

    def colours(self) -> Tensor:
        """The windows as RGB in 0..1, (W, 3, Hc, Wc) float32; zeros where a window is padded."""
        if self._colours is None:
            raise UserError("features: these windows come without their colours, which another model needs")
        return self.once(("colours",), self._colours)

    def companion(self, name: str) -> Companion:
        """Another model of the row.

        Raises:
            UserError: the row names none of that name.
        """
        if name not in self._companions:
            raise UserError(f"companions.{name}: the row needs this model beside its CLIP; name it under companions")
        return self._companions[name]

    def patch_grid(self) -> tuple[int, int]:
        """(h, w) of the patch grid of a window."""
        side = self.clip.patch_size
        return self.windows.shape[-2] // side, self.windows.shape[-1] // side

    def transformer(self) -> Any:
        """The vision tower.

        Raises:
            UserError: it is a ResNet, which has no blocks to open up.
        """
        if not self.clip.is_transformer:
            raise UserError("features: this model has a ResNet tower; only MaskCLIP's dense features exist for it")
        return self.clip.visual


def _tokens(features: Features, variant: dense.Variant, family: dense.Family) -> Tensor:
    """Unit features of every token of a last-block variant, class token first, (W, N, D)."""
    visual = features.transformer()
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


def _gem_projected(
    features: Features, depth: int, iterations: int, limit: gem.DepthLimit = "layers", stream: gem.Stream = "accumulate"
) -> Tensor:
    """Features of every token of GEM as they leave the projection, class token first, (W, N, D)."""
    visual = features.transformer()
    start = gem.first_block(len(visual.transformer.resblocks), depth, limit)
    parts = [
        dense.projected(visual, gem.gem_tokens(visual, inputs, start, iterations, stream))
        for inputs in features.block_inputs("antialias")
    ]
    return torch.cat(parts)


def _gem_tokens(features: Features, **settings: object) -> Tensor:
    """Unit features of every token of GEM, class token first, (W, N, D); settings as for ``gem_tokens``."""
    return F.normalize(features.get("gem_projected", **settings), dim=-1)


def _gem(features: Features, **settings: object) -> Tensor:
    """Unit patch features of GEM, (W, n, D); settings as for ``gem_tokens``."""
    return features.get("gem_tokens", **settings)[:, 1:]


def _image(features: Features, position: PositionRule = "scale") -> Tensor:
    """Unit features of each window by the network as trained, (W, D)."""
    if not features.clip.is_transformer:
        return resnet.resnet_image_features(features.get("dense", variant="MaskCLIP", family="attention_only"))
    visual = features.clip.visual
    return torch.cat([dense.pool_last_block(visual, inputs[-1]) for inputs in features.block_inputs(position)])


def _affinity_key(position: PositionRule, heads: dense.HeadRule) -> tuple[object, ...]:
    return ("affinity", position, heads)


def _affinity(features: Features, position: PositionRule = "scale", heads: dense.HeadRule = "mean") -> Tensor:
    """Mean attention between patches in blocks 0..L-2, (W, n, n); at hand where it was wanted from the start."""
    visual, inputs = features.transformer(), features.block_inputs(position)
    return features.once(
        _affinity_key(position, heads),
        lambda: torch.cat([dense.patch_affinity(visual, each, heads) for each in inputs]),
    )


def _companion_affinity(features: Features, which: str) -> Tensor:
    """Affinity between patches by another model on the same patch grid, (W, n, n)."""
    return features.companion(which).affinity(features.colours(), features.patch_grid())


FEATURES: dict[str, Callable[..., Tensor]] = {
    "tokens": _tokens,
    "dense": _dense,
    "gem_projected": _gem_projected,
    "gem_tokens": _gem_tokens,
    "gem": _gem,
    "image": _image,
    "affinity": _affinity,
    "companion_affinity": _companion_affinity,
}
