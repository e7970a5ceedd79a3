# SPDX-License-Identifier: Apache-2.0
"""Signs that a run as a whole says less than it seems: cases that are not in it, cases that are in it twice, rows that
did not run, and a deployment that does not answer its image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from monai_adversarial.audit.facts import FOLLOWS_IMAGE, INPUT_FITS, OWN_GRADIENT, SAME_ANSWER, TRAINED

__all__ = ["run_checks"]

Record = Mapping[str, Any]
MOST_NAMES = 5


def run_checks(
    records: Sequence[Record],
    rows: Sequence[Mapping[str, Any]],
    cases: int | None = None,
    facts: Sequence[Mapping[str, Any]] = (),
) -> list[dict[str, Any]]:
    """Entries as those of ``health_checks``; only what is wrong has one.

    Args:
        records: of an audit.
        rows: of the plan, as in ``audit.json``.
        cases: how many the audit was asked for; None where nobody said.
        facts: of the target, with what the first case has shown.
    """
    return [*_missing(records, rows, cases), *_twice(records), *_nothing(records, rows), *_of_the_target(facts)]


#: fact of the target that may begin with "no" -> check, verdict, and what is said of it
DOUBTS = {
    SAME_ANSWER: (
        "same answer twice",
        "warn",
        "one image gets different answers ({value}): differences of this size are chance.",
    ),
    FOLLOWS_IMAGE: (
        "follows the image",
        "fail",
        "the segmentation of the first case is the same for other images: it is not made of the image, and what does "
        "not change under attack is not robust.",
    ),
    INPUT_FITS: ("input as the network was built for", "fail", "the first case: {reason}"),
    TRAINED: ("trained", "fail", "{reason}."),
    OWN_GRADIENT: (OWN_GRADIENT, "fail", "the first case: {reason}."),
}


def _check(check: str, verdict: str, text: str, row: str | None = None) -> dict[str, Any]:
    return {"check": check, "row": row, "verdict": verdict, "text": text}


def _named(names: Sequence[str]) -> str:
    listed = list(names)
    return ", ".join(listed[:MOST_NAMES]) + (", ..." if len(listed) > MOST_NAMES else "")


def _missing(records: Sequence[Record], rows: Sequence[Mapping[str, Any]], cases: int | None) -> list[dict[str, Any]]:
    """A mean over the cases that went through is not the mean over the cases."""
    seen = list(dict.fromkeys(record["case"] for record in records))
    expected = len(seen) if cases is None else cases
    found = []
    for row in rows:
        own = {record["case"] for record in records if record["attack"] == row["name"]}
        detector = row.get("detector") or {}  # its cases are not attacked
        wanted = expected - sum(detector.get(key, 0) for key in ("fit_cases", "calibration_cases"))
        lacking = wanted - len(own)
        if lacking > 0:
            known = [case for case in seen if case not in own]
            text = f"{lacking} of {wanted} cases have no result in this row"
            text += f" ({_named(known)})" if known else ""
            found.append(_check("all cases", "fail", f"{text}: its figures are those of the others.", row["name"]))
    return found


def _twice(records: Sequence[Record]) -> list[dict[str, Any]]:
    """One scan under two names is one patient counted as two."""
    owners: dict[str, list[str]] = {}
    for record in records:
        hashes = record.get("hashes") or {}
        inputs = hashes.get("input")
        image = inputs.get("image") if isinstance(inputs, Mapping) else None
        # The same voxels in a file of another type or compression are the same scan.
        for mark in {str(found) for found in (hashes.get("voxels"), image) if found}:
            if record["case"] not in owners.setdefault(mark, []):
                owners[mark].append(record["case"])
    doubled = list(dict.fromkeys(tuple(names) for names in owners.values() if len(names) > 1))
    if not doubled:
        return []
    shown = "; ".join(" = ".join(names) for names in doubled[:MOST_NAMES])
    text = f"images with equal content are counted as cases of their own ({shown}): intervals are too narrow."
    return [_check("different cases", "fail", text)]


def _nothing(records: Sequence[Record], rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    if not records or any(row["family"] != "clean" for row in rows):
        return []
    return [_check("something was attacked", "warn", "no row of the plan changes an image: nothing says how robust "
                   "the target is.")]  # fmt: skip


def _of_the_target(facts: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    found = []
    for fact in facts:
        value = str(fact["value"])
        if fact["what"] in DOUBTS and value.startswith("no"):
            check, verdict, text = DOUBTS[fact["what"]]
            found.append(_check(check, verdict, text.format(value=value, reason=value.removeprefix("no: "))))
    return found
