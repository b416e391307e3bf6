"""No operand is left on another device: stages on a device that is none (``pretend_gpu``) give the CPU's bytes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

STAGES = ("test_captions.py", "test_descriptions.py", "test_evaluate.py", "test_search.py", "test_segment_command.py",
          "test_segment_methods.py", "test_tag_name.py", "test_tag_segment.py", "test_text_rows.py",
          "test_ttd_segment.py", "test_ttd_stages.py")  # fmt: skip
"""Files with tests that run stages which use a GPU."""


def on_pretended_gpu(root: Path, *tests: str) -> None:
    """Run tests where every stage computes on the device: elsewhere, as it stays with a process and hinders forks."""
    command = [sys.executable, "-m", "pytest", "-q", "-n0", "-p", "no:cacheprovider", "--pretended-gpu", *tests]
    done = subprocess.run(command, cwd=root / "tests", capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-4000:]


def test_stages_leave_nothing_behind_on_the_cpu(root: Path) -> None:
    """The device itself; then dense CLIP and FreeCP, captions, search, clusters, segments, texts, TTD, training."""
    on_pretended_gpu(
        root,
        "checks_of_pretend_gpu.py",
        "test_evaluate.py::test_a_pass_writes_counts_image_ids_and_the_first_images_predictions",
        "test_captions.py::test_what_is_left_out_is_in_the_manifest_and_printed",
        "test_search.py::test_items_of_a_pass_get_what_they_get_alone",
        "test_tag_segment.py::test_segments_whose_embedding_is_not_finite_are_left_out_and_counted",
        "test_text_rows.py::test_shards_workers_and_company_change_no_byte",
        "test_ttd_segment.py::test_rows_share_models_and_give_the_bytes_they_give_alone",
        "test_ttd_stages.py::test_a_trained_model_is_a_model_directory_with_the_adapters_in_it",
    )


@pytest.mark.slow
def test_all_that_stages_do_leaves_nothing_behind_on_the_cpu(root: Path) -> None:
    on_pretended_gpu(root, *STAGES)
