"""open_clip, imported without what it drags in and we never use.

``import open_clip`` costs 16 CPU seconds, 13 of them for Hugging Face text towers (transformers), timm towers and,
through one torchvision operator, torch's compiler. open_clip treats the first two as optional; the operator asks the
compiler a single yes-or-no question. Every job is a process of its own, so this is paid dozens of times a run. All
three can still be imported normally afterwards.
"""

from __future__ import annotations

import importlib
import sys
import types
from typing import Any

from ovss.models.left_out import left_out

_OPTIONAL = ("transformers", "timm")
_COMPILER = "torch._dynamo"


def _stand_ins() -> dict[str, types.ModuleType | None]:
    """Entries for sys.modules: None makes an import fail as if the package were not installed."""
    utils = types.ModuleType(f"{_COMPILER}.utils")
    utils.is_compile_supported = lambda device_type: False  # type: ignore[attr-defined]
    compiler = types.ModuleType(_COMPILER)
    compiler.__path__ = []
    compiler.utils = utils  # type: ignore[attr-defined]
    absent: dict[str, types.ModuleType | None] = dict.fromkeys(_OPTIONAL)
    return {**absent, _COMPILER: compiler, utils.__name__: utils}


def _import() -> Any:
    if "open_clip" in sys.modules:
        return sys.modules["open_clip"]
    with left_out({} if _COMPILER in sys.modules else _stand_ins()):
        return importlib.import_module("open_clip")


open_clip = _import()
