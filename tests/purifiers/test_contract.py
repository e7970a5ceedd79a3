# SPDX-License-Identifier: Apache-2.0
"""What every purifier promises, array and dictionary."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose

import monai_adversarial.transforms as transforms
from monai_adversarial.attacks import BackwardPassSubstitute, ExactGradient, ExpectationOverTransformation
from monai_adversarial.inferers import PurifiedInferer
from monai_adversarial.purifiers import PURIFIERS
from monai_adversarial.purifiers.context import ImageContext
from monai_adversarial.utils.intensity import IntensityMap
from tests.helpers import TEST_NDARRAYS
from tests.purifiers.learned import LEARNED, arguments_of
from tests.purifiers.learned_networks import WINDOW, small_network

ALL = sorted(PURIFIERS)
SPACING = {2: (1.0, 2.0), 3: (1.0, 2.0, 3.0)}


def make(name: str, dimensions: int = 3, **options: Any):
    if name in LEARNED:
        options = {"network": small_network(PURIFIERS[name], dimensions), "intensity": WINDOW, **options}
    return PURIFIERS[name](**options)


def ct(shape: tuple[int, ...] = (1, 12, 14, 10), seed: int = 0) -> torch.Tensor:
    """Noise of 10 HU on two tissues under a shading of 10 %."""
    generator = torch.Generator().manual_seed(seed)
    image = 40.0 + 10.0 * torch.randn(shape, generator=generator)
    image[..., : shape[-1] // 2] += 60.0
    shading = torch.linspace(0.9, 1.1, shape[-2])[:, None]
    return (image + 160.0) * shading - 160.0


def as_input(image: torch.Tensor, name: str) -> torch.Tensor:
    """Learned purifiers see a window's values from 0 to 1."""
    return ((image + 160.0) / 400.0) if name in LEARNED else image


def contexts(batch: int, dimensions: int = 3) -> ImageContext:
    return ImageContext(torch.tensor([SPACING[dimensions]], dtype=torch.float64), tuple(range(5, 5 + batch)))


@pytest.mark.parametrize("name", ALL)
def test_array_type_metadata_and_input_are_kept(name):
    image = as_input(ct(), name)
    results = []
    for kind in TEST_NDARRAYS:
        given = kind(image.clone())
        before = pickle.dumps(np.asarray(given))
        purifier = make(name, spacing=(1.0, 2.0, 3.0))
        if purifier.random:
            purifier.set_random_state(3)
        out = purifier(given)
        assert type(out) is type(given)
        assert pickle.dumps(np.asarray(given)) == before
        assert tuple(out.shape) == tuple(image.shape)
        assert str(out.dtype).endswith("float32")
        if isinstance(given, torch.Tensor):
            assert out.device == given.device
        if isinstance(given, MetaTensor):
            assert torch.equal(out.affine, given.affine) and out.meta["some"] == "info"
        results.append(np.asarray(out))
    for other in results[1:]:
        np.testing.assert_allclose(other, results[0], atol=1e-4)


@pytest.mark.parametrize("name", ALL)
def test_it_changes_the_image_and_keeps_its_level(name):
    image = as_input(ct((1, 1, 16, 16, 16)), name)
    out = make(name).purify(image, contexts(1))
    assert bool(torch.isfinite(out).all())
    if name not in LEARNED:  # untrained networks here
        assert not torch.equal(out, image)
        # Corrections of the gain also bring soft tissue to its usual HU.
        limit = 0.6 if "BiasField" in name else 0.15
        assert abs(float(out.mean() - image.mean())) < limit * abs(float(image.mean()))


@pytest.mark.parametrize("name", ALL)
def test_samples_are_independent(name):
    image = torch.stack([as_input(ct(seed=seed), name) for seed in range(3)])
    purifier = make(name)
    together = purifier.purify(image, contexts(3))
    for i in range(3):
        alone = purifier.purify(image[i : i + 1], contexts(3).select([i]))
        torch.testing.assert_close(alone[0], together[i], rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("name", ALL)
def test_channels_are_independent(name):
    first, second = (as_input(ct((1, 1, 12, 14, 10), seed), name) for seed in (0, 1))
    purifier = make(name)
    together = purifier.purify(torch.cat([first, second], dim=1), contexts(1))
    torch.testing.assert_close(together[:, :1], purifier.purify(first, contexts(1)), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("name", ALL)
def test_two_dimensions_and_float64(name):
    image = as_input(ct((2, 1, 20, 22)).double(), name)
    purifier = make(name, 2)
    out = purifier.purify(image, contexts(2, 2))
    assert out.shape == image.shape and out.dtype == torch.float64 and bool(torch.isfinite(out).all())
    alone = purifier.purify(image[1:], contexts(2, 2).select([1]))
    torch.testing.assert_close(alone[0], out[1], rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("name", ALL)
def test_hounsfield_units_keep_their_meaning_in_network_values(name):
    image = ct((1, 1, 14, 14, 12))
    to_network = IntensityMap.from_window(-160, 240, 0, 1, clip=False)
    in_hounsfield = make(name, intensity=None).purify(image, contexts(1))
    in_network = make(name, intensity=to_network).purify(to_network(image), contexts(1))
    difference = (to_network.inverse(in_network) - in_hounsfield).abs()
    # A value that rounding puts on the other side of a step or a threshold may differ by that step.
    assert float(difference.median()) < 0.05 and float((difference > 0.5).float().mean()) < 0.02


@pytest.mark.parametrize("name", ALL)
def test_declared_gradient_is_there_and_exact_is_refused_where_there_is_none(name):
    image = as_input(ct((1, 1, 12, 14, 10)), name)
    purifier = make(name)
    inferer = PurifiedInferer(None, make(name, spacing=SPACING[3])).for_image(image)

    def function(parameters):
        logits = inferer(parameters[0], lambda x: x)
        values = logits.square().flatten(1).mean(dim=1)
        return values, values, logits

    estimator = BackwardPassSubstitute()
    if purifier.random:
        estimator = ExpectationOverTransformation(2, estimator)
    gradient = estimator.evaluate(function, (image,)).gradients[0]
    assert bool(torch.isfinite(gradient).all())
    assert float((gradient != 0).float().mean()) > 0.5
    if name != "N4BiasFieldCorrection":  # its stand-in is another estimator of the same field
        # Along it, the objective of the purified image rises: the gradient points somewhere useful.
        step = 0.02 * float(image.abs().mean()) * gradient / gradient.abs().max()
        assert float(function((image + 4 * step,))[0]) > float(function((image,))[0])
    if purifier.gradient != "exact":
        with pytest.raises(RuntimeError, match=f"{name} has no useful gradient"):
            ExactGradient().evaluate(function, (image,))


@pytest.mark.parametrize("name", ALL)
def test_same_draw_same_result(name):
    image = as_input(ct(), name)
    purifier = make(name, spacing=SPACING[3])
    if not purifier.random:
        assert torch.equal(purifier(image), purifier(image))
        return
    results = []
    for seed in (1, 1, 2):
        purifier.set_random_state(seed)
        results.append(purifier(image))
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])


@pytest.mark.parametrize("name", ALL)
def test_dictionary_form_has_monais_names_and_does_the_same(name):
    dictionary = getattr(transforms, f"{name}d")
    assert getattr(transforms, f"{name}D") is getattr(transforms, f"{name}Dict") is dictionary
    assert dictionary.__name__ == f"{name}d"
    image = as_input(ct(), name)
    made = dictionary(keys=["image", "other"], allow_missing_keys=True, spacing=SPACING[3], **arguments_of(name))
    array = make(name, spacing=SPACING[3])
    pipeline = Compose([made])
    if array.random:
        pipeline.set_random_state(7)
        made.set_random_state(3)
        array.set_random_state(3)
    data = {"image": image, "label": torch.zeros(1)}
    out = pipeline(data)
    assert set(out) == {"image", "label"} and data["image"] is image and out["label"] is data["label"]
    torch.testing.assert_close(out["image"], array(image))
    assert type(pickle.loads(pickle.dumps(made))) is dictionary
    with pytest.raises(KeyError):
        dictionary(keys="other", spacing=SPACING[3], **arguments_of(name))(data)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize(
    ("image", "message"),
    [
        (torch.full((1, 4, 4, 4), torch.nan), "img must be finite, got 64 NaN"),
        (torch.zeros(4), "img must have shape"),
        (torch.zeros(1, 0, 4), "img must have shape"),
    ],
)
def test_bad_images_are_refused_in_one_sentence(name, image, message):
    with pytest.raises(ValueError, match=message):
        make(name, spacing=1.0)(image)
