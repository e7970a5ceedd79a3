# SPDX-License-Identifier: Apache-2.0
"""Certificates over bias fields, gammas and translations where the distance to another answer is known."""

from __future__ import annotations

import pytest
import torch
from monai.transforms import RandBiasField
from scipy.stats import norm

from monai_adversarial.inferers import (
    AdditiveChange,
    BiasFieldChange,
    CertifiedParameterInferer,
    GammaChange,
    ShiftChange,
    TranslationChange,
)
from monai_adversarial.inferers.additive_changes import check_composes
from tests.helpers import LinearNetwork, random_image

CHANGES = (BiasFieldChange(2), BiasFieldChange(1, zero=-1000.0), ShiftChange(), GammaChange(), TranslationChange())


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: type(change).__name__)
@pytest.mark.parametrize("shape", [(2, 1, 9), (2, 2, 6, 7), (1, 1, 5, 4, 6)])
def test_two_changes_are_their_sum_and_none_is_none(change, shape):
    image = random_image(shape, dtype=torch.float64)
    count = change.count(len(shape) - 2)
    first, second = 0.7 * random_image((2, shape[0], count), seed=1)
    after = change.apply(change.apply(image, first.double()), second.double())
    torch.testing.assert_close(after, change.apply(image, (first + second).double()), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(change.apply(image, torch.zeros(shape[0], count)), image)
    check_composes(change, image.float(), 0.5)


class Warp(AdditiveChange):
    """Displacements of a few control points, interpolated, as in every elastic deformation."""

    def count(self, dimensions):
        return 4 * dimensions

    def apply(self, image, parameters):
        grid = torch.stack(torch.meshgrid(*[torch.linspace(-1, 1, n) for n in image.shape[2:]], indexing="ij"), -1)
        control = parameters.view(-1, 2, 2, 2).float()
        moves = torch.nn.functional.interpolate(control, image.shape[2:], mode="bilinear", align_corners=True)
        where = (grid + moves.movedim(1, -1)).flip(-1)
        return torch.nn.functional.grid_sample(image, where, padding_mode="border", align_corners=True)


class Clipped(BiasFieldChange):
    def apply(self, image, parameters):
        return super().apply(image, parameters).clamp(0, 1)


@pytest.mark.parametrize("change", [Warp(), Clipped(1)])
def test_elastic_and_clipped_changes_are_refused(change):
    with pytest.raises(ValueError, match=f"{type(change).__name__} does not compose: two changes"):
        CertifiedParameterInferer(change, sigma=0.2).certify(random_image((1, 1, 12, 12)), LinearNetwork())


def test_the_field_is_that_of_monai():
    transform = RandBiasField(degree=2, coeff_range=(0.3, 0.3), prob=1.0)
    image = random_image((1, 6, 7, 8))
    expected = transform(image)
    change = BiasFieldChange(2)
    found = change.apply(image[None], torch.full((1, change.count(3)), 0.3))[0]
    torch.testing.assert_close(found, torch.as_tensor(expected), atol=1e-5, rtol=1e-5)


def test_a_whole_shift_rolls_an_image_without_its_highest_frequency():
    image = random_image((1, 1, 7, 9))  # odd: no frequency without a phase
    moved = TranslationChange().apply(image, torch.tensor([[2.0, -3.0]]))
    torch.testing.assert_close(moved, image.roll((2, -3), (2, 3)), atol=1e-5, rtol=1e-5)
    back = TranslationChange().moved_back(moved, torch.tensor([[2.2, -3.4]]))
    torch.testing.assert_close(back, image, atol=1e-5, rtol=1e-5)


def test_no_gain_within_the_radius_flips_a_certified_voxel():
    """A voxel is class 1 above 0.5: the log gain to the border is log(0.5 / value)."""
    image, network = 0.2 + 0.6 * random_image((1, 1, 20, 20)), LinearNetwork((-1.0, 1.0), (0.5, -0.5))
    inferer = CertifiedParameterInferer(BiasFieldChange(0), sigma=0.3, n=100, copies_at_once=50)
    found = inferer.certify(image, network)
    assert found.radius == pytest.approx(0.3 * norm.ppf(0.75)) and found.units == "log gain"
    certified = ~found.abstained
    assert 50 < int(certified.sum()) < 400
    for gain in (-found.radius, found.radius):
        answer = (image * torch.tensor(gain).exp() > 0.5).short()
        assert torch.equal(answer[certified], found.prediction[certified])
    distance = (0.5 / image).log().abs()
    assert float(distance[found.abstained].min()) < found.radius < float(distance[certified].min())
    # the probability under the random gain, in closed form; all voxels share each draw
    chance = torch.as_tensor(norm.cdf(distance / 0.3))
    chance = torch.where((image > 0.5) == (found.selected == 1), chance, 1 - chance)
    assert float((found.votes / 100 - chance).abs().max()) < 4.5 * 0.5 / 100**0.5


def test_no_bias_field_within_the_radius_flips_a_certified_voxel():
    image, network = 0.2 + 0.6 * random_image((1, 1, 12, 12)), LinearNetwork((-1.0, 1.0), (0.5, -0.5))
    change = BiasFieldChange(2)
    found = CertifiedParameterInferer(change, sigma=0.2, n=100, copies_at_once=50).certify(image, network)
    certified = ~found.abstained
    assert 20 < int(certified.sum()) < 144
    directions = torch.randn((60, change.count(2)), generator=torch.Generator().manual_seed(0))
    # and the strongest there are: along the polynomials' values at a voxel
    values = torch.stack([change.apply(torch.ones(1, 1, 12, 12), row[None]).log()[0, 0] for row in torch.eye(6)], -1)
    directions = torch.cat([directions, values.flatten(0, 1), -values.flatten(0, 1)])
    directions *= found.radius / directions.norm(dim=1, keepdim=True)
    answers = change.apply(image.expand(len(directions), -1, -1, -1), directions) > 0.5
    expected = (found.prediction == 1).expand_as(answers)
    where = certified.expand_as(answers)
    assert torch.equal(answers[where], expected[where])


def test_tissue_keeps_its_class_under_a_translation():
    image = torch.zeros(1, 1, 25, 25)
    image[..., 6:16, 5:17] = 1.0
    network = LinearNetwork((-1.0, 1.0), (0.5, -0.5))
    arguments = {"sigma": 2.5, "n": 100, "copies_at_once": 25}
    inferer = CertifiedParameterInferer(TranslationChange(), **arguments)
    found = inferer.certify(image, network)
    assert found.radius > 1.5 and float(found.abstention_share) < 0.6
    for shift in ((1, 1), (-1, 0), (0, 1)):
        moved = inferer.certify(image.roll(shift, (2, 3)), network).selected.roll([-s for s in shift], (2, 3))
        certified = ~found.abstained
        assert torch.equal(moved[certified], found.prediction[certified])
    assert bool((found.prediction[..., 10, 10] == 1).all()) and bool((found.prediction[..., 0, 0] == 0).all())


def test_looks_and_batches_work_as_with_noise():
    image, network = 0.2 + 0.6 * random_image((3, 1, 8, 8)), LinearNetwork((-1.0, 1.0), (0.5, -0.5))
    arguments = {"sigma": 0.2, "n": 80, "looks": (40, 80)}
    whole = CertifiedParameterInferer(BiasFieldChange(1), copies_at_once=9, **arguments).certify(image, network)
    part = CertifiedParameterInferer(BiasFieldChange(1), **arguments).certify(image[[2, 0]], network)
    assert torch.equal(part.prediction, whole.prediction[[2, 0]]) and torch.equal(part.votes, whole.votes[[2, 0]])
    assert int((whole.prediction >= 0).sum()) > 20


def test_bad_arguments_stop_early():
    with pytest.raises(TypeError, match="change must be an AdditiveChange"):
        CertifiedParameterInferer("elastic")
    with pytest.raises(ValueError, match="degree must be an integer >= 0"):
        BiasFieldChange(-1)
    with pytest.raises(ValueError, match="zero must be a finite number"):
        BiasFieldChange(zero=float("nan"))
    with pytest.raises(ValueError, match="low must be below high"):
        GammaChange(1.0, 0.0)
    with pytest.raises(ValueError, match="image must lie in 0 to 1 for GammaChange, got -0.5"):
        CertifiedParameterInferer(GammaChange()).certify(torch.full((1, 1, 4, 4), -0.5), LinearNetwork())
