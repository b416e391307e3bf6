"""Sentences per query word ("descriptions"), read from a file that is data and is never executed.

A file is JSON, ``{word: [sentence, ...]}`` (or that under the key ``sentences``, as ``ovss describe`` writes it), or
Python with the single assignment ``NAME = {word: [sentence, ...]}``, as FreeCP published them.

The plan asks ``ovss.config.descriptions.description_set`` what a set gives for a data set; the stage ``text`` gets
either the sentences themselves (item parameter ``sentences``) or the folder of a fetch job (item input ``sentences``)
together with the name of the file in it (item parameter ``sentences_file``).
"""

from __future__ import annotations

import ast
import json
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ovss.errors import UserError

Sentences = dict[str, tuple[str, ...]]


def read_sentences(file: Path) -> Sentences:
    """All sentences of a file, stripped, without empty ones, by query word.

    Raises:
        UserError: the file is missing or is not of one of the two forms.
    """
    try:
        text = file.read_text(encoding="utf-8")
        table = _python(text) if file.suffix == ".py" else _json(text)
    except (OSError, ValueError, SyntaxError, RecursionError, MemoryError) as error:
        raise UserError(
            f"{file}: cannot be read as descriptions, one {{word: [sentence, ...]}} of plain text "
            f"({' '.join(str(error).split()) or type(error).__name__}); fetch or write it again"
        ) from error
    return {word: _of_word(file, word, lines) for word, lines in table.items()}


def _python(text: str) -> dict[Any, Any]:
    """The one dictionary of a Python file, by its literal: names, calls and everything else are refused."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an odd escape in a sentence is not the user's to mend
        body = ast.parse(text).body
    if len(body) != 1 or not isinstance(body[0], ast.Assign) or not isinstance(body[0].value, ast.Dict):
        raise ValueError("it holds more or other than one assignment of a dictionary")
    found: dict[Any, Any] = ast.literal_eval(body[0].value)
    return found


def _json(text: str) -> dict[Any, Any]:
    found = json.loads(text)
    if isinstance(found, dict) and isinstance(found.get("sentences"), dict):
        found = found["sentences"]
    if not isinstance(found, dict):
        raise ValueError("it is not a dictionary")
    return found


def _of_word(file: Path, word: Any, lines: Any) -> tuple[str, ...]:
    if not isinstance(word, str) or not isinstance(lines, (list, tuple)) or not all(isinstance(x, str) for x in lines):
        raise UserError(f"{file}: {word!r} must be a class name with a list of sentences; mend the entry")
    return tuple(line.strip() for line in lines if line.strip())


def sentences_of(table: Mapping[str, Iterable[str]], words: Iterable[str], origin: str) -> Sentences:
    """The sentences of some query words; ``origin`` (a file or the name of a set) is for the message.

    Raises:
        UserError: a word has no sentence.
    """
    chosen = {word: tuple(table.get(word, ())) for word in words}
    missing = [word for word, lines in chosen.items() if not lines]
    if missing:
        more = f" (and {len(missing) - 1} more classes)" if len(missing) > 1 else ""
        raise UserError(
            f"{origin}: there is no sentence for '{missing[0]}'{more}; add some ('ovss describe' can write them), "
            "or use class names or descriptions that go together"
        )
    return chosen
