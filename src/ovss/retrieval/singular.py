"""Singular forms of words: the published rule and a dictionary, both offline."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, lru_cache
from unittest.mock import patch

from ovss.errors import UserError

# Distinct words of captions are few against their uses, so answers are kept.
_REMEMBERED = 1 << 17
_GUARDED = ("ss", "us", "is", "ies", "oes")


@cache
def _official() -> Callable[[str], str]:
    import typeguard

    # The library has its arguments checked by rewriting every method on import: 4 s, and slower calls, for no result.
    with patch.object(typeguard, "typechecked", lambda function: function):
        import inflect

    engine = inflect.engine()

    @lru_cache(maxsize=_REMEMBERED)
    def official(word: str) -> str:
        if not word.endswith("s") or word.endswith(_GUARDED):
            return word
        return engine.singular_noun(word) or word

    return official


@cache
def _dictionary() -> Callable[[str], str]:
    import lemminflect

    @lru_cache(maxsize=_REMEMBERED)
    def dictionary(word: str) -> str:
        forms = lemminflect.getLemma(word, "NOUN", lemmatize_oov=False)
        return forms[0] if forms else word

    return dictionary


SINGULARS: dict[str, Callable[[], Callable[[str], str]]] = {"official": _official, "dictionary": _dictionary}


def load_singular(name: str) -> Callable[[str], str]:
    """A function from a word to its singular, the word itself where it knows none; one per name and process.

    ``official`` is the published rule: inflect, asked only for words in -s that do not end in -ss, -us, -is, -ies or
    -oes (so "women" stays and "lens" becomes "len"). ``dictionary`` looks a word up among lemminflect's nouns ("women"
    becomes "woman", "lens" stays) and leaves words that are not there; of several forms it takes the first.

    Raises:
        UserError: no such name.
    """
    if name not in SINGULARS:
        raise UserError(f"singular: '{name}' is not one of {', '.join(SINGULARS)}")
    return SINGULARS[name]()
