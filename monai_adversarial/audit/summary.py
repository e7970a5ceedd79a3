# SPDX-License-Identifier: Apache-2.0
"""What a report says, made of the records of an audit."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from monai_adversarial.audit.curves import curve_areas
from monai_adversarial.audit.detection import summarize_detection
from monai_adversarial.audit.health import health_checks
from monai_adversarial.audit.run_checks import run_checks
from monai_adversarial.metrics import summarize
from monai_adversarial.studies.measurement import by_reference
from monai_adversarial.studies.reports.measurements import worst_measurements

__all__ = ["SCHEMA", "results", "summarize_audit"]

SCHEMA = 1
IMAGES = ("clean", "random", "adversarial", "adversarial_original_label")
SCORES = ("dice", "surface_dice", "hd95_mm")
#: digits of a hash that tell images apart
MARK = 16
Record = Mapping[str, Any]


def results(records: Sequence[Record], rows: Sequence[str], seed: int = 0) -> list[dict[str, Any]]:
    """One entry for each row of the plan and kind of reference, labels first: the two are never averaged together.

    Args:
        records: of an audit or of an ``AttackStudy``.
        rows: names, in the order of the plan.
        seed: of the bootstrap.
    """
    found = []
    for reference, of_reference in by_reference(records).items():
        for row in rows:
            of_row = [record for record in of_reference if record["attack"] == row]
            if of_row:
                found.append({"row": row, "reference": reference, **_entry(of_row, seed)})
    return found


def _entry(records: Sequence[Record], seed: int) -> dict[str, Any]:
    first = records[0]
    images = [image for image in IMAGES if image in first["scores"]]
    attacked = "adversarial" in images
    means = {
        image: {score: _summary([record["mean"][image].get(score) for record in records], seed) for score in SCORES}
        for image in images
    }
    successes = [record["success"] for record in records if record["success"] is not None]
    entry: dict[str, Any] = {
        "n": len(records),
        "mean": means,
        "organs": {organ: _organ(organ, records, images, seed) for organ in first["scores"]["clean"]},
        "success_rate": sum(successes) / len(successes) if successes else None,
        "success_definition": first["success_definition"],
        "measurements": worst_measurements(records),
        "draws": _draws(records),
        "cost": {
            "forwards": sum(int(record["cost"]["forwards"]) for record in records),
            "backwards": sum(int(record["cost"]["backwards"]) for record in records),
            "seconds": sum(float(record["cost"]["total_seconds"]) for record in records),
        },
        "worst_case": None,
        "saved_file": _saved(records),
    }
    detection = summarize_detection(records)
    if detection is not None:
        entry["detection"] = detection
    if attacked:
        defined = [(_number(r["mean"]["adversarial"]["dice"]), r["case"]) for r in records]
        defined = [(value, case) for value, case in defined if not math.isnan(value)]
        if defined:
            value, case = min(defined)
            entry["worst_case"] = {"case": case, "dice": value}
    return entry


def _organ(organ: str, records: Sequence[Record], images: Sequence[str], seed: int) -> dict[str, Any]:
    found: dict[str, Any] = {
        image: {score: _summary([r["scores"][image][organ].get(score) for r in records], seed) for score in SCORES}
        for image in images
    }
    after = "adversarial" if "adversarial" in images else "clean"
    scores = [(record["scores"]["clean"][organ], record["scores"][after][organ]) for record in records]
    before = [(c, a) for c, a in scores if after == "adversarial"]
    milliliters = [_difference(a.get("volume_ml"), c.get("volume_ml")) for c, a in before]
    shares = [
        100 * change / c["volume_ml"] if c.get("volume_ml") else math.nan
        for change, (c, _) in zip(milliliters, before, strict=True)
    ]
    present = [a for _, a in scores if a["reference_voxels"]]
    absent = [a for _, a in scores if not a["reference_voxels"]]
    found["volume_change_ml"] = _summary(milliliters, seed)
    found["volume_change_percent"] = _summary(shares, seed)
    found["missed_rate"] = _rate([not a["predicted_voxels"] for a in present])
    found["invented_rate"] = _rate([bool(a["predicted_voxels"]) for a in absent])
    return found


def _difference(after: float | None, before: float | None) -> float:
    return math.nan if after is None or before is None else float(after) - float(before)


def _rate(found: Sequence[bool]) -> float | None:
    return sum(found) / len(found) if found else None


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)


def _summary(values: Sequence[Any], seed: int) -> dict[str, Any]:
    return dict(summarize([_number(value) for value in values], seed))


def _draws(records: Sequence[Record]) -> dict[str, Any] | None:
    """Mean, worst and coefficient of variation over the draws of worst-of-N rows."""
    found = [record["draws"] for record in records if record.get("draws")]
    if not found:
        return None
    every = [_number(value) for draws in found for value in draws["dice"]]
    organs = {name for draws in found for name in draws["volume_cv"]}
    worst = [min((_number(v) for v in draws["dice"] if v is not None), default=math.nan) for draws in found]
    return {
        "draws": max(len(draws["dice"]) for draws in found),
        "dice_mean": summarize(every)["mean"],
        "dice_worst": summarize(worst)["mean"],
        "dice_cv": summarize([_number(draws["dice_cv"]) for draws in found])["mean"],
        "volume_cv": {
            name: summarize([_number(draws["volume_cv"].get(name)) for draws in found])["mean"]
            for name in sorted(organs)
        },
    }


def _saved(records: Sequence[Record]) -> dict[str, Any] | None:
    """What the saved files show, where files were saved."""
    found = [record["saved_file"] for record in records if record.get("saved_file")]
    if not found:
        return None
    return {
        "n": len(found),
        "largest_change": max(_number(one["largest_change"]) for one in found),
        "dice": summarize([_number(one.get("mean_dice")) for one in found])["mean"],
    }


def subgroup_results(
    records: Sequence[Record], groups: Mapping[str, Mapping[str, str]], rows: Sequence[str], seed: int = 0
) -> list[dict[str, Any]]:
    """Clean and adversarial Dice of each group of cases, with n and interval."""
    found = []
    for column, group_of in groups.items():
        for reference, of_reference in by_reference(records).items():
            for row in rows:
                of_row = [record for record in of_reference if record["attack"] == row]
                for value in sorted({group_of[record["case"]] for record in of_row if record["case"] in group_of}):
                    own = [record for record in of_row if group_of.get(record["case"]) == value]
                    found.append(
                        {
                            "column": column,
                            "value": value,
                            "row": row,
                            "reference": reference,
                            "n": len(own),
                            **{
                                image: _summary([record["mean"][image]["dice"] for record in own], seed)
                                for image in ("clean", "adversarial")
                                if image in own[0]["mean"]
                            },
                        }
                    )
    return found


def summarize_audit(
    records: Sequence[Record],
    *,
    title: str,
    target: Mapping[str, Any],
    plan: Mapping[str, Any],
    data: Mapping[str, Any],
    groups: Mapping[str, Mapping[str, str]] | None = None,
    failures: Sequence[Mapping[str, str]] = (),
    not_tested: Sequence[str] = (),
    seed: int = 0,
    **more: Any,
) -> dict[str, Any]:
    """The content of ``audit.json``, which the page is made of.

    Args:
        records: valid ones, in the order of plan and cases.
        title: of the page.
        target: name, kind, gradients, facts, missing, classes, hashes.
        plan: name, description, rows.
        data: number of cases, with labels, kind, spacing, notes.
        groups: column -> case -> group.
        failures: case, row and reason of what failed.
        not_tested: sentences.
        seed: of the bootstrap.
        more: versions, seeds, started, seconds, command.
    """
    rows = [row["name"] for row in plan["rows"]]
    found = results(records, rows, seed)
    clean_files = {r["case"]: r["files"] for r in records if "clean" in r["files"]}
    return {
        "schema": SCHEMA,
        "title": title,
        "target": dict(target),
        "plan": dict(plan),
        "data": dict(data),
        "results": found,
        "curves": curve_areas(records, plan["rows"], seed),
        "subgroups": subgroup_results(records, groups or {}, rows, seed),
        "cases": [_case(record) for record in records],
        "health": [
            *run_checks(records, plan["rows"], data.get("cases"), target.get("facts", ())),
            *health_checks(records, plan["rows"]),
        ],
        "failures": [dict(one) for one in failures],
        "not_tested": list(not_tested),
        "volumes": [
            {"case": r["case"], "row": r["attack"], **_volumes({**clean_files.get(r["case"], {}), **r["files"]})}
            for r in records
            if "adversarial" in r["files"]
        ],
        **more,
    }


def _volumes(files: Mapping[str, str]) -> dict[str, dict[str, str]]:
    return {kind: {"file": file} for kind, file in files.items() if kind != "panel"}


def _content(record: Record) -> dict[str, str]:
    """What tells an image and its label from others of the same name: the beginnings of their SHA-256."""
    hashes = record.get("hashes") or {}
    inputs = hashes.get("input")
    named = {**(inputs if isinstance(inputs, Mapping) else {"image": inputs}), "voxels": hashes.get("voxels")}
    return {key: value[:MARK] for key, value in named.items() if isinstance(value, str)}


def _case(record: Record) -> dict[str, Any]:
    kept = ("case", "reference", "mean", "scores", "measurements", "success", "files", "draws", "saved_file", "cost")
    return {
        "row": record["attack"],
        **{key: record.get(key) for key in kept},
        "content": _content(record),
        **({"detection": record["detection"]} if record.get("detection") else {}),
        "zero_gradient_fraction": record.get("zero_gradient_fraction"),
        "objective_history": record.get("objective_history", []),
    }
