"""Class-name lists: one line per class, in class order (light to import)."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from ovss.errors import UserError


def class_list(file: str | Path) -> list[str]:
    """Lines of a class list, one per class, as they stand.

    Args:
        file: name of a list in ``ovss/resources/classes``, or the path of a list.

    Raises:
        UserError: there is no such list.
    """
    source = resources.files("ovss") / "resources" / "classes" / file if isinstance(file, str) else file
    try:
        return source.read_text(encoding="utf-8").strip("\n").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: there is no such class list in ovss/resources/classes ({error})") from error


def read_class_names(file: str | Path, separator: str = ", ") -> list[list[str]]:
    """Names of each class of a list.

    Args:
        file: name of a list in ``ovss/resources/classes``, or the path of a list.
        separator: what parts the names of one class; each code base has its own (see ``namings`` in datasets.yaml).

    Returns:
        names[c] = the names of class c, stripped.

    Raises:
        UserError: no such list, or a line without a name.
    """
    names = [[name.strip() for name in line.split(separator)] for line in class_list(file)]
    for number, line in enumerate(names, start=1):
        if not all(line):
            raise UserError(f"{file}: line {number} has an empty class name")
    return names
