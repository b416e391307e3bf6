"""Segments with the captions found for them, and the words they get; nothing here looks at a pixel."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from ovss.errors import UserError
from ovss.evaluation.progress import Progress
from ovss.evaluation.segments_file import SegmentsFile
from ovss.methods._tag_name import Floats, Reading, choose, cosines, foreign_of
from ovss.retrieval.neighbours import Neighbours
from ovss.retrieval.singular import load_singular
from ovss.retrieval.taggers import load_tagger


@dataclass(frozen=True)
class Found:
    """Segments of a source (their directory) and the captions nearest to each."""

    directory: Path
    segments: SegmentsFile
    neighbours: Neighbours

    @classmethod
    def open(cls, segments: Path, neighbours: Path, read: Callable[[Path], SegmentsFile] = SegmentsFile.open) -> Found:
        """Read both directories; ``read`` reads the first.

        Raises:
            UserError: one is damaged, or they are not of the same segments.
        """
        found = cls(segments, read(segments), Neighbours.open(neighbours))
        if len(found.neighbours.ids) != len(found):
            raise UserError(
                f"{neighbours}: has captions for {len(found.neighbours.ids)} segments, {segments} has {len(found)}; "
                "retrieve again with these segments"
            )
        return found

    def __len__(self) -> int:
        """Number of segments."""
        return len(self.segments.cluster)

    @cached_property
    def of_image(self) -> list[list[int]]:
        """Segments of each image, by cluster; an image may have none."""
        lists: list[list[int]] = [[] for _ in self.segments.images]
        image, cluster = self.segments.image.numpy(), self.segments.cluster.numpy()
        for segment in np.lexsort((cluster, image)).tolist():
            lists[image[segment]].append(segment)
        return lists

    def captions(self, segment: int, reading: Reading) -> list[str]:
        """Captions that a segment's words come from, the nearest first; none where the search found none."""
        places = self.neighbours.kept(segment, reading.num_samples, reading.dedup)
        return [self.neighbours.text(int(self.neighbours.ids[segment, place])) for place in places]


@dataclass(frozen=True)
class Candidates:
    """Candidate words of all segments under one reading, as numbers laid end to end: a million segments stay small."""

    starts: array[int]
    numbers: array[int]

    def of(self, segment: int) -> list[int]:
        """Numbers of a segment's words, in the order of the words."""
        return self.numbers[self.starts[segment] : self.starts[segment + 1]].tolist()


def read_candidates(found: Found, readings: Iterable[Reading], vocabulary: dict[str, int]) -> dict[Reading, Candidates]:
    """Candidate words of every segment, for each reading once.

    Args:
        found: segments and captions.
        readings: of all rows that have these.
        vocabulary: word -> number; new words are added.

    Raises:
        UserError: a tagger is not to be had, or more captions are asked for than were kept.
    """
    lists = {reading: Candidates(array("q", [0]), array("i")) for reading in readings}
    taggers = {name: load_tagger(name) for name in sorted({each.tagger for each in lists})}
    singulars = {name: load_singular(name) for name in sorted({each.singular for each in lists})}
    progress = Progress(f"words of {found.directory.name}", len(found), "segments")
    for segment in range(len(found)):
        for reading, words in lists.items():
            captions = found.captions(segment, reading)
            for word in reading.candidates(captions, taggers[reading.tagger], singulars[reading.singular]):
                words.numbers.append(vocabulary.setdefault(word, len(vocabulary)))
            words.starts.append(len(words.numbers))
        progress(segment + 1)
    return lists


@dataclass(frozen=True)
class Chosen:
    """The word of every segment: its number (S,) int32 and its score (S,) float32."""

    word: npt.NDArray[np.int32]
    score: Floats


def choose_words(
    found: Found,
    candidates: Candidates,
    vocabulary: Mapping[str, int],
    vectors: Floats,
    foreign_words: Literal["zero", "excluded"],
) -> Chosen:
    """The word of every segment.

    Args:
        found: segments and captions.
        candidates: of every segment.
        vocabulary: word -> number.
        vectors: (V, D) unit, CLIP's of the vocabulary.
        foreign_words: see ``Naming``.
    """
    words = list(vocabulary)
    chosen = Chosen(np.zeros(len(found), np.int32), np.zeros(len(found), np.float32))
    embeddings = found.segments.embeddings.numpy()
    for segments in found.of_image:
        own = [candidates.of(segment) for segment in segments]
        texts = [[words[number] for number in each] for each in own]
        for place, segment in enumerate(segments):
            scores = cosines(embeddings[segment], vectors[own[place]])
            foreign = foreign_of(place, texts) if foreign_words == "zero" else ()
            word, chosen.score[segment] = choose(scores, texts[place], foreign)
            chosen.word[segment] = vocabulary[word]
    return chosen


@dataclass(frozen=True)
class Named:
    """What one row says of every segment.

    found, reading, candidates, chosen: as above. words: the vocabulary. class_index: (S,) int64, -1 = no class is
    similar enough. similarity: (S,) float32, of the word and the most similar class.
    """

    found: Found
    reading: Reading
    candidates: Candidates
    chosen: Chosen
    words: Sequence[str]
    class_index: npt.NDArray[np.int64]
    similarity: Floats

    def record(self, segment: int, class_names: Mapping[int, str]) -> dict[str, object]:
        """A segment as plain types; ``class`` and ``class_index`` are null below the threshold."""
        segments, index = self.found.segments, int(self.class_index[segment])
        return {
            "image": segments.images[int(segments.image[segment])],
            "cluster": int(segments.cluster[segment]),
            "pixels": int(segments.pixels[segment]),
            "word": self.words[int(self.chosen.word[segment])],
            "score": round(float(self.chosen.score[segment]), 6),
            "class": class_names.get(index),
            "class_index": index if index >= 0 else None,
            "similarity": round(float(self.similarity[segment]), 6),
            "candidates": [self.words[number] for number in self.candidates.of(segment)],
            "captions": self.found.captions(segment, self.reading),
        }
