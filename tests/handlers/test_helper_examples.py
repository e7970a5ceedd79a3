# SPDX-License-Identifier: Apache-2.0
"""Helper-based adversarial training inside a real MONAI trainer, against the formula written by hand."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from monai.data import DataLoader, Dataset, MetaTensor
from monai.engines import SupervisedTrainer
from torch import nn

from monai_adversarial.attacks import FGSM, PGD, ElasticAttack
from monai_adversarial.handlers.helper_examples import HelperAdversarialTraining
from monai_adversarial.networks.dual_normalization import convert_dual_normalization
from tests.helpers import LinearNetwork, random_image, random_label, tiny_segmentation_network

SHAPE = (1, 6, 6, 6)
EPSILON = 0.1


def loss_function(prediction: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(prediction, label[:, 0].long())


def data(classes: int = 2) -> list[dict[str, torch.Tensor]]:
    return [
        {"image": random_image(SHAPE, seed=i, dtype=torch.float64), "label": random_label(SHAPE, classes, seed=i)}
        for i in range(2)
    ]


def trainer(network: nn.Module, items, handler, **options) -> SupervisedTrainer:
    engine = SupervisedTrainer(
        device=torch.device("cpu"),
        max_epochs=1,
        train_data_loader=DataLoader(Dataset(items), batch_size=2),
        network=network,
        optimizer=torch.optim.SGD(network.parameters(), lr=0.1),
        loss_function=loss_function,
        decollate=False,
        **options,
    )
    handler.attach(engine)
    return engine


def trained() -> LinearNetwork:
    return LinearNetwork((-1.0, 1.5), (0.6, -0.7)).double()


def standard() -> LinearNetwork:
    return LinearNetwork((2.0, -1.0), (-0.8, 0.7)).double()


def fgsm() -> FGSM:
    return FGSM(EPSILON, objective="cross_entropy")


def pgd() -> PGD:
    return PGD(EPSILON, steps=1, objective="cross_entropy")


@pytest.mark.parametrize("task_weight", [1.0, 0.0])
def test_one_step_is_the_formula(task_weight):
    items, network, by_hand = data(), trained(), trained()
    image, label = torch.stack([d["image"] for d in items]), torch.stack([d["label"] for d in items])

    moving = image.clone().requires_grad_()
    truth = F.one_hot(label[:, 0], 2).movedim(-1, 1).double()
    (gradient,) = torch.autograd.grad(-(truth * by_hand(moving).log_softmax(1)).sum(), moving)
    adversarial = image + EPSILON * gradient.sign()
    helper = image + 3.5 * (adversarial - image)
    with torch.no_grad():
        seen = standard()(adversarial).argmax(dim=1)
        assert 0 < seen.double().mean() < 1 and (seen != label[:, 0]).any()
    p, q = by_hand(image).softmax(1), by_hand(adversarial).softmax(1)
    regularizer = 2.0 * (p * (p.log() - q.log())).sum(1).mean()
    guided = 0.5 * F.cross_entropy(by_hand(helper), seen)
    loss = task_weight * loss_function(by_hand(image), label) + regularizer + guided
    loss.backward()

    handler = HelperAdversarialTraining(
        fgsm(), standard(), beta=2.0, gamma=0.5, task_weight=task_weight, reference="label"
    )
    engine = trainer(network, items, handler)
    engine.run()
    torch.testing.assert_close(handler.perturbed.adversarial, adversarial)
    assert engine.state.output["loss"].item() == pytest.approx(float(loss.detach()), rel=1e-9)
    assert float(engine.state.output["adversarial_loss"]) == pytest.approx(float((regularizer + guided).detach()))
    for weight, expected in zip(network.parameters(), by_hand.parameters(), strict=True):
        assert expected.grad.abs().max() > 1e-6
        torch.testing.assert_close(weight, expected - 0.1 * expected.grad, atol=1e-12, rtol=0)


def test_standard_network_and_the_statistics_of_the_attack_stay_as_they_are():
    def with_statistics(seed: int) -> nn.Module:
        return nn.Sequential(tiny_segmentation_network(seed=seed), nn.BatchNorm3d(3)).double()

    network, fixed = with_statistics(0), with_statistics(1).train()
    before = copy.deepcopy(fixed.state_dict())
    handler = HelperAdversarialTraining(PGD(EPSILON, steps=3), fixed)
    trainer(network, data(classes=3), handler).run()
    assert int(network[1].num_batches_tracked) == 3  # clean, adversarial and helper image
    assert all(torch.equal(before[name], value) for name, value in fixed.state_dict().items())
    assert fixed[1].training and all(w.requires_grad and w.grad is None for w in fixed.parameters())


def test_standard_weights_fill_a_copy_of_the_network_also_one_with_dual_normalization(tmp_path):
    path = tmp_path / "standard.pt"
    plain = nn.Sequential(tiny_segmentation_network(seed=3), nn.BatchNorm3d(3)).double()
    torch.save(plain.state_dict(), path)
    network = nn.Sequential(tiny_segmentation_network(seed=4), nn.BatchNorm3d(3)).double()
    convert_dual_normalization(network)
    handler = HelperAdversarialTraining(pgd(), standard_weights=path)
    trainer(network, data(classes=3), handler).run()
    made = handler.standard.network.state_dict()
    assert made.keys() == plain.state_dict().keys()
    assert all(torch.equal(made[name], value) for name, value in plain.state_dict().items())
    clean, adversarial = network[1].clean, network[1].adversarial
    assert (int(clean.num_batches_tracked), int(adversarial.num_batches_tracked)) == (1, 2)


def test_bad_use_is_one_sentence(tmp_path):
    with pytest.raises(ValueError, match="needs standard_network"):
        HelperAdversarialTraining(pgd())
    with pytest.raises(TypeError, match="standard_network must be a torch.nn.Module, got str"):
        HelperAdversarialTraining(pgd(), "network")  # type: ignore[arg-type]
    with pytest.raises(FileNotFoundError, match="standard_weights must be a checkpoint"):
        HelperAdversarialTraining(pgd(), standard_weights=tmp_path / "missing.pt")
    with pytest.raises(ValueError, match="helper_scale must be"):
        HelperAdversarialTraining(pgd(), standard(), helper_scale=0.0)
    network = trained()
    with pytest.raises(ValueError, match="shares 2 of its 2 parameters"):
        trainer(network, data(), HelperAdversarialTraining(pgd(), network))
    handler = HelperAdversarialTraining(ElasticAttack(1.0, control_spacing=6.0, steps=1), standard())
    image = MetaTensor(random_image((1, *SHAPE), dtype=torch.float64), affine=torch.eye(4, dtype=torch.float64)[None])
    label = random_label((1, *SHAPE), 2)
    engine = trainer(trained(), data(), handler, prepare_batch=lambda *_, **__: (image, label))
    with pytest.raises(ValueError, match="needs an attack on intensities, got a geometric one"):
        engine.run()
