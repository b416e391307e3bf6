"""No operand is left on another device: stages on a device that is none (``pretend_gpu``) give the CPU's bytes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from pretend_gpu import pretended_gpu
from torch import nn

STAGES = ("test_captions.py", "test_descriptions.py", "test_evaluate.py", "test_search.py", "test_segment_command.py",
          "test_segment_methods.py", "test_tag_name.py", "test_tag_segment.py", "test_text_rows.py",
          "test_ttd_segment.py", "test_ttd_stages.py")  # fmt: skip
"""Files with tests that run stages which use a GPU."""


def test_operands_on_two_devices_are_refused_and_moves_are_not() -> None:
    with pretended_gpu() as gpu:
        here, there = torch.arange(6.0).view(2, 3), torch.arange(6.0, device=gpu).view(2, 3)
        assert there.device.type == gpu and (there + 1).sum().item() == 21
        torch.testing.assert_close((there @ there.T).cpu(), here @ here.T)
        torch.testing.assert_close((here.to(gpu) * torch.tensor(2.0)).cpu(), here * 2)
        assert there[torch.tensor([1])].cpu().tolist() == [[3, 4, 5]] == there[[1]].tolist()
        for wrong in (lambda: here + there, lambda: torch.cat([there, here]), lambda: there.masked_fill(here > 1, 0),
                      lambda: here[there.long()[0]], lambda: nn.Linear(3, 2)(there)):  # fmt: skip
            with pytest.raises(RuntimeError, match="two devices"):
                wrong()
        with pytest.raises((RuntimeError, TypeError)):
            there.numpy()


def test_in_place_changes_reach_views_and_gradients_flow() -> None:
    with pretended_gpu() as gpu:
        values = torch.zeros(2, 3, device=gpu)
        values[1].add_(2)
        values[:, 0] = 5
        assert values.tolist() == [[5, 0, 0], [5, 2, 2]]
        layer = nn.Linear(3, 2).to(gpu)
        optimiser = torch.optim.SGD(layer.parameters(), lr=0.1)
        before = layer.weight.detach().cpu().clone()
        layer(values).sum().backward()
        optimiser.step()
        torch.testing.assert_close(layer.weight.detach().cpu(), before - 0.1 * torch.tensor([10.0, 2, 2]).expand(2, 3))


def on_pretended_gpu(root: Path, *tests: str) -> None:
    """Run tests where every stage computes on the device."""
    command = [sys.executable, "-m", "pytest", "-q", "-n0", "-p", "no:cacheprovider", "--pretended-gpu", *tests]
    done = subprocess.run(command, cwd=root / "tests", capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-4000:]


def test_stages_leave_nothing_behind_on_the_cpu(root: Path) -> None:
    """One of each: dense CLIP and FreeCP, captions, search, clusters and segments, texts, TTD and its training."""
    on_pretended_gpu(
        root,
        "test_evaluate.py::test_a_pass_writes_counts_image_ids_and_the_first_images_predictions",
        "test_captions.py::test_what_is_left_out_is_in_the_manifest_and_printed",
        "test_search.py::test_items_of_a_pass_get_what_they_get_alone",
        "test_tag_segment.py::test_a_row_alone_gives_the_bytes_it_gives_beside_others",
        "test_text_rows.py::test_shards_workers_and_company_change_no_byte",
        "test_ttd_segment.py::test_rows_share_models_and_give_the_bytes_they_give_alone",
        "test_ttd_stages.py::test_a_trained_model_is_a_model_directory_with_the_adapters_in_it",
    )


@pytest.mark.slow
def test_all_that_stages_do_leaves_nothing_behind_on_the_cpu(root: Path) -> None:
    on_pretended_gpu(root, *STAGES)
