# SPDX-License-Identifier: Apache-2.0
"""The CT phantom bundle's network and phantoms on its grid."""

from __future__ import annotations

import torch
from monai.bundle import ConfigParser
from monai.transforms import Compose, DivisiblePadd, Orientationd, ScaleIntensityRanged, Spacingd

from benchmarks.strength import BUNDLE, WINDOW
from monai_adversarial.data import CTPhantomDataset
from monai_adversarial.metrics.dice import hard_prediction, mean_foreground_dice

__all__ = ["WEIGHTS", "WINDOW", "mean_dice", "phantom_cases", "phantom_network"]

WEIGHTS = BUNDLE / "models" / "model.pt"
SEED = 5000
SPACING = (3.2, 3.2, 4.0)

Case = tuple[torch.Tensor, torch.Tensor]


def phantom_network(device: str) -> torch.nn.Module:
    """The bundle's trained network, frozen, in eval mode; takes the window as 0 to 1."""
    parser = ConfigParser()
    parser.read_config(str(BUNDLE / "configs" / "inference.yaml"))
    network = parser.get_parsed_content("network_def")
    network.load_state_dict(torch.load(WEIGHTS, map_location="cpu", weights_only=True))
    return network.to(device).eval().requires_grad_(False)


def phantom_cases(count: int, device: str) -> list[Case]:
    """Image (1, 1, spatial...) in 0 to 1 and class map of ``count`` phantoms that no network was trained on."""
    keys = ("image", "label")
    prepare = Compose(
        [
            Orientationd(keys, axcodes="RAS", labels=None),
            Spacingd(keys, pixdim=SPACING, mode=("bilinear", "nearest")),
            ScaleIntensityRanged("image", WINDOW["a_min"], WINDOW["a_max"], 0.0, 1.0, clip=True),
            DivisiblePadd(keys, k=16),
        ]
    )
    items = CTPhantomDataset(count, seed=SEED, transform=prepare)
    return [
        (one["image"][None].as_tensor().contiguous().to(device), one["label"][None].as_tensor().long().to(device))
        for one in items
    ]


def mean_dice(network: torch.nn.Module, image: torch.Tensor, label: torch.Tensor) -> float:
    """Mean Dice over the organs, float32."""
    with torch.no_grad():
        logits = network(image)
    return float(mean_foreground_dice(hard_prediction(logits, "softmax"), label, logits.shape[1], "softmax").mean())
