"""sentence_transformers, imported when an encoder is loaded, and without what it drags in and we never use.

``import sentence_transformers`` costs 27 CPU seconds, 15 of them for scikit-learn (scores of trained models; it brings
pandas and scipy.stats), peft and timm (parts of other models). transformers treats the last two as optional. All three
can be imported normally afterwards; transformers itself goes on without peft and timm in this process.
"""

from __future__ import annotations

import importlib
import sys
import types
from importlib.machinery import ModuleSpec
from typing import Any

from ovss.models.left_out import left_out

NAME = "sentence_transformers"
_OPTIONAL = ("peft", "timm")
_SCORES = "sklearn"


def _left_out(*_: object, **__: object) -> None:
    raise RuntimeError(f"{_SCORES} was left out when {NAME} was imported; import {NAME} yourself first")


def _function(name: str) -> Any:
    if name.startswith("__"):
        raise AttributeError(name)
    return _left_out


def _stand_ins() -> dict[str, types.ModuleType | None]:
    """Entries for sys.modules: None makes an import fail as if the package were not installed."""
    found: dict[str, types.ModuleType | None] = {}
    for name in (_SCORES, f"{_SCORES}.metrics"):
        module = types.ModuleType(name)
        module.__path__, module.__spec__ = [], ModuleSpec(name, None)
        module.__getattr__ = _function  # type: ignore[method-assign]
        found[name] = module
    # A transformers that is already there has looked for them and may count on them.
    return found if "transformers" in sys.modules else {**found, **dict.fromkeys(_OPTIONAL)}


def import_sentence_transformers() -> Any:
    """The package, its progress bars off."""
    if NAME not in sys.modules:
        with left_out({} if _SCORES in sys.modules else _stand_ins()):
            importlib.import_module(NAME)
    importlib.import_module("transformers").utils.logging.disable_progress_bar()
    return sys.modules[NAME]
