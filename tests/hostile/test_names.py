# SPDX-License-Identifier: Apache-2.0
"""Names that are formulas, commands of a terminal, paths, or too long: of cases, attacks and classes."""

from __future__ import annotations

import contextlib
import csv
import io
import unicodedata
from pathlib import Path

import pytest

from monai_adversarial.attacks import PGD
from monai_adversarial.studies.records import safe_name
from monai_adversarial.utils.shown_names import shown_name
from tests.hostile.parts import ended, half_written, study, write_image

NAMES = (
    "$x_{1}$",
    "one $ dollar",
    r"\frac{1}{0} $\alpha$",
    "a\x1b[2J\x1b[31mred",
    "two\nlines",
    "bell\x07 and\r return",
    "../../outside",
    "/absolute",
    "a/b\\c",
    "..",
    ".",
    " ",
    "=1+1",
    "+cmd",
    "-cmd",
    "@sum",
    "\uff1dwide",
    "\u202egnp.exe",
    "zero\u200bwidth",
    "long" * 100,
    "é" * 200,
    "{0} %s <script>alert(1)</script>",
    "a|b`c`",
    "broken\udcff",
    "CON",
    "\u4e2d\u6587",
)


def is_harmless(text: str) -> bool:
    """Nothing in it moves a cursor, hides, turns the writing direction or cannot be encoded."""
    return not any(unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp") for c in text if c != "\n")


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_no_name_reaches_a_terminal_a_cell_a_picture_or_a_path_as_it_is(name: str) -> None:
    for where in ("text", "cell", "picture", "markdown"):
        shown = shown_name(name, where)
        assert is_harmless(shown) and "\n" not in shown
    assert not shown_name(name, "cell").startswith(("=", "+", "-", "@", "\uff1d"))
    assert shown_name(name, "picture").replace(r"\$", "").count("$") == 0
    path = safe_name(name)
    assert path not in ("", ".", "..") and not set(path) & set("/\\\0\n\x1b") and len(path.encode()) <= 110
    assert len({safe_name(one) for one in NAMES}) == len(NAMES)


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A study with every name as an attack's, and its case's and class's names as bad; folder and what it printed."""
    folder = tmp_path_factory.mktemp("names")
    image = write_image(folder / "data" / "scan.nii")
    cases = [{"image": str(image), "case_id": "=cmd|' /C calc'!A0 $\n\x1b[31m"}]
    attacks = {name: PGD(8, "HU", steps=1) for name in NAMES}
    names = ["background", "=organ $\\x$ \x1b[1m"]
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        study(cases, folder / "out", attacks, class_names=names).run()
        study(cases, folder / "out", {"$x_{1}$": PGD(8, "HU", steps=1)}, class_names=names, panels=True).run()
    return folder, printed.getvalue()


@pytest.mark.filterwarnings("ignore:Glyph")
def test_a_study_with_such_names_ends_inside_its_folder(ran: tuple[Path, str]) -> None:
    folder, printed = ran
    assert sorted(path.name for path in folder.iterdir()) == ["data", "out"]
    assert len(list((folder / "out").glob("*/*_adversarial.nii"))) == len(NAMES)
    assert not half_written(folder / "out")
    assert is_harmless(printed.replace("\r", "")) and "mean organ Dice" in printed
    assert is_harmless((folder / "out" / "summary.txt").read_text(encoding="utf-8"))
    assert len(list((folder / "out").glob("*/*.png"))) == 1 and (folder / "out" / "overview.png").stat().st_size > 1000


def test_no_cell_of_its_table_is_a_formula(ran: tuple[Path, str]) -> None:
    with open(ran[0] / "out" / "results.csv", newline="", encoding="utf-8") as stream:
        cells = [cell for row in csv.reader(stream) for cell in row]
    assert any("organ" in cell for cell in cells)
    for cell in cells:
        is_number = cell.replace("-", "", 1).replace(".", "", 1).replace("e-", "").isdigit()
        assert is_number or not cell.startswith(("=", "+", "-", "@", "\t", "\r")), cell


@pytest.mark.parametrize(
    ("first", "second"), [("Case", "case"), ("CAF\u00c9", "caf\u00e9"), ("same", "same")], ids=ascii
)
def test_two_cases_of_one_name_are_refused(first: str, second: str, tmp_path: Path) -> None:
    cases = [
        {"image": str(write_image(tmp_path / f"{i}.nii", seed=i)), "case_id": name}
        for i, name in enumerate((first, second))
    ]
    status, sentence = ended(study(cases, tmp_path / "out").run)
    assert status == 1 and "share one record" in sentence
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").rglob("*adversarial*"))


@pytest.mark.parametrize("name", [5, None, ["a"]])
def test_a_name_that_is_none_is_refused(name: object, tmp_path: Path) -> None:
    cases = [{"image": str(write_image(tmp_path / "a.nii")), "case_id": name}]
    status, sentence = ended(study(cases, tmp_path / "out").run)
    assert status == 1 and "must be a string" in sentence


def test_class_names_are_counted_against_the_networks_answer(tmp_path: Path) -> None:
    cases = [{"image": str(write_image(tmp_path / "a.nii"))}]
    for names in (["background", "a", "b"], ["background"] + [f"organ {i}" for i in range(7)]):
        status, sentence = ended(study(cases, tmp_path / "out", class_names=names).run)
        assert status == 1 and "2 output channels" in sentence
    assert not list((tmp_path / "out").rglob("*adversarial*"))
