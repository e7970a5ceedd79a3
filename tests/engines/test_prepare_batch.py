# SPDX-License-Identifier: Apache-2.0
"""The attack inside real MONAI engines."""

from __future__ import annotations

import pytest
import torch
from monai.bundle import ConfigParser
from monai.data import DataLoader, Dataset
from monai.engines import SupervisedEvaluator, SupervisedTrainer
from monai.handlers import MeanDice, from_engine
from monai.inferers import SimpleInferer, SlidingWindowInferer
from monai.transforms import AsDiscreted, Compose
from torch import nn

from monai_adversarial.attacks import PGD, ElasticAttack
from monai_adversarial.engines import PrepareBatchAdversarial
from monai_adversarial.models import AttackedModel
from tests.helpers import random_image, random_label, tiny_segmentation_network

SHAPE = (1, 8, 8, 8)


def loader(batch_size: int = 2, label: bool = True, count: int = 4) -> DataLoader:
    items = []
    for i in range(count):
        item = {"image": random_image(SHAPE, seed=i)}
        if label:
            item["label"] = random_label(SHAPE, seed=i)
        items.append(item)
    return DataLoader(Dataset(items), batch_size=batch_size)


def evaluator(prepare_batch, network, data, inferer=None) -> SupervisedEvaluator:
    return SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=data,
        network=network,
        inferer=inferer or SimpleInferer(),
        prepare_batch=prepare_batch,
        postprocessing=Compose([AsDiscreted(keys=("pred", "label"), argmax=(True, False), to_onehot=3)]),
        key_val_metric={"dice": MeanDice(include_background=False, output_transform=from_engine(["pred", "label"]))},
        decollate=True,
    )


def test_evaluator_scores_the_attacked_batch_and_keeps_the_clean_one():
    network = tiny_segmentation_network()
    data = loader()
    for batch in data.dataset.data:  # labels the network agrees with
        batch["label"] = network(batch["image"][None]).argmax(dim=1)
    seen = []
    clean_engine = evaluator(lambda *a, **k: PrepareBatchAdversarial(None, network)(*a, **k), network, data)
    clean_engine.run()
    prepare = PrepareBatchAdversarial(PGD(0.3, steps=4), AttackedModel(network, SimpleInferer()))
    engine = evaluator(prepare, network, data)

    @engine.on("MODEL_COMPLETED")
    def look(engine):
        for clean, attacked in zip(engine.state.batch, engine.state.output, strict=True):
            seen.append(float((attacked["image"] - clean["image"]).abs().max()))

    engine.run()
    assert clean_engine.state.metrics["dice"] == pytest.approx(1.0)
    assert engine.state.metrics["dice"] < 0.8
    assert seen and all(0.2 < change <= 0.3 + 1e-5 for change in seen)
    assert prepare.last_result is not None and prepare.last_result.backwards == 2 * 4


def test_evaluation_through_the_engines_own_sliding_window():
    network, inferer = tiny_segmentation_network(), SlidingWindowInferer(4, 2, 0.5)
    prepare = PrepareBatchAdversarial(PGD(0.05, steps=2), AttackedModel(network, inferer))
    engine = evaluator(prepare, network, loader(1), inferer)
    engine.run()
    assert prepare.last_result.success.shape == (1,)


def test_batches_without_label_are_attacked_against_the_clean_prediction():
    network = tiny_segmentation_network()
    prepare = PrepareBatchAdversarial(PGD(0.05, steps=2), network)
    batch = next(iter(loader(label=False)))
    image, label = prepare(batch, "cpu")
    assert label is None
    assert prepare.last_result.reference_is_prediction
    assert not torch.equal(image, batch["image"])


def test_reference_prediction_ignores_a_raw_label():
    network = tiny_segmentation_network()
    prepare = PrepareBatchAdversarial(PGD(0.05, steps=2), network, reference="prediction")
    batch = next(iter(loader()))
    batch["label"] = torch.full((2, 5), 999)  # no segmentation of this image
    _, label = prepare(batch, "cpu")
    assert torch.equal(label, batch["label"])


def test_label_moves_with_a_geometric_attack():
    network = tiny_segmentation_network()
    attack = ElasticAttack(2.0, control_spacing=6.0, steps=2)
    batch = next(iter(loader()))
    with pytest.raises(ValueError, match="spacing"):
        PrepareBatchAdversarial(attack, network)(batch, "cpu")
    from monai.data import MetaTensor

    batch["image"] = MetaTensor(batch["image"], affine=torch.eye(4, dtype=torch.float64).repeat(2, 1, 1))
    prepare = PrepareBatchAdversarial(attack, network)
    _, label = prepare(batch, "cpu")
    assert torch.equal(label, prepare.last_result.label)
    assert not torch.equal(label, batch["label"])


@pytest.mark.parametrize("accumulation_steps", [1, 2])
def test_training_equals_the_hand_written_loop_and_gradients_are_not_polluted(accumulation_steps):
    data = loader()

    def fresh():
        network = tiny_segmentation_network(seed=3).double().train()
        return network, torch.optim.SGD(network.parameters(), lr=0.1)

    def double_batch(batch, device, non_blocking=False, **kwargs):
        return batch["image"].double(), batch["label"]

    loss = nn.CrossEntropyLoss()
    attack = PGD(0.05, steps=3, objective="ce", random_start=False)
    network, optimizer = fresh()
    trainer = SupervisedTrainer(
        device=torch.device("cpu"),
        max_epochs=2,
        train_data_loader=data,
        network=network,
        optimizer=optimizer,
        loss_function=lambda prediction, label: loss(prediction, label[:, 0]),
        prepare_batch=PrepareBatchAdversarial(attack, network, prepare_batch=double_batch),
        accumulation_steps=accumulation_steps,
    )
    trainer.run()

    expected, optimizer = fresh()
    for _ in range(2):
        for i, batch in enumerate(data):
            image, label = double_batch(batch, None)
            adversarial = attack(expected, image, label).adversarial
            if i % accumulation_steps == 0:
                optimizer.zero_grad()
            (loss(expected(adversarial), label[:, 0]) / accumulation_steps).backward()
            if (i + 1) % accumulation_steps == 0:
                optimizer.step()
    for ours, theirs in zip(network.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=0)


def test_one_key_overlay_from_a_config():
    parser = ConfigParser(
        {
            "network": "$__import__('tests.helpers', fromlist=['x']).tiny_segmentation_network()",
            "inferer": {"_target_": "monai.inferers.SimpleInferer"},
            "prepare": {
                "_target_": "monai_adversarial.engines.PrepareBatchAdversarial",
                "attack": {
                    "_target_": "monai_adversarial.attacks.PGD",
                    "epsilon": 8,
                    "units": "HU",
                    "steps": 2,
                },
                "model": {
                    "_target_": "monai_adversarial.models.AttackedModel",
                    "network": "@network",
                    "inferer": "@inferer",
                    "intensity": {"a_min": -160, "a_max": 240},
                },
            },
        }
    )
    prepare = parser.get_parsed_content("prepare")
    batch = next(iter(loader()))
    image, _ = prepare(batch, "cpu")
    assert float((image - batch["image"]).abs().max()) == pytest.approx(8 / 400, rel=1e-3)


def test_bad_use_says_why():
    network = tiny_segmentation_network()
    with pytest.raises(TypeError, match="attack must be"):
        PrepareBatchAdversarial("pgd", network)
    with pytest.raises(TypeError, match="network must be"):
        PrepareBatchAdversarial(None, "network")
    with pytest.raises(ValueError, match="reference must be one of"):
        PrepareBatchAdversarial(None, network, reference="truth")
    prepare = PrepareBatchAdversarial(PGD(0.1, steps=1), network, region_key="mask")
    with pytest.raises(KeyError, match="region_key 'mask' is not in the batch"):
        prepare(next(iter(loader())), "cpu")
