# SPDX-License-Identifier: Apache-2.0
"""Tables and a figure over the cases of a ``TrainingStudy``."""

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

__all__ = ["TrainingReport", "training_table"]

COLORS = ("#4C78A8", "#72B7B2", "#EDAE49", "#D1495B", "#8E6C8A", "#54A24B", "#9D755D", "#333333")


class TrainingReport:
    """Tables over records.

    Args:
        records: one per training, seed and case.
        attacks: names of the attacks, in the order of the columns.
        worst_of: the attacks that the column ``worst`` joins.
        data_name: what the cases are.
        seed: of the bootstrap.
    """

    def __init__(
        self,
        records: Sequence[Mapping[str, Any]],
        attacks: Sequence[str],
        worst_of: Sequence[str],
        data_name: str = "cases",
        seed: int = 0,
    ) -> None:
        self.records, self.data_name, self.seed = list(records), data_name, seed
        self.columns = ["clean", *attacks, "worst"]
        self.worst_of = list(worst_of)

    def rows(self) -> list[dict[str, Any]]:
        """One row per training: mean over cases of the mean over seeds, with the ends of 95 % bootstrap intervals by
        case, and the mean of each seed."""
        groups: dict[str, list[Mapping[str, Any]]] = {}
        for record in self.records:
            groups.setdefault(record["training"], []).append(record)
        rows = []
        for training, found in groups.items():
            seeds = sorted({record["seed"] for record in found})
            cases = sorted({record["case"] for record in found})
            row: dict[str, Any] = {
                "data": self.data_name,
                "training": training,
                "seeds": " ".join(map(str, seeds)),
                "cases": len(cases),
            }
            for column in self.columns:
                values = []
                for case in cases:
                    of_case = [
                        r["mean"][column] for r in found if r["case"] == case and r["mean"].get(column) is not None
                    ]
                    values.append(sum(of_case) / len(of_case) if of_case else None)
                summary = summarize(values, self.seed)
                row |= {column: summary["mean"], f"{column}_low": summary["low"], f"{column}_high": summary["high"]}
                per_seed = [
                    summarize([r["mean"].get(column) for r in found if r["seed"] == one])["mean"] for one in seeds
                ]
                row[f"{column}_by_seed"] = " ".join(f"{value:.3f}" for value in per_seed)
            rows.append({key: rounded(value) for key, value in row.items()})
        return rows

    def case_rows(self) -> list[dict[str, Any]]:
        """One row per training, seed, case and organ, and one with organ "mean"."""
        rows = []
        for record in self.records:
            head = {key: record[key] for key in ("training", "seed", "case")}
            for organ in record["dice"]["clean"]:
                scores = {key: rounded(record["dice"].get(key, {}).get(organ)) for key in self.columns}
                rows.append(head | {"organ": organ} | scores)
            rows.append(head | {"organ": "mean"} | {key: rounded(record["mean"].get(key)) for key in self.columns})
        return rows

    def table(self) -> str:
        """The rows as Markdown."""
        return training_table(self.rows(), self.columns)

    def write(self, folder: Path) -> None:
        """Write ``training.csv``, ``training_cases.csv``, ``training.md`` and ``training.png``."""
        for name, rows in (("training.csv", self.rows()), ("training_cases.csv", self.case_rows())):
            with replace_when_complete(folder / name) as temporary:
                temporary.write_text(csv_text(rows), encoding="utf-8")
        with replace_when_complete(folder / "training.md") as temporary:
            temporary.write_text(self.table() + "\n", encoding="utf-8")
        with replace_when_complete(folder / "training.png") as temporary:
            save_figure(self.rows(), self.columns, temporary)


def training_table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> str:
    """A Markdown table: one line per training, means with intervals."""
    titles = " | ".join(shown_name(one, "markdown") for one in columns)
    lines = [f"| training | {titles} |", "|---|" + "---|" * len(columns)]
    for row in rows:
        cells = []
        for column in columns:
            text = "–" if row[column] == "" else f"{row[column]:.3f}"
            if row[f"{column}_low"] != "":
                text += f" [{row[f'{column}_low']:.3f}, {row[f'{column}_high']:.3f}]"
            cells.append(text)
        lines.append(f"| {_name(row['training'], 'markdown')} | {' | '.join(cells)} |")
    return "\n".join(lines)


def save_figure(rows: Sequence[Mapping[str, Any]], columns: Sequence[str], path: str | os.PathLike[str]) -> None:
    """One line per training, one marker with its interval per column.

    Args:
        rows: of ``TrainingReport.rows``.
        columns: which scores to show.
        path: PNG file.
    """
    figure = Figure(figsize=(8.5, 1.6 + 0.62 * max(len(rows), 1)), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for place, row in enumerate(rows):
        for number, column in enumerate(columns):
            if row[column] == "":
                continue
            height = place + (number - (len(columns) - 1) / 2) * 0.8 / len(columns)
            color = COLORS[number % len(COLORS)]
            if row[f"{column}_low"] != "":
                axes.plot([row[f"{column}_low"], row[f"{column}_high"]], [height] * 2, color=color, lw=1.3)
            label = shown_name(column, "picture") if place == 0 else None
            axes.plot(row[column], height, "o", color=color, ms=4.5, label=label)
        if place % 2:
            axes.axhspan(place - 0.5, place + 0.5, color="#F4F4F4", zorder=-1)
    axes.set_yticks(range(len(rows)), [_name(row["training"], "picture") for row in rows], fontsize=9)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlim(0, 1)
    axes.set_xlabel("mean foreground Dice, 95 % bootstrap interval over patients", fontsize=9)
    axes.grid(axis="x", color="#E4E4E4", lw=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=4, frameon=False, fontsize=8)
    figure.savefig(path, format="png")


def _name(name: Any, where: str) -> str:
    return shown_name(str(name).replace("_", " "), where)
