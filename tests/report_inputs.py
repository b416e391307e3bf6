"""Fabricated inputs of the report for all five papers: tables of many shapes, claims, rows, models, a tiny world."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ovss import origin
from ovss.jobs import JobContext, Machine

PUBLISHED = Path(__file__).parent / "data" / "published"
THINGS = ["person", "dog", "cat", "sheep", "cow", "horse", "bird", "fish", "car", "bus", "boat", "bicycle", "tree",
          "bush", "house", "chair", "apple", "balloon", "mushroom", "flower"]  # fmt: skip
CLASSES = ["background", *THINGS]
TEXT_TABLES = {"ttd/table1", "ttd/table6", "tag/table1"}
DATASETS = {
    "tiny_voc21": {"title": "Tiny VOC with background", "labels": {"kind": "identity", "classes": 21},
                   "background": True, "class_names": CLASSES},
    "tiny_stuff": {"title": "Tiny stuff", "labels": {"kind": "identity", "classes": 171}, "background": False,
                   "class_names": [f"stuff {i} <b>" for i in range(171)]},
}  # fmt: skip
DATASETS = {name: {"num_classes": len(view["class_names"]), **view} for name, view in DATASETS.items()}
VERDICTS = ("supported", "contradicted", "inconclusive")


def number(text: str) -> float | int | str | None:
    if text in ("", "-"):
        return None
    try:
        return int(text) if text.lstrip("-").isdigit() else float(text)
    except ValueError:
        return text


def write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, sort_keys=True, indent=1) + "\n", encoding="utf-8")


class World:
    """Writes input directories below ``root`` and remembers them as a job's inputs."""

    def __init__(self, root: Path, scale: str) -> None:
        self.root, self.scale = root, scale
        self.random = np.random.default_rng([7, 1])
        self.inputs: dict[str, Path] = {}
        self.gallery: list[dict[str, str]] = []
        self.words: list[dict[str, str]] = []
        self.collections: list[dict[str, str | None]] = []

    def folder(self, name: str, key: str) -> Path:
        path = self.root / f"{name.replace('/', '_')}.{key}"
        path.mkdir(parents=True)
        return path

    def row(self, name: str, dataset: str) -> str:
        """A row directory with a sealed origin; returns its key."""
        count = sum(key.startswith("rows/") for key in self.inputs)
        key = f"{count:016x}"
        directory = self.folder(f"{name}".replace(" ", "-").replace("/", "_"), key)
        (directory / "counts.npz").write_bytes(key.encode())
        origin.write(directory, {
            "key": key, "stage": "evaluate", "name": f"{dataset}-clip-{name}", "seed": 7, "commit": "0123456789abcdef",
            "device": "cpu", "wall_seconds": 12.5 + count, "peak_memory_bytes": 700 * 2**20, "facts": {"images": 200},
            "installed": {"numpy": "2.3.0", "torch": "2.15.0"},
            "parts": {"params": {"dataset": {"name": dataset}}, "inputs": {"model": "a" * 16, "source": "b" * 16}},
            "input_names": {"model": f"work/train_clip/clip.{'a' * 16}", "source": f"work/prepare/s.{'b' * 16}"},
        })  # fmt: skip
        self.inputs[f"rows/{count}"] = directory
        return key

    def table(self, paper: str, name: str, lines: list[dict[str, str]], **changes: Any) -> dict[str, Any]:
        """A table.json from the published CSV lines, with own numbers made up."""
        text = f"{paper}/{name}" in TEXT_TABLES
        names = [column for column in lines[0] if column != "source"]
        keys = [column for i, column in enumerate(names) if i == 0 or (not text and any(
            isinstance(number(line[column]), str) for line in lines))]  # fmt: skip
        values = [column for column in names if column not in keys]
        columns = [{"id": column, "label": column.replace("_", " "), "derived": False, "unit": None,
                    "dataset": None if text else "tiny_voc21" if i % 3 else "tiny_stuff"}
                   for i, column in enumerate(values)]  # fmt: skip
        small = any(isinstance(v := number(line[c]), float) and v < 1 for line in lines for c in values)
        rows = [self._row(i, line, keys, columns, paper, name) for i, line in enumerate(lines)]
        if not text and len(rows) > 2:
            rows.append({**self._row(1, lines[-1], keys, columns, paper, name), "id": "ours", "kind": "extra",
                         "labels": {keys[0]: "halved sum"}})  # fmt: skip
        table = {
            "paper": paper,
            "table": name,
            "title": f"{name.capitalize()} of {paper}: how things compare",
            "metric": "text" if text else "miou",
            "unit": "" if small else "%",
            "higher_is_better": True,
            "scale": self.scale,
            "note": None,
            "key_columns": keys,
            "columns": columns,
            "rows": rows,
            **changes,
        }
        directory = self.folder(f"table_{paper}_{name}", f"{len(self.inputs):016x}")
        write_json(directory / "table.json", table)
        write_json(directory / "per_class.json", self._per_class(table))
        self.inputs[f"tables/{paper}/{name}"] = directory
        return table

    def _row(self, i: int, line: dict[str, str], keys: list[str], columns: list[dict[str, Any]], paper: str,
             table: str) -> dict[str, Any]:  # fmt: skip
        kind = "citation" if i % 4 == 0 and paper != "sseg" else "not_implemented" if i % 7 == 6 else "run"
        kind = "citation" if f"{paper}/{table}" in TEXT_TABLES else kind
        row = {"id": f"row{i}", "labels": {key: number(line[key]) for key in keys}, "kind": kind,
               "note": "quoted from the authors' paper" if kind == "citation" else None, "method": "dense_clip",
               "settings": {"variant": "MaskCLIP", "window": {"size": 224}}, "protocol": "sclip",
               "cells": {}}  # fmt: skip
        base = 20 + 3 * i
        for column in columns:
            row["cells"][column["id"]] = self._cell(kind, number(line[column["id"]]), base, i, column, paper)
        return row

    def _cell(self, kind: str, published: Any, base: float, i: int, column: dict[str, Any], paper: str) -> Any:
        cell = {"published": published, "ours": None, "low": None, "high": None, "key": None, "why": None,
                "verdict": "citation" if kind == "citation" else "not_run"}  # fmt: skip
        if kind == "not_implemented":
            return cell | {"why": "not implemented: method retrieval_tagging"}
        if kind == "citation":
            return cell | {"why": "quoted from the authors' paper"}
        if i % 5 == 3:
            return cell | {"why": "data to be placed by hand: data/manual/cityscapes/leftImg8bit_trainvaltest.zip"}
        ours = round(base + float(self.random.normal(0, 4)), 4)
        if isinstance(published, float) and published < 1:
            ours = round(ours / 100, 4)
        key = self.row(f"{paper}-{i}-{column['id']}", column["dataset"])
        verdict = ("off", "within")[i % 2] if self.scale == "full" else "effect_only"
        ends = {"low": round(ours * 0.93, 4), "high": round(ours * 1.06, 4)}
        return cell | ends | {"ours": ours, "key": key, "verdict": verdict}

    def _per_class(self, table: dict[str, Any]) -> dict[str, Any]:
        sizes = {column["id"]: len(DATASETS[column["dataset"]]["class_names"]) for column in table["columns"]
                 if column["dataset"]}  # fmt: skip
        return {row["id"]: {column: [None if i == 3 else round(value, 2) for i, value in
                                     enumerate(self.random.uniform(0, 90, sizes[column]))]
                            for column, cell in row["cells"].items() if cell["ours"] is not None}
                for row in table["rows"] if row["kind"] == "run"}  # fmt: skip

    def claims(self, paper: str, count: int) -> None:
        """A claims.json with every verdict."""
        directory = self.folder(f"claims_{paper}", f"{len(self.inputs):016x}")
        found = [self._claim(paper, i) for i in range(count)]
        write_json(directory / "claims.json", {"paper": paper, "claims": found})
        self.inputs[f"claims/{paper}"] = directory

    def _claim(self, paper: str, i: int) -> dict[str, Any]:
        text = f"Purifying the classes of {paper} raises the mean IoU over the plain baseline, variant {i}"
        base = {"id": f"{paper}-claim-{i}", "source": f"Table {i + 1}", "text": text,
                "explanation": f"Because of {i} & so on." if i in (1, 3) else None}  # fmt: skip
        if i % 4 == 3:
            columns = [{"column": "VOC21", "difference": None, "low": None, "high": None, "verdict": "not_run",
                        "why": "table2.rp: not implemented"}]  # fmt: skip
            return base | {"verdict": "not_run", "why": "table2.rp: not implemented", "columns": columns,
                           "difference": None, "low": None, "high": None}  # fmt: skip
        middle = (3.0, -2.0, 0.3)[i % 4]
        columns = []
        for j, name in enumerate(("VOC21", "PC60", "Object", "Stuff")[: 1 + i % 4]):
            difference = round(middle + float(self.random.normal(0, 0.8)), 3)
            low, high = round(difference - 1.1, 3), round(difference + 1.2, 3)
            verdict = "supported" if low > 0 else "contradicted" if high < 0 else "inconclusive"
            columns.append({"column": name, "difference": difference, "low": low, "high": high, "verdict": verdict,
                            "why": None, "images": 200 + j})  # fmt: skip
        return base | {"verdict": VERDICTS[i % 4], "why": None, "columns": columns, "difference": middle,
                       "low": middle - 0.8, "high": middle + 0.9}  # fmt: skip

    def source(self, name: str, images: int) -> Path:
        """A prepared source with blobs as labels."""
        directory = self.folder(name, "c" * 16)
        for part in ("images", "labels"):
            (directory / part).mkdir()
        lines = ["id,image,label,height,width"]
        for i in range(images):
            label = self.blobs(96 + 32 * (i % 2), 128)
            Image.fromarray(label).save(directory / "labels" / f"im{i}.png")
            wide = label.astype(np.int64)
            photo = np.stack([wide * 11 % 256, wide * 53 % 256, 200 - wide * 7 % 256], -1)
            photo = np.clip(photo + self.random.integers(-20, 20, photo.shape), 0, 255).astype(np.uint8)
            Image.fromarray(photo).save(directory / "images" / f"im{i}.jpg")
            lines.append(f"im{i},images/im{i}.jpg,labels/im{i}.png,{label.shape[0]},{label.shape[1]}")
        (directory / "index.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
        self.inputs[f"sources/{name}"] = directory
        return directory

    def blobs(self, height: int, width: int) -> np.ndarray:
        y, x = np.mgrid[:height, :width]
        label = np.where(y > height * 0.6, 0, 0).astype(np.uint8)
        for _ in range(4):
            cy, cx, r = self.random.integers(0, height), self.random.integers(0, width), self.random.integers(12, 40)
            inside = (y - cy) ** 2 + (x - cx) ** 2
            label[inside < (r + 2) ** 2] = 255
            label[inside < r**2] = self.random.integers(1, 21)
        return label

    def predictions(self, dataset: str, source: str, rows: list[str]) -> None:
        """Gallery rows: noisy copies of the labels."""
        for row in rows:
            count = len(self.gallery)
            key = f"{count:015x}e"
            directory = self.folder(f"gallery_{row}_{dataset}".replace("/", ""), key)
            (directory / "examples").mkdir()
            for path in sorted((self.inputs[f"sources/{source}"] / "labels").iterdir())[: 3 - (row == "SCLIP")]:
                label = np.array(Image.open(path))
                label[label == 255] = 0
                label = np.roll(label, int(self.random.integers(-8, 8)), axis=1)
                label[:16] = self.random.integers(0, 22)
                Image.fromarray(label).save(directory / "examples" / path.name)
            origin.write(directory, {"key": key, "name": f"{dataset}-{row}", "seed": 7, "commit": "0123456789ab-dirty",
                                     "device": "cuda", "wall_seconds": 4000, "peak_memory_bytes": 3 * 2**30,
                                     "parts": {"params": {"dataset": {"name": dataset}}, "inputs": {}}})  # fmt: skip
            self.inputs[f"gallery/{count}"] = directory
            self.gallery.append({"input": f"gallery/{count}", "row": row, "dataset": dataset,
                                 "source": f"sources/{source}", "paper": "x", "table": "y"})  # fmt: skip

    def named(self, dataset: str, source: str, row: str, segments: int, images: int = 3) -> None:
        """An output of stage label: cluster maps with words (some twice), classes and captions."""
        name = f"words/{len(self.words)}"
        directory = self.folder(f"label_{row}_{dataset}".replace("/", ""), f"{len(self.words):015x}f")
        (directory / "words").mkdir()
        for path in sorted((self.inputs[f"sources/{source}"] / "labels").iterdir())[:images]:
            size = np.array(Image.open(path)).shape
            centres = self.random.uniform(0, 1, (segments, 2))
            at = np.stack(np.meshgrid(*(np.linspace(0, 1, 96) for _ in size), indexing="ij"), -1)
            clusters = ((at[:, :, None] - centres) ** 2).sum(-1).argmin(-1).astype(np.uint8)
            Image.fromarray(clusters).save(directory / "words" / path.name)
            found = [self._found(path.stem, cluster, clusters) for cluster in np.unique(clusters).tolist()]
            write_json(directory / "words" / f"{path.stem}.json", {"image": path.stem, "segments": found})
        origin.write(directory, {"key": directory.name[-16:], "name": f"{dataset}-{row}", "seed": 7,
                                 "commit": "0123456789abcdef", "device": "cpu", "wall_seconds": 4,
                                 "parts": {"params": {"dataset": {"name": dataset}}, "inputs": {}}})  # fmt: skip
        self.inputs[name] = directory
        self.words.append({"input": name, "row": row, "dataset": dataset, "source": f"sources/{source}",
                           "paper": "tag", "table": "table2"})  # fmt: skip

    def _found(self, image: str, cluster: int, clusters: np.ndarray) -> dict[str, Any]:
        word = [*THINGS[:9], "grass", "a<b"][cluster % 11]
        near = THINGS[cluster % len(THINGS)] if cluster != 4 else None
        return {"image": image, "cluster": cluster, "pixels": int((clusters == cluster).sum()), "word": word,
                "score": 0.21 - 0.03 * cluster, "class": near, "class_index": cluster,
                "similarity": 0.9 - 0.05 * cluster,
                "candidates": sorted({word, "grass", "small", "standing", "meadow", *THINGS[: cluster % 5]}),
                "captions": [f"a small {word} standing on grass, {i} m & more" for i in range(10)]}  # fmt: skip

    def collection(self, name: str, rows: int, index: bool) -> None:
        """Manifests of a caption collection and, if wanted, of its index."""
        found = {"input": f"collections/{name}", "index": f"indexes/{name}" if index else None}
        directory = self.folder(f"captions_{name}", "e" * 16)
        files = {"00000.vectors.npy": {"sha256": "a" * 64, "bytes": rows * 192},
                 "00000.text": {"sha256": "b" * 64, "bytes": rows * 40}}  # fmt: skip
        write_json(directory / "manifest.json", {
            "format": 1, "collection": name, "rows": rows, "dimension": 96, "encoder": "0123456789abcdef" * 4,
            "skipped": {"duplicate": 1234, "too_long": 0, "not utf-8": 2}, "shards": [
                {"name": "00000", "rows": rows, "files": files}]})  # fmt: skip
        self.inputs[f"collections/{name}"] = directory
        if index:
            directory = self.folder(f"index_{name}", "e" * 16)
            write_json(directory / "manifest.json", {
                "recipe": "IVF64,SQ8", "rows": rows, "bytes": rows * 100, "bytes_per_vector": 100.25, "nprobe": 8,
                "recall_at_10": 0.9731, "queries": 1000, "rerank": 0, "faiss": "1", "encoder": "c"})  # fmt: skip
            self.inputs[f"indexes/{name}"] = directory
        self.collections.append({"name": name, "title": f"Captions <{name}>", **found})

    def model(self, name: str, metrics: list[str]) -> None:
        """A model directory with curves."""
        directory = self.folder(name, "d" * 16)
        lines = ["step,split,metric,value"]
        for metric in metrics:
            for step in range(0, 1500, 10):
                for split in ("train", "val") if metric == "loss" else ("val",):
                    value = 4 * np.exp(-step / 400) + self.random.normal(0, 0.05) + (split == "val") * 0.2
                    lines.append(f"{step},{split},{metric},{value:.4f}")
        (directory / "curves.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
        self.inputs[f"models/{name}"] = directory

    def world(self, archive: str) -> None:
        """A world job's directory."""
        directory = self.folder(archive, "f" * 16)
        scene = np.kron(self.random.integers(0, 255, (8, 40, 3)), np.ones((16, 16, 1))).astype(np.uint8)
        Image.fromarray(scene).save(directory / f"scenes_{archive}.png")
        Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(directory / "sprites.png")
        counts = {"images": 40, "in_images": {name: 20 - i for i, name in enumerate(THINGS)}}
        write_json(directory / "world.json", {
            "frequencies": {archive: {"train": counts, "val": counts}}, "classes": THINGS,
            "synonyms": {"dog": ["puppy"]}, "captions": [f"a small {name} on grass" for name in THINGS]})  # fmt: skip
        self.inputs[f"world/{archive}"] = directory


def papers() -> dict[str, Any]:
    protocol = {"description": "SCLIP's released configurations", "short_side": 336, "crop": 224, "stride": 112,
                "logit_scale": 40.0, "names": "sclip", "per_column": {"City": {"short_side": 560}}}  # fmt: skip
    difference = {"id": "affinity", "paper": "Attention of all blocks, averaged, then normalised to a doubly "
                  "stochastic matrix by Sinkhorn iterations", "code": "Leaves out the last block", "default": "code",
                  "switch": "settings.blocks", "tables": ["table2"], "source": "issue & code"}  # fmt: skip
    return {name: {"title": f"Training-Free Something for Open-Vocabulary Segmentation <{name}>", "citation":
                   "Chen et al., ICCV 2025", "url": "https://arxiv.org/abs/2508.00557",
                   "code": {"url": None, "commit": None, "licence": "none stated", "note": "a note"},
                   "differences": [difference] * 2,
                   "protocols": {"sclip": protocol, "freecp": protocol | {"crop": 384}}}
            for name in ("tag", "ttd", "freecp", "reclippp", "sseg")}  # fmt: skip


def context(root: Path, scale: str = "tiny") -> JobContext:
    """A report job over all published tables."""
    made = World(root / "in", scale)
    for paper in papers():
        for path in sorted((PUBLISHED / paper).glob("*.csv")):
            with path.open(encoding="utf-8", newline="") as file:
                made.table(paper, path.stem, list(csv.DictReader(file)))
        made.claims(paper, 7)
    made.source("tiny_voc_val", 4)
    made.source("tiny_stuff_val", 4)
    made.predictions("tiny_voc21", "tiny_voc_val", ["CLIP", "MaskCLIP", "SCLIP", "ClearCLIP", "GEM <i>", "FreeCP"])
    made.predictions("tiny_stuff", "tiny_stuff_val", ["CLIP", "MaskCLIP"])
    made.named("tiny_voc21", "tiny_voc_val", "TAG", 7)
    made.named("tiny_voc21", "tiny_voc_val", "TAG & no CRF", 13, images=2)
    made.named("tiny_stuff", "tiny_stuff_val", "TAG", 5)
    made.collection("tiny_pmd", 2_400_000, index=True)
    made.collection("words", 812, index=False)
    made.model("clip", ["loss", "recall_at_1", "zero_shot", "logit_scale"])
    made.model("dino", ["loss"])
    made.world("tiny_voc2012")
    made.world("tiny_ade20k")
    (root / "out").mkdir()
    params = {"scale": scale, "about": "A generated world of 28 classes and models trained on it in minutes.",
              "papers": papers(), "gallery": made.gallery, "datasets": DATASETS,
              "words": made.words, "collections": made.collections,
              "trained": {"clip": {"steps": 1400, "vision": {"width": 96}}}}  # fmt: skip
    return JobContext(7, Machine(), params, made.inputs, root / "out")
