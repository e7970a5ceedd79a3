# SPDX-License-Identifier: Apache-2.0
"""Parts that make gradients transfer: each against its definition, and together with every recipe."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from monai.inferers import SlidingWindowInferer

from benchmarks.networks import PlainInferer, unet
from monai_adversarial.attacks import (
    MIFGSM,
    PGD,
    AdditiveNoise,
    Attack,
    BiasField,
    EnsembleTransfer,
    Evaluation,
    ExpectationOverTransformation,
    GradientEstimator,
    InputDiversity,
    NaturalEvolution,
    NesterovLookahead,
    ScaleInvariance,
    SurrogateGradient,
    TranslationInvariance,
    VarianceTuning,
    WindowwiseGradient,
    transferable,
)
from monai_adversarial.attacks.gradients.transfer import _Placed
from monai_adversarial.data.example import example_case
from monai_adversarial.inferers.memory_bounded import memory_bounded
from monai_adversarial.models import AttackedModel
from monai_adversarial.utils.scene import Scene
from tests.attacks.black_boxes import SmoothThreshold, bright_boxes
from tests.helpers import random_image, random_label
from tests.peak_bytes import PeakBytes

PARTS: dict[str, GradientEstimator] = {
    "InputDiversity": InputDiversity(1.0),
    "TranslationInvariance": TranslationInvariance(3, 1.0),
    "ScaleInvariance": ScaleInvariance(3),
    "NesterovLookahead": NesterovLookahead(),
    "VarianceTuning": VarianceTuning(2),
    "all": transferable(diversity=0.5, translation=3, scales=2, nesterov=1.0, variance=1),
    "expectation": ExpectationOverTransformation(2, InputDiversity()),
}


class Quadratic:
    """``-|x - 1|^2 / 2``, which remembers where it was asked."""

    def __init__(self) -> None:
        self.asked: list[torch.Tensor] = []

    def __call__(self, parameters: tuple[torch.Tensor, ...], view: Any = None) -> tuple[torch.Tensor, ...]:
        point = parameters[0] if view is None else view.image(parameters[0])
        self.asked.append(point.detach())
        values = -0.5 * (point - 1).square().flatten(1).sum(dim=1)
        return values, values.detach(), None  # type: ignore[return-value]


def begun(estimator: GradientEstimator, steps: int = 4) -> tuple[GradientEstimator, torch.Tensor]:
    image = torch.rand((2, 1, 8, 8, 8), generator=torch.Generator().manual_seed(0))
    return estimator.begin(AdditiveNoise(0.1).bind(Scene(image, (3, 4))), steps), torch.zeros_like(image)


@pytest.mark.parametrize("name", list(PARTS))
def test_each_part_attacks_counts_its_passes_and_does_not_depend_on_the_batch(name: str) -> None:
    image, label = bright_boxes()
    attack = MIFGSM(0.1, steps=4, gradient=PARTS[name])
    model = AttackedModel(SmoothThreshold())
    both = attack(model, image, label)
    assert bool((both.adversarial_dice < both.clean_dice - 0.2).all())
    assert both.backwards > 0 and both.forwards >= both.backwards
    alone = attack(model, image[1:], label[1:])
    torch.testing.assert_close(alone.adversarial[0], both.adversarial[1])
    forwards, backwards = attack.gradient.passes(4)
    assert both.backwards == 2 * backwards and both.forwards <= 2 * (forwards + 4)


def test_values_are_those_of_the_image_itself() -> None:
    """Whatever the gradient was taken of: points are compared by what they are worth."""
    image, label = bright_boxes()
    plain = PGD(0.05, steps=1, random_start=False)(SmoothThreshold(), image, label)
    for name in ("InputDiversity", "ScaleInvariance", "NesterovLookahead", "all"):
        found = PGD(0.05, steps=1, random_start=False, gradient=PARTS[name])(SmoothThreshold(), image, label)
        torch.testing.assert_close(found.objective_history[0], plain.objective_history[0])


def test_the_answer_comes_back_to_the_grid_of_the_image() -> None:
    smooth = torch.nn.functional.interpolate(
        torch.rand((2, 1, 4, 4, 4), generator=torch.Generator().manual_seed(0)), 24, mode="trilinear"
    )
    view = _Placed(torch.tensor([0.8, 0.9]), torch.tensor([[0.1, -0.2, 0.0], [0.0, 0.05, -0.1]]))
    moved = view.image(smooth)
    assert float((moved - smooth).abs().max()) > 0.1
    back = view.logits(moved)
    inside = (slice(None), slice(None), *[slice(2, -2)] * 3)
    torch.testing.assert_close(back[inside], smooth[inside], atol=0.08, rtol=0)
    # The place: what was in the middle lies at the shift, in halves of the size, first axis first.
    spot = torch.zeros((1, 1, 21, 21, 21))
    spot[0, 0, 10, 10, 10] = 1
    seen = _Placed(torch.ones(1), torch.tensor([[2 / 21, 0.0, -4 / 21]])).image(spot)
    assert (seen[0, 0] == seen.max()).nonzero().tolist() == [[11, 10, 8]]


def test_smoothed_gradients_are_a_convolution() -> None:
    class Given(GradientEstimator):
        def evaluate(self, function: Any, parameters: Any, scale: float = 1.0) -> Evaluation:
            values = torch.zeros(2)
            return Evaluation(values, values, parameters, None, 1, 1)

    spot = torch.zeros((2, 1, 8, 8, 8))
    spot[:, :, 4, 4, 4] = 1
    run, _ = begun(TranslationInvariance(3, 1.5, Given()))
    (smooth,) = run.evaluate(Quadratic(), (spot,)).gradients
    line = torch.exp(-0.5 * (torch.arange(-1.0, 2.0) / 1.5) ** 2)
    line = line / line.sum()
    kernel = torch.einsum("i,j,k->ijk", line, line, line)
    torch.testing.assert_close(smooth[0, 0, 3:6, 3:6, 3:6], kernel)
    torch.testing.assert_close(smooth.flatten(1).sum(dim=1), torch.ones(2))


def test_fainter_copies_are_averaged() -> None:
    """The derivative of a copy of half the contrast has half the size: a closed form."""
    run, zeros = begun(ScaleInvariance(3))
    function = Quadratic()
    (gradient,) = run.evaluate(function, (zeros,)).gradients
    torch.testing.assert_close(gradient, torch.full_like(zeros, (1 + 0.5 + 0.25) / 3))


def test_looking_ahead_goes_where_the_momentum_goes() -> None:
    run, zeros = begun(NesterovLookahead(0.5, relative_step=0.4))
    function = Quadratic()
    first = run.evaluate(function, (zeros,))
    torch.testing.assert_close(first.gradients[0], torch.ones_like(zeros))
    second = run.evaluate(function, (zeros,))
    ahead = 0.4 * 0.5 * 0.1  # step x momentum x radius, along a velocity of mean size 1
    torch.testing.assert_close(function.asked[1], torch.full_like(zeros, ahead))
    torch.testing.assert_close(second.gradients[0], torch.full_like(zeros, 1 - ahead))
    assert torch.equal(second.values, first.values)


def test_the_variance_is_that_of_the_point_before() -> None:
    run, zeros = begun(VarianceTuning(2, 1.5))
    function = Quadratic()
    first = run.evaluate(function, (zeros,))
    torch.testing.assert_close(first.gradients[0], torch.ones_like(zeros))
    around = torch.stack(function.asked[1:3])
    assert float(around.abs().max()) <= 0.15 and float(around.abs().max()) > 0.12
    second = run.evaluate(function, (zeros,))
    torch.testing.assert_close(second.gradients[0], 1 - around.mean(dim=0), atol=1e-6, rtol=1e-5)
    assert (second.forwards, second.backwards) == (3, 3)


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(ValueError, match="odd"):
        TranslationInvariance(4)
    with pytest.raises(ValueError, match="differentiate"):
        InputDiversity(estimator=NaturalEvolution())
    with pytest.raises(ValueError, match="use it with AdditiveNoise"):
        Attack(BiasField(0.3), gradient=TranslationInvariance(), steps=2)(SmoothThreshold(), *bright_boxes())
    with pytest.raises(ValueError, match="2 or 3 spatial dimensions, got 1"):
        network = torch.nn.Conv1d(1, 2, 1)
        PGD(0.1, steps=1, gradient=InputDiversity())(network, torch.rand(1, 1, 8), torch.ones(1, 1, 8).long())


def test_mi_di_ti_is_one_call_and_equals_the_composition_of_the_attack_table() -> None:
    model, image, label = example_case(16)
    surrogate = AttackedModel(model.network, intensity=model.intensity)
    composed = EnsembleTransfer(12, surrogate, "HU", steps=4)(model, image, label)
    for gradient in (SurrogateGradient(surrogate), SurrogateGradient([surrogate, surrogate])):
        made = MIFGSM(12, "HU", steps=4, diversity=0.5, translation=7, gradient=gradient)(model, image, label)
        assert torch.equal(made.adversarial, composed.adversarial)
        assert (made.forwards, made.surrogate_backwards) == (2, composed.surrogate_backwards * len(gradient.surrogates))
    alone = MIFGSM(12, "HU", steps=4, gradient=SurrogateGradient(surrogate))(model, image, label)
    assert not torch.equal(alone.adversarial, composed.adversarial)


def test_di_and_ti_also_go_around_the_attacked_network() -> None:
    model, image, label = example_case(16)
    result = MIFGSM(12, "HU", steps=4, diversity=0.5, translation=3)(model, image, label)
    assert bool(result.adversarial_dice < result.clean_dice) and float(result.budgets["noise_linf"].values) <= 12
    by_hand = MIFGSM(12, "HU", steps=4, gradient=transferable(diversity=0.5, translation=3))(model, image, label)
    assert torch.equal(result.adversarial, by_hand.adversarial)


@pytest.mark.parametrize(("options", "said"), [({"diversity": 1.5}, "diversity"), ({"translation": 4}, "translation")])
def test_the_recipe_names_its_own_argument(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=f"^{said} must be"):
        MIFGSM(0.1, **options)


def test_memory_behind_windows_is_what_is_documented() -> None:
    """Live storages, counted: of the default of PGD, of each change, and of plain automatic differentiation."""
    network = unet((4, 8, 16))
    image, label = random_image((1, 1, 32, 32, 32)), random_label((1, 1, 32, 32, 32), 3)
    windows = SlidingWindowInferer((16, 16, 16), 1, 0.25)

    def peak(inferer: Any = windows, **gradient: Any) -> int:
        with PeakBytes(network) as memory:
            PGD(0.02, steps=1, **gradient)(AttackedModel(network, inferer, precision="float32"), image, label)
        return memory.peak

    frugal = memory_bounded(windows, 0)
    usual, plain = peak(frugal), peak(PlainInferer(windows))
    found = {
        name: peak(frugal, gradient=transferable(estimator, **{name: value}))
        for name, value, estimator in (
            ("translation", 3, WindowwiseGradient()),
            ("nesterov", 1.0, WindowwiseGradient()),
            ("diversity", 1.0, None),
            ("scales", 2, None),
            ("variance", 1, None),
        )
    }
    assert found.pop("translation") <= 1.02 * usual and found.pop("nesterov") <= 1.02 * usual
    assert all(1.5 * usual < bytes_ < 3.2 * usual and bytes_ < 0.5 * plain for bytes_ in found.values()), (
        found,
        usual,
        plain,
    )
