# SPDX-License-Identifier: Apache-2.0
"""Distillation on clean and adversarial images inside real MONAI trainers, against formulas written by hand."""

from __future__ import annotations

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from ignite.engine import Events
from monai.data import DataLoader, Dataset, MetaTensor
from monai.engines import SupervisedTrainer
from torch import nn

from monai_adversarial.attacks import BIM, FGSM, PGD, ElasticAttack
from monai_adversarial.handlers.adversarial_distillation import (
    AdversarialDistillation,
    adversarially_robust_distillation,
    defensive_distillation,
    robust_soft_label,
    self_distillation,
)
from monai_adversarial.losses.distillation import DistillationLoss
from tests.helpers import LinearNetwork, random_image, random_label, tiny_segmentation_network

SHAPE = (1, 6, 6, 6)
EPSILON = 0.1


def loss_function(prediction: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(prediction, label[:, 0].long())


def data(count: int = 2, classes: int = 2) -> list[dict[str, torch.Tensor]]:
    return [
        {"image": random_image(SHAPE, seed=i, dtype=torch.float64), "label": random_label(SHAPE, classes, seed=i)}
        for i in range(count)
    ]


def trainer(network: nn.Module, items, handler=None, lr: float = 0.1, batch_size: int = 2, **options):
    options.setdefault("optimizer", torch.optim.SGD(network.parameters(), lr=lr))
    options.setdefault("loss_function", loss_function)
    options.setdefault("max_epochs", 1)
    engine = SupervisedTrainer(
        device=torch.device("cpu"),
        train_data_loader=DataLoader(Dataset(items), batch_size=batch_size),
        network=network,
        decollate=False,
        **options,
    )
    if handler is not None:
        handler.attach(engine)
    return engine


def student() -> LinearNetwork:
    return LinearNetwork((-0.4, 0.7), (0.2, -0.1)).double()


def teacher() -> LinearNetwork:
    return LinearNetwork((-2.0, 1.5), (0.4, -0.3)).double()


def divergence(teacher_logits: torch.Tensor, student_logits: torch.Tensor, temperature: float) -> torch.Tensor:
    """T^2 KL, as the textbook writes it."""
    p = torch.softmax(teacher_logits / temperature, dim=1)
    q = torch.softmax(student_logits / temperature, dim=1)
    return temperature**2 * (p * (p.log() - q.log())).sum(dim=1).mean()


def one_sign_step(network: nn.Module, image: torch.Tensor, teacher_logits: torch.Tensor) -> torch.Tensor:
    """FGSM that maximizes KL(teacher(x) || student(x'))."""
    moving = image.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(divergence(teacher_logits, network(moving), 1.0), moving)
    return image + EPSILON * gradient.sign()


def fgsm() -> FGSM:
    return FGSM(EPSILON, objective="cross_entropy")


@pytest.mark.parametrize(
    ("make", "temperature", "weights"),
    [
        (
            lambda: AdversarialDistillation(
                teacher(), fgsm(), temperature=3.0, task_weight=0.5, clean_weight=0.7, adversarial_weight=1.3
            ),
            3.0,
            (0.5, 0.7, 1.3),
        ),
        (lambda: adversarially_robust_distillation(teacher(), fgsm()), 30.0, (0.0, 0.0, 1.0)),
        (lambda: adversarially_robust_distillation(teacher(), fgsm(), alpha=0.75), 30.0, (0.25, 0.0, 0.75)),
        (lambda: robust_soft_label(teacher(), fgsm()), 1.0, (0.0, 1 / 6, 5 / 6)),
        (lambda: defensive_distillation(teacher(), 20.0), 20.0, (0.0, 1 / 400, 0.0)),
        (lambda: AdversarialDistillation(teacher(), None, temperature=2.0, task_weight=1.0), 2.0, (1.0, 1.0, 0.0)),
    ],
    ids=["all terms", "ARD", "ARD with labels", "RSLAD", "defensive", "plain"],
)
def test_one_step_is_the_formula(make, temperature, weights):
    items = data()
    image, label = torch.stack([d["image"] for d in items]), torch.stack([d["label"] for d in items])
    network, expected, wise = student(), student(), teacher()

    adversarial = one_sign_step(expected, image, wise(image).detach())
    teacher_logits = wise(image).detach()
    terms = (
        loss_function(expected(image), label),
        divergence(teacher_logits, expected(image), temperature),
        divergence(teacher_logits, expected(adversarial), temperature),
    )
    loss = sum(weight * term for weight, term in zip(weights, terms, strict=True))
    loss.backward()

    engine = trainer(network, items, make())
    engine.run()
    assert engine.state.output["loss"].item() == pytest.approx(float(loss.detach()), rel=1e-9)
    for name, weight, term in zip(("task_loss", "distillation_loss", "adversarial_loss"), weights, terms, strict=True):
        logged = engine.state.output.get(name, torch.nan)
        assert math.isnan(logged) == (weight == 0)
        if weight > 0:
            assert float(engine.state.output[name]) == pytest.approx(float(term.detach()), rel=1e-9)
    for trained, by_hand in zip(network.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(trained, by_hand - 0.1 * by_hand.grad, atol=1e-12, rtol=0)
        assert by_hand.grad.abs().max() > 1e-6


def test_an_iteration_without_attack_takes_the_clean_image_for_the_adversarial_one():
    items, network = data(), student()
    image = torch.stack([d["image"] for d in items])
    expected = divergence(teacher()(image), network(image), 1.0).detach()
    engine = trainer(network, items, robust_soft_label(teacher(), fgsm(), first_epoch=1))
    engine.run()
    assert engine.state.output["loss"].item() == pytest.approx(float(expected), rel=1e-9)
    assert math.isnan(engine.state.output["adversarial_loss"])


def batch_norm_network(seed: int) -> nn.Module:
    network = nn.Sequential(tiny_segmentation_network(seed=seed), nn.BatchNorm3d(3))
    return network.double()


def test_teacher_and_the_students_statistics_are_untouched_by_the_attack():
    wise, network = batch_norm_network(1), batch_norm_network(2)
    wise.train()  # it works in evaluation mode all the same
    wise[1].running_mean.fill_(0.3)
    before = copy.deepcopy(wise.state_dict())
    attack = PGD(EPSILON, steps=4, objective="cross_entropy")
    handler = AdversarialDistillation(wise, attack, clean_weight=1.0)
    engine = trainer(network, data(classes=3), handler)
    gradients = []
    inner = handler.prepare

    def prepare(engine, batchdata, prepared):
        for weight in network.parameters():
            weight.grad = torch.ones_like(weight)
        made = inner(engine, batchdata, prepared)
        gradients.extend(float((weight.grad - 1).abs().max()) for weight in network.parameters())
        image = torch.stack([d["image"] for d in data(classes=3)])
        torch.testing.assert_close(handler.teacher_outputs, copy.deepcopy(wise).eval()(image).detach())
        return made

    handler.prepare = prepare
    engine.run()
    assert gradients and max(gradients) == 0
    assert int(network[1].num_batches_tracked) == 2  # the clean and the adversarial image, no step of the attack
    assert all(torch.equal(before[name], value) for name, value in wise.state_dict().items())
    assert all(module.training for module in wise)
    assert all(weight.requires_grad and weight.grad is None for weight in wise.parameters())
    assert handler.state_dict() == {}


def test_the_attack_leaves_the_teachers_answer_and_not_the_label():
    items = data()
    made = {}
    for reference in ("teacher", "label"):
        handler = AdversarialDistillation(teacher(), fgsm(), reference=reference)
        engine = trainer(student(), items, handler, lr=0.0)
        engine.run()
        made[reference] = (handler.perturbed.adversarial, float(engine.state.output["adversarial_loss"]))
    assert not torch.equal(made["teacher"][0], made["label"][0])
    assert made["teacher"][1] > made["label"][1]  # one step on a linear network is the worst case


def test_self_distillation_follows_the_average_of_the_student():
    items = data(4)
    handler = self_distillation(fgsm(), decay=0.75)
    network = student()
    engine = trainer(network, items, handler, lr=1.0)
    seen, asked = [], []
    engine.add_event_handler(
        Events.ITERATION_COMPLETED, lambda: seen.append([w.detach().clone() for w in network.parameters()])
    )
    inner = handler.prepare

    def prepare(engine, batchdata, prepared):
        prepared = inner(engine, batchdata, prepared)  # makes the teacher the first time
        asked.append([w.detach().clone() for w in handler.teacher.network.parameters()])
        return prepared

    handler.prepare = prepare
    engine.run()
    start = [w.detach() for w in student().parameters()]
    for teacher_weight, first in zip(asked[0], start, strict=True):
        assert torch.equal(teacher_weight, first)
    for i, average in enumerate(handler.teacher.network.parameters()):
        expected = 0.75 * seen[0][i] + 0.25 * seen[1][i]  # the first update copies
        torch.testing.assert_close(average, expected, atol=1e-12, rtol=0)
        assert not average.requires_grad
        assert not torch.allclose(average, seen[1][i])


def test_the_averaged_teacher_goes_on_from_a_checkpoint_loaded_before_the_start():
    first = self_distillation(fgsm(), decay=0.9)
    trainer(student(), data(4), first, lr=1.0).run()
    state = copy.deepcopy(first.state_dict())
    again = self_distillation(fgsm(), decay=0.9)
    again.load_state_dict(state)
    engine = trainer(student(), data(4), again)
    found = []
    engine.add_event_handler(Events.EPOCH_STARTED, lambda: found.append(copy.deepcopy(again.state_dict())))
    engine.run()
    assert state["average"] and found[0]["average"].keys() == state["average"].keys()
    assert all(torch.equal(found[0]["average"][name], value) for name, value in state["average"].items())


def test_logits_of_a_moved_image_are_compared_on_the_clean_anatomy():
    grid = torch.linspace(0, 3.0, 12)
    smooth = grid.sin()[:, None, None] + grid.cos()[None, :, None] + 0 * grid
    image = MetaTensor(smooth[None, None], affine=torch.eye(4, dtype=torch.float64)[None])
    label = (smooth > 1).long()[None, None]
    network = LinearNetwork((-3.0, 3.0), (3.0, -3.0))
    handler = AdversarialDistillation(
        copy.deepcopy(network), ElasticAttack(2.0, control_spacing=6.0, steps=2, objective="cross_entropy")
    )
    engine = trainer(
        network,
        [{"image": 0, "label": 0}],
        handler,
        lr=0.0,
        batch_size=1,
        prepare_batch=lambda *_, **__: (image, label),
    )
    engine.run()
    found = float(engine.state.output["adversarial_loss"])
    moved = network(handler.perturbed.adversarial.as_tensor())
    clean = network(image.as_tensor())
    mask = handler.perturbed.pulled_from_inside()
    expected = DistillationLoss()(handler.perturbed.pull_back(moved), clean, mask=mask)
    assert found == pytest.approx(float(expected), rel=1e-4)
    assert found < 0.2 * float(DistillationLoss()(moved, clean))  # the anatomy moved and the student is its teacher


def test_deep_supervision_compares_the_finest_level_with_one_teacher_level():
    class Levels(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = student()

        def forward(self, image):
            logits = self.inner(image)
            return [logits, logits[..., ::2, ::2, ::2]] if self.training else logits

    network, items = Levels(), data()
    engine = trainer(
        network,
        items,
        robust_soft_label(teacher(), fgsm()),
        loss_function=lambda levels, y: loss_function(levels[0], y),
    )
    engine.run()
    plain = trainer(student(), items, robust_soft_label(teacher(), fgsm()))
    plain.run()
    assert engine.state.output["loss"].item() == pytest.approx(plain.state.output["loss"].item(), rel=1e-12)


def test_sigmoid_teacher_is_attacked_with_its_own_probabilities():
    item = {"image": random_image(SHAPE, dtype=torch.float64), "label": random_label(SHAPE, 2)}
    network = LinearNetwork((1.0,), (0.1,)).double()
    wise = LinearNetwork((2.0,), (-0.8,)).double()
    handler = AdversarialDistillation(wise, fgsm())
    image = item["image"][None]
    gap = network(image).sigmoid() - wise(image).sigmoid()  # gradient of KL with respect to the student's logit
    expected = (image + EPSILON * gap.sign()).detach()
    trainer(
        network, [item], handler, loss_function=lambda p, y: F.binary_cross_entropy_with_logits(p, y.double())
    ).run()
    torch.testing.assert_close(handler.perturbed.adversarial, expected)


def test_teacher_weights_are_loaded(tmp_path):
    path = tmp_path / "teacher.pt"
    torch.save(teacher().state_dict(), path)
    handler = AdversarialDistillation(student(), fgsm(), teacher_weights=path)
    assert torch.equal(handler.teacher.network.weights, teacher().weights)
    with pytest.raises(FileNotFoundError, match="no weights at"):
        AdversarialDistillation(student(), None, teacher_weights=tmp_path / "missing.pt")


def test_bad_use_is_one_sentence():
    with pytest.raises(TypeError, match="teacher must be a torch.nn.Module, got str"):
        AdversarialDistillation("teacher", fgsm())  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="self_distillation does without"):
        defensive_distillation(None)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="attack must be"):
        AdversarialDistillation(teacher(), "pgd")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="got 0 for both"):
        AdversarialDistillation(teacher(), None, adversarial_weight=0.0)
    with pytest.raises(ValueError, match="pass attack=None"):
        AdversarialDistillation(teacher(), fgsm(), clean_weight=1.0, adversarial_weight=0.0)
    with pytest.raises(ValueError, match="got teacher=None"):
        AdversarialDistillation(None, fgsm(), teacher_weights="teacher.pt")
    with pytest.raises(ValueError, match="reference must be one of 'teacher'"):
        AdversarialDistillation(teacher(), fgsm(), reference="truth")
    with pytest.raises(ValueError, match="temperature must be"):
        defensive_distillation(teacher(), 0.0)
    with pytest.raises(ValueError, match="alpha must be above 0"):
        adversarially_robust_distillation(teacher(), fgsm(), alpha=0.0)
    with pytest.raises(ValueError, match="decay must be between 0 and 1"):
        self_distillation(fgsm(), decay=1.0)


def test_a_teacher_that_is_trained_along_or_elsewhere_is_refused():
    network = student()
    with pytest.raises(ValueError, match="shares 2 of its 2 parameters"):
        trainer(network, data(), AdversarialDistillation(network, fgsm()))
    wise = teacher()
    optimizer = torch.optim.SGD([*network.parameters(), wise.biases], lr=0.1)
    with pytest.raises(ValueError, match="shares 1 of its 2 parameters"):
        trainer(network, data(), AdversarialDistillation(wise, fgsm()), optimizer=optimizer)
    with pytest.raises(ValueError, match="teacher is on meta but the network that is trained is on cpu"):
        trainer(network, data(), AdversarialDistillation(teacher().to("meta"), fgsm()))


class Voxelwise(nn.Module):
    """Two classes from each voxel alone."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.layers = nn.Sequential(nn.Conv3d(1, 8, 1), nn.Softplus(), nn.Conv3d(8, 2, 1))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.layers(image)


class Cooled(nn.Module):
    """What an adaptive attacker differentiates: the logits divided by T."""

    def __init__(self, network: nn.Module, temperature: float) -> None:
        super().__init__()
        self.network, self.temperature = network, temperature

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.network(image) / self.temperature


def test_defensive_distillation_hides_gradients_and_falls_to_an_attack_on_the_logits():
    temperature = 100.0
    label = random_label((2, 1, 6, 6, 6), classes=2, seed=1)
    image = label + 0.3 * (random_image((2, 1, 6, 6, 6), seed=2) - 0.5)
    items = [{"image": image[i], "label": label[i]} for i in range(2)]

    def train(network: nn.Module, handler=None, **options) -> nn.Module:
        optimizer = torch.optim.Adam(network.parameters(), lr=0.2)
        trainer(network, items, handler, optimizer=optimizer, max_epochs=150, **options).run()
        return network.eval()

    wise = train(Voxelwise(0), loss_function=lambda p, y: loss_function(p / temperature, y))
    network = train(Voxelwise(1), defensive_distillation(wise, temperature))
    with torch.no_grad():
        logits = network(image)  # deployed at T = 1
    assert torch.equal(logits.argmax(dim=1, keepdim=True), label)
    assert float((logits[:, 1] - logits[:, 0]).abs().min()) > 104  # exp(-104) is 0 in float32

    def attack(network: nn.Module, objective: str):
        return BIM(0.8, steps=10, objective=objective)(network, image, label)

    for objective in ("cross_entropy", "dice_ce"):
        blind = attack(network, objective)
        assert float(blind.zero_gradient_fraction.min()) == 1.0  # the sign of masked gradients
        assert torch.equal(blind.adversarial, image)
        assert float(blind.adversarial_dice.min()) == 1.0
    for adaptive in (attack(network, "margin"), attack(Cooled(network, temperature), "cross_entropy")):
        assert float((adaptive.adversarial - image).abs().max()) <= 0.8 + 1e-5
        assert float(adaptive.adversarial_dice.max()) < 0.1
    ordinary = train(Voxelwise(1))  # nothing but the temperature makes the difference
    assert float(attack(ordinary, "cross_entropy").adversarial_dice.max()) < 0.1
