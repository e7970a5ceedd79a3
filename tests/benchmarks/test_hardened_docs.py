# SPDX-License-Identifier: Apache-2.0
"""The table of two sets of weights is that of its CSV file, which holds what the bundle's configs wrote."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from benchmarks.bundle_docs import BUNDLE
from benchmarks.doc_tables import replace_table
from benchmarks.hardened_docs import KEPT, METRICS, PAGE, hardened_table, kept
from monai_adversarial.studies.reports.tables import read_rows


def test_the_page_is_made_of_its_csv_file() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert replace_table(page, KEPT.name, hardened_table(read_rows(KEPT))) == page, "python -m benchmarks.hardened_docs"


def test_each_case_of_the_config_counts_with_its_worst_attack() -> None:
    rows = read_rows(KEPT)
    cases = yaml.safe_load((BUNDLE / "configs" / "evaluate.yaml").read_text(encoding="utf-8"))["phantom_count"]
    assert len(rows) == 2 * cases
    attacks = [column for column in METRICS if column not in ("clean", "worst")]
    for row in rows:
        assert float(row["worst"]) == min(float(row[attack]) for attack in attacks)


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """What the config writes for two cases of each set of weights."""
    for weights, scale in (("model", 1.0), ("hardened", 0.5)):
        (tmp_path / weights).mkdir()
        for place, metric in enumerate(METRICS.values()):
            dice = [scale * (0.9 - 0.1 * place), scale * (0.7 - 0.1 * place)]
            lines = ["filename,class0,mean", *(f"{case},0,{one:.4f}" for case, one in enumerate(dice))]
            (tmp_path / weights / f"{metric}_raw.csv").write_text("\n".join(lines) + "\n")
    return tmp_path


def test_the_table_shows_what_the_config_wrote(written: Path) -> None:
    rows = kept(written)
    assert rows[3]["weights"] == "hardened" and rows[3]["case"] == "1" and rows[3]["worst"] == "0.1500"
    _, _, model, hardened = hardened_table(rows).splitlines()
    assert model.startswith("| `model.pt` | 0.800 [0.700, 0.900] | 0.700 [0.600, 0.800] |")
    assert hardened.endswith("| 0.200 [0.150, 0.250] |")
