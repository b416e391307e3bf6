"""What a row's model was tuned on, for the origin of the row's numbers."""

from __future__ import annotations

import json
from pathlib import Path

from ovss.errors import UserError

FACTS = "facts.json"


def trained_on(model: Path) -> dict[str, object]:
    """Facts to add to a row's: nothing for a model that no pairs were used for.

    Returns:
        {} or {"trained_on": "3 of 12 pairs of cc3m (20 expected), ..."}.

    Raises:
        UserError: the model's facts are damaged.
    """
    path = model / FACTS
    if not path.is_file():
        return {}
    try:
        collections = json.loads(path.read_text(encoding="utf-8"))["collections"]
        parts = [_said(name, each) for name, each in sorted(collections.items())]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: no record of the training ({error}); remove the directory and run again") from error
    return {"trained_on": ", ".join(parts)}


def _said(name: str, facts: dict[str, int | None]) -> str:
    expected = "" if facts["expected"] is None else f" ({facts['expected']} expected)"
    return f"{facts['kept']} of {facts['pairs']} pairs of {name}{expected}"
