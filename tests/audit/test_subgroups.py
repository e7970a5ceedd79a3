# SPDX-License-Identifier: Apache-2.0
"""Groups of cases from a CSV file."""

from __future__ import annotations

from pathlib import Path

import pytest

from monai_adversarial.audit import read_subgroups

CASES = [{"image": f"/data/scan_{number}.nii.gz", "case_id": f"case_{number:03d}"} for number in range(8)]


def _file(folder: Path, text: str) -> Path:
    file = folder / "groups.csv"
    file.write_text(text, encoding="utf-8")
    return file


def test_cases_are_found_by_id_file_or_stem(tmp_path: Path) -> None:
    rows = "".join(f"{name},{'AB'[n % 2]},{40 + n}\n" for n, name in enumerate(
        ["case_000", "scan_1.nii.gz", *(f"scan_{number}" for number in range(2, 8))]
    ))  # fmt: skip
    found = read_subgroups(_file(tmp_path, f"case,scanner,age\n{rows}"), CASES)
    assert found["scanner"] == {f"case_{number:03d}": "AB"[number % 2] for number in range(8)}
    # Eight different ages are cut at their median.
    assert set(found["age"].values()) == {"≤ 43", "> 43"} and list(found["age"].values()).count("≤ 43") == 4


def test_an_empty_value_is_a_group_of_its_own(tmp_path: Path) -> None:
    rows = "".join(f"scan_{number},{'' if number else 'f'}\n" for number in range(8))
    assert set(read_subgroups(_file(tmp_path, f"case,sex\n{rows}"), CASES)["sex"].values()) == {"f", "not given"}


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("case\nscan_0\n", "must have a header with a case column and others"),
        ("case,sex\nscan_0,f\nscan_0,m\n", "name the case 'scan_0' twice"),
        ("case,sex\nscan_0,f\n", "do not name 7 of 8 cases"),
    ],
)
def test_files_that_do_not_fit(text: str, sentence: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=sentence):
        read_subgroups(_file(tmp_path, text), CASES)


def test_a_column_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="have no column 'age': they have sex"):
        read_subgroups(_file(tmp_path, "case,sex\n"), CASES, ["age"])
