# SPDX-License-Identifier: Apache-2.0
"""Tables over an attack study: CSV, JSON, plain text."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from monai_adversarial.metrics import summarize
from monai_adversarial.studies.measurement import CLEAN_PREDICTION, by_reference
from monai_adversarial.studies.records import without_nan, write_json
from monai_adversarial.studies.reports.doubts import study_doubts
from monai_adversarial.studies.reports.measurements import worst_measurements, worst_value
from monai_adversarial.studies.reports.overview import SECTIONS, save_overview
from monai_adversarial.studies.reports.tables import cell
from monai_adversarial.utils.files import replace_when_complete
from monai_adversarial.utils.shown_names import shown_name

__all__ = ["AttackReport"]

Record = Mapping[str, Any]

# Columns of results.csv that hold a score per organ: which image, against which label.
IMAGES = ("clean", "random", "adversarial", "random_original_label", "adversarial_original_label")
SCORES = ("dice", "hd95_mm")
LONGEST_NAME = 40
UNLABELLED = SECTIONS[CLEAN_PREDICTION]


class AttackReport:
    """Tables over the records of an ``AttackStudy``.

    Cases that were scored against a label and cases that were scored against the network's own clean prediction are
    different measurements: they are never averaged together.

    Args:
        records: one per attack and case, as ``Unit.run`` returns them.
        seed: of the bootstrap.
        failed: case, attack and reason of the cells that are missing because they failed.
    """

    def __init__(self, records: Sequence[Record], seed: int = 0, failed: Sequence[Mapping[str, str]] = ()) -> None:
        self.records, self.seed, self.failed = list(records), seed, list(failed)

    def groups(self) -> dict[str, dict[str, list[Record]]]:
        """Reference -> attack -> records."""
        groups: dict[str, dict[str, list[Record]]] = {}
        for reference, of_reference in by_reference(self.records).items():
            groups[reference] = {}
            for record in of_reference:
                groups[reference].setdefault(record["attack"], []).append(record)
        return groups

    def rows(self) -> list[dict[str, Any]]:
        """One row per case, attack and organ, and one with organ "mean" that also holds what concerns the whole case.

        HD95 is empty where it is not defined: an organ that is absent from the label or from the prediction.
        """
        rows = []
        for record in self.records:
            head = {"case": record["case"], "attack": record["attack"], "reference": record["reference"]}
            images = [image for image in IMAGES if image in record["scores"]]
            for organ in record["scores"]["clean"]:
                of_organ = {image: record["scores"][image][organ] for image in images}
                rows.append({**head, "organ": organ, **_columns(of_organ)})
            rows.append({**head, "organ": "mean", **_columns(record["mean"]), **self._case(record)})
        return rows

    @staticmethod
    def _case(record: Record) -> dict[str, Any]:
        after = record["mean"]["adversarial"]
        return {
            "missed_organs": " ".join(after["missed"]),
            "invented_organs": " ".join(after["invented"]),
            "success": int(record["success"]),
            **record["visibility"],
            **{
                f"{name} [{measured['units']}]" if measured["units"] else name: measured["value"]
                for name, measured in record["measurements"].items()
            },
            "zero_gradient_fraction": record["zero_gradient_fraction"],
            **record["cost"],
        }

    def summary(self) -> dict[str, Any]:
        """Per attack: means over cases with 95 % bootstrap intervals, worst measurements, cost.

        Returns:
            ``attacks``: over the cases with a label; ``against_clean_prediction``: over the cases without one.
        """
        groups = self.groups()
        return {
            "cases": sorted({record["case"] for record in self.records}),
            "interval": "95 % percentile bootstrap of the mean over cases",
            **{
                section: {attack: self._entry(found) for attack, found in groups.get(reference, {}).items()}
                for reference, section in SECTIONS.items()
            },
            "failed": [dict(one) for one in self.failed],
            "doubts": study_doubts(self.records),
        }

    def _entry(self, records: Sequence[Record]) -> dict[str, Any]:
        """One attack over the cases of one kind of reference."""
        first = records[0]
        scores = {
            f"{image}_{score}": summarize((r["mean"][image][score] for r in records), self.seed)
            for image in IMAGES
            if image in first["mean"]
            for score in SCORES
        }
        organs = {
            organ: {
                image: summarize((r["scores"][image][organ]["dice"] for r in records), self.seed)
                for image in IMAGES
                if image in first["scores"]
            }
            for organ in first["scores"]["clean"]
        }
        return {
            "cases": len(records),
            "reference": first["reference"],
            "geometric": bool(first["geometric"]),
            **scores,
            "dice_per_organ": organs,
            "missed_organs": sum(len(record["mean"]["adversarial"]["missed"]) for record in records),
            "invented_organs": sum(len(record["mean"]["adversarial"]["invented"]) for record in records),
            "success_rate": sum(bool(record["success"]) for record in records) / len(records),
            "success_definition": first["success_definition"],
            "ssim": summarize((r["visibility"]["ssim"] for r in records), self.seed),
            "psnr_db": summarize((r["visibility"]["psnr_db"] for r in records), self.seed),
            "measurements": worst_measurements(records),
            "zero_gradient_fraction": summarize((r["zero_gradient_fraction"] for r in records), self.seed),
            "cost": {key: sum(record["cost"][key] for record in records) for key in first["cost"]},
            "configuration": first["configuration"],
            "scored_classes": first["scored_classes"],
            "unlabeled_classes": first["unlabeled_classes"],
            "facts": first["facts"],
        }

    def table(self) -> str:
        """Plain text for the terminal."""
        header = [
            "attack",
            "n",
            "clean Dice",
            "random control",
            "adversarial",
            "HD95 mm",
            "SSIM",
            "PSNR dB",
            "success",
            "s/case",
        ]
        lines = [header]
        summary = self.summary()
        found_of = {section: summary[section] for section in SECTIONS.values()}
        entries = [(attack, found) for section in found_of.values() for attack, found in section.items()]
        for section, of_section in found_of.items():
            if section == UNLABELLED and of_section:
                lines.append(["no label, against the clean prediction:", *[""] * 9])
            for attack, found in of_section.items():
                lines += self._lines(attack, found)
        # A heading may be longer than its column.
        table = [line for line in lines if line[1:] != [""] * 9]
        widths = [max(len(line[column]) for line in table) for column in range(len(header))]
        text = [
            "  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() if line in table else line[0]
            for line in lines
        ]
        text.insert(1, "-" * max(map(len, text)))
        text += [
            "",
            "Dice: mean over organs and cases [95 % bootstrap interval over cases]. HD95: clean > adversarial, over",
            "organs in both label and prediction. Random control: a random change of the same kind and size.",
        ]
        definitions: dict[str, list[str]] = {}
        for attack, found in entries:
            names = definitions.setdefault(found["success_definition"], [])
            names += [] if attack in names else [attack]
        for definition, names in definitions.items():
            whose = "" if len(definitions) == 1 else f" of {', '.join(map(shown_name, names))}"
            text += [f"Success{whose}: {definition}; a share of the cases."]
        absent = {
            ", ".join(map(shown_name, f["unlabeled_classes"])): ", ".join(map(shown_name, f["scored_classes"]))
            for _, f in entries
        }
        text += [
            f"Scored classes: {scored}; not labeled in this data set: {names}."
            for names, scored in absent.items()
            if names
        ]
        if any(found["geometric"] for _, found in entries):
            text += ["Attacks that move anatomy: against the label moved with it; below, against the original label."]
        if found_of[UNLABELLED]:
            text += [
                "Cases without a label are scored against the network's own clean prediction, in rows of their own."
            ]
        limits = {attack: "; ".join(_limit(*one) for one in _joined(attack, found_of)) for attack, _ in entries}
        text += [f"{shown_name(attack)}: {measured}" for attack, measured in limits.items() if measured]
        if self.failed:
            names = sorted({shown_name(f"{one['case']} {one['attack']}") for one in self.failed})
            text += [f"Failed and in no number above: {', '.join(names)}."]
        text += [f"Doubt: {doubt}" for doubt in summary["doubts"]]
        return "\n".join(text)

    def _lines(self, attack: str, found: Mapping[str, Any]) -> list[list[str]]:
        seconds = found["cost"]["total_seconds"] / found["cases"]
        lines = [
            [
                shown_name(attack, longest=LONGEST_NAME),
                str(found["cases"]),
                *(_interval(found[f"{image}_dice"]) for image in ("clean", "random", "adversarial")),
                " > ".join(_number(found[f"{image}_hd95_mm"]["mean"], 1) for image in ("clean", "adversarial")),
                _number(found["ssim"]["mean"], 3),
                _number(found["psnr_db"]["mean"], 1),
                f"{found['success_rate']:.0%}",
                _number(seconds, 1),
            ]
        ]
        if found["geometric"]:
            pair = (found[f"{image}_original_label_dice"] for image in ("random", "adversarial"))
            distance = _number(found["adversarial_original_label_hd95_mm"]["mean"], 1)
            lines.append(["  original label", "", "", *map(_interval, pair), f"{'':>3}   {distance}", *[""] * 4])
        return lines

    def write(self, output_dir: Path) -> dict[str, Any]:
        """Write results.csv, summary.json, summary.txt and overview.png; returns the summary."""
        rows, summary = self.rows(), without_nan(self.summary())
        columns: dict[str, None] = {}
        for row in sorted(rows, key=len, reverse=True):
            columns |= dict.fromkeys(row)
        with (
            replace_when_complete(output_dir / "results.csv") as temporary,
            open(temporary, "w", newline="", encoding="utf-8") as stream,
        ):
            writer = csv.DictWriter(stream, _ordered(columns), restval="")
            writer.writeheader()
            writer.writerows({key: _cell(value) for key, value in row.items()} for row in rows)
        write_json(output_dir / "summary.json", summary)
        with replace_when_complete(output_dir / "summary.txt") as temporary:
            temporary.write_text(self.table() + "\n", encoding="utf-8")
        if rows:
            with replace_when_complete(output_dir / "overview.png") as temporary:
                save_overview(self.groups(), summary, temporary)
        return summary


def _columns(scores: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    return {f"{image}_{score}": scores[image][score] for score in SCORES for image in IMAGES if image in scores}


def _ordered(columns: Mapping[str, None]) -> list[str]:
    """Case, attack, organ first; Dice before HD95; the rest as it came."""
    first = ["case", "attack", "organ", "reference"] + [f"{image}_{score}" for score in SCORES for image in IMAGES]
    return [c for c in first if c in columns] + [c for c in columns if c not in first]


def _cell(value: Any) -> Any:
    value = without_nan(value)
    return "" if value is None else f"{value:.6g}" if isinstance(value, float) else cell(value)


def _joined(attack: str, sections: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, dict[str, Any]]]:
    """The measurements of an attack over all cases: budgets do not depend on what scores compare with."""
    found = [section[attack]["measurements"] for section in sections.values() if attack in section]
    joined = []
    for name, first in found[0].items():
        both = [measured[name] for measured in found if name in measured]
        worst = worst_value([measured["worst"] for measured in both], first["bound"])
        joined.append((name, {**first, "worst": worst, "tolerance": max(one["tolerance"] for one in both)}))
    return joined


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None or value != value else f"{value:.{digits}f}"


def _significant(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def _limit(name: str, measured: Mapping[str, Any]) -> str:
    text = f"{name.replace('_', ' ')} {_significant(measured['worst'])} {measured['units']}".rstrip()
    norm = measured.get("norm")
    if norm and norm not in name:
        text += f" in the {norm.replace('_', ' ')} norm"
    limit = measured["limit"]
    if limit is None:
        return text
    lower = measured["bound"] == "lower"
    # A value that passed the check although it lies beyond its limit did so by the rounding of the file.
    excess = 0.0 if measured["worst"] is None else (limit - measured["worst"]) * (1 if lower else -1)
    room = f", rounding of the file {_significant(measured['tolerance'])}" if excess > 1e-3 * abs(limit) + 1e-6 else ""
    return f"{text} ({'at least' if lower else 'at most'} {limit:g}{room})"


def _interval(summary: Mapping[str, Any]) -> str:
    mean, low, high = (_number(summary[key], 3) for key in ("mean", "low", "high"))
    return mean if low == "-" else f"{mean} [{low}, {high}]"
