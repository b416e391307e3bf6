"""Expressions that single out one thing of a view, in the manners of RefCOCO, RefCOCO+ and RefCOCOg."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ovss.world.classes import CLASSES, INDEX, STUFF, nouns
from ovss.world.scenes import View

SMALLEST = 0.02
"""Share of the view that a thing must cover to be spoken of."""
NAMES = ("refcoco", "refcoco+", "refcocog")


@dataclass(frozen=True)
class Target:
    """A thing of a view: its number, class, mask (H, W) bool, whether it is the only and the largest of its class."""

    number: int
    index: int
    mask: NDArray[np.bool_]
    alone: bool
    largest: bool


def targets(view: View) -> list[Target]:
    """The things of a view that are large enough, in the order of their numbers."""
    numbers, counts = np.unique(view.instance[view.instance > 0], return_counts=True)
    classes = {int(n): int(view.label[view.instance == n][0]) for n in numbers}
    area = dict(zip(classes, counts.tolist(), strict=True))
    found = []
    for number, index in classes.items():
        same = [area[other] for other, kind in classes.items() if kind == index]
        if area[number] >= SMALLEST * view.label.size:
            is_largest = area[number] == max(same) and same.count(max(same)) == 1
            found.append(Target(number, index, view.instance == number, len(same) == 1, is_largest))
    return found


def side_of(mask: NDArray[np.bool_]) -> str:
    """Where the middle of a mask lies: left, middle or right third of the view."""
    middle = float(np.nonzero(mask)[1].mean() + 0.5) / mask.shape[1]
    return "left" if middle < 1 / 3 else "right" if middle > 2 / 3 else "middle"


def ground_of(view: View, mask: NDArray[np.bool_]) -> str:
    """The stuff that covers most of a mask's bounding box (of the view, if the box has none)."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    box = view.label[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    stuff = box[box < len(STUFF)] if (box < len(STUFF)).any() else view.label[view.label < len(STUFF)]
    return CLASSES[int(np.bincount(stuff).argmax())] if stuff.size else ""


def expressions(name: str, view: View, target: Target, rng: np.random.Generator) -> list[str]:
    """Two expressions for a thing: with its place (refcoco), without (refcoco+), or as a phrase (refcocog).

    Every statement is true of the view; the noun may be a synonym. Like the originals' they need not be unique.
    """
    kinds = nouns(CLASSES[target.index])
    first, second = kinds[0], kinds[int(rng.integers(len(kinds)))]
    side, ground = side_of(target.mask), ground_of(view, target.mask)
    if name == "refcoco":
        return [f"{side} {first}", f"{second} {'in the middle' if side == 'middle' else f'on the {side}'}"]
    size = "" if target.alone else "big " if target.largest else "small "
    placed = f" on the {ground}" if ground else ""
    if name == "refcoco+":
        return [f"{size}{first}", f"{second}{placed}"]
    others = [CLASSES[t.index] for t in targets(view) if t.number != target.number]
    near = f" near a {others[int(rng.integers(len(others)))]}" if others else ""
    return [
        f"a {size}{first}{placed}{near}",
        f"a {second} that is {'in the middle' if side == 'middle' else f'on the {side}'}",
    ]


def is_person(target: Target) -> bool:
    """Persons are what RefCOCO's testA asks for, all else is testB's."""
    return target.index == INDEX["person"]
