# SPDX-License-Identifier: Apache-2.0
"""One unusual batch never ends a training: augmentation after the window, crops of padding, voxels without a label."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from ignite.engine import Engine, Events
from monai.data import DataLoader, Dataset, MetaTensor
from monai.engines import SupervisedEvaluator, SupervisedTrainer
from monai.losses import DiceCELoss
from monai.networks.nets import UNet
from monai.transforms import (
    Compose,
    RandAdjustContrastd,
    RandBiasFieldd,
    RandGaussianNoised,
    RandScaleIntensityd,
    RandShiftIntensityd,
    RandStdShiftIntensityd,
    ScaleIntensityRanged,
)
from monai.utils import set_determinism
from torch import nn

from monai_adversarial.attacks import PGD, ElasticAttack
from monai_adversarial.handlers import (
    AdversarialEvaluation,
    AdversarialLossTerm,
    AdversarialTraining,
    FastAdversarialTraining,
    FreeAdversarialTraining,
    MarginAdversarialTraining,
)
from monai_adversarial.losses import TRADESLoss
from tests.handlers.trainers import FLOAT32, SmallNetwork, trainer
from tests.helpers import LinearNetwork, random_image

WINDOW = {"a_min": -160, "a_max": 240}
HANDLERS: dict[str, Any] = {
    "replaces": lambda model: AdversarialTraining(PGD(8, "HU", steps=1), model),
    "trades": lambda model: AdversarialLossTerm(PGD(8, "HU", steps=1), TRADESLoss(), model),
    "fast": lambda model: FastAdversarialTraining(8, "HU", model),
    "free": lambda model: FreeAdversarialTraining(8, "HU", model, replays=1),
    "margin": lambda model: MarginAdversarialTraining(PGD(8, "HU", steps=1), model, case_key="case"),
}


def unet() -> nn.Module:
    torch.manual_seed(0)
    return UNet(3, 1, 2, (8, 16), (2,), num_res_units=1)


def scan(size: int = 16) -> dict[str, Any]:
    """A bright ball in soft tissue, and bone."""
    axis = torch.linspace(-1, 1, size)
    radius = (axis.view(-1, 1, 1) ** 2 + axis.view(1, -1, 1) ** 2 + axis.view(1, 1, -1) ** 2).sqrt()
    label = (radius < 0.6)[None].long()
    image = torch.where(label > 0, 220.0, -100.0) + 12 * (random_image((1, size, size, size)) - 0.5)
    image[:, :4, :3] = 600.0
    return {"image": image, "label": label, "case": "a"}


def train(network: nn.Module, data: list[dict[str, Any]], transform: Any, handler: Any, epochs: int = 1) -> Engine:
    engine = SupervisedTrainer(
        device=torch.device("cpu"),
        max_epochs=epochs,
        train_data_loader=DataLoader(Dataset(data, transform), batch_size=1),
        network=network,
        optimizer=torch.optim.Adam(network.parameters()),
        loss_function=DiceCELoss(softmax=True, to_onehot_y=True),
        train_handlers=[handler],
        decollate=False,
    )
    engine.run()
    return engine


@pytest.mark.parametrize(
    "augmentation",
    [
        RandScaleIntensityd("image", 0.3, prob=1),
        RandShiftIntensityd("image", 0.3, prob=1),
        RandBiasFieldd("image", prob=1),
        RandGaussianNoised("image", std=0.1, prob=1),
        RandStdShiftIntensityd("image", 1.0, prob=1),
        RandAdjustContrastd("image", prob=1),
    ],
    ids=lambda augmentation: type(augmentation).__name__,
)
def test_augmentation_after_the_window_trains_on_within_the_budget(augmentation: Any) -> None:
    set_determinism(0)
    try:
        pipeline = Compose([ScaleIntensityRanged("image", -160, 240, 0, 1, clip=True), augmentation])
        network, handler = unet(), AdversarialTraining(PGD(8, "HU", steps=1), {"intensity": WINDOW})
        changes: list[float] = []

        class Measure:
            def attach(self, engine: Engine) -> None:
                engine.add_event_handler(Events.ITERATION_COMPLETED, self)

            def __call__(self, engine: Engine) -> None:
                changes.append(float((engine.state.output["image"] - engine.state.batch["image"]).abs().max()))

        class Both:
            def attach(self, engine: Engine) -> None:
                handler.attach(engine)
                Measure().attach(engine)

        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            engine = train(network, [scan()] * 12, pipeline, Both(), epochs=2)
        assert engine.state.iteration == len(changes) == 24
        assert all(0.9 * 8 / 400 < change <= 8 / 400 + 1e-6 for change in changes)
        assert sum("intensity maps to" in str(one.message) for one in said) <= 1
    finally:
        set_determinism(None)


@pytest.mark.parametrize("kind", list(HANDLERS))
@pytest.mark.parametrize("place", [0, 3])
def test_a_crop_of_padding_in_hounsfield_trains_on(kind: str, place: int) -> None:
    item = scan()
    empty = {
        "image": torch.zeros_like(item["image"]),
        "label": torch.zeros_like(item["label"]),
        "case": "empty",
    }
    data = [item] * 3
    data.insert(place, empty)
    engine = train(unet(), data, None, HANDLERS[kind](None), epochs=2)
    assert engine.state.iteration == 8


def test_padding_as_the_last_batch_does_not_count_in_the_check_of_fast_training(
    caplog: pytest.LogCaptureFixture,
) -> None:
    item = scan()
    empty = {**item, "image": torch.full_like(item["image"], -1024.0), "label": torch.zeros_like(item["label"])}
    handler = FastAdversarialTraining(8, "HU")
    with caplog.at_level("WARNING"):
        engine = train(unet(), [item, empty], None, handler, epochs=3)
    assert engine.state.epoch == 3 and not handler.overfitted
    # Whatever is found in it is invented: it says 0, or nothing; never a perfect 1.
    assert handler.robust_dice is None or handler.robust_dice < 0.5


class Sure(nn.Module):
    """A network that has learned nothing: it answers 0.3 and 0.6 everywhere, as logits or behind a sigmoid."""

    def __init__(self, end: bool) -> None:
        super().__init__()
        self.conv, self.end = nn.Conv3d(1, 2, 1), end
        with torch.no_grad():
            self.conv.weight.fill_(0.01)
            self.conv.bias.copy_(torch.tensor([0.3, 0.6]))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.conv(image).sigmoid() if self.end else self.conv(image)


@pytest.mark.parametrize("end", [False, True])
def test_logits_within_0_and_1_by_chance_are_no_probabilities(end: bool) -> None:
    def loss(outputs: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        return outputs.square().mean()

    handler = AdversarialTraining(PGD(0.05, steps=1))
    engine = trainer(Sure(end), [handler], partly_labeled(0), loss=loss, max_epochs=2)
    engine.run()
    assert handler.model is not None and engine.state.iteration == 2
    assert handler.model.found_output_values == ("probabilities" if end else "logits")
    assert handler.model.activation_of(2) == ("sigmoid" if end else "softmax")


def partly_labeled(ignored: int) -> list[dict[str, torch.Tensor]]:
    """Two samples with half of the label missing."""
    made = []
    for seed in range(2):
        image = random_image((1, 8, 8, 8), seed=seed)
        label = (image > 0.5).to(torch.int64)
        label[:, :4] = ignored
        made.append({"image": image, "label": label, "case": str(seed)})
    return made


@pytest.mark.parametrize("ignored", [255, -1])
@pytest.mark.parametrize("kind", ["replaces", "mixes", "fast", "margin", "geometric"])
def test_voxels_without_a_label_are_left_out_of_the_attack_in_training(kind: str, ignored: int) -> None:
    facts = {"ignore_index": ignored, **FLOAT32}
    make: dict[str, Any] = {
        "replaces": lambda: AdversarialTraining(PGD(0.05, steps=1), facts),
        "mixes": lambda: AdversarialTraining(PGD(0.05, steps=1), facts, adversarial_weight=0.5),
        "fast": lambda: FastAdversarialTraining(0.05, model=facts),
        "margin": lambda: MarginAdversarialTraining(PGD(0.05, steps=1), facts, case_key="case"),
        "geometric": lambda: AdversarialTraining(ElasticAttack(1.0, control_spacing=4.0, steps=1), facts),
    }
    labels: list[torch.Tensor] = []

    def loss(logits: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        labels.append(label)
        return nn.functional.cross_entropy(logits, label[:, 0].long(), ignore_index=ignored)

    data = partly_labeled(ignored)
    if kind == "geometric":
        data = [{**item, "image": MetaTensor(item["image"], affine=torch.eye(4))} for item in data]
    network = SmallNetwork(norm=False, seed=1)
    trainer(network, [make[kind]()], data, loss=loss).run()
    assert all(set(label.unique().tolist()) <= {0, 1, ignored} and bool((label == ignored).any()) for label in labels)


@pytest.mark.parametrize("ignored", [255, -1])
def test_what_an_ignored_voxel_says_does_not_change_the_attack(ignored: int) -> None:
    """A network of single voxels: those without a label have no gradient and stay where they are."""
    handler = AdversarialTraining(PGD(0.05, steps=1, random_start=False), {"ignore_index": ignored, **FLOAT32})

    def loss(logits: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        return nn.functional.cross_entropy(logits, label[:, 0].long(), ignore_index=ignored)

    engine = trainer(
        LinearNetwork((-1.0, 1.0), (0.5, -0.5)), [handler], partly_labeled(ignored), loss=loss, decollate=False
    )
    engine.run()
    change = (engine.state.output["image"] - engine.state.batch["image"]).abs()
    assert float(change[:, :, :4].max()) == 0 and float(change[:, :, 4:].min()) > 0


@pytest.mark.parametrize("ignored", [255, -1])
@pytest.mark.parametrize("end", ["argmax", "masks"])
def test_voxels_without_a_label_are_left_out_of_the_scores(ignored: int, end: str) -> None:
    # It is right wherever there is a label; without one it says foreground everywhere.
    network = LinearNetwork((-1.0, 1.0), (0.5, -0.5)) if end == "argmax" else LinearNetwork((2.0,), (-1.0,))
    data = partly_labeled(ignored)
    for item in data:
        item["image"][:, :4] = 0.9

    attack = PGD(0.1, steps=1, step_size=0.1, random_start=False, objective="cross_entropy")

    def metrics(facts: dict[str, Any]) -> dict[str, float]:
        engine = SupervisedEvaluator(
            device=torch.device("cpu"),
            val_data_loader=DataLoader(Dataset(data), batch_size=2),
            network=network,
            val_handlers=[AdversarialEvaluation(attack, "pgd", {**FLOAT32, **facts})],
        )
        engine.run()
        return engine.state.metrics

    found = metrics({"ignore_index": ignored})
    assert found["pgd_clean_mean_dice"] == 1.0
    # Voxels within 0.1 of the threshold are lost, on either side.
    dice = []
    for item in data:
        image, true = item["image"][:, 4:], item["label"][:, 4:] > 0
        said = torch.where(true, image - 0.1 > 0.5, image + 0.1 > 0.5)
        dice.append(2 * float((said & true).sum()) / float(said.sum() + true.sum()))
    assert found["pgd_mean_dice"] == pytest.approx(sum(dice) / 2, abs=1e-6)
    with pytest.raises(ValueError, match="label must hold class indices"):
        metrics({})
