"""What a method is given and what it returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ovss.errors import UserError
from ovss.evaluation.preprocess import normalise, resize, resized_size
from ovss.evaluation.protocol import Geometry, Protocol
from ovss.models.clip import Clip
from ovss.models.windows import Grid, cut_windows, make_grid


@dataclass(frozen=True)
class View:
    """One image under one geometry.

    id: image id. original_size, input_size: (H, W) before and after resizing. pixels: (H, W, 3) uint8, resized RGB.
    input: (3, H, W) float32, the same normalised. grid: its windows. normalisation: which one of the protocol.
    source: (H, W, 3) uint8 RGB as it was read; None: a view that was made without it.
    """

    id: str
    original_size: tuple[int, int]
    pixels: Tensor
    input: Tensor
    grid: Grid
    normalisation: str = "model"
    source: Tensor | None = None

    @property
    def original(self) -> Tensor:
        """(H, W, 3) uint8 RGB before resizing, on the model's device.

        Raises:
            UserError: the view was made without it.
        """
        if self.source is None:
            raise UserError(f"image {self.id}: this view comes without its original pixels, which the method needs")
        return self.source

    @property
    def input_size(self) -> tuple[int, int]:
        """(H, W) of the network input."""
        return self.input.shape[-2], self.input.shape[-1]

    def windows(self) -> Tensor:
        """(W, 3, Hc, Wc) float32 windows in raster order."""
        return cut_windows(self.input, self.grid)

    def colours(self) -> Tensor:
        """The same windows as RGB in 0..1, (W, 3, Hc, Wc) float32."""
        return cut_windows(self.pixels.permute(2, 0, 1) / 255, self.grid)


@dataclass(frozen=True)
class Batch:
    """Images of one geometry and the protocol that the row follows.

    labels: (H, W) class indices of each view at the label's own size (ignored: see ``ovss.data.labels.ignored_in``);
    given only to rows whose method asks for them (``uses_labels``), to restrict the vocabulary to what is there.
    """

    views: tuple[View, ...]
    protocol: Protocol
    labels: tuple[npt.NDArray[Any], ...] = ()

    def score_size(self, view: View) -> tuple[int, int]:
        """(H, W) at which the protocol decides."""
        return view.original_size if self.protocol.score_size == "original" else view.input_size


@dataclass(frozen=True)
class Prediction:
    """labels: (H, W) integers, class index per pixel, at the size at which the protocol decides.

    The number of classes itself stands for "no class".
    """

    labels: npt.NDArray[np.integer]

    def problem(self, size: tuple[int, int], num_classes: int) -> str:
        """What is wrong with it, '' if nothing is: not an array of integers, of another size, or no class index."""
        if not isinstance(self.labels, np.ndarray) or not np.issubdtype(self.labels.dtype, np.integer):
            kind = getattr(self.labels, "dtype", type(self.labels).__name__)
            return f"must be a NumPy array of integers and is {kind} ({type(self.labels).__name__})"
        if self.labels.shape != size:
            return f"is of shape {self.labels.shape} and must be {size}, the size at which the protocol decides"
        low, high = int(self.labels.min()), int(self.labels.max())
        if low < 0 or high > num_classes:
            return f"has values {low} to {high}; classes are 0 to {num_classes - 1}, {num_classes} stands for none"
        return ""


def make_view(name: str, image: npt.NDArray[np.uint8], geometry: Geometry, clip: Clip) -> View:
    """Resize, normalise and lay windows over an image.

    Args:
        name: image id, for error messages.
        image: (H, W, 3) uint8 RGB.
        geometry: sizes and normalisation.
        clip: the model, for its patch size, normalisation and device.

    Raises:
        UserError: the resized image or window is smaller than a patch.
    """
    pixels = torch.from_numpy(image).to(clip.device)
    size = (image.shape[0], image.shape[1])
    resized = resize(pixels, resized_size(size, geometry), geometry)
    grid = make_grid(
        (resized.shape[0], resized.shape[1]), geometry.crop, geometry.stride, clip.patch_size, geometry.window_padding
    )
    if grid.rows.patches < 1 or grid.columns.patches < 1:
        raise UserError(
            f"image {name}: {resized.shape[1]}x{resized.shape[0]} pixels after resizing is smaller than a patch of "
            f"{clip.patch_size}; raise short_side or leave the image out"
        )
    return View(name, size, resized, normalise(resized, geometry, clip), grid, geometry.normalisation, pixels)
