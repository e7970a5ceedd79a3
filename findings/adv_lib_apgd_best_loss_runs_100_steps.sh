#!/usr/bin/env bash
# adv-lib 0.2.8 (torch 2.13.0, CPU): apgd(..., best_loss=True), which is to look for the strongest perturbation of the
# budget instead of stopping at the first that is misclassified, does not hand n_iter on: it makes 100 steps, whatever
# is asked for. A comparison "at 5 steps" gives it twenty times the gradients of the others, and a long one of 200
# steps gives it half. The same call without best_loss makes the steps that are asked for.
#
# Seen: "n_iter=5: 6 forward passes, with best_loss=True 101; n_iter=200: 201 and 101". Fails when that changes.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
if [ -z "${PYTHON:-}" ]; then
    python3 -m venv "$folder/venv"
    PYTHON="$folder/venv/bin/python"
    "$PYTHON" -m pip install --quiet --disable-pip-version-check "torch==2.13.0" "numpy<3" "tqdm==4.70.1"
    "$PYTHON" -m pip install --quiet --disable-pip-version-check --no-deps "adv-lib==0.2.8"
fi
"$PYTHON" - <<'PYTHON'
import sys
import types

# adv_lib imports them for its LPIPS distance and for drawing, of which nothing is used here.
for name in ("torchvision", "visdom"):
    sys.modules[name] = types.ModuleType(name)
sys.modules["torchvision"].models = None

import torch
from adv_lib.attacks import apgd


class Counted(torch.nn.Module):
    """Two classes; the image is on the right side by more than the budget, so that no attack may stop early."""

    passes = 0

    def forward(self, images):
        self.passes += 1
        brightness = images.flatten(1).sum(1)
        return torch.stack([brightness, 2 - brightness], 1)


def passes(n_iter, best_loss):
    torch.manual_seed(0)
    network, image = Counted(), torch.full((1, 1, 2, 2), 0.5)
    apgd(network, image, torch.tensor([0]), 0.1, float("inf"), n_iter=n_iter, loss_function="ce", best_loss=best_loss)
    return network.passes


short, short_best, long, long_best = passes(5, False), passes(5, True), passes(200, False), passes(200, True)
print(f"n_iter=5: {short} forward passes, with best_loss=True {short_best}; n_iter=200: {long} and {long_best}")
assert (short, short_best, long, long_best) == (6, 101, 201, 101), "the behavior has changed"
PYTHON
