"""Words selected by other means than the model in training: nouns, or a language model's answers (Table 5b, Table 8).

Nouns are found batch by batch. A language model is asked about all captions before the training, so that it need not
share its memory; the answers are kept in parts, from which a killed run goes on.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ovss.data.captions_words import CaptionWords, nouns
from ovss.evaluation.progress import Progress
from ovss.methods._ttd_llm import LanguageModel, llm_tags
from ovss.retrieval.taggers import load_tagger
from ovss.training.ttd.step import Batch

Tags = Callable[[Sequence[str]], list[list[bool]]]
"""From captions to which of the words of each are selected, (n) bool."""
PART = 1024
_ARRAYS = ("keys", "lengths", "chosen")


class Captions(Protocol):
    """Captions by position, as ``ovss.data.pairs.Pairs`` has them without reading images."""

    def __len__(self) -> int:
        """Number of captions."""

    def caption(self, position: int) -> str:
        """The caption at a position."""


def noun_tags(name: str) -> Tags:
    """Selects the words that a part-of-speech tagger calls nouns; ``name``: see ``ovss.retrieval.taggers``."""
    tagger = load_tagger(name)
    return lambda captions: [nouns(CaptionWords.of(caption), tagger) for caption in captions]


def with_tags(batches: Iterable[Batch], tags: Tags | None) -> Iterator[Batch]:
    """The batches with the words that ``tags`` selects; None: as they are."""
    return (batch if tags is None else replace(batch, chosen=tags(batch.captions)) for batch in batches)


def ask_llm(pairs: Captions, load: Callable[[], LanguageModel], folder: Path, part: int = PART) -> None:
    """Ask a language model about the captions of all pairs and keep its answers in ``folder``.

    Args:
        pairs: N pairs.
        load: loads the model; not called where every answer is there.
        folder: gets ``llm_<number>.npz`` for every ``part`` pairs.
        part: pairs between savings. The answers depend on it in their last bit at most: it decides what is asked
            together.
    """
    starts = [*range(0, len(pairs), part), len(pairs)]
    paths = [folder / f"llm_{number:06d}.npz" for number in range(len(starts) - 1)]
    model = None if all(path.exists() for path in paths) else load()
    progress = Progress("language model", len(pairs), "captions")
    for path, (start, end) in zip(paths, pairwise(starts), strict=True):
        if model is not None and not path.exists():
            captions = [pairs.caption(position) for position in range(start, end)]
            _save(path, captions, llm_tags([CaptionWords.of(caption) for caption in captions], model))
            progress(end)


def _save(path: Path, captions: Sequence[str], chosen: Sequence[Sequence[bool]]) -> None:
    unfinished = path.with_suffix(".part")
    with unfinished.open("wb") as file:
        np.savez(
            file,
            keys=_keys(captions),
            lengths=np.array([len(row) for row in chosen], np.int64),
            chosen=np.array([each for row in chosen for each in row], bool),
        )
    os.replace(unfinished, path)


def _read(path: Path) -> list[NDArray[Any]]:
    with np.load(path, allow_pickle=False) as file:
        return [file[name] for name in _ARRAYS]


def _keys(captions: Sequence[str]) -> NDArray[np.uint64]:
    """Captions as numbers; two of 10 million share one with a probability of 1 to 400,000."""
    digests = b"".join(hashlib.sha256(caption.encode()).digest()[:8] for caption in captions)
    return np.frombuffer(digests, "<u8")


class LlmAnswers:
    """The answers that ``ask_llm`` left in a folder; of a caption that occurs twice the first."""

    def __init__(self, folder: Path) -> None:
        parts = [_read(path) for path in sorted(folder.glob("llm_*.npz"))]
        keys, lengths, self._chosen = (np.concatenate(column) for column in zip(*parts, strict=True))
        self._keys, first = np.unique(keys, return_index=True)
        self._starts, self._lengths = (np.cumsum(lengths) - lengths)[first], lengths[first]

    def __call__(self, captions: Sequence[str]) -> list[list[bool]]:
        """Selected words of captions that the model was asked about."""
        rows = np.searchsorted(self._keys, _keys(captions))
        spans = zip(self._starts[rows], self._lengths[rows], strict=True)
        return [self._chosen[start : start + length].tolist() for start, length in spans]
