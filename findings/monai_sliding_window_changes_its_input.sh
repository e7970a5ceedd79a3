#!/usr/bin/env bash
# MONAI 1.6.1 (torch 2.13.0, CPU): SlidingWindowInferer changes the volume that it is given when the predictor returns
# its window itself and one window is run at a time. The blending weights are multiplied onto the predictor's output in
# place, and with sw_batch_size=1 that output is a view of the input: a network that is the identity for the moment (a
# denoiser that is switched off, nn.Identity as a placeholder, a residual refiner before training) leaves the caller's
# image multiplied by Gaussian weights, with no error. With sw_batch_size=2, or a predictor that clones, it is
# untouched.
#
# Seen: "sw_batch_size=1: input changed by up to 1.000; sw_batch_size=2: 0; clone: 0". Fails when that changes.
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
from monai.inferers import SlidingWindowInferer


def change(predictor, windows):
    volume = torch.ones(1, 1, 32, 32, 32)
    before = volume.clone()
    SlidingWindowInferer((16, 16, 16), windows, overlap=0.25, mode="gaussian")(volume, predictor)
    return float((volume - before).abs().max())


one = change(torch.nn.Identity(), 1)
two = change(torch.nn.Identity(), 2)
clone = change(lambda window: window.clone(), 1)
print(f"sw_batch_size=1: input changed by up to {one:.3f}; sw_batch_size=2: {two:g}; clone: {clone:g}")
assert one > 0.9 and two == 0 and clone == 0, "the behavior has changed"
PYTHON
