# SPDX-License-Identifier: Apache-2.0
"""Several audits side by side: the same rows beside each other, and what is not the same between them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from monai_adversarial.audit.report.check import REFERENCES
from monai_adversarial.audit.report.figures import interval
from monai_adversarial.audit.report.findings import findings_of
from monai_adversarial.audit.report.names import shown
from monai_adversarial.audit.report.views import AGAINST, IMAGES, TITLES, results_of

__all__ = ["differences", "same_row", "side_by_side"]

# What makes two rows the same test.
IDENTITY = ("family", "budget", "geometric", "description", "goal", "knowledge")


def same_row(first: Mapping[str, Any], second: Mapping[str, Any] | None) -> bool:
    """Whether two rows of one name are the same test."""
    return second is not None and all(first.get(key) == second.get(key) for key in IDENTITY)


def differences(summary: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Sentences on what two audits do not share, so that their figures differ for another reason than the network."""
    found = []
    rows = {row["name"]: row for row in other["plan"]["rows"]}
    changed = [row["title"] for row in summary["plan"]["rows"] if not same_row(row, rows.get(row["name"]))]
    if changed:
        found.append(f"Rows that are missing there or are another test: {', '.join(map(shown, changed))}.")
    for reference in REFERENCES:
        for row in summary["plan"]["rows"]:
            mine, theirs = (
                {c["case"] for c in one["cases"] if (c["row"], c["reference"]) == (row["name"], reference)}
                for one in (summary, other)
            )
            if mine != theirs and row["title"] not in changed:
                count = f"{len(mine - theirs)} of {len(mine)} cases there missing, {len(theirs - mine)} further ones"
                found.append(f"Not the same cases in {shown(row['title'])} against the {AGAINST[reference]}: {count}.")
    if summary["target"].get("classes") != other["target"].get("classes"):
        found.append("The classes differ.")
    for key, what in (("kind", "kind of data"), ("spacing_mm", "spacing")):
        if summary["data"].get(key) != other["data"].get(key):
            found.append(f"The {what} differs.")
    if summary.get("seeds") != other.get("seeds"):
        found.append("The seeds differ.")
    definitions = {
        r.get("success_definition") for one in (summary, other) for r in one["results"] if r["row"] not in changed
    }
    if len(definitions - {None}) > 1:
        found.append("Success is defined in more than one way.")
    return found


def side_by_side(summaries: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A table per reference: rows of the first audit, a column per audit; empty where a row is another test."""
    tables = []
    for reference in REFERENCES:
        results = [results_of(summary, reference) for summary in summaries]
        if not any(results):
            continue
        verdicts = [{f.row: f.verdict for f in findings_of(s) if f.reference == reference} for s in summaries]
        rows_of = [{row["name"]: row for row in summary["plan"]["rows"]} for summary in summaries]
        lines = []
        for row in summaries[0]["plan"]["rows"]:
            cells = [
                _cell(result.get(row["name"]), verdict.get(row["name"]))
                if same_row(row, rows.get(row["name"]))
                else None
                for result, verdict, rows in zip(results, verdicts, rows_of, strict=True)
            ]
            if any(cells):
                lines.append({"row": row, "cells": cells})
        tables.append({"reference": reference, "title": TITLES[reference], "lines": lines})
    return tables


def _cell(result: Mapping[str, Any] | None, verdict: str | None) -> dict[str, Any] | None:
    if result is None:
        return None
    means = {image: (result["mean"].get(image) or {}).get("dice") for image in IMAGES}
    parts = [{"image": image, "text": interval(found)} for image, found in means.items() if found is not None]
    return {"parts": parts, "n": result["n"], "verdict": verdict}
