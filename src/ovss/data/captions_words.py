"""Words of a caption as TTD counts them (section 3.1), and those that it picks by part of speech alone.

A tag is any word between blanks, stop-words and punctuation too: the paper's printed precision, recall and accuracy
agree only if all words of all captions are counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from ovss.retrieval.taggers import Tagger

T = TypeVar("T")

_STOP_WORDS = """
a an the this that these those each every either neither some any no all both few many much more most other another
such own same and or but nor so yet if than then because while although though unless until since as of in on at by
for with from to into onto out off over under above below up down about across after against along among around before
behind beneath beside between beyond during near through towards toward upon via within without i me my myself we us
our ours ourselves you your yours yourself he him his himself she her hers herself it its itself they them their
theirs themselves who whom whose which what where when why how am is are was were be been being do does did doing done
have has had having can could may might must shall should will would not only just very too also there here again once
ever
"""
STOP_WORDS = frozenset(_STOP_WORDS.split())
"""English words that name nothing one could see. Neither paper nor README prints the list behind ``--stopwords``."""
_NOUN = "NN"


@dataclass(frozen=True)
class CaptionWords:
    """A caption cut into words.

    words: all of them, lower case, in order. tags: each once, in the order of first occurrence. places: for each word
    the number of its tag.
    """

    words: tuple[str, ...]
    tags: tuple[str, ...]
    places: tuple[int, ...]

    @classmethod
    def of(cls, caption: str) -> CaptionWords:
        """Cut at white space; a caption of blanks has no words."""
        words = tuple(caption.lower().split())
        numbers = {tag: number for number, tag in enumerate(dict.fromkeys(words))}
        return cls(words, tuple(numbers), tuple(numbers[word] for word in words))

    def per_word(self, of_tags: Sequence[T]) -> list[T]:
        """What is known of every tag, for every word: a repeated word has the score of its tag.

        Raises:
            ValueError: not one value per tag.
        """
        if len(of_tags) != len(self.tags):
            raise ValueError(f"{len(of_tags)} values for {len(self.tags)} tags")
        return [of_tags[place] for place in self.places]


def without_stop_words(caption: CaptionWords, selected: Sequence[bool]) -> list[bool]:
    """The selection among a caption's tags less its stop-words (the README's ``--stopwords``)."""
    return [bool(chosen) and tag not in STOP_WORDS for tag, chosen in zip(caption.tags, selected, strict=True)]


def nouns(caption: CaptionWords, tagger: Tagger) -> list[bool]:
    """Which tags of a caption are nouns somewhere in it (the baseline "NLTK" of Table 2).

    The whole caption is tagged, since some taggers look at neighbours. Taggers cut off punctuation: a word is a noun if
    a part of it is. Where the parts cannot be laid onto the words, each word is tagged alone.

    Args:
        caption: n tags.
        tagger: gives Penn Treebank tags.

    Returns:
        (n) bool.
    """
    parts = tagger.tags(" ".join(caption.words))
    if "".join(part for part, _ in parts) != "".join(caption.words):
        return [_has_noun(tagger.tags(tag)) for tag in caption.tags]
    found = [False] * len(caption.tags)
    for place, own in zip(caption.places, _parts_of(caption.words, parts), strict=True):
        found[place] |= _has_noun(own)
    return found


def _has_noun(parts: Sequence[tuple[str, str]]) -> bool:
    return any(tag.startswith(_NOUN) for _, tag in parts)


def _parts_of(words: Sequence[str], parts: Sequence[tuple[str, str]]) -> list[list[tuple[str, str]]]:
    """The parts that overlap each word, when both spell the same letters."""
    starts, at = [], 0
    for part, _ in parts:
        starts.append(at)
        at += len(part)
    spans, at = [], 0
    for word in words:
        spans.append((at, at + len(word)))
        at += len(word)
    return [
        [pair for start, pair in zip(starts, parts, strict=True) if start < end and start + len(pair[0]) > first]
        for first, end in spans
    ]
