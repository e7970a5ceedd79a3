# SPDX-License-Identifier: Apache-2.0
"""One figure over all attacks: Dice of clean, randomly changed and adversarial images."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from monai_adversarial.studies.measurement import CLEAN_PREDICTION, LABEL
from monai_adversarial.utils.shown_names import shown_name

__all__ = ["SECTIONS", "save_overview"]

# Parts of the summary, by what their cases were scored against.
SECTIONS = {LABEL: "attacks", CLEAN_PREDICTION: "against_clean_prediction"}
SERIES = (
    ("clean", "clean", "#4C78A8"),
    ("random", "random change of equal size", "#A7A9AC"),
    ("adversarial", "adversarial", "#D1495B"),
)
ORIGINAL = ("adversarial_original_label", "adversarial, against the unmoved label", "#EDAE49")
LONGEST_NAME = 40
TITLE = "Segmentation before and after attack"
# Inches: a line of text, the edge of the figure, and the room for the axis and the title.
LINE, EDGE, LEFT, TOP = 0.19, 0.08, 0.6, 0.5


def save_overview(
    groups: Mapping[str, Mapping[str, Sequence[Mapping[str, Any]]]],
    summary: Mapping[str, Any],
    path: str | os.PathLike[str],
) -> None:
    """Bar chart of mean organ Dice per attack with 95 % bootstrap intervals and a dot per case; cases without a label
    have bars of their own.

    Args:
        groups: reference -> attack -> records.
        summary: of ``AttackReport``.
        path: PNG file.
    """
    bars = [
        (_title(attack, reference), summary[SECTIONS[reference]][attack], found)
        for reference, attacks in groups.items()
        for attack, found in attacks.items()
    ]
    geometric = any(found["geometric"] for _, found, _ in bars)
    series = [*SERIES, ORIGINAL] if geometric else list(SERIES)
    lines = 1 + max(title.count("\n") for title, _, _ in bars)
    columns = 3 if len(series) == 3 else 2
    legend = LINE * -(-len(series) // columns) + EDGE
    across, up, bottom = max(6.4, 2.2 + 1.7 * len(bars)), 4.4, legend + LINE * lines + EDGE
    figure = Figure(figsize=(across, up), dpi=150)
    FigureCanvasAgg(figure)
    # Places that are known: a layout that is searched for draws all twice.
    inside = (LEFT / across, bottom / up, 1 - (LEFT + EDGE) / across, 1 - (bottom + TOP) / up)
    axes = figure.add_axes(inside)
    width = 0.8 / len(series)
    for position, (image, title, color) in enumerate(series):
        labelled = False
        for column, (_, entry, records) in enumerate(bars):
            found = entry.get(f"{image}_dice")
            if found is None or found["mean"] is None:
                continue
            x = column + (position - (len(series) - 1) / 2) * width
            axes.bar(x, found["mean"], width * 0.92, color=color, label=None if labelled else title, zorder=2)
            labelled = True
            if found["low"] is not None:
                ends = [[max(found["mean"] - found["low"], 0)], [max(found["high"] - found["mean"], 0)]]
                axes.errorbar(x, found["mean"], ends, color="#222222", linewidth=1, capsize=2.5, zorder=4)
            values = [r["mean"][image]["dice"] for r in records if r["mean"][image]["dice"] is not None]
            spread = np.linspace(-0.22, 0.22, len(values)) * width if len(values) > 1 else [0.0]
            axes.scatter(
                x + np.asarray(spread), values, s=9, color="white", edgecolor="#333333", linewidth=0.6, zorder=3
            )
            top = max([found["mean"], found["high"] or 0, *values])
            axes.text(x, top + 0.02, f"{found['mean']:.2f}", ha="center", va="bottom", fontsize=8, color="#222222")
    cases = max(len(records) for _, _, records in bars)
    axes.set_xticks(range(len(bars)), [title for title, _, _ in bars])
    axes.set_xlim(-0.6, len(bars) - 0.4)
    axes.set_ylim(0, 1.1)
    axes.set_yticks(np.linspace(0, 1, 6))
    axes.set_ylabel("mean organ Dice")
    axes.grid(axis="y", color="#DDDDDD", linewidth=0.8, zorder=0)
    axes.spines[["top", "right"]].set_visible(False)
    note = f"{cases} case{'s' * (cases > 1)}, dots: cases" + (
        ", whiskers: 95 % bootstrap interval" if cases > 1 else ""
    )
    # One above the other: beside each other they do not fit on the figure of one attack.
    for text, line, look in ((TITLE, 1, {"fontsize": 11, "fontweight": "bold"}), (note, 0, {"fontsize": 8})):
        place = (LEFT / across, 1 - (TOP - EDGE - LINE * line) / up)
        figure.text(*place, text, va="bottom", color="#222222" if line else "#555555", **look)
    figure.legend(
        loc="upper center", bbox_to_anchor=(0.5, legend / up), ncols=columns, frameon=False, fontsize=8.5, borderpad=0
    )
    figure.savefig(path, format="png")


def _title(attack: str, reference: str) -> str:
    name = shown_name(attack.replace("_", " "), "picture", LONGEST_NAME)
    return name if reference == LABEL else f"{name}\n(no label)"
