# SPDX-License-Identifier: Apache-2.0
"""Loss of training against frequency attacks: by hand, its gradient, and a training with VAFA examples."""

from __future__ import annotations

import pytest
import torch
from scipy.fft import dctn

from monai_adversarial.attacks import VAFA
from monai_adversarial.data.example_engines import example_trainer
from monai_adversarial.handlers import AdversarialLossTerm, AdversarialTraining
from monai_adversarial.losses import FrequencyConsistencyLoss


def logits(seed: int, size: int = 8) -> torch.Tensor:
    return torch.randn((2, 3, size, size, size), generator=torch.Generator().manual_seed(seed))


def test_it_is_the_dice_loss_and_the_mean_change_of_the_spectrum() -> None:
    clean, adversarial = logits(0), logits(1)
    label = torch.randint(0, 3, (2, 1, 8, 8, 8), generator=torch.Generator().manual_seed(2))
    probabilities = adversarial.softmax(dim=1)
    by_hand = []
    for sample in range(2):
        dice = []
        for organ in (1, 2):
            p, y = probabilities[sample, organ], (label[sample, 0] == organ).float()
            dice.append(float(2 * (p * y).sum() / (p.sum() + y.sum())))
        spectra = [dctn(z[sample].numpy(), axes=(1, 2, 3), norm="ortho") for z in (clean, adversarial)]
        by_hand.append(1 - sum(dice) / 2 + 0.3 * abs(spectra[0] - spectra[1]).mean())
    found = float(FrequencyConsistencyLoss(0.3, block_size=8)(clean, adversarial, label))
    assert found == pytest.approx(sum(by_hand) / 2, rel=1e-3)


def test_a_shift_of_all_logits_is_one_coefficient_of_each_block() -> None:
    clean, label = logits(0), torch.ones(2, 1, 8, 8, 8).long()
    same = float(FrequencyConsistencyLoss(1.0, block_size=4)(clean, clean, label))
    shifted = float(FrequencyConsistencyLoss(1.0, block_size=4)(clean, clean + 2, label))
    assert shifted - same == pytest.approx(2 * 4**1.5 / 4**3, rel=1e-3)  # softmax does not see the shift


def test_its_gradient_passes_gradcheck() -> None:
    clean, adversarial = (logits(seed, 4)[:1].double().requires_grad_() for seed in (0, 1))
    label = torch.randint(0, 3, (1, 1, 4, 4, 4), generator=torch.Generator().manual_seed(2))
    loss = FrequencyConsistencyLoss(0.5, block_size=3)
    assert torch.autograd.gradcheck(lambda a, b: loss(a, b, label), (clean, adversarial), fast_mode=True)


@pytest.mark.parametrize("form", ["term", "mixture"])
def test_a_trainer_trains_with_frequency_attacks(form: str) -> None:
    attack = VAFA(largest_step=60, block_size=8, steps=2, step_size=30)
    if form == "term":
        handler = AdversarialLossTerm(attack, FrequencyConsistencyLoss(block_size=8))
    else:
        handler = AdversarialTraining(attack, adversarial_weight=0.5)
    trainer = example_trainer([handler])
    before = {name: value.clone() for name, value in trainer.network.state_dict().items()}
    trainer.run()
    output = trainer.state.output
    assert float(output["adversarial_loss"].detach()) > 0 and torch.isfinite(torch.as_tensor(output["loss"]))
    assert any(not torch.equal(before[name], value) for name, value in trainer.network.state_dict().items())
    if form == "term":
        total = float(output["clean_loss"].detach()) + float(output["adversarial_loss"].detach())
        assert float(torch.as_tensor(output["loss"]).detach()) == pytest.approx(total, rel=1e-4)


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(ValueError, match="block_size must be"):
        FrequencyConsistencyLoss(block_size=0)
    with pytest.raises(ValueError, match="FrequencyConsistencyLoss needs a label"):
        FrequencyConsistencyLoss()(logits(0), logits(1), None)  # type: ignore[arg-type]
