# SPDX-License-Identifier: Apache-2.0
"""Smallest norms of PDPGD beside FMN at equal passes: ``python -m benchmarks.primal_dual``.

Both work on the same crops of CT phantoms and the CT bundle's network, with the same objective, steps and queries at
the end; what counts is the median norm of what they return, measured on finished images.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks.doc_tables import DOCS, renew_table, replace_table
from benchmarks.query_cases import phantom_crops
from benchmarks.strength import WINDOW, bundle_network
from monai_adversarial.attacks import FMN, PDPGD
from monai_adversarial.models import AttackedModel

#: nothing was chosen on phantoms from this seed
SEED, CROP = 3000, (32, 32, 16)
BLOCKS = {"l0": 4}
PAGE, TABLE = "minimal_norm.md", "primal_dual"
FILE = DOCS / "benchmarks" / "primal_dual.json"


def rows(norms: Sequence[str], steps: Sequence[int], cases: int) -> list[dict[str, Any]]:
    """Median norm of each attack and the number of cases in which it succeeded, by norm and steps."""
    model = AttackedModel(bundle_network("cpu"), intensity=WINDOW)
    crops, made = phantom_crops(cases, SEED, CROP), []
    for norm in norms:
        for count in steps:
            row: dict[str, Any] = {"norm": norm, "block": BLOCKS.get(norm, 1), "steps": count, "cases": cases}
            for name, recipe in (("fmn", FMN), ("pdpgd", PDPGD)):
                attack = recipe(norm, "HU", steps=count, block=row["block"])
                found = [attack(model, image, label) for image, label in crops]
                row[name] = median(float(result.smallest_norm.values) for result in found)
                row[f"{name}_successes"] = sum(bool(result.success) for result in found)
                row[f"{name}_passes"] = [found[0].forwards, found[0].backwards]
            made.append(row)
            print(row, flush=True)
    return made


def table(found: Sequence[dict[str, Any]]) -> str:
    """Markdown: one row for each norm and number of steps."""
    lines = [
        "| norm | steps | forward and backward passes | cases | FMN | PDPGD |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for row in found:
        unit = "HU" if row["norm"] != "l0" else f"blocks of {row['block']} voxels along each axis"
        passes = [" + ".join(map(str, row[f"{name}_passes"])) for name in ("fmn", "pdpgd")]
        assert passes[0] == passes[1], passes
        cells = [
            f"{row[name]:.4g}" + ("" if row[f"{name}_successes"] == row["cases"] else " (not all succeeded)")
            for name in ("fmn", "pdpgd")
        ]
        lines.append(f"| {row['norm']}, {unit} | {row['steps']} | {passes[0]} | {row['cases']} | {' | '.join(cells)} |")
    return "\n".join(lines)


def with_table(text: str, folder: Path) -> str:
    """The page with its table made anew from the JSON file in ``folder``."""
    found = json.loads((folder / "benchmarks" / FILE.name).read_text(encoding="utf-8"))["rows"]
    return replace_table(text, TABLE, table(found))


def main() -> None:
    """Measure, print and write the file, and renew the page where its own file was written."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--norms", nargs="+", default=["linf", "l2", "l1", "l0"])
    parser.add_argument("--steps", nargs="+", type=int, default=[20, 60])
    parser.add_argument("--cases", type=int, default=2)
    parser.add_argument("--output", type=Path, default=FILE)
    arguments = parser.parse_args()
    found = rows(arguments.norms, arguments.steps, arguments.cases)
    record = {"torch": torch.__version__, "seed": SEED, "crop": list(CROP), "rows": found}
    arguments.output.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    if arguments.output.resolve() == FILE.resolve():
        renew_table(DOCS / PAGE, TABLE, table(found))


if __name__ == "__main__":
    main()
