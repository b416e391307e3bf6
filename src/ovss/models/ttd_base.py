"""The two models that TTD starts from, opened by name (Jo et al. 2024, section 3.1: any CLIP with pixel embeddings)."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, TypeAlias

from torch import Tensor

from ovss.errors import UserError
from ovss.models.clip import Clip, load_clip, without_text
from ovss.models.clip_pixels import maskclip_embeddings
from ovss.models.grounder import CONFIG_FILE, WEIGHTS_FILE
from ovss.models.maskclip_map import MaskClipModel
from ovss.models.tcl import TclModel, load_tcl

Base = Literal["maskclip", "tcl"]
BaseModel: TypeAlias = MaskClipModel | TclModel


def open_base(directory: Path, base: Base, device: str = "cpu", text: bool = False) -> BaseModel:
    """MaskCLIP or TCL of a model directory, evaluation mode, float32.

    A directory of TCL holds a whole CLIP too, so MaskCLIP can be opened from either kind.

    Args:
        directory: model directory.
        base: which of the two.
        device: torch device.
        text: whether the text tower is needed.

    Raises:
        UserError: TCL is asked for and the directory has no grounder, or a file is missing, damaged or does not fit.
    """
    if base == "maskclip":
        clip = load_clip(directory, device)
        return MaskClipModel(clip if text else without_text(clip)).eval()
    missing = [name for name in (CONFIG_FILE, WEIGHTS_FILE) if not (directory / name).is_file()]
    if missing:
        raise UserError(
            f"{directory}: base 'tcl' needs a grounder and there is no {missing[0]}; name a TCL as the row's model, "
            "or set base: maskclip"
        )
    return load_tcl(directory, device, text)


def base_on(clip: Clip, directory: Path, base: Base) -> BaseModel:
    """The same without text tower, where the directory's CLIP is already loaded: MaskCLIP is that CLIP.

    Raises:
        UserError: as ``open_base``.
    """
    return MaskClipModel(clip).eval() if base == "maskclip" else open_base(directory, base, str(clip.device))


def embed_tokens(model: BaseModel, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
    """Pixel embeddings of any length, as ``model.pixel_embeddings`` has them, from CLIP's tokens before its last block.

    Args:
        model: one of the bases.
        tokens: (B, 1 + h*w, d) float32, class token first (``ovss.models.clip_pixels.image_tokens``).
        grid: (h, w) of the patches.

    Returns:
        (B, D, f*h, f*w) float32, f = ``model.factor``.
    """
    if isinstance(model, TclModel):
        found: Tensor = model.grounder(tokens, grid)
        return found
    return maskclip_embeddings(model.tower.visual, tokens, grid)
