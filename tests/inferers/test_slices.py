# SPDX-License-Identifier: Apache-2.0
"""A 2D network over the slices of a volume: MONAI's values, exact gradients, the memory of one batch of windows."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch
from monai.inferers import SliceInferer
from torch import nn

from monai_adversarial.attacks import PGD
from monai_adversarial.inferers import MemoryBoundedSliceInferer, ScannerSpaceInferer, memory_bounded
from monai_adversarial.models import AttackedModel
from tests.helpers import random_label
from tests.inferers.test_memory_bounded import (
    Network,
    PeakBytes,
    Several,
    assert_same,
    build,
    difference,
    run,
    saved_bytes,
    volume,
)


class Several2d(Several):
    def __init__(self, kind: str) -> None:
        Network.__init__(self, 2)
        self.kind = kind


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("mode", ["constant", "gaussian"])
@pytest.mark.parametrize("roi", [(4, 5), (6, 9), (-1, 4)])
def test_output_and_gradient_equal_backpropagation_through_monai(axis: int, mode: str, roi: tuple[int, int]) -> None:
    image, network = volume(2, 1, 7, 6, 5), build(lambda: Network(2))
    settings = {"roi_size": roi, "sw_batch_size": 3, "overlap": 0.5, "mode": mode, "padding_mode": "replicate"}
    theirs = SliceInferer(spatial_dim=axis, **settings)
    reference = run(theirs, network, image)
    ours = memory_bounded(theirs)
    assert type(ours) is MemoryBoundedSliceInferer
    for inferer in (ours, MemoryBoundedSliceInferer(axis, **settings)):
        assert_same(run(inferer, network, image), reference, 1e-10)


@pytest.mark.parametrize("head", [nn.Softmax(1), nn.Sigmoid(), nn.ReLU(inplace=True)])
def test_a_network_may_end_in_an_activation(head: nn.Module) -> None:
    image, network = volume(1, 1, 6, 6, 4), build(lambda: Network(2, head))
    settings = {"roi_size": (4, 4), "spatial_dim": 2, "overlap": 0.5, "mode": "gaussian"}
    reference = run(SliceInferer(**settings), lambda x: network(x).clone(), image)
    assert_same(run(memory_bounded(SliceInferer(**settings)), network, image), reference, 1e-10)


@pytest.mark.parametrize("kind", ["tuple", "list", "dict"])
def test_several_outputs_equal_monai(kind: str) -> None:
    image, network = volume(1, 1, 6, 5, 4), build(lambda: Several2d(kind))
    settings = {"roi_size": (4, 3), "spatial_dim": 1, "overlap": 0.25}
    assert_same(
        run(memory_bounded(SliceInferer(**settings)), network, image),
        run(SliceInferer(**settings), network, image),
        1e-10,
    )
    outputs = memory_bounded(SliceInferer(**settings))(image, network)
    assert type(outputs) is type(SliceInferer(**settings)(image, network))


def test_condition_reaches_the_network_and_other_inputs_do_not_as_in_monai() -> None:
    image, inner = volume(1, 1, 6, 5, 4), build(lambda: Network(2))
    settings = {"roi_size": (4, 3), "spatial_dim": 0}

    def network(x: torch.Tensor, condition: torch.Tensor | float = 2.0) -> torch.Tensor:
        return inner(x * condition)

    for kwargs in ({}, {"condition": image.flip(2)}, {"condition": None}):
        expected = SliceInferer(**settings)(image, network, **kwargs)
        assert difference(memory_bounded(SliceInferer(**settings))(image, network, **kwargs), expected) < 1e-10
    with pytest.warns(UserWarning, match="no further inputs"):
        found = memory_bounded(SliceInferer(**settings))(image, network, 7.0)
    assert difference(found, SliceInferer(**settings)(image, network, 7.0)) < 1e-10


def test_saved_memory_does_not_grow_with_the_number_of_slices() -> None:
    network = build(lambda: Network(2))

    def saved_besides_the_image(depth: int) -> float:
        image = volume(1, 1, 16, 16, depth)
        inferer = memory_bounded(SliceInferer(roi_size=(16, 16), spatial_dim=2, sw_batch_size=2), 0)
        return saved_bytes(inferer, network, image) - image.nbytes

    # the graph of the last two slices
    assert 0 < saved_besides_the_image(4) == saved_besides_the_image(64) < 16 * volume(1, 1, 16, 16, 2).nbytes


def test_peak_memory_is_that_of_one_batch_of_windows_and_a_few_volumes() -> None:
    network = build(lambda: Network(2), torch.float32).requires_grad_(False)

    def peak(inferer: Any, depth: int) -> int:
        leaf = volume(1, 1, 16, 16, depth, dtype=torch.float32).requires_grad_()
        with PeakBytes() as tracker:
            output = inferer(leaf, network)
            output.sum().backward()
        return tracker.peak

    theirs = SliceInferer(roi_size=(16, 16), spatial_dim=2, sw_batch_size=2)
    step = 4 * 16 * 16  # bytes of a slice
    growth = (peak(memory_bounded(theirs, 0), 72) - peak(memory_bounded(theirs, 0), 8)) / (64 * step)
    assert growth <= 6  # output and its gradient in two channels, gradient of the image
    assert (peak(theirs, 72) - peak(theirs, 8)) / (64 * step) > 3 * growth


@pytest.mark.parametrize("softmax", [False, True])
def test_an_attack_through_slices_is_the_attack_on_the_network_slice_by_slice(softmax: bool) -> None:
    network = build(lambda: Network(2, nn.Softmax(1) if softmax else None), torch.float32)
    image, label = volume(1, 1, 8, 8, 6, dtype=torch.float32), random_label((1, 1, 8, 8, 6), classes=2)

    def by_hand(x: torch.Tensor) -> torch.Tensor:
        return torch.stack([network(part) for part in x.unbind(4)], dim=4)

    attack = PGD(0.2, steps=4, objective="cross_entropy")
    found = attack(AttackedModel(network, SliceInferer(roi_size=(8, 8), spatial_dim=2, sw_batch_size=4)), image, label)
    expected = attack(by_hand, image, label)
    if softmax:  # by hand the softmax is not the last operation: the logarithm stands for it
        assert float(found.objective) >= float(expected.objective) - 1e-4
    else:
        torch.testing.assert_close(found.objective, expected.objective, rtol=1e-4, atol=1e-5)
        assert (found.adversarial != expected.adversarial).float().mean() < 0.01


def test_it_is_found_inside_a_scanner_space_inferer_and_used_in_several_threads() -> None:
    inner = SliceInferer(roi_size=(4, 4), spatial_dim=2)
    assert type(memory_bounded(ScannerSpaceInferer(inner)).inferer) is MemoryBoundedSliceInferer
    ours, network = memory_bounded(inner), build(lambda: Network(2))
    image = volume(1, 1, 6, 6, 5)
    expected, found = ours(image, network), []
    threads = [threading.Thread(target=lambda: found.append(ours(image, network))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 3 and all(torch.equal(a, expected) for a in found)


def test_what_is_no_volume_is_refused_and_subclasses_stay_as_they_are() -> None:
    network = build(lambda: Network(2))
    with pytest.raises(ValueError, match=r"slices need inputs .*three spatial axes.*\(1, 1, 6, 6\)"):
        memory_bounded(SliceInferer(roi_size=(4, 4)))(volume(1, 1, 6, 6), network)
    with pytest.raises(ValueError, match="roi_size of two axes"):
        memory_bounded(SliceInferer(roi_size=(4, 4, 4)))(volume(1, 1, 6, 6, 6), network)

    class Own(SliceInferer):
        pass

    own = Own(roi_size=(4, 4))
    assert memory_bounded(own) is own
