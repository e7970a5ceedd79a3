# SPDX-License-Identifier: Apache-2.0
"""A report that is written once for all tests that only read it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import pytest

from monai_adversarial.audit.report import write_report
from tests.audit.report.example import example_summary, write_files


class Written(NamedTuple):
    summary: dict[str, Any]
    folder: Path
    page: str


@pytest.fixture(scope="session")
def written(tmp_path_factory: pytest.TempPathFactory) -> Written:
    """The example with pictures and volumes, beside a hardened network."""
    folder = tmp_path_factory.mktemp("report")
    summary = example_summary()
    write_files(summary, folder)
    write_report(summary, folder, compare=[example_summary(title="Hardened U-Net", strength=0.25)])
    return Written(summary, folder, (folder / "report.html").read_text(encoding="utf-8"))
