"""A row of the stage ``evaluate`` on pictures of one's own: the same steps, with nothing to compare with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from ovss import methods
from ovss.data.label_maps import IGNORED
from ovss.errors import UserError
from ovss.evaluation.batch import Batch, View, make_view
from ovss.evaluation.preprocess import resize_nearest
from ovss.evaluation.row import Group, Row, companion_loader, group_rows, model_opener, read_row
from ovss.jobs import Item
from ovss.models.clip import Clip, load_clip, without_text
from ovss.models.features import Features
from ovss.segment.recipe import Maps

Labels = npt.NDArray[np.uint8]


def refuse_ground_truth(recipe: Maps) -> None:
    """Refuse a row that is told what an image shows.

    Raises:
        UserError: the row asks for labels, or has a setting that its method does not know.
    """
    method = methods.load(recipe.params["method"])
    settings = methods.read_settings(method.Settings, recipe.params["settings"], recipe.params["method"])
    if hasattr(method, "uses_labels") and method.uses_labels(settings):
        raise UserError(f"{recipe.row}: this row is told which classes an image shows, which nobody knows of yours; "
                        "take another row, 'ovss segment --list' has some")  # fmt: skip


@dataclass(frozen=True)
class Labeller:
    """A row with its models and vocabulary, ready for pictures."""

    clip: Clip
    row: Row
    group: Group

    @classmethod
    def load(cls, recipe: Maps, at: Mapping[str, Path], device: str) -> Labeller:
        """Load models and texts from the directories of the recipe's jobs.

        Raises:
            UserError: an output is damaged or does not fit the row.
        """
        clip = without_text(load_clip(at["model"], device))
        item = Item(recipe.params, dict(at), Path())
        row = read_row(str(recipe.row), item, clip, companion_loader(device), model_opener(clip))
        (group,) = group_rows([row])
        return cls(clip, row, group)

    def view(self, name: str, image: Labels) -> View:
        """A picture (H, W, 3) as network input.

        Raises:
            UserError: it is smaller than a patch after resizing.
        """
        return make_view(name, image, self.group.geometry, self.clip)

    @torch.inference_mode()
    def labels(self, view: View) -> Labels:
        """Class of every pixel at the picture's own size, (H, W) uint8; 255: no class.

        Raises:
            UserError: the protocol asks for a step that the method does not have.
        """
        row, group = self.row, self.group
        features = Features(self.clip, view.windows(), view.colours, group.companions, group.affinities())
        batch = Batch((view,), row.protocol)
        if hasattr(row.method, "ahead"):
            row.method.ahead(batch, row.vocabulary, [features], row.settings)
        prediction = row.predict(batch, features)
        known = np.where(prediction.labels < row.num_classes, prediction.labels, IGNORED).astype(np.uint8)
        return resize_nearest(torch.from_numpy(known), view.original_size).numpy()
