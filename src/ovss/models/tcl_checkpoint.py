"""TCL's published checkpoint, sorted into CLIP and grounder; ``ovss.models.tcl`` loads what is written here.

A model directory is that of a CLIP, so texts and MaskCLIP's features need nothing else, with the grounder beside it.
"""

from __future__ import annotations

import json
import math
import re
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from ovss.errors import UserError
from ovss.models.checkpoints import read_checkpoint
from ovss.models.clip import Clip
from ovss.models.grounder import CONFIG_FILE, WEIGHTS_FILE, make_grounder
from ovss.models.tcl_adapters import is_adapters, merge_adapters
from ovss.models.tcl_pickle import read_weights

# The logit scale belongs to the training loss; PAMR's fixed kernels appear after a first inference.
_UNUSED = re.compile(r"tcl[if]_loss\.logit_scale|pamr\.aff_\w+\.kernel")
# Official and OpenAI's names begin with; in this order, the first that fits.
_CLIP = (
    ("clip_image_encoder.clip_proj.ln.", "visual.ln_post."),
    ("clip_image_encoder.clip_proj.proj", "visual.proj"),
    ("clip_image_encoder.clip_visual.", "visual."),
    ("clip_text_encoder.", ""),
)
_GROUNDER = (
    ("masker.image_encoder.decoder.decoder.", "decoder."),
    ("masker.image_encoder.decoder.image_proj.", "image_proj."),
    ("masker.sim2mask.", "sim2mask."),
)
_BLOCK = re.compile(r"masker\.image_encoder\.backbone\.transformer\.resblocks\.(\d+)\.")
_LAYER = re.compile(r"visual\.transformer\.resblocks\.(\d+)\.")
# A part of CLIP that TCL does not have; CLIP's own value.
_LOGIT_SCALE, _SCALE = "logit_scale", math.log(100.0)


@dataclass(frozen=True)
class TclState:
    """Tensors of a TCL: ``clip`` in OpenAI's names, ``grounder`` in ours."""

    clip: dict[str, Tensor]
    grounder: dict[str, Tensor]


def is_tcl(state: Mapping[str, Tensor]) -> bool:
    """Whether these are names of a whole TCL."""
    return any(key.startswith("masker.") for key in state)


def with_clip(state: Mapping[str, Tensor], clip: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A checkpoint with the tensors of CLIP (OpenAI's names) that it leaves out, in its own names."""
    openai = [(ours, official) for official, ours in _CLIP]
    towers = {_renamed(key, openai) or key: value for key, value in clip.items() if key != _LOGIT_SCALE}
    return {**towers, **state}


def split_state(state: Mapping[str, Tensor], name: str) -> TclState:
    """Sort a TCL's tensors into CLIP and grounder, by their official names.

    Args:
        state: tensors of the checkpoint, complete.
        name: what error messages call the model.

    Raises:
        UserError: an unknown name, a copied block that is not the last one, or no weights of CLIP.
    """
    towers = {_LOGIT_SCALE: torch.tensor(_SCALE)}
    grounder: dict[str, Tensor] = {}
    copied: set[int] = set()
    for key, value in state.items():
        block = _BLOCK.match(key)
        if block:
            copied.add(int(block[1]))
            grounder["block." + key[block.end() :]] = value
        elif new := _renamed(key, _CLIP):
            towers[new] = value
        elif new := _renamed(key, _GROUNDER):
            grounder[new] = value
        elif not _UNUSED.fullmatch(key):
            raise UserError(f"{name}: tensor '{key}' is not known in a TCL checkpoint; use the published file")
    layers = [int(match[1]) for key in towers if (match := _LAYER.match(key))]
    if not layers:
        raise UserError(f"{name}: the checkpoint leaves out CLIP; give CLIP's own file beside it in weights.yaml")
    if copied != {max(layers)}:
        raise UserError(f"{name}: the grounder copies block {sorted(copied)}, not CLIP's last, {max(layers)}; "
                        "use the published file")  # fmt: skip
    return TclState(towers, grounder)


def _renamed(key: str, table: Sequence[tuple[str, str]]) -> str | None:
    return next((new + key.removeprefix(old) for old, new in table if key.startswith(old)), None)


def read_tcl(paths: Sequence[Path], name: str) -> TclState:
    """A TCL from its checkpoint and what belongs to it.

    Args:
        paths: the checkpoint, then in any order: CLIP's own file (TorchScript), TTD's checkpoint, which is a whole TCL
            and replaces the first, or adapters that are added to it.
        name: what error messages call the model.

    Raises:
        UserError: a file cannot be read, is none of these, or does not fit.
    """
    state = read_weights(paths[0])
    for path in sorted(paths[1:], key=lambda path: not _is_torchscript(path)):
        if _is_torchscript(path):
            state = with_clip(state, read_checkpoint(path, "torchscript"))
        elif is_adapters(extra := read_weights(path)):
            state = merge_adapters(state, extra, str(path))
        elif is_tcl(extra):
            state = {**state, **extra}
        else:
            first = ", ".join(list(extra)[:3])
            raise UserError(f"{path}: neither a TCL nor adapters for one (it has {first}); use the published file")
    return split_state(state, name)


def _is_torchscript(path: Path) -> bool:
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(entry.endswith("/constants.pkl") for entry in archive.namelist())


def write_grounder(out: Path, clip: Clip, grounder: Mapping[str, Tensor], name: str) -> int:
    """Check that a grounder fits its CLIP, write it beside it, return its number of parameters.

    Raises:
        UserError: it does not fit.
    """
    stages = len({key.split(".")[2] for key in grounder if key.startswith("decoder.net.")})
    model = make_grounder(clip.visual, grounder, stages, name)
    (out / CONFIG_FILE).write_text(json.dumps({"stages": stages}) + "\n", encoding="utf-8")
    save_file({key: value.contiguous().clone() for key, value in grounder.items()}, out / WEIGHTS_FILE)
    return sum(parameter.numel() for parameter in model.parameters())
