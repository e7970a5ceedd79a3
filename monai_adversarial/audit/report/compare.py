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
# What computed them: another version may attack otherwise.
VERSIONS = ("monai_adversarial", "monai", "torch")


def same_row(first: Mapping[str, Any], second: Mapping[str, Any] | None) -> bool:
    """Whether two rows of one name are the same test."""
    if second is None or any(first.get(key) != second.get(key) for key in IDENTITY):
        return False
    return not ("attack" in first and "attack" in second and first["attack"] != second["attack"])  # old ones lack it


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
    found += _contents(summary, other)
    if summary["target"].get("classes") != other["target"].get("classes"):
        found.append("The classes differ.")
    for key, what in (("kind", "kind of data"), ("spacing_mm", "spacing")):
        if summary["data"].get(key) != other["data"].get(key):
            found.append(f"The {what} differs.")
    if summary.get("seeds") != other.get("seeds"):
        found.append("The seeds differ.")
    first, second = (summary["plan"].get("surface_tolerance_mm"), other["plan"].get("surface_tolerance_mm"))
    if first != second:
        found.append(f"The tolerance of surface Dice is {second} mm there and {first} mm here.")
    before, after = ({key: one.get("versions", {}).get(key) for key in VERSIONS} for one in (summary, other))
    apart = [f"{key} {after[key]} there and {before[key]} here" for key in VERSIONS if before[key] != after[key]]
    if apart:
        found.append(f"The versions differ: {', '.join(apart)}.")
    organs = [{organ for result in one["results"] for organ in result.get("organs", ())} for one in (summary, other)]
    if organs[0] != organs[1]:
        found.append(f"Not the same organs are scored: {', '.join(map(shown, sorted(organs[0] ^ organs[1])))}.")
    here, failed = (
        [check["check"] for check in one["health"] if check["verdict"] == "fail"] for one in (summary, other)
    )
    if own := [check for check in dict.fromkeys(failed) if check not in here]:
        found.append(f"Checks failed there, so that its figures are not to be believed: {', '.join(own)}.")
    cells = [{(one["case"], one["row"]) for one in audit["failures"]} for audit in (summary, other)]
    if cells[1] - cells[0]:
        found.append(f"{len(cells[1] - cells[0])} attacks on single cases failed there and are in no figure of it.")
    definitions = {
        r.get("success_definition") for one in (summary, other) for r in one["results"] if r["row"] not in changed
    }
    if len(definitions - {None}) > 1:
        found.append("Success is defined in more than one way.")
    return found


def _contents(summary: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Cases of one name need not be one image: anonymous names are numbers."""
    marks = [{case["case"]: case.get("content") or {} for case in one["cases"]} for one in (summary, other)]
    both = [name for name in marks[0] if name in marks[1]]
    unknown = [name for name in both if not _comparable(marks[0][name], marks[1][name])]
    images = [name for name in both if name not in unknown and not _same_image(marks[0][name], marks[1][name])]
    labels = [name for name in both if name not in images and _other_label(marks[0][name], marks[1][name])]
    found = []
    for names, what in ((images, "image"), (labels, "label")):
        if names:
            count = f"{len(names)} of {len(both)}"
            found.append(f"Not the same {what} under one name, so that nothing is compared: {count}.")
    if unknown:
        found.append(f"Whether images of one name are the same was not recorded in {len(unknown)} of {len(both)}.")
    return found


def _comparable(first: Mapping[str, str], second: Mapping[str, str]) -> bool:
    return any(key in first and key in second for key in ("image", "voxels"))


def _same_image(first: Mapping[str, str], second: Mapping[str, str]) -> bool:
    """By file or by voxels: a file may be compressed anew, and networks see other voxels of one file."""
    return any(key in first and first[key] == second.get(key) for key in ("image", "voxels"))


def _other_label(first: Mapping[str, str], second: Mapping[str, str]) -> bool:
    return "label" in first and "label" in second and first["label"] != second["label"]


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
