"""FreeCP the straightforward way, for comparison: one window, one class, one box, one crop at a time.

Only the network itself is ours (tower, last-block variants, GEM: compared with published arrays elsewhere); everything
behind it is plain loops, shares nothing with ``ovss.methods`` and knows FreeCP's released behaviour alone.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from ovss.models.clip import Clip
from ovss.models.features import Features
from ovss.models.text import Vocabulary

Box = tuple[int, int, int, int]  # x0, y0, x1, y1 in patches, half-open
BOX_THRESHOLD = 0.4
ROUNDS = 3
EPSILON = 1e-8
# Settings of other readings of the paper, which this file does not have.
RELEASED = {
    "family": "freecp_block",
    "affinity": "clip",
    "affinity_heads": "code",
    "activation": "softmax",
    "loser_scope": "window",
    "box_border": "cut",
    "affinity_form": "code",
    "consistency": "code",
    "box_threshold": BOX_THRESHOLD,
    "sinkhorn_rounds": ROUNDS,
    "epsilon": EPSILON,
    "gem_stream": "accumulate",
}


@dataclass
class Crop:
    """A box of an ambiguity group: box in window pixels; logits in the group's order, None for an empty box."""

    group: list[int]
    pixels: Box
    logits: list[float] | None = None
    winner: int | None = None


@dataclass
class Window:
    """Every stage of one window; classes are foreground classes counted from 0 within the window's vocabulary."""

    span: Box = (0, 0, 0, 0)
    classes: list[int] = field(default_factory=list)  # of the data set's foreground, where the vocabulary is restricted
    prob: Any = None
    minmax: Any = None
    affinity: Any = None
    transition: Any = None
    box_mask: Any = None
    refined: Any = None
    consistency: list[float] = field(default_factory=list)
    survivors: list[int] = field(default_factory=list)
    soft_iou: Any = None
    groups: list[list[int]] = field(default_factory=list)
    crops: list[Crop] = field(default_factory=list)
    final_classes: list[int] = field(default_factory=list)
    final_maps: Any = None
    upsampled: Any = None


@dataclass
class Trace:
    """labels (H, W), scores (classes, H, W) with the background score first where there is one, and all windows."""

    labels: np.ndarray
    scores: np.ndarray
    windows: list[Window]

    def margin(self) -> np.ndarray:
        """(H, W) distance of the best score from the second best."""
        if len(self.scores) < 2:
            return np.full(self.labels.shape, np.inf)
        best = np.sort(self.scores, axis=0)
        return best[-1] - best[-2]


@dataclass(frozen=True)
class Text:
    """Template and description features of background and foreground queries, the background ones first."""

    background: int
    queries: torch.Tensor
    descriptions: torch.Tensor

    def only(self, classes: list[int]) -> Text:
        """Restricted to the background queries and some foreground classes."""
        rows = list(range(self.background)) + [self.background + number for number in classes]
        return Text(self.background, self.queries[rows], self.descriptions[rows])


def segment_image(clip: Clip, image: torch.Tensor, original_size: tuple[int, int], vocabulary: Vocabulary,
                  settings: Any, crop: int, stride: int, **more: Any) -> np.ndarray:  # fmt: skip
    """Labels of an image, see ``trace_image``."""
    return trace_image(clip, image, original_size, vocabulary, settings, crop, stride, **more).labels


@torch.inference_mode()
def trace_image(clip: Clip, image: torch.Tensor, original_size: tuple[int, int], vocabulary: Vocabulary,
                settings: Any, crop: int, stride: int, label: np.ndarray | None = None,
                ambiguity_crop: int = 112) -> Trace:  # fmt: skip
    """Segment one image.

    image: (3, H, W) float32, normalised. original_size: (H, W) of the result. settings: attributes as in
    ``ovss.methods.freecp.Settings``. label: (H', W') class indices, for vocabularies restricted to what is there.
    """
    for name, value in RELEASED.items():
        if getattr(settings, name, value) != value:
            raise NotImplementedError(f"{name}={getattr(settings, name)} is not in this reference")
    text = text_of(vocabulary)
    number = len(text.queries) - text.background
    shift = 1 if vocabulary.background else 0
    scope = getattr(settings, "vocabulary", "all")
    everywhere = list(range(number)) if scope != "image" else present(label, shift, number)
    height, width = image.shape[1:]
    total, coverage, windows = torch.zeros(number, height, width), torch.zeros(height, width), []
    for y0, y1 in spans(height, crop, stride):
        for x0, x1 in spans(width, crop, stride):
            classes = everywhere
            if scope == "window":
                classes = present(nearest(label, height, width)[y0:y1, x0:x1], shift, number)
            window = Window(span=(x0, y0, x1, y1), classes=classes)
            windows.append(window)
            coverage[y0:y1, x0:x1] += 1
            if classes:
                segment_window(window, clip, image[:, y0:y1, x0:x1], text.only(classes), settings, ambiguity_crop)
                for position, channel in enumerate(classes):
                    total[channel, y0:y1, x0:x1] += window.upsampled[position]
    maps = torch.stack([resize(each / coverage, original_size) for each in total]).numpy()
    return decide(maps, vocabulary.background, windows)


def text_of(vocabulary: Vocabulary) -> Text:
    background = int((vocabulary.query_class == 0).sum()) if vocabulary.background else 0
    queries = vocabulary.features.cpu()
    descriptions = queries if vocabulary.descriptions is None else vocabulary.descriptions.cpu()
    return Text(background, queries, descriptions)


def present(label: np.ndarray | None, shift: int, number: int) -> list[int]:
    """Foreground classes in a label map."""
    if label is None:
        raise ValueError("a restricted vocabulary needs the label")
    found = {int(value) for value in np.unique(label)}
    return [channel for channel in range(number) if channel + shift in found]


def nearest(label: np.ndarray | None, height: int, width: int) -> np.ndarray:
    if label is None:
        raise ValueError("a restricted vocabulary needs the label")
    rows = [min(int(y * (label.shape[0] / height)), label.shape[0] - 1) for y in range(height)]
    columns = [min(int(x * (label.shape[1] / width)), label.shape[1] - 1) for x in range(width)]
    return label[rows][:, columns]


def spans(length: int, crop: int, stride: int) -> list[tuple[int, int]]:
    count = max(length - crop + stride - 1, 0) // stride + 1
    ends = [min(number * stride + crop, length) for number in range(count)]
    return [(max(end - crop, 0), end) for end in ends]


def resize(values: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    return F.interpolate(values[None, None], size, mode="bilinear", align_corners=False)[0, 0]


def decide(maps: np.ndarray, background: bool, windows: list[Window]) -> Trace:
    """Lowest class of the largest score; the background, as 1 - max, comes first where there is one."""
    scores = np.concatenate([1 - maps.max(axis=0, keepdims=True), maps]) if background else maps
    return Trace(scores.argmax(axis=0), scores, windows)


def segment_window(window: Window, clip: Clip, pixels: torch.Tensor, text: Text, settings: Any, side: int) -> None:
    """All steps on one (3, Hc, Wc) window; fills in the stages."""
    features = Features(clip, pixels[None].to(clip.device))
    h, w = pixels.shape[1] // clip.patch_size, pixels.shape[2] // clip.patch_size
    window.prob, window.minmax = activations(features, text, settings, clip.logit_scale, h, w)
    scaled, prob = window.minmax[text.background :], window.prob[text.background :]
    window.affinity = affinity(features, settings)
    window.transition = transition(window.affinity)
    window.box_mask = np.stack([box_mask(each) for each in scaled])
    window.refined = np.stack([refine(window.transition, each, mask)
                               for each, mask in zip(scaled, window.box_mask, strict=True)])  # fmt: skip
    window.consistency = [overlap(p, r) for p, r in zip(prob, window.refined, strict=True)]
    kept = list(range(len(scaled)))
    for step in [] if settings.purification == "none" else settings.purification.split("_"):
        if step == "rp":
            kept = [number for number in kept if window.consistency[number] > settings.rp]
            window.survivors = kept
        else:
            kept = resolve(window, kept, clip, pixels, text, settings, side)
    window.final_classes = kept
    window.final_maps = np.zeros_like(window.refined)
    for number in kept:
        window.final_maps[number] = window.refined[number]
    window.upsampled = [resize(torch.from_numpy(each), tuple(pixels.shape[1:])) for each in window.final_maps]


def activations(features: Features, text: Text, settings: Any, scale: float, h: int, w: int) -> tuple[Any, Any]:
    """Softmax over all queries, (Q, h, w), and the same with one minimum and one maximum taken to 0 and 1."""
    if settings.variant == "GEM":
        patches = features.get("gem", depth=settings.gem_depth, iterations=settings.gem_iterations,
                               limit=getattr(settings, "gem_depth_limit", "layers"))[0]  # fmt: skip
    else:
        patches = features.get("dense", variant=settings.variant, family="freecp_block")[0]
    logits = scale * patches.cpu() @ text.queries.T
    prob = torch.softmax(logits, dim=1).T.reshape(-1, h, w).numpy()
    spread = prob.max() - prob.min()
    return prob, (prob - prob.min()) / spread if spread > 0 else prob  # constant: one query alone


def affinity(features: Features, settings: Any) -> np.ndarray:
    gem = settings.variant == "GEM"
    return features.get("affinity", position=rule(settings), heads="first" if gem else "mean")[0].cpu().numpy()


def rule(settings: Any) -> str:
    return "antialias" if settings.variant == "GEM" else "scale"


def transition(affinity: np.ndarray) -> np.ndarray:
    values = affinity.astype(np.float64)  # what is near even leaves small differences to the rescaling that follows
    for _ in range(ROUNDS):
        values = values / values.sum(axis=0, keepdims=True)
        values = values / values.sum(axis=1, keepdims=True)
    values = (values + values.T) / 2
    return values @ values


def refine(matrix: np.ndarray, scaled: np.ndarray, mask: np.ndarray) -> np.ndarray:
    if not mask.any():
        return np.zeros_like(scaled)
    spread = (matrix @ (mask * scaled).ravel()).reshape(scaled.shape)
    return ((spread - spread.min()) / (spread.max() - spread.min() + EPSILON)).astype(np.float32)


def overlap(prob: np.ndarray, refined: np.ndarray) -> float:
    return float((prob * refined).sum() / (prob.sum() + refined.sum() + np.float32(EPSILON)))


def box_mask(scaled: np.ndarray) -> np.ndarray:
    mask = np.zeros(scaled.shape, dtype=np.float32)
    for x0, y0, x1, y1 in boxes(scaled):
        mask[y0:y1, x0:x1] = 1
    return mask


def boxes(scaled: np.ndarray) -> list[Box]:
    """Boxes of everything above 0.4 of the map's peak, in 8-bit steps; those of holes reach one patch further."""
    levels = np.floor(255 * scaled).astype(np.uint8)
    threshold = int(BOX_THRESHOLD * int(levels.max()))
    above = np.pad(levels > threshold, 1)
    found = []
    for cells in components(above, diagonal=True):
        found.append(bounds(cells, 0))
    for cells in components(~above, diagonal=False):
        if (0, 0) not in cells:
            found.append(bounds(cells, 1))
    h, w = scaled.shape
    clipped = [(x0, y0, min(x1, w - 1), min(y1, h - 1)) for x0, y0, x1, y1 in found]
    return clipped or [(0, 0, 0, 0)]


def bounds(cells: set[tuple[int, int]], grow: int) -> Box:
    """Half-open box of cells of the padded map, in cells of the map itself."""
    rows, columns = [y - 1 for y, _ in cells], [x - 1 for _, x in cells]
    return min(columns) - grow, min(rows) - grow, max(columns) + 1 + grow, max(rows) + 1 + grow


def components(mask: np.ndarray, diagonal: bool) -> list[set[tuple[int, int]]]:
    """Connected sets of true cells by flood fill."""
    steps = [(0, 1), (1, 0), (0, -1), (-1, 0)] + ([(1, 1), (1, -1), (-1, 1), (-1, -1)] if diagonal else [])
    waiting = {(int(y), int(x)) for y, x in np.argwhere(mask)}
    found = []
    while waiting:
        queue = [waiting.pop()]
        cells = set(queue)
        while queue:
            y, x = queue.pop()
            for down, right in steps:
                if (near := (y + down, x + right)) in waiting:
                    waiting.remove(near)
                    cells.add(near)
                    queue.append(near)
        found.append(cells)
    return found


def resolve(window: Window, kept: list[int], clip: Clip, pixels: torch.Tensor, text: Text, settings: Any,
            side: int) -> list[int]:  # fmt: skip
    """Ambiguity purification of some classes; returns those that stay."""
    if len(kept) < 2:
        return kept
    maps = [window.refined[number] for number in kept]
    window.soft_iou = np.array([[soft_iou(a, b) for b in maps] for a in maps], dtype=np.float32)
    window.groups = groups_of(kept, window.soft_iou >= settings.ap)
    stay: set[int] = set()
    for group in window.groups:
        stay |= set(group) if len(group) == 1 else winners(window, group, clip, pixels, text, settings, side)
    return sorted(stay)


def soft_iou(first: np.ndarray, second: np.ndarray) -> float:
    """Sum of minima over sum of maxima; two empty maps have nothing in common."""
    union = np.maximum(first, second).sum()
    return float(np.minimum(first, second).sum() / union) if union > 0 else 0.0


def groups_of(classes: list[int], edges: np.ndarray) -> list[list[int]]:
    """Connected components of classes, each ascending."""
    left, found = list(range(len(classes))), []
    while left:
        group = [left.pop(0)]
        for member in group:
            for other in [number for number in left if edges[member, number]]:
                left.remove(other)
                group.append(other)
        found.append(sorted(classes[number] for number in group))
    return found


def winners(window: Window, group: list[int], clip: Clip, pixels: torch.Tensor, text: Text, settings: Any,
            side: int) -> set[int]:  # fmt: skip
    """Classes of a group that win at least one box of the group's mean map."""
    stay: set[int] = set()
    for x0, y0, x1, y1 in boxes(np.mean([window.refined[number] for number in group], axis=0, dtype=np.float32)):
        patch = clip.patch_size
        crop = Crop(group, (x0 * patch, y0 * patch, x1 * patch, y1 * patch))
        window.crops.append(crop)
        if x0 == x1 or y0 == y1:
            stay |= set(group)
            continue
        part = pixels[None, :, y0 * patch : y1 * patch, x0 * patch : x1 * patch]
        small = F.interpolate(part, (side, side), mode="bilinear", align_corners=False).to(clip.device)
        feature = Features(clip, small).get("image", position=rule(settings))[0].cpu()
        rows = [text.background + number for number in group]
        crop.logits = (clip.logit_scale * text.descriptions[rows] @ feature).tolist()
        crop.winner = group[int(np.argmax(crop.logits))]
        stay.add(crop.winner)
    return stay
