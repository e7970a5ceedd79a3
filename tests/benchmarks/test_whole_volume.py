# SPDX-License-Identifier: Apache-2.0
"""One call on a whole volume: the figures of the page are those that were measured, and the script runs."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.whole_volume import attack_volume

DOCS = Path(__file__).resolve().parents[2] / "docs"


def test_the_page_says_what_was_measured() -> None:
    found = json.loads((DOCS / "whole_volume.json").read_text(encoding="utf-8"))
    text = " ".join((DOCS / "benchmarks.md").read_text(encoding="utf-8").split())
    shape = " x ".join(map(str, found["shape"]))
    assert f"{shape} voxels and {found['classes']} classes" in text
    assert f"{found['wall_seconds']:.0f} seconds on one core, {found['peak_gib']:.1f} GiB" in text
    assert found["peak_gib"] * 2**30 <= 8e9


def test_it_runs_at_a_small_size() -> None:
    found = attack_volume((20, 18, 16), 4, 16, 1)
    assert found["forwards"] in (3, 4) and found["peak_gib"] > 0
