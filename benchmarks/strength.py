# SPDX-License-Identifier: Apache-2.0
"""Strength of the same attack in every precision mode: Dice of the bundle's network, scored in float32."""

from __future__ import annotations

import time
from pathlib import Path

import torch

from monai_adversarial.attacks import PGD
from monai_adversarial.metrics.dice import hard_prediction, mean_foreground_dice
from monai_adversarial.models import AttackedModel

__all__ = ["bundle_network", "mean_dice", "phantom_cases", "strength_rows"]

BUNDLE = Path(__file__).resolve().parent.parent / "bundles" / "ct_abdomen_unet"
WINDOW = {"a_min": -160.0, "a_max": 240.0, "b_min": 0.0, "b_max": 1.0, "clip": True}


def bundle_network(device: str, weights: str = "model.pt") -> torch.nn.Module:
    """The network of the CT bundle with some of its weights."""
    from monai.bundle import ConfigParser

    parser = ConfigParser()
    parser.read_config(str(BUNDLE / "configs" / "inference.yaml"))
    network = parser.get_parsed_content("network_def")
    network.load_state_dict(torch.load(BUNDLE / "models" / weights, map_location="cpu", weights_only=True))
    return network.to(device).eval()


def phantom_cases(count: int, device: str, seed: int = 5000) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Phantoms on the grid and in the window of the CT bundle's network, each an image and its label."""
    from monai.transforms import Compose, DivisiblePadd, Orientationd, ScaleIntensityRanged, Spacingd

    from monai_adversarial.data import CTPhantomDataset

    keys = ("image", "label")
    prepare = Compose(
        [
            Orientationd(keys, axcodes="RAS", labels=None),
            Spacingd(keys, pixdim=(3.2, 3.2, 4.0), mode=("bilinear", "nearest")),
            ScaleIntensityRanged("image", WINDOW["a_min"], WINDOW["a_max"], 0.0, 1.0, clip=True),
            DivisiblePadd(keys, k=16),
        ]
    )
    phantoms = CTPhantomDataset(count, seed=seed, transform=prepare)
    return [
        (item["image"][None].as_tensor().to(device), item["label"][None].as_tensor().long().to(device))
        for item in phantoms
    ]


def mean_dice(network: torch.nn.Module, image: torch.Tensor, label: torch.Tensor) -> float:
    """Mean Dice over the organs, in float32."""
    with torch.no_grad():
        logits = network(image)
    return float(mean_foreground_dice(hard_prediction(logits, "softmax"), label, logits.shape[1], "softmax").mean())


def strength_rows(device: str, cases: int, steps: int, compiled: bool) -> list[tuple[str, float, float]]:
    """(mode, mean organ Dice after PGD at 8 HU, seconds); the first row is the clean Dice."""
    network = bundle_network(device)
    data = phantom_cases(cases, device)

    rows = [("clean", sum(mean_dice(network, *case) for case in data) / cases, 0.0)]
    modes = [("float32", False), ("bfloat16", False), ("auto", False)]
    modes += [("float16", False)] if device.startswith("cuda") else []  # most CPUs only emulate it
    modes += [("auto", True)] if compiled else []
    for mode, compile_network in modes:
        attack = PGD(8, "HU", steps=steps)
        model = AttackedModel(network, intensity=WINDOW, precision=mode, compile_network=compile_network)
        begin = time.perf_counter()
        total = sum(mean_dice(network, attack(model, *case).adversarial, case[1]) for case in data)
        rows.append((f"{mode}{', compiled' * compile_network}", total / cases, time.perf_counter() - begin))
    return rows
