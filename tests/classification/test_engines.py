# SPDX-License-Identifier: Apache-2.0
"""Classifiers in MONAI's engines: read, attacked, trained, evaluated."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from monai.data import DataLoader, Dataset
from monai.engines import SupervisedEvaluator, SupervisedTrainer
from monai.handlers import ROCAUC, from_engine
from monai.inferers import SimpleInferer
from monai.transforms import Activationsd, AsDiscreted, Compose
from torch import nn

from monai_adversarial.attacks import PGD, AffineAttack
from monai_adversarial.audit import AuditTarget
from monai_adversarial.engines import PrepareBatchAdversarial
from monai_adversarial.handlers import AdversarialEvaluation, AdversarialTraining, WorstCaseEvaluation
from monai_adversarial.models import AttackedModel
from tests.classification.networks import LinearClassifier, images

CLASSES = 3
EPSILON = 0.01


def items(count: int = 12, classes: int = CLASSES) -> list[dict[str, Any]]:
    """Images with the class that ``LinearClassifier`` gives them, every fourth with another one."""
    batch = images(count)
    with torch.no_grad():
        label = LinearClassifier(classes)(batch).argmax(1)
    label[::4] = (label[::4] + 1) % classes
    return [{"image": image, "label": number} for image, number in zip(batch, label, strict=True)]


def evaluator(network: nn.Module | None = None, data: Any = None, **options: Any) -> SupervisedEvaluator:
    """As in MONAI's classification bundles: softmax in the postprocessing, AUC as metric."""
    post = [Activationsd("pred", softmax=True), AsDiscreted("label", to_onehot=CLASSES)]
    return SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=DataLoader(Dataset(items() if data is None else data), batch_size=4),
        network=network or LinearClassifier(CLASSES),
        inferer=SimpleInferer(),
        postprocessing=options.pop("postprocessing", Compose(post)),
        **options,
    )


def test_the_task_is_read_from_an_engine_and_seen_on_the_first_batch() -> None:
    engine = evaluator()
    model = AttackedModel.from_evaluator(engine)
    assert model.found_task is None and model.activation == "softmax"
    batch = next(iter(engine.data_loader))
    result = PGD(EPSILON, steps=2)(model, batch["image"], batch["label"])
    assert model.found_task == "classification" and model.classifies
    assert result.clean_score.tolist() == [0.0, 1.0, 1.0, 1.0]
    told = AttackedModel.from_evaluator(engine, task="segmentation")
    with pytest.raises(ValueError, match="the model's task is 'segmentation', but the network returns"):
        PGD(EPSILON, steps=1)(told, batch["image"])
    with pytest.raises(ValueError, match="task must be one of 'segmentation', 'classification'"):
        AttackedModel(engine.network, task="regression")


def test_the_overlay_attacks_each_batch_of_an_evaluator() -> None:
    clean = evaluator(key_val_metric={"auc": ROCAUC(output_transform=from_engine(["pred", "label"]))})
    clean.run()
    attacked = evaluator(key_val_metric={"auc": ROCAUC(output_transform=from_engine(["pred", "label"]))})
    adversary = PrepareBatchAdversarial(PGD(5 * EPSILON, steps=3), engine=attacked)
    attacked.run()
    assert attacked.state.metrics["auc"] < clean.state.metrics["auc"] - 0.2
    assert adversary.batches == 3 and adversary.last_result.metric == "accuracy"
    assert not adversary.last_result.reference_is_prediction


def test_adversarial_evaluation_reports_accuracy() -> None:
    engine = evaluator()
    handler = AdversarialEvaluation(PGD(EPSILON, steps=3), "pgd", {"class_names": ["a", "b", "c"]})
    handler.attach(engine)
    engine.run()
    data = items()
    batch, label = torch.stack([item["image"] for item in data]), torch.stack([item["label"] for item in data])
    parts = [PGD(EPSILON, steps=3)(engine.network, batch[rows], label[rows]) for rows in torch.arange(12).split(4)]
    clean, robust = (
        torch.cat([getattr(part, name) for part in parts]).double() for name in ("clean_score", "adversarial_score")
    )
    metrics = engine.state.metrics
    assert metrics["pgd_clean_accuracy"] == pytest.approx(float(clean.mean())) == pytest.approx(0.75)
    assert metrics["pgd_accuracy"] == pytest.approx(float(robust.mean()))
    assert metrics["pgd_gap"] == pytest.approx(float(clean.mean() - robust.mean()))
    assert metrics["pgd_success_rate"] == pytest.approx(float((robust[clean == 1] == 0).double().mean()))
    assert metrics["pgd_success_rate"] > 0
    for number, name in enumerate("abc"):
        assert metrics[f"pgd_accuracy_{name}"] == pytest.approx(float(robust[label == number].mean()))
    assert not any("dice" in name for name in metrics)
    assert engine.state.metric_details["pgd_accuracy"].shape == (12, CLASSES)


def test_evaluation_without_postprocessing_with_independent_classes() -> None:
    network = LinearClassifier(CLASSES)
    batch = images(8)
    with torch.no_grad():
        label = (network(batch) > 0).long()
    data = [{"image": image, "label": row} for image, row in zip(batch, label, strict=True)]
    engine = evaluator(network, data, postprocessing=None)
    AdversarialEvaluation(PGD(EPSILON, steps=3), "pgd", {"activation": "sigmoid"}).attach(engine)
    engine.run()
    assert engine.state.metrics["pgd_clean_accuracy"] == 1.0 > engine.state.metrics["pgd_accuracy"]
    assert {"pgd_accuracy_class_0", "pgd_accuracy_class_2"} <= set(engine.state.metrics)


def test_the_worst_of_two_attacks_is_the_worst_of_each_image() -> None:
    engine = evaluator()
    evaluations = [
        AdversarialEvaluation(PGD(EPSILON, steps=2), "weak"),
        AdversarialEvaluation(PGD(3 * EPSILON, steps=2), "strong"),
    ]
    WorstCaseEvaluation(evaluations, "worst").attach(engine)
    engine.run()
    metrics = engine.state.metrics
    assert metrics["worst_accuracy"] <= min(metrics["weak_accuracy"], metrics["strong_accuracy"])


def test_accuracy_under_attack_chooses_the_checkpoint() -> None:
    by_name = evaluator(key_val_metric={"robust": AdversarialEvaluation(PGD(EPSILON, steps=1), "pgd")})
    by_name.run()
    assert by_name.state.best_metric == by_name.state.metrics["pgd_accuracy"] == by_name.state.metrics["robust"]
    told = evaluator(
        val_handlers=[AdversarialEvaluation(PGD(EPSILON, steps=1), "pgd", {"task": "classification"}, key_metric=True)]
    )
    told.run()
    assert told.state.key_metric_name == "pgd_accuracy" and told.state.best_metric == told.state.metrics["pgd_accuracy"]
    untold = evaluator(val_handlers=[AdversarialEvaluation(PGD(EPSILON, steps=1), "pgd", key_metric=True)])
    with pytest.raises(ValueError, match=r"key_metric=True stands for 'pgd_mean_dice', but .* 'pgd_accuracy'"):
        untold.run()


@pytest.mark.parametrize("weight", [1.0, 0.5])
@pytest.mark.parametrize("attack", [PGD(EPSILON, steps=2), AffineAttack(steps=1)], ids=["noise", "moved"])
def test_adversarial_training_of_a_classifier(weight: float, attack: Any) -> None:
    network = LinearClassifier(CLASSES)
    before = network.weight.detach().clone()
    data = [{**item, "image": item["image"]} for item in items()]
    seen: list[Any] = []
    trainer = SupervisedTrainer(
        device=torch.device("cpu"),
        max_epochs=1,
        train_data_loader=DataLoader(Dataset(data), batch_size=4),
        network=network,
        optimizer=torch.optim.SGD(network.parameters(), 0.1),
        loss_function=nn.CrossEntropyLoss(),
        inferer=SimpleInferer(),
        decollate=False,
    )
    handler = AdversarialTraining(attack, adversarial_weight=weight)
    handler.attach(trainer)
    trainer.add_event_handler("ITERATION_COMPLETED", lambda engine: seen.append(engine.state.output))
    if isinstance(attack, AffineAttack):
        handler_perturb = handler.perturb
        handler.perturb = lambda *args, **options: handler_perturb(*args, spacing=(1.0,) * 3, **options)  # type: ignore[method-assign]
    trainer.run()
    assert len(seen) == 3 and not torch.equal(before, network.weight)
    assert all(torch.isfinite(output["adversarial_loss"]) for output in seen)
    if weight == 1.0:
        assert (seen[0]["image"] - torch.stack([item["image"] for item in data[:4]])).abs().max() > 0
        assert torch.equal(seen[0]["label"], torch.stack([item["label"] for item in data[:4]]))
    elif isinstance(attack, PGD):
        assert all(output["adversarial_loss"] > output["clean_loss"] for output in seen)


def test_adversarial_training_makes_a_classifier_robust() -> None:
    """Two features: one that is strong and easy to turn, one that is weak and out of reach of the budget."""
    generator = torch.Generator().manual_seed(0)
    label = torch.arange(64) % 2
    sign = (label * 2 - 1).float().view(-1, 1, 1, 1)
    image = 0.01 * torch.randn((64, 1, 4, 4), generator=generator)
    image[:, :, :, :3] += 0.03 * sign  # many small, all of which the budget can turn
    image[:, :, :, 3:] += 0.2 * sign  # few large
    data = [{"image": one, "label": number} for one, number in zip(image, label, strict=True)]
    left = {}
    for robust in (False, True):
        torch.manual_seed(0)
        network = nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
        with torch.no_grad():
            network[1].weight.zero_()
            network[1].weight[1].view(4, 4)[:, :3] = 1.0  # begins on the features that do not last
        trainer = SupervisedTrainer(
            device=torch.device("cpu"),
            max_epochs=60,
            train_data_loader=DataLoader(Dataset(data), batch_size=32),
            network=network,
            optimizer=torch.optim.SGD(network.parameters(), 0.3),
            loss_function=nn.CrossEntropyLoss(),
            inferer=SimpleInferer(),
        )
        if robust:
            AdversarialTraining(PGD(0.15, steps=3)).attach(trainer)
        trainer.run()
        left[robust] = float(PGD(0.15, steps=5)(network, image, label).adversarial_score.mean())
    assert left[True] > 0.9 and left[True] > left[False] + 0.3


def test_audits_and_studies_score_segmentations_only() -> None:
    from monai_adversarial.studies.scoring import SettingsError, predict

    image = images(1)
    target = AuditTarget.of_model(AttackedModel(LinearClassifier(CLASSES), image_units="HU"))
    with pytest.raises(ValueError, match="the model's task is 'segmentation', but the network returns"):
        PGD(EPSILON, units="HU", steps=1)(target.model, 1000 * image - 500)
    with pytest.raises(SettingsError, match="a study scores segmentations, but the network gives one answer per image"):
        predict(AttackedModel(LinearClassifier(CLASSES)), image)
