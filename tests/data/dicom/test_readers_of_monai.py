# SPDX-License-Identifier: Apache-2.0
"""Where MONAI's two DICOM readers agree with the headers of a series, and where they do not."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.data import ITKReader, MetaTensor, PydicomReader
from monai.transforms import LoadImage

pytest.importorskip("pydicom")
pytest.importorskip("itk")

from monai_adversarial.data.dicom import read_series  # noqa: E402
from tests.data.dicom.samples import AXIAL, OBLIQUE, write_enhanced, write_series  # noqa: E402

READERS = [PydicomReader, ITKReader]
TILTED = (1.0, 0.0, 0.0, 0.0, float(np.cos(np.deg2rad(15.0))), -float(np.sin(np.deg2rad(15.0))))


def load(folder: Path, reader: type) -> MetaTensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return LoadImage(reader=reader(), image_only=True)(str(folder))


def renumbered(dataset: Any, place: int) -> None:
    dataset.InstanceNumber = (3, 1, 2, 5, 4)[place]


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("orientation", [AXIAL, OBLIQUE], ids=["axial", "oblique"])
def test_both_readers_agree_on_a_plain_series(tmp_path: Path, reader: type, orientation: tuple) -> None:
    folder = write_series(tmp_path / "s", orientation=orientation, slopes=0.5)
    loaded, series = load(folder, reader), read_series(folder)
    assert torch.equal(loaded.as_tensor(), series.image.as_tensor()[0])
    assert torch.allclose(loaded.affine, series.affine, atol=1e-5)


def test_the_itk_reader_agrees_on_an_enhanced_file(tmp_path: Path) -> None:
    folder = write_enhanced(tmp_path / "e" / "all.dcm").parent
    loaded, series = load(folder, ITKReader), read_series(folder)
    assert torch.equal(loaded.as_tensor(), series.image.as_tensor()[0])
    assert torch.allclose(loaded.affine, series.affine)


def test_numbers_against_the_positions_are_the_same_volume_stored_the_other_way_round(tmp_path: Path) -> None:
    folder = write_series(tmp_path / "s", change=lambda d, k: setattr(d, "InstanceNumber", 5 - k))
    loaded, series = load(folder, PydicomReader), read_series(folder)
    assert torch.equal(loaded.as_tensor().flip(-1), series.image.as_tensor()[0])
    assert np.allclose(loaded.affine.numpy() @ [0, 0, 4, 1], series.affine.numpy() @ [0, 0, 0, 1])


def test_the_pydicom_reader_takes_slices_in_the_order_of_their_numbers_and_we_do_not(tmp_path: Path) -> None:
    folder = write_series(tmp_path / "s", change=renumbered)
    series, by_number, by_position = read_series(folder), load(folder, PydicomReader), load(folder, ITKReader)
    assert torch.equal(by_position.as_tensor(), series.image.as_tensor()[0])
    assert float(series.affine[2, 2]) == pytest.approx(2.5) and float(by_number.affine[2, 2]) == pytest.approx(1.25)


def test_the_itk_reader_has_no_shear_and_our_affine_is_that_of_the_positions(tmp_path: Path) -> None:
    folder = write_series(tmp_path / "s", orientation=TILTED, step=(0.0, 0.0, 2.5))
    series = read_series(folder, gantry_tilt="shear")
    assert torch.allclose(load(folder, PydicomReader).affine, series.affine, atol=1e-6)
    off = load(folder, ITKReader).affine[:3] - series.affine[:3]
    assert float((off @ torch.tensor([0.0, 0.0, 4.0, 1.0], dtype=torch.float64)).norm()) > 2.5


@pytest.mark.parametrize("reader", READERS)
def test_both_readers_stretch_over_a_missing_slice_which_we_refuse(tmp_path: Path, reader: type) -> None:
    folder = write_series(tmp_path / "s", change=lambda d, k: k != 2)
    assert float(load(folder, reader).affine[2, 2]) == pytest.approx(10 / 3, abs=1e-4)
    with pytest.raises(ValueError, match="missing"):
        read_series(folder)


def test_the_itk_reader_cuts_fractions_off_where_slopes_differ_and_we_do_not(tmp_path: Path) -> None:
    folder = write_series(tmp_path / "s", slopes=[1.0, 1.0, 1.0, 0.37, 0.7])
    series = read_series(folder)
    assert torch.allclose(load(folder, PydicomReader).as_tensor(), series.image.as_tensor()[0], atol=1e-3)
    off = (load(folder, ITKReader).as_tensor() - series.image.as_tensor()[0]).abs().amax(dim=(0, 1))
    assert float(off[:3].max()) == 0.0 and float(off[3:].min()) > 0.5
