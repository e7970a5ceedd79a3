# SPDX-License-Identifier: Apache-2.0
"""Batches, maps and budgets that cannot belong together: errors in scripts, one warning in training."""

from __future__ import annotations

import warnings

import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import AdjustContrastd, Compose, NormalizeIntensityd, ScaleIntensityd

from monai_adversarial.attacks import (
    BIM,
    FGSM,
    PGD,
    Attack,
    BiasField,
    BiasFieldAttack,
    Chain,
    ElasticAttack,
    ElasticDeformation,
)
from monai_adversarial.models import AttackedModel, install_recorders, map_of_batch, read_intensity
from tests.helpers import tiny_segmentation_network

WINDOW = {"a_min": -57, "a_max": 164}


def hounsfield(seed: int = 0) -> torch.Tensor:
    return torch.randn((2, 1, 8, 8, 8), generator=torch.Generator().manual_seed(seed)) * 120 + 20


def scaled(seed: int = 0) -> torch.Tensor:
    return ((hounsfield(seed) + 57) / 221).clamp(0, 1)


def model(channels: int = 1, **facts: object) -> AttackedModel:
    return AttackedModel(tiny_segmentation_network(channels), precision="float32", **facts)  # type: ignore[arg-type]


IMPOSSIBLE = [
    pytest.param(
        scaled(),
        {"intensity": WINDOW, "image_units": "HU"},
        "image_units is 'HU' but .* looks already scaled",
        id="units",
    ),
    pytest.param(
        hounsfield(),
        {"intensity": WINDOW},
        "maps to 0 to 1, but .* far outside.* not the map that scaled",
        id="outside",
    ),
    pytest.param(
        scaled(),
        {"intensity": {**WINDOW, "b_max": 255}},
        "maps to 0 to 255, but the image spans 0 to 1 only, 0.39% of that",
        id="range",
    ),
    pytest.param(
        hounsfield(),
        {"intensity": {"a_min": 3000, "a_max": 4000}, "image_units": "HU"},
        r"0.0% of the image's voxels .* lie within the window of the intensity map \(3000..4000 HU -> 0..1\)",
        id="window",
    ),
    pytest.param(torch.zeros(2, 1, 8, 8, 8), {"intensity": WINDOW}, "0.0% of the voxels can change", id="nothing"),
]


@pytest.mark.parametrize(("image", "facts", "says"), IMPOSSIBLE)
def test_what_cannot_be_is_an_error_in_scripts_and_one_warning_in_training(
    image: torch.Tensor, facts: dict[str, object], says: str
) -> None:
    attack = PGD(8, units="HU", steps=1)
    with pytest.raises(ValueError, match=says):
        attack(model(**facts), image)
    label, trained = torch.zeros(2, 1, 8, 8, 8), model(**facts)
    with pytest.warns(UserWarning, match=says):
        attack.perturb(trained, image, label)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        attack.perturb(trained, image, label)
        attack.scaled(0.5).perturb(trained, image, label)


UNLIKELY = [
    pytest.param(
        PGD(8, steps=1), scaled(), {}, "epsilon is 8 in the network's units, more than the whole range", id="big"
    ),
    pytest.param(
        PGD(2, units="percentile", steps=1), scaled(), {}, "epsilon is 2 of the image's range, more", id="share"
    ),
    pytest.param(
        PGD(0.005, units="HU", steps=1), hounsfield(), {}, "epsilon is 0.005 HU, .* next to nothing", id="small"
    ),
    pytest.param(PGD(0.2, units="HU", steps=1), hounsfield(), {}, "0.2 HU, below the half HU", id="fine"),
    pytest.param(
        PGD(8, units="HU", steps=1),
        hounsfield(),
        {"intensity": {"a_min": 330, "a_max": 900}, "image_units": "HU"},
        r"[0-4]\.\d% of the image's voxels .* within the window",
        id="window",
    ),
    pytest.param(
        PGD(8, units="HU", steps=1),
        torch.where(torch.rand(2, 1, 8, 8, 8, generator=torch.Generator().manual_seed(1)) > 0.02, 0.0, 0.5),
        {"intensity": WINDOW},
        "1.5% of the voxels can change",
        id="changeable",
    ),
    pytest.param(
        PGD(8, units="HU", steps=1),
        scaled(),
        {"intensity": {**WINDOW, "b_min": -1}},
        "of the image's voxels lie at its lowest value 0, as if it were clipped there, but intensity clips at -1 to 1",
        id="pile",
    ),
]


@pytest.mark.parametrize(("attack", "image", "facts", "says"), UNLIKELY)
def test_what_is_unlikely_is_a_warning(attack: PGD, image: torch.Tensor, facts: dict[str, object], says: str) -> None:
    with pytest.warns(UserWarning, match=says):
        attack(model(**facts), image)
    label, trained = torch.zeros(2, 1, 8, 8, 8), model(**facts)
    with pytest.warns(UserWarning, match=says):
        attack.perturb(trained, image, label)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        attack.perturb(trained, image, label)


def test_what_fits_is_attacked_without_a_word() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        PGD(8, units="HU", steps=1)(model(intensity=WINDOW), scaled())
        PGD(8, units="HU", steps=1)(model(intensity=WINDOW, image_units="HU"), hounsfield())
        PGD(0.02, steps=1)(model(), scaled())


def mri_batch(pipeline: Compose) -> MetaTensor:
    """Two samples, four channels, each with its own range, and background."""
    items = []
    for seed in range(2):
        raw = torch.rand((4, 8, 8, 8), generator=torch.Generator().manual_seed(seed)) * 1000 * (seed + 1) + 100
        raw[:, :3] = 0
        items.append(pipeline({"image": MetaTensor(raw)})["image"])
    made = MetaTensor(torch.stack([one.as_tensor() for one in items]))
    made.meta = {key: torch.stack([one.meta[key] for one in items]) for key in items[0].meta if "recorded" in key}
    return made


def test_a_recorded_map_gives_hu_budgets_and_keeps_the_background() -> None:
    pipeline = install_recorders(
        Compose([NormalizeIntensityd("image", nonzero=True, channel_wise=True), ScaleIntensityd("image", -1, 1)])
    )
    batch = mri_batch(pipeline)
    read = read_intensity(pipeline)
    result = PGD(8, units="HU", steps=2)(model(4, intensity=read), batch)
    own = map_of_batch(read, batch)
    allowed = 8 * own.like(own.size, batch.as_tensor())
    change = (result.adversarial.as_tensor() - batch.as_tensor()).abs()
    assert bool((change <= allowed * 1.0001).all())
    assert torch.allclose(change.flatten(2).amax(2), allowed.flatten(1), rtol=1e-3)
    assert not bool(change[:, :, :3].any())
    assert result.budgets["noise_linf"].units == "HU"
    assert result.budgets["noise_linf"].values.tolist() == pytest.approx([8.0, 8.0], rel=1e-3)
    # With early stop and one sample left, the map is that of the sample.
    alone = PGD(8, units="HU", steps=2, early_stop=True)(model(4, intensity=read), batch)
    assert alone.budgets["largest_change"].values.tolist() == pytest.approx([8.0, 8.0], rel=1e-3)


def test_an_unknown_map_refuses_hu_with_its_reason_and_leaves_other_units() -> None:
    pipeline = install_recorders(Compose([AdjustContrastd("image", gamma=2.0)]))
    attacked = model(4, intensity=read_intensity(pipeline))
    batch = mri_batch(pipeline)
    with pytest.raises(ValueError, match=r"units='HU' .* pass intensity= \(preprocessing#0 \(AdjustContrastd\) is no"):
        PGD(8, units="HU", steps=1)(attacked, batch)
    for units, epsilon in (("network", 5.0), ("percentile", 0.02)):
        result = PGD(epsilon, units=units, steps=1)(attacked, batch)
        assert result.budgets["noise_linf"].values.tolist() == pytest.approx([epsilon] * 2, rel=1e-3)
        assert "largest_change" not in result.budgets


@pytest.mark.parametrize(
    ("attack", "sentence"),
    [
        (BiasFieldAttack(max_gain=10, steps=1), "max_gain is 10, a gain of 1000 %: give 0.1 if 10 % is meant"),
        (BiasFieldAttack(max_gain=0.1, steps=1), None),
        (ElasticAttack(max_displacement=0.05, steps=1), "max_displacement is 0.05 mm, 0.025 of a voxel of 2 mm"),
        (ElasticAttack(max_displacement=1, steps=1), None),
        (
            Attack(Chain([BiasField(max_gain=0.1), ElasticDeformation(max_displacement=0.05)]), steps=1),
            "max_displacement is 0.05 mm",
        ),
    ],
)
def test_gains_and_displacements_in_other_units_are_said(attack: Attack, sentence: str | None) -> None:
    image = MetaTensor(torch.rand(1, 1, 16, 16, 16), affine=torch.diag(torch.tensor([2.0, 2.0, 2.0, 1.0])))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        attack(model(), image)
    found = [str(one.message) for one in caught if str(one.message).startswith("max_")]
    assert found == [] if sentence is None else len(found) == 1 and sentence in found[0]


def test_an_affine_that_says_nothing_is_said_where_mm_count() -> None:
    """MONAI gives a tensor without affine the identity: 5 mm were 5 voxels."""
    values, label = torch.rand(1, 1, 16, 16, 16), torch.zeros(1, 1, 16, 16, 16)
    label[..., 8:] = 1
    attack = ElasticAttack(max_displacement=1, steps=1)

    def said(image: torch.Tensor, **options: object) -> list[str]:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            attack(model(), image, label, **options)  # type: ignore[arg-type]
        return [str(one.message) for one in caught if "the identity" in str(one.message)]

    found = said(MetaTensor(values))
    assert found and "max_displacement is in mm, but the image's affine is the identity" in found[0]
    assert said(MetaTensor(values), spacing=1.0) == []
    moved = torch.eye(4)
    moved[0, 3] = 12.0
    assert said(MetaTensor(values, affine=moved)) == []


@pytest.mark.parametrize(
    ("attack", "short"),
    [
        (PGD(8, "HU", steps=4, step_size=1), True),
        (PGD(8, "HU", steps=8, step_size=1), False),
        (PGD(8, "HU", steps=1), False),
        (FGSM(8, "HU"), False),
        (BIM(8, "HU", steps=7), False),
        (PGD(0, "HU", steps=1, step_size=1), False),
    ],
)
def test_steps_that_never_reach_the_edge_of_the_budget_are_said(attack: Attack, short: bool) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = attack(model(intensity=WINDOW, image_units="HU"), hounsfield())
    assert any("go 0.5 of the budget's radius together" in str(one.message) for one in caught) == short
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*of the budget's radius together")
        attack(model(intensity=WINDOW, image_units="HU"), hounsfield(), start=result.parameters)


def gray(seed: int = 0) -> torch.Tensor:
    """A CT of whole HU in the window of -57..164."""
    return ((hounsfield(seed).round() + 57) / 221).clamp(0, 1)


GRAYS = {
    "a window that is wider than it was": (gray(), {"a_min": -500, "a_max": 605}, True, "lie 5 HU apart"),
    "a tenth wider": (gray(), {"a_min": -68.05, "a_max": 175.05}, True, "lie 1.1 HU apart"),
    "the right one": (gray(), WINDOW, True, ""),
    "one as wide elsewhere": (gray(), {"a_min": -100, "a_max": 121}, True, ""),
    "after a resampling": (scaled(), {"a_min": -500, "a_max": 605}, True, ""),
    "a budget that needs no map": (gray(), {"a_min": -500, "a_max": 605}, False, ""),
}


@pytest.mark.parametrize("name", GRAYS)
def test_gray_values_that_lie_too_far_apart_show_a_wrong_window(name: str) -> None:
    image, window, in_hu, says = GRAYS[name]
    known = model(intensity={**window, "b_min": 0, "b_max": 1, "clip": True})
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        (FGSM(8, "HU") if in_hu else FGSM(0.02))(known, image)
    said = [str(one.message) for one in caught if "HU apart" in str(one.message)]
    assert len(said) == bool(says) and all(says in sentence for sentence in said)


def test_a_map_that_was_read_is_compared_elsewhere() -> None:
    window = {"a_min": -500, "a_max": 605, "b_min": 0, "b_max": 1, "clip": True}
    read = AttackedModel.from_parts(tiny_segmentation_network(1), intensity=window)
    assert read.was_read and not model(intensity=window).was_read
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        FGSM(8, "HU")(read, gray())
    assert not any("HU apart" in str(one.message) for one in caught)
