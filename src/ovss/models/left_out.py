"""Importing a package without what it drags in: stand-ins while the import runs, gone afterwards."""

from __future__ import annotations

import contextlib
import sys
import types
from collections.abc import Iterator, Mapping

_COMPILER = "torch._dynamo"


@contextlib.contextmanager
def left_out(stand_ins: Mapping[str, types.ModuleType | None]) -> Iterator[None]:
    """Put entries into sys.modules (None: as if not installed) where there are none, and take them out again."""
    placed = {name: module for name, module in stand_ins.items() if name not in sys.modules}
    sys.modules.update(placed)  # type: ignore[arg-type]
    try:
        yield
    finally:
        for name in placed:
            sys.modules.pop(name, None)


@contextlib.contextmanager
def without_compiler() -> Iterator[None]:
    """Let eager training go on without torch's compiler.

    Optimisers import it (9 CPU seconds) to say that it must leave their functions alone; a stand-in hears it as well.
    """
    compiler = types.ModuleType(_COMPILER)
    compiler.__dict__["disable"] = lambda function, recursive=True, wrapping=True: function
    compiler.__dict__["graph_break"] = lambda: None
    placed = {} if _COMPILER in sys.modules else {_COMPILER: compiler}
    with left_out(placed):
        yield
