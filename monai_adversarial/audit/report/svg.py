# SPDX-License-Identifier: Apache-2.0
"""Matplotlib figures as SVG within a page: its fonts, its light and dark colors, text as text."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib
from markupsafe import Markup, escape
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

__all__ = ["AFTER", "CLEAN", "GRID", "INK", "PAPER", "QUIET", "RANDOM", "SERIES", "chart"]

# What a chart is drawn in, and the variable of the style sheet that takes its place. Blue, gray and vermilion, with
# markers of their own, are told apart by color-blind readers (Okabe and Ito, 2008).
INK, QUIET, GRID, PAPER = "#1a2129", "#5a6672", "#dde2e7", "#fffffe"
CLEAN, RANDOM, AFTER = "#0072b2", "#767f88", "#c44601"
SERIES = (AFTER, "#7b4fa3", "#00795c", "#a06a00")
VARIABLES = {
    INK: "ink",
    QUIET: "quiet",
    GRID: "line",
    PAPER: "paper",
    CLEAN: "clean",
    RANDOM: "random",
    AFTER: "after",
    SERIES[1]: "second",
    SERIES[2]: "third",
    SERIES[3]: "fourth",
}
STYLE: dict[Any, Any] = {
    "text.usetex": False,
    "font.family": "sans-serif",
    "svg.fonttype": "none",
    "svg.hashsalt": "monai_adversarial",
    # A name may hold dollar signs.
    "text.parse_math": False,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": QUIET,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.color": QUIET,
    "ytick.color": QUIET,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "legend.frameon": False,
    "legend.fontsize": 8.5,
}


@contextmanager
def _drawing() -> Iterator[None]:
    with matplotlib.rc_context(STYLE), warnings.catch_warnings():
        # Text stays text: the browser has the characters that matplotlib's own font lacks.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        warnings.filterwarnings("ignore", message="Matplotlib currently does not support")
        yield


def chart(
    draw: Callable[[Figure], None], name: str, title: str, size: tuple[float, float], wide: bool = False
) -> Markup:
    """Draw a figure and return it as an ``<svg>`` element that takes the colors of the page.

    Args:
        draw: draws into the figure, in the colors of this file.
        name: unique on the page, letters and hyphens: prefix of the identifiers within.
        title: what the picture shows, in a sentence, for those who do not see it.
        size: width and height in inches; what does not fit is not cut off.
        wide: whether it scrolls within its box rather than becoming smaller than its text can be read.
    """
    stream = io.StringIO()
    with _drawing():
        figure = Figure(figsize=size)
        FigureCanvasSVG(figure)
        draw(figure)
        figure.patch.set_alpha(0)
        for axes in figure.axes:
            axes.patch.set_alpha(0)
        figure.savefig(stream, format="svg", bbox_inches="tight", pad_inches=0.04, metadata={"Date": None})
    return Markup(_for_page(stream.getvalue(), name, title, wide))


def _own_identifiers(svg: str, name: str) -> str:
    """Identifiers that are referred to, under a prefix; matplotlib defines the same marker more than once."""
    wanted = set(re.findall(r'(?:href="#|url\(#)([\w.-]+)', svg))

    def first(found: re.Match[str]) -> str:
        if found.group(1) not in wanted:
            return ""
        wanted.remove(found.group(1))
        return f' id="{name}-{found.group(1)}"'

    svg = re.sub(r' id="([\w.-]+)"', first, svg)
    return re.sub(r'(?<=href="#)|(?<=url\(#)', f"{name}-", svg)


def _for_page(svg: str, name: str, title: str, wide: bool) -> str:
    """What matplotlib wrote, as part of a page: identifiers of its own, the page's colors and font."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, count=1, flags=re.DOTALL)
    svg = re.sub(r"<!--.*?-->\n?", "", svg, flags=re.DOTALL)
    svg = _own_identifiers(svg, name)
    # The second is how matplotlib before 3.10 says it.
    svg = re.sub(r"font-family: [^;\"]*", "font-family: var(--sans)", svg)
    svg = re.sub(r"(font: [^;\"]*?px) [^;\"]*", r"\1 var(--sans)", svg)
    for color, variable in VARIABLES.items():
        svg = svg.replace(color, f"var(--{variable})")
    inner = svg.index(">") + 1
    view = re.search(r'viewBox="([^"]+)"', svg[:inner])
    width = float(view.group(1).split()[2]) if view else 0.0
    return (
        f'<svg class="chart" role="img" aria-label="{escape(title)}" viewBox="{view.group(1) if view else ""}" '
        f'style="max-width:{width * 1.25:.0f}px{f";min-width:{width:.0f}px" if wide else ""}" xmlns:xlink="http://www.w3.org/1999/xlink">{svg[inner:].rstrip()}'
    )
