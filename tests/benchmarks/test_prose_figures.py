# SPDX-License-Identifier: Apache-2.0
"""Figures in sentences are those of the files that made them, and no page has a result that nothing vouches for."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import figure_sources, prose_figures
from benchmarks.prose_figures import Sentence, bound_pages, figures_of, read_figures
from tests.docs.pages import ROOT, pages

#: pages that scripts write as a whole, from JSON files or from docstrings; other tests compare them with these
WRITTEN = ("docs/audit_examples.md", "docs/methods/", "docs/real_scan.md")


@pytest.mark.parametrize("page", bound_pages())
def test_sentences_say_what_the_files_say(page: str) -> None:
    assert figures_of(page).wrong((ROOT / page).read_text(encoding="utf-8")) == [], "python -m benchmarks.prose_figures"


@pytest.mark.parametrize("page", [page for page in pages() if not page.startswith(WRITTEN)])
def test_no_result_figure_is_loose(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    figures = figures_of(page)
    assert figures.loose(text) == [], "bind it in docs/figures, see docs/extending.md"
    assert figures.stale(text) == []


def test_every_file_of_figures_is_of_a_page() -> None:
    assert set(bound_pages()) <= set(pages())


@pytest.fixture
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder like ``docs/``, with one CSV file, one JSON file and the figures of one page."""
    (tmp_path / "docs" / "figures").mkdir(parents=True)
    (tmp_path / "docs" / "dice.csv").write_text("attack,budget-HU,dice\nPGD,4,0.5\nPGD,8,0.2612\nFGSM,8,0.7\n")
    (tmp_path / "docs" / "run.json").write_text('{"tables": [{"name": "t", "columns": [["a b", 1]], "rows": [[3]]}]}')
    (tmp_path / "docs" / "figures" / "page.yaml").write_text(
        """
page: docs/page.md
let: {pgd: "lambda budget: cell('dice.csv', 'dice', attack='PGD', budget_HU=budget)"}
sentences:
  - {text: "PGD leaves {:.2f} at 8 HU and {:.2f} at {:.0f},", of: [pgd(8), pgd(4), "rows('dice.csv')[0]['budget_HU']"]}
  - {text: "of {:words} rounds", of: "cell('run.json#t', 'a_b')"}
claims: [{text: less than FGSM, holds: "pgd(8) < cell('dice.csv', 'dice', attack='FGSM')"}]
settings: [gain of 30 %]
"""
    )
    monkeypatch.setattr(figure_sources, "DOCS", tmp_path / "docs")
    return tmp_path / "docs" / "figures" / "page.yaml"


TEXT = """Of three rounds: PGD leaves 0.26 at 8 HU
  and 0.50 at 4, less than FGSM at a gain of
30 %; `0.77` is code.
"""


def test_figures_are_found_wherever_lines_break_and_renewed_where_they_stand(page: Path) -> None:
    figures = read_figures(page)
    text = TEXT.replace("Of three", "of three")
    assert figures.wrong(text) == figures.loose(text) == figures.stale(text) == []
    old = text.replace("0.26", "0.31").replace("three", "two")
    assert [one.split(" in ")[0] for one in figures.wrong(old)] == [
        "docs/page.md: 0.26, not 0.31",
        "docs/page.md: three, not two",
    ]
    assert figures.renewed(old) == text


def test_a_new_result_an_old_setting_and_a_lost_sentence_are_refused(page: Path) -> None:
    figures = read_figures(page)
    text = TEXT.replace("Of three", "of three")
    (loose,) = figures.loose(text + "Auto-PGD leaves 12 %.\n")
    assert loose == "docs/page.md: 12 % in 'Auto-PGD leaves 12 %.'"
    assert figures.loose(text + "Auto-PGD leaves 0.123.\n") and not figures.loose(text + "MONAI 1.6.1, overlap 0.5\n")
    assert figures.stale(text.replace("gain of\n30 %", "gain")) == ["docs/page.md: gain of 30 %"]
    with pytest.raises(ValueError, match="must stand once in the page, and stands 0 times"):
        figures.wrong(text.replace("PGD leaves", "PGD keeps"))


def test_a_claim_that_the_file_denies_is_wrong(page: Path) -> None:
    data = page.parent.parent / "dice.csv"
    data.write_text(data.read_text().replace("FGSM,8,0.7", "FGSM,8,0.1"))
    figure_sources._read.cache_clear()
    assert read_figures(page).wrong(TEXT.replace("Of three", "of three")) == [
        "docs/page.md: the files do not say 'less than FGSM'"
    ]


def test_what_is_typed_in_is_refused(page: Path) -> None:
    page.write_text("page: docs/page.md\nsentences: [{text: 'Dice {}', of: '0.5 + mean([0, 1])'}]\n")
    with pytest.raises(ValueError, match="reads no file"):
        read_figures(page)
    page.write_text("page: a\nasserted: [{text: b, test: tests/helpers.py, line: assert 1 == 2}]\n")
    with pytest.raises(ValueError, match="does not have 'assert 1 == 2'"):
        read_figures(page)
    with pytest.raises(ValueError, match="has 2 places for 1 figures"):
        Sentence("{} and {}", (1,))
    with pytest.raises(ValueError, match="has 2 rows with"):
        figure_sources.cell("dice.csv", "dice", attack="PGD")
    with pytest.raises(ValueError, match="has no row with"):
        figure_sources.column("dice.csv", "dice", attack="BIM")


def test_the_command_renews_and_checks(
    page: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    markdown = page.parent.parent / "page.md"
    markdown.write_text("of two rounds, PGD leaves 0.30 at 8 HU and 0.5 at 4, less than FGSM\n")
    monkeypatch.setattr(prose_figures, "DOCS", page.parent.parent)
    monkeypatch.setattr(prose_figures, "FOLDER", page.parent)
    monkeypatch.setattr("sys.argv", ["prose_figures", "--check"])
    with pytest.raises(SystemExit, match="1"):
        prose_figures.main()
    assert "0.26, not 0.30" in capsys.readouterr().out
    monkeypatch.setattr("sys.argv", ["prose_figures"])
    prose_figures.main()
    assert markdown.read_text() == "of three rounds, PGD leaves 0.26 at 8 HU and 0.50 at 4, less than FGSM\n"
