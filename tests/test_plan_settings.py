"""Settings of methods as the plan reads them, from the files alone."""

from __future__ import annotations

import dataclasses
import typing
from pathlib import Path
from typing import Any

import pytest

from ovss import methods
from ovss.plan.settings import Setting, SettingsFiles


@pytest.mark.parametrize("method", methods.available())
def test_a_method_s_file_says_what_its_dataclass_has(root: Path, method: str) -> None:
    kind = methods.load(method).Settings
    types = typing.get_type_hints(kind)
    imported = {
        field.name: Setting(
            types[field.name],
            field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING,
        )
        for field in dataclasses.fields(kind)
    }
    read = SettingsFiles(root / "src").read(root / f"src/ovss/methods/{method}.py", "Settings")
    assert read == imported
    assert list(read) == list(imported), "in the order of the dataclass"


@pytest.fixture
def written(tmp_path: Path) -> dict[str, Setting]:
    """Settings of a file with the ways in which a type can be written."""
    folder = tmp_path / "ovss" / "methods"
    folder.mkdir(parents=True)
    (folder / "_part.py").write_text("from typing import Literal\nWay = Literal['up', 'down']\n")
    (folder / "a.py").write_text(
        "from dataclasses import dataclass\n"
        "import numpy as np\n"
        "from typing import Literal, Optional\n"
        "from ovss.methods import _part as part\n"
        "from ovss.methods._part import Way as Renamed\n"
        "Size = int | None\n"
        "@dataclass(frozen=True)\n"
        "class Settings:\n"
        "    plain: float\n"
        "    nothing: None\n"
        "    named: Size = None\n"
        "    imported: Renamed = 'up'\n"
        "    through: part.Way | None = None\n"
        "    mixed: Literal[1, 'a', True] = 1\n"
        "    other: Optional[int] = None\n"
        "    strange: np.dtype | int = 1\n"
        "    unknown: Nowhere = 1\n"
    )
    return SettingsFiles(tmp_path).read(folder / "a.py", "Settings")


@pytest.mark.parametrize(
    ("name", "value", "fits"),
    [
        ("plain", 1, True), ("plain", "1", False), ("plain", True, False), ("nothing", None, True),
        ("nothing", 0, False), ("named", 3, True), ("named", None, True), ("named", 3.5, False),
        ("imported", "up", True), ("imported", "left", False), ("through", "down", True), ("through", None, True),
        ("through", "left", False), ("mixed", 1, True), ("mixed", True, True), ("mixed", "a", True),
        ("mixed", "b", False), ("mixed", 1.0, False), ("other", "anything", True), ("strange", "anything", True),
        ("unknown", "anything", True),
    ],
)  # fmt: skip
def test_values_are_compared_with_types_however_they_are_written(
    written: dict[str, Setting], name: str, value: Any, fits: bool
) -> None:
    assert methods.fits(value, written[name].kind) == fits


def test_what_has_a_default_need_not_be_given(written: dict[str, Setting]) -> None:
    assert {name for name, setting in written.items() if setting.required} == {"plain", "nothing"}


def test_types_are_said_in_words(written: dict[str, Setting]) -> None:
    said = {name: methods.in_words(written[name].kind) for name in ("plain", "nothing", "named", "through")}
    assert said == {"plain": "of type float", "nothing": "null", "named": "of type int or null",
                    "through": "one of up, down or null"}  # fmt: skip
