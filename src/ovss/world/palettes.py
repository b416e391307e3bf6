"""Colours: for every class a few schemes, which overlap between classes so that colour alone names nothing.

A scheme is three materials (sprites: body, second part, third part; stuff: the first only), each a pair of colours
between which the surface pattern runs.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ovss.world.classes import CLASSES
from ovss.world.shapes import Brush

BLACK, CHARCOAL, GREY, SILVER, WHITE = (24, 22, 26), (62, 62, 68), (122, 122, 128), (184, 186, 190), (240, 240, 238)
RED, BRICK, ORANGE, YELLOW, CREAM = (196, 44, 40), (156, 76, 58), (226, 138, 50), (236, 204, 74), (236, 222, 186)
BROWN, TAN, BEIGE, OLIVE, GREEN = (102, 64, 38), (168, 122, 78), (206, 178, 134), (110, 116, 52), (66, 138, 56)
DARKGREEN, LIME, TEAL, BLUE, NAVY = (34, 82, 42), (150, 190, 82), (54, 142, 142), (58, 104, 186), (30, 46, 96)
LIGHTBLUE, PURPLE, PINK = (152, 196, 232), (124, 72, 154), (232, 150, 176)
SKIN, DARKSKIN = (228, 178, 146), (124, 80, 56)

Colour = tuple[int, int, int]
Pair = tuple[Colour, Colour]

STUFF_SCHEMES: dict[str, tuple[Pair, ...]] = {
    "sky": ((BLUE, LIGHTBLUE), (LIGHTBLUE, WHITE), (GREY, SILVER), (ORANGE, CREAM), (PURPLE, PINK)),
    "grass": ((DARKGREEN, LIME), (DARKGREEN, GREEN), (OLIVE, BEIGE), (OLIVE, YELLOW), (DARKGREEN, TEAL)),
    "sand": ((TAN, CREAM), (BEIGE, CREAM), (BRICK, TAN), (GREY, BEIGE), (TAN, YELLOW)),
    "water": ((NAVY, LIGHTBLUE), (BLUE, WHITE), (TEAL, LIGHTBLUE), (DARKGREEN, TEAL), (CHARCOAL, SILVER)),
    "snow": ((LIGHTBLUE, WHITE), (SILVER, WHITE), (SILVER, CREAM), (PINK, WHITE)),
    "wall": ((BRICK, SILVER), (GREY, WHITE), (BEIGE, WHITE), (BLUE, SILVER), (CHARCOAL, GREY), (OLIVE, CREAM)),
    "wood": ((BROWN, TAN), (TAN, CREAM), (BRICK, ORANGE), (CHARCOAL, SILVER), (OLIVE, BEIGE)),
    "road": ((CHARCOAL, SILVER), (GREY, WHITE), (NAVY, SILVER), (BROWN, BEIGE), (BLACK, YELLOW)),
}
BODY_SCHEMES: dict[str, tuple[Pair, ...]] = {
    "person": ((RED, WHITE), (BLUE, WHITE), (NAVY, YELLOW), (GREEN, CREAM), (PURPLE, PINK), (BLACK, ORANGE)),
    "dog": ((BROWN, CREAM), (BLACK, TAN), (WHITE, BLACK), (TAN, WHITE)),
    "cat": ((ORANGE, CREAM), (GREY, BLACK), (TAN, BROWN), (WHITE, GREY)),
    "sheep": ((SILVER, WHITE), (BEIGE, CREAM), (GREY, SILVER), (BROWN, TAN)),
    "cow": ((WHITE, BLACK), (CREAM, BROWN), (WHITE, BRICK), (GREY, BLACK)),
    "horse": ((BROWN, BRICK), (BLACK, CHARCOAL), (TAN, BEIGE), (SILVER, WHITE)),
    "bird": ((BLUE, LIGHTBLUE), (BROWN, TAN), (BLACK, GREY), (RED, ORANGE), (YELLOW, WHITE)),
    "fish": ((ORANGE, YELLOW), (TEAL, LIGHTBLUE), (SILVER, GREY), (RED, PINK), (NAVY, BLUE)),
    "car": ((RED, PINK), (BLUE, LIGHTBLUE), (SILVER, WHITE), (YELLOW, CREAM), (DARKGREEN, GREEN), (BLACK, GREY)),
    "bus": ((YELLOW, ORANGE), (RED, BRICK), (BLUE, NAVY), (GREEN, LIME), (WHITE, SILVER)),
    "boat": ((BROWN, TAN), (WHITE, RED), (NAVY, WHITE), (RED, CREAM), (TEAL, WHITE)),
    "bicycle": ((RED, ORANGE), (BLUE, TEAL), (BLACK, CHARCOAL), (GREEN, LIME), (PURPLE, PINK)),
    "tree": ((DARKGREEN, GREEN), (OLIVE, LIME), (BRICK, ORANGE), (PINK, WHITE), (BROWN, YELLOW)),
    "bush": ((DARKGREEN, LIME), (GREEN, YELLOW), (OLIVE, RED), (TEAL, GREEN), (BROWN, ORANGE)),
    "house": ((CREAM, WHITE), (BRICK, RED), (LIGHTBLUE, WHITE), (YELLOW, CREAM), (GREY, SILVER)),
    "chair": ((BROWN, TAN), (RED, ORANGE), (BLACK, CHARCOAL), (WHITE, SILVER), (TEAL, GREEN)),
    "apple": ((RED, YELLOW), (GREEN, LIME), (BRICK, PINK), (YELLOW, CREAM)),
    "balloon": ((RED, WHITE), (BLUE, YELLOW), (PURPLE, LIGHTBLUE), (ORANGE, CREAM), (PINK, WHITE), (GREEN, YELLOW)),
    "mushroom": ((RED, WHITE), (BROWN, CREAM), (ORANGE, YELLOW), (PURPLE, WHITE)),
    "flower": ((PINK, WHITE), (YELLOW, ORANGE), (RED, PINK), (PURPLE, LIGHTBLUE), (WHITE, CREAM)),
}
# second and third material of each thing
PART_SCHEMES: dict[str, tuple[Pair, Pair]] = {
    "person": ((SKIN, DARKSKIN), (NAVY, CHARCOAL)),
    "dog": ((BROWN, BLACK), (BLACK, CHARCOAL)),
    "cat": ((PINK, WHITE), (BLACK, GREEN)),
    "sheep": ((BLACK, CHARCOAL), (CHARCOAL, GREY)),
    "cow": ((PINK, BEIGE), (BLACK, GREY)),
    "horse": ((BLACK, BROWN), (CHARCOAL, BLACK)),
    "bird": ((ORANGE, YELLOW), (BLACK, CHARCOAL)),
    "fish": ((ORANGE, RED), (BLACK, WHITE)),
    "car": ((LIGHTBLUE, WHITE), (BLACK, GREY)),
    "bus": ((LIGHTBLUE, SILVER), (BLACK, GREY)),
    "boat": ((WHITE, CREAM), (BROWN, CHARCOAL)),
    "bicycle": ((BLACK, CHARCOAL), (BROWN, TAN)),
    "tree": ((BROWN, TAN), (RED, ORANGE)),
    "bush": ((RED, PINK), (BROWN, TAN)),
    "house": ((BRICK, RED), (NAVY, LIGHTBLUE)),
    "chair": ((BEIGE, CREAM), (BLACK, GREY)),
    "apple": ((GREEN, LIME), (BROWN, BLACK)),
    "balloon": ((WHITE, SILVER), (GREY, SILVER)),
    "mushroom": ((CREAM, WHITE), (BEIGE, TAN)),
    "flower": ((YELLOW, BROWN), (DARKGREEN, GREEN)),
}

_VALUES = np.arange(256)
_MATERIAL = np.digitize(_VALUES, Brush.STARTS[1:])
_PLACE = (
    ((_VALUES - np.array(Brush.STARTS)[_MATERIAL]) / np.array(Brush.SPANS)[_MATERIAL]).clip(0, 1).astype(np.float32)
)[:, None]


def _scheme(name: str, body: Pair) -> list[Pair]:
    first, second = PART_SCHEMES.get(name, (body, body))
    return [body, first, second]


SCHEMES: tuple[NDArray[np.float32], ...] = tuple(
    np.array([_scheme(name, body) for body in (STUFF_SCHEMES | BODY_SCHEMES)[name]], np.float32) for name in CLASSES
)
"""Per class, float32 (schemes, 3 materials, 2 colours, RGB 0..255)."""


def colour_table(pairs: NDArray[np.float32], light: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Colours of the 256 pattern values, uint8 (256, 3), of ``pairs`` (3, 2, 3) under a ``light`` (3,) of RGB gains."""
    low, high = pairs[_MATERIAL, 0], pairs[_MATERIAL, 1]
    return ((low + (high - low) * _PLACE) * light).clip(0, 255).astype(np.uint8)
