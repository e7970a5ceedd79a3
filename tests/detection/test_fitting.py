# SPDX-License-Identifier: Apache-2.0
"""One loader gives the cases of fit and calibration, none twice."""

from __future__ import annotations

import pytest
import torch

from monai_adversarial.detection import Detector, fit_and_calibrate, least_calibration_cases


class Brightness(Detector):
    def _learn(self, batches):
        self.state = {"mean": torch.stack([batch.mean() for batch in batches]).mean()}

    def _suspicion(self, image, like, smooth):
        return (image.flatten(1).mean(dim=1) - self.state["mean"]).abs()


def cases(number: int) -> list[dict[str, torch.Tensor]]:
    return [{"image": torch.full((1, 1, 2, 2), float(value))} for value in range(number)]


def test_first_cases_are_fitted_to_and_the_next_ones_calibrate() -> None:
    detector = fit_and_calibrate(Brightness(torch.nn.Identity()), cases(20), 5, 9, 0.1)
    assert float(detector.state["mean"]) == 2.0 and detector.threshold == 11.0  # 13 - 2
    with pytest.raises(ValueError, match="5 clean cases to fit to and 9 others to calibrate on, got 13"):
        fit_and_calibrate(Brightness(torch.nn.Identity()), cases(13), 5, 9, 0.1)
    with pytest.raises(ValueError, match="calibration_cases must be at least 19 for false_positive_rate=0.05, got 9"):
        fit_and_calibrate(Brightness(torch.nn.Identity()), cases(20), 5, 9)
    with pytest.raises(ValueError, match="must hold the key 'scan', got image"):
        fit_and_calibrate(Brightness(torch.nn.Identity()), cases(20), 5, 9, 0.1, image_key="scan")
    assert [least_calibration_cases(rate) for rate in (0.05, 0.1, 0.2)] == [19, 9, 4]
