"""``ovss why``: which output of the other commit an output is compared with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ovss.plan import why


def outputs(*templates: str, name: str = "clip") -> dict[str, Any]:
    """Outputs of one stage and name, as two rows of one method and data set with other templates have them."""
    return {
        f"work/text/{name}.{each}": {"stage": "text", "name": name, "key": each, "inputs": {}, "parts": {
            "command": "text", "params": {"templates": each, "names": "default"}, "packages": {}, "sources": {}}}
        for each in templates
    }  # fmt: skip


@pytest.fixture
def compared(monkeypatch: pytest.MonkeyPatch) -> Any:
    def compare(old: dict[str, Any], new: dict[str, Any]) -> str:
        monkeypatch.setattr(why, "plan_at", lambda root, revision, scale: old if revision else new)
        return why.why(Path(), "text", ["HEAD"], None)

    return compare


def test_outputs_of_one_name_are_compared_with_themselves(compared: Any) -> None:
    both = outputs("tiny", "names")
    assert compared(both, both) == "no key changed"


def test_a_changed_output_is_compared_with_the_one_it_replaces(compared: Any) -> None:
    found = compared(outputs("tiny", "names"), outputs("tiny", "other"))
    assert found.splitlines() == ["text/clip: names -> other", '  params.templates: "names" -> "other"']


def test_an_output_without_a_forerunner_is_new(compared: Any) -> None:
    assert compared(outputs("tiny", name="dino"), outputs("tiny")) == "work/text/clip.tiny: is new"
