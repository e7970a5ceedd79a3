# SPDX-License-Identifier: Apache-2.0
"""The files of a report: whole, strict, self-contained, escaped, and never mixing what scores compare with."""

from __future__ import annotations

import json
import math
import re
from html.parser import HTMLParser
from typing import Any

import pytest

from monai_adversarial.audit.report import write, write_report
from monai_adversarial.audit.report.views import fewest_cases
from tests.audit.report.example import example_summary, trimmed, write_files

HOSTILE = (
    "<script>window.broken=1</script>\"'$x_{$\n=1+1\x1b[31m\u202eevil\udc80</style><img src=x onerror=broken=1>كبد"
)


def hostile(value: Any, key: str = "") -> Any:
    """All text of others in a summary, made hostile; words that are of the schema stay."""
    fixed = {"family", "reference", "verdict", "bound", "panel", "file"}
    if isinstance(value, dict):
        # Organs, hashes, versions and measurements are named by their keys.
        return {
            (
                f"{k}{HOSTILE}" if key in ("organs", "versions", "hashes", "seeds", "measurements", "volume_cv") else k
            ): hostile(v, k)
            for k, v in value.items()
        }
    if isinstance(value, list):
        return [hostile(item, key) for item in value]
    return f"{value}{HOSTILE}" if isinstance(value, str) and key not in fixed else value


class Elements(HTMLParser):
    """Tags with their attributes, and the nesting of headings."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


def test_four_files_and_nothing_else(written):
    names = {path.name for path in written.folder.iterdir()}
    assert names == {"report.html", "audit.json", "results.csv", "summary.csv", "pictures", "volumes"}


def test_json_is_strict_and_holds_the_summary(written):
    def refuse(text: str) -> None:
        raise AssertionError(text)

    found = json.loads((written.folder / "audit.json").read_text(encoding="utf-8"), parse_constant=refuse)
    assert found["results"][3]["row"] == written.summary["results"][3]["row"]
    undefined = [s for c in found["cases"] for i in c["scores"].values() for s in i.values() if s["hd95_mm"] is None]
    assert undefined, "NaN is null"


def test_the_page_is_small_and_asks_for_nothing(written):
    assert len(written.page.encode()) < 6e6
    elements = Elements(written.page).tags
    for tag, attributes in elements:
        for name in ("src", "href", "action", "poster", "srcset", "xlink:href"):
            assert (attributes.get(name) or "#").startswith(("#", "data:")), (tag, attributes.get(name))
    policy = next(a["content"] for t, a in elements if t == "meta" and a.get("http-equiv"))
    assert policy is not None and policy.startswith("default-src 'none'")
    assert "http" not in policy and "script-src 'unsafe-inline'" not in policy
    assert not re.search(r"url\((?!#)|@import", written.page[: written.page.index("</style>")])


def test_every_part_is_there_and_identifiers_are_unique(written):
    elements = Elements(written.page).tags
    ids = [attributes["id"] for _, attributes in elements if attributes.get("id")]
    assert len(set(ids)) == len(ids)
    parts = (
        "glance sides overview cards curves organs subgroups cases viewer untested health failures cost facts mapping"
    )
    assert {*parts.split(), "repeat"} <= set(ids)
    targets = {a["href"][1:] for t, a in elements if t == "a" and a.get("href", "").startswith("#")}
    assert targets <= set(ids)
    assert sum(tag == "h1" for tag, _ in elements) == 1
    levels = [int(tag[1]) for tag, _ in elements if re.fullmatch("h[1-6]", tag)]
    assert all(after - before <= 1 for before, after in zip(levels, levels[1:], strict=False))


def test_the_area_below_a_curve_stands_beside_it(written):
    curves = written.page[written.page.index('id="curves"') : written.page.index('id="organs"')]
    plain = " ".join(re.sub("<[^>]+>", "", curves).split())
    areas = written.summary["curves"]
    assert [one["reference"] for one in areas] == ["label", "clean prediction"]
    for one in areas:
        said = f"is {one['area']['mean']:.3f}"
        assert f"mean Dice over budgets from 0 to 8 HU {said}" in plain, said


def test_pictures_and_charts_have_a_text(written):
    elements = Elements(written.page).tags
    pictures = [a for t, a in elements if t == "img"]
    assert len(pictures) == len([c for c in written.summary["cases"] if c["files"]])
    assert all(a.get("alt") and a.get("width") for a in pictures)
    charts = [a for t, a in elements if t == "svg"]
    assert len(charts) > 8 and all(a.get("role") == "img" and a.get("aria-label") for a in charts)


def test_worst_cases_come_first(written):
    text = written.page[written.page.index('id="cases"') :]
    text = text[: text.index("more pictures")]
    found = [float(v) for v in re.findall(r"<figcaption>.*?→ ([\d.]+)[,<]", text)]
    assert found == sorted(found) and len(found) == 4


def test_figures_say_what_they_compare_with(written):
    assert "Accuracy: against labels" in written.page
    assert "Stability: against the network&#39;s own clean prediction" in written.page
    # Three labeled cases and one without a label: no figure is over all four.
    results = {(r["row"], r["reference"]): r["n"] for r in written.summary["results"]}
    assert {results["pgd_8", "label"], results["pgd_8", "clean prediction"]} == {3, 1}
    cards = written.page[written.page.index('id="cards"') : written.page.index('id="curves"')]
    assert set(re.findall(r", n (\d)</span>", cards)) == {"2", "3"} and "n 4" not in cards


def test_few_cases_are_said_to_be_few(written):
    first = written.page[: written.page.index('id="overview"')]
    assert "Some results are over 1 case only" in first
    many = [{**result, "n": 10} for result in written.summary["results"]]
    assert fewest_cases({**written.summary, "results": many}) is None


def test_what_was_not_tested_and_that_a_mapping_is_no_compliance_is_said(written):
    for sentence in written.summary["not_tested"]:
        assert sentence in written.page
    assert "A mapping, not compliance" in written.page
    assert "AML.T0043.000" in written.page


def test_hostile_names_are_text(tmp_path):
    summary = hostile(trimmed(example_summary(), "clean", "motion", "pgd_4", "pgd_8"))
    write_files(summary, tmp_path)
    written = write_report(summary, tmp_path, compare=[summary])
    page = written["report.html"].read_text(encoding="utf-8")
    tags = Elements(page).tags
    assert [a for t, a in tags if t == "script" and not a] and sum(t == "script" for t, _ in tags) == 4
    assert not any(name.startswith("on") for _, attributes in tags for name in attributes)
    assert not any(a.get("src") == "x" for _, a in tags)
    assert not set(page) & {"\x1b", "\u202e"}
    assert "&lt;script&gt;window.broken=1&lt;/script&gt;" in page and "&lt;U+202E&gt;" in page
    for name in ("results.csv", "summary.csv"):
        assert "\x1b" not in written[name].read_text(encoding="utf-8")
    json.loads(written["audit.json"].read_text(encoding="utf-8"))


def test_scores_that_are_not_defined_are_said_so(tmp_path):
    summary = example_summary()
    for result in summary["results"]:
        if result["row"] == "pgd_8":
            for image in ("random", "adversarial"):
                result["mean"][image]["dice"] = {"mean": math.nan, "low": math.nan, "high": math.nan, "n": 0}
            result["success_rate"] = None
            summary["cases"] = []
            result["worst_case"] = {"case": "phantom_0", "dice": None}
    summary = trimmed(summary, "clean", "pgd_8")
    page = write_report(summary, tmp_path, images=False)["report.html"].read_text(encoding="utf-8")
    card = page[page.index('id="row-1"') : page.index('id="curves"' if 'id="curves"' in page else 'id="organs"')]
    assert "not defined" in card and "not settled" in card and not re.search(r"\bnan\b|None|\binf\b", card)


def test_without_images_the_page_has_neither_pictures_nor_viewer(tmp_path):
    summary = trimmed(example_summary(), "pgd_8")
    write_files(summary, tmp_path)
    page = write_report(summary, tmp_path, images=False)["report.html"].read_text(encoding="utf-8")
    assert "<img" not in page and "viewer-library" not in page


def test_an_empty_audit_is_a_report(tmp_path):
    summary = example_summary() | {"results": [], "cases": [], "subgroups": [], "health": [], "not_tested": []}
    page = write_report(summary, tmp_path)["report.html"].read_text(encoding="utf-8")
    assert "No row of the plan has a result" in page and "No health check was made" in page
    assert 'class="verdict v-held"' not in page[: page.index("How these words are chosen")]


def test_a_budget_that_was_not_kept_is_said(tmp_path):
    summary = trimmed(example_summary(), "pgd_8")
    for result in summary["results"]:
        for measured in result["measurements"].values():
            measured["worst"] = measured["limit"] * 1.5
    page = write_report(summary, tmp_path, images=False)["report.html"].read_text(encoding="utf-8")
    assert "the budget was not kept" in page


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"schema": 2}, r"^summary is of schema 2; this report is written of schema 1\.$"),
        ({"cases": None}, r"^summary\['cases'\] is NoneType, expected Sequence\.$"),
        ({"results": [{"row": "other", "reference": "label"}]}, "row 'other', which is not in the plan"),
        ({"results": [{"row": "noise", "reference": "truth"}]}, "reference 'truth', expected one of"),
        ({"results": [{"row": "noise", "reference": "label"}] * 2}, "row 'noise' against 'label' twice"),
    ],
)
def test_a_wrong_summary_is_refused_before_anything_is_written(tmp_path, change, sentence):
    with pytest.raises(ValueError, match=sentence):
        write_report(example_summary() | change, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_another_audit_is_checked_as_well(tmp_path):
    with pytest.raises(ValueError, match=r"^compare\[0\] is of schema None"):
        write_report(example_summary(), tmp_path, compare=[{}])


def test_nothing_is_written_where_one_file_cannot_be_made(tmp_path, monkeypatch):
    summary = example_summary()
    summary["seeds"] = {"attacks": object()}
    with pytest.raises(TypeError, match="summary holds a value that JSON has no form for"):
        write_report(summary, tmp_path / "out")

    def broken(*_: object) -> str:
        raise RuntimeError("no page")

    monkeypatch.setattr(write, "page_html", broken)
    with pytest.raises(RuntimeError, match="no page"):
        write_report(example_summary(), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_report_that_is_there_stays_whole_where_the_new_one_fails(tmp_path, monkeypatch):
    summary = trimmed(example_summary(), "pgd_8")
    first = write_report(summary, tmp_path, images=False)
    before = {name: path.read_bytes() for name, path in first.items()}
    monkeypatch.setattr(write, "page_html", lambda *_: "\udc80")
    with pytest.raises(UnicodeEncodeError):
        write_report(summary | {"title": "other"}, tmp_path, images=False)
    assert {name: path.read_bytes() for name, path in first.items()} == before


def test_the_same_summary_gives_the_same_bytes(tmp_path):
    summary = trimmed(example_summary(), "pgd_4", "pgd_8")
    write_files(summary, tmp_path)
    first, second = (
        {name: path.read_bytes() for name, path in write_report(summary, tmp_path).items()} for _ in range(2)
    )
    assert first == second


def test_a_picture_outside_the_report_is_left_out(tmp_path):
    folder = tmp_path / "out"
    summary = trimmed(example_summary(), "pgd_8")
    write_files(summary, folder)
    first = summary["cases"][0]["files"]
    (tmp_path / "secret.png").write_bytes((folder / first["panel"]).read_bytes())
    first["panel"] = "../secret.png"
    page = write_report(summary | {"volumes": []}, folder)["report.html"].read_text(encoding="utf-8")
    assert page.count("<img") == len(summary["cases"]) - 1


def test_pictures_may_lie_below_another_folder(tmp_path):
    summary = trimmed(example_summary(), "pgd_8")
    write_files(summary, tmp_path / "study")
    page = write_report(summary, tmp_path / "study" / "report", files_dir=tmp_path / "study")["report.html"]
    assert page.read_text(encoding="utf-8").count("<img") == len(summary["cases"])
