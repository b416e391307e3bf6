"""Which source files a job depends on, and their hashes without comments, docstrings and layout.

A job's key holds one hash for every module under ``src/`` that its stage module imports, directly or not. Comments,
docstrings, blank lines and line breaks inside brackets do not count; everything else does.
"""

from __future__ import annotations

import ast
import hashlib
import io
import json
import os
import tokenize
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

from ovss.errors import UserError

FORMAT = 1
"""Version of what is remembered about a file."""
_PARSED: dict[tuple[str, str], tuple[str, list[str]]] = {}
"""What this process has found out, by content and file name: projects that share most files are read for less."""

_LAYOUT = {tokenize.COMMENT, tokenize.NL, tokenize.ENCODING, tokenize.ENDMARKER}
_MARKS = {tokenize.NEWLINE: "\n", tokenize.INDENT: "{", tokenize.DEDENT: "}"}


def _significant_tokens(source: str) -> Iterator[tuple[int, str]]:
    """Tokens that mean something; an f-string is one token on every Python version (3.12 cuts it in pieces)."""
    lines = source.splitlines(keepends=True)
    depth, start = 0, (0, 0)
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        name = tokenize.tok_name[token.type]
        if name in {"FSTRING_START", "TSTRING_START"}:
            start = token.start if depth == 0 else start
            depth += 1
        elif name in {"FSTRING_END", "TSTRING_END"}:
            depth -= 1
            if depth == 0:
                yield tokenize.STRING, _between(lines, start, token.end)
        elif depth == 0 and token.type not in _LAYOUT:
            yield token.type, _MARKS.get(token.type, token.string)


def _between(lines: list[str], start: tuple[int, int], end: tuple[int, int]) -> str:
    if start[0] == end[0]:
        return lines[start[0] - 1][start[1] : end[1]]
    middle = lines[start[0] : end[0] - 1]
    return "".join([lines[start[0] - 1][start[1] :], *middle, lines[end[0] - 1][: end[1]]])


def _statements(tokens: Iterable[tuple[int, str]]) -> Iterator[list[tuple[int, str]]]:
    statement: list[tuple[int, str]] = []
    for token in tokens:
        statement.append(token)
        if token[0] == tokenize.NEWLINE:
            yield statement
            statement = []
    yield statement


def _is_docstring(statement: list[tuple[int, str]]) -> bool:
    kinds = [kind for kind, _ in statement if kind not in {tokenize.INDENT, tokenize.DEDENT}]
    return kinds == [tokenize.STRING, tokenize.NEWLINE]


def source_hash(source: str) -> str:
    """Hash of Python source that comments, docstrings, blank lines and wrapping do not change (16 hex digits)."""
    digest = hashlib.sha256()
    for statement in _statements(_significant_tokens(source)):
        drop = _is_docstring(statement)
        for kind, text in statement:
            if not drop or kind in {tokenize.INDENT, tokenize.DEDENT}:
                digest.update(text.encode() + b"\x1f")
    return digest.hexdigest()[:16]


def _recall(memory: Path | None) -> dict[str, tuple[str, list[str]]]:
    try:
        found: dict[str, Any] = json.loads(memory.read_text(encoding="utf-8")) if memory and memory.is_file() else {}
    except (OSError, ValueError):
        return {}
    return {at: (hashed, imports) for at, (hashed, imports) in found.items()}


class Closure:
    """Import closures of the modules of one package, each file read and parsed once."""

    def __init__(self, source_root: Path, package: str = "ovss", memory: Path | None = None) -> None:
        self.root = source_root
        self.package = package
        self.memory = memory
        self._known: dict[str, tuple[str, list[str]]] = _recall(memory)
        self._facts = cache(self._facts_of)
        self._direct = cache(self._direct_of)
        self.of = cache(self._closure)

    def path(self, module: str) -> Path | None:
        """File of a module of the package, or None if there is none."""
        base = self.root.joinpath(*module.split("."))
        for candidate in (base.with_suffix(".py"), base / "__init__.py"):
            if candidate.is_file():
                return candidate
        return None

    def _facts_of(self, module: str) -> tuple[str, list[str]]:
        """Hash of a module and every name that it may import; from memory where the file's bytes are known."""
        path = self.path(module)
        if path is None:
            raise UserError(f"module {module}: no such file under {self.root}; the plan needs it to compute a key")
        data = path.read_bytes()
        at = hashlib.sha256(f"{module} {FORMAT}\n".encode() + data).hexdigest()
        if at not in self._known:
            if (at, path.name) not in _PARSED:
                text = data.decode("utf-8")
                names = sorted(self._names_in(module, path, text))
                _PARSED[at, path.name] = source_hash(text), names
            self._known[at] = _PARSED[at, path.name]
        return self._known[at]

    def _direct_of(self, module: str) -> set[str]:
        names = [name for name in self._facts(module)[1] if self.path(name)]
        return {parent for name in names for parent in self._with_parents(name)} - {module}

    def remember(self) -> None:
        """Keep what is known about file contents for the next plan (a cache by content; losing it costs a second)."""
        if self.memory is not None and self.memory.parent.is_dir() and self._known != _recall(self.memory):
            temporary = self.memory.with_name(f"{self.memory.name}.part-{os.getpid()}")
            temporary.write_text(json.dumps(self._known), encoding="utf-8")
            os.replace(temporary, self.memory)

    def _names_in(self, module: str, path: Path, text: str) -> set[str]:
        try:
            tree = ast.parse(text)
        except SyntaxError as error:
            raise UserError(f"{path}: line {error.lineno}: {error.msg}; mend the syntax before running") from error
        parent = module if path.name == "__init__.py" else module.rpartition(".")[0]
        return {name for node in ast.walk(tree) for name in self._names(node, parent)}

    def _names(self, node: ast.AST, parent: str) -> Iterator[str]:
        if isinstance(node, ast.Import):
            candidates = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            up = parent.split(".")[: len(parent.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*up, *([node.module] if node.module else [])])
            candidates = [base, *(f"{base}.{alias.name}" for alias in node.names)]
        else:
            return
        yield from (name for name in candidates if name.split(".")[0] == self.package)

    @staticmethod
    def _with_parents(module: str) -> Iterator[str]:
        parts = module.split(".")
        for length in range(1, len(parts) + 1):
            yield ".".join(parts[:length])

    def _closure(self, modules: tuple[str, ...]) -> dict[str, str]:
        """Hash of every module that ``modules`` import, themselves included, by module name, sorted."""
        todo = [name for module in modules for name in self._with_parents(module)]
        seen: set[str] = set()
        while todo:
            module = todo.pop()
            if module not in seen:
                seen.add(module)
                todo.extend(self._direct(module))
        return {module: self._facts(module)[0] for module in sorted(seen)}
