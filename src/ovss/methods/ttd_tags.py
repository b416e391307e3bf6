"""TTD's tagging: which words of a caption an image shows (Jo et al. 2024, section 3.1, Tables 2, 8 and 9), and how much
it shows each of a list of classes (Table 10).

The model is a base of TTD, trained or not. The two baselines of Table 2a look at the caption alone: nouns, and a
language model's answer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from ovss.data.captions_words import CaptionWords, nouns, without_stop_words
from ovss.errors import UserError
from ovss.evaluation.progress import Progress
from ovss.methods._ttd_llm import llm_tags, load_llm
from ovss.methods._ttd_scores import Pool, Range, Scoring, Selection, TagSelection, select, tag_scores
from ovss.models.ttd_base import Base, BaseModel
from ovss.retrieval.taggers import load_tagger

FromText = Literal["nouns", "llm"]
# Captions between two lines of progress of a language model.
_ASKED = 512


@dataclass(frozen=True)
class Settings:
    """Every constant of the method.

    base: which model, see ``ovss.models.ttd_base``. scoring: a score of ``TagSelection``, or ``nouns`` and ``llm``,
    which need no image and rank nothing. selection, threshold, score_range, scale, pool: see ``TagSelection``.
    mirrored: an image and its mirror image count together as the mean of their pixel embeddings, or each gives scores
    and the scores are averaged (the paper does not say). stop_words: ``reject`` drops them after the selection (the
    README's ``--stopwords``). tagger: gives the nouns, see ``ovss.retrieval.taggers``.

    Raises:
        UserError: a name that is not known, or a number out of range.
    """

    base: Base = "tcl"
    scoring: Scoring | FromText = "pixel"
    selection: Selection = "largest_gap"
    threshold: float = 0.5
    score_range: Range = "softmax"
    scale: float = 100.0
    pool: Pool = "raw"
    mirrored: Literal["embeddings", "scores"] = "embeddings"
    stop_words: Literal["keep", "reject"] = "keep"
    tagger: str = "pattern"

    def __post_init__(self) -> None:
        """Refuse what means nothing."""
        if not self.from_text:
            self.tag_selection()

    @property
    def from_text(self) -> bool:
        """Whether the words are chosen without the image."""
        return self.scoring in get_args(FromText)

    def tag_selection(self) -> TagSelection:
        """The part that scores by the image.

        Raises:
            UserError: see ``TagSelection``.
        """
        scoring: Any = self.scoring
        return TagSelection(scoring, self.selection, self.threshold, self.score_range, self.scale, self.pool)


def view_embeddings(model: BaseModel, image: Tensor, flip: bool) -> list[Tensor]:
    """Pixel embeddings of an image, and of its mirror image turned back: (3, H, W) -> one or two (D, h, w)."""
    views = torch.stack([image, image.flip(-1)] if flip else [image])
    found = list(model.pixel_embeddings(views))
    return [found[0], *(mirrored.flip(-1) for mirrored in found[1:])]


def word_scores(views: Sequence[Tensor], caption: Tensor, tags: Tensor, settings: Settings) -> Tensor:
    """Scores of a caption's tags, of ``tag_scores``.

    Args:
        views: pixel embeddings (D, h, w) of ``view_embeddings``.
        caption: (D,).
        tags: (n, D).
        settings: how.

    Returns:
        (n,) float32; higher is likelier to be seen.
    """
    if not len(tags):
        return tags.new_zeros(0)
    how = settings.tag_selection()
    if settings.mirrored == "embeddings":
        return tag_scores(torch.stack(list(views)).mean(dim=0), caption, tags, how)
    return torch.stack([tag_scores(view, caption, tags, how) for view in views]).mean(dim=0)


def choose(caption: CaptionWords, scores: Tensor, settings: Settings) -> list[bool]:
    """Which tags of a caption are taken to be in the image, (n) bool; ``scores`` (n,) are those of ``word_scores``."""
    return _without(caption, select(scores, settings.tag_selection()).tolist(), settings)


def choose_by_text(
    captions: Sequence[CaptionWords], settings: Settings, llm: Path | None = None, device: str = "cpu"
) -> list[list[bool]]:
    """Which tags of each caption are taken to be in its image, without looking at it.

    Args:
        captions: any number.
        settings: scoring ``nouns`` or ``llm``.
        llm: directory of the language model, for ``llm``.
        device: where it runs.

    Raises:
        UserError: the language model or the tagger is not there.
    """
    if settings.scoring == "nouns":
        tagger = load_tagger(settings.tagger)
        found = [nouns(caption, tagger) for caption in captions]
    elif llm is None:
        raise UserError("settings.scoring: llm needs a language model; name one as the row's companion 'llm'")
    else:
        found = list(_answers(captions, llm, device))
    return [_without(caption, chosen, settings) for caption, chosen in zip(captions, found, strict=True)]


def class_scores(model: BaseModel, image: Tensor, text: Tensor, settings: Settings) -> Tensor:
    """How much an image shows each class, comparable between images (Table 10).

    Args:
        model: base model.
        image: (3, H, W) float32, normalised RGB, on the model's device.
        text: (N, D) class embeddings.
        settings: scoring pixel, image or segment_share.

    Returns:
        (N,) float32.

    Raises:
        UserError: a scoring that needs a caption.
    """
    if settings.scoring not in ("pixel", "image", "segment_share"):
        raise UserError(f"settings.scoring: {settings.scoring} needs a caption, which concepts do not have; use pixel")
    how = TagSelection(settings.scoring, pool=settings.pool)  # cosines: a range over the classes would hide the image
    (pixels,) = view_embeddings(model, image, flip=False)
    return tag_scores(pixels, text[0], text, how)


def _without(caption: CaptionWords, chosen: Sequence[bool], settings: Settings) -> list[bool]:
    return without_stop_words(caption, chosen) if settings.stop_words == "reject" else list(chosen)


def _answers(captions: Sequence[CaptionWords], llm: Path, device: str) -> Iterator[list[bool]]:
    # A large model needs all GPUs there are.
    model = load_llm(llm, device if device == "cpu" else "auto")
    progress = Progress("language model", len(captions), "captions")
    for start in range(0, len(captions), _ASKED):
        yield from llm_tags(captions[start : start + _ASKED], model)
        progress(min(start + _ASKED, len(captions)))
