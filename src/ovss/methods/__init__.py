"""Methods by name: one module each, imported when a row asks for it.

A method module has ``Settings``, a frozen dataclass with every constant, and
``segment(batch, vocabulary, features, settings) -> list[Prediction]``. Its name is the module's name; a new file here
is a new method and nothing else needs to change. It may have ``uses_labels(settings) -> bool`` (it is told what an
image shows), and to share work with other rows ``affinities(settings)`` (CLIP's affinities that it will ask for) and
``ahead(batch, vocabulary, features, settings)``, called for every row before the first is segmented. A method that
reads another model than CLIP from the model directory has ``model_kind(settings) -> (name, kind)`` and
``open_model(directory, kind, clip)``; the model is then among the companions. Modules with an underscore are parts of
methods. This package itself imports nothing heavy.
"""

from __future__ import annotations

import importlib
import types
import typing
from collections.abc import Mapping
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, Literal

from ovss.errors import UserError


def available() -> tuple[str, ...]:
    """Names of all methods, sorted: the modules of this folder that do not start with an underscore."""
    return tuple(sorted(file.stem for file in Path(__file__).parent.glob("[a-z]*.py")))


def load(name: str) -> types.ModuleType:
    """The module of a method.

    Raises:
        UserError: no method of that name.
    """
    if name not in available():
        raise UserError(f"method: '{name}' is not one of {', '.join(available())}; mend the row or add the module")
    return importlib.import_module(f"ovss.methods.{name}")


def read_settings(kind: type[Any], values: Mapping[str, Any], method: str, row: str = "") -> Any:
    """A method's settings from plain values, each checked against its type.

    Args:
        kind: the method's ``Settings``; field types are str, int, float, bool, Literal, or one of them or None.
        values: settings by name; the others keep their defaults.
        method: the method's name, for messages. row: whose settings they are, likewise.

    Raises:
        UserError: an unknown or missing setting, or a value of another type or out of the method's range.
    """
    try:
        return _settings(kind, values, method)
    except UserError as error:
        raise UserError(f"{row}: {error}" if row else str(error)) from error


def _settings(kind: type[Any], values: Mapping[str, Any], method: str) -> Any:
    types_by_name = typing.get_type_hints(kind)
    known = [field.name for field in fields(kind)]
    for name, value in values.items():
        if name not in known:
            raise UserError(f"settings.{name}: method {method} has no such setting; it has: {', '.join(known)}")
        if not fits(value, types_by_name[name]):
            raise UserError(f"settings.{name}: {value!r} is not {in_words(types_by_name[name])} (method {method})")
    for field in fields(kind):
        if field.name not in values and field.default is MISSING and field.default_factory is MISSING:
            raise UserError(f"settings.{field.name}: method {method} needs it, and there is no default; add it")
    return kind(**values)


def fits(value: object, kind: Any) -> bool:
    """Whether a plain value is of the type that an annotation says; a whole number is a float too."""
    if kind is Any:
        return True
    if kind is None:
        return value is None
    if typing.get_origin(kind) is Literal:
        return any(value == choice and type(value) is type(choice) for choice in typing.get_args(kind))
    if typing.get_origin(kind) in (types.UnionType, typing.Union):
        return any(fits(value, part) for part in typing.get_args(kind))
    if kind is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    return type(value) is kind


def in_words(kind: Any) -> str:
    """The type that an annotation says, to stand behind "is not"."""
    if typing.get_origin(kind) is Literal:
        return "one of " + ", ".join(map(str, typing.get_args(kind)))
    if typing.get_origin(kind) in (types.UnionType, typing.Union):
        return " or ".join(in_words(part) for part in typing.get_args(kind))
    return "null" if kind in (None, type(None)) else f"of type {kind.__name__}"
