# SPDX-License-Identifier: Apache-2.0
"""What handlers are told of the model, what they take from the engine, and further inputs of the network."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from ignite.engine import Events
from monai.data import DataLoader, Dataset
from monai.engines import PrepareBatchExtraInput, SupervisedEvaluator
from monai.engines.utils import IterationEvents
from monai.inferers import SimpleInferer, SlidingWindowInferer
from torch import nn

from monai_adversarial.attacks import PGD
from monai_adversarial.handlers import (
    AdversarialDistillation,
    AdversarialEvaluation,
    AdversarialLossTerm,
    AdversarialTraining,
    FastAdversarialTraining,
    FreeAdversarialTraining,
    HelperAdversarialTraining,
    InputGradientRegularization,
    MarginAdversarialTraining,
)
from monai_adversarial.handlers.engine_model import model_of
from monai_adversarial.losses import TRADESLoss
from monai_adversarial.models import AttackedModel
from tests.handlers.trainers import FLOAT32, SmallNetwork, cross_entropy, items, trainer
from tests.helpers import random_image, random_label

WINDOW = {"a_min": -160, "a_max": 240}
SHAPE = (1, 6, 6, 6)


def weights_after(handler: Any, network: nn.Module | None = None, **options: Any) -> dict[str, torch.Tensor]:
    network = SmallNetwork(seed=3) if network is None else network
    trainer(network, [handler], **options).run()
    return network.state_dict()


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(value, other[name]) for name, value in one.items())


def test_facts_complete_the_trainers_own_network_and_inferer() -> None:
    inferer = SlidingWindowInferer(4, 2)
    handler = AdversarialTraining(PGD(8, "HU", steps=1), {"intensity": WINDOW})
    network = SmallNetwork()
    trainer(network, [handler], inferer=inferer).run()
    model = handler.model
    assert model is not None and model.network is network and model.inferer is inferer
    assert model.intensity is not None and model.image_units == "network"
    assert handler.perturbed is not None and handler.batch is not None
    change = float((handler.perturbed.adversarial - handler.batch.image).abs().max())
    assert 0.9 * 8 / 400 < change <= 8 / 400 + 1e-6


def test_the_same_model_can_be_told_in_every_form() -> None:
    def told_in_full() -> dict[str, torch.Tensor]:
        network = SmallNetwork(seed=3)
        model = AttackedModel(network, SimpleInferer(), precision="float32")
        return weights_after(AdversarialTraining(PGD(0.05, steps=2), model), network)

    def told_without_inferer() -> dict[str, torch.Tensor]:
        network = SmallNetwork(seed=3)
        model = AttackedModel(network, precision="float32")
        return weights_after(AdversarialTraining(PGD(0.05, steps=2), model), network)

    facts = weights_after(AdversarialTraining(PGD(0.05, steps=2), FLOAT32))
    assert same(facts, told_in_full()) and same(facts, told_without_inferer())


def test_a_model_without_an_inferer_gets_the_engines() -> None:
    network, inferer = SmallNetwork(), SlidingWindowInferer(4, 2)
    engine = trainer(network, [], inferer=inferer)
    assert model_of(engine, AttackedModel(network)).inferer is inferer
    surrogate, own = SmallNetwork(seed=1), SimpleInferer()
    model = model_of(engine, {"network": surrogate, "inferer": own})
    assert model.network is surrogate and model.inferer is own
    assert model_of(engine, surrogate).network is surrogate


class TwoInputs(nn.Module):
    """Cannot do without its second input, which turns the classes around where it is 1."""

    def __init__(self) -> None:
        super().__init__()
        self.network = SmallNetwork(norm=False, seed=2)
        with torch.no_grad():
            self.network.second.weight.mul_(20)
        self.priors: list[float] = []

    def forward(self, image: torch.Tensor, prior: torch.Tensor) -> torch.Tensor:
        self.priors.append(float(prior.mean()))
        logits = self.network(image)
        return torch.where(prior > 0.5, logits.flip(1), logits)


def with_priors(count: int = 4) -> list[dict[str, torch.Tensor]]:
    return [{**item, "prior": torch.full_like(item["image"], float(i % 2))} for i, item in enumerate(items(count))]


def trained_with_prior(handler: Any) -> TwoInputs:
    network = TwoInputs()
    trainer(network, [handler], with_priors(), batch_size=1, prepare_batch=PrepareBatchExtraInput("prior")).run()
    return network


@pytest.mark.parametrize(
    "make",
    [
        lambda: AdversarialTraining(PGD(0.05, steps=2), adversarial_weight=0.5),
        lambda: AdversarialLossTerm(PGD(0.05, steps=2), TRADESLoss()),
        lambda: FastAdversarialTraining(0.05),
        lambda: FreeAdversarialTraining(0.05, replays=1),
        lambda: MarginAdversarialTraining(PGD(0.05, steps=2), case_key="label"),
        lambda: HelperAdversarialTraining(PGD(0.05, steps=2), TwoInputs()),
        lambda: AdversarialDistillation(TwoInputs(), PGD(0.05, steps=2)),
        lambda: InputGradientRegularization(0.1),
    ],
)
def test_further_inputs_of_the_batch_reach_the_network_in_training(make: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(MarginAdversarialTraining, "cases_of", lambda *_: ["case"])
    seen = trained_with_prior(make()).priors
    # Each of four batches with its own prior, in every pass; the check of Fast is on the last batch.
    changes = [seen[0], *(value for before, value in zip(seen, seen[1:], strict=False) if value != before)]
    assert changes == [0.0, 1.0, 0.0, 1.0] and len(seen) >= 4


def evaluate(network: nn.Module, data: list[dict[str, Any]], handlers: list[Any], **options: Any) -> Any:
    engine = SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=DataLoader(Dataset(data), batch_size=options.pop("batch_size", 2)),
        network=network,
        val_handlers=handlers,
        **options,
    )
    engine.run()
    return engine


def test_further_inputs_of_the_batch_reach_the_network_in_evaluation() -> None:
    network, data = TwoInputs(), with_priors()
    with torch.no_grad():
        for item in data:
            item["label"] = network(item["image"][None], item["prior"][None]).argmax(1)
    network.priors.clear()
    attack = PGD(0.2, steps=3)
    handlers = [AdversarialEvaluation(attack, "pgd"), AdversarialEvaluation(attack, "again")]
    engine = evaluate(network, data, handlers, prepare_batch=PrepareBatchExtraInput("prior"))
    assert set(network.priors) == {0.5}  # batches of two
    assert engine.state.metrics["pgd_clean_mean_dice"] == 1.0
    assert isinstance(engine.prepare_batch, PrepareBatchExtraInput)
    image, label, prior = (torch.stack([item[key] for item in data]) for key in ("image", "label", "prior"))
    expected = attack(AttackedModel(network, network_args=(prior,)), image, label).adversarial_dice
    assert engine.state.metrics["pgd_mean_dice"] == pytest.approx(float(expected.mean()), abs=1e-6)
    assert engine.state.metrics["pgd_mean_dice"] < 0.9
    assert engine.state.metrics["again_mean_dice"] == engine.state.metrics["pgd_mean_dice"]


class Ends(nn.Module):
    """A network with or without softmax or sigmoid at its end."""

    def __init__(self, end: str | None, classes: int = 2) -> None:
        super().__init__()
        self.network, self.end = SmallNetwork(norm=False, classes=classes, seed=5), end
        with torch.no_grad():
            self.network.second.weight.mul_(20)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        logits = self.network(image)
        if self.end == "sigmoid":
            return logits.sigmoid()
        return logits.softmax(dim=1) if self.end == "softmax" else logits


@pytest.mark.parametrize(("end", "classes"), [("softmax", 2), ("sigmoid", 1), ("sigmoid", 3)])
def test_a_network_that_returns_probabilities_is_evaluated_as_its_logits_are(end: str, classes: int) -> None:
    data = [{"image": random_image(SHAPE, seed=i)} for i in range(2)]
    with torch.no_grad():
        for item in data:
            logits = Ends(None, classes)(item["image"][None])[0]
            item["label"] = (logits > 0).float() if end == "sigmoid" else logits.argmax(0, keepdim=True)
    found = []
    for network, facts in ((Ends(None, classes), {"activation": end}), (Ends(end, classes), {})):
        handler = AdversarialEvaluation(PGD(0.1, steps=3), "pgd", {**FLOAT32, **facts})
        found.append(evaluate(network, data, [handler]).state.metrics)
    assert found[1]["pgd_clean_mean_dice"] == found[0]["pgd_clean_mean_dice"] == 1.0
    assert found[1]["pgd_mean_dice"] == pytest.approx(found[0]["pgd_mean_dice"], abs=0.01)
    assert found[0]["pgd_mean_dice"] < 0.95


@pytest.mark.parametrize(
    "make",
    [
        lambda: AdversarialLossTerm(PGD(0.05, steps=2), TRADESLoss(), FLOAT32),
        lambda: AdversarialDistillation(Ends("softmax"), PGD(0.05, steps=2), FLOAT32, task_weight=1.0),
        lambda: HelperAdversarialTraining(PGD(0.05, steps=2), Ends("softmax"), FLOAT32),
    ],
)
def test_terms_on_a_network_that_returns_probabilities_are_those_on_its_logits(make: Any) -> None:
    def nll(probabilities: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        return nn.functional.nll_loss(probabilities.log(), label[:, 0].long())

    losses = []
    for network, loss in ((Ends(None), cross_entropy), (Ends("softmax"), nll)):
        engine = trainer(network, [make()], loss=loss, batch_size=4)
        engine.run()
        losses.append((engine.state.output[0]["loss"], engine.state.output[0]["adversarial_loss"]))
    assert losses[1] == pytest.approx(losses[0], rel=1e-4) and losses[0][1] > 1e-4


def test_the_loss_reads_independent_channels_as_the_model_does() -> None:
    label = random_label(SHAPE, classes=2, seed=1).expand(3, -1, -1, -1).float()
    data = [{"image": random_image(SHAPE), "label": label}]

    def loss(logits: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        return nn.functional.binary_cross_entropy_with_logits(logits, label)

    term = TRADESLoss()
    handler = AdversarialLossTerm(PGD(0.05, steps=1), term, {"activation": "sigmoid"})
    trainer(Ends(None, 3), [handler], data, loss=loss).run()
    assert term.activation == "sigmoid"
    handler = AdversarialLossTerm(PGD(0.05, steps=1), TRADESLoss(activation="softmax"), {"activation": "sigmoid"})
    with pytest.raises(ValueError, match="the loss has activation='softmax', but the model has 'sigmoid'"):
        trainer(Ends(None, 3), [handler], data, loss=loss).run()


def own_iteration(prepare: bool = True, loss_event: bool = True, backward_event: bool = True) -> Any:
    def update(engine: Any, batch: Any) -> dict[str, Any]:
        if prepare:
            image, label = engine.prepare_batch(batch, engine.state.device, engine.non_blocking)
        else:
            image, label = batch["image"], batch["label"]
        engine.network.train()
        engine.optimizer.zero_grad()
        engine.state.output = {"image": image, "label": label, "pred": engine.inferer(image, engine.network)}
        engine.state.output["loss"] = engine.loss_function(engine.state.output["pred"], label)
        if loss_event:
            engine.fire_event(IterationEvents.LOSS_COMPLETED)
        engine.state.output["loss"].backward()
        if backward_event:
            engine.fire_event(IterationEvents.BACKWARD_COMPLETED)
        engine.optimizer.step()
        return engine.state.output

    return update


HANDLERS: dict[str, Any] = {
    "replaces": lambda: AdversarialTraining(PGD(0.05, steps=1)),
    "mixes": lambda: AdversarialTraining(PGD(0.05, steps=1), adversarial_weight=0.5),
    "fast": lambda: FastAdversarialTraining(0.05),
    "trades": lambda: AdversarialLossTerm(PGD(0.05, steps=1), TRADESLoss()),
    "distills": lambda: AdversarialDistillation(SmallNetwork(seed=9), PGD(0.05, steps=1)),
    "helper": lambda: HelperAdversarialTraining(PGD(0.05, steps=1), SmallNetwork(seed=9)),
    "free": lambda: FreeAdversarialTraining(0.05, replays=1),
    "penalty": lambda: InputGradientRegularization(0.1),
}


@pytest.mark.parametrize("kind", list(HANDLERS))
def test_a_trainer_that_prepares_no_batch_is_noticed(kind: str) -> None:
    engine = trainer(SmallNetwork(), [HANDLERS[kind]()], iteration_update=own_iteration(prepare=False))
    with pytest.raises(RuntimeError, match=r"iteration_update did not call engine.prepare_batch in iteration 1"):
        engine.run()
    trainer(SmallNetwork(), [HANDLERS[kind]()], iteration_update=own_iteration()).run()  # as MONAI's own does


@pytest.mark.parametrize("kind", ["mixes", "trades", "distills", "helper", "penalty"])
def test_a_trainer_without_the_loss_event_is_noticed(kind: str) -> None:
    engine = trainer(SmallNetwork(), [HANDLERS[kind]()], iteration_update=own_iteration(loss_event=False))
    with pytest.raises(RuntimeError, match="iteration_update fired no LOSS_COMPLETED event"):
        engine.run()


def test_a_trainer_without_the_backward_event_is_noticed() -> None:
    engine = trainer(SmallNetwork(), [HANDLERS["free"]()], iteration_update=own_iteration(backward_event=False))
    with pytest.raises(RuntimeError, match="iteration_update fired no BACKWARD_COMPLETED event"):
        engine.run()


def test_a_training_in_which_nothing_was_attacked_says_so(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("WARNING"):
        trainer(SmallNetwork(), [AdversarialTraining(PGD(0.05, steps=1), first_epoch=1)], max_epochs=2).run()
        assert "was clean" not in caplog.text
        trainer(SmallNetwork(), [AdversarialTraining(PGD(0.05, steps=1), first_epoch=2)], max_epochs=2).run()
    assert "none of the 4 iterations was attacked, the training was clean" in caplog.text


def evaluator_iteration(fires: Any, predict: Any = None) -> Any:
    def update(engine: Any, batch: Any) -> dict[str, Any]:
        image, label = engine.prepare_batch(batch, engine.state.device, engine.non_blocking)
        engine.state.output = {"image": image, "label": label}
        with torch.no_grad():
            network = engine.network.eval()
            engine.state.output["pred"] = engine.inferer(image, network) if predict is None else predict(image, network)
        if fires(engine.state.iteration):
            engine.fire_event(IterationEvents.FORWARD_COMPLETED)
        engine.fire_event(IterationEvents.MODEL_COMPLETED)
        return engine.state.output

    return update


def test_an_evaluator_that_passes_some_batches_by_is_noticed() -> None:
    def run(fires: Any) -> Any:
        handler = AdversarialEvaluation(PGD(0.05, steps=1), "pgd")
        return evaluate(SmallNetwork(), items(4), [handler], iteration_update=evaluator_iteration(fires))

    assert "pgd_mean_dice" in run(lambda _: True).state.metrics
    with pytest.raises(RuntimeError, match="1 of 2 batches were evaluated under attack"):
        run(lambda iteration: iteration == 1)
    with pytest.raises(RuntimeError, match="no batch was evaluated under attack"):
        run(lambda _: False)


def test_an_evaluator_that_predicts_something_else_than_is_attacked_is_noticed() -> None:
    def other(image: torch.Tensor, network: nn.Module) -> torch.Tensor:
        return network(1 - image) * 3

    update = evaluator_iteration(lambda _: True, other)
    with pytest.raises(ValueError, match="what would be attacked is not what is scored"):
        evaluate(SmallNetwork(), items(2), [AdversarialEvaluation(PGD(0.05, steps=1))], iteration_update=update)


def test_a_transfer_attack_of_an_evaluation_is_said(caplog: pytest.LogCaptureFixture) -> None:
    network = SmallNetwork()
    with caplog.at_level("WARNING"):
        evaluate(network, items(2), [AdversarialEvaluation(PGD(0.05, steps=1), "own", {"network": network})])
        assert "transfer attack" not in caplog.text
        evaluate(network, items(2), [AdversarialEvaluation(PGD(0.05, steps=1), "other", SmallNetwork(seed=1))])
        windows = {"inferer": SlidingWindowInferer(4, 2)}
        evaluate(network, items(2), [AdversarialEvaluation(PGD(0.05, steps=1), "windows", windows)])
    assert "'other': the network of model= (SmallNetwork) is not the evaluator's" in caplog.text
    assert "the inferer of model= (SlidingWindowInferer) is not the evaluator's (SimpleInferer)" in caplog.text


def test_an_evaluation_says_what_it_attacks_and_what_a_success_is(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        handler = AdversarialEvaluation(PGD(0.05, steps=1), "pgd", success_threshold=0.7, acceptable_dice=0.2)
        evaluate(SmallNetwork(), items(2), [handler])
    assert "attacks AttackedModel(SmallNetwork, SimpleInferer" in caplog.text
    assert "a success is a score below 0.7 times the clean one, of cases with a clean one above 0.2" in caplog.text


def test_guidance_channels_stay_as_they_are() -> None:
    class Guided(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv3d(2, 2, 3, padding=1)

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return self.conv(image)

    data = [{"image": torch.cat([item["image"], item["label"].float()]), "label": item["label"]} for item in items(2)]
    for make in (
        lambda: AdversarialTraining(PGD(0.05, steps=1), {"image_channels": [0]}),
        lambda: FreeAdversarialTraining(0.05, model={"image_channels": [0]}, replays=2),
        lambda: MarginAdversarialTraining(
            PGD(0.05, steps=1), {"image_channels": [0]}, case_key="case", adversarial_weight=1
        ),
    ):
        named = [{**item, "case": str(i)} for i, item in enumerate(data)]
        engine = trainer(Guided(), [make()], named, decollate=False)
        seen: list[torch.Tensor] = []
        engine.add_event_handler(
            Events.ITERATION_COMPLETED,
            lambda e, seen=seen: seen.append((e.state.output["image"] - e.state.batch["image"]).abs()),
        )
        engine.run()
        assert float(seen[-1][:, 1].max()) == 0 < float(seen[-1][:, 0].max())
