"""Importing a package without what it drags in: stand-ins while the import runs, gone afterwards."""

from __future__ import annotations

import contextlib
import sys
import types
from collections.abc import Iterator, Mapping


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
