# SPDX-License-Identifier: Apache-2.0
"""docs/dicom.md runs as it stands, and says what the code says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("pydicom")
pytest.importorskip("highdicom")
itk = pytest.importorskip("itk")

from monai_adversarial.data.dicom import read_series  # noqa: E402
from tests.data.dicom.labels import box, write_structure_set  # noqa: E402
from tests.data.dicom.samples import stored_volume, write_series  # noqa: E402
from tests.helpers import LinearNetwork  # noqa: E402
from tests.readme_parts import ROOT  # noqa: E402
from tests.test_attacked_model_docs import run, steps  # noqa: E402


def write_study(folder: Path) -> None:
    stored = stored_volume(signed=False)
    liver = box(2.5, 1.5, 4, 3)
    stored[1:3, 2:5, 3:7] = 1100
    write_series(folder / "study" / "ct", stored, bits_stored=12, change=reversed_numbers)
    write_series(folder / "study" / "broken", change=lambda dataset, place: place != 2)
    series = read_series(folder / "study" / "ct")
    organs = {"liver": [(1, liver), (2, liver)], "BODY": [(2, box(0.5, 0.5, 8, 8))]}
    write_structure_set(folder / "study" / "structures.dcm", series, organs)
    image = itk.image_from_array(np.ascontiguousarray(stored.astype(np.int16)))
    itk.imwrite(image, str(folder / "scan.nrrd"))


def reversed_numbers(dataset: Any, place: int) -> None:
    dataset.InstanceNumber = 5 - place


def test_every_block_says_what_the_page_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_study(tmp_path)
    monkeypatch.chdir(tmp_path)
    names = {"network": LinearNetwork((-0.01, 0.01), (0.0, 0.0))}
    for code, expected in steps((ROOT / "docs" / "dicom.md").read_text(encoding="utf-8")):
        said = "\n".join(line for line in run(code, names).splitlines() if "nvImageCodec" not in line)  # MONAI's own
        assert " ".join(said.split()) == " ".join((expected or "").split()), code
