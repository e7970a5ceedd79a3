# SPDX-License-Identifier: Apache-2.0
"""Deep supervision through sliding windows: every resolution as MONAI stitches it, with exact gradients."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.inferers import SlidingWindowInferer
from torch import nn
from torch.nn import functional as F

from monai_adversarial.attacks import PGD
from monai_adversarial.inferers import MemoryBoundedSlidingWindowInferer, ScannerSpaceInferer
from monai_adversarial.models import AttackedModel
from tests.helpers import random_label
from tests.inferers.test_memory_bounded import Network, assert_same, build, difference, run, volume


class Levels(Network):
    """Full, half and quarter resolution, as nnU-Net's ``PlainConvUNet`` and MONAI's ``SegResNetDS`` return them."""

    def __init__(self, kind: str = "list", strides: tuple[Any, ...] = (1, 2, 4)) -> None:
        super().__init__()
        self.kind, self.strides = kind, strides

    def forward(self, x: torch.Tensor) -> Any:
        y = super().forward(x)
        levels = [y if stride == 1 else F.avg_pool3d(y * (1 + n), stride) for n, stride in enumerate(self.strides)]
        if self.kind == "dict":
            return {f"level {number}": level for number, level in enumerate(levels)}
        return levels[-1] if self.kind == "tensor" else levels


@pytest.mark.parametrize("kind", ["list", "dict", "tensor"])
@pytest.mark.parametrize("mode", ["constant", "gaussian"])
@pytest.mark.parametrize(
    ("shape", "roi", "overlap", "strides"),
    [
        ((2, 1, 16, 12, 8), (8, 8, 8), 0.5, (1, 2, 4)),
        ((1, 1, 16, 16, 16), (8, 8, 8), 0, (1, 2, 4)),
        ((1, 1, 16, 6, 12), (8, 8, 8), 0.5, (1, 2)),  # padded along one axis
        ((1, 1, 4, 4, 4), (8, 8, 8), 0.5, (1, 2, 4)),  # padded along all
        ((1, 1, 16, 8, 8), (8, 8, 4), (0.5, 0.5, 0.5), (1, (2, 2, 1), (4, 4, 2))),
    ],
)
def test_values_and_gradients_equal_monai(kind, mode, shape, roi, overlap, strides) -> None:
    network, image = build(lambda: Levels(kind, strides)), volume(*shape)
    settings = {"roi_size": roi, "sw_batch_size": 3, "overlap": overlap, "mode": mode}
    reference = run(SlidingWindowInferer(**settings), network, image)
    for keep in (0, 0.05, 100):
        ours = MemoryBoundedSlidingWindowInferer(**settings, keep_windows_megabytes=keep)
        assert_same(run(ours, network, image), reference, 1e-10)


def test_a_larger_output_than_the_window_is_stitched_too() -> None:
    inner, image = build(Network), volume(1, 1, 8, 8, 8)
    settings = {"roi_size": 4, "overlap": 0.5, "mode": "gaussian"}

    def network(x: torch.Tensor) -> torch.Tensor:
        return F.interpolate(inner(x), scale_factor=2)

    reference = run(SlidingWindowInferer(**settings), network, image)
    assert_same(run(MemoryBoundedSlidingWindowInferer(**settings), network, image), reference, 1e-10)
    assert reference[0][0].shape[2:] == (16, 16, 16)


def test_full_resolution_after_a_lower_one_has_its_own_weights() -> None:
    """MONAI stops here with an error: it goes on with the weights of the lower resolution."""
    network, image = build(lambda: Levels("list", (2, 1))), volume(1, 1, 8, 8, 8)
    settings = {"roi_size": 4, "overlap": 0.5, "mode": "gaussian"}
    found = run(MemoryBoundedSlidingWindowInferer(**settings), lambda x: network(x)[1], image)
    both = MemoryBoundedSlidingWindowInferer(**settings)(image, network)
    assert difference(both[1].detach(), found[0][0]) < 1e-12


@pytest.mark.parametrize("overlap", [0.25, 0.5, 0.8])
@pytest.mark.parametrize("size", [16, 17, 19])
def test_windows_that_begin_between_two_voxels_of_an_output_are_placed_as_monai_places_them(overlap, size) -> None:
    network, image = build(lambda: Levels("list", (1, 4))), volume(1, 1, size, 16, 16)
    settings = {"roi_size": 8, "overlap": overlap}
    theirs = SlidingWindowInferer(**settings)(image, network)
    ours = MemoryBoundedSlidingWindowInferer(**settings)(image, network)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12, equal_nan=True)


def by_hand(network: nn.Module, level: int) -> Any:
    return lambda x: network(x)[level]


@pytest.mark.parametrize("inferer", [None, SlidingWindowInferer(8, 2, 0.5, mode="gaussian")])
@pytest.mark.parametrize("output", [None, 0, lambda outputs: outputs[0]], ids=["default", "index", "callable"])
def test_an_attack_is_that_on_the_full_resolution(inferer: Any, output: Any) -> None:
    network = build(Levels, torch.float32)
    image, label = volume(1, 1, 16, 16, 16, dtype=torch.float32), random_label((1, 1, 16, 16, 16), classes=2)
    model = AttackedModel(network, inferer, output=output)
    attack = PGD(0.1, steps=3)
    found = attack(model, image, label)
    expected = attack(AttackedModel(by_hand(network, 0), inferer), image, label)
    torch.testing.assert_close(found.objective, expected.objective, rtol=1e-4, atol=1e-5)
    assert (found.adversarial != expected.adversarial).float().mean() < 0.01
    said = any("output 0 of the network's 3 is attacked" in fact for fact in model.facts)
    assert said == (output is None)


def test_lower_resolutions_do_not_hinder_a_scanner_space_inferer() -> None:
    network = build(Levels, torch.float32)
    affine = torch.as_tensor(np.diag([-1.0, 1.0, 2.0, 1.0]))
    image = MetaTensor(volume(1, 1, 16, 16, 8, dtype=torch.float32), affine=affine)
    label = random_label((1, 1, 16, 16, 8), classes=2)
    inferer = ScannerSpaceInferer(SlidingWindowInferer(8, 2, 0.5))
    attack = PGD(0.1, steps=3)
    found = attack(AttackedModel(network, inferer), image, label)
    expected = attack(AttackedModel(by_hand(network, 0), inferer), image, label)
    torch.testing.assert_close(found.objective, expected.objective, rtol=1e-4, atol=1e-5)
