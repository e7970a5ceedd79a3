# SPDX-License-Identifier: Apache-2.0
"""Maps of clean images are rebuilt, others are not."""

from __future__ import annotations

import pytest
import torch

from monai_adversarial.data.example import example_case
from monai_adversarial.detection import AttributionReconstruction, Detector
from tests.detection.conftest import scores_of_attacks

pytest.importorskip("sklearn")


def test_what_lies_along_the_components_is_rebuilt() -> None:
    detector = AttributionReconstruction(torch.nn.Identity(), components=2)
    draw = torch.Generator().manual_seed(0)
    plane = torch.linalg.qr(torch.randn(6, 2, dtype=torch.float64, generator=draw))[0]
    clean = torch.randn(30, 2, dtype=torch.float64, generator=draw) @ plane.T
    state = detector._estimate(clean - clean.mean(dim=0), [])
    across = torch.linalg.svd(plane)[0][:, 2:3].T
    assert float(detector._distance(clean[:3], state).max()) < 1e-20
    assert detector._distance(clean[:1] + 3 * across, state).item() == pytest.approx(9 / 6)


def test_the_attacker_lowers_the_score(tmp_path) -> None:
    model, image, label = example_case(16)
    detector = AttributionReconstruction(model, grid=2, steps=2).fit(example_case(16, seed)[1] for seed in range(1, 9))
    detector.calibrate((example_case(16, seed)[1] for seed in range(9, 13)), 0.2)
    unaware, adaptive = scores_of_attacks(detector, model, image, label, weight=10.0)
    assert adaptive < unaware
    detector.save(tmp_path / "maps.npz")
    assert torch.equal(Detector.load(tmp_path / "maps.npz", model).score(image), detector.score(image))
