"""BERT and MPNet encoders, run on the tensors of a checkpoint alone.

transformers has both, but importing its BERT costs 14 CPU seconds and sentence_transformers 20, in every process that
asks for the class of a word; this file costs none. Texts of one batch have the same number of tokens, so there is no
padding and no mask. Sources: BERT (Devlin et al. 2019), MPNet (Song et al. 2020; relative positions as in T5).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ovss.errors import UserError

_FURTHEST = 128
_RELATIVE = "encoder.relative_attention_bias"


@dataclass(frozen=True)
class Names:
    """What a family calls the parts of a layer's attention, and the row of its first position."""

    query: str
    key: str
    value: str
    out: str
    norm: str
    first_position: int


FAMILIES: Mapping[str, Names] = {
    "bert": Names("attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense",
                  "attention.output.LayerNorm", 0),
    "mpnet": Names("attention.attn.q", "attention.attn.k", "attention.attn.v", "attention.attn.o",
                   "attention.LayerNorm", 2),
}  # fmt: skip
"""Names by the configuration's ``model_type``."""


@dataclass(frozen=True)
class Bert:
    """An encoder. state: its tensors, float32, under the names of transformers. eps: of every layer norm."""

    family: str
    state: Mapping[str, Tensor]
    layers: int
    heads: int
    eps: float

    @classmethod
    def of(cls, config: Mapping[str, Any], state: Mapping[str, Tensor], device: str = "cpu") -> Bert:
        """From a configuration and a checkpoint of transformers; tensors that are not needed are left out.

        Raises:
            UserError: another family or activation, or a tensor is missing.
            KeyError, TypeError, ValueError: the configuration lacks a value or has one of another type.
        """
        family, activation = config["model_type"], config["hidden_act"]
        if family not in FAMILIES or activation != "gelu":
            raise UserError(
                f"model_type '{family}' with hidden_act '{activation}': a sentence encoder is one of "
                f"{', '.join(FAMILIES)} with gelu; use one of those"
            )
        layers, heads = int(config["num_hidden_layers"]), int(config["num_attention_heads"])
        needed = list(_needed(family, layers))
        if missing := [name for name in needed if name not in state]:
            raise UserError(f"the weights lack {len(missing)} tensors, {missing[0]} first; fetch them again")
        kept = {name: state[name].float().to(device) for name in needed}
        return cls(family, kept, layers, heads, float(config["layer_norm_eps"]))

    @property
    def dimension(self) -> int:
        """Width D."""
        return self._table("embeddings.word_embeddings").shape[1]

    @property
    def longest(self) -> int:
        """Most tokens that a text can have."""
        return self._table("embeddings.position_embeddings").shape[0] - FAMILIES[self.family].first_position

    def __call__(self, tokens: Tensor) -> Tensor:
        """Hidden states after the last layer.

        Args:
            tokens: (n, L) int64, special tokens among them, none of them padding.

        Returns:
            (n, L, D) float32.
        """
        names = FAMILIES[self.family]
        length = tokens.shape[1]
        hidden = self._table("embeddings.word_embeddings")[tokens]
        if self.family == "bert":
            hidden = hidden + self._table("embeddings.token_type_embeddings")[0]
        first = names.first_position
        hidden = hidden + self._table("embeddings.position_embeddings")[first : first + length]
        hidden = self._norm(hidden, "embeddings.LayerNorm")
        bias = self._relative(length) if self.family == "mpnet" else None
        for number in range(self.layers):
            hidden = self._layer(hidden, f"encoder.layer.{number}.", bias, names)
        return hidden

    def _layer(self, hidden: Tensor, at: str, bias: Tensor | None, names: Names) -> Tensor:
        parts = (self._linear(hidden, at + name) for name in (names.query, names.key, names.value))
        query, key, value = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in parts)
        scores = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])
        mixed = (scores if bias is None else scores + bias).softmax(dim=-1) @ value
        attended = self._linear(mixed.transpose(1, 2).flatten(-2), at + names.out)
        hidden = self._norm(hidden + attended, at + names.norm)
        inner = F.gelu(self._linear(hidden, at + "intermediate.dense"))
        return self._norm(hidden + self._linear(inner, at + "output.dense"), at + "output.LayerNorm")

    def _relative(self, length: int) -> Tensor:
        """Bias of every head by the distance of two tokens, (heads, L, L)."""
        table = self._table(_RELATIVE)
        position = torch.arange(length, device=table.device)
        return table[_bucket(position[:, None] - position[None], len(table))].permute(2, 0, 1)

    def _table(self, name: str) -> Tensor:
        return self.state[f"{name}.weight"]

    def _linear(self, hidden: Tensor, name: str) -> Tensor:
        return F.linear(hidden, self.state[f"{name}.weight"], self.state[f"{name}.bias"])

    def _norm(self, hidden: Tensor, name: str) -> Tensor:
        weight, bias = self.state[f"{name}.weight"], self.state[f"{name}.bias"]
        return F.layer_norm(hidden, weight.shape, weight, bias, self.eps)


def _needed(family: str, layers: int) -> Iterator[str]:
    """Names of the tensors that an encoder reads."""
    for table in ("word", "position", *(["token_type"] if family == "bert" else [])):
        yield f"embeddings.{table}_embeddings.weight"
    if family == "mpnet":
        yield f"{_RELATIVE}.weight"
    names = FAMILIES[family]
    parts = (names.query, names.key, names.value, names.out, names.norm, "intermediate.dense", "output.dense",
             "output.LayerNorm")  # fmt: skip
    layered = [f"encoder.layer.{number}.{part}" for number in range(layers) for part in parts]
    for part in ("embeddings.LayerNorm", *layered):
        yield f"{part}.weight"
        yield f"{part}.bias"


def _bucket(distance: Tensor, buckets: int) -> Tensor:
    """Row of the bias table: exact for near tokens, by logarithm further off; half of the rows for later tokens.

    Args:
        distance: integers, position of the query minus position of the key.
        buckets: rows of the table.
    """
    half = buckets // 2
    exact = half // 2
    far = distance.abs()
    share = torch.log(far.clamp(min=1).float() / exact) / math.log(_FURTHEST / exact)
    spread = (exact + (share * (half - exact)).long()).clamp(max=half - 1)
    return torch.where(far < exact, far, spread) + (distance < 0) * half
