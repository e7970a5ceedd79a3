# SPDX-License-Identifier: Apache-2.0
"""The table of the README, from the JSON file of the audit of this repository's own network.

python -m benchmarks.readme_table
"""

from __future__ import annotations

import json
from typing import Any

from benchmarks.doc_tables import DOCS, replace_table

__all__ = ["PAGE", "SOURCE", "main", "table"]

PAGE = DOCS.parent / "README.md"
SOURCE = DOCS / "audit_examples" / "ct_abdomen_unet.json"
ROWS = {"pgd_8": "PGD, 10 steps", "bias_field_0.3": "bias field", "elastic_5": "elastic deformation"}


def table(found: dict[str, Any]) -> str:
    """Mean organ Dice of each row, clean, after a random change of the same size, and after the attack."""
    entries = {entry["row"]: entry for entry in found["results"]}
    lines = ["| attack | budget | clean | random, same kind and size | adversarial |", "|---|---|---|---|---|"]
    for name, title in ROWS.items():
        dice = {kind: scores["mean"] for kind, scores in entries[name]["dice"].items()}
        values = " | ".join(f"{dice[kind]:.3f}" for kind in ("clean", "random"))
        lines.append(f"| {title} | {entries[name]['budget']} | {values} | **{dice['adversarial']:.3f}** |")
    organs = len(found["target"]["classes"]) - 1
    return "\n".join([*lines, "", f"Mean Dice over {organs} organs of {found['data']['cases']} phantoms."])


def main() -> None:
    """Write it."""
    text = PAGE.read_text(encoding="utf-8")
    found = json.loads(SOURCE.read_text(encoding="utf-8"))
    PAGE.write_text(replace_table(text, "audit", table(found)), encoding="utf-8")


if __name__ == "__main__":
    main()
