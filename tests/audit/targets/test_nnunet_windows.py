# SPDX-License-Identifier: Apache-2.0
"""Windows of nnU-Net: the places and weights of its predictor, with exact gradients."""

from __future__ import annotations

from contextlib import redirect_stdout
from io import StringIO
from typing import Any

import pytest
import torch

pytest.importorskip("nnunetv2")

from monai_adversarial.attacks import PGD
from monai_adversarial.audit.targets.nnunet_folder import NNUNetPlans
from monai_adversarial.audit.targets.nnunet_windows import NNUNetSlices, NNUNetWindows
from monai_adversarial.inferers.memory_bounded import memory_bounded
from monai_adversarial.models import AttackedModel
from monai_adversarial.models.predictor import Predictor
from tests.audit.targets.nnunet_parts import CONFIGURATION, dataset_of, plans_of
from tests.helpers import random_image, tiny_segmentation_network

SHAPES = [(20, 16, 24), (33, 19, 38), (41, 50, 24), (12, 16, 60), (7, 5, 3)]


def predictor_of(network: torch.nn.Module, dimensions: int = 3) -> Any:
    """nnU-Net's own, around any network."""
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    plans = NNUNetPlans(plans_of(dimensions=dimensions), dataset_of(), CONFIGURATION)
    with redirect_stdout(StringIO()):
        made = nnUNetPredictor(use_mirroring=False, device=torch.device("cpu"), allow_tqdm=False)
    weights = [network.state_dict()]
    made.manual_initialization(
        network, plans.manager, plans.configuration, weights, plans.dataset, "nnUNetTrainer", None
    )
    return made


@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize("shape", SHAPES)
def test_stitched_logits_are_those_of_nnunet(shape: tuple[int, ...], dimensions: int) -> None:
    network = tiny_segmentation_network(spatial_dims=dimensions)
    image = random_image((1, 1, *shape))
    patch = (20, 16, 24)[3 - dimensions :]
    inferer = (NNUNetWindows if dimensions == 3 else NNUNetSlices)(patch)
    expected = predictor_of(network, dimensions).predict_logits_from_preprocessed_data(image[0])
    with torch.no_grad():
        found = inferer(image, network)[0]
    # nnU-Net adds weighted logits in half precision: where all weights of a voxel are tiny, at the edges of the volume,
    # little is left of a logit.
    windows = inferer.plan(image, torch.nn.Identity()).windows
    weights = torch.zeros(1, 1, *(max(size, n) for size, n in zip(shape, windows.window_size, strict=True)))
    for where in windows.slices:
        weights[(slice(None), slice(None), *where)] += windows.weight
    before = [(n - size) // 2 for n, size in zip(weights.shape[2:], shape, strict=True)]
    own = tuple(slice(first, first + size) for first, size in zip(before, shape, strict=True))
    counts = (weights[0, 0][own] > 0.01).expand_as(found)
    assert float(counts.float().mean()) > 0.3
    assert torch.allclose(found[counts], expected.float()[counts], atol=4e-3)


@pytest.mark.parametrize("shape", SHAPES)
def test_places_are_those_of_nnunet(shape: tuple[int, ...]) -> None:
    padded = tuple(max(size, patch) for size, patch in zip(shape, (20, 16, 24), strict=True))
    expected = predictor_of(torch.nn.Identity())._internal_get_sliding_window_slicers(padded)
    plan = NNUNetWindows((20, 16, 24)).plan(random_image((1, 1, *shape)), torch.nn.Identity())
    assert [tuple(where) for where in plan.windows.slices] == [where[1:] for where in expected]


def test_gradient_is_that_of_the_stitched_logits() -> None:
    network = tiny_segmentation_network().double()
    image = random_image((1, 1, 25, 20, 30), dtype=torch.float64).requires_grad_()
    inferer = NNUNetWindows((20, 16, 24))
    weight = random_image((1, 3, 25, 20, 30), seed=1, dtype=torch.float64)
    (found,) = torch.autograd.grad((inferer(image, network) * weight).sum(), image)
    plan = inferer.plan(image, network)
    total, weights = torch.zeros_like(weight), torch.zeros(1, 1, 25, 20, 30, dtype=torch.float64)
    for where in plan.windows.slices:
        index = (slice(None), slice(None), *where)
        total[index] = total[index] + network(image[index]) * plan.windows.weight
        weights[index] += plan.windows.weight
    (expected,) = torch.autograd.grad((total / weights * weight).sum(), image)
    assert torch.allclose(found, expected, rtol=1e-10, atol=1e-14)


def test_an_attack_works_window_by_window() -> None:
    """As with MONAI's windows: one forward and one backward pass each, and the score of the stitched answer."""
    inferer = NNUNetWindows((20, 16, 24))
    assert memory_bounded(inferer) is inferer
    image = random_image((1, 1, 25, 20, 30))
    model = AttackedModel(tiny_segmentation_network(), inferer)
    assert Predictor(model, image).plain_windows is inferer
    result = PGD(0.1, units="network", steps=3)(model, image)
    with torch.no_grad():
        clean, after = (inferer(x, model.network).argmax(1) for x in (image, result.adversarial))
    changed = float((clean != after).float().mean())
    assert changed > 0.1


def test_an_inferer_with_a_call_of_its_own_is_not_taken_apart() -> None:
    class Own(NNUNetWindows):
        def __call__(self, inputs: torch.Tensor, network: Any, *args: Any, **kwargs: Any) -> Any:
            return -super().__call__(inputs, network, *args, **kwargs)

    model = AttackedModel(tiny_segmentation_network(), Own((20, 16, 24)))
    assert Predictor(model, random_image((1, 1, 25, 20, 30))).plain_windows is None
