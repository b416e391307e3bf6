"""The dense CLIP that a method stands on: patch features of the variant that its settings name."""

from __future__ import annotations

from typing import Literal, Protocol

from torch import Tensor

from ovss.models.features import Features

Variant = Literal["vanilla", "MaskCLIP", "SCLIP", "ClearCLIP", "GEM"]
Family = Literal["freecp_block", "attention_only", "full_block"]


class Base(Protocol):
    """Settings that say which dense CLIP.

    variant: attention of the last block. family: what else of the last block stays (``full_block``: SCLIP's code,
    ``attention_only``: ClearCLIP's, ``freecp_block``: FreeCP's); GEM has its own stream and none of them.
    gem_depth: one more than the number of blocks with a self-self branch; gem_depth_limit ``layers`` lowers it to the
    number of blocks of a shallower model, ``none`` refuses. gem_iterations: self-self iterations. gem_stream:
    ``accumulate`` (GEM, FreeCP) or ``last_block`` (ClearCLIP's copy of GEM).
    """

    @property
    def variant(self) -> Variant: ...
    @property
    def family(self) -> Family: ...
    @property
    def gem_depth(self) -> int: ...
    @property
    def gem_depth_limit(self) -> Literal["layers", "none"]: ...
    @property
    def gem_iterations(self) -> int: ...
    @property
    def gem_stream(self) -> Literal["accumulate", "last_block"]: ...


def patch_features(features: Features, base: Base) -> Tensor:
    """Unit patch features, (windows, h*w, D)."""
    if base.variant == "GEM":
        return features.get("gem", depth=base.gem_depth, iterations=base.gem_iterations,
                            limit=base.gem_depth_limit, stream=base.gem_stream)  # fmt: skip
    return features.get("dense", variant=base.variant, family=base.family)


def describe(base: Base) -> tuple[object, ...]:
    """What decides the patch features, for keys."""
    if base.variant == "GEM":
        return ("GEM", base.gem_depth, base.gem_iterations, base.gem_depth_limit, base.gem_stream)
    return (base.variant, base.family)
