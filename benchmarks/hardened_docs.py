# SPDX-License-Identifier: Apache-2.0
"""The table of the CT bundle's two sets of weights in ``docs/adversarial_training.md``, and the CSV file behind it.

    B=bundles/ct_abdomen_unet
    for WEIGHTS in model hardened; do
      python -m monai.bundle run --bundle_root $B --checkpoint $B/models/$WEIGHTS.pt --output_dir DIR/$WEIGHTS \
        --config_file "['$B/configs/evaluate.yaml','$B/configs/adversarial_evaluation.yaml']"
    done
    python -m benchmarks.hardened_docs DIR

keeps the mean Dice of every case and attack, and makes the table of that file.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.doc_tables import DOCS, renew_table
from monai_adversarial.metrics import summarize
from monai_adversarial.studies.reports.tables import read_rows
from monai_adversarial.utils.files import replace_when_complete

__all__ = ["KEPT", "PAGE", "hardened_table", "kept"]

PAGE, KEPT = DOCS / "adversarial_training.md", DOCS / "adversarial_training_ct.csv"
WEIGHTS = ("model", "hardened")
#: column of the table -> metric of the bundle's evaluation
METRICS = {
    "clean": "worst_case_clean_mean_dice",
    "FGSM": "fgsm_mean_dice",
    "PGD": "pgd_mean_dice",
    "Auto-PGD": "apgd_mean_dice",
    "worst": "worst_case_mean_dice",
}


def kept(folder: Path) -> list[dict[str, str]]:
    """One row for each set of weights and case, in the order of the data list.

    Args:
        folder: with ``model`` and ``hardened``, each of which holds a ``*_raw.csv`` for every metric.
    """
    rows = []
    for weights in WEIGHTS:
        columns = {column: _means(folder / weights / f"{metric}_raw.csv") for column, metric in METRICS.items()}
        for case, values in enumerate(zip(*columns.values(), strict=True)):
            rows.append({"weights": weights, "case": str(case), **dict(zip(columns, values, strict=True))})
    return rows


def _means(file: Path) -> list[str]:
    with file.open(newline="", encoding="utf-8") as stream:
        return [row["mean"] for row in csv.DictReader(stream)]


def hardened_table(rows: Sequence[Mapping[str, str]]) -> str:
    """Means over the cases with their intervals."""
    lines = [f"| weights | {' | '.join(METRICS)} |", f"|---|{'---|' * len(METRICS)}"]
    for weights in WEIGHTS:
        cells = []
        for column in METRICS:
            found = summarize(float(row[column]) for row in rows if row["weights"] == weights)
            cells.append(f"{found['mean']:.3f} [{found['low']:.3f}, {found['high']:.3f}]")
        lines.append(f"| `{weights}.pt` | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Keep what the configs wrote, and renew the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.hardened_docs", description="Table of weights")
    parser.add_argument("results", type=Path, help="folder with model/ and hardened/")
    rows = kept(parser.parse_args().results)
    with replace_when_complete(KEPT) as temporary, temporary.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, ["weights", "case", *METRICS], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    renew_table(PAGE, KEPT.name, hardened_table(read_rows(KEPT)))


if __name__ == "__main__":
    main()
