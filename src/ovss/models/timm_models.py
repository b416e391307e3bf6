"""Models of timm in model directories: ``timm_config.json`` and ``model.safetensors``.

The configuration holds ``architecture`` (keyword arguments), ``mean`` and ``std``, and ``model`` (timm's name of the
architecture) unless it is a plain VisionTransformer described by the arguments alone.
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from ovss.errors import UserError
from ovss.models.clip import WEIGHTS_FILE, read_state
from ovss.models.resized import Norm

CONFIG_FILE = "timm_config.json"


def _unmarked(function: Any = None, *_: object, **__: object) -> Any:
    return _unmarked if function is None else function


def import_timm() -> Any:
    """timm's ``models``, imported when a model is loaded, never before, and without torch's compiler.

    One architecture, never built here, is marked with ``torch.compiler.disable``. Applying that mark imports the
    compiler, 9 of the 11 CPU seconds of this import.
    """
    original = torch.compiler.disable
    setattr(torch.compiler, "disable", _unmarked)  # noqa: B010 (its type is that of the original)
    try:
        return importlib.import_module("timm.models")
    finally:
        setattr(torch.compiler, "disable", original)  # noqa: B010


def load_timm(directory: Path, device: str) -> tuple[Any, Norm]:
    """A model in evaluation mode, float32, and its normalisation.

    Raises:
        UserError: a file is missing or damaged, or weights and configuration do not fit.
    """
    path = directory / CONFIG_FILE
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        norm, name, arguments = Norm.of(config), config.get("model"), dict(config["architecture"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise UserError(f"{path}: not a readable timm configuration ({reason}); make it again") from error
    model = _build(name, arguments, str(path))
    _fill(model, read_state(directory / WEIGHTS_FILE), str(directory))
    return model.float().eval().requires_grad_(False).to(device), norm


def write_timm(
    out: Path, name: str, norm: Norm, checkpoint: Mapping[str, Tensor], arguments: Mapping[str, Any] | None = None
) -> int:
    """Make a model directory of an official checkpoint, return the number of parameters.

    Args:
        out: folder to fill.
        name: timm's name of the model (weights.yaml: ``load.timm``).
        norm: its normalisation.
        checkpoint: tensors under the names of the official code; timm knows how to translate them.
        arguments: of the architecture, where they are not those that belong to the name.

    Raises:
        UserError: timm does not know the model, or the checkpoint is not of this model.
    """
    models = import_timm()
    arguments = {"num_classes": 0, **(arguments or {})}
    if models.is_model_in_modules(name.split(".")[0], ["vision_transformer"]):
        arguments["dynamic_img_size"] = True
    model = _build(name, arguments, f"load.timm {name}")
    translate = sys.modules[models.model_entrypoint(name.split(".")[0]).__module__].checkpoint_filter_fn
    _fill(model, translate(dict(checkpoint), model), name)
    text = json.dumps({"model": name, "architecture": arguments, **norm.record()}, sort_keys=True, indent=1)
    (out / CONFIG_FILE).write_text(text + "\n", encoding="utf-8")
    save_file({key: value.contiguous() for key, value in model.state_dict().items()}, out / WEIGHTS_FILE)
    return sum(parameter.numel() for parameter in model.parameters())


def _build(name: str | None, arguments: Mapping[str, Any], where: str) -> Any:
    models = import_timm()
    try:
        if name is None:
            return models.VisionTransformer(**arguments)
        return models.create_model(name, pretrained=False, **arguments)
    except (TypeError, RuntimeError, ValueError, AssertionError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{where}: timm cannot build this architecture ({reason:.200}); mend it") from error


def _fill(model: Any, state: Mapping[str, Tensor], where: str) -> None:
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{where}: weights and configuration do not fit: {reason:.300}") from error
