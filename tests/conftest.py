"""Options and helpers shared by the tests."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from http_server import Server

    from ovss.config.datasets import Datasets

settings.register_profile("ovss", deadline=None, derandomize=True)
settings.load_profile("ovss")
ROOT = Path(__file__).resolve().parent.parent
PLACES = {"test_workflow.py": "", "test_workflow_store.py": "test_g"}
"""Files that take minutes start early; the second shares the first one's first run, so it starts when that is done."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="also run the tests marked slow")
    parser.addoption("--pretended-gpu", action="store_true", help="stages compute on the device of pretend_gpu.py")
    parser.addoption("--golden", type=Path, help="folder of reference arrays laid out like a folder of tests/golden")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--pretended-gpu"):
        from pretend_gpu import everywhere

        config.add_cleanup(everywhere())


def pytest_make_parametrize_id(config: pytest.Config, val: object, argname: str) -> str | None:
    """Bytes (archives, say) are named by their argument: all workers must see the same names."""
    return argname if isinstance(val, bytes) else None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    left_out = {"cpu": "compares with the CPU"} if config.getoption("--pretended-gpu") else {}
    left_out |= {} if config.getoption("--slow") else {"slow": "slow: run with --slow"}
    for item in items:
        for name in left_out.keys() & item.keywords.keys():
            item.add_marker(pytest.mark.skip(reason=left_out[name]))
    items.sort(key=lambda item: PLACES.get(item.path.name, item.path.name))


@pytest.fixture(scope="session")
def root() -> Path:
    return ROOT


@pytest.fixture(scope="session")
def config(root: Path) -> Datasets:
    """``datasets.yaml``."""
    from ovss.config.datasets import load_datasets

    return load_datasets(root / "datasets.yaml")


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Server]:
    """A server of this machine that is asked without a proxy, from an empty folder, with no pause between attempts."""
    from http_server import serve

    from ovss.data import download

    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "127.0.0.1")
    monkeypatch.setattr(download, "time", SimpleNamespace(sleep=lambda _: None))
    monkeypatch.chdir(tmp_path)
    with serve({}) as running:
        yield running
