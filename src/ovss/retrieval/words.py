"""Candidate words of a segment from its nearest captions (TAG, section 3.3: remove, standardize, filter).

Every operation is a function from text to text, in the order in which the published code applies them. It follows
CaSED's vocabulary, with the word "object" added to the words that describe a picture and not what it shows.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, get_args

from ovss.errors import UserError
from ovss.retrieval.taggers import Tagger

Frequency = Literal["at_least", "more_than"]
Kept = Literal["released", "nouns"]
Singular = Callable[[str], str]

PICTURE_WORDS = (
    *("image", "photo", "picture", "thumbnail", "logo", "symbol", "clipart"),
    *("portrait", "painting", "illustration", "icon", "profile", "object"),
)
_NOUNS = frozenset({"NN", "NNS", "NNP", "NNPS"})
KEPT_TAGS: dict[Kept, frozenset[str]] = {"released": _NOUNS | {"JJ", "JJR", "JJS", "VBG", "VBN"}, "nouns": _NOUNS}
NOTHING_LEFT = "object"
SHORTEST = 3
# Texts whose cleaned form is remembered: rows that differ only in later steps meet the same texts one after another.
_REMEMBERED = 4096

_TOKEN = re.compile(r"<[^>]*>")
_URL = re.compile(r"http\S+")
_SPECIAL = re.compile(r"[^\w\s\-.'&]")
_EXTENSION = re.compile(r"\.\w+")
_SEPARATOR = re.compile(r"[_-]")
_NOT_A_LETTER = re.compile(r"[^a-zA-Z\s]")
_PICTURE_WORD = re.compile(rf"\b(?:{'|'.join(PICTURE_WORDS)})\b", re.IGNORECASE)


@dataclass(frozen=True)
class WordSteps:
    """Which groups of operations run (Table 4) and how often a word must occur (Table 5).

    The paper keeps words that occur ``more_than`` twice, the published code those that occur ``at_least`` twice.

    Raises:
        UserError: ``frequency`` is neither, or ``min_count`` is no whole number from 0.
    """

    remove: bool = True
    standardize: bool = True
    filter: bool = True
    min_count: int = 2
    frequency: Frequency = "at_least"
    parts_of_speech: bool = True
    kept_words: Kept = "released"

    def __post_init__(self) -> None:
        """Refuse what means nothing."""
        if self.frequency not in get_args(Frequency):
            raise UserError(f"frequency: '{self.frequency}' is not one of {', '.join(get_args(Frequency))}")
        if self.kept_words not in get_args(Kept):
            raise UserError(f"kept_words: '{self.kept_words}' is not one of {', '.join(get_args(Kept))}")
        if isinstance(self.min_count, bool) or not isinstance(self.min_count, int) or self.min_count < 0:
            raise UserError(f"min_count: {self.min_count!r} is not a whole number; write 0 or more (0 and 1 keep all)")


def drop_tokens(text: str) -> str:
    """Without placeholders in angle brackets (``<PERSON>``)."""
    return _TOKEN.sub("", text)


def drop_urls(text: str) -> str:
    """Without ``http`` and the characters after it up to a blank; upper case and ``www.`` stay."""
    return _URL.sub("", text)


def drop_special(text: str) -> str:
    """Without characters other than those of words (of any script), blanks and ``- . ' &``."""
    return _SPECIAL.sub("", text)


def drop_ext(text: str) -> str:
    """Without a full stop and the word characters right after it, as in file names; "U.S.A" becomes "U"."""
    return _EXTENSION.sub("", text)


def separators(text: str) -> str:
    """``_`` and ``-`` become blanks."""
    return _SEPARATOR.sub(" ", text)


def drop_short3(text: str) -> str:
    """Without words shorter than three characters; the rest joined by single blanks."""
    return " ".join(word for word in text.split() if len(word) >= SHORTEST)


def drop_nonalpha(text: str) -> str:
    """Only a-z, A-Z and blanks; words may become shorter than three letters ("café" becomes "caf")."""
    return _NOT_A_LETTER.sub("", text)


def lower(text: str) -> str:
    """Lower case."""
    return text.lower()


def singular(text: str, singular_of: Singular) -> str:
    """Every word replaced by what ``singular_of`` (see ``load_singular``) makes of it; blanks stay."""
    return " ".join([singular_of(word) for word in text.split(" ")])


@lru_cache(maxsize=1 << 17)
def _without_picture_word(word: str) -> str:
    return _PICTURE_WORD.sub("", word)


def drop_words(text: str) -> str:
    """Without whole words, in any case, that speak of the picture itself; their blanks stay."""
    return " ".join([_without_picture_word(word) for word in text.split(" ")])


def freq(text: str, min_count: int, frequency: Frequency = "at_least") -> str:
    """The words that are frequent enough, repeats kept, in their order; all of the text where min_count is 0 or 1.

    Where no word is, those with the largest count stay.
    """
    words = text.split()
    if min_count <= 1 or not words:
        return text
    counts = Counter(words)
    needed = min(min_count + (frequency == "more_than"), max(counts.values()))
    return " ".join(word for word in words if counts[word] >= needed)


def pos(text: str, tagger: Tagger, kept: Kept = "released") -> str:
    """The words that the tagger calls a noun or, if ``released``, an adjective or a participle; order and repeats stay.

    The paper reads as if nouns alone were meant.
    """
    return " ".join(word for word, tag in tagger.tags(text) if tag in KEPT_TAGS[kept])


def removed(text: str) -> str:
    """The group ``remove``."""
    for operation in (drop_tokens, drop_urls, drop_special, drop_ext, separators, drop_short3, drop_nonalpha):
        text = operation(text)
    return text


def standardized(text: str, singular_of: Singular) -> str:
    """The group ``standardize``."""
    return drop_words(singular(lower(text), singular_of))


def filtered(text: str, steps: WordSteps, tagger: Tagger) -> str:
    """The group ``filter``: first the frequency, then the parts of speech of what is left."""
    text = freq(text, steps.min_count, steps.frequency)
    return pos(text, tagger, steps.kept_words) if steps.parts_of_speech else text


@lru_cache(maxsize=_REMEMBERED)
def _cleaned(text: str, remove: bool, standardize: bool, singular_of: Singular) -> str:
    text = removed(text) if remove else text
    return standardized(text, singular_of) if standardize else text


def word_candidates(captions: Sequence[str], steps: WordSteps, tagger: Tagger, singular: Singular) -> list[str]:
    """The words that the captions offer for a segment: sorted by code point, each once, never none.

    The captions count as one text, joined by blanks, so a word repeated inside one caption counts twice. Where no word
    is left the segment is called "object".
    """
    text = _cleaned(" ".join(captions), steps.remove, steps.standardize, singular)
    if steps.filter:
        text = filtered(text, steps, tagger)
    return sorted(set(text.split())) or [NOTHING_LEFT]
