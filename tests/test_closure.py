"""Source closures: what counts as a change, and what a module depends on."""

from pathlib import Path

import pytest

from ovss.errors import UserError
from ovss.plan.closure import Closure, source_hash

CODE = '''
import math

def area(radius, unit="cm"):
    """Area of a disc."""
    return f"{math.pi * radius ** 2:.2f} {unit}"
'''


@pytest.mark.parametrize(
    "edited",
    [
        CODE.replace("import math", "# the constant\nimport math  # pi"),
        CODE.replace("Area of a disc.", "Another sentence.\n\n    With more lines.\n    "),
        CODE.replace("(radius, unit", "(\n    radius,\n    unit"),
        CODE.replace("\n    return", "\n\n\n    return"),
        "\n\n" + CODE.replace("    ", "  "),
    ],
)
def test_comments_docstrings_and_layout_do_not_change_a_hash(edited: str) -> None:
    assert edited != CODE
    assert source_hash(edited) == source_hash(CODE)


@pytest.mark.parametrize(
    "edited",
    [
        CODE.replace("** 2", "** 3"),
        CODE.replace(":.2f", ":.3f"),
        CODE.replace('"cm"', '"m"'),
        CODE.replace("    return", "    unit = str(unit)\n    return"),
        CODE.replace('    """Area of a disc."""\n    return', '    text = """Area of a disc."""\n    return'),
    ],
)
def test_what_can_change_a_result_changes_the_hash(edited: str) -> None:
    assert edited != CODE
    assert source_hash(edited) != source_hash(CODE)


def test_an_indented_block_is_not_the_same_as_a_flat_one() -> None:
    assert source_hash("if a:\n    b()\n    c()\n") != source_hash("if a:\n    b()\nc()\n")


def _package(folder: Path, **files: str) -> Closure:
    for name, text in files.items():
        path = folder / "ovss" / f"{name.replace('__', '/')}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        (path.parent / "__init__.py").touch()
        path.write_text(text)
    return Closure(folder)


def test_a_closure_holds_every_import_whatever_its_form(tmp_path: Path) -> None:
    closure = _package(
        tmp_path,
        a="import ovss.b\nfrom ovss.sub import c\nimport json\n",
        b="def f():\n    from ovss.sub.d import g\n    return g\n",
        sub__c="from . import e\n",
        sub__d="from .e import h\nfrom ..lone import z\n",
        sub__e="",
        lone="",
        unused="",
    )
    assert set(closure.of(("ovss.a",))) == {
        *("ovss", "ovss.a", "ovss.b", "ovss.lone", "ovss.sub"),
        *("ovss.sub.c", "ovss.sub.d", "ovss.sub.e"),
    }


def test_a_syntax_error_is_one_sentence_with_file_and_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"a\.py: line 1: "):
        _package(tmp_path, a="def broken(:\n").of(("ovss.a",))


def test_what_is_remembered_of_a_file_does_not_hide_a_module_added_later(tmp_path: Path) -> None:
    _package(tmp_path, a="from ovss.sub import b\n", sub__c="")
    memory = tmp_path / "memory.json"
    first = Closure(tmp_path, memory=memory)
    assert "ovss.sub.b" not in first.of(("ovss.a",))
    first.remember()
    (tmp_path / "ovss" / "sub" / "b.py").write_text("X = 1\n")
    assert "ovss.sub.b" in Closure(tmp_path, memory=memory).of(("ovss.a",))


def test_a_forgotten_or_damaged_memory_changes_no_hash(tmp_path: Path) -> None:
    closure = _package(tmp_path, a="import ovss.b\n", b="X = 1\n")
    memory = tmp_path / "memory.json"
    memory.write_text("{damaged")
    assert Closure(tmp_path, memory=memory).of(("ovss.a",)) == closure.of(("ovss.a",))
