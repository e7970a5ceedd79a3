# SPDX-License-Identifier: Apache-2.0
"""Puts the results of the bundle's ``purify.yaml`` into ``docs/``: CSV files, the figure, and the tables made of them.

python -m benchmarks.purifier_docs bundles/ct_abdomen_unet/eval/purify
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from benchmarks.doc_tables import DOCS, replace_table
from monai_adversarial.studies.reports.purification_report import markdown_table
from monai_adversarial.studies.reports.tables import read_rows
from monai_adversarial.utils.files import replace_when_complete

# Folder below the results -> CSV file in docs/.
TABLES = {
    ".": "purification.csv",
    "fine_bias_field": "purification_fine_bias_field.csv",
    "real_scan": "purification_real_scan.csv",
}


def with_tables(text: str, folder: Path) -> str:
    """The page with the table between each pair of markers made anew from its CSV file in ``folder``."""
    for name in TABLES.values():
        path = folder / name
        if not path.is_file():
            continue
        text = replace_table(text, name, markdown_table(read_rows(path)))
    return text


def main() -> None:
    """Copy and rewrite."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.purifier_docs", description=__doc__)
    parser.add_argument("results", type=Path, help="output_dir of purify.yaml")
    results = parser.parse_args().results
    for below, name in TABLES.items():
        if (results / below / "purification.csv").is_file():
            shutil.copyfile(results / below / "purification.csv", DOCS / name)
    shutil.copyfile(results / "purification.png", DOCS / "images" / "purification.png")
    page = DOCS / "purifiers.md"
    text = with_tables(page.read_text(encoding="utf-8"), DOCS)
    with replace_when_complete(page) as temporary:
        temporary.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
