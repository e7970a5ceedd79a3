# SPDX-License-Identifier: Apache-2.0
"""Six attacks on a classifier of real chest X-rays: ``python -m benchmarks.xray_campaign``.

A small network is trained on the training images of PneumoniaMNIST (28 x 28, two classes) and attacked on the first
test images; beside each budgeted attack stands random noise of the same size.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.classifier_objectives import chest_xrays, trained
from benchmarks.data_folder import data_folder
from benchmarks.doc_tables import RecordedTable
from monai_adversarial.attacks import MinimalNormResult, classifier_campaign

EPSILON = 4 / 255
PAGE, TABLE = "classification.md", "xray_campaign"
FILE = "benchmarks/xray_campaign.json"


def rows(folder: Path, count: int, epochs: int) -> list[dict[str, Any]]:
    """Accuracy without and with each attack, that under random noise of its size, and what it cost."""
    data = chest_xrays(folder)
    network, _ = trained(data, epochs=epochs)
    images, labels = data[2][:count], data[3][:count]
    made = []
    for name, attack in classifier_campaign(EPSILON).items():
        result = attack(network, images, labels)
        row: dict[str, Any] = {
            "attack": name,
            "images": count,
            "clean": float(result.clean_score.mean()),
            "attacked": float(result.adversarial_score.mean()),
            "passes": [result.forwards, result.backwards],
            "median_l2": None,
            "chance": None,
        }
        if isinstance(result, MinimalNormResult):
            row["median_l2"] = float(result.smallest_norm.values[result.success].median())
        else:
            control, _ = result.random_control()
            with torch.no_grad():
                row["chance"] = float((network(control).argmax(1) == labels).float().mean())
        made.append(row)
        print(row, flush=True)
    return made


def table(found: Sequence[dict[str, Any]]) -> str:
    """Markdown: one row for each attack."""
    lines = [
        "| attack | budget | accuracy | under attack | random noise of that size | median L2 norm | passes, all |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    for row in found:
        minimal = row["median_l2"] is not None
        cells = [
            row["attack"],
            "none: smallest L2 norm" if minimal else "4/255",
            f"{row['clean']:.3f}",
            f"{row['attacked']:.3f}",
            "" if row["chance"] is None else f"{row['chance']:.3f}",
            f"{row['median_l2']:.3f}" if minimal else "",
            " + ".join(map(str, row["passes"])),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


RECORDED = RecordedTable(PAGE, TABLE, FILE, table)
with_table = RECORDED.with_table


def main() -> None:
    """Measure, print and write the file, and renew the page where its own file was written."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=128)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--output", type=Path, default=RECORDED.path)
    arguments = parser.parse_args()
    found = rows(data_folder(), arguments.images, arguments.epochs)
    RECORDED.write(arguments.output, found, torch=torch.__version__, epochs=arguments.epochs)


if __name__ == "__main__":
    main()
