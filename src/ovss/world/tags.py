"""Stage ``world_texts``: images with texts of the tiny scales, packed like the originals.

True words with masks (CC3M-TagMask), a list of concepts (NUS-WIDE), expressions for objects (RefCOCO, RefCOCO+,
RefCOCOg), and pairs to train on (CC3M and CC12M as shards).
"""

from __future__ import annotations

import json
from collections.abc import Iterator

import numpy as np

from ovss.config.world import WorldTexts
from ovss.jobs import JobContext
from ovss.world.captions import Caption, areas, write_caption
from ovss.world.expressions import NAMES, expressions, is_person, targets
from ovss.world.files import Files, checksums, jpeg, write_tar, write_zip
from ovss.world.scenes import View, cumulative, load_banks, pick, render, sample_scene
from ovss.world.tag_archives import Referring, nuswide, shards, tagmask

TAGS, CONCEPTS, OBJECTS, PAIRS = 13, 14, 15, 16
"""Streams of scenes; ``ovss.world.build`` and ``ovss.training.views`` use others."""
SHARDS = 2
"""Shards of each collection of pairs, whatever its size, so that their names are known."""
SCENES_PER_OBJECT = 60
"""Scenes looked at for one object of a split, at most."""


def draw(seed: int, key: tuple[int, ...], params: WorldTexts, side: int | None = None) -> tuple[View, Caption]:
    """An image and its caption, a function of seed, key and params only; ``side``: long side instead of ``shapes``."""
    banks = load_banks(seed, params.variants)
    rng = np.random.default_rng([seed, *key])
    rows, columns, _ = params.shapes[pick(rng, cumulative([weight for *_, weight in params.shapes]))]
    scene = sample_scene(rng, params.style, banks, columns / rows)
    if side is not None:
        scale = side / max(rows, columns)
        rows, columns = round(rows * scale), round(columns * scale)
    view = render(scene, banks, (rows, columns))
    return view, write_caption(rng, areas(view.label), params.captions)


def draw_pairs(seed: int, name: str, count: int, params: WorldTexts) -> Iterator[tuple[bytes, str]]:
    """(JPEG, caption) of ``count`` pairs; some captions are another scene's, as on the internet."""
    collection = ("cc3m", "cc12m").index(name)
    for number in range(count):
        view, caption = draw(seed, (PAIRS, collection, number), params, params.pair_side)
        rng = np.random.default_rng([seed, PAIRS, collection, number, 1])
        if rng.random() < params.mismatched:
            _, caption = draw(seed, (PAIRS, collection, count + number), params, 32)
        yield jpeg(view.image), caption.text


def _referring(seed: int, params: WorldTexts) -> dict[str, Files]:
    """``params.objects`` objects per split: any in val, persons in testA, others in testB; one object an image."""
    found = Referring()
    for number, split in enumerate(("val", "testA", "testB")):
        done = 0
        for scene in range(SCENES_PER_OBJECT * params.objects):
            if done == params.objects:
                break
            key = (OBJECTS, number, scene)
            view, _ = draw(seed, key, params)
            fitting = [t for t in targets(view) if split == "val" or is_person(t) == (split == "testA")]
            if not fitting:
                continue
            rng = np.random.default_rng([seed, *key, 1])
            target = fitting[int(rng.integers(len(fitting)))]
            found.add_image(view)
            texts = {
                name: expressions(name, view, target, rng) for name in NAMES if split == "val" or name != "refcocog"
            }
            found.add_object(target.mask, target.index, split, texts)
            done += 1
    return found.archives()


def archives(seed: int, params: WorldTexts) -> dict[str, Files]:
    """File name -> members."""
    found: dict[str, Files] = {}
    if params.tags:
        captioned = (draw(seed, (TAGS, k), params) for k in range(params.tags))
        found["cc3m_for_evaluation.zip"] = tagmask(captioned, params.masks)
    if params.concepts:
        views = {
            part: [draw(seed, (CONCEPTS, number, k), params)[0] for k in range(params.concepts)]
            for number, part in enumerate(("Train", "Test"))
        }
        found |= nuswide(views)
    if params.objects:
        found |= _referring(seed, params)
    for name, count in (("cc3m", params.cc3m), ("cc12m", params.cc12m)):
        if count:
            found |= shards(name, list(draw_pairs(seed, name, count, params)), SHARDS)
    return found


def run(ctx: JobContext) -> dict[str, object]:
    """Params are ``WorldTexts``; writes archives/ and manifest.json, as the stage ``world`` does."""
    folder = ctx.out / "archives"
    folder.mkdir()
    for name, files in archives(ctx.seed, WorldTexts.model_validate(ctx.params)).items():
        path = folder / name
        (write_tar if path.suffix == ".tar" else write_zip)(path, files)
    manifest = {path.name: checksums(path) for path in sorted(folder.iterdir())}
    text = json.dumps(manifest, sort_keys=True, indent=1) + "\n"
    (ctx.out / "manifest.json").write_text(text, encoding="utf-8")
    return {"archives": len(manifest), "bytes": sum(path.stat().st_size for path in folder.iterdir())}
