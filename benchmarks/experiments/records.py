# SPDX-License-Identifier: Apache-2.0
"""Claims that follow from tables which other scripts have measured: comparisons of trainings, attacks and defenses."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from statistics import mean
from typing import Any

from benchmarks.claims import outcome
from benchmarks.doc_tables import DOCS

__all__ = ["adversarial_trainings", "defense_matrix", "queries_on_phantoms"]

TRAININGS, PURIFIERS, QUERIES = "adversarial_training.csv", "purification.csv", "black_box.json"
#: each with its clean twin, and the attacks of the kind that it has seen
TRAINED = {
    "pgd": ("clean", ("worst",)),
    "fast": ("clean", ("worst",)),
    "trades": ("clean", ("worst",)),
    "consistency": ("clean", ("bias field", "elastic")),
    "dual_normalization, clean branch": ("clean", ("worst",)),
    "dual_normalization, adversarial branch": ("clean", ("worst",)),
    "semi_supervised": ("clean_few_labels", ("worst",)),
    "pgd_few_labels": ("clean_few_labels", ("worst",)),
}


def _rows(file: str, folder: Path) -> list[dict[str, str]]:
    with (folder / file).open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def adversarial_trainings(folder: Path = DOCS) -> dict[str, Any]:
    """Whether each adversarial training keeps more Dice under what it has seen than the same network without it.

    Source: section 3.2 of the survey: Paul 2020, Vatian 2019, Xu 2021, Han 2021; the table is that of
    docs/adversarial_training.md.

    Survey entry: R14 (adapted).
    """
    rows = {row["training"]: row for row in _rows(TRAININGS, folder)}
    comparisons, seen = [], []
    for name, (twin, kinds) in TRAINED.items():
        if name not in rows:
            continue
        for kind in kinds:
            trained, plain = (list(map(float, rows[one][f"{kind}_by_seed"].split())) for one in (name, twin))
            comparisons += [one > other for one, other in zip(trained, plain, strict=True)]
            said = "" if kind == "worst" else f" under {kind}"
            seen.append(f"{name} {float(rows[name][kind]):.2f}{said}, {float(rows[twin][kind]):.2f} without")
    first = next(iter(rows.values()))
    # What a training has not seen is said too: it must not look like robustness.
    others = [name for name, (_, kinds) in TRAINED.items() if name in rows and "worst" not in kinds]
    unseen = [f"{name} {float(rows[name]['worst']):.2f}" for name in others]
    against = f"; against noise, which they have not seen: {', '.join(unseen)}" if unseen else ""
    return outcome(
        "adversarial training of every kind keeps more Dice under the kind of attack that it has seen than the same "
        "training without attacks",
        "Paul 2020, Vatian 2019, Xu 2021 and Han 2021 in the survey, there classifiers",
        comparisons,
        f"Dice under the worst of three noise attacks, where no other is named: {'; '.join(seen)}{against}",
        f"{first['data']}, seeds {first['seeds'].replace(' ', ' and ')} (docs/{TRAININGS})",
    )


def defense_matrix(folder: Path = DOCS) -> dict[str, Any]:
    """Whether a purifier that helps against an attacker who does not know it helps against one who does.

    Source: the protocol of the survey's specification; the rows are those of docs/purifiers.md.

    Survey entry: R20 (own).
    """
    rows = [row for row in _rows(PURIFIERS, folder) if row["attack"] == "pgd"]
    # The attacker who knows the purifier has taken longer, and is compared with one who takes as long.
    sides = (("unaware", "undefended"), ("adaptive", "undefended_longer"))
    gains = {row["defense"]: tuple(float(row[a]) - float(row[b]) for a, b in sides) for row in rows}
    helped = {name: gain for name, gain in gains.items() if gain[0] > 0.05}
    best = sorted(helped, key=lambda name: helped[name][1], reverse=True)[:3]
    seen = ", ".join(f"{name} {helped[name][0]:+.2f} unaware and {helped[name][1]:+.2f} aware" for name in best)
    return outcome(
        "what a purifier wins back from an attacker who does not know it, it keeps against one who does (here half)",
        "section 3.4 of the survey, whose sources know no such attacker; the bound is ours",
        [gain[1] >= gain[0] / 2 for gain in helped.values()],
        f"of {len(gains)} purifiers {len(helped)} win back more than 0.05 Dice; the best against an attacker who knows "
        f"them: {seen}",
        f"{rows[0]['data']}, {rows[0]['cases']} cases, PGD, the CT bundle's U-Net (docs/{PURIFIERS})",
    )


def queries_on_phantoms(folder: Path = DOCS) -> dict[str, Any]:
    """Whether each black-box attack is below random search at as many queries.

    Source: ours; the rows are those of docs/black_box.md.

    Survey entry: R19 (own).
    """
    rows = json.loads((folder / QUERIES).read_text(encoding="utf-8"))["rows"]
    most = max(row["queries"] for row in rows)
    dice = {(row["attack"], row["case"]): row["dice"] for row in rows if row["queries"] == most}
    names = [name for name, case in dice if case == 0 and name not in ("random search", "HopSkipJump")]
    cases = sorted({case for _, case in dice})
    seen = ", ".join(f"{name} {mean(dice[name, case] for case in cases):.3f}" for name in ["random search", *names])
    return outcome(
        "every attack by queries takes more Dice than random search does with as many",
        "section 2 of the survey, without a number",
        [dice[name, case] < dice["random search", case] for name in names for case in cases],
        f"Dice after {most} queries: {seen}",
        f"crops of {len(cases)} CT phantoms, the CT bundle's U-Net, 8 HU (docs/{QUERIES})",
    )
