#!/usr/bin/env bash
# adv-lib 0.2.8 and secml-torch 1.5 (torch 2.13.0, CPU): their PGD returns the best of the points at which a gradient
# was computed, and the point that the last step leads to is none of them. N steps are N - 1. With one step from the
# clean image, which is FGSM, both give the clean image back, and a network that FGSM breaks looks untouched. Whoever
# compares libraries at a few steps compares different numbers of them.
#
# Seen: "misclassified after a step by hand: 1; largest change by 1 step of 0.3: adv-lib 0.0, secml-torch 0.0; by 2
# steps: adv-lib 0.3, secml-torch 0.3". Fails when that changes.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
if [ -z "${PYTHON:-}" ]; then
    python3 -m venv "$folder/venv"
    PYTHON="$folder/venv/bin/python"
    "$PYTHON" -m pip install --quiet --disable-pip-version-check "torch==2.13.0" "numpy<3" "tqdm==4.70.1" "secml-torch==1.5"
    "$PYTHON" -m pip install --quiet --disable-pip-version-check --no-deps "adv-lib==0.2.8"
fi
"$PYTHON" - <<'PYTHON'
import sys
import types
from importlib.machinery import ModuleSpec

# adv_lib imports them for its LPIPS distance and for drawing, of which nothing is used here.
for name in ("torchvision", "visdom"):
    sys.modules[name] = types.ModuleType(name)
    sys.modules[name].__spec__ = ModuleSpec(name, None)
sys.modules["torchvision"].models = None

import torch
from adv_lib.attacks import pgd_linf
from secmlt.adv.backends import Backends
from secmlt.adv.evasion.perturbation_models import LpPerturbationModels
from secmlt.adv.evasion.pgd import PGD
from secmlt.models.pytorch.base_pytorch_nn import BasePyTorchClassifier
from torch.utils.data import DataLoader, TensorDataset


class Brightness(torch.nn.Module):
    """Two classes; one step of 0.3 makes the image the other one."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(4))

    def forward(self, images):
        brightness = images.flatten(1) @ self.weight
        return torch.stack([brightness, 3.6 - brightness], 1)


image, label, network, size = torch.full((1, 1, 2, 2), 0.5), torch.tensor([0]), Brightness(), 0.3
assert int(network(image).argmax()) == 0


def changes(steps):
    adv_lib = pgd_linf(network, image, label, size, steps=steps, random_init=False, absolute_step_size=size)
    attack = PGD(LpPerturbationModels.LINF, size, steps, size, random_start=False, backend=Backends.NATIVE)
    loader = DataLoader(TensorDataset(image, label), batch_size=1)
    secml = attack(BasePyTorchClassifier(network), loader).dataset.tensors[0]
    return [round(float((one - image).abs().max()), 3) for one in (adv_lib, secml)]


one, two, by_hand = changes(1), changes(2), int(network(image - size).argmax())
print(f"misclassified after a step by hand: {by_hand}; ", end="")
print(f"largest change by 1 step of {size}: adv-lib {one[0]}, secml-torch {one[1]}; ", end="")
print(f"by 2 steps: adv-lib {two[0]}, secml-torch {two[1]}")
assert by_hand == 1 and one == [0.0, 0.0] and two == [0.3, 0.3], "the behavior has changed"
PYTHON
