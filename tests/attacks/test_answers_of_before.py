# SPDX-License-Identifier: Apache-2.0
"""A network whose answer depends on chance or on what it was asked before is said, and no other."""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from monai.inferers import SimpleInferer

from monai_adversarial.attacks import PGD, AutoAttack3D, ExpectationOverTransformation
from monai_adversarial.data.example import ExampleNetwork, example_case
from monai_adversarial.inferers import PurifiedInferer, ScannerSpaceInferer
from monai_adversarial.models import AttackedModel
from monai_adversarial.transforms import GaussianDenoise, Purifier, RandomPurifier

MODEL, IMAGE, LABEL = example_case(16)
WINDOW = {"a_min": -160, "a_max": 340}


class Keeps(torch.nn.Module):
    """A network with something that it keeps."""

    def __init__(self, answer: Callable[[Any, torch.Tensor], torch.Tensor], **kept: Any) -> None:
        super().__init__()
        self.inner, self.answer = ExampleNetwork(), answer
        for name, value in kept.items():
            setattr(self, name, value)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.answer(self, image)


def first_answer(self: Any, image: torch.Tensor) -> torch.Tensor:
    logits = self.inner(image)
    self.cache = logits.detach() if self.cache is None else self.cache
    return 0.9 * self.cache + 0.1 * logits


def first_answer_new_attribute(self: Any, image: torch.Tensor) -> torch.Tensor:
    if not hasattr(self, "made_later"):
        self.made_later = image.detach().clone()
    return self.inner(0.9 * self.made_later + 0.1 * image)


def first_answer_in_dictionary(self: Any, image: torch.Tensor) -> torch.Tensor:
    logits = self.inner(image)
    return 0.9 * self.cache.setdefault("answer", logits.detach()) + 0.1 * logits


def counts(self: Any, image: torch.Tensor) -> torch.Tensor:
    self.calls += 1
    self.shapes.append(tuple(image.shape))
    self.last = image.detach()
    return self.inner(image)


def counts_calls(self: Any, image: torch.Tensor) -> torch.Tensor:
    self.calls += 1
    self.shapes.append(tuple(image.shape))
    return self.inner(image)


def said(model: AttackedModel, attack: Any = None) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        (attack or PGD(16, "HU", steps=2))(model, IMAGE, LABEL)
    return [str(one.message) for one in caught]


KEEPS = {
    "first answer": (first_answer, {"cache": None}),
    "an attribute of later": (first_answer_new_attribute, {}),
    "in a dictionary": (first_answer_in_dictionary, {"cache": {}}),
}


@pytest.mark.parametrize("name", KEEPS)
def test_what_is_kept_from_call_to_call_is_said(name: str) -> None:
    answer, kept = KEEPS[name]
    found = [text for text in said(MODEL.replace(network=Keeps(answer, **kept))) if "from call to call" in text]
    assert len(found) == 1 and "Keeps." in found[0]


def test_the_lookback_changes_nothing_of_the_network() -> None:
    network = Keeps(first_answer, cache=None)
    said(MODEL.replace(network=network))
    clean = network.inner(MODEL.intensity_for(IMAGE)(IMAGE.as_tensor())).detach()
    assert torch.equal(network.cache, clean)


def test_what_is_merely_counted_is_not_said() -> None:
    network = Keeps(counts, calls=0, shapes=[], last=None)
    assert said(MODEL.replace(network=network)) == []


def test_counting_calls_that_nothing_depends_on_costs_none() -> None:
    network = Keeps(counts_calls, calls=0, shapes=[])
    model = MODEL.replace(network=network)
    for passes in (4, 8):
        result = PGD(16, "HU", steps=2)(model, IMAGE, LABEL)
        assert network.calls == len(network.shapes) == passes
    assert result.forwards == 4


def late(self: Any, image: torch.Tensor) -> torch.Tensor:
    """Takes most of an image from a known one as soon as it was asked some times."""
    self.calls += 1
    return self.inner(image if int(self.calls) < 4 else 0.1 * image + 0.9 * SEEN)


def even(self: Any, image: torch.Tensor) -> torch.Tensor:
    """Counts, and answers in another way that makes no difference."""
    self.calls += 1
    return self.inner(image) * (1.0 if int(self.calls) % 2 else 1.001)


SEEN = MODEL.intensity_for(IMAGE)(IMAGE.as_tensor())


@pytest.mark.parametrize("start", [0, torch.zeros(())])
def test_an_answer_that_depends_on_the_number_of_calls_is_said(start: Any) -> None:
    network = Keeps(late, calls=start)
    (sentence,) = [text for text in said(MODEL.replace(network=network)) if "how often" in text]
    assert "(Keeps.calls)" in sentence and "the score is too high" in sentence
    assert said(MODEL.replace(network=Keeps(even, calls=0))) == []


def from_cache(self: Any, image: torch.Tensor) -> torch.Tensor:
    """Answers by the rounded mean of an image."""
    key = round(float(image.detach().mean()), 1)
    seen = self.cache.setdefault(key, image.detach())
    return self.inner(0.9 * seen + 0.1 * image)


def exactly_from_cache(self: Any, image: torch.Tensor) -> torch.Tensor:
    """Answers an image that it knows without work, and any other anew."""
    key = hash(image.detach().numpy().tobytes())
    if image.requires_grad or key not in self.cache:
        self.cache[key] = self.inner(image)
    return self.cache[key].clone()


SHARED: dict[Any, torch.Tensor] = {}


class OfClass(ExampleNetwork):
    """The same with a variable of the class."""

    cache: dict[Any, torch.Tensor] = {}

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Mostly what was seen first."""
        seen = self.cache.setdefault(tuple(image.shape), image.detach())
        return super().forward(0.9 * seen + 0.1 * image)


class OfModule(ExampleNetwork):
    """The same with a variable of the module."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Mostly what was seen first."""
        seen = SHARED.setdefault(tuple(image.shape), image.detach())
        return super().forward(0.9 * seen + 0.1 * image)


CACHES = {
    "attribute": (lambda: Keeps(from_cache, cache={}), "Keeps.cache"),
    "class": (OfClass, "OfClass.cache"),
    "module": (OfModule, "SHARED"),
}


@pytest.mark.parametrize("filled", [False, True])
@pytest.mark.parametrize("name", CACHES)
def test_a_cache_is_said_whoever_filled_it(name: str, filled: bool) -> None:
    SHARED.clear()
    OfClass.cache.clear()
    make, where = CACHES[name]
    network = make()
    if filled:  # by a clean evaluation before
        network(SEEN)
    (sentence,) = [text for text in said(MODEL.replace(network=network)) if "from call to call" in text]
    assert f"{where})" in sentence


def test_a_cache_of_known_images_is_not_said() -> None:
    network = Keeps(exactly_from_cache, cache={})
    network(SEEN)
    assert said(MODEL.replace(network=network)) == []


def with_prior(self: Any, image: torch.Tensor) -> torch.Tensor:
    """Needs what it holds."""
    return self.inner(image) + self.prior + self.scales[1] * 0


def test_what_belongs_to_the_network_is_not_said() -> None:
    kept = {"prior": torch.zeros(1, 1, 16, 16, 16), "scales": {1: torch.ones(1)}}
    assert said(MODEL.replace(network=Keeps(with_prior, **kept))) == []


def seeded(self: Any, image: torch.Tensor) -> torch.Tensor:
    draws = torch.Generator().manual_seed(abs(hash(image.detach().numpy().tobytes())) % 2**31)
    return self.inner(image + 0.05 * torch.randn(image.shape, generator=draws))


def seeded_once(self: Any, image: torch.Tensor) -> torch.Tensor:
    draws = torch.Generator().manual_seed(0)
    return self.inner(image + 0.05 * torch.randn(image.shape, generator=draws))


@pytest.mark.parametrize("averages", [False, True])
def test_numbers_that_the_image_seeds_are_said(averages: bool) -> None:
    attack = PGD(16, "HU", steps=1, gradient=ExpectationOverTransformation(2) if averages else None)
    assert any("that the image seeds" in text for text in said(MODEL.replace(network=Keeps(seeded)), attack))
    assert not any("draws" in text for text in said(MODEL.replace(network=Keeps(seeded_once)), attack))


def torch_generator(self: Any, image: torch.Tensor) -> torch.Tensor:
    return self.inner(image + 0.1 * torch.randn(image.shape, generator=self.draws))


def numpy_generator(self: Any, image: torch.Tensor) -> torch.Tensor:
    return self.inner(image + 0.1 * torch.from_numpy(self.draws.standard_normal(tuple(image.shape))).to(image))


def python_generator(self: Any, image: torch.Tensor) -> torch.Tensor:
    return self.inner(image.roll(self.draws.randint(-7, 7), 2))


GENERATORS = {
    "torch": lambda: Keeps(torch_generator, draws=torch.Generator().manual_seed(0)),
    "NumPy": lambda: Keeps(numpy_generator, draws=np.random.default_rng(0)),
    "old NumPy": lambda: Keeps(numpy_generator, draws=np.random.RandomState(0)),
    "Python": lambda: Keeps(python_generator, draws=random.Random(0)),
}


@pytest.mark.parametrize("name", GENERATORS)
def test_generators_of_the_network_itself_are_found(name: str) -> None:
    model = MODEL.replace(network=GENERATORS[name]())
    assert any(text.startswith("the network draws random numbers") for text in said(model))
    assert model.found_random
    result = PGD(16, "HU", steps=2)(model, IMAGE, LABEL)  # known of the next batches too
    assert result.model is not None and result.model.draws_itself


def test_who_averages_is_not_told_to() -> None:
    model = MODEL.replace(network=GENERATORS["torch"]())
    averaging = PGD(16, "HU", steps=1, gradient=ExpectationOverTransformation(2))
    assert not any("draws random numbers" in text for text in said(model, averaging))


class Noise(RandomPurifier):
    """Noise of 0.02 in the window."""

    def purify(self, image: torch.Tensor, context: Any) -> torch.Tensor:
        draws = context.generators("cpu", len(image))
        return image + 0.02 * torch.stack([torch.randn(image.shape[1:], generator=draw) for draw in draws])


class OwnNoise(Purifier):
    """The same with a generator of its own."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.draws = np.random.default_rng(0)

    def purify(self, image: torch.Tensor, context: Any) -> torch.Tensor:
        return image + 0.02 * torch.from_numpy(self.draws.standard_normal(tuple(image.shape))).to(image)


@pytest.mark.parametrize("kind", [Noise, OwnNoise])
@pytest.mark.parametrize("inside", [False, True])
def test_one_draw_of_a_random_purifier_is_said(kind: type[Purifier], inside: bool) -> None:
    defended = PurifiedInferer(SimpleInferer(), kind(intensity=WINDOW))
    inferer = ScannerSpaceInferer(defended, pixdim=(6.0, 6.0, 6.0)) if inside else defended
    model = AttackedModel(ExampleNetwork(), inferer, intensity=WINDOW, image_units="HU")
    assert any("draw" in text and "ExpectationOverTransformation" in text for text in said(model))


def test_a_defense_that_is_put_on_later_is_looked_at_anew() -> None:
    model = MODEL.replace(network=ExampleNetwork())
    assert said(model) == []
    defended = model.replace(inferer=PurifiedInferer(SimpleInferer(), Noise(intensity=WINDOW)))
    assert any("a purifier draws random numbers" in text for text in said(defended))
    other = model.replace(inferer=PurifiedInferer(SimpleInferer(), OwnNoise(intensity=WINDOW)))
    assert any("draws random numbers" in text for text in said(other))
    assert not model.found_random and said(model) == []


def test_a_defense_without_chance_is_not_said() -> None:
    inferer = PurifiedInferer(SimpleInferer(), GaussianDenoise(sigma=1.0, intensity=WINDOW))
    assert said(MODEL.replace(network=ExampleNetwork(), inferer=inferer)) == []


def test_the_strongest_attack_flags_a_random_purifier() -> None:
    inferer = PurifiedInferer(SimpleInferer(), Noise(intensity=WINDOW))
    model = AttackedModel(ExampleNetwork(), inferer, intensity=WINDOW, image_units="HU")
    result = AutoAttack3D(2, units="HU", steps=2, queries=4)(model, IMAGE, LABEL)
    assert "random_answers" in [flag.name for flag in result.flags]
