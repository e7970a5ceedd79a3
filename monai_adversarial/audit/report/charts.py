# SPDX-License-Identifier: Apache-2.0
"""The charts of a report."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from monai_adversarial.audit.report.figures import number, significant, value_of
from monai_adversarial.audit.report.names import shortened, shown
from monai_adversarial.audit.report.svg import AFTER, CLEAN, GRID, INK, PAPER, QUIET, RANDOM, SERIES, chart

__all__ = ["LARGEST_CURVES", "NATURAL", "curve_chart", "heat_map", "loss_chart", "overview_chart"]

# Families of what happens without an attacker.
NATURAL = ("noise", "natural variation")
MARKS = {
    "clean": ("clean", CLEAN, "o", 9.0),
    "random": ("random change of equal size", RANDOM, "D", 5.0),
    "adversarial": ("worst found", AFTER, "v", 7.5),
}
LINES = ("-", (0, (4, 2)), (0, (1, 1.5)), "-.")
# Curves of more cases than that hide each other.
LARGEST_CURVES = 20
# Inches per line of text.
LINE = 0.27


def overview_chart(rows: Sequence[Mapping[str, Any]], results: Mapping[str, Any], against: str, name: str) -> Markup:
    """Mean Dice of clean, randomly changed and worst image, per row, rows of natural variation beside adversarial ones.

    Args:
        rows: of the plan, with a result.
        results: row -> result against one reference.
        against: what Dice compares with, in words.
        name: prefix of identifiers.
    """
    groups = [
        ("Natural variation: nobody attacks", [row for row in rows if row["family"] in NATURAL]),
        ("Attacks", [row for row in rows if row["family"] not in (*NATURAL, "clean")]),
    ]
    groups = [(title, members) for title, members in groups if members]
    places: list[tuple[float, Mapping[str, Any]]] = []
    heads: list[tuple[float, str]] = []
    at = 0.0
    for title, members in groups:
        heads.append((at, title))
        for row in members:
            at += 1
            places.append((at, row))
        at += 1.4

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        for y, row in places:
            values = []
            for image, (_, color, marker, size) in MARKS.items():
                found = results[row["name"]]["mean"].get(image, {}).get("dice")
                mean = value_of(found)
                if mean is None:
                    continue
                values.append(mean)
                _whisker(axes, found, mean, y, color)
                axes.plot(mean, y, marker, color=color, markersize=size, markeredgecolor=PAPER, zorder=4)
            if values:
                axes.plot([min(values), max(values)], [y, y], color=GRID, linewidth=4, solid_capstyle="round", zorder=1)
            else:
                axes.text(0.01, y, "not defined", va="center", fontsize=8, color=QUIET)
        for y, title in heads:
            axes.text(0.0, y, title, va="center", fontsize=8.5, fontweight="bold", color=QUIET)
        axes.set_yticks([y for y, _ in places], [shortened(row["title"]) for _, row in places])
        axes.set_ylim(at - 0.8, -0.6)
        axes.set_xlim(-0.02, 1.02)
        axes.set_xlabel(f"mean Dice with the {against}")
        axes.grid(axis="y", visible=False)
        axes.tick_params(length=0)
        axes.spines["left"].set_visible(False)
        handles = [
            Line2D([], [], color=color, marker=marker, linestyle="", markersize=size, label=title)
            for title, color, marker, size in MARKS.values()
        ]
        axes.legend(handles=handles, loc="lower left", bbox_to_anchor=(0, 1), ncols=3, borderpad=0, handletextpad=0.2)

    title = f"Mean Dice with the {against} of clean, randomly changed and worst image per row; figures are in the cards"
    return chart(draw, name, title, (5.2, LINE * at + 0.6))


def _whisker(axes: Axes, found: Mapping[str, Any], mean: float, y: float, color: str) -> None:
    low, high = value_of(found, "low"), value_of(found, "high")
    if low is not None and high is not None:
        ends = [[max(mean - low, 0)], [max(high - mean, 0)]]
        axes.errorbar(mean, y, xerr=ends, color=color, linewidth=1.2, capsize=2.5, zorder=3)


def curve_chart(
    series: str, curves: Mapping[str, Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]]], against: str, name: str
) -> Markup:
    """Mean Dice over the budget of one series of rows, with intervals.

    Args:
        series: title.
        curves: title of an audit -> rows and their results, in order of the budget.
        against: what Dice compares with, in words.
        name: prefix of identifiers.
    """
    several = len(curves) > 1

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        units = ""
        for position, (audit, points) in enumerate(curves.items()):
            line, color = LINES[position % len(LINES)], SERIES[position % len(SERIES)]
            at = [row["budget"]["value"] for row, _ in points]
            units = points[0][0]["budget"]["units"]
            whose = f"{shortened(audit, 24)}: " if several else ""
            clean = value_of(points[0][1]["mean"].get("clean", {}).get("dice"))
            if clean is not None:
                axes.axhline(clean, color=CLEAN, linewidth=1.2, linestyle=line, label=f"{whose}clean")
            for image, shade, marker in (("random", RANDOM, "D"), ("adversarial", color, "v")):
                found = [result["mean"].get(image, {}).get("dice") for _, result in points]
                means = [value_of(one) for one in found]
                if all(mean is None for mean in means):
                    continue
                drawn = [math.nan if mean is None else mean for mean in means]
                label = f"{whose}{MARKS[image][0]}"
                axes.plot(
                    at, drawn, marker=marker, color=shade, linestyle=line, linewidth=1.6, markersize=5, label=label
                )
                low = [math.nan if (v := value_of(one, "low")) is None else v for one in found]
                high = [math.nan if (v := value_of(one, "high")) is None else v for one in found]
                axes.fill_between(at, low, high, color=shade, alpha=0.18, linewidth=0)
        axes.set_xlim(left=0)
        axes.set_ylim(-0.02, 1.02)
        axes.set_xlabel(f"budget, {shown(units)}")
        axes.set_ylabel("mean Dice")
        axes.set_title(shortened(series, 48))
        axes.legend(loc="upper left", bbox_to_anchor=(0, -0.2), ncols=1 if several else 3, borderpad=0)

    return chart(draw, name, f"Mean Dice with the {against} over the budget of {shown(series)}", (4.4, 2.7))


def heat_map(
    rows: Sequence[Mapping[str, Any]],
    organs: Sequence[str],
    score: Callable[[Mapping[str, Any], str], float | None],
    against: str,
    name: str,
) -> Markup:
    """Mean Dice per row and organ as a map of colors with figures.

    Args:
        rows: of the plan, with a result.
        organs: names.
        score: mean Dice of row and organ, None where it is not defined.
        against: what Dice compares with, in words.
        name: prefix of identifiers.
    """
    values = np.array([[np.nan if (v := score(row, organ)) is None else v for organ in organs] for row in rows])
    colors = colormaps["cividis"]

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        mesh = axes.pcolormesh(np.ma.masked_invalid(values), cmap=colors, vmin=0, vmax=1, edgecolors=PAPER, linewidth=1)
        for y, of_row in enumerate(values):
            for x, value in enumerate(of_row):
                known = bool(np.isfinite(value))
                shade = INK if not known else "#000000" if _luminance(colors(value)) > 0.18 else "#ffffff"
                text = number(value, 2) if known else "n. d."
                axes.text(x + 0.5, y + 0.5, text, ha="center", va="center", fontsize=8, color=shade)
        axes.set_yticks(np.arange(len(rows)) + 0.5, [shortened(row["title"]) for row in rows])
        axes.set_xticks(
            np.arange(len(organs)) + 0.5, [shortened(organ, 24) for organ in organs], rotation=35, ha="left"
        )
        axes.xaxis.tick_top()
        axes.invert_yaxis()
        axes.grid(visible=False)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        bar = figure.colorbar(mesh, ax=axes, fraction=0.03, pad=0.02)
        bar.set_label(f"Dice with the {shown(against)}", fontsize=8)
        bar.outline.set_visible(False)

    title = f"Mean Dice with the {against} after each row, per organ; the tables hold the same figures"
    return chart(draw, name, title, (1.2 + 0.58 * len(organs), 0.5 + LINE * 1.1 * len(rows)), wide=True)


def _luminance(color: Sequence[float]) -> float:
    """Relative luminance of a color, by which text on it is chosen (WCAG 2)."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in color[:3]]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def loss_chart(row: Mapping[str, Any], cases: Sequence[Mapping[str, Any]], name: str) -> Markup:
    """What the attack saw while it searched: its objective at every step, a line per case.

    Args:
        row: of the plan.
        cases: with an ``objective_history``.
        name: prefix of identifiers.
    """
    drawn = cases[:LARGEST_CURVES]

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        for case in drawn:
            history = [math.nan if v is None else float(v) for v in case["objective_history"]]
            axes.plot(range(len(history)), history, color=AFTER, alpha=0.65, linewidth=1.3)
        axes.set_xlabel("step")
        axes.set_ylabel("objective")
        axes.set_title(shortened(row["title"], 38))
        axes.locator_params(axis="x", integer=True, nbins=6)
        axes.locator_params(axis="y", nbins=5)

    first = next((v for v in cases[0]["objective_history"] if v is not None), None)
    title = (
        f"Objective over the steps of {shown(row['title'])}, {len(drawn)} cases, from {significant(first)} in the first"
    )
    return chart(draw, name, title, (3.0, 1.7))
