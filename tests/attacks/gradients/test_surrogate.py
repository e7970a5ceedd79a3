# SPDX-License-Identifier: Apache-2.0
"""Transfer: the gradients are those of surrogates, and the target is never asked during the search."""

from __future__ import annotations

import copy

import pytest
import torch

from monai_adversarial.attacks import (
    APGD,
    MIFGSM,
    NES,
    PGD,
    EnsembleTransfer,
    NaturalEvolution,
    SurrogateGradient,
)
from monai_adversarial.attacks.gradients.surrogate import averaged
from monai_adversarial.attacks.objectives import Target
from monai_adversarial.models import AttackedModel, TransferOracle
from tests.attacks.black_boxes import NumpyNetwork, SmoothThreshold, bright_boxes
from tests.helpers import tiny_segmentation_network


class Noting(SmoothThreshold):
    """Remembers how often the target had been asked when this one was."""

    def __init__(self, oracle: TransferOracle) -> None:
        super().__init__()
        self.seen: list[int] = []
        self.__dict__["oracle"] = oracle  # not a part of this network

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        self.seen.append(self.__dict__["oracle"].calls)
        return super().forward(image)


@pytest.mark.parametrize("average", ["probability", "logit", "loss"])
def test_the_target_is_asked_about_the_clean_image_and_the_outcome_alone(average: str) -> None:
    image, label = bright_boxes()
    oracle = TransferOracle(NumpyNetwork(), limit=2 * 2)
    surrogates = [Noting(oracle), Noting(oracle)]
    result = PGD(0.1, steps=4, gradient=SurrogateGradient(surrogates, average))(oracle, image, label)
    assert oracle.calls == result.forwards == 4 and (result.backwards, result.queries) == (0, 4)
    for surrogate in surrogates:
        assert len(surrogate.seen) > 4 and set(surrogate.seen[1:]) == {2}  # after the clean pass, before the outcome
    assert result.surrogate_backwards == 2 * 2 * 4
    assert bool((result.adversarial_dice < result.clean_dice - 0.2).all())  # what cannot be differentiated is attacked


def test_a_copy_as_surrogate_is_the_white_box_attack() -> None:
    image, label = bright_boxes()
    network = SmoothThreshold()
    white = MIFGSM(0.05, steps=4)(network, image, label)
    transferred = MIFGSM(0.05, steps=4, gradient=SurrogateGradient(copy.deepcopy(network)))(network, image, label)
    torch.testing.assert_close(transferred.adversarial, white.adversarial)


def test_transfer_is_no_stronger_than_the_white_box() -> None:
    image, label = bright_boxes()
    target = SmoothThreshold()
    other = SmoothThreshold()
    with torch.no_grad():
        other.mean.weight[:, :, :2] *= 0.2
    white = APGD(0.06, steps=20)(target, image, label)
    transferred = APGD(0.06, steps=20, gradient=SurrogateGradient(other))(target, image, label)
    assert bool((white.adversarial_dice <= transferred.adversarial_dice + 1e-6).all())


def test_training_on_the_images_of_another_network_asks_nothing() -> None:
    image, label = bright_boxes()
    oracle = TransferOracle(SmoothThreshold())
    with oracle.closed():
        made = PGD(0.1, steps=2, gradient=SurrogateGradient(SmoothThreshold())).perturb(oracle, image, label)
    assert oracle.calls == 0 and not torch.equal(made.adversarial, image)


def test_a_target_that_is_asked_during_the_search_raises() -> None:
    oracle = TransferOracle(SmoothThreshold())
    with oracle.closed(), pytest.raises(RuntimeError, match="asked while it was closed"):
        PGD(0.1, steps=2)(oracle, *bright_boxes())
    with pytest.raises(RuntimeError, match="limit=2"):
        NES(0.1, queries=30)(TransferOracle(NumpyNetwork(), limit=2), *bright_boxes())


def test_probabilities_are_averaged_as_probabilities() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = [torch.randn((2, 3, 4, 4), generator=generator) for _ in range(3)]
    label = torch.zeros((2, 1, 4, 4), dtype=torch.long)
    for activation, of in (("softmax", lambda z: z.softmax(dim=1)), ("sigmoid", torch.sigmoid)):
        target = Target.from_label(label, 3, activation)
        mean = torch.stack([of(one) for one in logits]).mean(dim=0)  # type: ignore[operator]
        torch.testing.assert_close(of(averaged(logits, "probability", target)), mean)  # type: ignore[operator]
        torch.testing.assert_close(averaged(logits, "logit", target), torch.stack(logits).mean(dim=0))


def test_the_mean_loss_has_the_mean_gradient() -> None:
    image, label = bright_boxes(batch=1)
    networks = [SmoothThreshold(), SmoothThreshold()]
    with torch.no_grad():
        networks[1].mean.weight *= 1.3

    def first_value(gradient: SurrogateGradient) -> torch.Tensor:
        options = {"steps": 1, "objective": "dice_ce", "random_start": False}
        return PGD(0.01, gradient=gradient, **options)(networks[0], image, label).objective_history[0]  # type: ignore[arg-type]

    values = [first_value(SurrogateGradient(one)) for one in networks]
    torch.testing.assert_close(first_value(SurrogateGradient(networks, "loss")), sum(values) / 2)


def test_each_surrogate_has_its_own_window_of_hounsfield_units() -> None:
    image, label = bright_boxes()
    target = AttackedModel(SmoothThreshold(), intensity={"a_min": 0, "a_max": 1000}, image_units="HU")
    narrow = SmoothThreshold()
    # The same tissue at other network values: 500 HU are 0.5 there as well.
    surrogate = AttackedModel(narrow, intensity={"a_min": 250, "a_max": 750}, image_units="HU")
    result = EnsembleTransfer(60, surrogate, "HU", steps=5, translation=0, diversity=0)(target, image * 1000, label)
    assert bool((result.adversarial_dice < result.clean_dice - 0.1).all())
    windowed = AttackedModel(SmoothThreshold(), intensity={"a_min": 0, "a_max": 1000})
    with pytest.raises(ValueError, match="another intensity map"):
        EnsembleTransfer(0.1, AttackedModel(narrow, intensity={"a_min": 250, "a_max": 750}))(windowed, image, label)


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        SurrogateGradient([])
    with pytest.raises(ValueError, match="average"):
        SurrogateGradient(SmoothThreshold(), "median")
    with pytest.raises(ValueError, match="differentiate"):
        SurrogateGradient(SmoothThreshold(), estimator=NaturalEvolution())
    with pytest.raises(ValueError, match="early_stop"):
        PGD(0.1, early_stop=True, gradient=SurrogateGradient(SmoothThreshold()))
    with pytest.raises(ValueError, match="answers in 3 classes"):
        PGD(0.1, steps=2, gradient=SurrogateGradient(tiny_segmentation_network()))(SmoothThreshold(), *bright_boxes())
