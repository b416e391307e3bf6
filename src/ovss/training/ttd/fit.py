"""TTD's training loop: AdamW with polynomial decay on the adapters, exact continuation of an interrupted run."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch

from ovss.errors import UserError
from ovss.training.loop import Curves, one_thread, open_curves
from ovss.training.ttd.lora import adapter_state, refuse_dead, trained_parameters
from ovss.training.ttd.merge import ADAPTERS_FILE, save_adapters
from ovss.training.ttd.processes import Process, add_gradients, add_sums, refuse_different
from ovss.training.ttd.resume import STATE_FILE, load_state, save_state
from ovss.training.ttd.step import Batch, TrainSettings, backward, learning_rate, make_optimiser
from ovss.training.ttd.towers import Tower

CURVES_FILE = "curves.csv"
# Settings that may change when a run goes on: they alter no number.
_FREE = ("save_every",)
Batches = Callable[[int], Iterator[Batch]]


def facts_of(settings: TrainSettings, base: str) -> dict[str, Any]:
    """What an interrupted run must share with the one that goes on, as JSON types."""
    facts: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(settings)))
    return {"base": base, **{name: value for name, value in facts.items() if name not in _FREE}}


def fit(
    tower: Tower, batches: Batches, settings: TrainSettings, base: str, out: Path, process: Process | None = None
) -> None:
    """Train the adapters of ``tower.model`` in place; write ``adapters.safetensors`` and ``curves.csv`` to ``out``.

    A run that was killed goes on from its last saved state in ``out``; on the CPU it ends with the same bytes as one
    that was not.

    Args:
        tower: base model with adapters attached, on the process's device.
        batches: ``batches(first)`` yields this process's share (``Process.share``) of the batches of steps first,
            first + 1, ...; what it yields depends on the step alone.
        settings: training settings.
        base: id of the base (``ovss.training.ttd.merge.base_id``).
        out: folder.
        process: this process; None: the only one, where the model is.

    Raises:
        UserError: an adapter has no part in the loss, the loss is not finite, the batches end early, or the saved
            state is of other settings.
    """
    process = process or Process(device=next(tower.model.parameters()).device)
    with one_thread(settings.seed) if process.device.type == "cpu" else nullcontext():
        _run(tower, batches, settings, base, out, process)


def _run(tower: Tower, batches: Batches, settings: TrainSettings, base: str, out: Path, process: Process) -> None:
    optimiser, facts = make_optimiser(tower, settings), facts_of(settings, base)
    done, written = load_state(out / STATE_FILE, tower, optimiser, facts)
    # Also: the first process removes the file at the end, which must not be before the last has read it.
    refuse_different(process, done, "the steps done")
    curves_path = out / CURVES_FILE if process.rank == 0 else Path(os.devnull)
    with open_curves(curves_path) as file:
        curves = Curves(file)
        file.write(written)
        stream, started = batches(done), time.monotonic()
        for step in range(done, settings.steps):
            batch = next(stream, None)
            if batch is None:
                raise UserError(f"training: the pairs end after {step} of {settings.steps} steps; lower training.steps")
            metrics = _step(tower, batch, settings, optimiser, step, process)
            if (step + 1) % settings.log_every == 0 or step + 1 == settings.steps:
                curves.add(step + 1, "train", metrics)
                _progress(step + 1, done, settings.steps, metrics["loss"], started, process)
            if process.rank == 0 and (step + 1) % settings.save_every == 0:
                lines = curves_path.read_text(encoding="utf-8").partition("\n")[2]
                save_state(out / STATE_FILE, tower, optimiser, step + 1, lines, facts)
    if process.rank == 0:
        save_adapters(out / ADAPTERS_FILE, adapter_state(tower.model), base, settings.lora)
        (out / STATE_FILE).unlink(missing_ok=True)


def _step(
    tower: Tower, batch: Batch, settings: TrainSettings, optimiser: torch.optim.Optimizer, step: int, process: Process
) -> dict[str, float]:
    """One optimiser step; the metrics of the whole batch."""
    count, share = len(batch.captions), process.share(settings.batch)
    if count != share.stop - share.start or not count:
        raise UserError(f"training: {count} pairs instead of {share.stop - share.start} at step {step}; mend the input")
    for group in optimiser.param_groups:
        group["lr"] = learning_rate(step, settings)
    optimiser.zero_grad(set_to_none=True)
    sums = backward(tower, batch, settings, process.device)
    if step == 0:
        refuse_dead(tower.model)
    add_gradients(process, [each for _, each in trained_parameters(tower.model)])
    found = add_sums(process, sums)
    loss = found["distill"] + found["tag"]
    if not math.isfinite(loss):
        raise UserError(f"training: the loss is not finite at step {step}: lower training.lr")
    optimiser.step()
    selected = found["selected"] / found["words"]
    return {"loss": loss, "distill": found["distill"], "tag": found["tag"], "selected_share": selected}


def _progress(step: int, first: int, steps: int, loss: float, started: float, process: Process) -> None:
    if process.rank == 0:
        left = (time.monotonic() - started) / (step - first) * (steps - step)
        print(f"step {step}/{steps}  loss {loss:.4f}  {left / 60:.0f} min left", file=sys.stderr, flush=True)
