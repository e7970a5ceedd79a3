# SPDX-License-Identifier: Apache-2.0
"""The table of what detectors cost is that of its CSV file, and every row can be measured."""

from __future__ import annotations

import pytest

from benchmarks import detector_cost
from benchmarks.doc_tables import DOCS, replace_table
from monai_adversarial import detection


def test_the_page_has_the_rows_of_the_file() -> None:
    rows = detector_cost.read()
    assert len(rows) > 10
    text = (DOCS / "detection.md").read_text(encoding="utf-8")
    assert replace_table(text, detector_cost.CSV, detector_cost.markdown(rows)) == text
    # What is held to the limit holds it, or the page names it.
    held = {row["detector"]: (float(row["score"]), float(row["fit"] or 0)) for row in rows if row["passes"] == "1"}
    over = [name for name, costs in held.items() if max(costs) > detector_cost.MOST]
    said = text.split("## What it costs")[1].split("<!--")[0]
    assert all(f"`{name}`" in said for name in over)


def test_every_detector_has_a_row() -> None:
    public = [getattr(detection, name) for name in detection.__all__]
    kinds = {one.__name__ for one in public if isinstance(one, type) and issubclass(one, detection.Detector)}
    bases = {"Detector", "FeatureDetector", "PredictionComparison"}
    without = {row["detector"] for row in detector_cost.read()} ^ kinds
    assert without == {*bases, "one prediction", "GaussianDensity, organs"}


@pytest.mark.parametrize("name", ["KernelDensity", "FeatureClassifier"])
def test_a_row_is_measured(name: str) -> None:
    pytest.importorskip("sklearn")
    first, row = detector_cost.measure(16, (4, 8, 8), rounds=1, only=name)
    assert first["detector"] == "one prediction" and row["detector"] == name
    assert float(row["score"]) > 0 and float(row["fit"]) > 0 and float(row["megabytes"]) >= 0
