# SPDX-License-Identifier: Apache-2.0
"""The transfer matrix and its control."""

from __future__ import annotations

import pytest
import torch

from monai_adversarial.attacks import PGD
from monai_adversarial.metrics import TransferMatrix, shuffled_change
from tests.attacks.black_boxes import NumpyNetwork, SmoothThreshold, bright_boxes


def test_the_control_has_the_same_histogram_at_other_places() -> None:
    image, _ = bright_boxes()
    generator = torch.Generator().manual_seed(0)
    adversarial = image + torch.rand(image.shape, generator=generator)
    control = shuffled_change(image, adversarial, seed=1)
    for sample in range(2):
        change, other = (adversarial - image)[sample].flatten(), (control - image)[sample].flatten()
        torch.testing.assert_close(change.sort().values, other.sort().values)
        assert float((change - other).abs().mean()) > 0.1
    assert torch.equal(control, shuffled_change(image, adversarial, seed=1))
    assert not torch.equal(control, shuffled_change(image, adversarial, seed=2))


def test_rows_are_surrogates_and_columns_targets() -> None:
    image, label = bright_boxes()
    blind = NumpyNetwork()
    matrix = TransferMatrix(
        {"same": SmoothThreshold(), "blind": lambda batch: blind(0.5 + (label > 0) * 0.1 + 0 * batch)}
    )
    adversarial = PGD(0.1, steps=10)(SmoothThreshold(), image, label).adversarial
    matrix.add("same", image, adversarial, label)
    matrix.add("none", image, image, label)
    attacked, control, clean = (matrix.dice(of) for of in ("adversarial", "shuffled", "clean"))
    assert matrix.surrogates == ("same", "none") and attacked.shape == (2, 2)
    assert float(attacked[0, 0]) < float(control[0, 0]) - 0.3  # the white box, and its control
    torch.testing.assert_close(attacked[:, 1], clean[:, 1])  # a target that looks elsewhere
    torch.testing.assert_close(attacked[1], clean[1])
    assert matrix.success_rate().tolist() == [[1.0, 0.0], [0.0, 0.0]]
    assert matrix.success_rate("shuffled")[0, 0] == 0.0
    torch.testing.assert_close(matrix.drop_beyond_control(), control - attacked)
    assert len(matrix.cases("same", "blind")) == 2
    assert str(matrix).splitlines()[2].startswith(f"| same | {float(attacked[0, 0]):.3f} ({float(control[0, 0]):.3f})")


def test_what_is_told_wrongly_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        TransferMatrix({})
    with pytest.raises(ValueError, match="empty"):
        TransferMatrix({"a": SmoothThreshold()}).dice()
    with pytest.raises(ValueError, match="shape"):
        shuffled_change(torch.zeros(1, 1, 2, 2), torch.zeros(1, 1, 2, 3))
