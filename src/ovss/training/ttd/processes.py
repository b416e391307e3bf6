"""One training over several processes, as torchrun starts them: each takes its share of every batch.

    torchrun --nproc-per-node 4 <entry point>

Gradients are added over the processes once a step: the factors are a million numbers, so this costs nothing, and the
result is that of one process up to rounding.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from torch import Tensor, nn


@dataclass(frozen=True)
class Process:
    """This process: rank 0..size-1 and its device. Rank 0 alone writes files."""

    rank: int = 0
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def share(self, count: int) -> slice:
        """Its rows of a batch of ``count``."""
        return slice(self.rank * count // self.size, (self.rank + 1) * count // self.size)


@contextmanager
def joined(device: str = "cpu") -> Iterator[Process]:
    """This process among those that torchrun started; alone where torchrun did not start it."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield Process(device=torch.device(device))
        return
    gpu = torch.device(device).type == "cuda"
    place = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))) if gpu else torch.device(device)
    if gpu:
        torch.cuda.set_device(place)
    dist.init_process_group("nccl" if gpu else "gloo")
    try:
        yield Process(dist.get_rank(), size, place)
    finally:
        dist.destroy_process_group()


def add_gradients(process: Process, parameters: Sequence[nn.Parameter]) -> None:
    """Sum the gradients of all processes into each, in one message."""
    if process.size == 1:
        return
    parts = [torch.zeros_like(each) if each.grad is None else each.grad for each in parameters]
    joint = torch.cat([part.flatten() for part in parts])
    dist.all_reduce(joint)
    for each, part in zip(parameters, joint.split([part.numel() for part in parts]), strict=True):
        each.grad = part.view_as(each).clone()


def add_sums(process: Process, sums: dict[str, Tensor]) -> dict[str, float]:
    """Reported sums over all processes."""
    joint = torch.stack([each.double() for each in sums.values()])
    if process.size > 1:
        dist.all_reduce(joint)
    return dict(zip(sums, joint.tolist(), strict=True))
