# SPDX-License-Identifier: Apache-2.0
"""Draws docs/images/concepts.png: what an attack consists of, with the classes that there are.

python -m benchmarks.concept_picture            # draw, and write docs/concepts.json
python -m benchmarks.concept_picture --check    # exit status 1 where a class is missing on the picture
"""

from __future__ import annotations

import argparse
import inspect
import json
import sys
import textwrap

from benchmarks.doc_tables import DOCS

__all__ = ["PICTURE", "STRUCTURE", "draw", "main", "structure"]

PICTURE = DOCS / "images" / "concepts.png"
STRUCTURE = DOCS / "concepts.json"
PARTS = {
    "Perturbation": "how may the image change, and how far?",
    "Objective": "what does the attacker want?",
    "GradientEstimator": "how does it learn a direction?",
    "Search": "how does it move?",
}
COLORS = ("#e8f1fa", "#fdf0e3", "#e9f5ea", "#f4ecf7")
#: where an attack runs, by room of the package
PLACES = ("transforms", "engines", "handlers", "studies", "audit")


def structure() -> dict[str, list[str]]:
    """Public concrete classes under each part, and the recipes, by name."""
    from monai_adversarial import attacks

    public = {name: item for name in attacks.__all__ if inspect.isclass(item := getattr(attacks, name))}
    found = {}
    for part in PARTS:
        base = public[part]
        members = [name for name, item in public.items() if issubclass(item, base) and item is not base]
        found[part] = sorted(name for name in members if not inspect.isabstract(public[name]))
    recipes = [name for name, item in public.items() if issubclass(item, attacks.Attack) and item is not attacks.Attack]
    functions = [name for name in attacks.recipes.__all__ if inspect.isfunction(getattr(attacks.recipes, name))]
    return {**found, "recipes": sorted({*recipes, *functions})}


def draw(found: dict[str, list[str]]) -> None:
    """Write the picture."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patches import FancyBboxPatch

    figure = Figure(figsize=(12, 8.6), dpi=110, facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, 12), ylim=(0, 8.6))
    axes.axis("off")

    def box(x: float, y: float, width: float, height: float, color: str, line: str = "#445") -> None:
        style = "round,pad=0,rounding_size=0.12"
        axes.add_patch(FancyBboxPatch((x, y), width, height, boxstyle=style, facecolor=color, edgecolor=line, lw=1.2))

    def text(x: float, y: float, words: str, size: float = 10, **options: object) -> None:
        axes.text(x, y, words, fontsize=size, va="top", **{"color": "#223", **options})  # type: ignore[arg-type]

    def arrow(start: tuple[float, float], end: tuple[float, float]) -> None:
        axes.annotate("", xy=end, xytext=start, arrowprops={"arrowstyle": "-|>", "color": "#445", "lw": 1.5})

    width, gap = 2.8, 0.2
    for place, (part, question) in enumerate(PARTS.items()):
        x = 0.1 + place * (width + gap)
        box(x, 4.35, width, 4.1, COLORS[place])
        text(x + width / 2, 8.33, part, 13, ha="center", weight="bold")
        text(x + width / 2, 7.98, question, 8.8, ha="center", style="italic")
        names = found[part]
        size = min(9.0, 9.0 * 16 / max(len(names), 16))
        text(x + 0.15, 7.62, "\n".join(names), size, linespacing=1.35, family="monospace")
        arrow((x + width / 2, 4.35), (6.0 + (place - 1.5) * 0.9, 3.72))
    box(3.5, 2.55, 5.0, 1.17, "#fff8d6")
    text(6.0, 3.6, "Attack", 14, ha="center", weight="bold")
    text(6.0, 3.24, "one loop: evaluate, learn a direction, move", 10, ha="center")
    text(6.0, 2.96, "best point of each sample, budget measured on the finished image", 9, ha="center")
    box(0.1, 2.55, 2.8, 1.17, "#eceff1")
    text(1.5, 3.6, "AttackedModel", 12, ha="center", weight="bold")
    text(1.5, 3.26, "network, inferer, intensity map,\nunits, channels, activation", 9, ha="center")
    arrow((2.9, 3.13), (3.5, 3.13))
    box(9.1, 2.55, 2.8, 1.17, "#eceff1")
    text(10.5, 3.6, "AttackResult", 12, ha="center", weight="bold")
    text(10.5, 3.26, "adversarial image, Dice,\nmeasured budgets, cost", 9, ha="center")
    arrow((8.5, 3.13), (9.1, 3.13))
    box(0.1, 0.1, 8.2, 2.2, "#f7f7f7")
    text(0.25, 2.18, "Recipes: an attack of the literature chooses the four parts", 10.5, weight="bold")
    lines = textwrap.wrap(", ".join(found["recipes"]), 104)
    text(0.25, 1.85, "\n".join(lines), min(9.0, 9.0 * 9 / max(len(lines), 9)), linespacing=1.4, family="monospace")
    box(8.5, 0.1, 3.4, 2.2, "#f7f7f7")
    text(8.65, 2.18, "Where an attack runs", 10.5, weight="bold")
    text(8.65, 1.85, "script\n" + "\n".join(f"monai_adversarial.{place}" for place in PLACES), 9, linespacing=1.4)
    figure.savefig(PICTURE, metadata={"Software": None})


def main(arguments: list[str] | None = None) -> int:
    """Draw, or check."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.concept_picture", description=__doc__)
    parser.add_argument("--check", action="store_true", help="draw nothing; exit status 1 where a class is missing")
    options = parser.parse_args(arguments)
    found = structure()
    if options.check:
        return int(json.loads(STRUCTURE.read_text(encoding="utf-8")) != found)
    draw(found)
    STRUCTURE.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
