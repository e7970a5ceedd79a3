# SPDX-License-Identifier: Apache-2.0
"""Memory in fresh processes, and the two passes by hand that it is compared with."""

from __future__ import annotations

import pytest
import torch
from monai.inferers import SlidingWindowInferer
from torch.nn import functional

from benchmarks.fresh_process import Fresh, extra_megabytes
from benchmarks.networks import unet, volume
from benchmarks.window_memory import METHODS, TWO_PASSES, grid_side, two_passes, work_of


def megabytes(amount: int):
    """Work that needs ``amount`` MB; called in the processes below."""
    if amount < 0:
        raise ValueError("amount must be positive.")
    return lambda: torch.ones(amount * 2**20 // 4)


def test_the_two_passes_are_the_gradient_of_the_stitched_volume() -> None:
    network = unet((4, 8)).double()
    image, label = volume((grid_side(2, 16), 16, 16), "cpu")
    leaf = image.double().requires_grad_(True)
    logits = SlidingWindowInferer(16, 1, 0.25)(leaf, network)
    expected = torch.autograd.grad(functional.cross_entropy(logits, label[:, 0]), leaf)[0]
    assert torch.allclose(two_passes(network, leaf.detach(), label, 16), expected, atol=1e-12)


@pytest.mark.parametrize("method", [*METHODS, TWO_PASSES])
def test_every_method_runs(method: str) -> None:
    network = unet((4, 8))
    image, label = volume((16, 16, 28), "cpu")
    assert work_of(method, network, 16, image, label)() is not None


def test_an_unknown_method_is_named() -> None:
    with pytest.raises(ValueError, match="method must be one of .*, got 'magic'"):
        work_of("magic", unet((4, 8)), 16, *volume((16, 16, 16), "cpu"))


@pytest.mark.slow
def test_a_fresh_process_measures_its_own_peak() -> None:
    found = [extra_megabytes(__name__, "megabytes", 1, amount=amount) for amount in (64, 256)]
    assert found[0] == pytest.approx(64, abs=8) and found[1] == pytest.approx(256, abs=8)
    with pytest.raises(RuntimeError, match="amount must be positive"):
        Fresh(__name__, "megabytes", 1, amount=-1)
