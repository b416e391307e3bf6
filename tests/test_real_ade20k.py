"""Three real ADE20K validation pairs, where they lie beside the repository, through the real archive's layout."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_archives
import small_clip
from http_server import serve
from PIL import Image

from ovss import origin
from ovss.config.datasets import labels_params, load_datasets, prepare_params
from ovss.data import fetch, prepare
from ovss.data.images import Images
from ovss.data.labels import lookup_table, read_class_names
from ovss.evaluation import evaluate
from ovss.jobs import Item, JobContext, Machine
from ovss.models import text
from ovss.plan.plan import load_plan
from ovss.plan.rows import Empty
from ovss.report import table as report_table

REAL = Path(__file__).resolve().parents[2] / "shared" / "real" / "ade20k"
pytestmark = pytest.mark.skipif(not REAL.is_dir(), reason=f"{REAL} is not there: three real pairs of ADE20K")

ARCHIVE = "ADEChallengeData2016.zip"


def archive_of_real_pairs() -> bytes:
    """The real pairs in the tree of the real archive, with what else lies in it."""
    root = "ADEChallengeData2016"
    files = {f"{root}/images/validation/{path.name}": path.read_bytes() for path in REAL.glob("ADE_val_*.jpg")}
    files |= {f"{root}/annotations/validation/{path.name}": path.read_bytes() for path in REAL.glob("ADE_val_*.png")}
    files[f"{root}/objectInfo150.txt"] = b"Idx\tRatio\tTrain\tVal\tName\n"
    files[f"{root}/images/training/ADE_train_00000001.jpg"] = small_archives.jpg(0, 40, 56)
    return small_archives.zip_of(files)


@pytest.fixture
def prepared(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Downloaded from a local server, verified, extracted, converted."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.chdir(tmp_path)
    config, content = load_datasets(root / "datasets.yaml"), archive_of_real_pairs()
    fetched, out = tmp_path / "fetched", tmp_path / "prepared"
    fetched.mkdir()
    out.mkdir()
    with serve({ARCHIVE: content}) as server:
        sha256 = hashlib.sha256(content).hexdigest()
        entry = {"name": ARCHIVE, "url": server.url("plain", ARCHIVE), "size": len(content), "sha256": sha256}
        params = {"archive": "ade20k150", "files": [entry]}
        fetch.run(JobContext(seed=0, machine=Machine(), params=params, out=fetched))
    params = {**prepare_params(config, "ade20k_val"), "images": 3}
    prepare.run(JobContext(seed=0, machine=Machine(), params=params, inputs={"ade20k150": fetched}, out=out))
    return out


def test_real_pairs_arrive_unchanged(prepared: Path, root: Path) -> None:
    config = load_datasets(root / "datasets.yaml")
    views = {"ade20k": lookup_table(labels_params(config, "ade20k")["labels"])}
    samples = list(Images(prepared, views, workers=2))
    assert [sample.id for sample in samples] == [f"ADE_val_0000000{k}" for k in (1, 2, 3)]
    for sample in samples:
        with Image.open(REAL / f"{sample.id}.jpg") as image, Image.open(REAL / f"{sample.id}.png") as label:
            np.testing.assert_array_equal(sample.image, np.array(image.convert("RGB")))
            raw = np.array(label).astype(int)
        np.testing.assert_array_equal(sample.labels["ade20k"], np.where(raw == 0, 255, raw - 1))


def test_real_labels_use_the_published_class_numbers(prepared: Path) -> None:
    """The table published with the images and our class list name the classes in the same order."""
    table = (REAL / "objectInfo150.csv").read_text().splitlines()[1:]
    published = [line.split(",")[-1].replace(";", " ").split()[0] for line in table]
    assert published == [names[0].split()[0] for names in read_class_names("ade150.mmseg.txt")]
    raw = {"raw": np.arange(256, dtype=np.uint8)}
    found = set(np.concatenate([np.unique(sample.labels["raw"]) for sample in Images(prepared, raw)]).tolist())
    assert len(found) > 10 and max(found) <= 150


def finished(directory: Path, key: str = "0123456789abcdef") -> Path:
    """An output folder with its origin, named as the workflow names it."""
    target = directory.with_name(f"{directory.name}.{key}")
    directory.rename(target)
    origin.write(target, {"key": key})
    return target


def test_real_pairs_reach_a_table_cell(prepared: Path, root: Path, tmp_path: Path) -> None:
    """The row of a paper, planned at full scale, on the real pairs with a small random model."""
    plan = load_plan(root, "full")
    planned = plan.cells["freecp", "table1", "baseline", "ADE"]
    assert not isinstance(planned, Empty)
    model, texts, row, table = (tmp_path / name for name in ("model", "texts", "row", "table"))
    small_clip.write_model_directory(model)
    for folder in (texts, row, table):
        folder.mkdir()
    queries = dict(planned[0].inputs["text"].params) | {"templates": "one", "template_lines": ["a photo of a {}."]}
    text.run(JobContext(0, Machine(), items={"t": Item(queries, {"model": model}, texts)}, finish=lambda *_: None))
    inputs = {"model": model, "source": prepared, "text": texts}
    params = dict(planned[0].params) | {"shard": [0, 1]}
    evaluate.run(JobContext(0, Machine(), items={"r": Item(params, inputs, row)}, finish=lambda *_: None))
    line = {
        "id": "baseline",
        "labels": {},
        "kind": "run",
        "note": None,
        "method": "dense_clip",
        "settings": {},
        "protocol": "sclip",
        "derived": None,
        "published": {"ADE": 15.6},
        "cells": {"ADE": {"inputs": ["rows/0"]}},
    }
    spec = {"id": "one", "title": "one", "metric": "miou", "unit": "%", "higher_is_better": True, "absent": "skip",
            "note": None, "key_columns": [], "derived": {}, "rows": [line],
            "columns": [{"id": "ADE", "label": "ADE", "dataset": "ade20k"}]}  # fmt: skip
    shown = {"paper": "freecp", "table": spec, "scale": "full", "tolerance": 0.5,
             "bootstrap": {"resamples": 50, "level": 0.95}}  # fmt: skip
    report_table.run(JobContext(0, Machine(), params=shown, inputs={"rows/0": finished(row)}, out=table))
    cell = json.loads((table / "table.json").read_text())["rows"][0]["cells"]["ADE"]
    assert cell["images"] == 3 and cell["published"] == 15.6 and cell["verdict"] in ("within", "off")
    assert cell["ours"] == pytest.approx(by_hand(planned[0].params["dataset"], prepared, next(tmp_path.glob("row.*"))))


def by_hand(dataset: Mapping[str, Any], prepared: Path, row: Path) -> float:
    """mIoU from the kept predictions, class by class."""
    views = {"ade20k": lookup_table(dataset["labels"])}
    unions, hits = np.zeros(150), np.zeros(150)
    for sample in Images(prepared, views):
        with Image.open(row / "examples" / f"{sample.id}.png") as image:
            found, label = np.array(image).astype(int), sample.labels["ade20k"]
        for index in range(150):
            is_label, is_found = label == index, (found == index) & (label != 255)
            hits[index] += (is_label & is_found).sum()
            unions[index] += (is_label | is_found).sum()
    return float(100 * np.mean(hits[unions > 0] / unions[unions > 0]))
