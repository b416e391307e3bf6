"""The state of a training between two steps: factors, optimiser moments, steps done, curves so far.

Nothing else is needed for an exact continuation: no step draws random numbers, and batches are a function of the step.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ovss.errors import UserError
from ovss.training.ttd.lora import adapter_state, put_adapters, trained_parameters
from ovss.training.ttd.merge import read_tensors, write_tensors
from ovss.training.ttd.towers import Tower

STATE_FILE = "resume.safetensors"
KIND = "ovss interrupted training 1"
MOMENTS = ("exp_avg", "exp_avg_sq", "step")


def save_state(
    path: Path, tower: Tower, optimiser: torch.optim.Optimizer, done: int, curves: str, facts: Mapping[str, Any]
) -> None:
    """Write the state after ``done`` steps with the curves' lines; ``facts`` (JSON types) must be the same to go on."""
    tensors = {f"factor {name}": each for name, each in adapter_state(tower.model).items()}
    for name, parameter in trained_parameters(tower.model):
        state = optimiser.state[parameter]
        tensors |= {f"{moment} {name}": state[moment].detach().cpu() for moment in MOMENTS}
    write_tensors(path, tensors, {"kind": KIND, "done": done, "curves": curves, "facts": dict(facts)})


def load_state(path: Path, tower: Tower, optimiser: torch.optim.Optimizer, facts: Mapping[str, Any]) -> tuple[int, str]:
    """Put a saved state into model and optimiser; steps done and lines of the curves, (0, "") where there is no file.

    Raises:
        UserError: the file is damaged, or of a training with other settings or another base.
    """
    if not path.exists():
        return 0, ""
    tensors, record = read_tensors(path, KIND)
    changed = sorted(key for key in {*facts, *record["facts"]} if facts.get(key) != record["facts"].get(key))
    if changed:
        raise UserError(f"{path}: begun with another {changed[0]}; remove the file to train anew")
    factors = {name.partition(" ")[2]: each for name, each in tensors.items() if name.startswith("factor ")}
    put_adapters(tower.model, factors, str(path))
    for name, parameter in trained_parameters(tower.model):
        # AdamW keeps its counter of steps on the CPU; the moments lie with the weights.
        moments = {moment: tensors[f"{moment} {name}"] for moment in MOMENTS}
        optimiser.state[parameter] = {k: v if k == "step" else v.to(parameter.device) for k, v in moments.items()}
    return int(record["done"]), str(record["curves"])
