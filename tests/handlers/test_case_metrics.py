# SPDX-License-Identifier: Apache-2.0
"""Metrics with several numbers in Ignite engines, and those of attacked cases in an evaluator."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from ignite.engine import Engine
from monai.data import DataLoader, Dataset
from monai.engines import SupervisedEvaluator
from monai.handlers import MetricsSaver

from monai_adversarial.attacks import PGD
from monai_adversarial.handlers import AdversarialEvaluation, CaseMetricHandler
from monai_adversarial.metrics import AdversarialRisk, OrganDrop, OrganPresence, VolumeChange
from tests.helpers import random_image, random_label, tiny_segmentation_network

NAMES = ["background", "liver", "spleen"]


def test_numbers_have_names_of_their_own_and_decollated_cases_their_own_options() -> None:
    prediction, clean = random_label((2, 1, 4, 4, 4)), random_label((2, 1, 4, 4, 4), seed=1)
    spacing = torch.tensor([[1.0, 1.0, 1.0], [2.0, 2.0, 2.0]])
    engine = Engine(lambda engine, batch: batch)
    handler = CaseMetricHandler(
        VolumeChange(NAMES),
        lambda batch: [[case[key] for case in batch] for key in ("pred", "clean")],
        lambda batch: {"spacing": [case["spacing"] for case in batch]},
    )
    handler.attach(engine, "volume")
    risk = CaseMetricHandler(AdversarialRisk(), lambda batch: (torch.tensor([True]), torch.tensor([True])))
    risk.attach(engine, "detector")
    cases = [{"pred": prediction[i], "clean": clean[i], "spacing": spacing[i]} for i in range(2)]
    state = engine.run([cases])
    alone = VolumeChange(NAMES)
    alone(prediction, clean, spacing=spacing)
    assert state.metrics == {f"volume_{name}": value for name, value in alone.aggregate().items()} | {
        "detector_adversarial_risk": 1.0,
        "detector_wrong": 1.0,
        "detector_accepted": 1.0,
    }
    assert torch.equal(state.metric_details["volume"], alone.get_buffer())
    with pytest.raises(TypeError, match="metric_fn must be a metric"):
        CaseMetricHandler(None)  # type: ignore[arg-type]


def test_an_evaluator_reports_metrics_of_what_it_attacked(tmp_path: Path) -> None:
    network = tiny_segmentation_network()
    data = [{"image": random_image((1, 8, 8, 8), seed=i), "label": random_label((1, 8, 8, 8), seed=i)} for i in (0, 1)]
    metrics = {"drop": OrganDrop(NAMES), "organs": OrganPresence(NAMES)}
    attack = PGD(0.1, steps=2)
    evaluation = AdversarialEvaluation(attack, "pgd", {"class_names": NAMES}, max_batches=1, metrics=metrics)
    engine = SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=DataLoader(Dataset(data), batch_size=1),
        network=network,
        val_handlers=[evaluation, MetricsSaver(str(tmp_path), metrics="*", metric_details="*")],
    )
    for _ in range(2):  # a second run starts from nothing
        engine.run()
        result = attack(network, data[0]["image"][None], data[0]["label"][None])
        alone = OrganDrop(NAMES)
        row = alone.add(result)
        found = engine.state.metrics
        assert found["pgd_drop_liver_dice_drop"] == pytest.approx(float(row[0, 2]))
        assert found["pgd_dice_liver"] == pytest.approx(found["pgd_drop_liver_dice"])
        assert found["pgd_organs_missed_rate"] in (0.0, 0.5, 1.0)
        details = engine.state.metric_details["pgd_drop"]
        assert details.shape == (2, 10) and torch.equal(details[:1], row) and bool(details[1].isnan().all())
    assert "pgd_drop_liver_dice_drop" in (tmp_path / "metrics.csv").read_text()
    with pytest.raises(TypeError, match="metrics\\['drop'\\] must be a CaseMetric"):
        AdversarialEvaluation(attack, metrics={"drop": OrganDrop})  # type: ignore[dict-item]
