# SPDX-License-Identifier: Apache-2.0
"""A network whose answer depends on chance or on what it was asked before is said, and no other."""

from __future__ import annotations

import random
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from monai.inferers import SimpleInferer

from monai_adversarial.attacks import PGD, AutoAttack3D, ExpectationOverTransformation, SquareAttack
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


def test_queries_too_are_asked_at_the_beginning() -> None:
    square = SquareAttack(16, "HU", queries=8)
    plain = square(MODEL.replace(network=Keeps(counts_calls, calls=0, shapes=[])), IMAGE, LABEL)
    assert any("how often" in text for text in said(MODEL.replace(network=Keeps(late, calls=0)), square))
    counted = square(MODEL.replace(network=Keeps(even, calls=0)), IMAGE, LABEL)
    assert counted.forwards == plain.forwards + 1  # whose code reads what it counts


class Clock:
    """A time that a test moves."""

    now = 0.0


def by_time(self: Any, image: torch.Tensor) -> torch.Tensor:
    """Darker from call to call, as ``time`` goes on."""
    return self.inner(image - 0.005 * (time.time() - self.start))


def timed(self: Any, image: torch.Tensor) -> torch.Tensor:
    """Measures how long it takes."""
    start = time.perf_counter()
    answer = self.inner(image)
    self.seconds = time.perf_counter() - start
    return answer


@pytest.mark.parametrize("attack", [PGD(16, "HU", steps=2), SquareAttack(16, "HU", queries=4)])
def test_an_answer_that_depends_on_the_time_is_said(attack: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def tick() -> float:
        Clock.now += 1.0
        return Clock.now

    monkeypatch.setattr(time, "time", tick)
    found = said(MODEL.replace(network=Keeps(by_time, start=Clock.now)), attack)
    (sentence,) = [text for text in found if "depends on the time" in text]
    assert "(by_time): the clean predictions before and after the attack differ in" in sentence


def test_who_measures_time_is_not_said() -> None:
    assert said(MODEL.replace(network=Keeps(timed, seconds=0.0))) == []


class Server:
    """Answers from where nothing of it can be seen, and worse for who asks late."""

    def __init__(self, answer: Callable[[torch.Tensor, int], torch.Tensor]) -> None:
        asked = iter(range(10**6))
        network = ExampleNetwork()
        self._ask = map(lambda image: answer(network(image), next(asked)), iter(lambda: self._image, None))

    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        self._image = image.detach()
        with torch.no_grad():
            return next(self._ask)


def test_a_best_query_that_cannot_be_repeated_is_said() -> None:
    square, clean = SquareAttack(16, "HU", queries=6), ExampleNetwork()(SEEN).detach()
    steady = AttackedModel(Server(lambda logits, asked: logits), intensity=WINDOW, image_units="HU")
    assert said(steady, square) == []
    last = square(steady, IMAGE, LABEL).forwards - 1
    mended = Server(lambda logits, asked: logits if asked < last else clean)
    found = said(AttackedModel(mended, intensity=WINDOW, image_units="HU"), square)
    (sentence,) = [text for text in found if text.startswith("asked again about the image that was the best")]
    assert "depends on the time, on earlier queries or on chance, and the score is too high" in sentence


def test_a_search_that_met_one_answer_only_is_said() -> None:
    square = SquareAttack(16, "HU", queries=12)
    clean = ExampleNetwork()(SEEN).detach()
    cached = Server(lambda logits, asked: clean)
    found = said(AttackedModel(cached, intensity=WINDOW, image_units="HU"), square)
    (sentence,) = [text for text in found if text.startswith("the network gave the same answer to all of")]
    assert "in 1 of 1 samples, whose score stays at 0.618 of 0.618. That is no robustness" in sentence


def nearest(self: Any, image: torch.Tensor) -> torch.Tensor:
    """The answer to an image that it knows stands for those that are near to it, and most of it for a gradient."""
    for known, answer in self.cache:
        if float((known - image).abs().max()) < 0.05:
            return 0.9 * answer + 0.1 * self.inner(image)
    answer = self.inner(image)
    self.cache.append((image.detach(), answer.detach()))
    return answer


def test_a_list_of_near_images_is_said() -> None:
    (sentence,) = [text for text in said(MODEL.replace(network=Keeps(nearest, cache=[]))) if "from call" in text]
    assert "(Keeps.cache)" in sentence


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
