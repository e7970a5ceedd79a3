# SPDX-License-Identifier: Apache-2.0
"""A network that is NaN does not end a training and is never trained on; starts are checked alike everywhere."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import nn

from monai_adversarial.attacks import APGD, PGD, BiasFieldAttack
from monai_adversarial.models import AttackedModel
from tests.helpers import random_image, random_label, tiny_segmentation_network

IMAGE, LABEL = random_image((3, 1, 6, 6, 6)), random_label((3, 1, 6, 6, 6))


class SometimesNaN(nn.Module):
    """NaN for given samples of a batch, from a given call on."""

    def __init__(self, samples: list[int], first: int = 0) -> None:
        super().__init__()
        self.inner, self.samples, self.first, self.calls = tiny_segmentation_network(), samples, first, 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        factor = torch.ones(len(x))
        if self.calls > self.first:
            factor[self.samples] = torch.nan
        return self.inner(x) * factor.view(-1, 1, 1, 1, 1)


@pytest.mark.parametrize("attack", [PGD(0.1, steps=3), APGD(0.1, steps=3), BiasFieldAttack(0.2, steps=3)])
@pytest.mark.parametrize("first", [0, 1, 2])
@pytest.mark.parametrize("known", [False, True])
def test_samples_that_are_nan_come_back_clean_and_the_others_attacked(attack: Any, first: int, known: bool) -> None:
    attack = attack.scaled(1.0)
    model = AttackedModel(SometimesNaN([1], first), output_values="logits")
    if known:
        model.found_output_values = "logits"
    expected = attack.perturb(model.network.inner, IMAGE, LABEL)
    with pytest.warns(UserWarning, match="NaN for 1 of 3 samples, which stay clean"):
        found = attack.perturb(model, IMAGE, LABEL)
    assert torch.equal(found.adversarial[1], IMAGE[1])
    for sample in (0, 2):
        assert torch.equal(found.adversarial[sample], expected.adversarial[sample])
        assert not torch.equal(found.adversarial[sample], IMAGE[sample])
    assert all(bool(parameter.isfinite().all()) for parameter in found.parameters)


@pytest.mark.parametrize("reference", ["label", "prediction", "probabilities"])
def test_a_network_that_is_all_nan_trains_on_with_one_warning(reference: str) -> None:
    attack = PGD(0.1, steps=2)
    network = SometimesNaN([0, 1, 2])
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for stream in range(3):
            found = attack.perturb(network, IMAGE, LABEL, reference=reference, stream=stream)
            assert torch.equal(found.adversarial, IMAGE)
    assert len([entry for entry in said if "stay clean" in str(entry.message)]) == 1


class NaNGradient(torch.autograd.Function):
    """Two classes whose gradient is NaN in the lower half of the volume."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x, -x], dim=1)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        gradient = gradient[:, :1] - gradient[:, 1:]
        gradient[:, :, :3] = torch.nan
        return gradient


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("kind", ["__call__", "perturb"])
def test_a_gradient_that_is_nan_moves_nothing_and_is_counted_as_frozen(norm: str, kind: str) -> None:
    attack = PGD(0.1, norm=norm, steps=2, random_start=False, objective="cross_entropy")
    found = getattr(attack, kind)(NaNGradient.apply, IMAGE, LABEL.clamp(max=1))
    moved = found.adversarial != IMAGE
    assert not moved[:, :, :3].any() and moved[:, :, 3:].float().mean() > 0.9
    torch.testing.assert_close(found.zero_gradient_fraction, torch.full((3,), 0.5))


@pytest.mark.parametrize("kind", ["__call__", "perturb"])
def test_starts_are_checked_alike_in_scored_and_training_attacks(kind: str) -> None:
    attack, network = PGD(0.1, steps=2), tiny_segmentation_network()
    call = getattr(attack, kind)
    with pytest.raises(ValueError, match=r"start must hold parameters of shapes \[\(3, 1, 6, 6, 6\)\]"):
        call(network, IMAGE, LABEL, start=(torch.zeros(1, 1, 6, 6, 6),))
    with pytest.raises(ValueError, match="start must hold parameters of shapes"):
        call(network, IMAGE, LABEL, start=(torch.zeros_like(IMAGE), torch.zeros(3)))
    with pytest.raises(TypeError, match="start must be a tuple of tensors.*got Tensor"):
        call(network, IMAGE, LABEL, start=torch.zeros_like(IMAGE))
    start = 0.01 * random_image((3, 1, 6, 6, 6), seed=1)
    single = call(network, IMAGE, LABEL, start=(start,))
    double = call(network, IMAGE, LABEL, start=(start.double(),))
    assert single.adversarial.dtype == double.adversarial.dtype == torch.float32
    assert torch.equal(single.adversarial, double.adversarial)
    outside = call(network, IMAGE, LABEL, start=(start + 5,))  # projected into the budget
    assert float((outside.adversarial - IMAGE).abs().max()) <= 0.1 + 1e-6
