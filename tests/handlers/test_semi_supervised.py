# SPDX-License-Identifier: Apache-2.0
"""Unlabeled images in adversarial training."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from ignite.engine import Events
from monai.data import DataLoader, Dataset, MetaTensor
from torch.nn import functional

from monai_adversarial.attacks import FGSM, PGD, ElasticAttack
from monai_adversarial.handlers import SemiSupervisedAdversarialTraining
from tests.handlers.test_adversarial_training import RATE, linear_fgsm, sgd_step
from tests.handlers.trainers import (
    FLOAT32,
    LinearSegmenter,
    SmallNetwork,
    assert_same_weights,
    cross_entropy,
    items,
    trainer,
    whole_and_resumed,
)

EPSILON = 0.05


def unlabeled(count: int = 2, dtype: torch.dtype = torch.float32, batch_size: int = 2) -> DataLoader:
    found = [{"image": item["image"]} for item in items(count + 4, dtype)[4:]]
    return DataLoader(Dataset(found), batch_size=batch_size)


@pytest.mark.parametrize("balanced", [False, True])
def test_a_step_equals_the_formula_on_a_linear_network(balanced: bool) -> None:
    network, data = LinearSegmenter(), items(2, torch.float64)
    loader = unlabeled(dtype=torch.float64)
    expected = copy.deepcopy(network)
    image, label = (torch.stack([item[key] for item in data]) for key in ("image", "label"))
    extra = next(iter(loader))["image"]
    confidence, pseudo = expected(extra).detach().softmax(1).max(1, keepdim=True)
    mask = (confidence >= 0.6).double()[:, 0]
    assert 0.2 < float(mask.mean()) < 0.8
    adversarial = linear_fgsm(expected, extra, pseudo)
    voxels = functional.cross_entropy(expected(adversarial).float(), pseudo[:, 0], reduction="none")
    of_class = [mask * (pseudo[:, 0] == number) for number in (0, 1)] if balanced else [mask]
    assert all(float(weight.sum()) > 0 for weight in of_class)
    term = sum((voxels * weight).sum() / weight.sum() for weight in of_class) / len(of_class)
    sgd_step(expected, cross_entropy(expected(image), label) + 3 * term)

    attack = FGSM(EPSILON, objective="cross_entropy")
    handler = SemiSupervisedAdversarialTraining(attack, loader, FLOAT32, confidence=0.6, balanced=balanced)
    engine = trainer(network, [handler], data, lr=RATE)
    engine.run()
    assert engine.state.output[0]["confident_share"] == pytest.approx(float(mask.mean()))
    foreground = float((mask * (pseudo[:, 0] > 0)).mean())
    assert engine.state.output[0]["pseudo_foreground_share"] == pytest.approx(foreground)
    for name, value in expected.state_dict().items():
        torch.testing.assert_close(network.state_dict()[name], value, rtol=1e-6, atol=1e-8)


def test_the_teacher_is_the_exponential_average_and_is_not_trained() -> None:
    network = SmallNetwork(seed=1)
    handler = SemiSupervisedAdversarialTraining(PGD(EPSILON, steps=1), unlabeled(), decay=0.5)
    engine = trainer(network, [handler], items(6), max_epochs=1)
    seen: list[torch.Tensor] = []
    engine.add_event_handler(Events.ITERATION_COMPLETED, lambda e: seen.append(network.second.weight.detach().clone()))
    engine.run()
    assert len(seen) == 3
    average = seen[0]
    for weight in seen[1:]:
        average = 0.5 * average + 0.5 * weight
    assert handler.average is not None
    torch.testing.assert_close(handler.average.second.weight, average)
    assert not any(weight.requires_grad for weight in handler.average.parameters())
    assert all(weight.requires_grad for weight in network.parameters())


def test_the_teacher_learns_before_the_first_attack() -> None:
    network = SmallNetwork(seed=1)
    handler = SemiSupervisedAdversarialTraining(PGD(EPSILON, steps=1), unlabeled(), decay=0.5, first_epoch=2)
    trainer(network, [handler], max_epochs=2).run()
    assert handler.average is not None and handler.perturbed is None
    assert not torch.equal(handler.average.second.weight, SmallNetwork(seed=1).second.weight)


def test_uncertain_pseudo_labels_do_not_count() -> None:
    networks = [SmallNetwork(norm=False, seed=2) for _ in range(2)]
    with torch.no_grad():
        for network in networks:
            network.second.weight.zero_()
            network.second.bias.zero_()  # every voxel at 0.5
    trainer(networks[0], []).run()
    handler = SemiSupervisedAdversarialTraining(PGD(EPSILON, steps=1), unlabeled(), confidence=0.99)
    trainer(networks[1], [handler]).run()
    for name, value in networks[0].state_dict().items():
        torch.testing.assert_close(networks[1].state_dict()[name], value)


def test_the_unlabeled_batches_start_again_when_they_are_exhausted() -> None:
    handler = SemiSupervisedAdversarialTraining(PGD(EPSILON, steps=1), unlabeled(3, batch_size=1))
    images: list[float] = []
    following = handler._next_batch

    def watched() -> Any:
        batch = following()
        images.append(round(float(batch["image"].sum()), 4))
        return batch

    handler._next_batch = watched  # type: ignore[method-assign]
    trainer(SmallNetwork(), [handler], items(8), batch_size=1).run()
    assert len(images) == 8 and images[:3] == images[3:6] and len(set(images)) == 3


def test_a_resumed_training_has_the_same_teacher(tmp_path: Path) -> None:
    def make() -> SemiSupervisedAdversarialTraining:
        options: dict[str, Any] = {"confidence": 0.5, "decay": 0.9, "attack_labeled": True}
        return SemiSupervisedAdversarialTraining(PGD(EPSILON, steps=1), unlabeled(), **options)

    whole, resumed = whole_and_resumed(make, tmp_path)
    assert len(whole) == 2
    assert_same_weights(whole, resumed)


def test_the_order_of_the_labeled_batches_is_that_of_the_training_without_it() -> None:
    orders = []
    for handlers in ([], [SemiSupervisedAdversarialTraining(PGD(EPSILON, steps=1), shuffled(), confidence=0.5)]):
        torch.manual_seed(3)
        labeled = DataLoader(Dataset(items(6)), batch_size=1, shuffle=True)
        engine = trainer(SmallNetwork(), handlers, max_epochs=2)
        engine.data_loader, engine.state.epoch_length = labeled, 6
        order: list[float] = []
        engine.add_event_handler(
            Events.ITERATION_STARTED, lambda e, order=order: order.append(float(e.state.batch["image"].sum()))
        )
        engine.run()
        orders.append(order)
    assert orders[0] == orders[1] and len(set(orders[0])) == 6


def shuffled() -> DataLoader:
    return DataLoader(Dataset([{"image": item["image"]} for item in items(7)[4:]]), batch_size=1, shuffle=True)


def test_a_resumed_training_goes_on_in_the_middle_of_a_shuffled_pass(tmp_path: Path) -> None:
    def make() -> SemiSupervisedAdversarialTraining:  # 3 unlabeled batches, 2 iterations an epoch
        return SemiSupervisedAdversarialTraining(PGD(EPSILON, steps=1), shuffled(), confidence=0.5)

    assert_same_weights(*whole_and_resumed(make, tmp_path))


def test_metadata_and_region_of_the_unlabeled_batches_reach_the_attack() -> None:
    scans = [
        {
            "image": MetaTensor(item["image"], affine=torch.eye(4, dtype=torch.float64)),
            "region": torch.ones_like(item["image"]),
        }
        for item in items(2, shape=(1, 8, 8, 8))
    ]
    for scan in scans:
        scan["region"][:, :4] = 0
    loader = DataLoader(Dataset(scans), batch_size=2)
    network = SmallNetwork(norm=False)
    labeled = items(2, shape=(1, 8, 8, 8))
    elastic = ElasticAttack(max_displacement=1.0, control_spacing=4.0, steps=1)
    trainer(network, [SemiSupervisedAdversarialTraining(elastic, loader, confidence=0.5)], labeled).run()
    handler = SemiSupervisedAdversarialTraining(PGD(EPSILON, steps=1), loader, confidence=0.5, region_key="region")
    trainer(network, [handler], labeled).run()
    assert handler.perturbed is not None and handler.batch is not None
    change = torch.as_tensor(handler.perturbed.adversarial - handler.batch.image).abs()
    assert float(change[:, :, :4].max()) == 0 and float(change[:, :, 4:].max()) > 0


def test_channels_that_do_not_exclude_each_other_are_refused() -> None:
    independent = {"activation": "sigmoid"}
    handler = SemiSupervisedAdversarialTraining(PGD(EPSILON, steps=1), unlabeled(), independent)
    with pytest.raises(ValueError, match="needs classes that exclude each other, got activation='sigmoid'"):
        trainer(SmallNetwork(), [handler]).run()


def test_bad_use_is_one_sentence() -> None:
    with pytest.raises(TypeError, match="unlabeled must be a data loader, got int"):
        SemiSupervisedAdversarialTraining(PGD(EPSILON), 3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="decay must be between 0 and 1, got 1"):
        SemiSupervisedAdversarialTraining(PGD(EPSILON), unlabeled(), decay=1)
    empty = SemiSupervisedAdversarialTraining(PGD(EPSILON), [])
    with pytest.raises(ValueError, match="unlabeled must hold at least one batch, got none"):
        trainer(SmallNetwork(), [empty]).run()
    lacking = SemiSupervisedAdversarialTraining(PGD(EPSILON), [{"scan": torch.zeros(1)}])
    with pytest.raises(KeyError, match="image_key 'image' is not in the unlabeled batch"):
        trainer(SmallNetwork(), [lacking]).run()
