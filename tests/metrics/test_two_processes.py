# SPDX-License-Identifier: Apache-2.0
"""Metrics gather the cases of all processes. Run as a script by torchrun, it is one of two."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.metrics import CumulativeIterationMetric

from monai_adversarial import metrics as all_metrics
from monai_adversarial.metrics import (
    AdversarialRisk,
    AttentionOverlap,
    BoundaryDistance,
    CalibrationUnderAttack,
    CertifiedDiceMetric,
    CertifiedInformationMetric,
    CertifiedRecallMetric,
    ClassHierarchy,
    DeformationStatistics,
    DestructionRate,
    DetectionMetric,
    EnhancementGain,
    OrganDrop,
    OrganErrors,
    OrganPresence,
    RobustDiceCurve,
    SaliencyConcentration,
    SSIMCurve,
    SuccessRate,
    TargetIoU,
    VolumeChange,
)
from tests.two_processes import leave, run_two_processes

NAMES = ["background", "liver", "spleen"]
# The cases of each process. Two metrics have none on the second one, where MONAI's own would wait for ever.
SHARES = [[0, 1, 2], [3, 4]]


def _label(seed: int) -> torch.Tensor:
    return torch.randint(0, 3, (1, 1, 5, 5, 5), generator=torch.Generator().manual_seed(seed))


def _all_of_them() -> dict[str, Any]:
    return {
        "attention": AttentionOverlap(NAMES),
        "boundary": BoundaryDistance(budgets=[0.5]),
        "calibration": CalibrationUnderAttack(NAMES),
        "certified dice": CertifiedDiceMetric(NAMES),
        "certified information": CertifiedInformationMetric(ClassHierarchy(NAMES, [{"organ": NAMES[1:]}])),
        "certified recall": CertifiedRecallMetric(NAMES, spacing=2.0),
        "curve": RobustDiceCurve([1, 2]),
        "deformation": DeformationStatistics(),
        "destruction": DestructionRate(),
        "detection": DetectionMetric(0.5),
        "drop": OrganDrop(NAMES),
        "enhancement": EnhancementGain(),
        "errors": OrganErrors(NAMES),
        "first only": SuccessRate(),
        "first only, risk": AdversarialRisk(),
        "presence": OrganPresence(NAMES),
        "saliency": SaliencyConcentration(),
        "ssim": SSIMCurve([1, 2]),
        "success": SuccessRate(),
        "target": TargetIoU(NAMES),
        "volume": VolumeChange(NAMES),
    }


def metrics_of(cases: list[int]) -> dict[str, Any]:
    """What each metric says of some of the cases."""
    metrics = _all_of_them()
    for case in cases:
        random = torch.Generator().manual_seed(100 + case)
        attacked, clean, label = (_label(3 * case + shift) for shift in range(3))
        scores = torch.rand(1, 3, generator=random)
        probabilities = torch.rand(2, 1, 3, 5, 5, 5, generator=random).softmax(dim=2)
        images = torch.rand(1, 3, 1, 8, 8, generator=random)
        metrics["attention"](probabilities[0, :, 1:], probabilities[1, :, 1:], label=label)
        metrics["boundary"](scores[:, 0])
        metrics["calibration"](probabilities[0], label, clean=probabilities[1])
        metrics["certified dice"](attacked - 1, label)
        metrics["certified information"](torch.cat([attacked, clean.clamp(max=1)], dim=1) - 1, label)
        metrics["certified recall"](attacked - 1, label)
        metrics["curve"](scores[:, :2], scores[:, 2])
        metrics["deformation"](images[:, :2, 0], spacing=1.0)
        metrics["destruction"](scores[:, 0], scores[:, 1], clean=scores[:, 2])
        metrics["detection"](scores[0, :2], torch.tensor([0, 1]))
        metrics["drop"](attacked, label, clean=clean)
        metrics["enhancement"](scores[:, 0], scores[:, 1], correlation=scores[:, 2])
        metrics["errors"](attacked, label, spacing=2.0)
        metrics["presence"](attacked, label)
        metrics["saliency"](images[:, 0], images[:, 2] > 0.5, clean=images[:, 1])
        metrics["ssim"](images[:, :2], images[:, 2])
        metrics["success"](scores[:, 0], scores[:, 1])
        metrics["target"](attacked, label, clean=clean)
        metrics["volume"](attacked, clean, spacing=(1.0, 1.0, 5.0))
        if case in SHARES[0]:
            metrics["first only"](scores[:, 0], scores[:, 1])
            metrics["first only, risk"](scores[:, 0] > 0.5, scores[:, 1] > 0.5)
    return {name: metric.aggregate() for name, metric in metrics.items()}


def test_every_metric_that_gathers_is_here() -> None:
    here = tuple({type(metric) for metric in _all_of_them().values()})
    public = [getattr(all_metrics, name) for name in all_metrics.__all__]
    gathers = [one for one in public if isinstance(one, type) and issubclass(one, CumulativeIterationMetric)]
    assert len(gathers) > 20
    assert not [kind.__name__ for kind in gathers if not any(issubclass(one, kind) for one in here)]


@pytest.mark.slow
def test_two_processes_report_what_one_does(tmp_path: Path) -> None:
    run_two_processes(__file__, tmp_path)
    expected = json.loads(json.dumps(metrics_of(sum(SHARES, []))))
    for rank in (0, 1):
        found = json.loads((tmp_path / f"{rank}.json").read_text())
        assert found.keys() == expected.keys()
        for name, numbers in expected.items():
            assert found[name] == pytest.approx(numbers, abs=1e-6, nan_ok=True), name


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo")
    rank = torch.distributed.get_rank()
    reported = metrics_of(SHARES[rank])
    (Path(sys.argv[1]) / f"{rank}.json").write_text(json.dumps(reported))
    leave()
