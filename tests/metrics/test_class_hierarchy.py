# SPDX-License-Identifier: Apache-2.0
"""Levels of classes: what belongs to what, and what is refused."""

from __future__ import annotations

import pytest
import torch

from monai_adversarial.metrics import ClassHierarchy

CLASSES = ["background", "left kidney", "right kidney", "liver", "aorta"]
LEVELS = [
    {"kidney": ["left kidney", "right kidney"]},
    {"abdominal organ": ["kidney", "liver"]},
    {"organ": ["abdominal organ", "aorta"]},
]


def test_levels_by_hand() -> None:
    hierarchy = ClassHierarchy(CLASSES, LEVELS)
    assert len(hierarchy) == 4 and hierarchy.classes == 5
    assert hierarchy.names(1) == ("background", "kidney", "liver", "aorta")
    assert hierarchy.names(2) == ("background", "abdominal organ", "aorta")
    assert hierarchy.names(3) == ("background", "organ")
    assert hierarchy.groups(2).tolist() == [0, 1, 1, 1, 2]
    assert hierarchy.parents(1).tolist() == [0, 1, 1, 2]
    assert hierarchy.sizes(3).tolist() == [1, 4]
    classes = torch.tensor([-1, 0, 2, 4])
    assert hierarchy.at_level(classes, 1).tolist() == [-1, 0, 1, 3]
    assert hierarchy.at_level(classes, 0).tolist() == classes.tolist()


def test_groups_are_nested() -> None:
    hierarchy = ClassHierarchy(CLASSES, LEVELS)
    for level in range(3):
        assert torch.equal(hierarchy.parents(level)[hierarchy.groups(level)], hierarchy.groups(level + 1))


@pytest.mark.parametrize(
    ("classes", "levels", "message"),
    [
        (["a"], LEVELS, "class_names must list two or more distinct names"),
        (["a", "a"], LEVELS, "class_names must list two or more distinct names"),
        (CLASSES, [], "levels must be a list of mappings"),
        (CLASSES, {"kidney": ["left kidney", "right kidney"]}, "levels must be a list of mappings"),
        (CLASSES, [{"kidney": ["left kidney", "spleen"]}], "holds 'spleen', which is none of"),
        (CLASSES, [{"a": ["aorta", "liver"], "b": ["liver", "background"]}], "'liver' is in two groups, 'a' and 'b'"),
        (CLASSES, [{"kidney": ["left kidney"]}], "must list two or more, but not all, of"),
        (CLASSES, [{"kidney": "left kidney"}], "must list two or more"),
        (CLASSES, [{"all": CLASSES}], "must list two or more, but not all"),
        (CLASSES, [{"liver": ["left kidney", "right kidney"]}], "each level must name new groups"),
        (CLASSES, [{}], "each level must name new groups"),
    ],
)
def test_bad_hierarchies_are_refused(classes, levels, message) -> None:
    with pytest.raises(ValueError, match=message):
        ClassHierarchy(classes, levels)


def test_classes_that_it_does_not_have_are_refused() -> None:
    with pytest.raises(ValueError, match="classes must be from -1 to 4, got 0 to 5"):
        ClassHierarchy(CLASSES, LEVELS).at_level(torch.tensor([0, 5]), 1)
