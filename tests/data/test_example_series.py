# SPDX-License-Identifier: Apache-2.0
"""The series of the examples is one that the reader takes, and needs slices at different heights."""

from __future__ import annotations

from pathlib import Path

import pytest

from monai_adversarial.data.example_series import write_example_series

pytest.importorskip("pydicom")


def test_the_reader_takes_it(tmp_path: Path) -> None:
    from monai_adversarial.data.dicom import read_series

    uid = write_example_series(tmp_path, slices=3, spacing=5.0)
    series = read_series(tmp_path)
    assert series.series_uid == uid and series.image.shape == (1, 128, 128, 3)
    assert float(series.image.pixdim[2]) == 5.0


def test_bad_arguments_stop_before_a_file_is_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="slices"):
        write_example_series(tmp_path, slices=0)
    with pytest.raises(ValueError, match="spacing"):
        write_example_series(tmp_path, spacing=0.0)
    assert not list(tmp_path.iterdir())
