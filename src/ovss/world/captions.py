"""Captions for what a view shows: mostly one thing named, sometimes its surroundings, idle phrases and wrong nouns."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from importlib import resources

import numpy as np
from numpy.typing import NDArray

from ovss.config.world import CaptionStyle
from ovss.world.classes import CLASSES, STUFF, nouns

ADJECTIVES = ("small", "old", "beautiful", "lovely", "big", "strange", "pretty", "quiet", "famous", "lonely")
LINKS = ("and", "with", "near", "next to", "beside")
PLACES = ("on the", "in front of the", "by the", "over the", "against the")
ENDINGS = (
    "for sale", "on a sunny day", "stock photo", "in early autumn", "from my last holiday", "by an unknown artist",
    "on a cold morning", "in the year 2012", "for the weekly contest", "as seen on television", "with a nice story",
    "in high quality", "free for download", "after a long week", "made for children", "for the family album",
    "in the late afternoon", "found on the internet", "just before the storm", "to brighten your office",
)  # fmt: skip
WRONG = (
    "without a {}", "and no {} at all", "better than any {}", "by the {} club", "seen from the {} museum",
    "dreaming of a {}",
)  # fmt: skip


@dataclass(frozen=True)
class Caption:
    """A caption, the classes it names that the view shows, and the classes it names that the view does not show."""

    text: str
    named: tuple[int, ...]
    wrong: tuple[int, ...]


@lru_cache(maxsize=1)
def templates() -> tuple[str, ...]:
    """Prompt templates of the tiny scales, as in ``resources/templates_tiny.txt``."""
    text = resources.files("ovss").joinpath("resources/templates_tiny.txt").read_text(encoding="utf-8")
    return tuple(line for line in text.splitlines() if line)


class Dice:
    """Uniform numbers from a generator, drawn in one go (scalar draws are slow)."""

    def __init__(self, rng: np.random.Generator, count: int = 96) -> None:
        self._next = iter(rng.random(count).tolist()).__next__

    def chance(self, probability: float) -> bool:
        """True with this probability."""
        return self._next() < probability

    def choice(self, items: tuple[str, ...]) -> str:
        """One of ``items``, all equally likely."""
        return items[int(self._next() * len(items))]


def areas(label: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Share of a (h, w) label map that each of the 28 classes covers, float64 (28,)."""
    return np.bincount(label.ravel(), minlength=len(CLASSES))[: len(CLASSES)] / label.size


def _noun(dice: Dice, index: int, style: CaptionStyle) -> str:
    names = nouns(CLASSES[index])
    return dice.choice(names[1:]) if len(names) > 1 and dice.chance(style.synonym) else names[0]


def _select(dice: Dice, share: NDArray[np.float64], style: CaptionStyle) -> list[int]:
    """The classes to name, the main one first."""
    count = len(STUFF)
    order = np.argsort(-share, kind="stable")
    things = [int(i) for i in order if i >= count and share[i] >= style.thing_area]
    stuff = [int(i) for i in order if i < count and share[i] >= style.stuff_area]
    named = [i for k, i in enumerate(things) if dice.chance(style.others if k else style.main)]
    if named:
        return named + [i for i in stuff if dice.chance(style.stuff)]
    return [i for k, i in enumerate(stuff) if dice.chance(style.stuff if k else style.alone)]


def _phrase(dice: Dice, named: list[int], style: CaptionStyle) -> str:
    """``dog on the grass and a tree``: no leading article."""
    words = [dice.choice(ADJECTIVES)] if dice.chance(0.3) else []
    words.append(_noun(dice, named[0], style))
    for index in named[1:]:
        if index < len(STUFF):
            words += [dice.choice(PLACES), _noun(dice, index, style)]
        else:
            words += [dice.choice(LINKS), "a", _noun(dice, index, style)]
    return " ".join(words)


def write_caption(rng: np.random.Generator, share: NDArray[np.float64], style: CaptionStyle) -> Caption:
    """A caption for a view in which class i covers ``share[i]`` (see ``areas``)."""
    dice = Dice(rng)
    named = _select(dice, share, style)
    phrase = _phrase(dice, named, style) if named else dice.choice(ADJECTIVES) + " view"
    text = dice.choice(templates()).format(phrase).rstrip(".") if dice.chance(style.template) else phrase
    wrong: tuple[int, ...] = ()
    if dice.chance(style.wrong):
        absent = np.flatnonzero(share == 0)
        index = int(absent[int(dice._next() * len(absent))])
        text, wrong = f"{text} {dice.choice(WRONG).format(_noun(dice, index, style))}", (index,)
    if dice.chance(style.tails):
        text = f"{text} {dice.choice(ENDINGS)}"
    return Caption(text, tuple(named), wrong)
