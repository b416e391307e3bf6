"""One row of a pass over images with texts, and the models and text features that the rows of a pass share."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from ovss import methods
from ovss.config.texts import TASKS
from ovss.data.text_images import TextImage
from ovss.errors import UserError
from ovss.evaluation.batch import make_view
from ovss.evaluation.items import Concepts, Mask, Words
from ovss.evaluation.protocol import Protocol
from ovss.jobs import Item
from ovss.models.templates import templates
from ovss.models.text import encode_texts, fill, mean_embedding, mean_feature
from ovss.models.ttd_base import Base, BaseModel, open_base

COMPANION = "companion_"
# What texts have no use for.
_UNUSED = ("prompt_denoising", "ambiguity_crop", "prob_threshold", "area_threshold", "descriptions", "score_size")
_OF_MASKS = ("scales", "pamr", "crf", "background_threshold")


@dataclass
class TextRow:
    """One row of the pass and what it has found so far.

    forms: templates that texts are put into. companions: directories of other models by name.
    """

    name: str
    out: Path
    task: str
    method: ModuleType
    settings: Any
    protocol: Protocol
    forms: tuple[str, ...]
    companions: Mapping[str, Path]
    examples: int
    found: list[Words | Mask | Concepts] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def from_text(self) -> bool:
        """Whether the method does without the images."""
        return bool(getattr(self.settings, "from_text", False))

    @contextmanager
    def clock(self) -> Iterator[None]:
        """Count the time spent within."""
        started = time.perf_counter()
        yield
        self.seconds += time.perf_counter() - started


def read_row(name: str, item: Item) -> TextRow:
    """A row from its parameters and inputs.

    Raises:
        UserError: unknown task, method, setting, template or protocol value, or values that do not go together.
    """
    params = item.params
    task, method = params["task"], params["method"]
    if method not in TASKS.get(task, ()):
        known = ", ".join(f"{task}: {' or '.join(names)}" for task, names in TASKS.items())
        raise UserError(f"row {name}: method '{method}' cannot be asked for '{task}'; there are {known}")
    module = methods.load(method)
    settings = methods.read_settings(module.Settings, params["settings"], method, name)
    if getattr(settings, "refine", "none") != "none":
        raise UserError(f"settings.refine: '{settings.refine}' refines masks of classes, not of texts; set it to none")
    if getattr(settings, "background_plane", "with_class") != "with_class":
        raise UserError("settings.background_plane: no constant map stands beside texts, which do not compete; "
                        "leave it at with_class")  # fmt: skip
    forms = templates(params["protocol"].get("templates", task), params.get("templates", params.get("template_lines")))
    return TextRow(
        name=name,
        out=item.out,
        task=task,
        method=module,
        settings=settings,
        protocol=_protocol(params["protocol"], task, method),
        forms=forms,
        companions={
            key.removeprefix(COMPANION): path for key, path in item.inputs.items() if key.startswith(COMPANION)
        },
        examples=params.get("examples", 0),
    )


def _protocol(values: Mapping[str, Any], task: str, method: str) -> Protocol:
    """The row's protocol; cosines are compared with each other only, so no scale is needed."""
    scale = values.get("logit_scale")
    protocol = Protocol.read(
        {"names": task, "templates": task, **values, "logit_scale": 1.0 if scale is None else scale}
    )
    protocol.refuse(method, *_UNUSED)
    if task in ("captions", "expressions"):
        if protocol.background_threshold is None:
            raise UserError("protocol.background_threshold: missing; state above which value a pixel belongs to a text")
        if protocol.crf and protocol.background_threshold <= 0:
            raise UserError(
                f"protocol.background_threshold: {protocol.background_threshold} leaves a CRF no background; "
                "give a number above 0"
            )
        return protocol
    protocol.refuse(method, *_OF_MASKS, *(["flip"] if task == "concepts" else []))
    if protocol.crop is not None:
        raise UserError(f"protocol.crop: method {method} looks at the whole image for {task}; leave it null")
    return protocol


class Models:
    """The models of one directory, each opened once, and features of texts, each made once."""

    def __init__(self, directory: Path, device: str = "cpu") -> None:
        self.directory, self.device = directory, device
        self._bases: dict[str, BaseModel] = {}
        self._features: dict[tuple[bool, tuple[str, ...]], dict[str, Tensor]] = {}

    def base(self, settings: Any) -> BaseModel:
        """The model that settings name; MaskCLIP, which is CLIP alone, where they name none.

        Raises:
            UserError: see ``open_base``.
        """
        name: Base = getattr(settings, "base", "maskclip")
        if name not in self._bases:
            self._bases[name] = open_base(self.directory, name, self.device, text=True)
        return self._bases[name]

    def features(self, row: TextRow, texts: Sequence[str]) -> Tensor:
        """Features of texts in the row's templates, one by one so that none depends on the others: (n, D), unit.

        The templates ``tcl`` are averaged as the stage ``text`` does it, before embeddings get unit length.
        """
        clip, mean_first = self.base(row.settings).clip, row.protocol.templates == "tcl"
        made = self._features.setdefault((mean_first, row.forms), {})
        for text in texts:
            if text not in made:
                prompts = fill(text, row.forms)
                made[text] = mean_embedding(encode_texts(clip, prompts)) if mean_first else mean_feature(clip, prompts)
        if not texts:
            return torch.zeros(0, 0, device=clip.device)
        return torch.stack([made[text] for text in texts])


@dataclass
class ImageTexts:
    """An image of the source with its texts.

    first: position of the first text in the source. shared: what rows have computed of it, for each other.
    """

    texts: Sequence[TextImage]
    first: int
    shared: dict[Any, Any] = field(default_factory=dict)

    @property
    def id(self) -> str:
        """A name for messages."""
        return self.texts[0].id

    def input(self, row: TextRow, model: BaseModel) -> Tensor:
        """The whole image as network input, (3, H, W) float32."""
        return make_view(self.id, self.texts[0].image, row.protocol.geometry, model.clip).input
