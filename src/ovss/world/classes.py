"""The 28 classes of the procedural world: names, how often each is drawn, where it stands, how captions call it.

The index of a class is its position in ``CLASSES``: stuff first, then things.
"""

from __future__ import annotations

STUFF: tuple[str, ...] = ("sky", "grass", "sand", "water", "snow", "wall", "wood", "road")
THINGS: tuple[str, ...] = (
    "person",
    "dog",
    "cat",
    "sheep",
    "cow",
    "horse",
    "bird",
    "fish",
    "car",
    "bus",
    "boat",
    "bicycle",
    "tree",
    "bush",
    "house",
    "chair",
    "apple",
    "balloon",
    "mushroom",
    "flower",
)
CLASSES: tuple[str, ...] = STUFF + THINGS
INDEX: dict[str, int] = {name: i for i, name in enumerate(CLASSES)}

# Long-tailed like natural image collections: a person is drawn four times as often as a mushroom.
THING_WEIGHTS: dict[str, float] = {
    "person": 12, "dog": 8, "cat": 8, "car": 7, "tree": 7, "bird": 6, "horse": 5, "sheep": 5, "cow": 5, "house": 5,
    "boat": 5, "flower": 5, "bus": 4, "bicycle": 4, "chair": 4, "fish": 4, "bush": 4, "apple": 4, "balloon": 4,
    "mushroom": 3,
}  # fmt: skip

# The grounds a thing usually stands on (or hangs in). A setting decides how often this is respected.
HABITAT: dict[str, tuple[str, ...]] = {
    "person": ("grass", "sand", "snow", "wood", "road"),
    "dog": ("grass", "sand", "snow", "wood"),
    "cat": ("wood", "wall", "grass"),
    "sheep": ("grass", "snow"),
    "cow": ("grass", "sand"),
    "horse": ("grass", "sand", "snow"),
    "bird": ("sky", "water", "snow"),
    "fish": ("water",),
    "car": ("road", "snow", "sand"),
    "bus": ("road",),
    "boat": ("water",),
    "bicycle": ("road", "wall", "sand"),
    "tree": ("grass", "snow", "sand"),
    "bush": ("grass", "sand", "wall"),
    "house": ("grass", "snow", "road"),
    "chair": ("wood", "wall", "sand"),
    "apple": ("wood", "grass"),
    "balloon": ("sky", "wall"),
    "mushroom": ("grass", "wood"),
    "flower": ("grass", "wall", "sand"),
}

# Backgrounds from top to bottom, with weights. Most are ordinary, some single, a few upside down, so that the place
# of a stuff class in the image is no safe cue.
LAYOUTS: tuple[tuple[tuple[str, ...], float], ...] = (
    (("sky", "grass"), 3), (("sky", "sand"), 2), (("sky", "water"), 3), (("sky", "snow"), 2), (("sky", "road"), 2),
    (("wall", "wood"), 3), (("wall", "road"), 2), (("wall", "grass"), 1), (("wood", "sand"), 1), (("water", "sand"), 2),
    (("grass", "road"), 1), (("snow", "water"), 1), (("water", "grass"), 1), (("wood", "snow"), 1),
    (("sky", "water", "sand"), 2), (("sky", "grass", "road"), 2), (("sky", "snow", "road"), 1),
    (("wall", "grass", "road"), 1), (("sky", "wall", "wood"), 1),
    (("sky",), 0.7), (("grass",), 1.2), (("sand",), 1), (("water",), 1.2), (("snow",), 1), (("wall",), 1),
    (("wood",), 1), (("road",), 1), (("grass", "wall"), 0.5), (("sand", "sky"), 0.3), (("road", "snow"), 0.5),
    (("wood", "wall"), 0.5),
)  # fmt: skip
STREETS: tuple[tuple[tuple[str, ...], float], ...] = (
    (("sky", "road"), 2), (("sky", "wall", "road"), 4), (("sky", "grass", "road"), 3), (("wall", "road"), 2),
    (("sky", "snow", "road"), 1),
)  # fmt: skip
STREET_THINGS: dict[str, float] = {
    "car": 9, "person": 8, "bus": 5, "bicycle": 5, "tree": 6, "house": 6, "bush": 2, "dog": 1,
}  # fmt: skip

# Other nouns a caption may use for a class. The first is the class name itself.
SYNONYMS: dict[str, tuple[str, ...]] = {
    "person": ("person", "man", "woman"),
    "dog": ("dog", "puppy"),
    "cat": ("cat", "kitten"),
    "sheep": ("sheep", "lamb"),
    "cow": ("cow", "cattle"),
    "horse": ("horse", "pony"),
    "bird": ("bird", "sparrow"),
    "boat": ("boat", "ship"),
    "car": ("car", "taxi"),
    "bicycle": ("bicycle", "bike"),
    "bush": ("bush", "shrub"),
    "house": ("house", "cottage"),
    "flower": ("flower", "daisy"),
    "water": ("water", "sea"),
    "road": ("road", "street"),
    "grass": ("grass", "meadow"),
    "sand": ("sand", "beach"),
}


def nouns(name: str) -> tuple[str, ...]:
    """Every noun captions use for the class ``name``; the class name comes first."""
    return SYNONYMS.get(name, (name,))
