# SPDX-License-Identifier: Apache-2.0
"""Dice against queries, for every attack that needs no gradient: the table and the plot of docs/black_box.md.

    python -m benchmarks.query_curve docs/black_box.json --docs

The network is the CT bundle's, the cases are crops of phantoms that no default was chosen on. Each number of queries is
a run of its own, because the steps of an attack depend on how many there will be. Rows that the file has already are
not measured again. Survey entry R19, in 3D.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.doc_tables import DOCS, replace_table
from benchmarks.query_cases import CROP, phantom_crops
from benchmarks.strength import WINDOW, bundle_network
from monai_adversarial.attacks import (
    NES,
    PGD,
    RGF,
    ZOO,
    AdditiveNoise,
    Attack,
    HopSkipJump,
    RandomSearch,
    SAGMAttack,
    SimBADCT,
    SquareAttack,
)
from monai_adversarial.models import AttackedModel
from monai_adversarial.utils.files import replace_when_complete

__all__ = ["ATTACKS", "BASELINE", "main", "plot", "tables"]

PAGE, PLOT = "black_box.md", "images/black_box.png"
EPSILON, QUERIES, SEED, CASES = 8.0, (20, 60), 5000, 2
BASELINE, WHITE_BOX = "random search", "PGD, 20 steps (white box)"
#: largest noise that decisions begin with
START = 200.0
ATTACKS: dict[str, Callable[[int], Attack]] = {
    BASELINE: lambda queries: Attack(AdditiveNoise(EPSILON, units="HU"), search=RandomSearch(), steps=queries),
    "SquareAttack": lambda queries: SquareAttack(EPSILON, "HU", queries),
    "ZOO": lambda queries: ZOO(EPSILON, "HU", queries),
    "NES": lambda queries: NES(EPSILON, "HU", queries),
    "RGF": lambda queries: RGF(EPSILON, "HU", queries),
    "SAGMAttack": lambda queries: SAGMAttack(EPSILON, "HU", queries),
    "SimBADCT": lambda queries: SimBADCT(EPSILON, "HU", queries),
    "HopSkipJump": lambda queries: HopSkipJump(START, "HU", queries),
    WHITE_BOX: lambda queries: PGD(EPSILON, "HU", steps=20),
}


def _jobs(cases: int) -> list[tuple[str, int, int]]:
    """Attack, case and queries of each row."""
    found = []
    for case in range(cases):
        for queries in QUERIES:
            found += [(name, case, queries) for name in ATTACKS if name != WHITE_BOX or queries == QUERIES[0]]
    return found


def measure(model: AttackedModel, name: str, case: int, queries: int, data: Sequence[Any]) -> dict[str, Any]:
    """One row.

    Args:
        model: what is attacked.
        name: of an attack of the table.
        case: number of the phantom.
        queries: of the run.
        data: images and labels.
    """
    began = time.process_time()
    result = ATTACKS[name](queries)(model, *data[case])
    row = {
        "attack": name,
        "case": case,
        "queries": queries,
        "clean": float(result.clean_dice),
        "dice": float(result.adversarial_dice),
        "success": bool(result.success),
        "forwards": result.forwards,
        "backwards": result.backwards,
        "cpu_seconds": time.process_time() - began,
    }
    if name == "HopSkipJump":
        row["rms_hu"] = float(result.budgets["noise_rms"].values)
    return row


def _mean(rows: Sequence[dict[str, Any]], key: str) -> float | None:
    return sum(row[key] for row in rows) / len(rows) if rows else None


def _at(content: dict[str, Any], name: str, queries: int) -> list[dict[str, Any]]:
    return [row for row in content["rows"] if row["attack"] == name and row["queries"] == queries]


def tables(content: dict[str, Any]) -> dict[str, str]:
    """The tables of the page, by the name of their markers.

    Args:
        content: of the JSON file.
    """
    most = max(QUERIES)
    lines = ["| attack | " + " | ".join(f"{queries} queries" for queries in QUERIES) + " | lower than random search |"]
    lines.append("|---" * (2 + len(QUERIES)) + "|")
    baseline = {row["case"]: row["dice"] for row in _at(content, BASELINE, most)}
    for name in ATTACKS:
        if name in (WHITE_BOX, "HopSkipJump"):
            continue
        cells = []
        for queries in QUERIES:
            value = _mean(_at(content, name, queries), "dice")
            cells.append("" if value is None else f"{value:.3f}")
        last = _at(content, name, most)
        lower = sum(row["dice"] < baseline.get(row["case"], float("-inf")) for row in last)
        said = "" if name == BASELINE else f"{lower} of {len(last)} cases"
        lines.append(f"| `{name}` | {' | '.join(cells)} | {said} |".replace(f"`{BASELINE}`", BASELINE))
    clean = _mean(_at(content, BASELINE, most), "clean")
    white = _mean(_at(content, WHITE_BOX, QUERIES[0]), "dice")
    lines.append(f"| {WHITE_BOX} | {' | '.join([f'{white:.3f}' if white is not None else ''] * len(QUERIES))} | |")
    assert clean is not None
    decisions = ["| queries | successes | RMS of the smallest noise that succeeds, HU |", "|---|---|---|"]
    for queries in QUERIES:
        rows = _at(content, "HopSkipJump", queries)
        found = [row for row in rows if row["success"]]
        value = _mean(found, "rms_hu")
        decisions.append(f"| {queries} | {len(found)} of {len(rows)} | {'' if value is None else f'{value:.1f}'} |")
    return {"curve": "\n".join([f"Mean clean Dice {clean:.3f}.", "", *lines]), "decisions": "\n".join(decisions)}


def plot(content: dict[str, Any], file: Path) -> None:
    """Mean Dice against queries.

    Args:
        content: of the JSON file.
        file: PNG.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    for name in ATTACKS:
        if name in (WHITE_BOX, "HopSkipJump"):
            continue
        points = [(queries, _mean(_at(content, name, queries), "dice")) for queries in QUERIES]
        known = [(x, y) for x, y in points if y is not None]
        style = "--" if name == BASELINE else "-"
        axes.plot([x for x, _ in known], [y for _, y in known], style, marker="o", label=name)
    white = _mean(_at(content, WHITE_BOX, QUERIES[0]), "dice")
    if white is not None:
        axes.axhline(white, color="gray", linestyle=":", label=WHITE_BOX)
    axes.set_xscale("log")
    axes.set_xticks(QUERIES, [str(queries) for queries in QUERIES])
    axes.minorticks_off()
    axes.set_xlabel("queries of a case")
    axes.set_ylabel("mean Dice over organs")
    axes.set_title(f"CT phantoms, {EPSILON:g} HU per voxel, crops of {' x '.join(map(str, CROP))} voxels")
    axes.legend(fontsize=8)
    figure.savefig(file, dpi=110)


def main(arguments: list[str] | None = None) -> int:
    """Measure what is missing, and renew the page."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.query_curve", description=__doc__)
    parser.add_argument("output", type=Path)
    parser.add_argument("--docs", action="store_true", help=f"renew the tables and the plot of docs/{PAGE}")
    parser.add_argument("--cases", type=int, default=CASES)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop after about as many of CPU time")
    options = parser.parse_args(arguments)
    content: dict[str, Any] = {"epsilon_hu": EPSILON, "crop": list(CROP), "seed": SEED, "rows": []}
    if options.output.exists():
        content = json.loads(options.output.read_text(encoding="utf-8"))
    known = {(row["attack"], row["case"], row["queries"]) for row in content["rows"]}
    missing = [job for job in _jobs(options.cases) if job not in known]
    if missing and options.seconds > 0:
        model = AttackedModel(bundle_network("cpu"), intensity=WINDOW)
        data = phantom_crops(options.cases, SEED)
        began = time.process_time()
        for job in missing:
            if time.process_time() - began > options.seconds:
                break
            content["rows"].append(measure(model, *job, data))
            print(content["rows"][-1], flush=True)
            with replace_when_complete(options.output) as file:
                file.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    if options.docs:
        page = DOCS / PAGE
        text = page.read_text(encoding="utf-8")
        for name, table in tables(content).items():
            text = replace_table(text, name, table)
        page.write_text(text, encoding="utf-8")
        plot(content, DOCS / PLOT)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
