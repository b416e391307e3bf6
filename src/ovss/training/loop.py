"""The one training loop: AdamW, linear warm-up and cosine decay, gradient clipping, curves, progress with time left."""

from __future__ import annotations

import csv
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

import torch
from torch import nn

from ovss.config.world import Schedule
from ovss.errors import UserError
from ovss.models.left_out import without_compiler

Metrics = Mapping[str, float]


class Curves:
    """curves.csv: header step,split,metric,value; one line per number."""

    def __init__(self, file: TextIO) -> None:
        self._writer = csv.writer(file, lineterminator="\n")
        self._writer.writerow(["step", "split", "metric", "value"])

    def add(self, step: int, split: str, metrics: Metrics) -> None:
        """Record metrics after ``step`` steps, with six significant digits."""
        for name in sorted(metrics):
            self._writer.writerow([step, split, name, f"{metrics[name]:.6g}"])


@contextmanager
def one_thread(seed: int) -> Iterator[None]:
    """Run deterministically on one thread with torch's global generator seeded; both are put back afterwards.

    Functions that torch's compiler would be asked about within stay eager.
    """
    threads = torch.get_num_threads()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        torch.set_num_threads(1)
        try:
            with without_compiler():
                yield
        finally:
            torch.set_num_threads(threads)


def learning_rate(step: int, schedule: Schedule) -> float:
    """Rate for step 0, 1, ...: linear rise over the warm-up, cosine fall to a hundredth of the peak."""
    rise = max(1, round(schedule.warmup * schedule.steps))
    if step < rise:
        return schedule.lr * (step + 1) / rise
    done = (step - rise) / max(1, schedule.steps - rise)
    return schedule.lr * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done)))


def make_optimiser(model: nn.Module, schedule: Schedule) -> torch.optim.AdamW:
    """AdamW with weight decay on matrices only (not on gains, biases, the class embedding or the logit scale).

    A group's ``factor`` multiplies the learning rate: scalars (CLIP's logit scale) have far to go in few steps.
    """
    trained = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": schedule.weight_decay, "factor": 1.0},
        {"params": [p for p in trained if p.ndim == 1], "weight_decay": 0.0, "factor": 1.0},
        {"params": [p for p in trained if p.ndim == 0], "weight_decay": 0.0, "factor": schedule.scalar_lr},
    ]
    return torch.optim.AdamW(groups, lr=schedule.lr, betas=(0.9, schedule.beta2), eps=1e-6, fused=True)


class Average:
    """Exponential moving average of a model's weights."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.weights = {k: v.detach().clone() for k, v in model.state_dict().items()}

    def update(self, model: nn.Module, step: int) -> None:
        """Move towards the weights after ``step`` steps; early steps count more."""
        decay = min(self.decay, (1 + step) / (10 + step))
        for name, value in model.state_dict().items():
            if value.is_floating_point():
                self.weights[name].lerp_(value, 1 - decay)


def fit(
    model: nn.Module,
    schedule: Schedule,
    loss_of: Callable[[int], tuple[torch.Tensor, Metrics]],
    curves: Curves,
    after: Callable[[int], None] = lambda step: None,
    check: Callable[[], Metrics] = dict,
    checks: int = 4,
) -> None:
    """Train ``model`` in place.

    ``loss_of(step)`` gives the loss (scalar tensor) and metrics of a step; ``after(step)`` runs after the optimiser;
    ``check()`` gives held-out metrics, asked ``checks`` times over the run. With ``schedule.ema`` the averaged weights
    are loaded at the end, before the last check. Raises UserError when the loss is no longer finite.
    """
    optimiser = make_optimiser(model, schedule)
    average = Average(model, schedule.ema) if schedule.ema else None
    check_steps = {round(schedule.steps * k / checks) for k in range(1, checks)}
    started = time.monotonic()
    for step in range(schedule.steps):
        for group in optimiser.param_groups:
            group["lr"] = group["factor"] * learning_rate(step, schedule)
        loss, metrics = loss_of(step)
        if not math.isfinite(loss.item()):
            raise UserError(f"training: the loss is not finite at step {step}: lower schedule.lr")
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(model.parameters(), schedule.clip)
        optimiser.step()
        after(step)
        if average:
            average.update(model, step)
        done = step + 1
        if done % schedule.log_every == 0 or done == schedule.steps:
            curves.add(done, "train", {"loss": loss.item(), "gradient_norm": norm.item(), **metrics})
            _progress(done, schedule.steps, loss.item(), started)
        if done in check_steps:
            curves.add(done, "val", check())
    if average:
        model.load_state_dict(average.weights)
    curves.add(schedule.steps, "val", check())


def _progress(done: int, steps: int, loss: float, started: float) -> None:
    left = (time.monotonic() - started) / done * (steps - done)
    print(f"step {done}/{steps}  loss {loss:.3f}  {left:.0f} s left", file=sys.stderr, flush=True)


def open_curves(path: Path) -> TextIO:
    """curves.csv for writing, every line at once."""
    return path.open("w", encoding="utf-8", newline="", buffering=1)
