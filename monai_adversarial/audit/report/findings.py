# SPDX-License-Identifier: Apache-2.0
"""What held and what failed: one rule per row of the plan, said beside its outcome, and no score over rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from monai_adversarial.audit.report.check import REFERENCES
from monai_adversarial.audit.report.figures import value_of

__all__ = [
    "FAILED",
    "HELD",
    "LARGEST_DROP",
    "LARGEST_ORGAN_DROP",
    "NOT_SETTLED",
    "RULES",
    "WEAKENED",
    "Finding",
    "findings_of",
    "successes_of",
]

FAILED, WEAKENED, HELD, NOT_SETTLED = "failed", "weakened", "held", "not settled"
# Mean Dice that a row may lose, over all organs and in each, and still be called held.
LARGEST_DROP, LARGEST_ORGAN_DROP = 0.05, 0.1
_SMALL = f"the mean Dice fell by at most {LARGEST_DROP:g} over all organs and by at most {LARGEST_ORGAN_DROP:g} in each"
RULES = {
    FAILED: "at least one case met the definition of success",
    WEAKENED: f"no case did, and it is not so that {_SMALL}",
    HELD: f"no case did, and {_SMALL}; an attack that is not in this plan may be stronger",
    NOT_SETTLED: "the scores are not defined, cases are missing, or a health check failed, so that nothing follows",
}


@dataclass(frozen=True)
class Finding:
    """What came of one row against one reference.

    >>> from monai_adversarial.audit.report import RULES, findings_of
    >>> result = {"row": "pgd_8", "reference": "label", "n": 2, "mean": {}, "success_rate": 0.5}
    >>> plan = {"rows": [{"name": "pgd_8", "family": "noise"}]}
    >>> summary = {"plan": plan, "results": [result], "cases": [], "health": []}
    >>> (finding,) = findings_of(summary)
    >>> finding.verdict, RULES[finding.verdict]
    ('failed', 'at least one case met the definition of success')

    Args:
        row: name in the plan.
        reference: ``"label"`` or ``"clean prediction"``.
        verdict: ``"failed"``, ``"weakened"``, ``"held"``, ``"not settled"``.
        why: the reason of a verdict that is not settled; empty otherwise.
        n: cases.
        successes: cases that met the definition of success; None where it is not defined.
        clean: mean Dice of the clean images; None where it is not defined.
        after: mean Dice of the worst that was found; None where it is not defined.
        organ: that lost most of its mean Dice, with the mean Dice before and after; None where no organ lost any.
        warned: whether a health check of this row warns.
    """

    row: str
    reference: str
    verdict: str
    why: str
    n: int
    successes: int | None
    clean: float | None
    after: float | None
    organ: tuple[str, float, float] | None
    warned: bool


def findings_of(summary: Mapping[str, Any]) -> list[Finding]:
    """One finding per row of the plan and reference, in the order of the plan; clean rows have none.

    A row that failed stays failed whatever the health checks say: a success that was found is one. A row is only called
    held or weakened where all of its cases were run and no health check of it, or of the whole audit, failed.

    >>> from monai_adversarial.audit.report import findings_of
    >>> rows = [{"name": "clean", "family": "clean"}, {"name": "pgd_2", "family": "noise"}]
    >>> dice = {"clean": {"dice": {"mean": 0.9}}, "adversarial": {"dice": {"mean": 0.88}}}
    >>> result = {"row": "pgd_2", "reference": "label", "n": 4, "mean": dice, "success_rate": 0.0}
    >>> summary = {"plan": {"rows": rows}, "results": [result], "cases": [], "health": [], "failures": []}
    >>> [(finding.row, finding.verdict, finding.successes) for finding in findings_of(summary)]
    [('pgd_2', 'held', 0)]
    """
    by_key = {(result["row"], result["reference"]): result for result in summary["results"]}
    references = [r for r in REFERENCES if any(reference == r for _, reference in by_key)] or list(REFERENCES[:1])
    found = []
    for row in summary["plan"]["rows"]:
        if row["family"] == "clean":
            continue
        with_result = [r for r in references if (row["name"], r) in by_key]
        for reference in with_result or references:
            found.append(_finding(summary, row["name"], reference, by_key.get((row["name"], reference))))
    return found


def successes_of(summary: Mapping[str, Any], result: Mapping[str, Any]) -> tuple[int | None, int]:
    """Cases of a result that met the definition of success, and for how many of them it is defined.

    Counted in the cases; where a summary lists none, from the rate, which is then over all of them.
    """
    key = (result["row"], result["reference"])
    cases = [case for case in summary["cases"] if (case["row"], case["reference"]) == key]
    if cases:
        known = [case["success"] for case in cases if case.get("success") is not None]
        return (sum(map(bool, known)) if known else None), len(known)
    n, rate = int(result["n"]), value_of(result, "success_rate")
    if rate is None or not n:
        return None, 0
    # A rate above zero is at least one case, one below all is not all.
    return min(max(round(rate * n), int(rate > 0)), n if rate >= 1 else max(n - 1, int(rate > 0))), n


def _finding(summary: Mapping[str, Any], row: str, reference: str, result: Mapping[str, Any] | None) -> Finding:
    of_row = [check for check in summary["health"] if check.get("row") in (row, None)]
    warned = any(check["verdict"] == "warn" for check in of_row)
    if result is None:
        return Finding(row, reference, NOT_SETTLED, "not run", 0, None, None, None, None, warned)
    n = int(result["n"])
    clean = value_of(result["mean"].get("clean", {}).get("dice"))
    after = value_of(result["mean"].get("adversarial", {}).get("dice"))
    organ = _most_lost(result)
    successes, known = successes_of(summary, result)
    if successes:
        return Finding(row, reference, FAILED, "", n, successes, clean, after, organ, warned)
    why = _unsettled(summary, row, of_row, n, clean, after, known)
    if why or clean is None or after is None:
        return Finding(row, reference, NOT_SETTLED, why, n, successes, clean, after, organ, warned)
    small = clean - after <= LARGEST_DROP and (organ is None or organ[1] - organ[2] <= LARGEST_ORGAN_DROP)
    verdict = HELD if small else WEAKENED
    return Finding(row, reference, verdict, "", n, successes, clean, after, organ, warned)


def _most_lost(result: Mapping[str, Any]) -> tuple[str, float, float] | None:
    """A mean over organs can hide that one of them is gone."""
    found = []
    for organ, images in (result.get("organs") or {}).items():
        before, after = (value_of((images.get(image) or {}).get("dice")) for image in ("clean", "adversarial"))
        if before is not None and after is not None and after < before:
            found.append((before - after, organ, before, after))
    return max(found)[1:] if found else None


def _unsettled(
    summary: Mapping[str, Any],
    row: str,
    checks: Sequence[Mapping[str, Any]],
    n: int,
    clean: float | None,
    after: float | None,
    known: int,
) -> str:
    """Why nothing follows for a row, or empty."""
    missing = sum(failure.get("row") == row for failure in summary["failures"])
    failed = next((check["check"] for check in checks if check["verdict"] == "fail"), None)
    if not n:
        return "no case was scored"
    if clean is None or after is None:
        return "Dice is not defined"
    if known < n:
        return f"success is not defined in {n - known} of {n} cases" if known else "success is not defined"
    if missing:
        return f"{missing} case{'s' * (missing > 1)} could not be run"
    return f"health check failed: {failed}" if failed is not None else ""
