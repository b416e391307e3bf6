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

from ovss.errors import UserError


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
        torch.backends.cudnn.allow_tf32 = False  # as the runner sets it for its own process
        torch.cuda.set_device(place)
    dist.init_process_group("nccl" if gpu else "gloo")
    yield Process(dist.get_rank(), size, place)
    # Only if all went well: where one process fails, its end tells the others, and its error is the one to be seen.
    dist.destroy_process_group()


def refuse_different(process: Process, number: int, what: str) -> None:
    """Check that all processes have a number in common; none goes on before all have said theirs.

    Raises:
        UserError: they differ; names ``what``.
    """
    if process.size == 1:
        return
    found = torch.tensor([number, -number], device=process.device)
    dist.all_reduce(found, dist.ReduceOp.MAX)
    most, least = int(found[0]), -int(found[1])
    if most != least:
        raise UserError(f"training: processes differ in {what} ({least} to {most}); let all see the same folder")


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
