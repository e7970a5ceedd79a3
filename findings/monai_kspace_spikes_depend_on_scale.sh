#!/usr/bin/env bash
# MONAI 1.6.1 (torch 2.13.0, CPU): the strength of RandKSpaceSpikeNoise, left to its default, depends on the unit of the
# image. The default intensity is 0.95 to 1.10 times 2.5 times the mean of the logarithm of the spectrum (the
# documentation says 0.95 to 1.10 times the mean, without the 2.5). A mean of logarithms grows with log(scale), so the
# spike grows with scale to the power of about 2.5 where the image grows with scale: the same picture, seed and place of
# the spike is nearly untouched in values of 0 to 1 and buried in values of 0 to 400. A robustness test or an
# augmentation of 0..1 images with it tests next to nothing. intensity_range fixes it, as an absolute logarithm for each
# unit.
#
# Seen, as root mean square of the change over the range of the image, median of 20 seeds: "values 0 to 1: 0.0068; times
# 400: 60.93, 8959 times as much". Fails when that changes.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
if [ -z "${PYTHON:-}" ]; then
    python3 -m venv "$folder/venv"
    PYTHON="$folder/venv/bin/python"
    "$PYTHON" -m pip install --quiet --disable-pip-version-check "torch==2.13.0" "monai==1.6.1" "numpy<3"
fi
"$PYTHON" - <<'PYTHON'
from statistics import median

import torch
from monai.transforms import RandKSpaceSpikeNoise

SQUARES = (torch.arange(32.0) - 15.5) ** 2
BALL = ((SQUARES[:, None, None] + SQUARES[None, :, None] + SQUARES[None, None, :]) < 81).float()
NOISE = torch.randn(BALL.shape, generator=torch.Generator().manual_seed(0))
IMAGE = (0.2 + 0.6 * BALL + 0.05 * NOISE).clamp(0, 1)[None]


def change(scale, seed):
    image = IMAGE * scale
    after = RandKSpaceSpikeNoise(prob=1.0).set_random_state(seed)(image)
    return float((after - image).square().mean().sqrt() / (image.max() - image.min()))


small, large = ([change(scale, seed) for seed in range(20)] for scale in (1.0, 400.0))
print(f"values 0 to 1: {median(small):.4f}; times 400: {median(large):.2f}, {median(large) / median(small):.0f} times "
      "as much")
assert max(small) < 0.02 and min(large) > 10, "the behavior has changed"
PYTHON
