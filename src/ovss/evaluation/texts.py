"""Stage ``evaluate_texts``: all rows of one source of images with texts and one model in one pass over the images.

A text is judged by the words that were chosen (tags), the mask that was made of it (captions, expressions), or the
scores of a list of concepts. One image with its texts is the unit of computation and of shards, so neither shards nor
the number of workers can change a result.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from ovss.data.captions_words import CaptionWords
from ovss.data.text_images import Text, TextImage, TextImages, read_texts
from ovss.errors import UserError
from ovss.evaluation.caption_metrics import count_mask
from ovss.evaluation.items import Concepts, ItemCounts, Mask, Words
from ovss.evaluation.progress import Progress
from ovss.evaluation.text_row import ImageTexts, Models, TextRow, read_row
from ovss.evaluation.trained_on import trained_on
from ovss.jobs import JobContext

EXAMPLES = "examples"
# Expressions of one image that are looked for at a time.
_TOGETHER = 32


def run(ctx: JobContext) -> None:
    """Evaluate every item of a pass; see the module.

    Item parameters: ``method``, ``settings``, ``protocol``, ``task``, ``template_lines`` (templates, where the protocol
    names none of ``ovss.models.templates``), ``source`` (its name), ``shard`` [index, count], ``examples``. Item
    inputs: ``model`` and ``source`` (output of ``ovss.data.prepare_texts``; the same for all items), and for words that
    a language model chooses ``companion_llm``. Output of an item: items.npz, texts.txt and, of masks,
    examples/<id>.png (255 = foreground) of the source's first texts.

    Raises:
        UserError: a row or an image is not usable, or the source does not have what the task judges by.
    """
    (model,) = {item.inputs["model"] for item in ctx.items.values()}
    (source,) = {item.inputs["source"] for item in ctx.items.values()}
    (shard,) = {tuple(item.params["shard"]) for item in ctx.items.values()}
    rows = [read_row(name, item) for name, item in sorted(ctx.items.items())]
    texts = read_texts(source)
    start, stop = shard_range(texts, shard)
    for task in sorted({row.task for row in rows}):
        check_texts(texts, task, source)
    for row in rows:
        if row.from_text:
            with row.clock():
                row.found.extend(words_by_text(row, texts[start:stop], ctx.machine.device))
    looking = [row for row in rows if not row.from_text]
    if looking:
        images = TextImages(source, start, stop, ctx.machine.workers)
        look(looking, images, start, Models(model, ctx.machine.device), source.name)
    for row in rows:
        _COLLECT[row.task](row.found).save(row.out)
        facts = {"texts": len(row.found), "seconds": round(row.seconds, 3)}
        ctx.finish(row.name, {**facts, **trained_on(model)})


def shard_range(texts: Sequence[Text], shard: Sequence[int]) -> tuple[int, int]:
    """Half-open range of the texts of shard [index, shards]; those of one image stay together."""
    starts = [place for place, text in enumerate(texts) if not place or text.image != texts[place - 1].image]
    starts.append(len(texts))
    index, shards = shard
    images = len(starts) - 1
    return starts[images * index // shards], starts[images * (index + 1) // shards]


def check_texts(texts: Sequence[Text], task: str, source: Path) -> None:
    """Refuse a source without what a task judges by.

    Raises:
        UserError: there is no text, or one lacks its true words or its mask, or lists of concepts differ.
    """
    masks = task in ("captions", "expressions")
    lacking = [text.id for text in texts if (text.mask if masks else text.relevant) is None]
    if lacking or not texts:
        what = "masks" if masks else "marks of the true words"
        first = f"text {lacking[0]} has none" if lacking else "there is no text"
        raise UserError(
            f"{source}: task '{task}' needs texts with {what}, and {first}; prepare another source or split"
        )
    if task == "concepts" and len({text.words for text in texts}) > 1:
        raise UserError(f"{source}: its images have different lists of concepts; prepare the source again")


def look(rows: Sequence[TextRow], images: TextImages, start: int, models: Models, name: str) -> None:
    """Judge every text for every row; ``start``: position of the first text in the source ``name``."""
    progress = Progress(f"evaluate {name}, {len(rows)} rows", len(images), "texts")
    done = start
    with torch.inference_mode():
        for image in by_image(images, start):
            for row in rows:
                with row.clock():
                    row.found.extend(_JUDGE[row.task](row, image, models))
            done = image.first + len(image.texts)
            progress(done - start)


def by_image(images: TextImages, start: int) -> Iterator[ImageTexts]:
    """The images with all their texts."""
    first = start
    for _, pairs in groupby(zip(images.texts, images, strict=True), key=lambda pair: pair[0].image):
        texts = [text for _, text in pairs]
        yield ImageTexts(texts, first)
        first += len(texts)


# Words


def words_by_text(row: TextRow, texts: Sequence[Text], device: str) -> list[Words]:
    """Words that the method chooses from the captions alone; they have no scores."""
    captions = [_words_of(text) for text in texts]
    chosen = row.method.choose_by_text(captions, row.settings, row.companions.get("llm"), device)
    return [
        Words(text.id, text.relevant or (), caption.per_word(picked), np.full(len(text.words), np.nan, np.float32))
        for text, caption, picked in zip(texts, captions, chosen, strict=True)
    ]


def judge_words(row: TextRow, image: ImageTexts, models: Models) -> Iterator[Words]:
    """Scores and choice of every word of the image's captions."""
    model = models.base(row.settings)
    at = (row.settings.base, row.protocol.geometry, row.protocol.flip)
    if at not in image.shared:
        image.shared[at] = row.method.view_embeddings(model, image.input(row, model), row.protocol.flip)
    for text in image.texts:
        caption = _words_of(text)
        tags = models.features(row, caption.tags)
        scores = row.method.word_scores(
            image.shared[at], models.features(row, [text.caption])[0], tags, row.settings
        ).cpu()
        chosen = caption.per_word(row.method.choose(caption, scores, row.settings))
        yield Words(text.id, text.relevant or (), chosen, np.array(caption.per_word(scores.tolist()), np.float32))


def _words_of(text: Text | TextImage) -> CaptionWords:
    return CaptionWords.of(" ".join(text.words))


def judge_concepts(row: TextRow, image: ImageTexts, models: Models) -> Iterator[Concepts]:
    """Scores of the concepts that a source lists."""
    model = models.base(row.settings)
    for text in image.texts:
        scores = row.method.class_scores(model, image.input(row, model), models.features(row, text.words), row.settings)
        yield Concepts(text.id, text.relevant or (), scores.cpu().numpy())


# Masks


def judge_masks(row: TextRow, image: ImageTexts, models: Models) -> Iterator[Mask]:
    """Right and wrong pixels of the mask of every text of the image."""
    for place, (text, mask) in enumerate(zip(image.texts, masks_of(row, image, models), strict=True)):
        assert text.mask is not None
        if image.first + place < row.examples:
            save_example(mask, text.id, row.out)
        yield Mask(text.id, count_mask(text.mask, mask))


def masks_of(row: TextRow, image: ImageTexts, models: Models) -> Iterator[npt.NDArray[np.bool_]]:
    """Where the map of each text of an image is above the threshold, (H, W) bool each; no text sees another."""
    # Named by text, so that only rows of masks depend on its sources: the method imports it.
    soft_maps = importlib.import_module("ovss.methods._ttd_maps").soft_maps
    settings, model = row.settings, models.base(row.settings)
    memo = image.shared.setdefault(("memo", settings.base), {})
    pixels = torch.from_numpy(image.texts[0].image)
    for part in models.features(row, [text.caption for text in image.texts]).split(_TOGETHER):
        maps = soft_maps(
            model, pixels, part, row.protocol, settings.kp_weight,
            pamr_at=settings.pamr_at, crf_backend=settings.crf_backend, memo=memo,
        )  # fmt: skip
        yield from (maps > row.protocol.background_threshold).cpu().numpy()


def save_example(mask: npt.NDArray[np.bool_], name: str, out: Path) -> None:
    """Write examples/<id>.png, mode L, 255 = foreground."""
    path = out / EXAMPLES / f"{name}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(mask.astype(np.uint8) * np.uint8(255)).save(path)


_JUDGE: Mapping[str, Callable[[TextRow, ImageTexts, Models], Iterator[Any]]] = {
    "tags": judge_words, "concepts": judge_concepts, "captions": judge_masks, "expressions": judge_masks,
}  # fmt: skip
_COLLECT: Mapping[str, Callable[[list[Any]], ItemCounts]] = {
    "tags": ItemCounts.of_words, "concepts": ItemCounts.of_scores,
    "captions": ItemCounts.of_masks, "expressions": ItemCounts.of_masks,
}  # fmt: skip
