# SPDX-License-Identifier: Apache-2.0
"""Windows without a wanted voxel do not run, and wanted voxels do not notice."""

from __future__ import annotations

import pytest
import torch
from monai.inferers import SlidingWindowInferer

from monai_adversarial.inferers import MemoryBoundedSlidingWindowInferer
from monai_adversarial.inferers.skipped_windows import SkippedWindows
from tests.helpers import random_image, tiny_segmentation_network


@pytest.mark.parametrize("kind", [SlidingWindowInferer, MemoryBoundedSlidingWindowInferer])
@pytest.mark.parametrize("shape", [(20, 9), (5, 20)])  # the second is padded
@pytest.mark.parametrize("per_batch", [1, 3])
def test_wanted_voxels_have_the_output_of_the_whole_inferer(kind, shape, per_batch):
    network = tiny_segmentation_network(spatial_dims=2)
    inferer = kind((8, 8), per_batch, 0.25, mode="gaussian")
    image = random_image((4, 1, *shape))  # two copies of a batch of two
    wanted = torch.zeros(2, 1, *shape, dtype=torch.bool)
    wanted[0, :, 0, 0] = wanted[0, :, 2, 8] = True
    ran: list[int] = []

    def counted(windows):
        ran.append(len(windows))
        return network(windows)

    with torch.no_grad():
        whole = inferer(image, counted)
    everything = sum(ran)
    ran.clear()

    windows = SkippedWindows(inferer, wanted)
    with torch.no_grad():
        found = windows(image, counted)
    where = wanted.repeat(2, 1, 1, 1).expand_as(whole)
    torch.testing.assert_close(found[where], whole[where])
    assert found.shape == whole.shape and windows.skipped > 0
    assert sum(ran) == windows.computed and windows.computed + windows.skipped == everything
    assert not inferer.with_coord


def test_coordinates_conditions_and_several_outputs_stay_with_their_windows():
    image = random_image((1, 1, 24))
    wanted = torch.zeros(1, 1, 24, dtype=torch.bool)
    wanted[..., 9] = True
    seen = []

    def network(windows, where, condition):
        seen.append((windows, [index[2].start for index in where], condition))
        return {"a": windows + condition, "b": windows}

    inferer = SlidingWindowInferer((8,), 3, 0.0, with_coord=True)
    found = SkippedWindows(inferer, wanted)(image, network, condition=10 * image)
    assert len(seen) == 1 and seen[0][1] == [8]
    torch.testing.assert_close(found["a"][..., 8:16], 11 * image[..., 8:16])
    assert bool((found["b"][..., :8] == 0).all())
