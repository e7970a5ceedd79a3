# SPDX-License-Identifier: Apache-2.0
"""Hierarchies, focus and early stopping of certified segmentation: the same statements for less, or more of them."""

from __future__ import annotations

import pytest
import torch
from monai.data import MetaTensor
from monai.inferers import SlidingWindowInferer

from monai_adversarial.inferers import CertifiedSegmentation, CertifiedSegmentationInferer
from monai_adversarial.inferers import certified_segmentation as module
from monai_adversarial.inferers.certified_counts import VoteCount
from monai_adversarial.metrics import ClassHierarchy
from tests.helpers import LinearNetwork, random_image

HIERARCHY = ClassHierarchy(["background", "left", "right"], [{"kidney": ["left", "right"]}])
#: below -0.2 background, above 0.2 right, left between them
THREE = LinearNetwork((-4.0, 0.0, 4.0), (-0.8, 0.0, -0.8))


def certify(image: torch.Tensor, network=THREE, **arguments) -> CertifiedSegmentation:
    given = {"sigma": 0.1, "n0": 5, "n": 100, "tau": 0.7, "copies_at_once": 25} | arguments
    return CertifiedSegmentationInferer(**given).certify(image, network)


def tissue(shape=(2, 1, 12, 12)) -> torch.Tensor:
    return random_image(shape) - 0.5


@pytest.mark.parametrize("focus", [None, "organs"])
@pytest.mark.parametrize("correction", ["holm", "bonferroni"])
@pytest.mark.parametrize("hierarchy", [None, HIERARCHY])
def test_stopping_changes_no_statement(monkeypatch, focus, correction, hierarchy):
    arguments = {"looks": (50, 70, 100), "correction": correction, "hierarchy": hierarchy, "focus": focus}
    arguments |= {"focus_share": 0.8} if focus else {}
    early = certify(tissue(), **arguments)

    class Patient(VoteCount):
        def __init__(self, *everything):
            super().__init__(*everything[:-1], False)

    monkeypatch.setattr(module, "VoteCount", Patient)
    late = certify(tissue(), **arguments)
    assert late.cost.copies == (105, 105)
    assert torch.equal(early.prediction, late.prediction)
    for level in range(len(early.certified)):
        assert torch.equal(early.at_level(level), late.at_level(level))
    assert bool((early.p_values >= late.p_values).all())
    assert not torch.equal(early.votes, late.votes)  # some voxels were decided earlier


def test_samples_and_windows_that_are_decided_are_not_predicted():
    image = torch.full((2, 1, 24), 3.0)  # certain everywhere
    image[1, 0, 20] = 0.25  # ... but for one voxel near a border between classes
    ran = []

    def network(windows):
        ran.append(len(windows))
        return THREE(windows)

    inferer = SlidingWindowInferer((8,), 4, 0.0)
    found = certify(image, network, inferer=inferer, looks=(40, 100))
    assert found.cost.copies == (45, 105)
    assert found.cost.windows == sum(ran) == 3 * 5 * 2 + 3 * 40 * 2 + 60
    assert found.cost.windows_skipped == 60 * 2 and found.cost.seconds > 0
    plain = certify(image, THREE, inferer=inferer)
    assert plain.cost.copies == (105, 105) and plain.cost.windows is None and plain.looks == ()
    decided = ~(plain.abstained | found.abstained)
    assert int(decided.sum()) >= 46 and torch.equal(plain.prediction[decided], found.prediction[decided])


def test_untested_windows_are_not_predicted():
    image = torch.full((1, 1, 16), 3.0)
    image[..., :8] = -1.0
    found = certify(image, inferer=SlidingWindowInferer((8,), 1, 0.0), looks=1, exclude_below=0.0)
    # The five that pick the class agree everywhere, so that two more are compared, and told.
    assert found.cost.windows == 2 * (5 + 2) + 100 and found.cost.windows_skipped == 100
    assert found.cost.copies == (5 + 2 + 100,)
    assert bool((found.prediction[..., 8:] == 2).all()) and bool(found.abstained[..., :8].all())


def test_result_does_not_depend_on_batch_or_copies_at_once():
    image = tissue((3, 1, 10, 10))
    arguments = {"looks": (50, 75, 100), "hierarchy": HIERARCHY, "focus": "organs", "focus_margin": 1}
    whole = certify(image, **arguments)
    other = certify(image, **arguments, copies_at_once=7)
    part = certify(image[[2, 0]], **arguments)
    assert torch.equal(whole.votes, other.votes) and torch.equal(whole.level, other.level)
    assert torch.equal(part.votes, whole.votes[[2, 0]]) and torch.equal(part.level, whole.level[[2, 0]])
    assert part.cost.copies == tuple(whole.cost.copies[i] for i in (2, 0))


def test_a_hierarchy_adds_statements_and_takes_none_away():
    image = MetaTensor(tissue(), affine=torch.diag(torch.tensor([2.0, 2.0, 1.0])))
    plain, found = certify(image), certify(image, hierarchy=HIERARCHY)
    same = (plain.selected == found.selected) & ~plain.abstained
    assert torch.equal(found.prediction.as_tensor()[same], plain.prediction.as_tensor()[same])
    classes, kidneys = found.at_level(0), found.at_level(1)
    assert torch.equal(classes.as_tensor(), found.prediction.as_tensor()) and isinstance(kidneys, MetaTensor)
    # a certified class is a certified group as well, and some voxels have the group alone
    certain = classes.as_tensor() >= 0
    groups = HIERARCHY.at_level(classes.as_tensor(), 1)
    assert torch.equal(kidneys.as_tensor()[certain], groups[certain])
    only_group = found.level.as_tensor() == 1
    assert int(only_group.sum()) > 10
    near = (image.as_tensor() - 0.2).abs()[only_group & (kidneys.as_tensor() == 1)]
    assert float(near.mean()) < 0.1  # between left and right
    with pytest.raises(ValueError, match="level must be one of the 2 levels of the hierarchy, got 2"):
        found.at_level(2)
    with pytest.raises(ValueError, match="one of the 0 levels"):
        plain.at_level(0)
    assert bool((plain.level == -1).all())


def test_a_rule_for_air_holds_at_every_level():
    image = torch.tensor([-2.0, -0.01, 0.01, 0.5]).view(1, 1, 4)
    found = certify(image, exclude_below=0.0, outside_class=1, hierarchy=HIERARCHY, tau=0.6)
    # surely the rule; the rule or the class "left"; the class "left"; surely "right"
    assert found.prediction.flatten().tolist() == [1, 1, 1, 2]
    found = certify(image - 0.01, exclude_below=-0.01, outside_class=2, hierarchy=HIERARCHY, tau=0.6)
    assert found.prediction.flatten().tolist() == [2, -1, -1, 2]
    assert found.at_level(1).flatten().tolist() == [1, 1, 1, 1]  # "left" or "right" either way


def test_a_focus_tests_fewer_voxels_chosen_by_the_first_votes_alone():
    image = tissue()
    image[..., :6] = -1.0
    with pytest.raises(ValueError, match=r"n=21 is too small to certify any of 144 voxels"):
        certify(image, n=21, alpha=0.05)
    few = certify(image, n=21, alpha=0.05, focus=lambda votes: votes[:, 2:] > 3)
    many = certify(image, n=100, alpha=0.05, focus=lambda votes: votes[:, 2:] > 3)
    assert torch.equal(few.tested, many.tested) and 0 < int(few.tested[0].sum()) < 72
    organs = certify(image, focus="organs")
    assert not bool(organs.tested[..., :6].any()) and bool(organs.abstained[..., :6].all())
    both = certify(image, focus="organs", focus_share=0.9)
    assert bool(both.tested.all()) and not bool(both.abstained[..., :5].any())
    wider = certify(image, focus="organs", focus_margin=2)
    assert bool(wider.tested[..., 5].any())


def test_families_whose_tests_have_different_p_values_keep_them_apart():
    image = torch.full((1, 1, 20, 20), -1.0)
    image[..., :3, :3] = 1.0  # nine voxels of an organ, for which an earlier look can pass
    found = certify(image, focus="organs", focus_share=0.9, looks=(20, 40, 100))
    organ = image > 0
    assert torch.equal(found.prediction == 2, organ) and torch.equal(found.prediction == 0, ~organ)
    # of unanimous votes the first look that has a share of its family's level decides
    few, many = found.p_values[organ].unique(), found.p_values[~organ].unique()
    assert few.tolist() == pytest.approx([2 * 0.7**40]) and many.tolist() == pytest.approx([0.7**100], rel=1e-6, abs=0)


def test_a_focus_and_looks_of_sigmoid_channels():
    image = tissue((1, 1, 10, 10))
    network = LinearNetwork((4.0, -4.0), (0.0, 0.8))
    found = certify(image, network, activation="sigmoid", looks=(60, 80, 100), focus="organs")
    plain = certify(image, network, activation="sigmoid")
    assert found.prediction.shape == (1, 2, 10, 10)
    assert torch.equal(found.tested[:, :1], found.tested[:, 1:])
    both = ~(found.abstained | plain.abstained)
    assert int(both.sum()) > 50 and torch.equal(found.prediction[both], plain.prediction[both])


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"focus": "liver"}, ValueError, "focus must be 'organs'"),
        ({"focus_margin": 1}, ValueError, "focus_margin and focus_share need a focus"),
        ({"focus": "organs", "focus_share": 0.0}, ValueError, "focus_share must be a number with 0 < focus_share < 1"),
        ({"looks": [10, 20]}, ValueError, "looks must increase and end at n=100"),
        ({"hierarchy": {"kidney": []}}, TypeError, "hierarchy must be a ClassHierarchy"),
        ({"hierarchy": HIERARCHY, "activation": "sigmoid"}, ValueError, "activation must be 'softmax'"),
    ],
)
def test_bad_arguments_stop_early(arguments, error, message):
    with pytest.raises(error, match=message):
        CertifiedSegmentationInferer(**arguments)


def test_a_hierarchy_of_other_classes_is_refused():
    with pytest.raises(ValueError, match="hierarchy has 3 classes, but the network has 2"):
        certify(tissue(), LinearNetwork(), hierarchy=HIERARCHY)
