"""Stage ``weights``: a downloaded CLIP checkpoint becomes a model directory (open_clip's hub layout).

No arbitrary pickle is ever opened: TorchScript archives go through ``torch.jit.load`` (no Python code runs), pickles
through ``torch.load(weights_only=True)``, safetensors through their own reader.
"""

from __future__ import annotations

import json
import pickle
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from ovss.errors import UserError
from ovss.jobs import JobContext
from ovss.models.clip import CONFIG_FILE, WEIGHTS_FILE, check_tower, instantiate, read_state
from ovss.models.openclip import open_clip

# Numbers that OpenAI's archives carry among the tensors; the configuration has them.
_NOT_WEIGHTS = frozenset({"input_resolution", "context_length", "vocab_size"})
# What open_clip's own training loop puts before every name.
_PREFIX = "module."


def read_torchscript(path: Path) -> dict[str, Tensor]:
    """Tensors of a TorchScript archive (OpenAI's .pt files)."""
    with warnings.catch_warnings():
        # torch asks for another format; OpenAI publishes its weights in this one only.
        warnings.filterwarnings("ignore", message=".*torch.jit.load.*", category=FutureWarning)
        return dict(torch.jit.load(str(path), map_location="cpu").state_dict())


def read_pickle(path: Path) -> dict[str, Tensor]:
    """Tensors of a PyTorch pickle that holds tensors and plain containers only; a ``state_dict`` entry is opened."""
    content = torch.load(path, map_location="cpu", weights_only=True)
    state = content.get("state_dict", content)
    return {key.removeprefix(_PREFIX): value for key, value in state.items()}


READERS: Mapping[str, Callable[[Path], dict[str, Tensor]]] = {
    "torchscript": read_torchscript,
    "pickle": read_pickle,
    "safetensors": read_state,
}


def read_checkpoint(path: Path, kind: str) -> dict[str, Tensor]:
    """Tensors of a checkpoint, without OpenAI's numbers that are no weights.

    Raises:
        UserError: unknown format, or the file is missing, damaged or of another format.
    """
    if kind not in READERS:
        raise UserError(f"format: '{kind}' is not one of {', '.join(READERS)}; mend weights.yaml")
    if not path.is_file():
        raise UserError(f"{path}: this file is missing; fetch the weights again")
    try:
        state = READERS[kind](path)
    except (RuntimeError, pickle.UnpicklingError, OSError, AttributeError, EOFError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path}: cannot be read as {kind} ({reason:.200}); fetch it again") from error
    return {key: value for key, value in state.items() if key not in _NOT_WEIGHTS}


def model_config(architecture: str) -> dict[str, Any]:
    """open_clip's configuration of an architecture.

    Raises:
        UserError: open_clip does not know it.
    """
    config = open_clip.get_model_config(architecture)
    if config is None:
        raise UserError(f"load.open_clip: open_clip has no architecture '{architecture}'; mend weights.yaml")
    return dict(config)


def write_model(
    out: Path, config: Mapping[str, Any], norm: Mapping[str, Any], state: Mapping[str, Tensor], name: str
) -> int:
    """Check that weights and configuration fit, write the model directory, return the number of parameters.

    Raises:
        UserError: they do not fit.
    """
    model = instantiate(config, state, name)
    check_tower(model.visual, name)
    preprocess = {"mean": list(norm["mean"]), "std": list(norm["std"]),
                  "interpolation": norm.get("interpolation") or "bicubic"}  # fmt: skip
    record = {"model_cfg": dict(config), "preprocess_cfg": preprocess}
    (out / CONFIG_FILE).write_text(json.dumps(record, sort_keys=True, indent=1) + "\n", encoding="utf-8")
    save_file({key: value.contiguous().clone() for key, value in state.items()}, out / WEIGHTS_FILE)
    return sum(parameter.numel() for parameter in model.parameters())


def run(ctx: JobContext) -> dict[str, object]:
    """Convert one checkpoint.

    Parameters: ``weights`` (name), ``files`` (one file name), ``format`` (torchscript, pickle, safetensors), ``load``
    with ``open_clip`` [architecture, tag], ``norm`` {mean, std, interpolation}. Input ``file``: the fetched folder.
    Stored tensors keep their type (OpenAI's are float16); loading casts to float32.

    Returns:
        Facts: architecture and number of parameters.

    Raises:
        UserError: no open_clip architecture or normalisation is stated, or the file does not fit it.
    """
    name, params = str(ctx.params["weights"]), ctx.params
    if not params["load"].get("open_clip") or not params.get("norm"):
        raise UserError(f"weights {name}: conversion needs load.open_clip and norm; add them to weights.yaml")
    architecture = params["load"]["open_clip"][0]
    state = read_checkpoint(ctx.inputs["file"] / params["files"][0], params["format"])
    count = write_model(ctx.out, model_config(architecture), params["norm"], state, name)
    return {"architecture": architecture, "parameters": count}
