"""Origins: what a job wrote is recognised, and nothing else."""

import json
from pathlib import Path

import pytest

from ovss import origin
from ovss.errors import UserError


@pytest.fixture
def output(tmp_path: Path) -> Path:
    directory = tmp_path / "evaluate" / "row.0123456789abcdef"
    directory.mkdir(parents=True)
    (directory / "counts.npz").write_bytes(b"counts")
    origin.write(directory, {"key": "0123456789abcdef"})
    return directory


def test_an_untouched_output_passes(output: Path) -> None:
    assert origin.check(output).files == {"counts.npz": origin.sha256(output / "counts.npz")}


def test_a_flipped_byte_is_named(output: Path) -> None:
    (output / "counts.npz").write_bytes(b"Counts")
    with pytest.raises(UserError, match=r"counts\.npz: its bytes are not those that the job wrote; run 'ovss verify"):
        origin.check(output)


def test_missing_and_added_files_are_named(output: Path) -> None:
    (output / "counts.npz").rename(output / "other.npz")
    assert [text.rpartition(": ")[2] for text in origin.problems(output)] == ["missing", "was not written by the job"]


def test_an_edited_record_is_refused(output: Path) -> None:
    record = json.loads((output / "origin.json").read_text())
    record["files"] = {}
    (output / "origin.json").write_text(json.dumps(record))
    with pytest.raises(UserError, match="was edited after the job wrote it"):
        origin.read(output)


def test_a_record_of_another_output_is_refused(output: Path) -> None:
    moved = output.rename(output.with_name("row.fedcba9876543210"))
    with pytest.raises(UserError, match="belongs to key 0123456789abcdef"):
        origin.read(moved)


def test_a_missing_record_is_refused(output: Path) -> None:
    (output / "origin.json").unlink()
    with pytest.raises(UserError, match="missing, so nothing says how this output was made"):
        origin.read(output)
