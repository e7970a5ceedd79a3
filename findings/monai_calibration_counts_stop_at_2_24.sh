#!/usr/bin/env bash
# MONAI 1.6.1 (torch 2.13.0, CPU): calibration of whole CT volumes. calibration_binning adds one per voxel in float32,
# where 2^24 + 1 is 2^24: a bin that gets more than 16,777,216 voxels (a volume of 512 x 512 x 65 has more) stops there.
# The sum of the probabilities is rounded the same way, so that the mean of voxels which all have probability 0.3 is
# 0.28, and CalibrationErrorMetric, the gap between mean probability and share of positives, is 0.28 instead of 0.3.
#
# Seen: "17000000 voxels of probability 0.3: count 16777216, mean 0.280, error 0.280". Fails when that changes.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
if [ -z "${PYTHON:-}" ]; then
    python3 -m venv "$folder/venv"
    PYTHON="$folder/venv/bin/python"
    "$PYTHON" -m pip install --quiet --disable-pip-version-check "torch==2.13.0" "monai==1.6.1" "numpy<3"
fi
"$PYTHON" - <<'PYTHON'
import torch
from monai.metrics import CalibrationErrorMetric
from monai.metrics.calibration import calibration_binning

voxels = 17_000_000
probabilities, label = torch.full((1, 1, voxels), 0.3), torch.zeros(1, 1, voxels)
means, _, counts = calibration_binning(probabilities, label, num_bins=4)
metric = CalibrationErrorMetric(num_bins=4, include_background=True)
metric(probabilities, label)
count, mean, error = int(counts.max()), float(means[~means.isnan()]), float(metric.aggregate())
print(f"{voxels} voxels of probability 0.3: count {count}, mean {mean:.3f}, error {error:.3f}")
assert count == 2**24 and round(mean, 3) == 0.28 and round(error, 3) == 0.28, "this has changed"
PYTHON
