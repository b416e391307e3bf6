"""Every method end to end on the CPU with the real architectures: random weights, otherwise what scale ``full`` plans.

CLIP ViT-B/16 (TAG: ViT-L/14 with DINOv2 ViT-B/14 and Sentence-BERT), TCL with its decoder, the rows' own protocols,
templates and classes, a drawn picture of 375x500 beside another one, through all stages behind the downloads. About ten
CPU minutes, under 4 GiB and 6 GB of disk, which are given back. OVSS_REAL_ADE20K names a folder with real ADE20K pairs
(ADE_val_*.jpg and .png) of which the first is the other picture.
"""

from __future__ import annotations

import gzip
import json
import os
import resource
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from real_size import MAIN, Images, Maker, RealRows, draw, network_of, networks
from torch.utils._python_dispatch import TorchDispatchMode

from ovss.evaluation.confusion import ConfusionCounts
from ovss.evaluation.items import ItemCounts
from ovss.evaluation.segments_file import SegmentsFile
from ovss.jobs import Machine
from ovss.plan.job import Job
from ovss.retrieval.caption_index import MANIFEST

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[1]
ADE20K = Path(os.environ.get("OVSS_REAL_ADE20K") or ROOT.parent / "shared" / "real" / "ade20k")
GIB = 2**30
MOST_MEMORY = 24 * GIB
# Calls of torch for one image, and numbers in double precision at a time: loops over pixels have more, and so have maps
# of pixels. FreeCP's balancing is in double precision on purpose, two million numbers here.
MOST_CALLS, MOST_DOUBLES = 100_000, 4_000_000
DRAWN, OTHER = "a_drawn", "b_other"
# Memory not yet written: it holds anything, so ``Watch`` fills it with what would be noticed in a result.
UNWRITTEN, FILLED = ("aten.empty", "aten.new_empty"), 1e4
# Bits read as another type: the search packs a score and a number into one.
NOT_NUMBERS = "aten.view.dtype"
# An empty cluster has no mean; the stage leaves it out.
MAY_BE_NAN = frozenset({"segments"})


@cache
def pictures() -> Images:
    """The drawn picture and another one, of another size and shape."""
    other = draw(480, 320, seed=1)
    for path in sorted(ADE20K.glob("ADE_val_*.jpg"))[:1]:
        with Image.open(path) as image, Image.open(path.with_suffix(".png")) as label:
            other = np.array(image.convert("RGB")), np.array(label)
    return {DRAWN: draw(375, 500, seed=0), OTHER: other}


class Watch(TorchDispatchMode):
    """Looks at what every operation of torch returns."""

    def __init__(self, stage: str) -> None:
        super().__init__()
        self.stage, self.calls = stage, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        if str(func).startswith(UNWRITTEN) and found.is_floating_point() and not found.is_meta:
            found.fill_(FILLED)
        self.calls += 1
        assert self.calls < MOST_CALLS, f"{self.stage}: {MOST_CALLS} operations on one image"
        for value in found if isinstance(found, (tuple, list)) else (found,):
            if isinstance(value, torch.Tensor) and value.is_floating_point() and value.numel() and not value.is_meta:
                self.look(func, value)
        return found

    def look(self, func: Any, value: torch.Tensor) -> None:
        large = value.dtype == torch.float64 and value.numel() > MOST_DOUBLES
        assert not large, f"{self.stage}: {func} makes {tuple(value.shape)} in double precision"
        if self.stage not in MAY_BE_NAN and not str(func).startswith(NOT_NUMBERS):
            assert not value.isnan().any(), f"{self.stage}: {func} makes what is not a number"


@pytest.fixture(scope="module")
def rows() -> RealRows:
    return RealRows(ROOT)


@pytest.fixture(scope="module")
def jobs(rows: RealRows) -> dict[str, Job]:
    return {name: rows.job(*place) for name, place in MAIN.items()}


@pytest.fixture(scope="module")
def together(rows: RealRows, jobs: dict[str, Job], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Maker]:
    """Both pictures in one pass, read ahead."""
    texts = [text for job in jobs.values() for text in texts_of(job)]
    machine = Machine(workers=2, batch_size=2)
    folder = tmp_path_factory.mktemp("together")
    yield Maker(rows.project, folder, pictures(), machine, texts=texts)
    for path in sorted(folder.rglob("*.safetensors")):
        path.unlink()


@pytest.fixture(scope="module")
def alone(rows: RealRows, together: Maker, tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Maker]:
    """A maker for the drawn picture by itself, under the eyes of ``Watch``, with the same models and texts."""

    def maker() -> Maker:
        folder, images = tmp_path_factory.mktemp("alone"), {DRAWN: pictures()[DRAWN]}
        return Maker(rows.project, folder, images, Machine(batch_size=1), together.kept(), around=Watch)

    return maker


def texts_of(job: Job) -> Iterator[Job]:
    """Jobs of the stage text that lead to a job."""
    for other in job.inputs.values():
        yield from texts_of(other)
        if other.stage == "text":
            yield other


def test_every_network_that_a_paper_asks_for_is_run_at_real_size(rows: RealRows) -> None:
    assert {network_of(rows.cell(*place)) for place in MAIN.values()} == networks(rows.project)


@pytest.mark.parametrize("name", MAIN)
def test_a_method_at_real_size(
    name: str, jobs: dict[str, Job], together: Maker, alone: Callable[[], Maker], record_property: Any
) -> None:
    started, job = time.process_time(), jobs[name]
    both, one = together.make(job), alone().make(job)
    CHECKS[job.stage](job, both, one)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    record_property("cpu_seconds", round(time.process_time() - started))
    record_property("peak_gib", round(peak / GIB, 2))
    print(f"{name}: {time.process_time() - started:.0f} CPU seconds, at most {peak / GIB:.1f} GiB so far")
    assert peak < MOST_MEMORY


def check_maps(job: Job, both: Path, one: Path) -> None:
    """Every scored pixel of both pictures is counted, and the picture alone gives the same map."""
    classes = job.params["dataset"]["num_classes"]
    counts = ConfusionCounts.load(both)
    assert counts.images == (DRAWN, OTHER) and counts.num_classes == classes
    for number, (image, label) in enumerate(pictures().values()):
        assert counts.pixels[counts.image == number].sum() == (label != 255).sum()
        with Image.open(both / "examples" / f"{counts.images[number]}.png") as found:
            assert found.size == image.shape[1::-1] and max(found.getcolors())[1] <= classes
    assert (both / "examples" / f"{DRAWN}.png").read_bytes() == (one / "examples" / f"{DRAWN}.png").read_bytes()
    assert same_counts(counts, ConfusionCounts.load(one))


def same_counts(counts: ConfusionCounts, one: ConfusionCounts) -> bool:
    mine = counts.image == 0
    names = ("truth", "prediction", "pixels")
    return all(np.array_equal(getattr(counts, name)[mine], getattr(one, name)) for name in names)


def check_texts(job: Job, both: Path, one: Path) -> None:
    """Every word has a finite score that depends on its own picture alone."""
    found, single = ItemCounts.load(both), ItemCounts.load(one)
    scores, (expected,) = scores_of(found), scores_of(single)
    assert found.ids == (DRAWN, OTHER) and all(np.isfinite(each).all() for each in scores)
    assert len(np.unique(expected)) > len(expected) // 2 and not np.array_equal(scores[0], scores[1])
    np.testing.assert_array_equal(scores[0], expected)


def scores_of(found: ItemCounts) -> list[np.ndarray]:
    """Of each picture's words, or of the concepts in it."""
    return found.per_item("scores") if found.kind == "words" else list(found.arrays["scores"])


def check_words(job: Job, both: Path, one: Path) -> None:
    """Segments have words of their captions and classes of the list, pixels are counted, and a picture alone is the
    same."""
    segments, first = lines_of(both), lines_of(one)
    assert {each["image"] for each in segments} == {DRAWN, OTHER}
    assert [each for each in segments if each["image"] == DRAWN] == first and len(first) > 1
    for each in segments:
        assert each["word"] and abs(each["score"]) <= 1 and abs(each["similarity"]) <= 1 + 1e-5
        assert 0 <= each["class_index"] < job.params["dataset"]["num_classes"] and each["captions"]
    counts = ConfusionCounts.load(both)
    assert counts.images == (DRAWN, OTHER) and same_counts(counts, ConfusionCounts.load(one))
    with Image.open(both / "examples" / f"{DRAWN}.png") as found:
        assert found.size == (500, 375)
    side, clusters = job.params["protocol"]["short_side"], 15
    assert counts.pixels[counts.image == 0].sum() <= side**2 == sum(each["pixels"] for each in first)
    assert len(first) <= clusters


def lines_of(out: Path) -> list[dict[str, Any]]:
    with gzip.open(out / "segments.jsonl.gz", "rt", encoding="utf-8") as stream:
        return [json.loads(line) for line in stream]


CHECKS = {"evaluate": check_maps, "evaluate_texts": check_texts, "label": check_words}


def test_the_embeddings_of_segments_are_of_the_captions_size_and_the_index_finds_captions(
    rows: RealRows, jobs: dict[str, Job], together: Maker
) -> None:
    job = jobs["TAG"]
    together.make(job)
    segments = SegmentsFile.open(together.make(job.inputs["segments"]))
    manifest = json.loads((together.make(rows.index(job)) / MANIFEST).read_text(encoding="utf-8"))
    assert segments.embeddings.shape[1] == manifest["dimension"] == 768
    assert segments.embeddings.isfinite().all() and segments.map(DRAWN).shape == (448, 448)
    assert manifest["recall_at_10"] == 1 and manifest["queries"] == len(segments.embeddings)
