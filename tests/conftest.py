"""Options and helpers shared by the tests."""

from __future__ import annotations

import os
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest
from hypothesis import settings

settings.register_profile("ovss", deadline=None, derandomize=True)
settings.load_profile("ovss")
ROOT = Path(__file__).resolve().parent.parent
PLACES = {"test_workflow.py": "", "test_workflow_store.py": "test_g"}
"""Files that take minutes start early; the second shares the first one's first run, so it starts when that is done."""


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
    items.sort(key=lambda item: PLACES.get(item.path.name, item.path.name))


@pytest.fixture(scope="session")
def root() -> Path:
    return ROOT
