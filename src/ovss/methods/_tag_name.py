"""TAG's words (section 3.3, equations 4 to 6): from the captions nearest to a segment to a word and to a class.

Follows the released code where it differs from the paper; the differences are settings.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ovss.errors import UserError
from ovss.retrieval.taggers import Tagger
from ovss.retrieval.words import Singular, WordSteps, word_candidates

Floats = npt.NDArray[np.float32]

UNUSED_STEPS = ("descriptions", "ambiguity_crop", "prob_threshold", "area_threshold", "background_threshold",
                "prompt_denoising", "scales", "flip", "pamr", "crf")  # fmt: skip
"""Protocol steps that TAG does not have (its CRF is a setting of its segments)."""
# Words whose similarity to the classes is computed together.
_ROWS = 256


@dataclass(frozen=True)
class Naming:
    """Every constant of the search and of the words.

    keep: captions kept of each search; search: over our exact shards or a published index. num_samples: of them used
    here, before near-duplicates go (dedup, duplicate_cosine). remove, standardize, filter: groups of word operations
    (Table 4); singular, tagger: who makes words singular and who knows parts of speech; kept_words:
    nouns, adjectives and participles (``released``) or ``nouns`` alone. min_count, frequency: a word
    must occur ``at_least`` so often (released) or ``more_than`` that (paper). foreign_words: words of other segments
    score ``zero`` (released, so a segment whose own words are all negative takes one) or are ``excluded`` (equation 5).
    threshold: segments whose word is less similar to every class have none; their pixels are ``dropped`` from
    prediction and label alike (released, Table 7) or stay and are ``wrong``.
    """

    num_samples: int = 10
    remove: bool = True
    standardize: bool = True
    filter: bool = True
    min_count: int = 2
    frequency: Literal["at_least", "more_than"] = "at_least"
    dedup: bool = True
    duplicate_cosine: float = 0.94
    keep: int = 60
    foreign_words: Literal["zero", "excluded"] = "zero"
    singular: Literal["official", "dictionary"] = "official"
    tagger: Literal["pattern", "flair"] = "pattern"
    kept_words: Literal["released", "nouns"] = "released"
    threshold: float = -1.0
    below_threshold: Literal["dropped", "wrong"] = "dropped"
    search: Literal["exact", "prebuilt"] = "exact"

    def __post_init__(self) -> None:
        """Refuse what is out of range, and a setting that belongs to a step which does not run."""
        if not 1 <= self.num_samples <= self.keep:
            raise UserError(f"settings.num_samples: {self.num_samples} is out of range; give 1 to {self.keep} (keep)")
        if self.min_count < 0:
            raise UserError(f"settings.min_count: {self.min_count} is out of range; give 0 or more")
        for name in ("threshold", "duplicate_cosine"):
            if not -1 <= getattr(self, name) <= 1:
                raise UserError(f"settings.{name}: {getattr(self, name)} is out of range; give a cosine from -1 to 1")
        for step, names in (
            ("filter", ("min_count", "frequency", "tagger", "kept_words")),
            ("standardize", ("singular",)),
        ):
            for name in names if not getattr(self, step) else ():
                if getattr(self, name) != getattr(Naming, name):
                    raise UserError(
                        f"settings.{name}: without {step} nothing uses it; leave it at {getattr(Naming, name)}"
                    )

    @property
    def steps(self) -> WordSteps:
        """The word operations."""
        return WordSteps(self.remove, self.standardize, self.filter, self.min_count, self.frequency,
                         kept_words=self.kept_words)  # fmt: skip


@dataclass(frozen=True)
class Reading:
    """What decides the candidate words of a segment: rows that agree in it share them."""

    num_samples: int
    dedup: bool
    steps: WordSteps
    singular: str
    tagger: str

    @classmethod
    def of(cls, naming: Naming) -> Reading:
        """The part of the settings that matters here."""
        return cls(naming.num_samples, naming.dedup, naming.steps, naming.singular, naming.tagger)

    def candidates(self, captions: Sequence[str], tagger: Tagger, singular: Singular) -> list[str]:
        """Candidate words (V_i), sorted, each once; "object" alone where the captions leave none, or there are none."""
        return word_candidates(captions, self.steps, tagger, singular)


def prompt(word: str) -> str:
    """What CLIP encodes for a word: the bare word, with blanks for underscores."""
    return word.replace("_", " ")


def cosines(segment: Floats, words: Floats) -> Floats:
    """Similarity of a segment and its words (equation 5).

    Summed row by row in float64, so that words with equal vectors (CLIP does not tell upper from lower case) are tied.

    Args:
        segment: (D,), of any length.
        words: (n, D), unit.

    Returns:
        (n,) float32; zeros for a segment that is zero.
    """
    exact = segment.astype(np.float64)
    length = np.sqrt((exact * exact).sum())
    sums = (words.astype(np.float64) * exact).sum(axis=1)
    return (sums / length if length else sums).astype(np.float32)


def choose(scores: Floats, candidates: Sequence[str], foreign: Sequence[str] = ()) -> tuple[str, float]:
    """The word of a segment and its score: the best candidate, the first of equals (equation 5).

    Args:
        scores: of the candidates, (n,).
        candidates: the segment's own words, sorted.
        foreign: words of other segments, which score zero as released: segment after segment, sorted within each; a
            word may also be among the candidates. The released code takes them from a batch of images, which makes a
            result hang on what else is in the batch; rows of ours give those of the same image (see ``foreign_of``).
            Empty: they are excluded, as equation 5 has it.
    """
    best = int(scores.argmax())
    if foreign and scores[best] < 0:
        return foreign[0], 0.0
    return candidates[best], float(scores[best])


def foreign_of(segment: int, words: Sequence[Sequence[str]]) -> Sequence[str]:
    """Words of the first other segment of an image, of which ``choose`` takes the first; none if it is alone.

    Args:
        segment: its number among the image's segments.
        words: candidates of each of them, in the order of clusters.
    """
    others = [number for number in range(len(words)) if number != segment]
    return words[others[0]] if others else ()


def similarities(words: Tensor, classes: Tensor) -> Tensor:
    """Inner products of sentence embeddings (equation 6), (V, C) float32, in products of one shape.

    Args:
        words: (V, d), unit.
        classes: (C, d), unit.
    """
    rows = []
    for part in words.split(_ROWS):
        filled = torch.cat([part, part.new_zeros(_ROWS - len(part), part.shape[1])])
        rows.append((filled @ classes.T)[: len(part)])
    return torch.cat(rows) if rows else words.new_zeros(0, len(classes))


def assign(similarity: Floats, threshold: float) -> tuple[npt.NDArray[np.int64], Floats]:
    """Class of every word and how similar it is: the most similar, the first of equals, -1 below the threshold.

    Args:
        similarity: (V, C).
        threshold: least similarity.

    Returns:
        (V,) int64 number of the class, (V,) float32.
    """
    best = similarity.argmax(axis=1)
    found: Floats = np.take_along_axis(similarity, best[:, None], axis=1)[:, 0]
    return np.where(found < threshold, -1, best), found
