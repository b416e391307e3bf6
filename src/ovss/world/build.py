"""Stage ``world``: draws the data sets, caption files and word lists of the tiny scales, packed like the originals."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ovss.config.world import WorldData, WorldParams
from ovss.jobs import JobContext
from ovss.world.archives import LAYOUTS, Example
from ovss.world.captions import areas, templates, write_caption
from ovss.world.classes import CLASSES, STUFF, SYNONYMS, THINGS
from ovss.world.files import Files, checksums, write_tar, write_zip
from ovss.world.preview import class_palette, write_scenes, write_sprites, write_textures
from ovss.world.scenes import Banks, cumulative, load_banks, pick, render, sample_scene
from ovss.world.wordlists import word_archives

DATA, CAPTIONS = 10, 11
"""Streams of scenes; training uses others (``ovss.training.views``)."""
PREVIEWED = 12
SHOWN_CAPTIONS = 40


def draw_example(seed: int, name: str, data: WorldData, params: WorldParams, split: str, number: int) -> Example:
    """Image ``number`` of a split: a function of its arguments only, whatever was drawn before."""
    banks = load_banks(seed, params.variants)
    rng = np.random.default_rng([seed, DATA, zlib.crc32(name.encode()), split == "val", number])
    rows, columns, _ = data.shapes[pick(rng, cumulative([weight for *_, weight in data.shapes]))]
    scene = sample_scene(rng, data.style, banks, columns / rows)
    view = render(scene, banks, (rows, columns))
    texts = tuple(write_caption(rng, areas(view.label), params.captions).text for _ in range(5))
    return Example(split, number, view, texts)


def draw_captions(seed: int, name: str, count: int, params: WorldParams, banks: Banks) -> Iterator[str]:
    """Captions of ``count`` scenes that are in no data set, in order."""
    for number in range(count):
        rng = np.random.default_rng([seed, CAPTIONS, zlib.crc32(name.encode()), number])
        scene = sample_scene(rng, params.caption_style, banks)
        yield write_caption(rng, areas(render(scene, banks, (32, 32)).label), params.captions).text


def _pack(path: Path, files: Files) -> None:
    if path.suffix == ".tar":
        write_tar(path, files)
    elif path.suffix == ".zip":
        write_zip(path, files)
    else:
        path.write_bytes(files[""])


def _count(examples: list[Example]) -> dict[str, dict[str, object]]:
    """Per split: number of images, and per class the share of pixels and the images it is in."""
    report: dict[str, dict[str, object]] = {}
    for split in ("train", "val"):
        shares: NDArray[np.float64] = np.array([areas(e.view.label) for e in examples if e.split == split])
        report[split] = {
            "images": len(shares),
            "pixel_share": {name: round(float(s), 5) for name, s in zip(CLASSES, shares.mean(axis=0), strict=True)},
            "in_images": {name: int(n) for name, n in zip(CLASSES, (shares > 0).sum(axis=0), strict=True)},
        }
    return report


def _write_captions(seed: int, params: WorldParams, banks: Banks, archives: Path) -> list[str]:
    """The two caption files (their columns are in opposite order, as in the originals); returns a few captions."""
    shown: list[str] = []
    for name, count, file in (("cc3m", params.cc3m, "Train_GCC-training.tsv"), ("cc12m", params.cc12m, "cc12m.tsv")):
        if not count:
            continue
        with (archives / file).open("w", encoding="utf-8", newline="") as stream:
            for k, text in enumerate(draw_captions(seed, name, count, params, banks)):
                url = f"http://world.invalid/{name}/{k:07d}.jpg"
                stream.write(f"{text}\t{url}\n" if name == "cc3m" else f"{url}\t{text}\n")
                if name == "cc3m" and k < SHOWN_CAPTIONS:
                    shown.append(text)
    return shown


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, sort_keys=True, indent=1) + "\n", encoding="utf-8")


def run(ctx: JobContext) -> dict[str, object]:
    """Params are ``WorldParams``; writes archives/, manifest.json, world.json and pictures."""
    params = WorldParams.model_validate(ctx.params)
    banks = load_banks(ctx.seed, params.variants)
    archives = ctx.out / "archives"
    archives.mkdir()
    frequencies = {}
    for name, data in sorted(params.data.items()):
        wanted = [("train", k) for k in range(data.train)] + [("val", k) for k in range(data.val)]
        examples = [draw_example(ctx.seed, name, data, params, split, k) for split, k in wanted]
        for file, members in LAYOUTS[data.layout](examples, data.values).items():
            _pack(archives / file, members)
        frequencies[name] = _count(examples)
        write_scenes([e.view for e in examples if e.split == "val"][:PREVIEWED], ctx.out / f"scenes_{name}.png")
    captions = _write_captions(ctx.seed, params, banks, archives)
    if params.cc3m or params.cc12m:
        for file, members in word_archives().items():
            write_zip(archives / file, members)
    write_sprites(banks, ctx.out / "sprites.png")
    write_textures(banks, ctx.out / "textures.png")
    manifest = {path.name: checksums(path) for path in sorted(archives.iterdir())}
    _write_json(ctx.out / "manifest.json", manifest)
    world = {
        "classes": CLASSES, "stuff": STUFF, "things": THINGS, "synonyms": SYNONYMS, "templates": templates(),
        "palette": class_palette().tolist(), "frequencies": frequencies, "captions": captions,
        "values": {name: data.values for name, data in params.data.items()},
    }  # fmt: skip
    _write_json(ctx.out / "world.json", world)
    return {"archives": len(manifest), "bytes": sum(path.stat().st_size for path in archives.iterdir())}
