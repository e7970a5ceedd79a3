# SPDX-License-Identifier: Apache-2.0
"""Fit, calibrate, accept, save and load, whatever the score is."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from monai_adversarial.attacks import PGD
from monai_adversarial.data.example import example_case
from monai_adversarial.detection import Detector, FeatureSqueezing, GaussianDensity, KernelDensity, evaluate_detector
from monai_adversarial.transforms import BitDepthReduction, MedianDenoised


class Brightness(Detector):
    needs_fit = False

    def _suspicion(self, image: torch.Tensor, like: torch.Tensor, smooth: bool) -> torch.Tensor:
        return image.flatten(1).mean(dim=1)


def plain(values: torch.Tensor) -> torch.Tensor:
    return values.float().view(-1, 1, 1)


def test_threshold_is_the_order_statistic_of_split_conformal_prediction() -> None:
    detector = Brightness(torch.nn.Identity())
    scores = detector.calibrate(plain(torch.arange(1.0, 20.0)), 0.1)  # ceil(0.9 * 20) = 18th of 19
    assert scores.tolist() == list(range(1, 20))
    assert detector.threshold == 18.0
    assert detector.accept(plain(torch.tensor([18.0, 18.5]))).tolist() == [True, False]
    assert not detector.accepts(torch.tensor([torch.nan]))


def test_share_of_rejected_clean_images_is_what_was_asked_for() -> None:
    draw = torch.Generator().manual_seed(0)
    shares = []
    for _ in range(20):
        detector = Brightness(torch.nn.Identity())
        detector.calibrate(plain(torch.randn(199, generator=draw)), 0.05)
        shares.append(1 - float(detector.accept(plain(torch.randn(500, generator=draw))).float().mean()))
    assert abs(sum(shares) / len(shares) - 0.05) < 0.01


def test_too_few_cases_for_a_rate_are_refused() -> None:
    detector = Brightness(torch.nn.Identity())
    with pytest.raises(ValueError, match="at least 19 clean cases for false_positive_rate=0.05, got 18"):
        detector.calibrate(plain(torch.arange(18.0)))
    detector.calibrate(plain(torch.arange(19.0)))
    assert detector.threshold == 18.0
    for rate in (0, 1):
        with pytest.raises(ValueError, match="false_positive_rate"):
            detector.calibrate(plain(torch.arange(19.0)), rate)


def test_order_of_calls(windowed, cases) -> None:
    detector = GaussianDensity(windowed)
    with pytest.raises(RuntimeError, match="call fit"):
        detector.score(cases[0])
    detector.fit(cases[:6])
    with pytest.raises(RuntimeError, match="call calibrate"):
        detector.accept(cases[0])
    with pytest.raises(ValueError, match="1 that fit has seen"):
        detector.calibrate(cases[5:12], 0.2)
    detector.calibrate(cases[6:12], 0.2)
    assert detector.has_seen(torch.cat([cases[0], cases[7], cases[20]])).tolist() == [True, True, False]
    detector.fit(cases[:6])
    assert detector.threshold is None


@pytest.mark.parametrize(
    ("image", "error"),
    [
        (torch.full((1, 1, 16, 16, 16), torch.nan), ValueError),
        (torch.zeros(16, 16), ValueError),
        ("scan.nii", TypeError),
    ],
)
def test_what_is_no_image_is_refused(windowed, cases, image, error) -> None:
    detector = GaussianDensity(windowed).fit(cases[:6])
    with pytest.raises(error, match="image"):
        detector.score(image)
    with pytest.raises(error):
        detector.fit(image if isinstance(image, str) else [image])


def test_a_detector_is_the_same_after_it_was_saved(windowed, cases, tmp_path: Path) -> None:
    detector = KernelDensity(windowed, bandwidth=3.0).fit(cases[:6])
    detector.calibrate(cases[6:12], 0.2)
    detector.save(tmp_path / "detector.npz")
    again = Detector.load(tmp_path / "detector.npz", windowed)
    assert isinstance(again, KernelDensity) and again.bandwidth == 3.0
    assert torch.equal(again.score(cases[12]), detector.score(cases[12]))
    assert again.threshold == detector.threshold and again.false_positive_rate == 0.2
    assert again.has_seen(cases[6]).item() and torch.equal(again.excess(cases[12]), detector.excess(cases[12]))
    with np.load(tmp_path / "detector.npz", allow_pickle=False) as held:
        assert all(held[name].dtype != object for name in held.files)
    with pytest.raises(ValueError, match="must hold a GaussianDensity, got 'KernelDensity'"):
        GaussianDensity.load(tmp_path / "detector.npz", windowed)
    with pytest.raises(ValueError, match="says bandwidth itself"):
        Detector.load(tmp_path / "detector.npz", windowed, bandwidth=1.0)


def test_purifiers_are_told_again_and_compared(windowed, cases, tmp_path: Path) -> None:
    path = tmp_path / "squeezing.npz"
    detector = FeatureSqueezing(windowed, [BitDepthReduction(4)])
    detector.calibrate(cases[:9], 0.1)
    detector.save(path)
    assert Detector.load(path, windowed, purifiers=[BitDepthReduction(4)]).threshold == detector.threshold
    with pytest.raises(ValueError, match="needs purifiers="):
        Detector.load(path, windowed)
    with pytest.raises(ValueError, match="purifiers must be .*BitDepthReduction"):
        Detector.load(path, windowed, purifiers=[BitDepthReduction(3)])
    with pytest.raises(TypeError, match="array form"):
        FeatureSqueezing(windowed, [MedianDenoised("image")])


def test_a_file_of_something_else_is_refused(windowed, tmp_path: Path) -> None:
    (tmp_path / "text.npz").write_text("no detector")
    np.savez(tmp_path / "array.npz", a=np.zeros(3))
    for name in ("text.npz", "array.npz"):
        with pytest.raises(ValueError, match="must be a file that a detector was saved to"):
            Detector.load(tmp_path / name, windowed)
    with pytest.raises(FileNotFoundError, match="missing"):
        Detector.load(tmp_path / "none.npz", windowed)


def test_the_network_is_left_as_it_was_and_the_batch_does_not_matter(windowed, cases) -> None:
    network = windowed.network.train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    detector = GaussianDensity(windowed).fit(cases[:6])
    together = detector.score(torch.cat(cases[6:9]))
    assert network.training and all(weight.requires_grad for weight in network.parameters())
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    assert torch.allclose(together, torch.cat([detector.score(case) for case in cases[6:9]]), rtol=1e-4)


def test_a_case_that_comes_twice_is_no_further_evidence() -> None:
    with pytest.raises(ValueError, match="images holds 18 cases more than once"):
        Brightness(torch.nn.Identity()).calibrate(plain(torch.ones(19)))


def test_a_detector_of_a_network_of_other_weights_is_said(windowed, cases, tmp_path: Path) -> None:
    detector = GaussianDensity(windowed).fit(cases[:8])
    detector.calibrate(cases[8:20], 0.1)
    detector.save(tmp_path / "detector.npz")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert Detector.load(tmp_path / "detector.npz", windowed).calibration_cases == 12
    with torch.no_grad():
        next(windowed.network.parameters()).add_(0.1)
    with pytest.warns(UserWarning, match="calibrated for a network of other weights"):
        Detector.load(tmp_path / "detector.npz", windowed)


def test_a_low_risk_that_is_no_merit_of_the_detector_is_said() -> None:
    model, _, _ = example_case(16)
    detector = Brightness(model)
    detector.calibrate((example_case(16, seed)[1] for seed in range(1, 20)), 0.05)
    held_out = [example_case(16, seed)[1:] for seed in range(30, 34)]
    weak, strong = PGD(1, "HU", steps=1), PGD(30, "HU", steps=3)
    options = {"weights": [1.0], "attackers": ["evading"]}

    def said(attack: PGD, cases: list) -> list[str]:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            evaluate_detector(detector, attack, cases, **options)
        found = [str(one.message) for one in caught]
        return [one for one in found if "clean images, asked" in one or "made one of" in one]

    assert said(strong, held_out) == []
    (sentence,) = said(weak, held_out)
    assert "made one of 4 images wrong" in sentence
    (sentence,) = said(strong, [(image + 20, label) for image, label in held_out])
    assert "rejects 4 of 4 clean images, asked for at most 5%" in sentence
