"""Text features of class names: ensembles of prompts or descriptions, encoded once per (model, vocabulary) and kept.

Source: CLIP (Radford et al. 2021, section 3.1.4): encode every prompt of a word, normalise, mean, normalise again.
FreeCP (section 4.2) averages the sentences that describe a word in the same way.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from ovss.data.descriptions import read_sentences, sentences_of
from ovss.errors import UserError
from ovss.jobs import Item, JobContext
from ovss.models.clip import Clip, load_clip, read_state
from ovss.models.templates import templates

FEATURES_FILE = "features.safetensors"
QUERIES_FILE = "text.json"


@dataclass(frozen=True)
class Vocabulary:
    """Queries of a data set and their features.

    queries: Q words. features: (Q, D) float32, unit norm. query_class: (Q,) int64, class of each query, ascending.
    descriptions: (Q, D), features of the same words by their descriptions; None: the row has none. background: class 0
    is "none of the others".
    """

    queries: tuple[str, ...]
    features: Tensor
    query_class: Tensor
    descriptions: Tensor | None = None
    background: bool = False

    @cached_property
    def fingerprint(self) -> str:
        """Digest of the features: equal for vocabularies that no score can tell apart."""
        return hashlib.sha256(self.features.cpu().numpy().tobytes()).hexdigest()

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return int(self.query_class[-1]) + 1

    @property
    def num_background(self) -> int:
        """Queries of class 0, the background where the data set has one."""
        return int((self.query_class == 0).sum())


def query_list(classes: Sequence[Sequence[str]]) -> tuple[tuple[str, ...], Tensor]:
    """Flatten the names of each class into queries.

    Args:
        classes: names of each class, in class order; every name is a query.

    Returns:
        (queries, class of each query (Q,) int64).

    Raises:
        UserError: no class, a class without a name, or two classes with the same names.
    """
    if not classes:
        raise UserError("class names: the list is empty; name at least one class")
    seen: dict[tuple[str, ...], int] = {}
    for number, names in enumerate(classes):
        if not names or not all(name.strip() for name in names):
            raise UserError(f"class names: class {number} has an empty name; every class needs one")
        first = seen.setdefault(tuple(names), number)
        if first != number:
            raise UserError(
                f"class names: classes {first} and {number} are both '{', '.join(names)}'; "
                "no score can tell them apart, rename or remove one"
            )
    queries = tuple(name for names in classes for name in names)
    return queries, torch.tensor([number for number, names in enumerate(classes) for _ in names])


def encode_texts(clip: Clip, texts: Sequence[str]) -> Tensor:
    """Text encoder output, (len(texts), D) float32, not normalised.

    Padding behind the longest text is cut: attention is causal, so no text sees it.
    """
    tokens = clip.tokenizer(list(texts)).to(clip.device)
    if clip.model.text_pool_type == "argmax":
        tokens = tokens[:, : int(tokens.argmax(dim=-1).max()) + 1]
    return encode_tokens(clip, tokens)


def encode_tokens(clip: Clip, tokens: Tensor) -> Tensor:
    """Text encoder output of token numbers (n, length) on the model's device, (n, D) float32, not normalised."""
    model: Any = clip.model
    length = tokens.shape[1]
    hidden = model.token_embedding(tokens) + model.positional_embedding[:length]
    mask = None if model.attn_mask is None else model.attn_mask[:length, :length]
    hidden = model.ln_final(model.transformer(hidden, attn_mask=mask))
    pooled = _pool(model, hidden, tokens)
    projection = model.text_projection
    return projection(pooled) if isinstance(projection, torch.nn.Linear) else pooled @ projection


def _pool(model: Any, hidden: Tensor, tokens: Tensor) -> Tensor:
    if model.text_pool_type != "argmax":
        raise UserError(f"text tower: pooling '{model.text_pool_type}' is not supported; use 'argmax'")
    return hidden[torch.arange(len(tokens), device=tokens.device), tokens.argmax(dim=-1)]


def mean_feature(clip: Clip, texts: Sequence[str]) -> Tensor:
    """Normalised mean of the normalised features of some texts, (D,) float32."""
    return F.normalize(F.normalize(encode_texts(clip, texts), dim=-1).mean(dim=0), dim=-1)


def mean_embedding(embeddings: Tensor) -> Tensor:
    """Mean over templates before any normalisation, then unit length: (..., templates, D) -> (..., D).

    TCL's evaluation does it so (Cha et al. 2023, code); CLIP's own ensemble is ``mean_feature``.
    """
    return F.normalize(embeddings.mean(dim=-2), dim=-1)


def encode_words(clip: Clip, words: Sequence[str], forms: Sequence[str]) -> Tensor:
    """Prompt-ensemble features of words: word by word, so that no word's feature depends on the others.

    Args:
        clip: the model.
        words: class names or sentences.
        forms: templates, each with one ``{}``.

    Returns:
        (len(words), D) float32, unit norm.
    """
    return torch.stack([mean_feature(clip, fill(word, forms)) for word in words])


def fill(word: str, forms: Sequence[str]) -> tuple[str, ...]:
    """The prompts of a word."""
    return tuple(form.replace("{}", word) for form in forms)


def load_vocabulary(directory: Path, device: str = "cpu") -> Vocabulary:
    """Read what the stage ``text`` wrote.

    Raises:
        UserError: a file is missing or damaged.
    """
    state = read_state(directory / FEATURES_FILE)
    try:
        queries = json.loads((directory / QUERIES_FILE).read_text(encoding="utf-8"))["queries"]
        features, query_class = state["query_features"], state["query_class"]
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{directory}: text features cannot be read ({error}); make them again") from error
    return Vocabulary(tuple(queries), features.to(device), query_class.to(device))


@torch.inference_mode()
def run(ctx: JobContext) -> None:
    """Stage ``text``: features of every vocabulary of a pass with one model.

    Item parameters: ``queries`` (names of each class) and ``templates``, a name of ``ovss.models.templates``, or any
    name together with ``template_lines``, ``sentences`` ({word: [sentence, ...]}) or ``sentences_file`` (a file in the
    folder of the input ``sentences``; without it ``sentences.json``). Sentences are encoded as they are, without a
    template. What several vocabularies of the pass share is encoded once. Embeddings are averaged by ``mean_feature``,
    with the templates ``tcl`` by ``mean_embedding``.

    Raises:
        UserError: a word has no sentence (the message names the set and the word), or the sentences cannot be read.
    """
    (model,) = {item.inputs["model"] for item in ctx.items.values()}
    clip = load_clip(model, ctx.machine.device)
    made: dict[tuple[bool, tuple[str, ...]], Tensor] = {}
    for name, item in ctx.items.items():
        queries, query_class = query_list(item.params["queries"])
        texts, mean_first = _texts(item, queries), item.params["templates"] == "tcl"
        for ensemble in texts:
            if (mean_first, ensemble) not in made:
                found = mean_embedding(encode_texts(clip, ensemble)) if mean_first else mean_feature(clip, ensemble)
                made[mean_first, ensemble] = found.cpu()
        features = torch.stack([made[mean_first, ensemble] for ensemble in texts])
        _write(item.out, queries, features, query_class)
        facts = {"classes": int(query_class[-1]) + 1, "texts": sum(len(ensemble) for ensemble in texts)}
        ctx.finish(name, {"queries": len(queries), **facts})


def _texts(item: Item, queries: Sequence[str]) -> list[tuple[str, ...]]:
    """What is encoded for each query: its own sentences, or the templates filled with it."""
    table = _sentences(item)
    if table is None:
        forms = templates(item.params["templates"], item.params.get("template_lines"))
        return [fill(word, forms) for word in queries]
    found = sentences_of(table, queries, f"descriptions {item.params['templates']}")
    return [found[word] for word in queries]


def _sentences(item: Item) -> Mapping[str, Sequence[str]] | None:
    """Sentences of the item by query word, from its parameters or its input; None: it has none."""
    if "sentences" in item.inputs:
        return read_sentences(item.inputs["sentences"] / item.params.get("sentences_file", "sentences.json"))
    given: Mapping[str, Sequence[str]] | None = item.params.get("sentences")
    return given


def _write(out: Path, queries: Sequence[str], features: Tensor, query_class: Tensor) -> None:
    save_file({"query_features": features.contiguous(), "query_class": query_class}, out / FEATURES_FILE)
    record = {"queries": list(queries), "query_class": query_class.tolist()}
    text = json.dumps(record, sort_keys=True, indent=1, ensure_ascii=False)
    (out / QUERIES_FILE).write_text(text + "\n", encoding="utf-8")
