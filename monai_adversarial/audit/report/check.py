# SPDX-License-Identifier: Apache-2.0
"""What a report can be written of: a summary is refused early, by one sentence that names what is wrong with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from monai_adversarial.studies.records import SEAL, sealed

__all__ = ["LABEL", "REFERENCES", "STABILITY", "SCHEMA", "check_summary"]

SCHEMA = 1
LABEL, STABILITY = "label", "clean prediction"
REFERENCES = (LABEL, STABILITY)
NEEDED: dict[str, type] = {
    "title": str,
    "target": Mapping,
    "plan": Mapping,
    "data": Mapping,
    "results": Sequence,
    "cases": Sequence,
    "health": Sequence,
    "failures": Sequence,
    "not_tested": Sequence,
}


def check_summary(summary: Mapping[str, Any], name: str = "summary") -> None:
    """Check what everything else relies on.

    Args:
        summary: of an audit.
        name: of the argument, for the error.

    Raises:
        ValueError: another schema, a content that is not the one that was sealed, a part that is missing or of another
            type, a result of no row of the plan, of an unknown reference, or twice.
    """
    if not isinstance(summary, Mapping) or summary.get("schema") != SCHEMA:
        schema = summary.get("schema") if isinstance(summary, Mapping) else type(summary).__name__
        raise ValueError(f"{name} is of schema {schema!r}; this report is written of schema {SCHEMA}.")
    if SEAL in summary and summary[SEAL] != sealed(summary)[SEAL]:
        raise ValueError(f"{name} was changed after it was written: its figures are not those of an audit.")
    for key, kind in NEEDED.items():
        value = summary.get(key)
        if not isinstance(value, kind) or (kind is Sequence and isinstance(value, str)):
            raise ValueError(f"{name}[{key!r}] is {type(value).__name__}, expected {kind.__name__}.")
    rows = [row.get("name") for row in summary["plan"].get("rows", ())]
    twice = [row for position, row in enumerate(rows) if row in rows[:position]]
    if twice:
        raise ValueError(f"{name}['plan']['rows'] names row {twice[0]!r} twice.")
    seen = set()
    for result in summary["results"]:
        row, reference = result.get("row"), result.get("reference")
        if row not in rows:
            raise ValueError(f"{name}['results'] has row {row!r}, which is not in the plan.")
        if reference not in REFERENCES:
            raise ValueError(f"{name}['results'] has reference {reference!r}, expected one of {list(REFERENCES)}.")
        if (row, reference) in seen:
            raise ValueError(f"{name}['results'] has row {row!r} against {reference!r} twice.")
        seen.add((row, reference))
    for case in summary["cases"]:
        if case.get("reference") not in REFERENCES:
            raise ValueError(
                f"{name}['cases'] has reference {case.get('reference')!r}, expected one of {list(REFERENCES)}."
            )
