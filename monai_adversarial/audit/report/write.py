# SPDX-License-Identifier: Apache-2.0
"""Write the report of an audit."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from monai_adversarial.audit.report.check import check_summary
from monai_adversarial.audit.report.page import page_html
from monai_adversarial.audit.report.tables import case_rows, csv_text, summary_rows
from monai_adversarial.studies.records import sealed, without_nan
from monai_adversarial.utils.files import replace_when_complete

__all__ = ["write_report"]


def write_report(
    summary: Mapping[str, Any],
    output_dir: str | os.PathLike[str],
    *,
    compare: Sequence[Mapping[str, Any]] = (),
    images: bool = True,
    files_dir: str | os.PathLike[str] | None = None,
) -> dict[str, Path]:
    """Write what an audit found as a page, as JSON and as two tables.

    Results against labels and results against the network's own clean prediction (stability) stay apart everywhere, and
    nothing is collapsed into one score. Nothing is written unless all four can be; each file is whole or not there.

    >>> import tempfile
    >>> from monai_adversarial.audit.report import write_report
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_report({"schema": 99}, folder)
    Traceback (most recent call last):
    ValueError: ...

    Args:
        summary: of the audit, schema 1: docs/audit_report.md.
        output_dir: existing or new folder.
        compare: summaries of further audits, shown beside this one: a clean and a hardened network.
        images: whether the page has pictures of cases and the viewer of volumes.
        files_dir: below which the pictures and volumes lie that the summary names; by default ``output_dir``. Files
            elsewhere are not read.

    Returns:
        ``"report.html"``, ``"audit.json"``, ``"results.csv"``, ``"summary.csv"`` -> where it was written.

    Raises:
        ValueError: a summary of another schema, or one that contradicts itself; one sentence.
        TypeError: a value in the summary that JSON has no form for.
        OSError: the folder cannot be written to.
    """
    folder = Path(output_dir)
    files = folder if files_dir is None else Path(files_dir)
    for position, other in enumerate((summary, *compare)):
        check_summary(other, f"compare[{position - 1}]" if position else "summary")
    summary = without_nan(summary)
    texts = {
        "audit.json": _json(_sealed(summary)),
        "results.csv": csv_text(case_rows(summary), ("case", "row", "reference", "organ")),
        "summary.csv": csv_text(summary_rows(summary), ("row", "reference", "organ", "cases")),
        "report.html": page_html(summary, files, [without_nan(other) for other in compare], images),
    }
    contents = {name: text.encode("utf-8") for name, text in texts.items()}
    written = {}
    for name, content in contents.items():
        with replace_when_complete(folder / name) as temporary:
            temporary.write_bytes(content)
        written[name] = folder / name
    return written


def _sealed(summary: Mapping[str, Any]) -> dict[str, Any]:
    """The summary as it will be read, with its hash: JSON knows no tuples, and only strings as keys."""
    return sealed(json.loads(_json(summary)))


def _json(summary: Mapping[str, Any]) -> str:
    try:
        return json.dumps(summary, indent=1, allow_nan=False) + "\n"
    except TypeError as error:
        raise TypeError(f"summary holds a value that JSON has no form for: {error}.") from error
