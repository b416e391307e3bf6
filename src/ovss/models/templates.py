"""Prompt templates: what a class name is put into before it is encoded."""

from __future__ import annotations

from collections.abc import Sequence

from ovss.errors import UserError
from ovss.models.openclip import open_clip

# CLIP's subset of seven templates, and two of TCL's own.
TCL = (
    "itap of a {}.",
    "a bad photo of the {}.",
    "a origami {}.",
    "a photo of the large {}.",
    "a {} in a video game.",
    "art of the {}.",
    "a photo of the small {}.",
    "a photo of many {}.",
    "a photo of {}s.",
)
_OWN = {"photo": ("a photo of a {}.",), "none": ("{}",), "tcl": TCL}
NAMES = ("openai80", *_OWN)


def templates(name: str, lines: Sequence[str] | None = None) -> tuple[str, ...]:
    """Templates of that name, each with one ``{}`` for the class name.

    Args:
        name: ``openai80``: the 80 ImageNet templates of CLIP; ``photo``: "a photo of a {}."; ``none``: the name or
            sentence as it is; ``tcl``: those of TCL's evaluation; any other name needs ``lines``.
        lines: the templates themselves, where the name is none of the above.

    Raises:
        UserError: no templates of that name, or a line without exactly one ``{}``.
    """
    if lines is not None:
        wrong = [line for line in lines if line.count("{}") != 1]
        if wrong or not lines:
            raise UserError(f"templates {name}: '{wrong[0] if wrong else ''}' must have one {{}} for the class name")
        return tuple(lines)
    if name == "openai80":
        return tuple(template("{}") for template in open_clip.OPENAI_IMAGENET_TEMPLATES)
    if name not in _OWN:
        raise UserError(f"templates: '{name}' is not one of {', '.join(NAMES)}; mend the protocol")
    return _OWN[name]
