# SPDX-License-Identifier: Apache-2.0
"""Memory of an audit: that of one case, however many there are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from monai_adversarial.audit import audit
from tests.audit.pipeline import PLAN, target, write_cases
from tests.peak_bytes import PeakBytes

PGD: dict[str, Any] = {**PLAN["rows"]["pgd"], "attack": {**PLAN["rows"]["pgd"]["attack"], "steps": 1}}
ELASTIC: dict[str, Any] = {
    **PLAN["rows"]["elastic"],
    "attack": {**PLAN["rows"]["elastic"]["attack"], "steps": 1},
}
SMALL = {"name": "small", "rows": {"pgd": {**PGD, "over": {"epsilon": {"HU": [40]}}}, "elastic": ELASTIC}}


def _peak(folder: Path, cases: int) -> tuple[int, int]:
    """Bytes of tensors at most, and at the end, with cases of one content: distances take what the organs need."""
    (entry,) = write_cases(folder / f"data_{cases}", 1)
    entries = [{**entry, "case_id": f"case_{number:03d}"} for number in range(cases)]
    with PeakBytes() as counted:
        audit(target(inferer=None), entries, SMALL, folder / f"out_{cases}", pictures=False, progress=False)
    return counted.peak, counted.live


def test_the_peak_does_not_grow_with_the_number_of_cases(tmp_path: Path) -> None:
    _peak(tmp_path / "first", 1)  # what is kept once for all audits
    (two, _), (six, left) = (_peak(tmp_path, cases) for cases in (2, 6))
    case = 20 * 18 * 12 * 4  # bytes of one image in float32
    assert two > 3 * case  # it is counted at all
    assert six < two + case / 2, (two, six)
    assert left < case, left
