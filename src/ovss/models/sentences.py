"""Sentence-BERT (Reimers and Gurevych 2019): unit vectors of texts, from a directory of sentence-transformers.

Only the kind that TAG uses (section 3.3) is read: a BERT or MPNet encoder, the mean over its tokens, unit length.
"""

from __future__ import annotations

import json
import shutil
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import Tensor

from ovss.errors import UserError
from ovss.models.bert import Bert
from ovss.models.clip import WEIGHTS_FILE, read_state

MODULES_FILE, CONFIG_FILE, TOKENIZER_FILE = "modules.json", "config.json", "tokenizer.json"
LIMITS_FILE, POOLING_FILE = "sentence_bert_config.json", "1_Pooling/config.json"
FLAT = {"1_Pooling_config.json": POOLING_FILE}
"""Files that are fetched under a name without a folder."""
_MODULES = ["Transformer", "Pooling", "Normalize"]
_MEAN = "pooling_mode_mean_tokens"
# Texts of one batch; a smaller batch is filled up, since the shape of a matrix product can change its last bits.
_ROWS = 32


@dataclass(frozen=True)
class SentenceEncoder:
    """A sentence encoder. lower: texts are put in lower case first."""

    network: Bert
    tokenizer: Any
    lower: bool

    @property
    def dimension(self) -> int:
        """Length d of a vector."""
        return self.network.dimension

    @torch.inference_mode()
    def encode(self, texts: Sequence[str]) -> Tensor:
        """Vectors of texts; each depends on its own text alone.

        Returns:
            (len(texts), d) float32, unit norm, on the encoder's device.
        """
        table = next(iter(self.network.state.values()))
        found = torch.empty(len(texts), self.dimension, device=table.device)
        tokens = [self.tokenizer.encode(self._cleaned(text)).ids for text in texts]
        for numbers in _batches(tokens):
            filled = numbers + numbers[-1:] * (_ROWS - len(numbers))
            hidden = self.network(torch.tensor([tokens[number] for number in filled], device=table.device))
            found[numbers] = F.normalize(hidden.mean(dim=1), dim=-1)[: len(numbers)]
        return found

    def _cleaned(self, text: str) -> str:
        text = text.strip()
        return text.lower() if self.lower else text


def _batches(tokens: Sequence[Sequence[int]]) -> Iterator[list[int]]:
    """Numbers of texts that have equally many tokens, at most ``_ROWS`` at a time."""
    groups: dict[int, list[int]] = defaultdict(list)
    for number, each in enumerate(tokens):
        groups[len(each)].append(number)
    for _, numbers in sorted(groups.items()):
        for start in range(0, len(numbers), _ROWS):
            yield numbers[start : start + _ROWS]


def load_sentences(directory: Path, device: str = "cpu") -> SentenceEncoder:
    """Load a directory of sentence-transformers, from its own files alone.

    Raises:
        UserError: it is none, its kind is not known here, or a file is missing or damaged.
    """
    modules = _read(directory / MODULES_FILE)
    try:
        kinds = [str(module["type"]).rpartition(".")[2] for module in modules]
    except (KeyError, TypeError):
        kinds = []
    if kinds != _MODULES:
        raise UserError(f"{directory / MODULES_FILE}: a sentence encoder has {', '.join(_MODULES)}; use one of those")
    pooling, limits, config = (_read(directory / name) for name in (POOLING_FILE, LIMITS_FILE, CONFIG_FILE))
    asked = [key for key, value in pooling.items() if key.startswith("pooling_mode") and value is True]
    if asked != [_MEAN]:
        raise UserError(f"{directory / POOLING_FILE}: only {_MEAN} is known here; use an encoder with it")
    state = read_state(directory / WEIGHTS_FILE)
    try:
        network = Bert.of(config, state, device)
        longest = min(int(limits["max_seq_length"]), network.longest)
    except UserError as error:
        raise UserError(f"{directory}: {error}") from error
    except (KeyError, TypeError, ValueError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise UserError(f"{directory}: {CONFIG_FILE} or {LIMITS_FILE} is damaged ({reason}); make it again") from error
    return SentenceEncoder(network, _tokenizer(directory, longest), bool(limits.get("do_lower_case")))


def _tokenizer(directory: Path, longest: int) -> Any:
    path = directory / TOKENIZER_FILE
    try:
        tokenizer = Tokenizer.from_str(path.read_text(encoding="utf-8"))
    except Exception as error:  # the library raises nothing more precise
        raise UserError(
            f"{path}: not a readable tokenizer ({' '.join(str(error).split()):.200}); fetch it again"
        ) from error
    tokenizer.no_padding()
    tokenizer.enable_truncation(max_length=longest)
    return tokenizer


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not readable, so this is no sentence encoder ({error}); make it again") from error


def write_sentences(out: Path, source: Path, files: Sequence[str]) -> int:
    """Copy a downloaded encoder into the layout of sentence-transformers, check that it encodes.

    Args:
        out: folder to fill.
        source: folder with the downloaded files.
        files: their names, without folders (see ``FLAT``).

    Returns:
        Number of parameters.

    Raises:
        UserError: a file is missing or damaged, or weights and configuration do not fit.
    """
    for name in files:
        target = out / FLAT.get(name, name)
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            shutil.copyfile(source / name, target)
        except OSError as error:
            raise UserError(f"{source / name}: cannot be copied ({error.strerror}); fetch the weights again") from error
    try:
        vector = load_sentences(out).encode(["a word"])
    except (RuntimeError, IndexError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{source}: weights and configuration do not fit: {reason:.300}") from error
    if not bool(vector.isfinite().all()):
        raise UserError(f"{source / WEIGHTS_FILE}: its vectors are not finite numbers; fetch it again")
    return sum(value.numel() for value in read_state(out / WEIGHTS_FILE).values() if value.is_floating_point())
