"""Words and classes of the segments of one source for all its rows, with text vectors that all sources share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ovss.errors import UserError
from ovss.evaluation.label_row import Row
from ovss.evaluation.named_segments import Candidates, Chosen, Found, Named, choose_words, read_candidates
from ovss.methods._tag_name import Floats, Reading, assign, prompt, similarities
from ovss.models.clip import load_clip
from ovss.models.sentences import load_sentences
from ovss.retrieval.encode import encode_unit


class TextVectors:
    """Vectors of texts; each text is encoded once."""

    def __init__(self, encode: Callable[[Sequence[str]], Tensor]) -> None:
        self._encode = encode
        self._place: dict[str, int] = {}
        self._table: Tensor | None = None

    def of(self, texts: Sequence[str]) -> Tensor:
        """Vectors, (len(texts), D) float32 on the CPU; a text's vector may not depend on the texts beside it."""
        new = [text for text in dict.fromkeys(texts) if text not in self._place]
        if new or self._table is None:
            made = self._encode(new).cpu()
            self._table = made if self._table is None else torch.cat([self._table, made])
            self._place |= {text: number for number, text in enumerate(new, len(self._place))}
        return self._table[[self._place[text] for text in texts]]


class Encoders:
    """CLIP's text tower and the sentence encoders of a pass: each is loaded once, when it is first needed."""

    def __init__(self, model: Path, device: str) -> None:
        self.model, self._device = model, device
        self._words: TextVectors | None = None
        self._sentences: dict[Path, TextVectors] = {}

    def words(self, words: Sequence[str]) -> Floats:
        """CLIP's vectors, (V, D)."""
        if self._words is None:
            clip = load_clip(self.model, self._device)
            self._words = TextVectors(lambda texts: encode_unit(clip, texts))
        found: Floats = self._words.of([prompt(word) for word in words]).numpy()
        return found

    def sentences(self, directory: Path) -> TextVectors:
        """Vectors of the sentence encoder of a directory."""
        if directory not in self._sentences:
            self._sentences[directory] = TextVectors(load_sentences(directory, self._device).encode)
        return self._sentences[directory]


@torch.inference_mode()
def name_segments(
    rows: Sequence[Row], found: Mapping[tuple[Path, Path], Found], encoders: Encoders
) -> dict[str, Named]:
    """Word and class of every segment for every row, by the row's name; what rows share is made once.

    Args:
        rows: of one source.
        found: segments and captions by ``Row.at``.
        encoders: of the pass.

    Raises:
        UserError: an input is damaged or does not belong to the others.
    """
    vocabulary: dict[str, int] = {}
    candidates: dict[tuple[tuple[Path, Path], Reading], Candidates] = {}
    for at, each in found.items():
        readings = dict.fromkeys(row.reading for row in rows if row.at == at)
        made = read_candidates(each, readings, vocabulary)
        candidates |= {(at, reading): words for reading, words in made.items()}
    words = list(vocabulary)
    vectors = encoders.words(words)
    _check_lengths([each for each in found.values() if len(each)], vectors, encoders.model)
    chosen = _choose(rows, found, candidates, vocabulary, vectors)
    similar = _similar(rows, chosen, words, encoders)
    named = {}
    for row in rows:
        used, table = similar[row.sentences, tuple(row.class_names.values())]
        best, similarity = assign(table, row.naming.threshold)
        index = np.where(best < 0, -1, best + min(row.class_names))
        place = np.searchsorted(used, chosen[row.name].word)
        named[row.name] = Named(found[row.at], row.reading, candidates[row.at, row.reading], chosen[row.name], words,
                                index[place], similarity[place])  # fmt: skip
    return named


def _check_lengths(found: Sequence[Found], vectors: Floats, model: Path) -> None:
    for each in found:
        length = each.segments.embeddings.shape[1]
        if length != vectors.shape[1]:
            raise UserError(
                f"{each.directory}: its embeddings have {length} values, texts of {model} have "
                f"{vectors.shape[1]}; make the segments with this model"
            )


def _choose(
    rows: Sequence[Row], found: Mapping[tuple[Path, Path], Found],
    candidates: Mapping[tuple[tuple[Path, Path], Reading], Candidates], vocabulary: Mapping[str, int], vectors: Floats,
) -> dict[str, Chosen]:  # fmt: skip
    """The words of every row, by its name; rows that choose alike share them."""
    shared: dict[tuple[Any, ...], Chosen] = {}
    chosen: dict[str, Chosen] = {}
    for row in rows:
        own, key = candidates[row.at, row.reading], (row.at, row.reading, row.naming.foreign_words)
        if key not in shared:
            shared[key] = choose_words(found[row.at], own, vocabulary, vectors, row.naming.foreign_words)
        chosen[row.name] = shared[key]
    return chosen


def _similar(
    rows: Sequence[Row], chosen: Mapping[str, Chosen], words: Sequence[str], encoders: Encoders
) -> dict[tuple[Path, tuple[str, ...]], tuple[npt.NDArray[np.int32], Floats]]:
    """By sentence encoder and class names: the words that some segment has, (V,), and their similarities, (V, C)."""
    similar = {}
    for directory in sorted({row.sentences for row in rows}):
        own = [row for row in rows if row.sentences == directory]
        used = np.unique(np.concatenate([chosen[row.name].word for row in own]))
        encoder = encoders.sentences(directory)
        vectors = encoder.of([words[number] for number in used])
        for names in dict.fromkeys(tuple(row.class_names.values()) for row in own):
            similar[directory, names] = used, similarities(vectors, encoder.of(names)).numpy()
    return similar
