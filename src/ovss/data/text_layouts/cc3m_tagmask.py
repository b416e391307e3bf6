"""CC3M-TagMask (TTD): captions of CC3M's validation set, the words that are true of the image, masks of their union.

Tree: ``cc3m_for_evaluation/{image/<id>.jpg, json_refined/<id>.json, mask_using_HQ-SAM/<id>.png}``. Its authors publish
no description of the files inside, so this is the form that is read:

* JSON: an object with the caption in one of ``CAPTION_FIELDS`` and a list of its true words in one of ``TAG_FIELDS``;
* mask: an image with one value beside 0, ``<id>.png``, or one for each word, ``<id>_<anything>.png``.

Another form is refused with the fields that were found.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ovss.data.layouts import need, unpack
from ovss.data.text_layouts import Extracted, TextEntry, is_text, mostly_there, words_of
from ovss.errors import UserError

ARCHIVE = "cc3m_for_evaluation.zip"
ROOT = "cc3m_for_evaluation"
CAPTION_FIELDS = ("caption", "text")
TAG_FIELDS = ("tags", "true_tags", "words")
SPLITS = ("tags", "masks")
STRAY = "true word that is not in its caption"


def extract(archives: Mapping[str, Path], split: str, out: Path) -> Extracted:
    """Unpack the captions with true words (split ``tags``), or only those that also have a mask (``masks``).

    A true word counts wherever it stands in the caption. ``left_out`` counts captions without an image or a mask that
    the split needs, and true words that their caption does not hold.

    Raises:
        UserError: another form than the one above, a mask without a caption, or an unknown split.
    """
    if split not in SPLITS:
        raise UserError(f"CC3M-TagMask has the splits {' and '.join(SPLITS)}, not {split!r}; correct datasets.yaml")
    archive = need(archives, ARCHIVE)
    notes = unpack(archive, out, rf"{ROOT}/json_refined/(?P<id>[\w.-]+)\.json")
    images = unpack(archive, out, rf"{ROOT}/image/(?P<id>[\w.-]+)\.(jpg|jpeg|png)", set(notes))
    masks = _masks(archive, out, set(notes)) if split == "masks" else {}
    entries, left_out, stated = [], Counter[str](), 0
    for item, note in sorted(notes.items()):
        if split == "masks" and item not in masks:
            left_out["caption without a mask"] += 1
        elif item not in images:
            left_out["caption without an image"] += 1
        else:
            caption, true_words = read_note(note)
            words = words_of(caption)
            stated += len(true_words)
            left_out[STRAY] += len(true_words - set(words))
            relevant = tuple(word in true_words for word in words)
            found = tuple(masks.get(item, ()))
            entries.append(
                TextEntry(item, item, images[item], caption, words, relevant, item if found else None, found)
            )
    mostly_there(archive, "true words (in their captions)", left_out[STRAY], stated)
    return Extracted(entries, +left_out)


def _masks(archive: Path, out: Path, ids: set[str]) -> dict[str, list[Path]]:
    masks: dict[str, list[Path]] = {}
    for name, path in sorted(unpack(archive, out, rf"{ROOT}/mask_using_HQ-SAM/(?P<id>[\w.-]+)\.png").items()):
        starts = [name[: match.start()] for match in re.finditer("_|$", name)]
        owner = next((start for start in reversed(starts) if start in ids), None)
        if owner is None:
            raise UserError(f"{archive}: mask {name}.png belongs to no file of json_refined; not the expected archive")
        masks.setdefault(owner, []).append(path)
    return masks


def read_note(path: Path) -> tuple[str, set[str]]:
    """Caption and true words (lower case) of a JSON file.

    Raises:
        UserError: it is no JSON object with a caption and a list of words under the names above.
    """
    try:
        note: Any = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not JSON ({error}); fetch the archive again") from error
    fields = note if isinstance(note, dict) else {}
    caption = next((fields[name] for name in CAPTION_FIELDS if name in fields), None)
    tags = next((fields[name] for name in TAG_FIELDS if name in fields), None)
    if not is_text(caption) or not isinstance(tags, list) or not all(map(is_text, tags)):
        held = ascii(", ".join(sorted(fields)))[1:-1] or type(note).__name__
        raise UserError(
            f"{path}: needs a text in {' or '.join(CAPTION_FIELDS)} and a list of words in {' or '.join(TAG_FIELDS)}; "
            f"it holds: {held}. State the archive's own names in ovss/data/text_layouts/cc3m_tagmask.py"
        )
    return str(caption), {word for tag in tags for word in words_of(tag)}
