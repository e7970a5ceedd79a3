# SPDX-License-Identifier: Apache-2.0
"""The figures of a report as tables that a spreadsheet opens without computing anything."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from monai_adversarial.audit.report.names import cell

__all__ = ["case_rows", "csv_text", "summary_rows"]

IMAGES = ("clean", "random", "adversarial")
SCORES = ("dice", "surface_dice", "hd95_mm", "volume_ml")
MEANS = ("mean", "low", "high", "n")
# Of an organ, summarized over cases.
CHANGES = ("volume_change_ml", "volume_change_percent")
RATES = ("missed_rate", "invented_rate")


def case_rows(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One row per case, row of the plan and organ; that of organ ``"mean"`` also holds what concerns the whole case."""
    rows = []
    for case in summary["cases"]:
        head = {key: case.get(key) for key in ("case", "row", "reference")}
        scores = case.get("scores") or {}
        for organ in dict.fromkeys(organ for of_image in scores.values() for organ in of_image):
            of_organ = {image: found.get(organ) for image, found in scores.items()}
            rows.append({**head, "organ": organ, **_columns(of_organ)})
        whole: dict[str, Any] = {**head, "organ": "mean", **_columns(case.get("mean") or {})}
        whole["success"] = case.get("success")
        whole["zero_gradient_fraction"] = case.get("zero_gradient_fraction")
        for name, measured in (case.get("measurements") or {}).items():
            units = measured.get("units")
            whole[f"{name} [{units}]" if units else name] = measured.get("value")
        rows.append(whole)
    return rows


def summary_rows(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Means over cases with intervals: a row per row of the plan, reference and organ, organ ``"mean"`` included."""
    rows = []
    for result in summary["results"]:
        head = {"row": result["row"], "reference": result["reference"]}
        whole: dict[str, Any] = {
            **head,
            "organ": "mean",
            "cases": result["n"],
            **dict(_means(result.get("mean") or {})),
        }
        whole["success_rate"] = result.get("success_rate")
        draws, cost = result.get("draws") or {}, result.get("cost") or {}
        for key in ("dice_mean", "dice_worst", "dice_cv", "draws"):
            whole[f"draws_{key}" if key != "draws" else key] = draws.get(key)
        for key in ("forwards", "backwards", "seconds"):
            whole[key] = cost.get(key)
        for key, value in (result.get("detection") or {}).items():
            whole[f"detector_{key}"] = value
        for name, measured in (result.get("measurements") or {}).items():
            units = measured.get("units")
            whole[f"worst {name} [{units}]" if units else f"worst {name}"] = measured.get("worst")
        rows.append(whole)
        for organ, found in (result.get("organs") or {}).items():
            row = {**head, "organ": organ, "cases": result["n"], **dict(_means(found))}
            for key in CHANGES:
                row |= {f"{key}_{part}": (found.get(key) or {}).get(part) for part in MEANS}
            rows.append({**row, **{key: found.get(key) for key in RATES}})
    return rows


def csv_text(rows: Sequence[Mapping[str, Any]], head: Sequence[str]) -> str:
    """Rows as CSV, with the columns of all of them; every cell is safe to open.

    Args:
        rows: may have different columns.
        head: columns that come first, present even without rows.
    """
    columns = dict.fromkeys([*head, *(column for row in rows for column in row)])
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow([cell(column) for column in columns])
    writer.writerows([cell(row.get(column)) for column in columns] for row in rows)
    return stream.getvalue()


def _columns(by_image: Mapping[str, Mapping[str, Any] | None]) -> dict[str, Any]:
    images = [*IMAGES, *(image for image in by_image if image not in IMAGES)]
    return {
        f"{image}_{score}": (by_image[image] or {})[score]
        for score in SCORES
        for image in images
        if score in (by_image.get(image) or {})
    }


def _means(by_image: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    others = [image for image, found in by_image.items() if image not in IMAGES and _is_scores(found)]
    for image in (*IMAGES, *others):
        for score in SCORES:
            found = (by_image.get(image) or {}).get(score)
            if isinstance(found, Mapping):
                yield from ((f"{image}_{score}_{part}", found.get(part)) for part in MEANS)


def _is_scores(found: Any) -> bool:
    """Whether a part of a result is an image's scores, not a figure of its own."""
    return isinstance(found, Mapping) and any(isinstance(found.get(score), Mapping) for score in SCORES)
