"""Options and helpers shared by the tests."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest
from hypothesis import settings

settings.register_profile("ovss", deadline=None, derandomize=True)
settings.load_profile("ovss")
ROOT = Path(__file__).resolve().parent.parent
BYTECODE = ROOT / ".pytest_cache" / "bytecode"
# Python told to keep no bytecode compiles torch, snakemake and dvc again in each of hundreds of processes.
if os.environ.pop("PYTHONDONTWRITEBYTECODE", None):
    os.environ.setdefault("PYTHONPYCACHEPREFIX", str(BYTECODE))
    sys.dont_write_bytecode, sys.pycache_prefix = False, os.environ["PYTHONPYCACHEPREFIX"]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="also run the tests marked slow")
    parser.addoption("--golden", type=Path, help="folder of reference arrays laid out like a folder of tests/golden")


def pytest_make_parametrize_id(config: pytest.Config, val: object, argname: str) -> str | None:
    """Bytes (archives, say) are named by their argument: all workers must see the same names."""
    return argname if isinstance(val, bytes) else None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--slow"):
        skip = pytest.mark.skip(reason="slow: run with --slow")
        for item in items:
            if "slow" in item.keywords:
                item.add_marker(skip)
    items.sort(key=lambda item: not item.path.name.startswith("test_workflow"))  # minutes each: they start first


def pytest_unconfigure(config: pytest.Config) -> None:
    """Drop the bytecode of the projects that tests copied; that of the packages serves the next run."""
    if not hasattr(config, "workerinput"):
        copies = Path(tempfile.gettempdir()).resolve()
        shutil.rmtree(BYTECODE / copies.relative_to(copies.anchor), ignore_errors=True)


@pytest.fixture(scope="session")
def root() -> Path:
    return ROOT
