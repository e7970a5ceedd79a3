#!/usr/bin/env bash
# MONAI 1.6.1 (torch 2.13.0, CPU): Invertd makes everything that CropForegroundd cut away foreground, where it stands
# before the sigmoid. The inverse of a crop pads with 0. Of a probability that is background; of a logit it is the
# sigmoid's 0.5, and AsDiscreted(threshold=0.5) counts what is equal to the threshold. So the order Invertd,
# Activationsd(sigmoid=True), AsDiscreted(threshold=0.5) labels the whole outside of the crop, with no warning;
# Activationsd first is right. The order is in use: the Model Zoo's renalStructures_CECT_segmentation has it (without a
# crop); project-MONAI/tutorials' pull request 938 met the zeros in test-time augmentation.
#
# Seen, for 64 voxels of foreground in a crop of 16^3 out of 32^3: "Invertd before the sigmoid: 28736 voxels of
# foreground (64 predicted, 28672 outside the crop); after it: 64". Fails when that changes.
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
from monai.data import MetaTensor
from monai.transforms import Activationsd, AsDiscreted, Compose, CropForegroundd, Invertd

preprocessing = Compose([CropForegroundd("image", source_key="image")])


def foreground(inverted_first):
    volume, logits = torch.zeros(1, 32, 32, 32), torch.full((1, 16, 16, 16), -4.0)
    volume[:, 8:24, 8:24, 8:24], logits[:, 4:8, 4:8, 4:8] = 1, 4
    item = {**preprocessing({"image": MetaTensor(volume)}), "pred": MetaTensor(logits)}
    invert = Invertd("pred", transform=preprocessing, orig_keys="image", nearest_interp=False)
    steps = [invert, Activationsd("pred", sigmoid=True)]
    done = Compose([*(steps if inverted_first else steps[::-1]), AsDiscreted("pred", threshold=0.5)])(item)
    return done["pred"].as_tensor()


before, after = foreground(True), foreground(False)
inside = int(before[:, 8:24, 8:24, 8:24].sum())
print(f"Invertd before the sigmoid: {int(before.sum())} voxels of foreground ({inside} predicted, "
      f"{int(before.sum()) - inside} outside the crop); after it: {int(after.sum())}")
assert before.shape == after.shape == (1, 32, 32, 32) and int(after.sum()) == inside == 64
assert int(before.sum()) == 64 + 32**3 - 16**3, "the behavior has changed"
PYTHON
