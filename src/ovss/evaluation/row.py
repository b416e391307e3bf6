"""One row of an evaluation pass: its method, vocabulary and companion models, and which rows share features."""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from ovss import methods
from ovss.errors import UserError
from ovss.evaluation.batch import Batch, Prediction
from ovss.evaluation.protocol import Geometry, Protocol
from ovss.jobs import Item
from ovss.models.clip import Clip
from ovss.models.dense import HeadRule
from ovss.models.features import Companion, Features
from ovss.models.position import PositionRule
from ovss.models.text import Vocabulary, load_vocabulary

COMPANION = "companion_"
Load = Callable[[Path], Companion]
Open = Callable[[ModuleType, Path, str], Any]


@dataclass
class Row:
    """One row of the pass and what it has counted so far.

    companions: models beside CLIP, by the name that the method gives them, one that it opens itself among them.
    uses_labels: whether the method is told what an image shows.
    """

    name: str
    out: Path
    method_name: str
    method: ModuleType
    settings: Any
    protocol: Protocol
    vocabulary: Vocabulary
    companions: Mapping[str, Companion]
    uses_labels: bool
    view: str
    num_classes: int
    examples: int
    counts: list[tuple[str, npt.NDArray[np.int64]]] = field(default_factory=list)
    seconds: float = 0.0

    def predict(self, batch: Batch, features: Features) -> Prediction:
        """What the method makes of a batch of one image.

        Raises:
            UserError: it is no prediction of that image; the message names the method and what is wrong.
        """
        found = self.method.segment(batch, self.vocabulary, [features], self.settings)
        if not isinstance(found, list) or [type(each) for each in found] != [Prediction]:
            raise UserError(f"method {self.method_name}: segment returned {_shown(found)}; return a list with one "
                            "Prediction for each of batch.views")  # fmt: skip
        (prediction,), (view,) = found, batch.views
        if problem := prediction.problem(batch.score_size(view), self.num_classes):
            raise UserError(f"method {self.method_name}: image {view.id}: Prediction.labels {problem}")
        return prediction

    @contextmanager
    def clock(self) -> Iterator[None]:
        """Count the time spent within."""
        started = time.perf_counter()
        yield
        self.seconds += time.perf_counter() - started


@dataclass
class Group:
    """Rows that share windows and what is computed from them: one geometry, and a companion's name is one model."""

    geometry: Geometry
    companions: dict[str, Companion]
    rows: list[Row]

    def takes(self, row: Row) -> bool:
        """Whether a row can share this group's features."""
        agree = all(self.companions.get(name, model) is model for name, model in row.companions.items())
        return agree and row.protocol.geometry == self.geometry

    def affinities(self) -> list[tuple[PositionRule, HeadRule]]:
        """Affinities of CLIP that the methods name in advance."""
        return [affinity for row in self.rows for affinity in _asked(row.method, "affinities", row.settings, ())]


def group_rows(rows: Sequence[Row]) -> list[Group]:
    """Rows in groups, in the order in which geometries first occur; how they fall changes cost and no result."""
    groups: list[Group] = []
    for row in rows:
        group = next((group for group in groups if group.takes(row)), None)
        if group is None:
            group = Group(row.protocol.geometry, {}, [])
            groups.append(group)
        group.companions |= row.companions
        group.rows.append(row)
    return groups


def companion_loader(device: str) -> Load:
    """A function that loads each model directory once.

    The module is named by text, so that only rows with companions depend on its sources (``plan.rows`` adds them).
    """
    return cache(lambda directory: importlib.import_module("ovss.models.companions").load_companion(directory, device))


def model_opener(clip: Clip) -> Open:
    """A function that opens each model once which a method reads from the directory of ``clip`` itself."""
    return cache(lambda method, directory, kind: method.open_model(directory, kind, clip))


def read_row(name: str, item: Item, clip: Clip, load: Load, open_model: Open) -> Row:
    """A row from its parameters and inputs.

    Raises:
        UserError: unknown method, setting or protocol value, or texts that do not fit the data set or each other.
    """
    params, dataset = item.params, item.params["dataset"]
    method = methods.load(params["method"])
    settings = methods.read_settings(method.Settings, params["settings"], params["method"], name)
    companions = {name: load(path) for name, path in _companions(item.inputs)}
    vocabulary = _vocabulary(item, str(clip.device))
    if vocabulary.num_classes != dataset["num_classes"]:
        raise UserError(
            f"data set {dataset['name']}: the class list '{params['protocol']['names']}' has {vocabulary.num_classes} "
            f"classes, the labels have {dataset['num_classes']}; give it a list with one line per class"
        )
    return Row(
        name=name,
        out=item.out,
        method_name=params["method"],
        method=method,
        settings=settings,
        protocol=_protocol(params["protocol"], clip),
        vocabulary=vocabulary,
        companions=companions | _own(method, settings, item, open_model),
        uses_labels=_asked(method, "uses_labels", settings, False),
        view=dataset["name"],
        num_classes=dataset["num_classes"],
        examples=params.get("examples", 0),
    )


def _shown(found: object) -> str:
    """What was returned, in a few words."""
    if isinstance(found, list):
        return f"a list of {len(found)} ({', '.join(sorted({type(each).__name__ for each in found})) or 'empty'})"
    return "nothing" if found is None else f"a {type(found).__name__}"


def _asked(method: ModuleType, question: str, settings: Any, default: Any) -> Any:
    """What a method answers to an optional question about its settings."""
    return getattr(method, question)(settings) if hasattr(method, question) else default


def _own(method: ModuleType, settings: Any, item: Item, open_model: Open) -> dict[str, Companion]:
    """The model that a method opens itself, by the name that it gives it."""
    if not hasattr(method, "open_model"):
        return {}
    name, kind = method.model_kind(settings)
    return {name: open_model(method, item.inputs["model"], kind)}


def _companions(inputs: Mapping[str, Path]) -> Iterable[tuple[str, Path]]:
    return ((name.removeprefix(COMPANION), path) for name, path in inputs.items() if name.startswith(COMPANION))


def _protocol(values: Mapping[str, Any], clip: Clip) -> Protocol:
    """The row's protocol, with the model's own logit scale where it names none."""
    own = {"logit_scale": clip.logit_scale} if values.get("logit_scale", 0) is None else {}
    return Protocol.read({**values, **own})


def _vocabulary(item: Item, device: str) -> Vocabulary:
    """Queries with their features, and with those of their descriptions where the row has them."""
    vocabulary = load_vocabulary(item.inputs["text"], device)
    background = item.params["dataset"]["background"]
    if "descriptions" not in item.inputs:
        return replace(vocabulary, background=background)
    described = load_vocabulary(item.inputs["descriptions"], device)
    if described.queries != vocabulary.queries or not described.query_class.equal(vocabulary.query_class):
        raise UserError(
            f"{item.inputs['descriptions']}: describes other words than {item.inputs['text']} has; "
            "plan the row again so that both are made from one class list"
        )
    return replace(vocabulary, background=background, descriptions=described.features)
