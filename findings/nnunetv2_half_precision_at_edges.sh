#!/usr/bin/env bash
# nnunetv2 2.8.1 (torch 2.13.0, CPU; the code is the same on CUDA): nnUNetPredictor rounds logits to whole numbers in
# the corners of a volume, and to a few steps along its edges, so that the wrong class wins there. The blending weights
# and the sums of weighted logits are float16; in the corner of a window the Gaussian is 10 * exp(-24) = 4e-10, which
# float16 does not have, so that the smallest number that it has (6e-8) stands for it. A weighted logit there is a
# multiple of 6e-8 as well: 0.3 and 0.4 both become 0, and argmax takes the first class. Where windows overlap this does
# not matter; at the edges of the volume there is no other window. Sums in float32 cure it (twice the memory of the
# logits).
#
# Seen, for a network that answers 0.3 and 0.4 everywhere: "class 0 wins in 4952 of 884736 voxels, none in float32; the
# logit 0.4 is off by up to 0.40". Fails when that changes.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
if [ -z "${PYTHON:-}" ]; then
    python3 -m venv "$folder/venv"
    PYTHON="$folder/venv/bin/python"
    "$PYTHON" -m pip install --quiet --disable-pip-version-check "torch==2.13.0" "nnunetv2==2.8.1" "numpy<3"
fi
"$PYTHON" - <<'PYTHON'
import itertools
from types import SimpleNamespace

import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.inference.sliding_window_prediction import compute_gaussian

PATCH, SHAPE = (64, 64, 64), (96, 96, 96)


class Constant(torch.nn.Module):
    def forward(self, image):
        return torch.cat([torch.full_like(image, 0.3), torch.full_like(image, 0.4)], dim=1)


predictor = nnUNetPredictor(use_mirroring=False, device=torch.device("cpu"), allow_tqdm=False)
predictor.network, predictor.list_of_parameters = Constant(), [{}]
predictor.configuration_manager = SimpleNamespace(patch_size=list(PATCH))
predictor.label_manager = SimpleNamespace(num_segmentation_heads=2)
logits = predictor.predict_logits_from_preprocessed_data(torch.zeros(1, *SHAPE))
wrong = int((logits.argmax(0) == 0).sum())
error = float((logits[1].float() - 0.4).abs().max())

# The same windows and weights, added in float32.
weight = compute_gaussian(PATCH, 1 / 8, 10, device=torch.device("cpu")).float()
total, weights = torch.zeros(2, *SHAPE), torch.zeros(SHAPE)
for starts in itertools.product((0, 32), repeat=3):
    where = tuple(slice(start, start + 64) for start in starts)
    total[(slice(None), *where)] += torch.tensor([0.3, 0.4])[:, None, None, None] * weight
    weights[where] += weight
single = int(((total / weights).argmax(0) == 0).sum())
print(f"class 0 wins in {wrong} of {logits[0].numel()} voxels, {single or 'none'} in float32;")
print(f"the logit 0.4 is off by up to {error:.2f}")
assert wrong > 1000 and single == 0 and error > 0.3, "the behavior has changed"
PYTHON
