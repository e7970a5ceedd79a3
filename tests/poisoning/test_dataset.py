# SPDX-License-Identifier: Apache-2.0
"""Poisoned datasets: exact rates, manifests, and cases that do not depend on order, workers or caching."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.data import CacheDataset, DataLoader

from monai_adversarial.attacks.targets import eroded_organ, other_organ, shifted_organ, swapped_left_right
from monai_adversarial.data.example import example_case
from monai_adversarial.poisoning import (
    Backdoor,
    BoundaryJitter,
    ClassFlip,
    DeletedDataset,
    LabelEdit,
    PatchTrigger,
    PoisonedDataset,
    holds_organ,
)


def cases(count: int = 10) -> list[dict[str, Any]]:
    made = []
    for seed in range(count):
        _, image, label = example_case(16, seed=seed)
        made.append({"image": image[0], "label": label[0], "number": seed})
    return made


@pytest.mark.parametrize(("rate", "count"), [(0.0, 0), (0.1, 1), (0.25, 2), (1.0, 10)])
def test_rate_is_exact_and_the_rest_is_untouched(rate: float, count: int) -> None:
    clean = cases()
    poisoned = PoisonedDataset(clean, LabelEdit(eroded_organ, organ=2, distance=6.5), rate, seed=3, mark="poisoned")
    assert len(poisoned.indices) == count and len(poisoned) == 10
    for index in range(10):
        same = torch.equal(poisoned[index]["label"], clean[index]["label"])
        assert same != (index in poisoned.indices)
        assert poisoned[index]["poisoned"] == (index in poisoned.indices)
        assert torch.equal(poisoned[index]["image"], clean[index]["image"])


def test_added_cases_come_after_the_clean_ones() -> None:
    clean = cases()
    added = PoisonedDataset(clean, ClassFlip(12, label_key="number"), 0.3, seed=1, mode="add")
    assert len(added) == 13
    assert [added[index]["number"] for index in range(10)] == list(range(10))
    for place, source in enumerate(added.indices):
        assert added[10 + place]["number"] != source
    with pytest.raises(IndexError, match="13 cases"):
        added[13]


def test_a_case_is_the_same_in_any_order_in_workers_and_behind_a_cache() -> None:
    poison = BoundaryJitter(2, most=7.0, least=6.1)
    plain = PoisonedDataset(cases(6), poison, 1.0, seed=5)
    cached = PoisonedDataset(CacheDataset(cases(6), progress=False), poison, 1.0, seed=5)
    forwards = [plain[index]["label"] for index in range(6)]
    backwards = [plain[index]["label"] for index in reversed(range(6))][::-1]
    loaded = [batch["label"][0] for batch in DataLoader(plain, batch_size=1, num_workers=2)]
    for one, two, three, four in zip(forwards, backwards, loaded, (cached[i]["label"] for i in range(6)), strict=True):
        assert torch.equal(one, two) and torch.equal(one, three) and torch.equal(one, four)
    sizes = [
        int((label == 2).sum()) - int((case["label"] == 2).sum())
        for label, case in zip(forwards, cases(6), strict=True)
    ]
    assert min(sizes) < 0 < max(sizes)  # some shrink, some grow


def test_manifest_says_what_was_done_and_knows_another_dataset(tmp_path: Path) -> None:
    poisoned = PoisonedDataset(cases(), LabelEdit(other_organ, organ=2, becomes=3), 0.2, seed=7)
    file = poisoned.save_manifest(tmp_path / "manifest.json")
    written = json.loads(file.read_text())
    assert written["indices"] == poisoned.indices and written["rate"] == 0.2
    assert written["poison"] == "LabelEdit(other_organ, organ=2, becomes=3)"
    poisoned.check_manifest(file)
    with pytest.raises(ValueError, match="seed must be 7"):
        PoisonedDataset(cases(), LabelEdit(other_organ, organ=2, becomes=3), 0.2, seed=8).check_manifest(file)


@pytest.mark.parametrize(
    ("edit", "options"),
    [
        (shifted_organ, {"organ": 1, "shift": (6.0, 0.0, 0.0)}),
        (swapped_left_right, {"left": 1, "right": 2}),
        (other_organ, {"organ": 3, "becomes": 2}),
    ],
)
def test_target_makers_edit_labels(edit: Any, options: dict[str, Any]) -> None:
    case = cases(1)[0]
    made = LabelEdit(edit, **options)(case, torch.Generator())
    assert torch.equal(made["label"], edit(case["label"][None], **options)[0])
    assert not torch.equal(made["label"], case["label"])


def test_a_case_that_cannot_be_poisoned_is_named_and_can_be_left_out() -> None:
    without = cases(4)
    without[2]["label"] = torch.zeros_like(without[2]["label"])
    edit = LabelEdit(eroded_organ, organ=2, distance=6.5)
    everyone = PoisonedDataset(without, edit, 1.0)
    with pytest.raises(ValueError, match="case 2 cannot be poisoned: organ 2 is not in the segmentation"):
        everyone[2]
    chosen = PoisonedDataset(without, edit, 0.75, eligible=holds_organ(2))
    assert chosen.indices == [0, 1, 3]
    with pytest.raises(ValueError, match="asks for 4 cases, but 3 are eligible"):
        PoisonedDataset(without, edit, 1.0, eligible=holds_organ(2))


def test_deleted_cases_are_gone_by_chance_or_by_score(tmp_path: Path) -> None:
    left = DeletedDataset(cases(), 0.3, seed=2)
    assert len(left) == 7
    assert {left[index]["number"] for index in range(7)} == set(range(10)) - set(left.indices)
    site = [1.0 if number in (4, 7) else 0.0 for number in range(10)]
    assert DeletedDataset(cases(), 0.2, scores=site).indices == [4, 7]
    left.check_manifest(left.save_manifest(tmp_path / "deleted.json"))
    with pytest.raises(ValueError, match="leave at least one"):
        DeletedDataset(cases(), 1.0)


def test_wrong_arguments_are_one_sentence() -> None:
    with pytest.raises(ValueError, match="rate must be a number from 0 to 1"):
        PoisonedDataset(cases(2), ClassFlip(2), 1.5)
    with pytest.raises(TypeError, match="poison"):
        PoisonedDataset(cases(2), lambda case: case, 0.5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="at least one case"):
        PoisonedDataset([], ClassFlip(2), 0.5)
    with pytest.raises(KeyError, match="no key 'picture'"):
        Backdoor(PatchTrigger(1.0), image_key="picture")(cases(1)[0], torch.Generator())
    with pytest.raises(ValueError, match="changes nothing"):
        ClassFlip(2, to=1)({"label": 1}, torch.Generator())
