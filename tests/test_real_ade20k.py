"""Three real ADE20K validation pairs, where they lie beside the repository, through the real archive's layout."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import small_archives
from http_server import serve
from PIL import Image

from ovss.config.datasets import labels_params, load_datasets, prepare_params
from ovss.data import fetch, prepare
from ovss.data.images import Images
from ovss.data.labels import lookup_table, read_class_names
from ovss.jobs import JobContext, Machine

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
        params = {"archive": "ade20k150", "files": [entry], "manual": None}
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
