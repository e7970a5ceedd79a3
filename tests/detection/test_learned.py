# SPDX-License-Identifier: Apache-2.0
"""A detector that was shown attacks."""

from __future__ import annotations

import pytest
import torch

from monai_adversarial.data.example import example_case
from monai_adversarial.detection import Detector, FeatureClassifier
from tests.detection.conftest import scores_of_attacks, slope_along

pytest.importorskip("sklearn")


def noisy(images, seed: int) -> list[torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return [(one + 60 * torch.randn(one.shape, generator=draw).sign()).as_tensor() for one in images]


def test_score_is_the_log_odds_of_scikit_learn(windowed, cases, tmp_path) -> None:
    from sklearn.linear_model import LogisticRegression

    detector = FeatureClassifier(windowed).fit(cases[:6], attacked=noisy(cases[6:12], 0))
    both = torch.cat([*cases[:6], *noisy(cases[6:12], 0)]).as_tensor()
    found = detector._standardized(detector.features(both, both).detach(), detector.state).numpy()
    fitted = LogisticRegression(C=0.1, class_weight="balanced", max_iter=2000).fit(found, [0] * 6 + [1] * 6)
    assert torch.allclose(detector.score(both), torch.from_numpy(fitted.decision_function(found)), atol=1e-3)
    fresh = torch.cat([*cases[12:16], *noisy(cases[12:16], 1)]).as_tensor()
    scores = detector.score(fresh)
    assert float(scores[4:].min()) > float(scores[:4].max())
    with pytest.raises(ValueError, match="that fit has seen"):
        detector.calibrate(noisy(cases[6:12], 0), 0.2)
    detector.calibrate(cases[16:20], 0.2)
    detector.save(tmp_path / "learned.npz")
    assert torch.equal(Detector.load(tmp_path / "learned.npz", windowed).score(fresh), scores)
    excess, difference = slope_along(lambda x: detector.excess(x.float()).double(), cases[20].as_tensor().double(), 1.0)
    assert excess * difference > 0


def test_the_attacker_lowers_the_score(windowed, cases) -> None:
    detector = FeatureClassifier(windowed).fit(cases[:5], attacked=noisy(cases[5:10], 0))
    detector.calibrate(cases[10:14], 0.2)
    label = example_case(16, 20)[2].clamp_max(2)
    unaware, adaptive = scores_of_attacks(detector, windowed, cases[20], label, weight=10.0, steps=3)
    assert adaptive < unaware


def test_attacked_images_are_asked_for(windowed, cases) -> None:
    with pytest.raises(ValueError, match="attacked must hold adversarial images"):
        FeatureClassifier(windowed).fit(cases[:6])
    with pytest.raises(ValueError, match="at least 4 clean cases"):
        FeatureClassifier(windowed).fit(cases[:3], attacked=cases[3:6])
