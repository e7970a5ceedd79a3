# SPDX-License-Identifier: Apache-2.0
"""One noise for all images: tiles, budgets, and held-out cases worse off than with random noise of the same size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from monai_adversarial.attacks import Attack, FixedPoint, TiledNoise, UniversalPerturbation
from monai_adversarial.attacks.objectives import Progress, Target, get_objective
from monai_adversarial.data.example import example_case
from monai_adversarial.models import AttackedModel
from tests.helpers import LinearNetwork, random_image

SIZE = 16


def cases(count: int, first: int = 0, size: int = SIZE) -> tuple[AttackedModel, list[tuple[Any, Any]]]:
    found = [example_case(size, seed) for seed in range(first, first + count)]
    return found[0][0], [(image, label) for _, image, label in found]


@pytest.mark.parametrize("block", [None, (8, 8, 8), (6, 16, 5)])
@pytest.mark.parametrize("method", ["sgd", "pgd", "uap"])
def test_held_out_cases_are_worse_off_than_with_random_noise(method: str, block: tuple[int, ...] | None) -> None:
    model, seen = cases(3)
    _, held_out = cases(2, first=50)
    universal = UniversalPerturbation(20, "HU", block, method, epochs=4).fit(model, seen)
    assert tuple(universal.noise.shape[1:]) == (block or (SIZE,) * 3)
    for image, label in held_out:
        result = universal(model, image, label)
        assert result.forwards == 3 and result.backwards == 0
        assert float(result.budgets["noise_linf"].values.max()) <= 20 + 1e-3
        control, _ = result.random_control()
        by_chance = Attack(TiledNoise(20, "HU"), search=FixedPoint(), steps=1, random_start=False)(
            model, image, label, start=((control - image).as_tensor(),)
        )
        assert float(result.adversarial_dice) < float(by_chance.adversarial_dice) - 0.02


def test_uap_ends_when_enough_cases_are_fooled() -> None:
    model, seen = cases(3)
    options: dict[str, Any] = {"method": "uap", "epochs": 6, "success_threshold": 0.9}
    universal = UniversalPerturbation(25, "HU", fooling_rate=0.5, **options).fit(model, seen)
    assert universal.fooling_rates[-1] >= 0.5 and len(universal.fooling_rates) < 6
    fooled = [bool(universal(model, *case).success) for case in seen]
    assert sum(fooled) / 3 == pytest.approx(max(universal.fooling_rates))
    none = UniversalPerturbation(0.5, "HU", **options).fit(model, seen)
    assert none.fooling_rates == (0.0,) * 6


def test_the_same_seed_gives_the_same_noise() -> None:
    model, seen = cases(3)
    made = [UniversalPerturbation(10, "HU", epochs=2, seed=seed).fit(model, seen).noise for seed in (0, 0, 1)]
    assert torch.equal(made[0], made[1]) and not torch.equal(made[0], made[2])


def test_a_step_of_pgd_is_the_sign_of_the_summed_gradients() -> None:
    model, seen = cases(3)
    model = AttackedModel(model.network, intensity=model.intensity, image_units="HU", precision="float32")
    options: dict[str, Any] = {"epochs": 1, "objective": "dice"}
    made = UniversalPerturbation(10, "HU", method="pgd", cases_per_step=3, **options).fit(model, seen).noise
    total = torch.zeros(1, 1, SIZE, SIZE, SIZE)
    for image, label in seen:
        still = torch.zeros(1, 1, SIZE, SIZE, SIZE, requires_grad=True)
        logits = model.network(((image.as_tensor() + still + 160) / 500).clamp(0, 1))
        value = get_objective("dice").value(logits, Target.from_label(label.as_tensor(), 4), Progress(0, 1))
        (gradient,) = torch.autograd.grad(value.sum(), still)
        total += gradient / gradient.abs().mean()
    # The step begins with half the radius; at a sum near zero its sign is a matter of rounding.
    assert float(((made - 5 * total[0].sign()).abs() < 1e-3).float().mean()) > 0.995
    # A batch of cases is the cases.
    batch = [(torch.cat([image for image, _ in seen]), torch.cat([label for _, label in seen]))]
    together = UniversalPerturbation(10, "HU", method="pgd", cases_per_step=1, **options).fit(model, batch).noise
    assert float(((together - made).abs() < 1e-3).float().mean()) > 0.995
    single = UniversalPerturbation(10, "HU", method="pgd", cases_per_step=1, **options).fit(model, seen).noise
    by_sgd = UniversalPerturbation(10, "HU", method="sgd", **options).fit(model, seen).noise
    assert float((single - by_sgd).abs().max()) < 1e-3


@pytest.mark.parametrize("method", ["sgd", "pgd", "uap"])
def test_a_fit_that_was_interrupted_ends_where_a_whole_one_does(method: str, tmp_path: Path) -> None:
    model, seen = cases(3)
    universal = UniversalPerturbation(4, "HU", (8, 8, 8), method, epochs=3, cases_per_step=2, fooling_rate=1.0)
    whole = universal.fit(model, seen)
    file = tmp_path / "noise.pt"

    class Broken(list):  # type: ignore[type-arg]
        left: int

        def __getitem__(self, number: Any) -> Any:
            if self.left == 0:
                raise KeyboardInterrupt
            self.left -= 1
            return super().__getitem__(number)

    with pytest.raises(KeyboardInterrupt):
        interrupted = Broken(seen)
        interrupted.left = 1 + 3 + 3 * (method == "uap") + 2  # in the second epoch
        universal.fit(model, interrupted, checkpoint=file)
    resumed = universal.fit(model, seen, checkpoint=file)
    assert torch.equal(resumed.noise, whole.noise) and resumed.fooling_rates == whole.fooling_rates
    again = universal.fit(model, seen, checkpoint=file)
    assert torch.equal(again.noise, whole.noise), "what is done is not done again"
    for other, other_cases in (
        (UniversalPerturbation(13, "HU", (8, 8, 8), method, epochs=3), seen),
        (universal, seen[:2]),
    ):
        with pytest.raises(ValueError, match="checkpoint must be one of these settings, this network and"):
            other.fit(model, other_cases, checkpoint=file)


@pytest.mark.parametrize("method", ["sgd", "pgd"])
def test_more_budget_and_more_epochs_do_more_harm_to_held_out_cases(method: str) -> None:
    model, seen = cases(4)
    _, held_out = cases(2, first=50)

    def dice(epsilon: float, epochs: int) -> float:
        made = UniversalPerturbation(epsilon, "HU", method=method, epochs=epochs).fit(model, seen)
        return sum(float(made(model, *case).adversarial_dice) for case in held_out)

    assert dice(4, 4) > dice(10, 4) > dice(20, 4) and dice(20, 1) > dice(20, 4) - 0.02


def test_images_of_whole_numbers_get_whole_numbers_inside_the_budget() -> None:
    model, seen = cases(2)
    whole = AttackedModel(model.network, intensity=model.intensity, image_units="HU", round_to_integer=True)
    universal = UniversalPerturbation(9.5, "HU", (8, 8, 8), "pgd", epochs=2).fit(whole, seen)
    image, label = seen[0][0].round(), seen[0][1]
    change = (universal(whole, image, label).adversarial - image).as_tensor()
    assert torch.equal(change, change.round()) and 0 < float(change.abs().max()) <= 9


def test_a_block_fits_images_of_other_sizes_and_one_grid_does_not() -> None:
    model, seen = cases(2)
    universal = UniversalPerturbation(10, "HU", (8, 8, 8), epochs=1).fit(model, seen)
    _, ((image, label),) = cases(1, size=20)
    change = (universal(model, image, label).adversarial - image).as_tensor()
    torch.testing.assert_close(change[..., 8:16, 8:16, :8], change[..., :8, :8, :8], rtol=0, atol=1e-4)
    with pytest.raises(ValueError, match="cases must have one grid without size="):
        UniversalPerturbation(10, "HU", epochs=1).fit(model, [*seen, (image, label)])
    with pytest.raises(ValueError, match="size must give at most"):
        UniversalPerturbation(10, "HU", (18, 8, 8), epochs=1).fit(model, seen)
    with pytest.raises(ValueError, match="cases must hold at least one pair"):
        UniversalPerturbation(10, "HU").fit(model, [])


def test_tiles_keep_the_region_the_range_and_the_stored_values() -> None:
    image = random_image((2, 1, 7, 6, 5)) * 200
    model = AttackedModel(
        LinearNetwork((-0.1, 0.1), (10.0, -10.0)), image_units="HU", round_to_integer=True, output_values="logits"
    )
    label = (image > 100).long()
    region = torch.zeros(2, 1, 7, 6, 5, dtype=torch.bool)
    region[:, :, 2:] = True
    result = Attack(TiledNoise(9.5, "HU", (3, 3, 3)), steps=5)(model, image.round(), label, region=region)
    change = result.adversarial - image.round()
    assert torch.equal(change, change.round()) and float(change.abs().max()) <= 9
    assert not change[:, :, :2].any() and change[:, :, 2:].any()
    assert (result.adversarial_dice < result.clean_dice).all()
    assert {"noise_linf", "outside_budget", "change_outside_region"} <= set(result.budgets)


def test_the_gradient_of_a_tile_is_the_sum_over_its_places() -> None:
    from tests.attacks.perturbations.scenes import hounsfield_scene

    bound = TiledNoise(5, "HU", (4, 5, 2)).bind(hounsfield_scene(batch=2, dtype=torch.float64))
    block = torch.zeros(2, 1, 4, 5, 2, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(2, 1, 12, 10, 8, dtype=torch.float64)
    (gradient,) = torch.autograd.grad((bound.apply(bound.scene.image, (block,)) * weights).sum(), block)
    folded = weights.view(2, 1, 3, 4, 2, 5, 4, 2).sum(dim=(2, 4, 6))
    torch.testing.assert_close(gradient, folded)
