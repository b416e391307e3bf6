"""Sentence-BERT (Reimers and Gurevych 2019): unit vectors of texts, by sentence-transformers.

Any encoder of one transformer, pooling and unit length will do; TAG (section 3.3) uses all-mpnet-base-v2.
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
from torch import Tensor

from ovss.errors import UserError
from ovss.models.clip import WEIGHTS_FILE, read_state
from ovss.models.sentence_library import import_sentence_transformers

MODULES_FILE = "modules.json"
FLAT = {"1_Pooling_config.json": "1_Pooling/config.json"}
"""Files that are fetched under a name without a folder."""
_NEEDED = ("config.json", "tokenizer.json", *FLAT.values())
_MODULES = ["Transformer", "Pooling", "Normalize"]
# Texts of one batch; a smaller batch is filled up, since the shape of a matrix product can change its last bits.
_ROWS = 32
_TOKENISED = 1024


@dataclass(frozen=True)
class SentenceEncoder:
    """A sentence encoder; ``model``: a SentenceTransformer."""

    model: Any

    @property
    def dimension(self) -> int:
        """Length d of a vector."""
        return int(self.model.get_embedding_dimension())

    @torch.inference_mode()
    def encode(self, texts: Sequence[str]) -> Tensor:
        """Vectors of texts; each depends on its own text alone.

        Returns:
            (len(texts), d) float32, unit norm, on the encoder's device.
        """
        found = torch.empty(len(texts), self.dimension, device=self.model.device)
        for numbers in _batches(self._lengths(texts)):
            filled = [texts[number] for number in numbers + numbers[-1:] * (_ROWS - len(numbers))]
            made = self.model.encode(filled, batch_size=_ROWS, show_progress_bar=False, convert_to_tensor=True,
                                     normalize_embeddings=True)  # fmt: skip
            found[numbers] = made[: len(numbers)]
        return found

    def _lengths(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text that the model sees."""
        parts = [list(texts[start : start + _TOKENISED]) for start in range(0, len(texts), _TOKENISED)]
        return [int(count) for part in parts for count in self.model.preprocess(part)["attention_mask"].sum(dim=1)]


def _batches(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Numbers of texts that have equally many tokens (so none is padded), at most ``_ROWS`` at a time."""
    groups: dict[int, list[int]] = defaultdict(list)
    for number, length in enumerate(lengths):
        groups[length].append(number)
    for _, numbers in sorted(groups.items()):
        for start in range(0, len(numbers), _ROWS):
            yield numbers[start : start + _ROWS]


def load_sentences(directory: Path, device: str = "cpu") -> SentenceEncoder:
    """Load a directory of sentence-transformers, float32, from its own files alone; no code and no pickle among them.

    Raises:
        UserError: it is none, its kind is not known here, or a file is missing or damaged.
    """
    _check_modules(directory / MODULES_FILE)
    for name in _NEEDED:
        _read(directory / name)
    names = set(read_state(directory / WEIGHTS_FILE))
    options = {"use_safetensors": True, "dtype": torch.float32}
    try:
        model = import_sentence_transformers().SentenceTransformer(
            str(directory), device=device, local_files_only=True, trust_remote_code=False, model_kwargs=options
        )
    except Exception as error:  # the libraries raise nothing more precise
        reason = " ".join(str(error).split())
        raise UserError(f"{directory}: weights and configuration do not fit: {reason:.300}; make it again") from error
    _check_complete(model, names, directory / WEIGHTS_FILE)
    return SentenceEncoder(model.eval().requires_grad_(False))


def _check_modules(path: Path) -> None:
    try:
        kinds = [str(module["type"]).rpartition(".")[2] for module in _read(path)]
    except (KeyError, TypeError):
        kinds = []
    if kinds != _MODULES:
        raise UserError(f"{path}: a sentence encoder has {', '.join(_MODULES)}; use one of those")


def _check_complete(model: Any, names: set[str], path: Path) -> None:
    """Refuse an encoder with tensors that the file lacks: the library fills them with random numbers.

    A pooler is not used. The file may put the name of the family before every name.
    """
    own = {name.rpartition("bert.")[2].removeprefix("mpnet.") for name in names}
    needed = [name for name in model[0].model.state_dict() if not name.startswith("pooler.")]
    if missing := [name for name in needed if name not in own]:
        raise UserError(f"{path}: lacks {len(missing)} tensors, {missing[0]} first; fetch it again")


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
    encoder = load_sentences(out)
    try:
        vector = encoder.encode(["a word"])
    except (RuntimeError, IndexError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{source}: weights and configuration do not fit: {reason:.300}") from error
    if not bool(vector.isfinite().all()):
        raise UserError(f"{source / WEIGHTS_FILE}: its vectors are not finite numbers; fetch it again")
    return sum(value.numel() for value in encoder.model.parameters())
