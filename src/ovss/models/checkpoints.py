"""Reading downloaded checkpoints. No arbitrary pickle is ever opened.

TorchScript archives go through ``torch.jit.load`` (no Python code runs), pickles through
``torch.load(weights_only=True)``, safetensors through their own reader.
"""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from ovss.errors import UserError
from ovss.models.clip import read_state

# Numbers that OpenAI's archives carry among the tensors; the configuration has them.
_NOT_WEIGHTS = frozenset({"input_resolution", "context_length", "vocab_size"})
# Entries under which training loops keep the weights, beside optimisers and counters.
_ENTRIES = ("state_dict", "teacher", "model")
# What data-parallel training puts before every name, and DINO's training before the names without the head.
_PREFIX, _BACKBONE = "module.", "backbone."


def read_torchscript(path: Path) -> dict[str, Tensor]:
    """Tensors of a TorchScript archive (OpenAI's .pt files)."""
    with warnings.catch_warnings():
        # torch asks for another format; OpenAI publishes its weights in this one only.
        warnings.filterwarnings("ignore", message=".*torch.jit.load.*", category=FutureWarning)
        return dict(torch.jit.load(str(path), map_location="cpu").state_dict())


def read_pickle(path: Path) -> dict[str, Tensor]:
    """Tensors of a PyTorch pickle that holds tensors and plain containers only.

    The entry ``state_dict``, ``teacher`` or ``model`` is opened; of a network with a ``backbone`` the head is left out.
    """
    content = torch.load(path, map_location="cpu", weights_only=True)
    state = next((content[key] for key in _ENTRIES if isinstance(content.get(key), Mapping)), content)
    state = {key.removeprefix(_PREFIX): value for key, value in state.items()}
    inner = {key.removeprefix(_BACKBONE): value for key, value in state.items() if key.startswith(_BACKBONE)}
    return inner or state


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
