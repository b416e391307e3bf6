"""Reference arrays for the parity tests: ``--golden DIR``, by default the copy in tests/golden/freecp."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from reference_clip import Reference, read_reference

DEFAULT = Path(__file__).resolve().parents[1] / "golden" / "freecp"


def golden_folder(config: pytest.Config) -> Path:
    return Path(config.getoption("--golden", default=None) or DEFAULT).resolve()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One test per reference array."""
    files = {"dense": "dense.npz", "text": "text.npz", "stage": "freecp_stages.npz", "slide": "freecp_slide.npz"}
    for fixture, file in ((f"{name}_array", file) for name, file in files.items()):
        if fixture in metafunc.fixturenames:
            with np.load(golden_folder(metafunc.config) / file, allow_pickle=False) as arrays:
                metafunc.parametrize(fixture, sorted(arrays.files))


@pytest.fixture(scope="session")
def reference(pytestconfig: pytest.Config) -> Reference:
    return read_reference(golden_folder(pytestconfig))
