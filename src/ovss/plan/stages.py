"""The stages of the workflow: which module does the work, which packages can change its output, what it needs."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Stage:
    """One kind of job.

    ``packages`` are names in the lock file whose versions are part of the key. ``is_pass``: the module makes several
    outputs in one go, all of them with the same inputs ``shares``; ``grouped``: it makes one. A process may do several
    of either, one after the other. ``tracked``: whether DVC keeps its outputs. ``early``: much waits for it.
    """

    name: str
    module: str
    packages: tuple[str, ...]
    is_pass: bool = False
    shares: tuple[str, ...] = ()
    grouped: bool = False
    seeded: bool = False
    memory_mb: int = 1000
    minutes: int = 30
    gpus: int = 0
    tracked: bool = True
    early: bool = False


_DEEP = ("numpy", "torch", "open-clip-torch", "timm")
_EVALUATE = (*_DEEP, "scipy", "pillow")
_IMAGES = ("model", "source")
_ADAPTED = (*_DEEP, "pillow", "safetensors")
_SENTENCES = ("sentence-transformers", "transformers", "tokenizers", "safetensors")
_WEIGHTS = ("torch", "open-clip-torch", "timm", *_SENTENCES)
_WORDS = ("inflect", "textblob", "lemminflect", "pillow", *_SENTENCES)

_SEARCH = ("numpy", "torch", "safetensors", "faiss-cpu")

STAGES: dict[str, Stage] = {
    stage.name: stage
    for stage in (
        Stage("world", "ovss.world.build", ("numpy", "pillow"), seeded=True),
        Stage("world_texts", "ovss.world.tags", ("numpy", "pillow"), seeded=True),
        Stage("by_hand", "ovss.data.by_hand", (), tracked=False, minutes=24 * 60),
        Stage("own_folders", "ovss.data.own_folders", (), tracked=False, minutes=240),
        Stage("fetch", "ovss.data.fetch", (), minutes=24 * 60),
        Stage("prepare", "ovss.data.prepare", ("numpy", "pillow"), minutes=240),
        Stage("prepare_texts", "ovss.data.prepare_texts", ("numpy", "pillow"), minutes=240),
        Stage("index_pairs", "ovss.data.index_pairs", ("numpy", "pillow"), memory_mb=2000, minutes=24 * 60),
        Stage("train_clip", "ovss.training.clip", _DEEP, seeded=True, memory_mb=3000, minutes=120),
        Stage("train_dino", "ovss.training.dino", _DEEP, seeded=True, memory_mb=3000, minutes=120),
        Stage("train_tcl", "ovss.training.tcl", _DEEP, seeded=True, memory_mb=3000, minutes=120),
        Stage(
            "prune",
            "ovss.training.ttd.prune_pairs",
            (*_DEEP, "pillow", "safetensors"),
            memory_mb=4000,
            minutes=48 * 60,
            gpus=1,
        ),
        Stage(
            "train_ttd",
            "ovss.training.ttd.train",
            (*_ADAPTED, "peft"),
            grouped=True,
            early=True,
            seeded=True,
            memory_mb=4000,
            minutes=72 * 60,
            gpus=1,
        ),
        Stage("weights", "ovss.models.weights", _WEIGHTS, memory_mb=8000),
        Stage("text", "ovss.models.text", _DEEP, is_pass=True, shares=("model",), memory_mb=3000, gpus=1),
        Stage(
            "evaluate",
            "ovss.evaluation.evaluate",
            _EVALUATE,
            is_pass=True,
            shares=_IMAGES,
            memory_mb=4000,
            minutes=240,
            gpus=1,
        ),
        Stage(
            "evaluate_texts",
            "ovss.evaluation.texts",
            _EVALUATE,
            is_pass=True,
            shares=_IMAGES,
            memory_mb=4000,
            minutes=48 * 60,
            gpus=1,
        ),
        Stage("captions", "ovss.retrieval.captions", (*_DEEP, "pyarrow"), memory_mb=4000, minutes=48 * 60, gpus=1),
        Stage("index", "ovss.retrieval.index", _SEARCH, seeded=True, memory_mb=12000, minutes=24 * 60),
        Stage(
            "clusters",
            "ovss.evaluation.cluster_maps",
            ("numpy", "torch", "timm", "pillow"),
            is_pass=True,
            memory_mb=4000,
            minutes=240,
            gpus=1,
        ),
        Stage(
            "segments",
            "ovss.evaluation.segments",
            (*_DEEP, "pillow"),
            is_pass=True,
            memory_mb=4000,
            minutes=240,
            gpus=1,
        ),
        Stage(
            "retrieve",
            "ovss.retrieval.retrieve",
            (*_SEARCH, "pyarrow"),
            is_pass=True,
            memory_mb=8000,
            minutes=24 * 60,
            gpus=1,
        ),
        Stage("label", "ovss.evaluation.label", (*_DEEP, *_WORDS), is_pass=True, memory_mb=8000, minutes=240, gpus=1),
        Stage("table", "ovss.report.table", ("numpy",), grouped=True, seeded=True),
        Stage("claims", "ovss.report.claims", ("numpy",), seeded=True),
        Stage(
            "report",
            "ovss.report.page",
            ("numpy", "matplotlib", "seaborn", "pandas", "jinja2", "pillow", "scipy"),
            memory_mb=3000,
        ),
    )
}
