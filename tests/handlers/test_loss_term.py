# SPDX-License-Identifier: Apache-2.0
"""Terms that compare clean and adversarial answers."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from monai.data import MetaTensor
from torch.nn import functional

from monai_adversarial.attacks import FGSM, PGD, Attack, ElasticAttack
from monai_adversarial.attacks.perturbations import AdditiveNoise, AffineTransform, BiasField, Chain
from monai_adversarial.handlers import AdversarialLossTerm
from monai_adversarial.losses import ConsistencyLoss, MARTLoss, TRADESLoss
from monai_adversarial.networks import convert_dual_normalization
from tests.handlers.test_adversarial_training import RATE, Supervised, linear_fgsm, sgd_step
from tests.handlers.trainers import FLOAT32, LinearSegmenter, SmallNetwork, cross_entropy, items, trainer

EPSILON = 0.05


def stacked(data: list[dict[str, torch.Tensor]]) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.stack([item["image"] for item in data]), torch.stack([item["label"] for item in data])


def test_a_trades_step_equals_the_formula_on_a_linear_network() -> None:
    network, data = LinearSegmenter(), items(2, torch.float64)
    expected = copy.deepcopy(network)
    image, label = stacked(data)
    # Inner maximum of KL(p(x) || p(x')): its gradient at x itself is zero, so TRADES starts beside it, at x - 0.01.
    # There it leads back up through x or further down; both are known for a linear network.
    start = torch.full_like(image, -0.01)
    clean = expected(image).detach()
    moved = (image + start).requires_grad_()
    divergence = functional.kl_div(expected(moved).log_softmax(1), clean.softmax(1), reduction="sum")
    (gradient,) = torch.autograd.grad(divergence, moved)
    adversarial = image + (start + EPSILON * gradient.sign()).clamp(-EPSILON, EPSILON)
    p, q = expected(image).log_softmax(1), expected(adversarial).log_softmax(1)
    divergence = (p.exp() * (p - q)).sum(dim=1).mean()
    sgd_step(expected, cross_entropy(expected(image), label) + 6 * divergence)

    attack = PGD(EPSILON, steps=1, step_size=EPSILON, objective="cross_entropy")
    handler = AdversarialLossTerm(attack, TRADESLoss(beta=6), FLOAT32, reference="probabilities")
    perturb = handler.perturb
    handler.perturb = lambda *args, **kw: perturb(*args, start=(start,), **kw)  # type: ignore[method-assign]
    engine = trainer(network, [handler], data, lr=RATE)
    engine.run()
    for name, value in expected.state_dict().items():
        torch.testing.assert_close(network.state_dict()[name], value, rtol=1e-9, atol=1e-12)
    assert engine.state.output[0]["adversarial_loss"] == pytest.approx(6 * float(divergence.detach()))


def test_a_mart_step_replaces_the_task_loss() -> None:
    network, data = LinearSegmenter(), items(2, torch.float64)
    expected = copy.deepcopy(network)
    image, label = stacked(data)
    adversarial = linear_fgsm(expected, image, label)
    sgd_step(expected, MARTLoss(beta=5)(expected(image), expected(adversarial), label))
    handler = AdversarialLossTerm(FGSM(EPSILON, objective="cross_entropy"), MARTLoss(beta=5), FLOAT32)
    assert handler.task_weight == 0
    trainer(network, [handler], data, lr=RATE).run()
    for name, value in expected.state_dict().items():
        torch.testing.assert_close(network.state_dict()[name], value, rtol=1e-12, atol=1e-14)


def test_the_trainer_s_own_output_stays_clean() -> None:
    data = items(2)
    networks = [SmallNetwork(norm=False, seed=1) for _ in range(2)]
    engines = [
        trainer(networks[0], [], data),
        trainer(networks[1], [AdversarialLossTerm(PGD(EPSILON, steps=2), TRADESLoss())], data),
    ]
    for engine in engines:
        engine.run()
    for key in ("image", "pred", "label"):
        assert torch.equal(engines[0].state.output[0][key], engines[1].state.output[0][key]), key
    assert engines[1].state.output[0]["clean_loss"] == pytest.approx(engines[0].state.output[0]["loss"])
    assert engines[1].state.output[0]["loss"] > engines[0].state.output[0]["loss"]


def scans(count: int = 2) -> list[dict[str, torch.Tensor]]:
    return [
        {"image": MetaTensor(item["image"], affine=torch.eye(4, dtype=torch.float64)), "label": item["label"]}
        for item in items(count, shape=(1, 10, 10, 10))
    ]


def test_geometric_attacks_are_warped_back_before_the_comparison() -> None:
    """A translation changes nothing that a voxelwise network says, once it is undone: what is left is interpolation and
    the border, which the mask leaves out."""
    found = {}

    class Compare:
        def __call__(
            self, clean: torch.Tensor, adversarial: torch.Tensor, label: torch.Tensor, mask: torch.Tensor
        ) -> torch.Tensor:
            found.update(clean=clean.detach(), adversarial=adversarial.detach(), mask=mask, label=label)
            return (clean - adversarial).square().mean()

    shift = AffineTransform(max_rotation=0.0, max_translation=3.0, max_scale=0.0, max_shear=0.0)
    network = LinearSegmenter(dtype=torch.float32)
    handler = AdversarialLossTerm(Attack(shift, steps=2), Compare())
    smooth = scans()
    ramp = torch.linspace(0, 1, 10)
    for item in smooth:
        item["image"] = MetaTensor(
            (ramp.view(-1, 1, 1) + ramp.view(1, -1, 1) + ramp.view(1, 1, -1))[None] / 3, affine=item["image"].affine
        )
    trainer(network, [handler], smooth).run()
    mask = found["mask"].expand_as(found["clean"])
    assert 0.2 < float(mask.float().mean()) < 0.95
    difference = (found["clean"] - found["adversarial"]).abs()
    inner = torch.zeros_like(mask)
    inner[:, :, 1:-1, 1:-1, 1:-1] = True  # a face's voxel is interpolated with one that was continued from the border
    assert float(difference[mask & inner].max()) < 1e-4
    assert float(difference[mask].max()) < 0.02
    assert float(difference[~mask].max()) > 0.02
    assert torch.equal(torch.as_tensor(found["label"]), torch.stack([torch.as_tensor(i["label"]) for i in smooth]))


def test_an_adversarial_chain_trains_for_consistency_without_labels() -> None:
    chain = Chain(
        [
            AdditiveNoise(0.05),
            BiasField(max_gain=0.3, domain="image"),
            AffineTransform(max_rotation=10.0, max_translation=1.0, max_scale=0.1),
        ]
    )
    attack = Attack(chain, "cross_entropy", steps=1)
    losses = []
    for label in (0, 1):
        handler = AdversarialLossTerm(attack, ConsistencyLoss(), reference="probabilities", task_weight=0)
        data = [{**item, "label": torch.full_like(item["label"], label)} for item in scans()]
        engine = trainer(SmallNetwork(norm=False, seed=2), [handler], data)
        engine.run()
        losses.append(engine.state.output[0]["loss"])
    assert losses[0] == losses[1] > 0


def test_a_geometric_attack_refuses_outputs_of_several_resolutions() -> None:
    handler = AdversarialLossTerm(ElasticAttack(max_displacement=1.0, control_spacing=4.0, steps=1), TRADESLoss())
    data = [{**item, "label": item["label"].float()} for item in scans()]
    with pytest.raises(ValueError, match=r"a geometric attack needs logits on the image's grid"):
        trainer(Supervised(), [handler], data, loss=lambda outputs, label: outputs[0].mean()).run()


class Stacked(torch.nn.Module):
    """All levels in one tensor, as MONAI's DynUNet returns them in training."""

    def __init__(self) -> None:
        super().__init__()
        self.body = SmallNetwork(norm=False)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        full = self.body(image)
        return torch.stack([full, full], dim=1) if self.training else full


def test_stacked_levels_are_one_sentence() -> None:
    handler = AdversarialLossTerm(PGD(EPSILON, steps=1), ConsistencyLoss())
    with pytest.raises(ValueError, match="output has 6 dimensions for an image of 5: unbind the levels"):
        trainer(Stacked(), [handler], loss=lambda outputs, label: outputs.mean()).run()


def test_consistency_needs_no_label_at_all() -> None:
    network = SmallNetwork(norm=False, seed=3)
    before = copy.deepcopy(network.state_dict())
    handler = AdversarialLossTerm(PGD(EPSILON, steps=1), ConsistencyLoss(), reference="probabilities", task_weight=0)
    data = [{"image": item["image"]} for item in items()]
    trainer(network, [handler], data, loss=lambda outputs, label: outputs.mean()).run()
    assert any(not torch.equal(network.state_dict()[name], value) for name, value in before.items())


def test_the_reference_of_dual_normalization_is_what_the_clean_branch_says() -> None:
    network = convert_dual_normalization(SmallNetwork(seed=4))
    with torch.no_grad():
        network.norm.adversarial.bias.fill_(3.0)
        network.norm.clean.running_mean.fill_(0.2)
    handler = AdversarialLossTerm(PGD(EPSILON, steps=1), TRADESLoss(), reference="probabilities")
    given: dict[str, torch.Tensor] = {}
    perturb = PGD.perturb

    def watched(self: PGD, *args: Any, **kwargs: Any) -> Any:
        given["probabilities"] = kwargs["probabilities"]
        return perturb(self, *args, **kwargs)

    data = items(2)
    image, _ = stacked(data)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PGD, "perturb", watched)
        with torch.no_grad():
            expected = copy.deepcopy(network).eval()(image).softmax(1)
        trainer(network, [handler], data).run()
    torch.testing.assert_close(given["probabilities"], expected)


def test_bad_arguments_are_one_sentence() -> None:
    with pytest.raises(TypeError, match="loss_function must be a loss object, got str"):
        AdversarialLossTerm(PGD(0.1), "trades")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="loss_function must be a loss object, got the class TRADESLoss"):
        AdversarialLossTerm(PGD(0.1), TRADESLoss)
    with pytest.raises(TypeError, match=r"loss_function must take \(clean logits, adversarial logits, label\)"):
        AdversarialLossTerm(PGD(0.1), torch.nn.CrossEntropyLoss())
    assert AdversarialLossTerm(PGD(0.1), TRADESLoss()).reference == "probabilities"
    assert AdversarialLossTerm(PGD(0.1), MARTLoss()).reference == "label"
    data = [{"image": item["image"]} for item in items()]
    with pytest.raises(ValueError, match="the batch has no label"):
        trainer(SmallNetwork(), [AdversarialLossTerm(PGD(0.1), TRADESLoss())], data, loss=lambda o, y: o.mean()).run()
    with pytest.raises(ValueError, match="weight must be a finite number > 0"):
        AdversarialLossTerm(PGD(0.1), TRADESLoss(), weight=0)
    with pytest.raises(ValueError, match="reference must be one of 'label', 'prediction', 'probabilities'"):
        AdversarialLossTerm(PGD(0.1), TRADESLoss(), reference="teacher")
