# SPDX-License-Identifier: Apache-2.0
"""RT structure sets and DICOM segmentations as class maps on the grid of their series."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("pydicom")
pytest.importorskip("highdicom")

import pydicom  # noqa: E402

from monai_adversarial.data.dicom import CTSeries, read_label, read_series  # noqa: E402
from tests.data.dicom.labels import box, write_segmentation, write_structure_set  # noqa: E402
from tests.data.dicom.samples import OBLIQUE, write_enhanced, write_series  # noqa: E402

CLASSES = {"liver": 1, "spleen": 2}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_series(tmp_path / "ct", orientation=OBLIQUE)


@pytest.fixture
def series(folder: Path) -> CTSeries:
    return read_series(folder)


def masks() -> np.ndarray:
    """Liver and spleen (slice, row, column, segment), which differ along every axis."""
    values = np.zeros((5, 12, 10, 2), dtype=np.uint8)
    values[1:3, 2:5, 3:7, 0] = 1
    values[3, 6:9, 1:4, 1] = 1
    return values


def class_map() -> np.ndarray:
    return (masks()[..., 0] + 2 * masks()[..., 1]).transpose(2, 1, 0)[None]


LIVER = [(1, box(2.5, 1.5, 4, 3)), (2, box(2.5, 1.5, 4, 3))]
SPLEEN = [(3, box(0.5, 5.5, 3, 3))]


def test_contours_become_the_voxels_that_they_enclose(tmp_path: Path, series: CTSeries) -> None:
    file = write_structure_set(tmp_path / "rs.dcm", series, {"liver": LIVER, "spleen": SPLEEN})
    label = read_label(file, series, CLASSES)
    assert np.array_equal(label.numpy(), class_map()) and torch.equal(label.affine, series.affine)


@pytest.mark.parametrize("kind", ["BINARY", "LABELMAP"])
def test_segments_become_classes_at_their_positions(tmp_path: Path, folder: Path, series: CTSeries, kind: str) -> None:
    file = write_segmentation(tmp_path / "seg.dcm", folder, masks(), ["liver", "spleen"], kind)
    label = read_label(file, series, CLASSES)
    assert np.array_equal(label.numpy(), class_map()) and torch.equal(label.affine, series.affine)


def test_a_segmentation_of_a_single_slice_is_placed_by_its_position(
    tmp_path: Path, folder: Path, series: CTSeries
) -> None:
    file = write_segmentation(tmp_path / "seg.dcm", folder, masks()[3:4, ..., 1:], ["spleen"], places=[3])
    assert np.array_equal(read_label(file, series, {"spleen": 2}).numpy() > 0, class_map() == 2)


def flip_frames(file: Path) -> None:
    """Store the same segmentation with columns from right to left."""
    dataset = pydicom.dcmread(file)
    orientation = dataset.SharedFunctionalGroupsSequence[0].PlaneOrientationSequence[0]
    along_row = np.array([float(value) for value in orientation.ImageOrientationPatient[:3]])
    orientation.ImageOrientationPatient[:3] = [f"{-value:.9f}" for value in along_row]
    for groups in dataset.PerFrameFunctionalGroupsSequence:
        plane = groups.PlanePositionSequence[0]
        moved = np.array([float(value) for value in plane.ImagePositionPatient]) + 9 * 0.5 * along_row
        plane.ImagePositionPatient = [f"{value:.9f}" for value in moved]
    pixels = np.unpackbits(np.frombuffer(dataset.PixelData, np.uint8), bitorder="little")
    size = int(dataset.NumberOfFrames), 12, 10
    flipped = pixels[: np.prod(size)].reshape(size)[..., ::-1]
    packed = np.packbits(flipped.ravel(), bitorder="little").tobytes()
    dataset.PixelData = packed + b"\0" * (len(packed) % 2)
    dataset.save_as(file)


def test_flipped_frames_are_placed_by_their_own_orientation(tmp_path: Path, folder: Path, series: CTSeries) -> None:
    file = write_segmentation(tmp_path / "seg.dcm", folder, masks(), ["liver", "spleen"])
    flip_frames(file)
    assert np.array_equal(read_label(file, series, CLASSES).numpy(), class_map())


def test_an_enhanced_series_takes_a_structure_set(tmp_path: Path) -> None:
    series = read_series(write_enhanced(tmp_path / "all.dcm", order=[3, 1, 0, 2, 4]))
    file = write_structure_set(tmp_path / "rs.dcm", series, {"liver": LIVER, "spleen": SPLEEN})
    assert np.array_equal(read_label(file, series, CLASSES).numpy(), class_map())


def test_a_contour_in_a_contour_is_a_hole(tmp_path: Path, series: CTSeries) -> None:
    rings = {"liver": [(2, box(0.5, 0.5, 7, 7)), (2, box(2.5, 2.5, 2, 2))]}
    label = read_label(write_structure_set(tmp_path / "rs.dcm", series, rings), series, {"liver": 1})
    assert int(label.sum()) == 7 * 7 - 2 * 2 and int(label[0, 3:5, 3:5, 2].sum()) == 0


def test_organs_that_share_an_edge_neither_overlap_nor_leave_a_gap(tmp_path: Path, series: CTSeries) -> None:
    halves = {"liver": [(2, box(1, 1, 4, 6))], "spleen": [(2, box(5, 1, 3, 6))]}
    label = read_label(write_structure_set(tmp_path / "rs.dcm", series, halves), series, CLASSES)
    assert int((label == 1).sum()) == 24 and int((label == 2).sum()) == 18
    assert label[0, :, 3, 2].tolist() == [0, 1, 1, 1, 1, 2, 2, 2, 0, 0]  # the left edge belongs to an organ


@pytest.mark.parametrize("kind", ["structure set", "segmentation"])
def test_unknown_names_are_listed_and_may_be_ignored(tmp_path: Path, folder: Path, series: CTSeries, kind: str) -> None:
    if kind == "segmentation":
        file = write_segmentation(tmp_path / "seg.dcm", folder, masks(), ["liver", "BODY"])
    else:
        file = write_structure_set(tmp_path / "rs.dcm", series, {"liver": LIVER, "BODY": SPLEEN})
    with pytest.raises(ValueError, match="names that are not in classes: 'BODY'"):
        read_label(file, series, {"liver": 1})
    label = read_label(file, series, {"liver": 1}, ignored=["BODY"])
    assert np.array_equal(label.numpy(), (class_map() == 1).astype(np.uint8))


def test_a_class_without_voxels_is_warned_of(tmp_path: Path, series: CTSeries) -> None:
    file = write_structure_set(tmp_path / "rs.dcm", series, {"liver": LIVER, "spleen": []})
    with pytest.warns(UserWarning, match="holds nothing of 'spleen': its voxels count as background"):
        read_label(file, series, CLASSES)


def test_several_names_may_share_a_class(tmp_path: Path, series: CTSeries) -> None:
    file = write_structure_set(tmp_path / "rs.dcm", series, {"kidney left": LIVER, "kidney right": SPLEEN})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        label = read_label(file, series, {"kidney left": 3, "kidney right": 3})
    assert label.unique().tolist() == [0, 3]


def test_slices_without_a_contour_are_counted_and_left_empty(tmp_path: Path, series: CTSeries) -> None:
    every_second = {"liver": [(0, box(2.5, 1.5, 4, 3)), (2, box(2.5, 1.5, 4, 3)), (4, box(2.5, 1.5, 4, 3))]}
    file = write_structure_set(tmp_path / "rs.dcm", series, every_second)
    with pytest.warns(UserWarning, match="no contour on 2 of 5 slices"):
        label = read_label(file, series, {"liver": 1})
    assert int(label[..., 1].sum()) == 0


@pytest.mark.filterwarnings("ignore:.*holds nothing of:UserWarning")
@pytest.mark.parametrize(
    ("organs", "options", "message"),
    [
        ({"liver": LIVER, "spleen": [(1, box(4.5, 1.5, 3, 3))]}, {}, "'spleen' and 'liver' of .* overlap in 6 voxels"),
        ({"liver": [(1.4, box(2, 2, 3, 3))]}, {}, "at slice 1.40 to 1.40, not on one"),
        ({"liver": [(5, box(2, 2, 3, 3))]}, {}, "outside the series, at slice 5 of 0 to 4"),
        ({"liver": LIVER, "liver*": SPLEEN}, {}, "several objects of the name 'liver'"),
        ({"liver": LIVER}, {"kind": "OPEN_PLANAR"}, "drawn as OPEN_PLANAR, which encloses no area"),
        ({"liver": LIVER}, {"frame_of_reference": "1.2.3"}, "another frame of reference"),
        ({"liver": LIVER}, {"series_uid": "1.2.3"}, "another series than this one"),
        ({"liver": []}, {}, "holds none of the classes"),
        ({"liver": [(1, box(2.1, 2.1, 0.5, 0.5))]}, {}, "marks no voxel of the series"),
    ],
)
def test_structure_sets_that_do_not_fit_are_refused(
    tmp_path: Path, series: CTSeries, organs: dict, options: dict, message: str
) -> None:
    file = write_structure_set(tmp_path / "rs.dcm", series, organs, **options)
    with pytest.raises(ValueError, match=message):
        read_label(file, series, CLASSES)


def test_overlapping_segments_are_refused(tmp_path: Path, folder: Path, series: CTSeries) -> None:
    values = masks()
    values[1, 2, 3, 1] = 1
    file = write_segmentation(tmp_path / "seg.dcm", folder, values, ["liver", "spleen"])
    with pytest.raises(ValueError, match="overlap in 1 voxels"):
        read_label(file, series, CLASSES)


def test_fractions_are_refused(tmp_path: Path, folder: Path, series: CTSeries) -> None:
    file = write_segmentation(tmp_path / "seg.dcm", folder, masks() * 0.5, ["liver", "spleen"], "FRACTIONAL")
    with pytest.raises(ValueError, match="holds fractions"):
        read_label(file, series, CLASSES)


def test_a_segmentation_on_another_grid_is_refused(tmp_path: Path, folder: Path, series: CTSeries) -> None:
    file = write_segmentation(tmp_path / "seg.dcm", folder, masks(), ["liver", "spleen"])
    dataset = pydicom.dcmread(file)
    dataset.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].PixelSpacing = [0.75, 0.6]
    dataset.save_as(file)
    with pytest.raises(ValueError, match="lies on another grid than the series"):
        read_label(file, series, CLASSES)


def test_a_segmentation_of_another_series_is_refused(tmp_path: Path, folder: Path) -> None:
    file = write_segmentation(tmp_path / "seg.dcm", folder, masks(), ["liver", "spleen"])
    other = read_series(write_series(tmp_path / "other", orientation=OBLIQUE))
    with pytest.raises(ValueError, match="another series than this one"):
        read_label(file, other, CLASSES)


def test_what_is_no_label_is_refused(folder: Path, series: CTSeries) -> None:
    with pytest.raises(ValueError, match="no label: its modality is CT"):
        read_label(folder / "slice_000.dcm", series, CLASSES)


@pytest.mark.parametrize(
    ("classes", "error"),
    [({}, TypeError), (["liver"], TypeError), ({"liver": 0}, ValueError), ({"liver": "1"}, ValueError)],
)
def test_classes_map_names_to_indices_above_zero(
    tmp_path: Path, series: CTSeries, classes: object, error: type
) -> None:
    file = write_structure_set(tmp_path / "rs.dcm", series, {"liver": LIVER})
    with pytest.raises(error, match="classes must map names"):
        read_label(file, series, classes)  # type: ignore[arg-type]
