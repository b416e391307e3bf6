"""Run by ``test_devices.py`` with --pretended-gpu, in a process of its own."""

from __future__ import annotations

import pytest
import torch
from pretend_gpu import NAME
from torch import nn


def test_operands_on_two_devices_are_refused_and_moves_are_not() -> None:
    here, there = torch.arange(6.0).view(2, 3), torch.arange(6.0, device=NAME).view(2, 3)
    assert there.device.type == NAME and (there + 1).sum().item() == 21
    torch.testing.assert_close((there @ there.T).cpu(), here @ here.T)
    torch.testing.assert_close((here.to(NAME) * torch.tensor(2.0)).cpu(), here * 2)
    assert there[torch.tensor([1])].cpu().tolist() == [[3, 4, 5]] == there[[1]].tolist()
    for wrong in (lambda: here + there, lambda: torch.cat([there, here]), lambda: there.masked_fill(here > 1, 0),
                  lambda: here[there.long()[0]], lambda: nn.Linear(3, 2)(there)):  # fmt: skip
        with pytest.raises(RuntimeError, match="two devices"):
            wrong()
    with pytest.raises((RuntimeError, TypeError)):
        there.numpy()


def test_in_place_changes_reach_views_and_gradients_flow() -> None:
    values = torch.zeros(2, 3, device=NAME)
    values[1].add_(2)
    values[:, 0] = 5
    assert values.tolist() == [[5, 0, 0], [5, 2, 2]]
    layer = nn.Linear(3, 2).to(NAME)
    optimiser = torch.optim.SGD(layer.parameters(), lr=0.1)
    before = layer.weight.detach().cpu().clone()
    layer(values).sum().backward()
    optimiser.step()
    torch.testing.assert_close(layer.weight.detach().cpu(), before - 0.1 * torch.tensor([10.0, 2, 2]).expand(2, 3))
