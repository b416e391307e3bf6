"""A row of the stage ``label``: what it asks for and what it has counted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ovss import methods
from ovss.errors import UserError
from ovss.evaluation.clusters import Ints
from ovss.evaluation.protocol import Protocol
from ovss.jobs import Item
from ovss.methods._tag_name import UNUSED_STEPS, Naming, Reading


@dataclass
class Row:
    """One row of the pass and what it has counted so far.

    source: its prepared images. at: directories of its segments and neighbours. class_names: by class index, without
    a background.
    """

    name: str
    out: Path
    naming: Naming
    source: Path
    at: tuple[Path, Path]
    sentences: Path
    view: str
    num_classes: int
    class_names: Mapping[int, str]
    examples: int
    counts: list[tuple[str, Ints]] = field(default_factory=list)

    @property
    def reading(self) -> Reading:
        """What decides its candidate words."""
        return Reading.of(self.naming)


def read_row(name: str, item: Item) -> Row:
    """A row from its parameters and inputs.

    Raises:
        UserError: unknown setting or protocol value, a step that TAG does not have, or a class list that does not fit.
    """
    params, dataset = item.params, item.params["dataset"]
    protocol = Protocol.read({**params["protocol"], "logit_scale": 1.0})
    protocol.refuse(params["method"], *UNUSED_STEPS)
    if protocol.score_size != "input":
        raise UserError(f"protocol.score_size: method {params['method']} counts pixels of its segments; write 'input'")
    classes, first = params["classes"], int(dataset["background"])
    if len(classes) != dataset["num_classes"] or len(classes) <= first:
        raise UserError(
            f"data set {dataset['name']}: the class list '{params['protocol']['names']}' has {len(classes)} classes, "
            f"the labels have {dataset['num_classes']}; give it a list with one line per class"
        )
    return Row(
        name=name,
        out=item.out,
        naming=methods.read_settings(Naming, params["settings"], params["method"], name),
        source=item.inputs["source"],
        at=(item.inputs["segments"], item.inputs["neighbours"]),
        sentences=item.inputs["sentences"],
        view=dataset["name"],
        num_classes=len(classes),
        class_names={number: names[0] for number, names in enumerate(classes) if number >= first},
        examples=params.get("examples", 0),
    )
