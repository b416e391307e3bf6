"""The dense CRF by pydensecrf, the library that published code uses, where it is installed.

It does what ``ovss.models.crf`` does and is not needed: it stands beside it so that a row can be run with either.
"""

from __future__ import annotations

import importlib
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from ovss.errors import UserError
from ovss.models import crf

CrfBackend = Literal["torch", "pydensecrf"]
BACKENDS: tuple[CrfBackend, ...] = get_args(CrfBackend)
_MODULE = "pydensecrf.densecrf"


def marginals(
    unary: Tensor,
    colours: Tensor,
    gaussian: tuple[float, float],
    bilateral: tuple[float, float, float],
    steps: int,
    backend: CrfBackend = "torch",
) -> Tensor:
    """Marginals of the Potts model after some mean-field steps.

    Args:
        unary: (H*W, K) float32, energy of every label at every pixel (see ``crf.unary_energy``).
        colours: (H, W, 3) uint8, red, green, blue, on the device of ``unary``.
        gaussian: deviation of positions in pixels and weight of a disagreement.
        bilateral: deviation of positions, of colours of 0..255, and weight of a disagreement.
        steps: how often messages are sent.
        backend: our own mean field, on any device, or pydensecrf's, on the CPU.

    Returns:
        (H*W, K) float32, rows add to 1, on the device of ``unary``.

    Raises:
        UserError: pydensecrf is asked for and not installed, or the deviations are too small for the image.
    """
    if backend == "pydensecrf":
        return _library(unary, colours, gaussian, bilateral, steps)
    size = (colours.shape[0], colours.shape[1])
    near = crf.position_edges(size, gaussian[0], colours.device)
    far = crf.make_edges(crf.positions_and_colours(colours, bilateral[0], bilateral[1]))
    return crf.mean_field(unary, [(near, gaussian[1]), (far, bilateral[2])], steps)


def _library(
    unary: Tensor,
    colours: Tensor,
    gaussian: tuple[float, float],
    bilateral: tuple[float, float, float],
    steps: int,
) -> Tensor:
    height, width, _ = colours.shape
    field = import_library().DenseCRF2D(width, height, unary.shape[1])
    field.setUnaryEnergy(np.ascontiguousarray(unary.cpu().numpy().T, dtype=np.float32))
    field.addPairwiseGaussian(sxy=gaussian[0], compat=gaussian[1])
    # Colours go in backwards, as published code hands them over and as ``crf`` has them.
    image = np.ascontiguousarray(colours.cpu().numpy()[..., ::-1])
    field.addPairwiseBilateral(sxy=bilateral[0], srgb=bilateral[1], rgbim=image, compat=bilateral[2])
    found = np.array(field.inference(steps), dtype=np.float32)
    return torch.from_numpy(np.ascontiguousarray(found.T)).to(unary.device)


def import_library() -> Any:
    """pydensecrf's module.

    Raises:
        UserError: it is not installed.
    """
    try:
        return importlib.import_module(_MODULE)
    except ImportError as error:
        reason = f"pydensecrf cannot be imported ({error}); install it or set crf_backend to torch"
        raise UserError(f"settings.crf_backend: {reason}") from error
