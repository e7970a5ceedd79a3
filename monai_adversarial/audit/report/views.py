# SPDX-License-Identifier: Apache-2.0
"""What the page says, part by part, as plain structures: all that is computed is computed here, none in templates."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from monai_adversarial.audit.report.check import LABEL, REFERENCES
from monai_adversarial.audit.report.figures import NOT_DEFINED, interval, number, percent, significant, value_of
from monai_adversarial.audit.report.findings import (
    FAILED,
    HELD,
    NOT_SETTLED,
    WEAKENED,
    Finding,
    findings_of,
    successes_of,
)
from monai_adversarial.audit.report.names import shortened

__all__ = [
    "AGAINST",
    "TITLES",
    "cards",
    "case_list",
    "cost_rows",
    "fewest_cases",
    "glance",
    "organ_tables",
    "references_of",
    "results_of",
    "subgroup_tables",
]

# What Dice compares with, in words, and what a part of the page about it is called.
AGAINST = {LABEL: "label", "clean prediction": "network's own clean prediction"}
TITLES = {
    LABEL: "Accuracy: against labels",
    "clean prediction": "Stability: against the network's own clean prediction",
}
# The same where there is little room.
SHORT = {LABEL: "Accuracy, with the label", "clean prediction": "Stability, with the clean prediction"}
# Below that many cases a bootstrap interval says little.
FEW_CASES = 10
IMAGES = {"clean": "clean", "random": "random, equal size", "adversarial": "worst found"}


def references_of(summary: Mapping[str, Any]) -> list[str]:
    """The references that results are against, labels first."""
    return [r for r in REFERENCES if any(result["reference"] == r for result in summary["results"])]


def results_of(summary: Mapping[str, Any], reference: str) -> dict[str, Mapping[str, Any]]:
    """Row -> result against one reference, in the order of the plan."""
    found = {result["row"]: result for result in summary["results"] if result["reference"] == reference}
    return {row["name"]: found[row["name"]] for row in summary["plan"]["rows"] if row["name"] in found}


def glance(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Per reference: clean Dice, and the rows of each verdict, a line each."""
    titles = {row["name"]: row["title"] for row in summary["plan"]["rows"]}
    findings = findings_of(summary)
    return [
        {
            "reference": reference,
            "title": TITLES[reference],
            "against": AGAINST[reference],
            "clean": clean_result(summary, reference),
            "lines": [
                (verdict, [{"title": titles[f.row], "row": f.row, "text": _short(f)} for f in of_verdict])
                for verdict in (FAILED, WEAKENED, HELD, NOT_SETTLED)
                if (of_verdict := [f for f in findings if f.reference == reference and f.verdict == verdict])
            ],
        }
        for reference in references_of(summary) or [LABEL]
    ]


def clean_result(summary: Mapping[str, Any], reference: str) -> Mapping[str, Any] | None:
    """Dice of the clean images: of the clean row where there is one, otherwise of the row with most cases."""
    results = results_of(summary, reference)
    clean = [row["name"] for row in summary["plan"]["rows"] if row["family"] == "clean" and row["name"] in results]
    most = sorted(results, key=lambda name: -results[name]["n"])
    name = next(iter(clean or most), None)
    return results[name]["mean"].get("clean", {}).get("dice") if name is not None else None


def fewest_cases(summary: Mapping[str, Any]) -> int | None:
    """The smallest number of cases behind a result, where it is too small for its interval; None otherwise.

    A bootstrap of few values is narrower than it should be (Hesterberg, The American Statistician, 2015).
    """
    fewest = min((result["n"] for result in summary["results"]), default=None)
    return fewest if fewest is not None and fewest < FEW_CASES else None


def _short(finding: Finding) -> str:
    if finding.why:
        return finding.why
    what = f"{finding.successes} of {finding.n} cases, " if finding.verdict == FAILED else ""
    text = f"{what}Dice {number(finding.clean, 2)} → {number(finding.after, 2)}"
    if finding.organ is not None and finding.verdict != HELD:
        organ, before, after = finding.organ
        text += f"; most in {shortened(organ, 24)}, {number(before, 2)} → {number(after, 2)}"
    return f"{text}, with a warning" if finding.warned and finding.verdict != FAILED else text


def cards(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One card per row of the plan, with a block per reference."""
    findings = findings_of(summary)
    results = {reference: results_of(summary, reference) for reference in REFERENCES}
    found = []
    for row in summary["plan"]["rows"]:
        blocks = [
            _block(summary, row, results[reference][row["name"]], reference)
            for reference in REFERENCES
            if row["name"] in results[reference]
        ]
        found.append(
            {
                "row": row,
                "findings": {f.reference: f for f in findings if f.row == row["name"]},
                "blocks": blocks,
                "checks": [c for c in summary["health"] if c.get("row") == row["name"] and c["verdict"] != "pass"],
                "failures": sum(failure.get("row") == row["name"] for failure in summary["failures"]),
            }
        )
    return found


def _block(
    summary: Mapping[str, Any], row: Mapping[str, Any], result: Mapping[str, Any], reference: str
) -> dict[str, Any]:
    images = [
        {"image": image, "title": title, "mean": number(value_of(dice)), "interval": interval(dice), "n": dice.get("n")}
        for image, title in IMAGES.items()
        if (dice := (result["mean"].get(image) or {}).get("dice")) is not None
    ]
    worst, draws = result.get("worst_case"), result.get("draws")
    return {
        "reference": reference,
        "title": SHORT[reference],
        "n": result["n"],
        "images": images,
        "attacked": row["family"] != "clean",
        "success": _successes(summary, result),
        "definition": result.get("success_definition"),
        "worst": worst,
        "unmoved": _unmoved(result),
        "saved": _saved(result.get("saved_file")),
        "draws": draws,
        "detection": _detection(result.get("detection")),
        "measurements": [_measured(name, found) for name, found in (result.get("measurements") or {}).items()],
    }


def _unmoved(result: Mapping[str, Any]) -> str | None:
    """Dice with the reference where it was: an attack that moves anatomy is scored with the reference moved along."""
    found = (result["mean"].get("adversarial_original_label") or {}).get("dice")
    return interval(found) if found is not None else None


def _detection(found: Mapping[str, Any] | None) -> list[dict[str, str]]:
    """What a detector is worth: clean rejection, and both attackers, never one without the other."""
    if not found:
        return []
    lines = [
        {
            "title": "Detector",
            "text": f"{found['name']}, fitted to {found['fit_cases']} and calibrated on {found['calibration_cases']} "
            f"other clean cases; rejects {percent(found['clean_rejected'])} of {found['n']} clean ones, asked for at "
            f"most {percent(found['false_positive_rate'])}",
        }
    ]
    for who, title in (("unaware", "Attacker who does not know it"), ("adaptive", "Attacker who knows it")):
        lines.append(
            {
                "title": title,
                "text": f"AUROC {number(found[f'{who}_auroc'], 2)}, wrong {percent(found[f'{who}_wrong'])}, wrong and "
                f"accepted {percent(found[f'{who}_adversarial_risk'])}",
            }
        )
    return lines


def _saved(found: Mapping[str, Any] | None) -> str | None:
    """What was measured on the files that were written, read back."""
    if not found:
        return None
    change, dice = significant(value_of(found, "largest_change")), number(value_of(found, "dice"))
    return f"{found['n']} read back: largest change {change} in the units of the file, Dice {dice}"


def _successes(summary: Mapping[str, Any], result: Mapping[str, Any]) -> str:
    successes, known = successes_of(summary, result)
    if successes is None:
        return NOT_DEFINED
    undefined = f", not defined in {result['n'] - known}" if known < result["n"] else ""
    return f"{successes} of {known} case{'s' if known != 1 else ''}{undefined}"


#: of units and measurements, where records have short ones
UNITS = {"percentile": "of the image's range", "network": "network values"}
NAMES = {"noise_linf": "noise, L-infinity norm", "noise_l2": "noise, L2 norm", "rms_change": "root mean square change"}


def _measured(name: str, found: Mapping[str, Any]) -> dict[str, str]:
    """A measurement beside its limit; one that is beyond it within its tolerance says so."""
    units = f" {UNITS.get(found['units'], found['units'])}" if found.get("units") else ""
    worst, limit, lower = value_of(found, "worst"), value_of(found, "limit"), found.get("bound") == "lower"
    text = f"{significant(worst)}{units}" if worst is not None else NOT_DEFINED
    if limit is not None:
        text += f", {'at least' if lower else 'at most'} {significant(limit)}"
        beyond = 0.0 if worst is None else (limit - worst) * (1 if lower else -1)
        tolerance = value_of(found, "tolerance") or 0.0
        if beyond > 1e-3 * abs(limit) + 1e-6:
            within = beyond <= tolerance * (1 + 1e-6)
            text += f"; beyond it by {significant(beyond)}{units}, " + (
                f"within the rounding of the file, {significant(tolerance)}" if within else "the budget was not kept"
            )
    norm = found.get("norm")
    title = NAMES.get(name, name.replace("_", " ")) + (
        f", {str(norm).replace('_', ' ')} norm" if norm and str(norm) not in name else ""
    )
    return {"title": title, "text": text}


def organ_tables(summary: Mapping[str, Any], reference: str) -> list[dict[str, Any]]:
    """Per row: a table of organs."""
    titles = {row["name"]: row for row in summary["plan"]["rows"]}
    return [
        {
            "row": titles[name],
            "n": result["n"],
            "organs": [{"organ": organ, **_organ(found)} for organ, found in result["organs"].items()],
        }
        for name, result in results_of(summary, reference).items()
        if result.get("organs")
    ]


def _organ(found: Mapping[str, Any]) -> dict[str, str]:
    def score(image: str, name: str, digits: int) -> str:
        return interval((found.get(image) or {}).get(name), digits)

    return {
        **{f"{image}_dice": score(image, "dice", 3) for image in IMAGES},
        **{f"{image}_surface": score(image, "surface_dice", 3) for image in ("clean", "adversarial")},
        **{f"{image}_hd95": score(image, "hd95_mm", 1) for image in ("clean", "adversarial")},
        "volume_ml": interval(found.get("volume_change_ml"), 1),
        "volume_percent": interval(found.get("volume_change_percent"), 1),
        "missed": percent(found.get("missed_rate")),
        "invented": percent(found.get("invented_rate")),
    }


def case_list(summary: Mapping[str, Any], reference: str) -> list[dict[str, Any]]:
    """Cases and rows against one reference, worst first; those without a defined Dice last."""
    rows = {row["name"]: row for row in summary["plan"]["rows"]}
    found = []
    for case in summary["cases"]:
        if case["reference"] != reference or rows.get(case["row"], {}).get("family") == "clean":
            continue
        dice = {image: value_of((case.get("mean") or {}).get(image, {}), "dice") for image in IMAGES}
        found.append(
            {
                **case,
                "title": rows[case["row"]]["title"] if case["row"] in rows else case["row"],
                "worst": dice["adversarial"],
                "dice": " → ".join(number(dice[image]) for image in IMAGES if image in (case.get("mean") or {})),
                "zero": percent(case.get("zero_gradient_fraction")),
            }
        )
    return sorted(found, key=lambda case: (case["worst"] is None, case["worst"] or 0.0))


def subgroup_tables(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A table per column of the data and reference."""
    titles = {row["name"]: row["title"] for row in summary["plan"]["rows"]}
    order = list(titles)
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for entry in summary.get("subgroups") or ():
        groups.setdefault((entry["column"], entry["reference"]), []).append(entry)
    tables = []
    for (column, reference), entries in groups.items():
        known = [entry for entry in entries if entry["row"] in titles]
        known.sort(key=lambda entry: order.index(entry["row"]))
        lines = [
            {
                "row": titles[entry["row"]],
                "value": entry["value"],
                "n": entry["n"],
                "clean": interval(entry.get("clean")),
                "after": interval(entry.get("adversarial")),
            }
            for entry in known
        ]
        tables.append({"column": column, "title": TITLES[reference], "lines": list(_first_of_each(lines))})
    return tables


def _first_of_each(lines: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Mark the first line of every row of the plan, and say how many lines it spans."""
    for position, line in enumerate(lines):
        first = position == 0 or lines[position - 1]["row"] != line["row"]
        yield {**line, "span": sum(other["row"] == line["row"] for other in lines) if first else 0}


def cost_rows(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Passes and seconds per row, over both references: the cost does not depend on what scores compare with."""
    found = []
    for row in summary["plan"]["rows"]:
        results = [result for result in summary["results"] if result["row"] == row["name"]]
        if results:
            parts = [result.get("cost") or {} for result in results]
            total = {
                key: sum(value_of(part, key) or 0.0 for part in parts) for key in ("forwards", "backwards", "seconds")
            }
            cases = sum(result["n"] for result in results)
            found.append({"row": row, "cases": cases, **total, "each": total["seconds"] / cases if cases else None})
    return found
