"""Models of transformers in model directories: ``config.json``, ``model.safetensors`` and our ``preprocess.json``.

transformers is imported when a model is loaded, never before: it costs seconds.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from ovss.errors import UserError
from ovss.models.clip import WEIGHTS_FILE
from ovss.models.resized import Norm

CONFIG_FILE = "config.json"
PREPROCESS_FILE = "preprocess.json"
CLASSES: Mapping[str, str] = {"maskformer": "MaskFormerForInstanceSegmentation", "sam_hq": "SamHQModel"}
"""The class of transformers for each ``model_type`` of a configuration."""


def model_type(directory: Path) -> str:
    """What kind of model a directory holds.

    Raises:
        UserError: the configuration is missing or damaged, or of a kind that we do not load.
    """
    path = directory / CONFIG_FILE
    try:
        kind = str(json.loads(path.read_text(encoding="utf-8"))["model_type"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise UserError(f"{path}: not a readable transformers configuration ({reason}); make it again") from error
    if kind not in CLASSES:
        raise UserError(f"{path}: model_type '{kind}' is not one of {', '.join(CLASSES)}; use one of those")
    return kind


def load_transformers(directory: Path, device: str = "cpu") -> Any:
    """A model in evaluation mode, float32, from local files alone.

    Raises:
        UserError: a file is missing or damaged, or the weights do not have every tensor of the configuration.
    """
    kind = model_type(directory)
    if not (directory / WEIGHTS_FILE).is_file():
        raise UserError(f"{directory / WEIGHTS_FILE}: this file is missing; make the model directory again")
    import transformers

    transformers.utils.logging.disable_progress_bar()
    try:
        model, facts = getattr(transformers, CLASSES[kind]).from_pretrained(
            directory, local_files_only=True, use_safetensors=True, output_loading_info=True, dtype=torch.float32
        )
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{directory}: weights and configuration do not fit: {reason:.300}") from error
    lacking = sorted(map(str, [*facts["missing_keys"], *facts["mismatched_keys"]]))
    if lacking:
        raise UserError(f"{directory / WEIGHTS_FILE}: lacks {len(lacking)} tensors, {lacking[0]} first; fetch it again")
    return model.eval().requires_grad_(False).to(device)


def read_preprocess(directory: Path) -> tuple[Norm, int]:
    """Normalisation and input side (pixels) of a model directory.

    Raises:
        UserError: the file is missing or damaged.
    """
    path = directory / PREPROCESS_FILE
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        return Norm.of(record), int(record["input"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise UserError(f"{path}: not a readable record of mean, std and input ({reason}); make it again") from error


def write_transformers(out: Path, source: Path, norm: Norm, side: int) -> int:
    """Copy a downloaded model, check it by loading, return the number of parameters.

    Args:
        out: folder to fill.
        source: folder with ``config.json`` and ``model.safetensors``.
        norm: normalisation.
        side: input side in pixels.

    Raises:
        UserError: a file is missing or damaged, or they do not fit.
    """
    model = load_transformers(source)
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        shutil.copyfile(source / name, out / name)
    text = json.dumps({**norm.record(), "input": side}, sort_keys=True, indent=1)
    (out / PREPROCESS_FILE).write_text(text + "\n", encoding="utf-8")
    return sum(parameter.numel() for parameter in model.parameters())
