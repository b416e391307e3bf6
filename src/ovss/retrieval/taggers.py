"""Part-of-speech taggers behind one interface: a lexicon that works offline, and the published code's if it is there.

The published code uses flair's ``pos-english-fast``, whose weights cannot be had everywhere. The lexicon of the
``pattern`` library, which TextBlob carries, stands in for it.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import types
import warnings
from collections.abc import Callable
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, Protocol

from ovss.errors import UserError

FLAIR_MODEL = "pos-english-fast"
_FLAIR_FILES = ("*.bin", "*.pt", "*.safetensors")
_TEXTS, _WORDS = 4096, 1 << 17


class Tagger(Protocol):
    """Gives every word of a text its Penn Treebank tag."""

    def tags(self, text: str) -> list[tuple[str, str]]:
        """(word, tag) in the order of the text; no words, an empty list."""
        ...


Tag = Callable[[str], list[tuple[str, str]]]


def _import_bare(package: str, module: str) -> types.ModuleType:
    """A module of a package without running the package's own ``__init__``; a later import of the package runs it."""
    spec = importlib.util.find_spec(package)
    if package in sys.modules or spec is None or spec.submodule_search_locations is None:
        return importlib.import_module(module)
    bare = types.ModuleType(package)
    bare.__path__ = list(spec.submodule_search_locations)
    sys.modules[package] = bare
    try:
        return importlib.import_module(module)
    finally:
        for name in [name for name in sys.modules if name.split(".")[0] == package]:
            del sys.modules[name]


def textblob_tag() -> Tag:
    """``textblob.en.tag`` with its lexicon read. The rest of TextBlob stays out: it imports all of NLTK, 7 seconds."""
    tag: Tag = _import_bare("textblob", "textblob.en").tag
    with warnings.catch_warnings():
        # The library leaves its lexicon's file to the garbage collector to close.
        warnings.simplefilter("ignore", ResourceWarning)
        tag("word")
    return tag


class PatternTagger:
    """TextBlob's ``textblob.en.tag``: a lexicon, and endings for the words that are not in it."""

    def __init__(self) -> None:
        tag = textblob_tag()
        self._whole = lru_cache(maxsize=_TEXTS)(tag)
        self._tag_of = lru_cache(maxsize=_WORDS)(lambda word: tag(word)[0][1])

    def tags(self, text: str) -> list[tuple[str, str]]:
        """See ``Tagger``. The tag of a lower-case word depends on the word alone, so it is looked up once."""
        letters = text.replace(" ", "")
        if letters.isascii() and letters.isalpha() and letters.islower():
            return [(word, self._tag_of(word)) for word in text.split()]
        return list(self._whole(text))


class FlairTagger:
    """flair's sequence tagger from a file on disk (TAG's own). The file is a pickle: use only one you trust."""

    def __init__(self, model: Path) -> None:
        from flair.data import Sentence
        from flair.models import SequenceTagger

        self._sentence: Callable[[str], Any] = Sentence
        self._model: Any = SequenceTagger.load(str(model))
        self._whole = lru_cache(maxsize=_TEXTS)(self._predict)

    def _predict(self, text: str) -> list[tuple[str, str]]:
        sentence = self._sentence(text)
        self._model.predict(sentence)
        return [(token.text, token.get_label(self._model.label_type).value) for token in sentence]

    def tags(self, text: str) -> list[tuple[str, str]]:
        """See ``Tagger``. One text at a time, so that its tags do not depend on other texts."""
        return list(self._whole(text)) if text.strip() else []


def flair_model() -> Path:
    """The one model file in flair's own cache (``$FLAIR_CACHE_ROOT`` or ``~/.flair``).

    Raises:
        UserError: flair or the file is missing, or there are several files.
    """
    folder = Path(os.environ.get("FLAIR_CACHE_ROOT") or Path.home() / ".flair") / "models" / FLAIR_MODEL
    files = sorted({file.resolve() for ending in _FLAIR_FILES for file in folder.rglob(ending)})
    if importlib.util.find_spec("flair") is None:
        missing = "the package flair is not installed (pip install flair)"
    elif not files:
        missing = f"there is no model file below {folder} (put the file of flair/{FLAIR_MODEL} there)"
    elif len(files) > 1:
        missing = f"{folder} holds {len(files)} model files (leave one)"
    else:
        return files[0]
    raise UserError(f"tagger: flair: {missing}; or set tagger: pattern")


TAGGERS: dict[str, Callable[[], Tagger]] = {"pattern": PatternTagger, "flair": lambda: FlairTagger(flair_model())}


@cache
def load_tagger(name: str) -> Tagger:
    """A tagger by name, one per process: ``pattern`` or ``flair``.

    Raises:
        UserError: no such name, or flair or its model is not there.
    """
    if name not in TAGGERS:
        raise UserError(f"tagger: '{name}' is not one of {', '.join(TAGGERS)}")
    return TAGGERS[name]()
