# SPDX-License-Identifier: Apache-2.0
"""Puts the figures of ``docs/trust/*.json`` and the tables of hostile inputs into ``docs/trust.md``: ``python -m
benchmarks.trust_docs``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.doc_tables import DOCS, replace_table
from monai_adversarial.utils.files import replace_when_complete

__all__ = ["FOLDER", "PAGE", "with_tables"]

PAGE, FOLDER = "trust.md", "trust"
NOTHING = "Not measured yet."


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def budgets(found: Any) -> str:
    """The counts of ``budget_examples``."""
    if found is None:
        return NOTHING
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in found["kinds"].items())
    return "\n".join(
        [
            "| examples | files that changed | outside their budget | false alarms | errors |",
            "|---|---|---|---|---|",
            f"| {found['examples']:,} | {found['files_that_changed']:,} | {found['violations']:,} | "
            f"{found['false_alarms']:,} | {found['errors']:,} |",
            "",
            f"Kinds: {kinds}. Types: {len(found['types'])}.",
        ]
    )


def kills(found: Any) -> str:
    """The counts of ``kill_points``."""
    if found is None:
        return NOTHING
    lines = ["| study | ended by | moments | interrupted | other results | half-written |", "|---|---|---|---|---|---|"]
    for run in found["runs"]:
        cells = (run[key] for key in ("kind", "signal", "points", "interrupted", "different", "half_written"))
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def inputs() -> str:
    """How many inputs each table of the tests holds."""
    from tests.hostile import test_audit_inputs as audits
    from tests.hostile import test_headers, test_images, test_layouts, test_names, test_records, test_weights

    counts = {
        "folders and datalists": len(test_layouts.REFUSED) + len(test_layouts.LISTED),
        "names": len(test_names.NAMES),
        "fields of headers": len(test_headers.FIRST) + len(test_headers.SECOND),
        "images": len(test_images.IMAGES),
        "labels": len(test_images.LABELS),
        "weights": len(test_weights.FILES),
        "records and their files": len(test_records.CHANGES),
        "audits: images and labels": len(audits.IMAGES) + len(audits.LABELS),
        "audits: plans, subgroups, options, other audits": sum(
            map(len, (audits.PLANS, audits.CSVS, audits.OPTIONS, audits.COMPARED))
        ),
        "audits: targets and bundles": len(audits.TARGETS) + len(audits.BUNDLES),
        "audits: records and volumes": len(audits.RECORDS) + len(audits.VOLUMES),
        "audits: what looks robust and is not": len(audits.FLATTERING),
    }
    lines = ["| kind | inputs |", "|---|---|", *(f"| {kind} | {count} |" for kind, count in counts.items())]
    return "\n".join([*lines, f"| together | {sum(counts.values())} |"])


def with_tables(text: str, folder: Path) -> str:
    """The page with its tables made anew."""
    text = replace_table(text, "budgets", budgets(_read(folder / "budget_examples.json")))
    text = replace_table(text, "kills", kills(_read(folder / "kill_points.json")))
    return replace_table(text, "inputs", inputs())


def main() -> None:
    """Rewrite the page."""
    text = with_tables((DOCS / PAGE).read_text(encoding="utf-8"), DOCS / FOLDER)
    with replace_when_complete(DOCS / PAGE) as temporary:
        temporary.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
