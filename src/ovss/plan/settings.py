"""Settings of methods, read from their files without importing them: a method's module imports torch, a plan does not.

Types are read as they are written: plain ones, None, Literal, unions of these, and names for them that stand in the
same file or are imported from another file of ours. Any other type takes every value here and is checked by the job.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import reduce
from operator import or_
from pathlib import Path
from typing import Any, Literal

from ovss.errors import UserError

_PLAIN = {"str": str, "int": int, "float": float, "bool": bool, "None": None}


@dataclass(frozen=True)
class Setting:
    """One setting. kind: its type as an annotation, ``Any`` where the file does not say it plainly. required: it has
    no default."""

    kind: Any
    required: bool


@dataclass(frozen=True)
class SettingsFiles:
    """Reads dataclasses of settings. source: the folder that holds the package ``ovss``."""

    source: Path
    _parsed: dict[Path, list[ast.stmt]] = field(default_factory=dict)

    def read(self, file: Path, name: str) -> dict[str, Setting]:
        """Settings of the dataclass ``name`` of a file, its own and those that it inherits, by name.

        Raises:
            UserError: a file cannot be parsed.
        """
        found: dict[str, Setting] = {}
        for at, node in self._definitions(file, name):
            if isinstance(node, ast.ClassDef):
                for base in reversed(node.bases):  # as a dataclass takes them
                    found |= self.read(at, base.id) if isinstance(base, ast.Name) else {}
                for line in node.body:
                    if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name):
                        found[line.target.id] = Setting(self._kind(line.annotation, at), line.value is None)
        return found

    def defined(self, file: Path) -> frozenset[str]:
        """Names of the classes and functions of a file, its own and imported ones."""
        names = set[str]()
        for node in self._body(file):
            if isinstance(node, ast.ImportFrom):
                names |= {alias.asname or alias.name for alias in node.names}
            elif isinstance(node, ast.ClassDef | ast.FunctionDef):
                names.add(node.name)
        return frozenset(names)

    def _body(self, file: Path) -> list[ast.stmt]:
        if file not in self._parsed:
            try:
                self._parsed[file] = ast.parse(file.read_text(encoding="utf-8")).body
            except SyntaxError as error:
                raise UserError(f"{file}: line {error.lineno}: {error.msg}; mend the syntax before running") from error
        return self._parsed[file]

    def _definitions(self, file: Path, name: str) -> Iterator[tuple[Path, ast.stmt]]:
        """Where a name of a file is defined, and how: classes and assignments, imports of ours followed."""
        for node in self._body(file):
            if isinstance(node, ast.ClassDef) and node.name == name:
                yield file, node
            elif isinstance(node, ast.Assign):
                if any(isinstance(target, ast.Name) and target.id == name for target in node.targets):
                    yield file, node
            elif isinstance(node, ast.ImportFrom):
                for alias in node.names:
                    other = self._file(str(node.module))
                    if (alias.asname or alias.name) == name and other is not None:
                        yield from self._definitions(other, alias.name)

    def _module(self, file: Path, name: str) -> Path | None:
        """The file that a name of a file stands for: ``from ovss.methods import _freecp_refine as refine``."""
        for node in self._body(file):
            if isinstance(node, ast.ImportFrom):
                for alias in node.names:
                    if (alias.asname or alias.name) == name:
                        return self._file(f"{node.module}.{alias.name}")
        return None

    def _file(self, module: str) -> Path | None:
        path = self.source.joinpath(*module.split(".")).with_suffix(".py")
        return path if module.startswith("ovss.") and path.is_file() else None

    def _kind(self, node: ast.expr, file: Path) -> Any:
        """The type that an annotation of a file says."""
        if isinstance(node, ast.Constant) and node.value is None:
            return None
        if isinstance(node, ast.Name):
            return _PLAIN[node.id] if node.id in _PLAIN else self._named(file, node.id)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            other = self._module(file, node.value.id)
            return Any if other is None else self._named(other, node.attr)
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
            parts = [self._kind(node.left, file), self._kind(node.right, file)]
            return Any if Any in parts else reduce(or_, [type(None) if part is None else part for part in parts])
        if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name) and node.value.id == "Literal":
            values = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
            if all(isinstance(value, ast.Constant) for value in values):
                return Literal[tuple(ast.literal_eval(value) for value in values)]
        return Any

    def _named(self, file: Path, name: str) -> Any:
        for at, node in self._definitions(file, name):
            if isinstance(node, ast.Assign):
                return self._kind(node.value, at)
        return Any
