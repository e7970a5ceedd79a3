# SPDX-License-Identifier: Apache-2.0
"""Tables and plot of ``docs/benchmarks.md``, made of the JSON files in ``docs/benchmarks/``.

``python -m benchmarks --docs`` measures, writes those files and calls this; ``python -m benchmarks.benchmark_docs``
makes page and plot anew from the files that are there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.doc_tables import DOCS, replace_table
from benchmarks.parts import Record, read_records
from benchmarks.tables import Table
from monai_adversarial.utils.files import replace_when_complete

__all__ = ["FIGURE", "PAGE", "plot", "renew", "with_tables"]

PAGE, FIGURE, FOLDER = "benchmarks.md", "benchmarks.png", "benchmarks"
OURS, PEER, PLAIN = "#0b6e4f", "#8a8d91", "#c8553d"


def with_tables(text: str, folder: Path) -> str:
    """The page with every table made anew from the JSON files in ``folder``.

    Raises:
        ValueError: for a table that has no pair of markers in the page.
    """
    for record in read_records(folder).values():
        for table in record.tables:
            text = replace_table(text, table.name, record.shown(table))
    return text


def plot(records: Mapping[str, Record], path: Path) -> None:
    """Four panels: step against peers, Dice over CPU seconds, volumes over classes, time over windows.

    A panel whose part was not measured says so.
    """
    from matplotlib.figure import Figure

    tables = {table.name: table for record in records.values() for table in record.tables}
    figure = Figure(figsize=(12.5, 9.0), layout="constrained")
    panels: list[tuple[str, str, Callable[[Any, Table], None]]] = [
        ("peers", "A step, CPU time / floor", _bars),
        ("equal_cost", "Mean organ Dice over CPU seconds, 8 HU", _curves),
        ("volumes", "Peak extra memory in float32 volumes (V)", _volumes),
        ("window_count", "CPU seconds of a default step over windows", _windows),
    ]
    for axes, (name, title, draw) in zip(figure.subplots(2, 2).flat, panels, strict=True):
        axes.set_title(title, fontsize=11, loc="left")
        axes.spines[["top", "right"]].set_visible(False)
        if name in tables and tables[name].rows:
            draw(axes, tables[name])
        else:
            axes.set_axis_off()
            axes.text(0.5, 0.5, "not measured", ha="center", transform=axes.transAxes)
    with replace_when_complete(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)


def _bars(axes: Any, table: Table) -> None:
    rows = [
        (name, ratio)
        for name, ratio in zip(table.column("attack"), table.column("step, CPU ratio"), strict=True)
        if "morph" not in name and "elastic" not in name and "bias" not in name
    ][::-1]
    names, ratios = zip(*rows, strict=True)
    colors = [OURS if name.startswith("ours") else PEER for name in names]
    bars = axes.barh(names, ratios, color=colors, height=0.72)
    axes.bar_label(bars, fmt="%.2f", padding=3, fontsize=8)
    axes.axvline(1.0, color="black", linewidth=0.8, linestyle=":")
    axes.tick_params(axis="y", labelsize=8)
    axes.set_xlabel("dotted: one forward + one backward to the input, frozen, float32")


def _curves(axes: Any, table: Table) -> None:
    dice = [column.name for column in table.columns if column.name.startswith("Dice after ")]
    seconds = [column.name for column in table.columns if column.name.startswith("CPU s of ")]
    for number, row in enumerate(table.rows):
        cells = dict(zip((column.name for column in table.columns), row, strict=True))
        ours = str(cells["attack"]).startswith("ours")
        axes.plot(
            [cells[name] for name in seconds],
            [cells[name] for name in dice],
            marker="o" if ours else "^sDvPX*<>"[number % 9],
            color=OURS if ours else None,
            linestyle="-" if number == 0 or not ours else "--",
            linewidth=2.2 if ours else 1.1,
            markersize=5,
            label=cells["attack"],
        )
    axes.set_xscale("log")
    for labels in (axes.xaxis.set_major_formatter, axes.xaxis.set_minor_formatter):
        labels("{x:g}")
    axes.set_xlabel(f"CPU seconds of a call ({', '.join(name.removeprefix('Dice after ') for name in dice)} passes)")
    axes.set_ylabel("Dice after attack (lower is stronger)")
    # Below: inside it would lie over the strongest curves.
    axes.legend(fontsize=7, frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.13), ncols=2)


def _volumes(axes: Any, table: Table) -> None:
    classes = [str(one) for one in table.column("classes")]
    for offset, (method, color) in enumerate((("inference", PEER), ("ours", OURS), ("autograd", PLAIN))):
        places = [place + (offset - 1) * 0.27 for place in range(len(classes))]
        bars = axes.bar(places, table.column(f"{method}, V"), width=0.25, color=color, label=method)
        axes.bar_label(bars, fmt="%.0f", fontsize=8)
    axes.set_xticks(range(len(classes)), classes)
    axes.set_yscale("log")
    axes.set_xlabel("classes")
    axes.legend(fontsize=8, frameon=False)


def _windows(axes: Any, table: Table) -> None:
    counts = [int(one) for one in table.column("windows")]
    seconds = table.column("CPU seconds of a step")
    axes.plot(counts, seconds, marker="o", color=OURS, linewidth=2, label="measured")
    line = [seconds[0] * count / counts[0] for count in counts]
    axes.plot(counts, line, color=PEER, linestyle=":", label="in proportion to the first")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xticks(counts, [str(count) for count in counts])
    axes.minorticks_off()
    axes.set_xlabel("windows")
    axes.legend(fontsize=8, frameon=False)


def renew(docs: Path) -> None:
    """Rewrite page and plot below ``docs``."""
    page = docs / PAGE
    text = with_tables(page.read_text(encoding="utf-8"), docs / FOLDER)
    with replace_when_complete(page) as temporary:
        temporary.write_text(text, encoding="utf-8")
    plot(read_records(docs / FOLDER), docs / "images" / FIGURE)


if __name__ == "__main__":
    renew(DOCS)
