"""Base models as towers of the training, and a trained one as a model directory with merged weights."""

from __future__ import annotations

import shutil
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from ovss.config.ttd import Base
from ovss.models import grounder
from ovss.models.clip import CONFIG_FILE, MERGES_FILE, WEIGHTS_FILE
from ovss.models.tcl import TclModel
from ovss.models.ttd_base import open_base
from ovss.training.ttd.lora import LoraSettings
from ovss.training.ttd.merge import base_id, load_adapters, merged_state
from ovss.training.ttd.towers import MaskClipTower, TclTower

BaseTower = MaskClipTower | TclTower
# TclModel keeps CLIP and grounder side by side; a model directory has a file for each.
_CLIP, _GROUNDER = "tower.", "grounder."


def open_tower(directory: Path, base: Base, coarse: bool = False) -> BaseTower:
    """A base model with text tower on the CPU. ``coarse``: see ``ovss.training.ttd.grounder``.

    Raises:
        UserError: as ``ovss.models.ttd_base.open_base``.
    """
    model = open_base(directory, base, text=True)
    return TclTower(model, coarse) if isinstance(model, TclModel) else MaskClipTower(model.clip)


def write_merged(directory: Path, base: Base, adapters: Path, settings: LoraSettings, out: Path) -> dict[str, int]:
    """Write a model directory: the base in ``directory`` with the adapters of a file folded into its weights.

    Returns:
        Numbers of parameters: ``base``, ``with_adapters``, ``trained``.

    Raises:
        UserError: the adapters are of another base or of other settings.
    """
    tower = open_tower(directory, base)
    state = tower.model.state_dict()
    factors = load_adapters(adapters, base_id(state), settings)
    _write(merged_state(state, factors, settings.scale), base, out)
    for name in (CONFIG_FILE, MERGES_FILE) + ((grounder.CONFIG_FILE,) if base == "tcl" else ()):
        if (directory / name).is_file():
            shutil.copyfile(directory / name, out / name)
    unread = tuple(f"{part}." for part in tower.unread)
    trained = sum(each.numel() for name, each in factors.items() if not name.startswith(unread))
    own = sum(each.numel() for each in tower.model.parameters())
    return {"base": own, "with_adapters": own + sum(each.numel() for each in factors.values()), "trained": trained}


def _write(state: dict[str, Tensor], base: Base, out: Path) -> None:
    if base == "maskclip":
        _save(state, out / WEIGHTS_FILE)
        return
    for prefix, name in ((_CLIP, WEIGHTS_FILE), (_GROUNDER, grounder.WEIGHTS_FILE)):
        _save({k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}, out / name)


def _save(state: dict[str, Tensor], path: Path) -> None:
    save_file({name: value.contiguous() for name, value in state.items()}, path)
