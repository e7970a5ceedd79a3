# SPDX-License-Identifier: Apache-2.0
"""The page: one file with its style, charts, pictures and viewer, that asks no host for anything."""

from __future__ import annotations

import base64
import gzip
import hashlib
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from monai_adversarial.audit.report import charts, figures, findings, mapping, views
from monai_adversarial.audit.report.compare import differences, same_row, side_by_side
from monai_adversarial.audit.report.names import shown
from monai_adversarial.audit.report.pictures import data_url, inside
from monai_adversarial.audit.report.volumes import colors_of, viewer_volumes

__all__ = ["PICTURES_BUDGET", "page_html"]

# Bytes of all pictures together, as text on the page.
PICTURES_BUDGET = 2_200_000
# Cases listed per reference; all are in results.csv.
LISTED_CASES = 60
# Pictures per reference that are not folded.
SHOWN_AT_ONCE = 4
LIBRARY, LICENSE = "niivue-0.69.0.umd.js", "niivue.LICENSE.txt"


def page_html(
    summary: Mapping[str, Any], folder: Path, compare: Sequence[Mapping[str, Any]] = (), images: bool = True
) -> str:
    """The page as text.

    Args:
        summary: of the audit.
        folder: below which pictures and volumes lie.
        compare: summaries of further audits.
        images: whether pictures of cases and the viewer are part of the page.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("monai_adversarial.audit.report", "templates"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "name": _name,
        "shown": shown,
        "number": figures.number,
        "significant": figures.significant,
        "percent": figures.percent,
        "interval": figures.interval,
        "duration": figures.duration,
    }
    context = _context(summary, folder, compare, images)
    scripts = [_text("templates", "page.js")] + ([_text("templates", "viewer.js")] if context["volumes"] else [])
    policy = (
        "default-src 'none'; img-src data: blob:; font-src data:; style-src 'unsafe-inline'; connect-src data: blob:; "
        f"script-src blob: {' '.join(map(_digest, scripts))}; base-uri 'none'; form-action 'none'"
    )
    return environment.get_template("report.html.j2").render(
        **context, style=Markup(_text("templates", "style.css")), scripts=[Markup(s) for s in scripts], policy=policy
    )


def _context(
    summary: Mapping[str, Any], folder: Path, compare: Sequence[Mapping[str, Any]], images: bool
) -> dict[str, Any]:
    references = views.references_of(summary)
    volumes, volume_notes = viewer_volumes(summary, folder) if images else ([], [])
    rows = summary["plan"]["rows"]
    gradients = bool(summary["target"].get("gradients"))
    audits = [summary, *compare]
    return {
        "summary": summary,
        "glance": views.glance(summary),
        "rules": findings.RULES,
        "few": views.fewest_cases(summary),
        "flags": [check for check in summary["health"] if check["verdict"] != "pass"],
        "passed": sum(check["verdict"] == "pass" for check in summary["health"]),
        "cards": views.cards(summary),
        "references": references,
        "against": views.AGAINST,
        "titles": views.TITLES,
        "overviews": {reference: _overview(summary, reference) for reference in references},
        "curves": {reference: _curves(audits, reference) for reference in references},
        "areas": {
            reference: [one for one in summary.get("curves") or () if one["reference"] == reference]
            for reference in references
        },
        "heat_maps": {reference: _heat_map(summary, reference) for reference in references},
        "organ_tables": {reference: views.organ_tables(summary, reference) for reference in references},
        "subgroups": views.subgroup_tables(summary),
        **_cases(summary, references, folder, images),
        "losses": _losses(summary),
        "largest_curves": charts.LARGEST_CURVES,
        "cost": views.cost_rows(summary),
        "documents": mapping.DOCUMENTS,
        "mapped": [(row, mapping.mapping_of(row, gradients)) for row in rows],
        "row_ids": {row["name"]: f"row-{position}" for position, row in enumerate(rows)},
        "row_titles": {row["name"]: row["title"] for row in rows},
        "shown_at_once": SHOWN_AT_ONCE,
        "audits": audits,
        "sides": side_by_side(audits) if compare else [],
        "unlike": [(other["title"], differences(summary, other)) for other in compare],
        "volumes": volumes,
        "volume_notes": volume_notes,
        "colors": colors_of(
            summary["target"].get("classes") or (), max((entry["classes"] for entry in volumes), default=0)
        ),
        "library": _library() if volumes else "",
        "license": _text("assets", LICENSE) if volumes else "",
    }


def _name(text: Any) -> Markup:
    """Text of others, set apart so that its direction of writing does not turn what stands beside it."""
    return Markup("<bdi>{}</bdi>").format(shown(text))


def _overview(summary: Mapping[str, Any], reference: str) -> Markup | None:
    results = views.results_of(summary, reference)
    rows = [row for row in summary["plan"]["rows"] if row["name"] in results and row["family"] != "clean"]
    if not rows:
        return None
    return charts.overview_chart(rows, results, views.AGAINST[reference], f"overview-{_slug(reference)}")


def _curves(audits: Sequence[Mapping[str, Any]], reference: str) -> list[Markup]:
    """A chart per series of at least two budgets; further audits are drawn where the row is the same test."""
    series: dict[str, str] = {}
    for row in audits[0]["plan"]["rows"]:
        if row.get("series") and row.get("budget"):
            series.setdefault(row["series"], row["title"].removesuffix(f", {row['budget'].get('text')}"))
    found = []
    for position, (own, title) in enumerate(series.items()):
        curves = {}
        for number, audit in enumerate(audits):
            results = views.results_of(audit, reference)
            theirs = {row["name"]: row for row in audit["plan"]["rows"]}
            points = [
                (row, results[row["name"]])
                for row in audits[0]["plan"]["rows"]
                if row.get("series") == own and row["name"] in results and same_row(row, theirs.get(row["name"]))
            ]
            points = [point for point in points if figures.defined((point[0].get("budget") or {}).get("value"))]
            points.sort(key=lambda point: point[0]["budget"]["value"])
            if points:
                name = audit["title"] if audit["title"] not in curves else f"{audit['title']} ({number + 1})"
                curves[name] = points
        if curves and max(len(points) for points in curves.values()) > 1:
            name = f"curve-{_slug(reference)}-{position}"
            found.append(charts.curve_chart(title, curves, views.AGAINST[reference], name))
    return found


def _heat_map(summary: Mapping[str, Any], reference: str) -> Markup | None:
    results = views.results_of(summary, reference)
    rows = [row for row in summary["plan"]["rows"] if row["name"] in results]
    organs = list(dict.fromkeys(organ for result in results.values() for organ in result.get("organs") or {}))

    def score(row: Mapping[str, Any], organ: str) -> float | None:
        image = "clean" if row["family"] == "clean" else "adversarial"
        found = (results[row["name"]].get("organs") or {}).get(organ) or {}
        return figures.value_of((found.get(image) or {}).get("dice"))

    if not rows or not organs:
        return None
    return charts.heat_map(rows, organs, score, views.AGAINST[reference], f"heat-{_slug(reference)}")


def _cases(summary: Mapping[str, Any], references: Sequence[str], folder: Path, images: bool) -> dict[str, Any]:
    """Cases worst first, the first of each reference listed, with pictures while there is room."""
    spent, left = 0, 0
    listed: dict[str, list[dict[str, Any]]] = {}
    pictured: dict[str, list[dict[str, Any]]] = {}
    for reference in references:
        cases = views.case_list(summary, reference)
        listed[reference], pictured[reference] = cases[:LISTED_CASES], []
        for case in cases if images else ():
            path = inside(folder, (case.get("files") or {}).get("panel"))
            if path is None:
                continue
            picture = None if left else data_url(path)
            if picture is None or spent + len(picture[0]) > PICTURES_BUDGET:
                # None after the first that does not fit, better cases as they are: a large audit is soon written.
                left += 1
                continue
            spent += len(picture[0])
            pictured[reference].append({**case, "url": picture[0], "width": picture[1], "height": picture[2]})
    total = {reference: len(views.case_list(summary, reference)) for reference in references}
    return {"listed": listed, "pictured": pictured, "without_room": left, "case_total": total}


def _losses(summary: Mapping[str, Any]) -> list[Markup]:
    found = []
    for position, row in enumerate(summary["plan"]["rows"]):
        cases = [c for c in summary["cases"] if c["row"] == row["name"] and len(c.get("objective_history") or ()) > 1]
        if cases:
            found.append(charts.loss_chart(row, cases, f"loss-{position}"))
    return found


def _slug(reference: str) -> str:
    return reference.replace(" ", "-")


def _text(*parts: str) -> str:
    return resources.files("monai_adversarial.audit.report").joinpath(*parts).read_text(encoding="utf-8")


def _library() -> str:
    """NiiVue, compressed, as text: it is unpacked when the viewer is opened, so that the page opens at once."""
    content = _text("assets", LIBRARY).encode()
    return base64.b64encode(gzip.compress(content, 9, mtime=0)).decode()


def _digest(script: str) -> str:
    """A script's name in the page's security policy: no other script runs, whatever a name holds."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"
