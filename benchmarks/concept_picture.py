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
from collections.abc import Sequence
from itertools import pairwise

from benchmarks.doc_tables import DOCS

__all__ = ["PICTURE", "STRUCTURE", "draw", "main", "structure"]

PICTURE = DOCS / "images" / "concepts.png"
STRUCTURE = DOCS / "concepts.json"
PARTS = {
    "Perturbation": ("how may the image\nchange, and how far?", "#e8f1fa"),
    "Objective": ("what does the\nattacker want?", "#fdf0e3"),
    "GradientEstimator": ("how does it learn\na direction?", "#e9f5ea"),
    "Search": ("how does it\nmove?", "#f4ecf7"),
}
#: the parts one above the other, so that both columns are about as long
COLUMNS = (("Perturbation", "GradientEstimator"), ("Objective", "Search"))
#: left, width, title, words and color of what an attack stands between
FLOW = (
    (8, 204, "AttackedModel", "network, inferer,\nintensity, units,\nchannels", "#eceff1"),
    (243, 234, "Attack", "one loop: evaluate,\nlearn a direction,\nmove", "#fff8d6"),
    (508, 204, "AttackResult", "image, Dice,\nmeasured budgets,\ncost", "#eceff1"),
)
#: where an attack runs, by room of the package
PLACES = ("transforms", "engines", "handlers", "studies", "audit")
# Pixels of a picture as wide as a page of text. A phone shows it at half of that, and halves the letters too.
WIDTH, EDGE, GAP = 720, 8, 34
LETTERS, ROW, HEAD, BELOW = 17.5, 22, 46, 12
FLOW_HEIGHT, QUESTION = 136, 52


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
    """Write the picture: as wide as a page, and as long as the names need at a size that can be read on a phone."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patches import FancyBboxPatch

    inches = 100
    recipes = textwrap.wrap(", ".join(found["recipes"]), 62, break_long_words=False)
    places = textwrap.wrap("script, " + ", ".join(f"monai_adversarial.{place}" for place in PLACES), 62)
    tops, ends = {}, []
    for parts in COLUMNS:
        top = EDGE + FLOW_HEIGHT + GAP
        for part in parts:
            tops[part] = top
            top += _height(found[part], QUESTION) + GAP / 2
        ends.append(top)
    lists = {"Recipes: attacks of the literature, of these four": recipes, "Where an attack runs": places}
    height = max(ends) + sum(_height(lines) + GAP / 2 for lines in lists.values())

    figure = Figure(figsize=(WIDTH / inches, height / inches), dpi=130, facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, WIDTH), ylim=(height, 0))
    axes.axis("off")

    def box(x: float, y: float, width: float, tall: float, color: str) -> None:
        style = "round,pad=0,rounding_size=8"
        axes.add_patch(FancyBboxPatch((x, y), width, tall, boxstyle=style, facecolor=color, edgecolor="#445", lw=1.2))

    def text(x: float, y: float, words: str, pixels: float = LETTERS, **options: object) -> None:
        # Line by line on its baseline: the tops of words lie where their letters are, and beside others look askew.
        for place, line in enumerate(words.splitlines()):
            known = {"color": "#223", "fontsize": pixels * 72 / inches, "va": "baseline"}
            axes.text(x, y + pixels * (0.9 + 1.25 * place), line, **{**known, **options})  # type: ignore[arg-type]

    def rows(x: float, y: float, lines: Sequence[str]) -> None:
        for place, line in enumerate(lines):
            text(x, y + ROW * place, line, LETTERS - 0.5, family="monospace")

    def arrow(start: tuple[float, float], end: tuple[float, float], head: str = "-|>") -> None:
        line = {"arrowstyle": head, "color": "#445", "lw": 1.5, "shrinkA": 0, "shrinkB": 0}
        axes.annotate("", xy=end, xytext=start, arrowprops=line)

    for x, width, title, words, color in FLOW:
        box(x, EDGE, width, FLOW_HEIGHT, color)
        text(x + width / 2, EDGE + 12, title, 21, ha="center", weight="bold")
        text(x + width / 2, EDGE + HEAD + 4, words, ha="center")
    for (x, width, *_), (after, *_) in pairwise(FLOW):
        arrow((x + width, EDGE + FLOW_HEIGHT / 2), (after, EDGE + FLOW_HEIGHT / 2))
    wide = (WIDTH - 2 * EDGE - GAP) / 2
    # One line between the columns gathers the four parts, and crosses no name.
    arrow((WIDTH / 2, max(tops.values()) + HEAD / 2), (WIDTH / 2, EDGE + FLOW_HEIGHT))
    for column, parts in enumerate(COLUMNS):
        x = EDGE + column * (wide + GAP)
        for part in parts:
            question, color = PARTS[part]
            middle = tops[part] + HEAD / 2
            arrow((x if column else x + wide, middle), (WIDTH / 2, middle), "-")
            box(x, tops[part], wide, _height(found[part], QUESTION), color)
            text(x + wide / 2, tops[part] + 12, part, 21, ha="center", weight="bold")
            text(x + wide / 2, tops[part] + HEAD - 6, question, ha="center", style="italic")
            rows(x + 14, tops[part] + HEAD + QUESTION, found[part])
    top = max(ends)
    for title, lines in lists.items():
        box(EDGE, top, WIDTH - 2 * EDGE, _height(lines), "#f7f7f7")
        text(EDGE + 14, top + 12, title, 19, weight="bold")
        rows(EDGE + 14, top + HEAD, lines)
        top += _height(lines) + GAP / 2
    figure.savefig(PICTURE, metadata={"Software": None})


def _height(lines: Sequence[str], above: float = 0) -> float:
    """Of a box with a title, so many lines, and a space above them."""
    return HEAD + above + ROW * len(lines) + BELOW


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
