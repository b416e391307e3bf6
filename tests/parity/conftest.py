"""Reference arrays for the parity tests: ``--golden DIR``, by default the copies in tests/golden/."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from reference_clip import Reference, read_reference

COPIES = Path(__file__).resolve().parents[1] / "golden"
# Files by which a folder is recognised as that set.
MARKS = {
    "freecp": ("dense.npz", "freecp_stages.npz"),
    "tag": ("words.json", "arrays.npz"),
    "ttd": ("ttd_golden.npz", "tcl_io.npz"),
}


def _is_set(folder: Path, name: str) -> bool:
    return all((folder / file).is_file() for file in MARKS[name])


def golden_folder(config: pytest.Config, name: str) -> Path:
    """The folder of one set: DIR when it is laid out like that set, DIR/name when DIR holds several, else the copy."""
    given = config.getoption("--golden", default=None)
    if given is None:
        return COPIES / name
    folder = Path(given).resolve()
    holders = {mark: place for mark in MARKS for place in (folder, folder / mark) if _is_set(place, mark)}
    if not holders:
        layouts = "; ".join(f"{mark} has {' and '.join(files)}" for mark, files in MARKS.items())
        raise pytest.UsageError(f"--golden {given}: laid out like no set of reference arrays ({layouts}).")
    return holders.get(name, COPIES / name)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One test per reference array."""
    files = {"dense": "dense.npz", "text": "text.npz", "stage": "freecp_stages.npz", "slide": "freecp_slide.npz"}
    for fixture, file in ((f"{name}_array", file) for name, file in files.items()):
        if fixture in metafunc.fixturenames:
            with np.load(golden_folder(metafunc.config, "freecp") / file, allow_pickle=False) as arrays:
                metafunc.parametrize(fixture, sorted(arrays.files))


@pytest.fixture(scope="session")
def reference(pytestconfig: pytest.Config) -> Reference:
    return read_reference(golden_folder(pytestconfig, "freecp"))


@pytest.fixture(scope="session")
def tag_golden(pytestconfig: pytest.Config) -> Path:
    """The folder of the TAG reference files, laid out like tests/golden/tag."""
    return golden_folder(pytestconfig, "tag")


@pytest.fixture(scope="session")
def ttd_golden(pytestconfig: pytest.Config) -> Path:
    """The folder of the TTD and TCL reference files, laid out like tests/golden/ttd."""
    return golden_folder(pytestconfig, "ttd")
