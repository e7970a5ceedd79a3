# SPDX-License-Identifier: Apache-2.0
"""Puts the results of the hippocampus bundle's ``robustness.yaml`` into ``docs/``: CSV files, figure and table.

python -m benchmarks.training_docs bundles/hippocampus_unet/eval/robustness
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from benchmarks.doc_tables import DOCS, replace_table
from monai_adversarial.studies.reports.tables import read_rows
from monai_adversarial.studies.reports.training_report import training_table
from monai_adversarial.utils.files import replace_when_complete

TABLE, CASES, PAGE = "adversarial_training.csv", "adversarial_training_cases.csv", "adversarial_training.md"
COLUMNS = ("clean", "FGSM", "PGD-50", "APGD ensemble", "worst", "bias field", "elastic")


def with_table(text: str, folder: Path) -> str:
    """The page with its table made anew from the CSV file in ``folder``."""
    return replace_table(text, TABLE, training_table(read_rows(folder / TABLE), COLUMNS))


def main() -> None:
    """Copy and rewrite."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.training_docs", description=__doc__)
    parser.add_argument("results", type=Path, help="output_dir of robustness.yaml")
    results = parser.parse_args().results
    shutil.copyfile(results / "training.csv", DOCS / TABLE)
    shutil.copyfile(results / "training_cases.csv", DOCS / CASES)
    shutil.copyfile(results / "training.png", DOCS / "images" / "adversarial_training.png")
    text = with_table((DOCS / PAGE).read_text(encoding="utf-8"), DOCS)
    with replace_when_complete(DOCS / PAGE) as temporary:
        temporary.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
