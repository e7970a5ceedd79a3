# SPDX-License-Identifier: Apache-2.0
"""Accuracy against queries, of attacks that see scores alone (Zhang 2023 and its rivals)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from benchmarks.claims import outcome, over_seeds
from benchmarks.experiments.subjects import Subjects, right_answers, trained_on
from benchmarks.survey_defense_claims import attacked_model, xrays
from monai_adversarial.attacks import NES, ZOO, AdditiveNoise, Attack, RandomSearch, SAGMAttack, SquareAttack

__all__ = ["draw_queries", "query_efficiency"]

BUDGET, QUERIES = 4 / 255, (25, 100, 400)
#: blocks along each axis of the noise that is estimated, chosen on a seed that is not shown; 4 are too few here
GRID = 7
BASELINE = "random search"
ATTACKS: dict[str, Callable[[int], Attack]] = {
    "SAGM": lambda queries: SAGMAttack(BUDGET, queries=queries, grid=GRID),
    "ZOO": lambda queries: ZOO(BUDGET, queries=queries, grids=GRID),
    "NES": lambda queries: NES(BUDGET, queries=queries, grid=GRID),
    "Square": lambda queries: SquareAttack(BUDGET, queries=queries),
    BASELINE: lambda queries: Attack(AdditiveNoise(BUDGET), "cross_entropy", RandomSearch(), steps=queries),
}


def query_efficiency(
    data: Subjects = xrays, seeds: Sequence[int] = (0, 1, 2), queries: Sequence[int] = QUERIES
) -> dict[str, Any]:
    """Accuracy that is left after so many queries for each image, which all were right before.

    Source: Zhang et al. 2023 for SAGM, of which the abstract was read and which is a reconstruction here; Dice against
    queries on phantoms is in docs/black_box.md.

    Survey entry: R19 (adapted).
    """
    rows: list[dict[str, Any]] = []
    for seed in seeds:
        network = trained_on(*data(seed)["train"], seed)
        image, label = right_answers(data(seed)["attacked"], network)
        for name, make in ATTACKS.items():
            for number in queries:
                result = make(number)(attacked_model(network), image, label)
                left = round(float(result.adversarial_score.mean()), 4)
                rows.append({"seed": seed, "attack": name, "queries": number, "accuracy": left})
        print(rows[-1], flush=True)
    return _judged(rows, seeds, queries)


def _judged(rows: Sequence[dict[str, Any]], seeds: Sequence[int], queries: Sequence[int]) -> dict[str, Any]:
    left = {(row["attack"], row["seed"], row["queries"]): row["accuracy"] for row in rows}
    most = max(queries)
    seen = "; ".join(
        f"{name}: {', '.join(f'{mean(left[name, seed, n] for seed in seeds):.2f}' for n in sorted(queries)[:-1])}"
        f"{', ' if len(queries) > 1 else ''}{over_seeds(left[name, seed, most] for seed in seeds)}"
        for name in ATTACKS
    )
    return outcome(
        "SAGM leaves less accuracy than ZOO, NES and Square after as many queries",
        "Zhang 2023 in the survey",
        [
            left["SAGM", seed, number] < left[other, seed, number]
            for seed in seeds
            for number in queries
            for other in ("ZOO", "NES", "Square")
        ],
        f"accuracy after {', '.join(map(str, sorted(queries)))} queries: {seen}",
        f"chest X-rays that were right, budget 4 of 255, {len(seeds)} seeds; SAGM is a reconstruction; "
        f"{GRID} x {GRID} blocks of noise for all but Square",
        list(rows),
    )


def draw_queries(content: dict[str, Any], file: Path) -> None:
    """Accuracy against queries, means over the seeds and their range.

    Args:
        content: of :func:`query_efficiency`.
        file: PNG.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.4, 3.2), layout="constrained")
    axes = figure.subplots()
    queries = sorted({row["queries"] for row in content["numbers"]})
    for name in ATTACKS:
        values = [
            [row["accuracy"] for row in content["numbers"] if row["attack"] == name and row["queries"] == number]
            for number in queries
        ]
        (line,) = axes.plot(queries, [mean(one) for one in values], marker="o", markersize=4, label=name)
        axes.fill_between(queries, [min(one) for one in values], [max(one) for one in values], alpha=0.12)
        line.set_linestyle("--" if name == BASELINE else "-")
    axes.set(xscale="log", xlabel="queries for each image", ylabel="accuracy left", ylim=(0, 1.02), xticks=queries)
    axes.set_xticklabels([str(number) for number in queries])
    axes.minorticks_off()
    axes.legend(frameon=False)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=110)
