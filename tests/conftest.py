# SPDX-License-Identifier: Apache-2.0
"""Fixtures and rules that hold for all tests."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from monai_adversarial.engines.unmet import forget_unmet

NO_DATA = "there is no test data: set MONAI_ADVERSARIAL_DATA to its folder"
REPOSITORY = Path(__file__).resolve().parent.parent

# More threads than cores make tiny convolutions slower, not faster.
torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", min(2, os.cpu_count() or 1))))


def find_shared_data() -> Path | None:
    """The folder of the test data, from MONAI_ADVERSARIAL_DATA or ``../shared/data`` beside the repository."""
    candidate = Path(os.environ.get("MONAI_ADVERSARIAL_DATA") or REPOSITORY.parent / "shared" / "data")
    return candidate if candidate.is_dir() else None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    # The files that take minutes come first: at the end one core would wait for them.
    items.sort(key=lambda item: not item.path.is_relative_to(REPOSITORY / "tests" / "tutorials"))
    items.sort(key=lambda item: item.path != REPOSITORY / "tests" / "docs" / "test_build.py")
    if not torch.cuda.is_available():
        for item in items:
            if "gpu" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="there is no CUDA device"))
    if find_shared_data() is None:
        for item in items:
            if "real_data" in item.keywords:
                item.add_marker(pytest.mark.skip(reason=NO_DATA))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of the real test data; the test is skipped where there is none."""
    folder = find_shared_data()
    if folder is None:
        pytest.skip(NO_DATA)
    return folder


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Many tests make attacks to look at them alone."""
    forget_unmet()


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Every test starts from the same global random state, so that none depends on the ones before it."""
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    """What a bundle's ``logging.conf`` sets in a test ends with it: sentences would go to its log, not the screen."""
    root = logging.getLogger()
    level, handlers = root.level, list(root.handlers)
    yield
    root.setLevel(level)
    for handler in [handler for handler in root.handlers if handler not in handlers]:
        root.removeHandler(handler)
