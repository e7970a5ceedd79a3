#!/usr/bin/env bash
# MONAI 1.6.1 (torch 2.13.0, CPU): RandSimulateLowResolution moves the image, by half a voxel along every axis in its
# default range of zooms (0.5 to 1), by 1.5 voxels at 0.25. Its default downsample_mode is "nearest", torch's
# interpolation that keeps the first voxel of every group instead of the middle; the trilinear way back is centered, so
# that the shift stays. The transform is made for images alone: the label stays where it was, no affine changes, nothing
# is said. With downsample_mode="area" or "trilinear" the image stays in place.
#
# Seen, for a blob centered at 15.5 in 32 voxels: "zoom 0.75: nearest 16.00, trilinear 15.50, area 15.50; zoom 0.5:
# nearest 16.00, trilinear 15.50, area 15.50; zoom 0.25: nearest 17.00, trilinear 15.50, area 15.50". Fails when that
# changes.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
if [ -z "${PYTHON:-}" ]; then
    python3 -m venv "$folder/venv"
    PYTHON="$folder/venv/bin/python"
    "$PYTHON" -m pip install --quiet --disable-pip-version-check "torch==2.13.0" "monai==1.6.1" "numpy<3"
fi
"$PYTHON" - <<'PYTHON'
import inspect

import torch
from monai.transforms import RandSimulateLowResolution

AXIS = torch.arange(32.0)
SQUARES = (AXIS - 15.5) ** 2
BLOB = torch.exp(-(SQUARES[:, None, None] + SQUARES[None, :, None] + SQUARES[None, None, :]) / 32)[None]


def center(zoom, mode):
    low = RandSimulateLowResolution(prob=1.0, downsample_mode=mode, zoom_range=(zoom, zoom))(BLOB)[0]
    return float((low.sum((1, 2)) * AXIS).sum() / low.sum())


default = inspect.signature(RandSimulateLowResolution).parameters["downsample_mode"].default
modes = ("nearest", "trilinear", "area")
centers = {zoom: {mode: center(zoom, mode) for mode in modes} for zoom in (0.75, 0.5, 0.25)}
print("; ".join(f"zoom {zoom}: " + ", ".join(f"{mode} {where:.2f}" for mode, where in row.items())
                for zoom, row in centers.items()))
assert str(getattr(default, "value", default)) == "nearest", "the default has changed"
moved = [row["nearest"] for row in centers.values()]
assert max(abs(seen - was) for seen, was in zip(moved, (16, 16, 17))) < 0.01, "the behavior has changed"
assert all(abs(row[mode] - 15.5) < 0.01 for row in centers.values() for mode in modes[1:])
PYTHON
