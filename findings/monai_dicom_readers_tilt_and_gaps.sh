#!/usr/bin/env bash
# MONAI 1.6.1 (torch 2.13.0, CPU, pydicom 3.0.2, itk 5.4.7): two things of CT series that neither reader names.
# Gantry tilt (common in head CT): slices are tilted by 15 degrees, the table moves along z. PydicomReader has the
# sheared affine that the positions say; ITKReader has one whose slice axis is the slices' normal, so that the same
# voxel of a stack of 100 mm lies 26 mm apart for the two. A missing slice: both spread the slices that are there evenly
# over the distance of the first and the last, which moves anatomy; ITK writes to the terminal from C++, Python sees
# neither a warning nor an error.
#
# Seen: "tilt of 15 degrees: last slice 26.1 mm apart; slice 2 of 5 missing: spacing 3.33 and 3.33 mm instead of 2.5;
# warnings: 0". Fails when that changes.
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


def write(folder, heights, degrees=0.0):
    folder.mkdir()
    series, angle = generate_uid(), np.deg2rad(degrees)
    for place, height in enumerate(heights):
        dataset = Dataset()
        dataset.file_meta = FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = CTImageStorage
        dataset.Modality, dataset.SeriesInstanceUID, dataset.InstanceNumber = "CT", series, place + 1
        dataset.ImagePositionPatient = [0, 0, height]
        dataset.ImageOrientationPatient = [1, 0, 0, 0, round(np.cos(angle), 6), round(-np.sin(angle), 6)]
        dataset.PixelSpacing, dataset.RescaleSlope, dataset.RescaleIntercept = [1, 1], 1, 0
        dataset.set_pixel_data(np.full((4, 4), place, dtype=np.int16), "MONOCHROME2", 16)
        dataset.save_as(folder / f"{place:02d}.dcm", enforce_file_format=True)
    return folder


root = Path(sys.argv[1])
tilted = write(root / "tilted", np.arange(41) * 2.5, 15.0)
gap = write(root / "gap", [0.0, 2.5, 7.5, 10.0])
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    affines = [LoadImage(reader=reader(), image_only=True)(str(tilted)).affine.numpy() for reader in
               (PydicomReader, ITKReader)]
    steps = [float(LoadImage(reader=reader(), image_only=True)(str(gap)).affine[2, 2]) for reader in
             (PydicomReader, ITKReader)]
said = [w for w in caught if any(word in str(w.message).lower() for word in ("slice", "tilt", "spacing", "uniform"))]
apart = float(np.linalg.norm((affines[0] - affines[1]) @ [0, 0, 40, 1]))
print(f"tilt of 15 degrees: last slice {apart:.1f} mm apart; slice 2 of 5 missing: spacing {steps[0]:.2f} and "
      f"{steps[1]:.2f} mm instead of 2.5; warnings: {len(said)}")
assert 25 < apart < 27 and all(abs(step - 10 / 3) < 1e-3 for step in steps) and not said, "the behavior has changed"
PYTHON
