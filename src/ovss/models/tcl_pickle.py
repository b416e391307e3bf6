"""Reading a training checkpoint that holds objects beside its tensors, without running any of their code.

TCL's checkpoint carries its configuration as objects of a library. ``torch.load(weights_only=True)`` refuses them; here
every such name stands for an empty placeholder, and the entry with the weights is all that is kept.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ovss.errors import UserError

_ENTRY = "model"
_PARALLEL = "module."


class Placeholder:
    """Stands for an object that is not wanted: takes whatever the file gives it and keeps nothing."""

    def __new__(cls, *_: Any) -> Placeholder:
        """An empty object."""
        return super().__new__(cls)

    def __init__(self, *_: Any) -> None:
        """Nothing is kept."""

    def __setstate__(self, _: Any) -> None:
        """Nothing is kept."""


def read_weights(path: Path) -> dict[str, Tensor]:
    """Tensors of the entry ``model`` (or of the whole file, where it has none) of a PyTorch pickle.

    Raises:
        UserError: the file is missing, damaged, or holds no table of tensors.
    """
    if not path.is_file():
        raise UserError(f"{path}: this file is missing; fetch the weights again")
    try:
        content = _load(path)
    except (RuntimeError, pickle.UnpicklingError, OSError, AttributeError, EOFError, ValueError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path}: cannot be read as a PyTorch checkpoint ({reason:.200}); fetch it again") from error
    inner = content.get(_ENTRY, content) if isinstance(content, Mapping) else None
    if not isinstance(inner, Mapping) or not inner or not all(isinstance(value, Tensor) for value in inner.values()):
        raise UserError(f"{path}: there is no table of tensors in it, neither whole nor as '{_ENTRY}'; fetch it again")
    return {str(key).removeprefix(_PARALLEL): value for key, value in inner.items()}


def _load(path: Path) -> Any:
    # Names that torch blocks outright (os, sys, subprocess) stay refused.
    names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    with torch.serialization.safe_globals([(Placeholder, name) for name in names]):
        return torch.load(path, map_location="cpu", weights_only=True)
