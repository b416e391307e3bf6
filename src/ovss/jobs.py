"""What a stage module gets to see of its job."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Machine:
    """Where a job runs. Nothing in here may change a result."""

    device: str = "cpu"
    workers: int = 1
    batch_size: int = 8


@dataclass(frozen=True)
class Item:
    """One output of a job: its parameters, its inputs' directories and the directory to fill."""

    params: Mapping[str, Any]
    inputs: Mapping[str, Path]
    out: Path


def _no_finish(name: str, facts: Mapping[str, Any] | None = None) -> None:
    raise RuntimeError(f"{name}: this job has a single output, the runner finishes it")


@dataclass(frozen=True)
class JobContext:
    """Everything a stage's ``run`` may read: parameters (all in the key), input directories, the output to fill.

    A pass (several outputs made in one go) has ``items`` by output name and calls ``finish(name, facts)`` as soon as
    one is complete; a job with one output fills ``out`` and returns its facts. ``scratch`` survives a killed run and is
    the same for the same work, so that the next run can go on; it goes when the job is complete.
    """

    seed: int
    machine: Machine
    params: Mapping[str, Any] = field(default_factory=dict)
    inputs: Mapping[str, Path] = field(default_factory=dict)
    out: Path = Path()
    items: Mapping[str, Item] = field(default_factory=dict)
    finish: Callable[..., None] = _no_finish
    scratch: Path = Path()
