# SPDX-License-Identifier: Apache-2.0
"""Tables and a figure over the units of a ``PurificationStudy``."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from monai_adversarial.metrics import summarize
from monai_adversarial.studies.reports.tables import csv_text, rounded
from monai_adversarial.utils.files import replace_when_complete
from monai_adversarial.utils.shown_names import shown_name

__all__ = ["PurificationReport", "markdown_table"]

COLUMNS = ("clean_lost", "undefended", "undefended_longer", "unaware", "adaptive")
SCORES = ("clean_undefended", "clean", *COLUMNS[:-1], "adaptive_gradient", COLUMNS[-1])
FIGURE_SERIES = (
    ("clean", "clean, purified", "#4C78A8", "o"),
    ("unaware", "attacker unaware of the purifier", "#EDAE49", "s"),
    ("adaptive", "attacker who knows it", "#D1495B", "D"),
)


class PurificationReport:
    """Tables over records.

    Args:
        records: one per case, attack and defense.
        data_name: what the cases are.
        seed: of the bootstrap.
    """

    def __init__(self, records: Sequence[Mapping[str, Any]], data_name: str = "cases", seed: int = 0) -> None:
        self.records, self.data_name, self.seed = list(records), data_name, seed

    def rows(self) -> list[dict[str, Any]]:
        """One row per defense and attack: mean Dice over cases with the ends of 95 % bootstrap intervals by case."""
        groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
        for record in self.records:
            groups.setdefault((record["defense"], record["attack"]), []).append(record)
        rows = []
        for (defense, attack), found in groups.items():
            row: dict[str, Any] = {
                "data": self.data_name,
                "defense": defense,
                "attack": attack,
                "cases": len(found),
                "gradient": found[0]["gradient"],
                "draws_per_gradient": found[0]["samples"],
                "steps": found[0]["steps"],
            }
            for score in SCORES:
                values = [_value(record["mean"], score) for record in found]
                summary = summarize(values, self.seed)
                row |= {score: summary["mean"], f"{score}_low": summary["low"], f"{score}_high": summary["high"]}
            row["adaptive_by"] = " ".join(sorted({record["adaptive_by"] for record in found}))
            row["seconds_per_case"] = sum(record["cost"]["seconds"] for record in found) / len(found)
            rows.append({key: rounded(value) for key, value in row.items()})
        return rows

    def case_rows(self) -> list[dict[str, Any]]:
        """One row per case, defense, attack and organ, and one with organ "mean"."""
        rows = []
        for record in self.records:
            head = {key: record[key] for key in ("case", "defense", "attack")}
            scores = record["scores"]
            kinds = [score for score in SCORES if score in scores]
            for organ in scores["clean"]:
                rows.append(head | {"organ": organ} | {k: rounded(scores[k][organ]["dice"]) for k in kinds})
            rows.append(head | {"organ": "mean"} | {k: rounded(record["mean"][k]["dice"]) for k in kinds})
        return rows

    def table(self) -> str:
        """The rows as Markdown."""
        return markdown_table(self.rows())

    def write(self, folder: Path) -> None:
        """Write ``purification.csv``, ``purification_cases.csv``, ``purification.md`` and ``purification.png``."""
        for name, rows in (("purification.csv", self.rows()), ("purification_cases.csv", self.case_rows())):
            with replace_when_complete(folder / name) as temporary:
                temporary.write_text(csv_text(rows), encoding="utf-8")
        with replace_when_complete(folder / "purification.md") as temporary:
            temporary.write_text(self.table() + "\n", encoding="utf-8")
        with replace_when_complete(folder / "purification.png") as temporary:
            save_figure(self.rows(), temporary)


def _value(mean: Mapping[str, Any], score: str) -> float | None:
    if score == "clean_lost":
        before, after = mean["clean_undefended"]["dice"], mean["clean"]["dice"]
        return None if before is None or after is None else before - after
    return mean[score]["dice"]


def markdown_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """A Markdown table of rows, one block of columns that a reader compares; the CSV has the rest."""
    titles = ["purifier", "attack", "cases", "clean lost", "undefended", "undefended, longer"]
    titles += ["attacker unaware", "attacker adaptive", "attacked by"]
    lines = [f"| {' | '.join(titles)} |", "|" + "---|" * len(titles)]
    for row in rows:
        how = str(row["gradient"]).replace("_", " ")
        if int(row["draws_per_gradient"]) > 1:
            how += f", {row['draws_per_gradient']} draws"
        cells = [_cell(row, score) for score in COLUMNS]
        name, attack = (shown_name(str(row[key]).replace("_", " "), "markdown") for key in ("defense", "attack"))
        lines.append(f"| {name} | {attack} | {row['cases']} | {' | '.join(cells)} | {how} |")
    return "\n".join(lines)


def _cell(row: Mapping[str, Any], score: str) -> str:
    if row[score] == "":
        return "–"
    text = f"{row[score]:.3f}"
    if row[f"{score}_low"] == "" or score.startswith("undefended"):
        return text
    return f"{text} [{row[f'{score}_low']:.3f}, {row[f'{score}_high']:.3f}]"


def save_figure(rows: Sequence[Mapping[str, Any]], path: str | os.PathLike[str]) -> None:
    """One panel per attack: clean, unaware and adaptive Dice of every defense with intervals, and the Dice without
    defense, clean and under the longer attack.

    Args:
        rows: of ``PurificationReport.rows`` or ``reports.tables.read_rows``.
        path: PNG file.
    """
    attacks = list(dict.fromkeys(row["attack"] for row in rows))
    defenses = list(dict.fromkeys(row["defense"] for row in rows))
    size = (3.0 + 3.1 * len(attacks), 1.9 + 0.3 * len(defenses))
    figure = Figure(figsize=size, dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(attacks), sharey=True, squeeze=False)[0]
    for axes, attack in zip(panels, attacks, strict=True):
        of_attack = {row["defense"]: row for row in rows if row["attack"] == attack}
        for place, defense in enumerate(defenses):
            row = of_attack.get(defense)
            if row is None:
                continue
            for shift, (score, _, color, marker) in zip((-0.2, 0.0, 0.2), FIGURE_SERIES, strict=True):
                if row[score] == "":
                    continue
                if row[f"{score}_low"] != "":
                    axes.plot([row[f"{score}_low"], row[f"{score}_high"]], [place + shift] * 2, color=color, lw=1.3)
                axes.plot(row[score], place + shift, marker, color=color, ms=4.5)
        shown = [row["undefended_longer"] for row in of_attack.values() if row["undefended_longer"] != ""]
        clean = [row["clean_undefended"] for row in of_attack.values() if row["clean_undefended"] != ""]
        if shown:
            axes.axvline(sum(shown) / len(shown), color="#444444", lw=1, ls="--", zorder=0)
            axes.axvline(sum(clean) / len(clean), color="#9AA0A6", lw=1, ls=":", zorder=0)
        axes.set_title(shown_name(str(attack).replace("_", " "), "picture"), fontsize=10)
        axes.set_xlim(0, 1)
        axes.set_xlabel("mean organ Dice", fontsize=9)
        axes.grid(axis="x", color="#E4E4E4", lw=0.8)
        axes.set_axisbelow(True)
        axes.tick_params(labelsize=8)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_yticks(
        range(len(defenses)), [shown_name(str(name).replace("_", " "), "picture") for name in defenses]
    )
    panels[0].set_ylim(len(defenses) - 0.5, -0.5)
    handles = [
        panels[0].plot([], [], marker, color=color, label=title, ms=5)[0] for _, title, color, marker in FIGURE_SERIES
    ]
    handles.append(panels[0].plot([], [], "--", color="#444444", lw=1, label="attacked as long, no purifier")[0])
    handles.append(panels[0].plot([], [], ":", color="#9AA0A6", lw=1, label="clean, no purifier")[0])
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    figure.savefig(path, format="png")
