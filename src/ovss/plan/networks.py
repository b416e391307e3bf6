"""Which network a job's model is, and what a window of an image costs on it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ovss.plan.assumed import DEFAULTS, TYPICAL
from ovss.plan.flops import IMAGE_NETWORKS, TEXT_NETWORKS, Counted, Text, Vit, Windows, windows
from ovss.plan.job import Job


class Unknown(Exception):
    """A network or a number of images that nothing says."""


def joint_of(model: Job) -> int:
    """Dimensions of a CLIP's vectors.

    Raises:
        Unknown: it is no CLIP whose sizes are known.
    """
    return language_of(model).joint


def vision_of(model: Job) -> Vit | Counted:
    """The image network of a model, its base's where it was tuned.

    Raises:
        Unknown: none whose sizes are known.
    """
    for name in _names(model):
        if name in IMAGE_NETWORKS:
            return IMAGE_NETWORKS[name]
    raise Unknown(model.name)


def language_of(model: Job) -> Text:
    """The text tower of a model, likewise."""
    for name in _names(model):
        if name in TEXT_NETWORKS:
            return TEXT_NETWORKS[name]
    raise Unknown(model.name)


def _names(model: Job) -> list[str]:
    """Names under which libraries know a model, its base's where it was tuned."""
    while model.stage == "train_ttd":
        model = model.inputs["model"]
    load = model.params.get("load", {})
    known = [load["open_clip"][0]] if load.get("open_clip") else []
    return [*known, load.get("timm", "").partition(".")[0], load.get("transformers", ""), load.get("sam_hq", "")]


def windows_of(protocol: Mapping[str, Any], size: tuple[int, int], scale: float) -> Windows:
    """Windows of an image of ``size`` (H, W) under a row's protocol at one of its scales."""
    short, long = (max(1, int(protocol[name] * scale + 0.5)) for name in ("short_side", "max_long_side"))
    return windows(size, short, long, protocol.get("resize") == "square", protocol["crop"], protocol["stride"])


def beside(model: Job, view: Windows) -> tuple[int, int]:
    """Size at which a companion looks at a window: MaskFormer at its own shorter side, the others as it is."""
    side = model.params.get("input") or 0
    if not side or "maskformer" not in str(model.params.get("load", {}).get("transformers")):
        return view.height, view.width
    factor = side / min(view.height, view.width)
    return round(view.height * factor), round(view.width * factor)


def of_window(
    stage: str, settings: Mapping[str, Any], protocol: Mapping[str, Any], vision: Vit | Counted, view: Windows
) -> dict[tuple[Any, ...], float]:
    """Operations of one window by what a row asks of its CLIP (stage clusters: its DINO)."""
    size = (view.height, view.width)
    if isinstance(vision, Counted):
        return {("image",): vision.image(*size)}
    variant = settings.get("variant") or settings.get("dense") or ("GEM" if stage == "segments" else "")
    native = vision.grid(*size) == vision.grid(vision.native, vision.native)
    position = "antialias" if variant == "GEM" and not native else "scale"
    found: dict[tuple[Any, ...], float] = {("image", position): vision.image(*size)}
    if variant == "GEM":
        depth, iterations = ({**DEFAULTS, **settings}[name] for name in ("gem_depth", "gem_iterations"))
        branches = depth - 1
        found["gem", branches, iterations] = vision.gem(*size, branches, iterations)
    elif variant not in ("", "vanilla"):
        found["last block", variant, settings.get("family", "")] = vision.blocks.block(vision.tokens(*size))
    if settings.get("base") == "tcl":
        found["grounder",] = vision.grounder(*size)
    if "rp" in settings and settings.get("affinity", "clip") == "clip":
        found["affinity", position, variant == "GEM"] = vision.attention_maps(*size)
    if crop := protocol.get("ambiguity_crop"):
        decided = tuple(sorted((name, str(value)) for name, value in settings.items()))
        found["crops", decided] = TYPICAL.crops * vision.image(crop, crop)
    return found
