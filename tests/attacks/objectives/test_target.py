# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from monai_adversarial.attacks.objectives import Target
from tests.helpers import as_metatensor, random_label


def test_class_map_stays_an_index_and_equals_its_one_hot_form() -> None:
    label = random_label((2, 1, 3, 4, 5), classes=4)
    expected = F.one_hot(label[:, 0], 4).movedim(-1, 1).float()
    from_map, from_one_hot = Target.from_label(label, 4), Target.from_label(expected, 4)
    assert from_map.soft is None and from_one_hot.soft is None
    assert torch.equal(from_map.index, label[:, 0]) and torch.equal(from_one_hot.index, label[:, 0])
    assert torch.equal(from_map.one_hot(), expected)


def test_sigmoid_reads_maps_and_channels() -> None:
    label = random_label((2, 1, 3, 4), classes=3)
    expected = F.one_hot(label[:, 0], 3).movedim(-1, 1).float()
    assert torch.equal(Target.from_label(label, 3, "sigmoid").one_hot(), expected)
    assert torch.equal(Target.from_label(expected, 3, "sigmoid").one_hot(), expected)
    binary = random_label((2, 1, 3, 4), classes=2)
    assert torch.equal(Target.from_label(binary, 1, "sigmoid").one_hot(), binary.float())
    assert torch.equal(Target(1, index=binary[:, 0], activation="sigmoid").one_hot(), binary.float())


def test_meta_data_of_labels_and_regions_does_not_reach_the_losses() -> None:
    label = as_metatensor(random_label((1, 1, 4, 4, 4)))
    target = Target.from_label(label, 3, weight=as_metatensor(torch.ones(1, 1, 4, 4, 4)))
    assert type(target.index) is torch.Tensor and type(target.weight) is torch.Tensor
    assert target.weight.shape == (1, 4, 4, 4)
    assert type(Target.from_label(label, 3, "sigmoid").index) is torch.Tensor


def test_moved_labels_keep_the_rest() -> None:
    weight = torch.rand(2, 3, 4)
    target = Target.from_label(
        random_label((2, 1, 3, 4)), 3, weight=weight, class_mask=torch.tensor([False, True, True])
    )
    target.constant("seen", lambda: 1)
    soft = torch.rand(2, 3, 3, 4)
    moved = target.with_soft(soft)
    assert moved.index is None and moved.soft is soft and moved.weight is weight and moved.chosen == (1, 2)
    assert moved.constant("seen", lambda: 2) == 2, "a moved target must not reuse what belongs to the unmoved one"
    moved_weight = torch.rand(2, 1, 3, 4)
    assert torch.equal(target.with_soft(soft, moved_weight).weight, moved_weight[:, 0])


def test_selection_of_samples() -> None:
    target = Target.from_label(random_label((3, 1, 4, 4)), 3, weight=torch.rand(3, 4, 4))
    target.constant("seen", lambda: 1)
    part = target.select(torch.tensor([2, 0]))
    assert torch.equal(part.index, target.index[[2, 0]]) and torch.equal(part.weight, target.weight[[2, 0]])
    assert part.constant("seen", lambda: 2) == 2


def test_constants_are_computed_once_unless_a_gradient_flows_into_the_reference() -> None:
    calls: list[int] = []
    fixed = Target(2, index=torch.zeros(1, 2, dtype=torch.int64))
    moving = Target(2, soft=torch.rand(1, 2, 2, requires_grad=True))
    for target in (fixed, fixed, moving, moving):
        target.constant("key", lambda target=target: calls.append(id(target)))
    assert calls == [id(fixed), id(moving), id(moving)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"classes": 3}, "exactly one of index and soft"),
        ({"classes": 3, "index": torch.zeros(1, 2).long(), "soft": torch.zeros(1, 3, 2)}, "exactly one"),
        ({"classes": 1, "index": torch.zeros(1, 2).long()}, "use activation='sigmoid'"),
        ({"classes": 3, "index": torch.zeros(1, 2)}, "index must hold integers"),
        ({"classes": 3, "index": torch.zeros(1, 2).long(), "activation": "relu"}, "activation must be one of"),
        ({"classes": 3, "soft": torch.zeros(1, 2, 2)}, r"soft must have shape \(batch, 3"),
        ({"classes": 3, "index": torch.zeros(1, 2).long(), "weight": torch.ones(1, 3)}, "weight must have shape"),
        ({"classes": 2, "index": torch.zeros(1, 2).long(), "class_mask": torch.zeros(2).bool()}, "at least one class"),
        ({"classes": 2, "index": torch.zeros(1, 2).long(), "class_mask": torch.ones(3).bool()}, "class_mask must be"),
        ({"classes": 2, "index": torch.zeros(1, 2).long(), "class_mask": torch.ones(2)}, "class_mask must be boolean"),
    ],
)
def test_bad_references_are_refused(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Target(**arguments)


def test_a_moved_label_of_another_shape_is_refused() -> None:
    target = Target(3, index=torch.zeros(1, 2, 2, dtype=torch.int64))
    with pytest.raises(ValueError, match="soft must have shape"):
        target.with_soft(torch.zeros(1, 2, 2, 2))
    with pytest.raises(ValueError, match="weight must have shape"):
        target.with_soft(torch.zeros(1, 3, 2, 2), torch.zeros(1, 5))
