"""Models beside CLIP, told apart by their files: those that give an affinity between patches (FreeCP, Tables 5 and 6),
and HQ-SAM, which refines masks (TTD, Table 12)."""

from __future__ import annotations

from pathlib import Path

from ovss.errors import UserError
from ovss.models import timm_models, transformers_models
from ovss.models.dino import make_dino
from ovss.models.features import Companion
from ovss.models.hq_sam import HqSam, load_hq_sam
from ovss.models.maskformer import MaskFormer
from ovss.models.sam import Sam


def load_companion(directory: Path, device: str = "cpu") -> Companion | HqSam:
    """Load the model of a directory: DINO or SAM (``timm_config.json``), MaskFormer or HQ-SAM (``config.json``).

    Raises:
        UserError: no known model is there, a file is missing or damaged, or weights and configuration do not fit.
    """
    if (directory / timm_models.CONFIG_FILE).is_file():
        return _of_timm(directory, device)
    if (directory / transformers_models.CONFIG_FILE).is_file():
        if transformers_models.model_type(directory) == "sam_hq":
            return load_hq_sam(directory, device)
        norm, side = transformers_models.read_preprocess(directory)
        return MaskFormer(transformers_models.load_transformers(directory, device), norm, side)
    names = f"{timm_models.CONFIG_FILE} or {transformers_models.CONFIG_FILE}"
    raise UserError(f"{directory}: there is no {names} in it, so no model that can stand beside CLIP; make it again")


def _of_timm(directory: Path, device: str) -> Companion:
    model, norm = timm_models.load_timm(directory, device)
    kind = type(model).__name__
    if kind == "VisionTransformerSAM":
        return Sam(model, norm)
    if kind == "VisionTransformer":
        return make_dino(model, norm, directory)
    raise UserError(f"{directory}: an affinity is known for VisionTransformer and VisionTransformerSAM, not for {kind}")
