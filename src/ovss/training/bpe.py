"""Byte-pair merges learnt from the world's captions, in the file format of open_clip's ``SimpleTokenizer``."""

from __future__ import annotations

import gzip
import itertools
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import regex
from open_clip.tokenizer import SimpleTokenizer, bytes_to_unicode

# the word pattern of SimpleTokenizer, without special tokens
WORDS = regex.compile(r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+", regex.IGNORECASE)
Pair = tuple[str, str]


def _merge(word: tuple[str, ...], pair: Pair) -> tuple[str, ...]:
    out: list[str] = []
    i = 0
    while i < len(word):
        if word[i : i + 2] == pair:
            out.append(pair[0] + pair[1])
            i += 2
        else:
            out.append(word[i])
            i += 1
    return tuple(out)


def learn_merges(texts: Iterable[str], count: int) -> list[Pair]:
    """At most ``count`` merges, most frequent pair first (ties: alphabetical); stops when every word is one token."""
    code = bytes_to_unicode()
    words: Counter[tuple[str, ...]] = Counter()
    for text in texts:
        for word in WORDS.findall(text.lower()):
            symbols = [code[b] for b in word.encode("utf-8")]
            words[(*symbols[:-1], symbols[-1] + "</w>")] += 1
    merges: list[Pair] = []
    while len(merges) < count:
        pairs: Counter[Pair] = Counter()
        for word, times in words.items():
            for pair in itertools.pairwise(word):
                pairs[pair] += times
        if not pairs:
            break
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        merged: Counter[tuple[str, ...]] = Counter()
        for word, times in words.items():
            merged[_merge(word, best)] += times
        words = merged
    return merges


def write_merges(path: Path, merges: list[Pair]) -> None:
    """Write the gzip file ``SimpleTokenizer`` reads: one header line, then a merge per line, no newline at the end."""
    text = "\n".join(["#version: ovss-repro", *(" ".join(pair) for pair in merges)])
    path.write_bytes(gzip.compress(text.encode("utf-8"), 9, mtime=0))


def load_tokenizer(path: Path, context_length: int) -> SimpleTokenizer:
    """The tokenizer of a merges file."""
    return SimpleTokenizer(bpe_path=str(path), context_length=context_length)
