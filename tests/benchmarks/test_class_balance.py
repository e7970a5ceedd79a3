# SPDX-License-Identifier: Apache-2.0
"""One answer to everything looks neither right nor robust, whatever the shares of the classes are."""

from __future__ import annotations

import torch
from torch import nn

from benchmarks.class_balance import accuracy, balanced_accuracy, evened, repeated

LABELS = torch.tensor([1] * 9 + [0])
IMAGES = torch.arange(10.0)[:, None, None, None].expand(-1, 1, 2, 2)


class Always(nn.Module):
    """Class 1, whatever is shown."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return torch.tensor([0.0, 1.0]).expand(len(image), 2)


def test_one_answer_to_everything_is_right_nine_times_and_chance_when_balanced() -> None:
    assert accuracy(Always(), (IMAGES, LABELS)) == 0.9
    assert balanced_accuracy(Always(), (IMAGES, LABELS)) == 0.5


def test_rare_images_are_repeated_until_there_are_as_many_of_each_class() -> None:
    images, labels = repeated(IMAGES, LABELS)
    assert labels.bincount().tolist() == [9, 9]
    assert images[labels == 0].unique().tolist() == [9.0]
    assert images[labels == 1, 0, 0, 0].tolist() == list(range(9))


def test_attacked_images_are_as_many_of_each_class_and_none_of_them_is_clean() -> None:
    labels = torch.tensor([1, 1, 1, 1, 0, 1, 0, 0, 1, 1])
    data = {"attacked": (IMAGES[:4], labels[:4]), "clean": (IMAGES[4:], labels[4:])}
    found = evened(data, attacked=4)
    assert found["attacked"][1].tolist() == [0, 0, 1, 1]
    assert found["attacked"][0][:, 0, 0, 0].tolist() == [4.0, 6.0, 0.0, 1.0]
    assert found["clean"][0][:, 0, 0, 0].tolist() == [2.0, 3.0, 5.0, 7.0, 8.0, 9.0]
