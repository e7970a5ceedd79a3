# SPDX-License-Identifier: Apache-2.0
"""AdvGAN: trained once, stronger than chance of the same size, and the model is not asked when it attacks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from monai_adversarial.attacks import AdditiveNoise, Attack, NaturalEvolution
from monai_adversarial.data.example import example_case
from monai_adversarial.generators import AdvGAN, FeedForward, GeneratedAttack
from monai_adversarial.metrics.dice import mean_foreground_dice
from monai_adversarial.networks import PerturbationGenerator

SMALL: dict[str, Any] = {"channels": (4, 8), "rate": 1e-2}


class Counted(nn.Module):
    """A network that counts its calls and samples."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network, self.calls = network, 0

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        self.calls += image.shape[0]
        return self.network(image)


def cases(count: int = 3) -> list[tuple[Any, Any]]:
    return [example_case(16, seed=seed)[1:] for seed in range(count)]


def counted_model() -> tuple[Any, Counted]:
    model = example_case(16)[0]
    counted = Counted(model.network)
    return model.replace(network=counted), counted


@pytest.fixture(scope="module")
def trained() -> AdvGAN:
    attack = AdvGAN(12, "HU", **SMALL)
    attack.fit(example_case(16)[0], cases(), epochs=8)
    return attack


def test_the_image_is_made_without_a_question_to_the_model(trained: AdvGAN) -> None:
    model, counted = counted_model()
    image, label = example_case(16, seed=9)[1:]
    made = trained.generate(model, image)
    assert counted.calls == 0
    result = trained(model, image, label)
    assert torch.equal(made.as_tensor(), result.adversarial.as_tensor())
    assert result.backwards == 0 and counted.calls == result.forwards == 3  # clean, made, and its score
    other = model.replace(network=lambda seen: torch.cat([seen, -seen, seen, seen], dim=1))
    assert torch.equal(trained.generate(other, image).as_tensor(), made.as_tensor())


def test_stronger_than_random_noise_of_its_size_on_an_image_it_never_saw(trained: AdvGAN) -> None:
    model, image, label = example_case(16, seed=9)
    result = trained(model, image, label)
    control, _ = result.random_control()
    random = mean_foreground_dice(
        model.network(model.intensity(control.as_tensor())).argmax(dim=1, keepdim=True),
        torch.as_tensor(label),
        4,
        "softmax",
    )
    assert float(result.adversarial_dice) < 0.5 * float(random) < float(result.clean_dice)
    noise = (result.adversarial - image).abs().max()
    assert 6 < float(noise) <= 12 * (1 + 1e-4)
    assert result.budgets["noise_linf"].limit == pytest.approx(12)


def test_samples_do_not_depend_on_their_batch(trained: AdvGAN) -> None:
    model = example_case(16)[0]
    both = torch.cat([case[0].as_tensor() for case in cases(2)])
    together = trained.generate(model, both)
    alone = torch.cat([trained.generate(model, both[row : row + 1]) for row in range(2)])
    assert torch.allclose(together, alone, atol=1e-3)


def test_the_same_seed_gives_the_same_weights_and_the_model_stays_as_it_was() -> None:
    model, _ = counted_model()
    before = {name: value.clone() for name, value in model.network.state_dict().items()}
    made = []
    for seed in (1, 1, 2):
        attack = AdvGAN(12, "HU", seed=seed, **SMALL)
        torch.rand(3)  # the global generator decides nothing
        attack.fit(model, cases(2), epochs=1)
        made.append(torch.cat([weight.flatten() for weight in attack.generator.parameters()]))
    assert torch.equal(made[0], made[1]) and not torch.equal(made[0], made[2])
    assert all(torch.equal(value, before[name]) for name, value in model.network.state_dict().items())
    assert all(weight.requires_grad and weight.grad is None for weight in model.network.parameters())


def test_a_training_goes_on_where_it_stopped(tmp_path: Path) -> None:
    model = example_case(16)[0]
    whole, halves = AdvGAN(12, "HU", **SMALL), AdvGAN(12, "HU", **SMALL)
    history = whole.fit(model, cases(2), epochs=3)
    halves.fit(model, cases(2), epochs=1, checkpoint=tmp_path / "gan.pt")
    again = AdvGAN(12, "HU", **SMALL)
    assert again.fit(model, cases(2), epochs=3, checkpoint=tmp_path / "gan.pt") == history
    assert again.fit(model, cases(2), epochs=3, checkpoint=tmp_path / "gan.pt") == history  # nothing is left to do
    for one, other in zip(whole.generator.parameters(), again.generator.parameters(), strict=True):
        assert torch.equal(one, other)
    with pytest.raises(ValueError, match="2 cases, got 3"):
        AdvGAN(12, "HU", **SMALL).fit(model, cases(3), epochs=4, checkpoint=tmp_path / "gan.pt")


def test_weights_are_saved_and_read(trained: AdvGAN, tmp_path: Path) -> None:
    model, image, _ = example_case(16, seed=9)
    trained.save(tmp_path / "generator.pt")
    loaded = AdvGAN(12, "HU", seed=5, **SMALL)
    loaded.load(tmp_path / "generator.pt")
    assert torch.equal(loaded.generate(model, image).as_tensor(), trained.generate(model, image).as_tensor())


def test_black_box_training_asks_for_no_gradient() -> None:
    model = example_case(16)[0].replace(network=torch.no_grad()(example_case(16)[0].network.forward))
    attack = AdvGAN(12, "HU", gradient=NaturalEvolution(samples=4), **SMALL)
    history = attack.fit(model, cases(1), epochs=1)
    assert len(history) == 1 and int(attack.generator.steps) == 1


def test_a_feed_forward_search_is_a_part_like_others(trained: AdvGAN) -> None:
    model, image, label = example_case(16, seed=9)
    attack = Attack(AdditiveNoise(6, units="HU"), search=FeedForward(trained.generator), steps=1)
    result = attack(model, image, label)
    assert float(result.budgets["noise_linf"].values) <= 6 * (1 + 1e-4)  # shares of whatever the budget is
    assert isinstance(trained, GeneratedAttack) and repr(trained).startswith("AdvGAN(12, 'HU'")
    with pytest.raises(ValueError, match="leave out start="):
        Attack(AdditiveNoise(6, units="HU"), search=FeedForward(trained.generator), steps=1, random_start=False)(
            model, image, label
        )


def test_what_is_told_wrongly_is_refused(trained: AdvGAN) -> None:
    model, image, label = example_case(16)
    with pytest.raises(ValueError, match="not trained"):
        AdvGAN(12, "HU", **SMALL)(model, image, label)
    with pytest.raises(ValueError, match="cases must hold"):
        AdvGAN(12, "HU", **SMALL).fit(model, [], epochs=1)
    with pytest.raises(ValueError, match="search is no choice"):
        AdvGAN(12, "HU", search=None, **SMALL)
    with pytest.raises(ValueError, match="1 image channels"):
        trained.generator(torch.zeros(1, 2, 8, 8, 8), [(1, 8, 8, 8)])
    with pytest.raises(TypeError, match="generator must be"):
        FeedForward(nn.Identity())  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="an amount"):
        PerturbationGenerator([1], channels=(4, 8), amount=True)(torch.zeros(1, 1, 8, 8, 8), [(1, 8, 8, 8)])
