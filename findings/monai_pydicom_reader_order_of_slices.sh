#!/usr/bin/env bash
# MONAI 1.6.1 (torch 2.13.0, CPU, pydicom 3.0.2): PydicomReader stacks the slices of a folder in the order of their
# InstanceNumber, which DICOM does not tie to space, and takes the affine from the first and the last one. Where numbers
# do not follow the positions (several reconstructions merged by an archive, numbers by acquisition time), the volume
# is shuffled and its slice spacing is wrong, with no error and no warning. Files of two series in one folder become one
# volume, too. ITKReader orders by ImagePositionPatient and reads the same folder right.
#
# Seen: "numbers 3 1 2 5 4: PydicomReader spacing 1.25 mm, heights by voxel 2.5 5 0 10 7.5; ITKReader spacing 2.50 mm,
# heights 0 2.5 5 7.5 10; two series of 3 and 2 slices: one volume of 5; warnings: 0". Fails when that changes.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
if [ -z "${PYTHON:-}" ]; then
    python3 -m venv "$folder/venv"
    PYTHON="$folder/venv/bin/python"
    "$PYTHON" -m pip install --quiet --disable-pip-version-check "torch==2.13.0" "monai==1.6.1" "numpy<3" \
        "pydicom==3.0.2" "itk==5.4.7"
fi
"$PYTHON" - "$folder" <<'PYTHON'
import sys
import warnings
from pathlib import Path

import numpy as np
from monai.data import ITKReader, PydicomReader
from monai.transforms import LoadImage
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid


def write(folder, numbers, series):
    """Slices at 0, 2.5, ... mm whose voxels are ten times their height."""
    folder.mkdir()
    for place, number in enumerate(numbers):
        dataset = Dataset()
        dataset.file_meta = FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = CTImageStorage
        dataset.Modality, dataset.SeriesInstanceUID, dataset.InstanceNumber = "CT", series[place], number
        dataset.ImagePositionPatient, dataset.ImageOrientationPatient = [0, 0, 2.5 * place], [1, 0, 0, 0, 1, 0]
        dataset.PixelSpacing, dataset.RescaleSlope, dataset.RescaleIntercept = [1, 1], 1, 0
        dataset.set_pixel_data(np.full((4, 4), 25 * place, dtype=np.int16), "MONOCHROME2", 16)
        dataset.save_as(folder / f"{place}.dcm", enforce_file_format=True)
    return folder


def read(reader, path):
    volume = LoadImage(reader=reader, image_only=True)(str(path))
    return float(volume.affine[2, 2]), (volume.as_tensor()[0, 0] / 10).tolist()


root, one, two = Path(sys.argv[1]), generate_uid(), generate_uid()
mixed = write(root / "mixed", [3, 1, 2, 5, 4], [one] * 5)
merged = write(root / "merged", [1, 2, 3, 4, 5], [one] * 3 + [two] * 2)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    step, heights = read(PydicomReader(), mixed)
    slices = len(read(PydicomReader(), merged)[1])
said = [w for w in caught if "slice" in str(w.message).lower() or "series" in str(w.message).lower()]
right_step, right = read(ITKReader(), mixed)


def shown(values):
    return " ".join(f"{value:g}" for value in values)


print(f"numbers 3 1 2 5 4: PydicomReader spacing {step:.2f} mm, heights by voxel {shown(heights)}; ITKReader spacing "
      f"{right_step:.2f} mm, heights {shown(right)}; two series of 3 and 2 slices: one volume of {slices}; "
      f"warnings: {len(said)}")
assert step == 1.25 and heights == [2.5, 5.0, 0.0, 10.0, 7.5] and slices == 5 and not said, "the behavior has changed"
assert right_step == 2.5 and right == [0.0, 2.5, 5.0, 7.5, 10.0]
PYTHON
