# SPDX-License-Identifier: Apache-2.0
"""Adversarial training in real trainers, against formulas written by hand."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from ignite.engine import Engine, Events
from monai.data import MetaTensor
from monai.engines import SupervisedEvaluator
from monai.handlers import from_engine
from monai.losses import DeepSupervisionLoss, DiceCELoss
from torch import nn

from monai_adversarial.attacks import FGSM, PGD, ElasticAttack
from monai_adversarial.engines import PrepareBatchAdversarial
from monai_adversarial.handlers import AdversarialTraining, LinearSchedule
from monai_adversarial.models import AttackedModel
from monai_adversarial.networks import convert_dual_normalization, set_normalization
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
from tests.helpers import tiny_segmentation_network

EPSILON, RATE = 0.05, 0.1


def state(network: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in network.state_dict().items()}


def sgd_step(network: nn.Module, loss: torch.Tensor) -> None:
    gradients = torch.autograd.grad(loss, list(network.parameters()))
    with torch.no_grad():
        for weight, gradient in zip(network.parameters(), gradients, strict=True):
            weight -= RATE * gradient


def linear_fgsm(network: LinearSegmenter, image: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    """Closed form: the cross-entropy of two linear logits grows with the wrong class's weight minus the right one's."""
    weight = network.conv.weight.detach().flatten()
    wrong_minus_right = torch.where(label == 0, weight[1] - weight[0], weight[0] - weight[1])
    return image + EPSILON * wrong_minus_right.sign()


@pytest.mark.parametrize("weight", [1.0, 0.5, 0.3])
def test_a_step_equals_the_formula_on_a_linear_network(weight: float) -> None:
    network, data = LinearSegmenter(), items(2, torch.float64)
    expected = copy.deepcopy(network)
    image = torch.stack([item["image"] for item in data])
    label = torch.stack([item["label"] for item in data])
    adversarial = linear_fgsm(expected, image, label)
    loss = (1 - weight) * cross_entropy(expected(image), label) + weight * cross_entropy(expected(adversarial), label)
    sgd_step(expected, loss)

    attack = FGSM(EPSILON, objective="cross_entropy")
    handler = AdversarialTraining(attack, FLOAT32, adversarial_weight=weight)
    engine = trainer(network, [handler], data, lr=RATE)
    engine.run()
    for name, value in expected.state_dict().items():
        torch.testing.assert_close(network.state_dict()[name], value, rtol=1e-12, atol=1e-14)
    output = engine.state.output
    assert output[0]["loss"] == pytest.approx(float(loss))
    given = torch.stack([one["image"] for one in output])
    torch.testing.assert_close(given, adversarial if weight == 1 else image, rtol=0, atol=1e-15)
    assert torch.equal(torch.stack([one["image"] for one in engine.state.batch]), image)


class Watch:
    """Looks at the network around the attack, inside the trainer."""

    def __init__(self, network: nn.Module, handler: AdversarialTraining) -> None:
        self.network, self.checked = network, 0
        perturb = handler.perturb

        def watched(*args: Any, **kwargs: Any) -> Any:
            before = state(network)
            gradients = [None if w.grad is None else w.grad.clone() for w in network.parameters()]
            modes = [module.training for module in network.modules()]
            random = torch.get_rng_state()
            made = perturb(*args, **kwargs)
            for name, value in state(network).items():
                assert torch.equal(value, before[name]), name
            for weight, old in zip(network.parameters(), gradients, strict=True):
                assert weight.requires_grad
                assert (weight.grad is None) == (old is None)
                assert old is None or torch.equal(weight.grad, old)
            assert modes == [module.training for module in network.modules()]
            assert torch.equal(random, torch.get_rng_state())
            self.checked += 1
            return made

        handler.perturb = watched  # type: ignore[method-assign]


@pytest.mark.parametrize("weight", [1.0, 0.5])
def test_the_attack_leaves_gradients_statistics_modes_and_random_state_alone(weight: float) -> None:
    network = SmallNetwork(dropout=0.5)
    handler = AdversarialTraining(PGD(EPSILON, steps=3), adversarial_weight=weight)
    watch = Watch(network, handler)
    trainer(network, [handler], max_epochs=2).run()
    assert watch.checked == 4
    assert int(network.norm.num_batches_tracked) == 4 * (1 if weight == 1 else 2)


def test_batchnorm_statistics_come_from_the_training_passes_alone() -> None:
    data, networks = items(2), [SmallNetwork(seed=1) for _ in range(2)]
    trainer(networks[0], [AdversarialTraining(PGD(EPSILON, steps=5))], data).run()
    image, label = torch.stack([i["image"] for i in data]), torch.stack([i["label"] for i in data])
    by_hand = networks[1]
    adversarial = PGD(EPSILON, steps=5).perturb(by_hand, image, label, stream=1).adversarial
    by_hand.train()
    cross_entropy(by_hand(adversarial), label)
    assert torch.equal(networks[0].norm.running_mean, by_hand.norm.running_mean)


def test_frozen_layers_stay_frozen() -> None:
    network = SmallNetwork()
    network.first.requires_grad_(False)
    before = network.first.weight.clone()
    trainer(network, [AdversarialTraining(PGD(EPSILON, steps=2), adversarial_weight=0.5)]).run()
    assert torch.equal(network.first.weight, before) and network.first.weight.grad is None
    assert not network.first.weight.requires_grad and network.second.weight.requires_grad


@pytest.mark.parametrize("weight", [1.0, 0.5])
def test_gradient_accumulation_equals_the_joint_batch(weight: float) -> None:
    data, networks = items(4), [SmallNetwork(norm=False, seed=2) for _ in range(2)]
    # Not random: the number of the draw is the iteration, which differs between the two.
    attack = PGD(EPSILON, steps=2, random_start=False)
    for network, size, accumulation in zip(networks, (4, 2), (1, 2), strict=True):
        handler = AdversarialTraining(attack, FLOAT32, adversarial_weight=weight)
        trainer(network, [handler], data, batch_size=size, accumulation_steps=accumulation).run()
    for name, value in networks[0].state_dict().items():
        torch.testing.assert_close(networks[1].state_dict()[name], value, rtol=1e-5, atol=1e-7)


def test_geometric_attacks_move_the_label_that_is_trained_on() -> None:
    data = items(2, shape=(1, 8, 8, 8))
    seen: list[torch.Tensor] = []

    def loss(logits: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        seen.append(label.clone())
        return cross_entropy(logits, label)

    # One step from the identity: at the identity the gradient of a warp is known, and large steps move labels.
    attack = ElasticAttack(max_displacement=3.0, control_spacing=3.0, steps=3)
    data = [{**item, "image": as_scan(item["image"])} for item in data]
    engine = trainer(SmallNetwork(), [AdversarialTraining(attack, adversarial_weight=0.5)], data, loss=loss)
    engine.run()
    clean = torch.stack([item["label"] for item in data])
    assert torch.equal(torch.as_tensor(seen[0]), clean)
    assert seen[1].shape == clean.shape and not torch.equal(torch.as_tensor(seen[1]), clean)
    assert set(seen[1].unique().tolist()) <= {0, 1}


def as_scan(image: torch.Tensor) -> Any:
    return MetaTensor(image, affine=torch.eye(4, dtype=torch.float64))


class Supervised(nn.Module):
    """Deep supervision: two outputs in training, one in evaluation, as MONAI's networks do it."""

    def __init__(self) -> None:
        super().__init__()
        self.body = SmallNetwork(norm=False, classes=2)
        self.low = nn.Conv3d(2, 2, 2, stride=2)

    def forward(self, image: torch.Tensor) -> Any:
        full = self.body(image)
        return [full, self.low(full)] if self.training else full


def test_deep_supervision_works_in_both_terms() -> None:
    network = Supervised()
    loss = DeepSupervisionLoss(DiceCELoss(to_onehot_y=True, softmax=True))
    handler = AdversarialTraining(PGD(EPSILON, steps=2), adversarial_weight=0.5)
    data = [{**item, "label": item["label"].float()} for item in items()]  # what MONAI's loss can resize
    engine = trainer(network, [handler], data, loss=loss, decollate=False)
    engine.run()
    assert torch.isfinite(engine.state.output["loss"]) and engine.state.output["adversarial_loss"] > 0
    assert network.low.weight.grad is not None and bool(network.low.weight.grad.abs().sum() > 0)


@pytest.mark.parametrize("weight", [1.0, 0.5])
def test_a_compiled_network_trains_as_the_plain_one(weight: float) -> None:
    networks = [SmallNetwork(seed=3) for _ in range(2)]
    for network, compiled in zip(networks, (False, True), strict=True):
        torch._dynamo.reset()
        handler = AdversarialTraining(PGD(EPSILON, steps=2), FLOAT32, adversarial_weight=weight)
        options = {"compile": True, "compile_kwargs": {"backend": "eager"}} if compiled else {}
        trainer(network, [handler], **options).run()
    for name, value in networks[0].state_dict().items():
        torch.testing.assert_close(networks[1].state_dict()[name], value, rtol=1e-4, atol=1e-6)


def test_a_curriculum_and_clean_epochs_change_what_is_attacked() -> None:
    sizes: list[float] = []
    network = SmallNetwork()
    handler = AdversarialTraining(
        PGD(0.1, steps=3), first_epoch=1, budget=LinearSchedule(0.2, 1.0, epochs=2, first_epoch=1)
    )
    engine = trainer(network, [handler], max_epochs=4, batch_size=4, decollate=False)

    def measure(engine: Engine) -> None:
        change = engine.state.output["image"] - engine.state.batch["image"]
        sizes.append(round(float(change.abs().max()), 4))

    engine.add_event_handler(Events.ITERATION_COMPLETED, measure)
    engine.run()
    assert sizes == [0.0, 0.02, 0.06, 0.1]


def test_dual_normalization_keeps_its_branches_apart() -> None:
    network = convert_dual_normalization(SmallNetwork(seed=4))
    data = items(2)
    image, label = torch.stack([i["image"] for i in data]), torch.stack([i["label"] for i in data])
    by_hand = copy.deepcopy(network)
    trainer(network, [AdversarialTraining(PGD(EPSILON, steps=2), adversarial_weight=0.5)], data).run()

    by_hand.eval()
    set_normalization(by_hand, "adversarial")
    adversarial = PGD(EPSILON, steps=2).perturb(by_hand, image, label, stream=1).adversarial
    by_hand.train()
    by_hand(adversarial)
    set_normalization(by_hand, "clean")
    by_hand(image)
    for branch in ("clean", "adversarial"):
        mean = getattr(network.norm, branch).running_mean
        torch.testing.assert_close(mean, getattr(by_hand.norm, branch).running_mean)
    assert not torch.equal(network.norm.clean.running_mean, network.norm.adversarial.running_mean)
    assert network.norm.domain == "clean"
    with pytest.raises(ValueError, match="dual normalization, but adversarial_weight=1 trains on no clean batch"):
        trainer(network, [AdversarialTraining(PGD(EPSILON))], data).run()


def test_training_resumes_from_a_checkpoint_as_if_nothing_had_happened(tmp_path: Path) -> None:
    def make() -> AdversarialTraining:
        budget = LinearSchedule(0.5, 1, 4)
        return AdversarialTraining(PGD(EPSILON, steps=2), adversarial_weight=0.5, probability=0.7, budget=budget)

    assert_same_weights(*whole_and_resumed(make, tmp_path))


def test_a_warm_start_goes_on_where_the_batch_before_ended(tmp_path: Path) -> None:
    data = items(2) * 3
    network = LinearSegmenter(dtype=torch.float32)
    attack = PGD(EPSILON, steps=1, step_size=0.2 * EPSILON, objective="cross_entropy")
    sizes: list[list[float]] = []
    for warm in (False, True):
        found: list[float] = []
        handler = AdversarialTraining(attack, FLOAT32, warm_start=warm)
        engine = trainer(network, [handler], data, lr=0.0, decollate=False)

        def measure(engine: Engine, found: list[float] = found) -> None:
            # The linear network wants every voxel at the edge of the budget, one way or the other.
            change = engine.state.output["image"] - engine.state.batch["image"]
            weight = network.conv.weight.detach().flatten()
            label = engine.state.batch["label"]
            found.append(float((change * torch.where(label == 0, 1.0, -1.0) * (weight[1] - weight[0]).sign()).mean()))

        engine.add_event_handler(Events.ITERATION_COMPLETED, measure)
        engine.run()
        sizes.append(found)
    cold, warm_sizes = sizes
    assert warm_sizes[0] == pytest.approx(cold[0]) and max(cold) < 0.4 * EPSILON
    assert warm_sizes[0] < warm_sizes[1] < warm_sizes[2] and warm_sizes[2] > 1.5 * max(cold)

    def make() -> AdversarialTraining:
        return AdversarialTraining(PGD(EPSILON, steps=1), adversarial_weight=0.5, warm_start=True)

    assert_same_weights(*whole_and_resumed(make, tmp_path))
    with pytest.raises(ValueError, match="warm_start needs one attack to go on with, got 2"):
        AdversarialTraining([PGD(0.1), PGD(0.2)], warm_start=True)


def test_prepare_batch_in_training_mode_is_the_same_training() -> None:
    networks = [SmallNetwork(seed=7) for _ in range(2)]
    trainer(networks[0], [AdversarialTraining(PGD(EPSILON, steps=2))]).run()
    prepare = PrepareBatchAdversarial(PGD(EPSILON, steps=2), networks[1], training=True)
    trainer(networks[1], [], prepare_batch=prepare).run()
    for name, value in networks[0].state_dict().items():
        assert torch.equal(networks[1].state_dict()[name], value), name


def test_detach_gives_the_trainer_back() -> None:
    networks = [SmallNetwork(seed=8) for _ in range(2)]
    trainer(networks[0], []).run()
    handler = AdversarialTraining(PGD(EPSILON), adversarial_weight=0.5)
    engine = trainer(networks[1], [handler])
    handler.detach(engine)
    engine.run()
    for name, value in networks[0].state_dict().items():
        assert torch.equal(networks[1].state_dict()[name], value), name


def test_bad_use_stops_when_it_is_attached() -> None:
    network = SmallNetwork()
    handler = AdversarialTraining(PGD(EPSILON))
    evaluator = SupervisedEvaluator(device=torch.device("cpu"), val_data_loader=[], network=network)
    with pytest.raises(TypeError, match="must be attached to a monai SupervisedTrainer, got SupervisedEvaluator"):
        handler.attach(evaluator)
    with pytest.raises(TypeError, match="must be attached to a monai SupervisedTrainer, got Engine"):
        handler.attach(Engine(lambda engine, batch: None))
    with pytest.raises(ValueError, match="AdversarialTraining already changes this trainer's batch"):
        trainer(network, [handler, AdversarialTraining(PGD(EPSILON))])
    with pytest.raises(ValueError, match="PrepareBatchAdversarial already changes this trainer's batch"):
        trainer(network, [AdversarialTraining(PGD(EPSILON))], prepare_batch=PrepareBatchAdversarial(None, network))
    with pytest.raises(ValueError, match="is on meta but the trainer works on cpu"):
        trainer(network, [AdversarialTraining(PGD(EPSILON), tiny_segmentation_network().to("meta"))])
    for options, words in (
        ({"attack": "pgd"}, "attack must be a monai_adversarial.attacks.Attack, got str"),
        ({"attack": []}, "attack must be an attack or several, got none"),
        ({"attack": PGD(1), "adversarial_weight": 2}, "adversarial_weight must be a number from 0 to 1"),
        ({"attack": PGD(1), "probability": -1}, "probability must be a number from 0 to 1"),
        ({"attack": PGD(1), "budget": 3}, "budget must be a schedule"),
        (
            {"attack": PGD(1), "model": "net"},
            "model must be an AttackedModel, a mapping of its arguments, a network",
        ),
        ({"attack": PGD(1), "model": lambda x: x}, "the network of model must be a torch.nn.Module, got function"),
        ({"attack": PGD(1), "model": {"window": 1}}, "an AttackedModel has no 'window': it has network, inferer, int"),
        ({"attack": PGD(1), "model": {"precision": "half"}}, "precision must be one of 'auto'"),
    ):
        with pytest.raises((TypeError, ValueError), match=words):
            AdversarialTraining(**options)


def test_attacks_that_would_not_make_the_training_adversarial_are_refused() -> None:
    maps_itself = {"intensity": {"a_min": -160, "a_max": 240}, "image_units": "HU"}
    for attack, model, words in (
        (PGD(0.1, targeted=True), None, "attack must be untargeted"),
        (PGD(8, units="HU"), maps_itself, "model must see the image as the trained network does"),
        (PGD(8, units="HU"), AttackedModel(SmallNetwork(), **maps_itself), "model must see the image as the trained"),
    ):
        with pytest.raises(ValueError, match=words):
            AdversarialTraining(attack, model)
    for attack, model, words in (
        (PGD(0.1, targeted=True), SmallNetwork(), "attack must be untargeted"),
        (PGD(8, units="HU"), AttackedModel(SmallNetwork(), **maps_itself), "model must see the image as the trained"),
    ):
        with pytest.raises(ValueError, match=words):
            PrepareBatchAdversarial(attack, model, training=True)
        PrepareBatchAdversarial(attack, model)  # evaluations may use both
    for options, words in (
        ({"adversarial_weight": 0}, "adversarial_weight must be above 0"),
        ({"probability": 0}, "probability must be above 0"),
        ({"reference": "probabilities", "attack": FGSM(0.1)}, "needs attacks with random_start=True"),
    ):
        with pytest.raises(ValueError, match=words):
            AdversarialTraining(**{"attack": PGD(0.1), **options})  # type: ignore[arg-type]


def test_a_map_that_did_not_scale_the_image_is_noticed() -> None:
    window = {"intensity": {"a_min": -160, "a_max": 240}}
    attack = PGD(8, units="HU")
    for scale in (400.0, -1.0):  # HU that nobody scaled; values around zero
        data = [{**item, "image": (item["image"] - 0.5) * scale * 2} for item in items()]
        # A doubt never ends a training: it is said once.
        with pytest.warns(UserWarning, match="it is not the map that scaled this image") as said:
            trainer(SmallNetwork(), [AdversarialTraining(attack, window)], data, max_epochs=2).run()
        assert sum("not the map" in str(one.message) for one in said) == 1
    # What noise augmentation adds to a scaled image is no reason to stop.
    data = [{**item, "image": item["image"] + 0.05 * torch.randn(item["image"].shape)} for item in items()]
    trainer(SmallNetwork(), [AdversarialTraining(attack, window)], data).run()
    with pytest.warns(UserWarning, match="epsilon is 8 in the network's units, more than the whole range"):
        trainer(SmallNetwork(), [AdversarialTraining(PGD(8))]).run()


def test_an_optimizer_from_before_the_conversion_is_noticed() -> None:
    network = SmallNetwork()
    engine = trainer(network, [AdversarialTraining(PGD(EPSILON), adversarial_weight=0.5)])
    convert_dual_normalization(network)
    with pytest.raises(ValueError, match="the optimizer does not know all weights of the network's dual normalization"):
        engine.run()


def test_the_adversarial_loss_can_be_logged_in_clean_iterations_too() -> None:
    logged: list[float] = []
    handler = AdversarialTraining(PGD(EPSILON, steps=1), first_epoch=1)
    engine = trainer(SmallNetwork(), [handler], max_epochs=2, batch_size=4)
    engine.add_event_handler(
        Events.ITERATION_COMPLETED,
        lambda e: logged.append(from_engine(["adversarial_loss"], first=True)(e.state.output)),
    )
    engine.run()
    assert len(logged) == 2 and math.isnan(logged[0]) and logged[1] > 0


def test_a_handler_serves_one_trainer() -> None:
    handler = AdversarialTraining(PGD(EPSILON))
    engine = trainer(SmallNetwork(), [handler])
    with pytest.raises(ValueError, match="this AdversarialTraining is attached to a trainer already"):
        trainer(SmallNetwork(), [handler])
    handler.detach(engine)
    trainer(SmallNetwork(), [handler])


def test_a_prepare_batch_that_is_set_afterwards_is_noticed() -> None:
    network = SmallNetwork()
    engine = trainer(network, [AdversarialTraining(PGD(EPSILON))])
    engine.prepare_batch = PrepareBatchAdversarial(PGD(EPSILON), network, prepare_batch=engine.prepare_batch)
    with pytest.raises(ValueError, match="prepare_batch was replaced by PrepareBatchAdversarial after"):
        engine.run()


def test_an_iteration_without_the_loss_event_is_noticed() -> None:
    def update(engine: Any, batch: Any) -> dict[str, torch.Tensor]:
        image, label = engine.prepare_batch(batch, engine.state.device, engine.non_blocking)
        return {"loss": cross_entropy(engine.network(image), label)}

    for weight, fails in ((0.5, True), (1.0, False)):
        engine = trainer(
            SmallNetwork(),
            [AdversarialTraining(PGD(EPSILON, steps=1), adversarial_weight=weight)],
            iteration_update=update,
            decollate=False,
        )
        if fails:
            with pytest.raises(RuntimeError, match="iteration_update fired no LOSS_COMPLETED event"):
                engine.run()
        else:
            engine.run()


def test_attacking_another_network_than_the_trained_one_is_said(caplog: pytest.LogCaptureFixture) -> None:
    network = SmallNetwork()
    with caplog.at_level("WARNING"):
        trainer(network, [AdversarialTraining(PGD(EPSILON, steps=1), network)]).run()
        assert "transfer attack" not in caplog.text
        trainer(network, [AdversarialTraining(PGD(EPSILON, steps=1), copy.deepcopy(network))]).run()
    said = "the network of model= is not the one that the trainer trains: the attack is a transfer attack"
    assert said in caplog.text


def test_prepare_batch_refuses_dual_normalization_and_keeps_its_count() -> None:
    network = convert_dual_normalization(SmallNetwork())
    prepare = PrepareBatchAdversarial(PGD(EPSILON), network, training=True)
    with pytest.raises(ValueError, match="would train one branch of the network's dual normalization only"):
        trainer(network, [], prepare_batch=prepare).run()
    plain = SmallNetwork()
    prepare = PrepareBatchAdversarial(PGD(EPSILON, steps=1), plain, training=True)
    trainer(plain, [], prepare_batch=prepare).run()
    again = PrepareBatchAdversarial(PGD(EPSILON, steps=1), plain, training=True)
    again.load_state_dict(prepare.state_dict())
    assert again.batches == prepare.batches == 2


class Scaler:
    """What the trainer asks of a GradScaler, on the CPU: a loss of another scale, undone before the step."""

    scale_factor = 1024.0

    def scale(self, loss: torch.Tensor) -> torch.Tensor:
        return loss * self.scale_factor

    def step(self, optimizer: torch.optim.Optimizer) -> None:
        for group in optimizer.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    weight.grad /= self.scale_factor
        optimizer.step()

    def update(self) -> None:
        pass


@pytest.mark.parametrize("weight", [1.0, 0.5])
def test_a_gradient_scaler_changes_nothing(weight: float) -> None:
    networks = [SmallNetwork(seed=9) for _ in range(2)]
    for network, scaled in zip(networks, (False, True), strict=True):
        handler = AdversarialTraining(PGD(EPSILON, steps=2), FLOAT32, adversarial_weight=weight)
        engine = trainer(network, [handler])
        if scaled:
            engine.amp, engine.amp_kwargs = True, {"enabled": False}  # there may be no CUDA
            engine.add_event_handler(Events.STARTED, lambda engine: setattr(engine, "scaler", Scaler()))
        engine.run()
    for name, value in networks[0].state_dict().items():
        torch.testing.assert_close(networks[1].state_dict()[name], value, rtol=1e-4, atol=1e-6)


def test_it_says_what_it_will_do(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        trainer(SmallNetwork(), [AdversarialTraining(PGD(EPSILON, steps=7), adversarial_weight=0.25, probability=0.5)])
    said = " ".join(record.getMessage() for record in caplog.records)
    assert "attacks 50% of the iterations with PGD(0.05, steps=7)" in said
    assert "minimizes 0.75 loss(clean) + 0.25 loss(adversarial)" in said


def test_batches_without_labels_are_one_sentence() -> None:
    data = [{"image": item["image"]} for item in items(2)]
    with pytest.raises((TypeError, ValueError, KeyError), match="label"):
        trainer(SmallNetwork(), [AdversarialTraining(PGD(EPSILON))], data).run()
