# SPDX-License-Identifier: Apache-2.0
"""Groups of cases by the columns of a CSV file: scanner, sex, age."""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from monai_adversarial.data.file_names import shown, stem_of

__all__ = ["read_subgroups"]

#: values above which a column of numbers is cut at its median
MOST_VALUES = 6


def read_subgroups(
    path: str | os.PathLike[str], cases: Sequence[Mapping[str, Any]], columns: Sequence[str] | None = None
) -> dict[str, dict[str, str]]:
    """The group of each case in every column.

    >>> import tempfile
    >>> from pathlib import Path
    >>> from monai_adversarial.audit import read_subgroups
    >>> cases = [{"case_id": name, "image": f"{name}.nii.gz"} for name in ("a", "b", "c")]
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     table = Path(folder) / "groups.csv"
    ...     _ = table.write_text("case,scanner\\na,one\\nb,two\\nc,one\\n")
    ...     groups = read_subgroups(table, cases)
    >>> groups
    {'scanner': {'a': 'one', 'b': 'two', 'c': 'one'}}

    Args:
        path: CSV file with a header; its first column names the case: its id, the name of its image file, or that
            without the ending.
        cases: of ``find_cases``.
        columns: to read; None for all but the first.

    Returns:
        column -> case id -> group. A column with more than six different numbers is cut at its median.

    Raises:
        FileNotFoundError: where there is no file.
        ValueError: for a file without header, a column that is not there, a case in two rows, or cases that the file
            does not name.
    """
    file = Path(path)
    if not file.is_file():
        raise FileNotFoundError(f"there is no CSV file of subgroups {file}.")
    try:
        with open(file, newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream)
            names = [name for name in reader.fieldnames or [] if name]
            rows = list(reader)
    except UnicodeDecodeError as error:
        raise ValueError(f"cannot read the subgroups {file.name}: they are not UTF-8 (byte {error.start}).") from error
    except csv.Error as error:
        raise ValueError(f"cannot read the subgroups {file.name} as CSV: {error}.") from error
    twice = [name for position, name in enumerate(names) if name in names[:position]]
    if twice:
        raise ValueError(f"the subgroups {file.name} have the column {twice[0]!r} twice.")
    if len(names) < 2:
        raise ValueError(f"the subgroups {file.name} must have a header with a case column and others, got {names}.")
    wanted = list(columns) if columns is not None else names[1:]
    for column in wanted:
        if column not in names[1:]:
            raise ValueError(f"the subgroups {file.name} have no column {column!r}: they have {', '.join(names[1:])}.")
    by_name: dict[str, dict[str, str]] = {}
    for row in rows:
        name = (row[names[0]] or "").strip()
        if name in by_name:
            raise ValueError(f"the subgroups {file.name} name the case {name!r} twice.")
        if None in row:  # DictReader's key for cells beyond the header
            raise ValueError(f"the subgroups {file.name} have more cells than columns in the row of {name!r}.")
        by_name[name] = row
    found: dict[str, dict[str, str]] = {column: {} for column in wanted}
    lost = []
    for case in cases:
        image = case["image"][0] if isinstance(case["image"], (list, tuple)) else case["image"]
        image = Path(image)
        matches = [name for name in (str(case["case_id"]), image.name, stem_of(image)) if name in by_name]
        if not matches:
            lost.append(str(case["case_id"]))
            continue
        if len(set(matches)) > 1:
            raise ValueError(
                f"the subgroups {file.name} name one case twice, as {matches[0]!r} and as {matches[1]!r}: keep one row."
            )
        for column in wanted:
            found[column][str(case["case_id"])] = (by_name[matches[0]][column] or "").strip() or "not given"
    if lost:
        raise ValueError(f"the subgroups {file.name} do not name {len(lost)} of {len(cases)} cases ({shown(lost)}).")
    return {column: _cut(groups) for column, groups in found.items()}


def _cut(groups: Mapping[str, str]) -> dict[str, str]:
    """Numbers of many values as two groups, at their median."""
    try:
        numbers = {case: float(value) for case, value in groups.items() if value != "not given"}
    except ValueError:
        return dict(groups)
    if len(set(numbers.values())) <= MOST_VALUES:
        return dict(groups)
    middle = sorted(numbers.values())[(len(numbers) - 1) // 2]
    return {
        case: "not given" if case not in numbers else f"≤ {middle:g}" if numbers[case] <= middle else f"> {middle:g}"
        for case in groups
    }
