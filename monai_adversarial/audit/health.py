# SPDX-License-Identifier: Apache-2.0
"""Signs that an evaluation is weaker than it looks, after Carlini et al. 2019 and Tramèr et al. 2020."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from monai_adversarial.attacks.flags import HIDDEN, MOST_ZERO, ROOM
from monai_adversarial.detection.fitting import UNLIKELY, chance_of_rejecting
from monai_adversarial.metrics.clean_score import LOW_CLEAN, NO_CLEAN
from monai_adversarial.studies.measurement import LABEL

__all__ = ["health_checks"]

Record = Mapping[str, Any]


def health_checks(records: Sequence[Record], rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One entry for each check: ``check``, ``row``, ``verdict`` (``"pass"``, ``"warn"``, ``"fail"``) and ``text``.

    Args:
        records: of an audit.
        rows: of the plan, as in ``audit.json``.
    """
    by_row: dict[str, list[Record]] = {}
    for record in records:
        by_row.setdefault(record["attack"], []).append(record)
    titles = {row["name"]: row["title"] for row in rows}
    found: list[dict[str, Any]] = []
    found += _clean_score(by_row.get("clean", []))
    for row in rows:
        of_row = by_row.get(row["name"], [])
        if not of_row or "adversarial" not in of_row[0]["mean"]:
            continue
        found += _of_row(row, of_row)
    found += _order(rows, by_row, titles)
    found += _curves(rows, by_row)
    return found


def _check(check: str, row: str | None, verdict: str, text: str) -> dict[str, Any]:
    return {"check": check, "row": row, "verdict": verdict, "text": text}


def _mean(records: Sequence[Record], image: str) -> float:
    values = [record["mean"][image]["dice"] for record in records if record["mean"].get(image)]
    defined = [float(value) for value in values if value is not None and not math.isnan(float(value))]
    return sum(defined) / len(defined) if defined else math.nan


def _clean_score(records: Sequence[Record]) -> list[dict[str, Any]]:
    labeled = [record for record in records if record["reference"] == LABEL]
    found = []
    if labeled:
        clean = _mean(labeled, "clean")
        low = not clean >= LOW_CLEAN
        text = f"mean organ Dice with the labels on clean images is {clean:.3f}"
        found.append(
            _check(
                "clean accuracy",
                "clean" if clean >= NO_CLEAN else None,  # of the whole audit
                "pass" if not low else "warn" if clean >= NO_CLEAN else "fail",
                text + (": labels, classes or preprocessing may not fit, and there is little to lose." if low else "."),
            )
        )
    empty = [record["case"] for record in records if not _finds_anything(record)]
    if empty:
        found.append(
            _check(
                "empty prediction",
                "clean",
                "fail" if len(empty) == len(records) else "warn",
                f"the network finds no organ in {len(empty)} of {len(records)} clean images: nothing can be attacked "
                "there.",
            )
        )
    background = [record["background"] for record in records if record.get("background")]
    if background:
        where = f"in {len(background)} of {len(records)} clean images"
        found.append(_check("background", None, "warn", f"{where}: {background[0]}."))
    constant = [record["case"] for record in records if record.get("constant_answer") and _finds_anything(record)]
    if constant:
        found.append(
            _check(
                "constant answer",
                "clean",
                "fail" if len(constant) == len(records) else "warn",
                f"the segmentation of {len(constant)} of {len(records)} clean images is one class everywhere: what "
                "does not depend on the image cannot change under attack.",
            )
        )
    unlabeled = [record["case"] for record in labeled if not _is_labeled(record)]
    if unlabeled:
        found.append(
            _check(
                "empty label",
                "clean",
                "warn",
                f"the labels of {len(unlabeled)} of {len(labeled)} cases hold no scored organ: what the network finds "
                "there counts as an error before and under attack.",
            )
        )
    unsized = [record["case"] for record in records if record.get("says_voxel_size") is False]
    if unsized:
        found.append(
            _check(
                "voxel size",
                "clean",
                "warn",
                f"the files of {len(unsized)} of {len(records)} cases do not say how large a voxel is, and 1 mm is "
                "taken: mm and ml mean voxels there.",
            )
        )
    undefined = [record["case"] for record in records if _undefined(record)]
    if undefined:
        found.append(
            _check(
                "undefined",
                "clean",
                "warn",
                f"{len(undefined)} of {len(records)} cases have no Dice on the clean image (no organ in reference and "
                "prediction) and are in no mean of it.",
            )
        )
    return found


def _is_labeled(record: Record) -> bool:
    return any(organ["reference_voxels"] for organ in record["scores"]["clean"].values())


def _undefined(record: Record) -> bool:
    dice = record["mean"]["clean"]["dice"]
    return dice is None or math.isnan(float(dice))


def _finds_anything(record: Record) -> bool:
    return any(organ["predicted_voxels"] for organ in record["scores"]["clean"].values())


def _of_row(row: Mapping[str, Any], records: Sequence[Record]) -> list[dict[str, Any]]:
    name, found = row["name"], []
    gradients = row["knowledge"] == "white box"
    if gradients:
        zero = max(float(record["zero_gradient_fraction"] or 0.0) for record in records)
        found.append(
            _check(
                "zero gradients",
                name,
                "warn" if zero > MOST_ZERO else "pass",
                f"at most {zero:.0%} of the gradient's entries are exactly zero"
                + (": the gradient may be masked; see an attack by queries." if zero > MOST_ZERO else "."),
            )
        )
        changed = min(float(record.get("changed_share", 1.0)) for record in records)
        if row["family"] == "gradient":
            found.append(
                _check(
                    "voxels that change",
                    name,
                    "warn" if changed < 0.05 else "pass",
                    f"at least {changed:.0%} of the voxels change"
                    + (": most of the image lies outside what the network sees." if changed < 0.05 else "."),
                )
            )
    idle = [record["case"] for record in records if record.get("changed_share") == 0]
    if idle:
        found.append(
            _check(
                "images change",
                name,
                "fail",
                f"the attack changed no voxel of {len(idle)} of {len(records)} images: budget, units or intensity map "
                "do not fit, and what it left alone is not robust.",
            )
        )
    found += _hidden(name, records)
    found += _rejection(name, records)
    attacked, chance = _mean(records, "adversarial"), _mean(records, "random")
    weaker = attacked - chance
    # An attack that, like chance, leaves the clean score as it is has shown nothing.
    without_effect = row["family"] != "noise" and weaker == 0 and attacked >= _mean(records, "clean")
    weak = not weaker <= 0 or without_effect
    worse = weak and gradients and not weaker <= ROOM
    if row["family"] not in ("clean", "natural variation"):
        found.append(
            _check(
                "stronger than chance",
                name,
                "fail" if worse else "warn" if weak else "pass",
                f"mean Dice {_mean(records, 'adversarial'):.3f} under attack and {_mean(records, 'random'):.3f} under "
                "a random change of the same kind and size"
                + (": the attack does no more than chance on this target." if weak else "."),
            )
        )
    return found


def _rejection(name: str, records: Sequence[Record]) -> list[dict[str, Any]]:
    """A detector that rejects clean images has no risk either."""
    detections = {record["case"]: record["detection"] for record in records if record.get("detection")}
    if not detections:
        return []
    first = next(iter(detections.values()))
    asked, cases = float(first["false_positive_rate"]), len(detections)
    rejected = sum(not one["clean"]["accepted"] for one in detections.values())
    chance = chance_of_rejecting(rejected, cases, int(first["calibration_cases"]), asked)
    more = chance < UNLIKELY
    return [
        _check(
            "clean images accepted",
            name,
            "warn" if more else "pass",
            f"{first['name']} rejects {rejected} of {cases} clean images, asked for at most {asked:.0%}"
            + (
                f" (by chance in {chance:.1%} of calibrations): images that it rejects are no success of it."
                if more
                else "."
            ),
        )
    ]


def _hidden(name: str, records: Sequence[Record]) -> list[dict[str, Any]]:
    """What the attack does to the network's own answer must be seen in what is deployed, or be said."""
    lost, deployed = [], []
    for record in records:
        own = record.get("attack_dice") or {}
        found = [own.get("clean"), own.get("adversarial")]
        found += [record["mean"][image]["dice"] for image in ("clean", "adversarial")]
        before, after, clean, attacked = (math.nan if value is None else float(value) for value in found)
        if math.isnan(before + after + clean + attacked):
            continue
        lost.append(before - after)
        deployed.append(clean - attacked)
    if not lost or "adversarial_original_label" in records[0]["mean"]:
        return []
    own_loss, seen = sum(lost) / len(lost), sum(deployed) / len(deployed)
    if own_loss < HIDDEN or seen > ROOM:
        return []
    text = (
        f"the network's own answer loses {own_loss:.3f} Dice and the deployed segmentation {seen:.3f}: postprocessing "
        "hides the change, and an attack that knows it may do more."
    )
    return [_check("deployed as attacked", name, "warn", text)]


def _order(
    rows: Sequence[Mapping[str, Any]], by_row: Mapping[str, Sequence[Record]], titles: Mapping[str, str]
) -> list[dict[str, Any]]:
    """White box at least as strong as transfer and queries, at one budget."""
    found = []
    white = [row for row in rows if row["family"] == "gradient" and by_row.get(row["name"])]
    for row in rows:
        if row["family"] not in ("queries", "transfer") or not by_row.get(row["name"]):
            continue
        same = [one for one in white if _budget(one) == _budget(row)]
        if not same:
            continue
        best = min(same, key=lambda one: _mean(by_row[one["name"]], "adversarial"))
        strong, weak = (_mean(by_row[one], "adversarial") for one in (best["name"], row["name"]))
        wrong = strong > weak + ROOM
        found.append(
            _check(
                "white box at least as strong",
                row["name"],
                "fail" if wrong else "pass",
                f"{titles[best['name']]} leaves Dice {strong:.3f}, {titles[row['name']]} {weak:.3f}"
                + (": gradients are masked or the search is too short." if wrong else "."),
            )
        )
    return found


def _budget(row: Mapping[str, Any]) -> tuple[Any, Any]:
    budget = row.get("budget") or {}
    return budget.get("value"), budget.get("units")


def _curves(rows: Sequence[Mapping[str, Any]], by_row: Mapping[str, Sequence[Record]]) -> list[dict[str, Any]]:
    """A larger budget does not help the network."""
    series: dict[str, list[tuple[float, float, str]]] = {}
    for row in rows:
        if row.get("series") and by_row.get(row["name"]) and (row.get("budget") or {}).get("value") is not None:
            dice = _mean(by_row[row["name"]], "adversarial")
            series.setdefault(row["series"], []).append((float(row["budget"]["value"]), dice, row["name"]))
    found = []
    for points in series.values():
        ordered = sorted(points)
        for (_, before, _), (_, after, name) in zip(ordered, ordered[1:], strict=False):
            wrong = after > before + ROOM
            found.append(
                _check(
                    "falls with the budget",
                    name,
                    "warn" if wrong else "pass",
                    f"Dice {after:.3f}, and {before:.3f} at the next smaller budget"
                    + (": a larger budget does less, so the search is too short." if wrong else "."),
                )
            )
    return found
