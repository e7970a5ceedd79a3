# SPDX-License-Identifier: Apache-2.0
"""docs/extending.md runs as it stands, and what it shows is short."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from monai_adversarial.attacks import Attack
from monai_adversarial.inferers import PurifiedInferer
from monai_adversarial.models import AttackedModel
from monai_adversarial.utils.scene import Scene
from tests.helpers import LinearNetwork

PAGE = (Path(__file__).parents[1] / "docs" / "extending.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture(scope="module")
def page() -> dict[str, Any]:
    """The names that the page has made when it ends."""
    generator = torch.Generator().manual_seed(0)
    label = torch.zeros((2, 1, 12, 12, 12), dtype=torch.long)
    label[..., 3:9, 3:9, 3:9] = 1
    image = torch.where(label > 0, 0.53, 0.47) + 0.01 * torch.randn(label.shape, generator=generator)
    # Foreground where the image is bright: within 0.05 even random noise does some damage.
    network = LinearNetwork((-12.0, 12.0), (6.0, -6.0))
    names: dict[str, Any] = {"network": network, "image": image, "label": label}
    torch.manual_seed(0)
    for block in BLOCKS:
        exec(compile(block, "docs/extending.md", "exec"), names)  # the page is ours
    return names


def lines_of(*classes: str) -> int:
    """Lines of code of some classes of the page."""
    count = 0
    for block in BLOCKS:
        for node in ast.parse(block).body:
            if isinstance(node, ast.ClassDef) and node.name in classes:
                text = ast.unparse(node).splitlines()
                count += sum(1 for line in text if line.strip() and not line.strip().startswith('"""'))
    return count


@pytest.mark.parametrize(
    ("classes", "most"),
    [
        (("Overlap",), 5),
        (("GentlePGD",), 6),
        (("Sharpen",), 10),
        (("Brightness", "BoundBrightness"), 30),
        (("RandomSearch", "RandomSearchRun"), 20),
    ],
)
def test_parts_are_short(classes: tuple[str, ...], most: int) -> None:
    assert 0 < lines_of(*classes) <= most


def test_the_perturbation_of_the_page_does_not_leave_what_a_scanner_holds(page: dict[str, Any]) -> None:
    image = 1000 * page["image"]
    image[:, :, 0] = -1024.0
    scene = Scene(image, (0, 1), image_units="HU")
    bound = page["Brightness"](60.0).bind(scene)
    darker = (torch.full((2, 1), -60.0),)
    finished = bound.finished(image, darker)
    assert torch.equal(finished[:, :, 0], image[:, :, 0])
    assert torch.allclose(finished[:, :, 1:], image[:, :, 1:] - 60)
    bound.verify(image, finished, darker)


@pytest.mark.parametrize("name", ["Overlap", "GentlePGD", "black_box", "brighter", "estimated"])
def test_attacks_of_the_page_do_damage(page: dict[str, Any], name: str) -> None:
    made = {"Overlap": lambda: page["PGD"](0.05, steps=3, objective=page["Overlap"]())}
    attack = made.get(name, lambda: page["GentlePGD"](0.05) if name == "GentlePGD" else page[name])()
    assert isinstance(attack, Attack)
    result = attack(page["model"], page["image"], page["label"])
    assert bool((result.adversarial_dice < result.clean_dice).all())
    assert all(not measured.exceeded() for measured in result.budgets.values())


def test_a_perturbation_of_the_page_keeps_its_budget(page: dict[str, Any]) -> None:
    result = page["brighter"](page["model"], page["image"], page["label"])
    assert 0.0 < result.budgets["brightness"].values.max() <= 0.1 + 1e-6
    control, _ = result.random_control()
    assert 0.0 < float((control - page["image"]).abs().max()) <= 0.1 + 1e-6


def test_a_purifier_of_the_page_is_attacked_through(page: dict[str, Any]) -> None:
    defended = AttackedModel(page["network"], PurifiedInferer(None, page["Sharpen"]()))
    result = page["PGD"](0.05, steps=3)(defended, page["image"], page["label"])
    assert bool((result.adversarial_dice < result.clean_dice).all())
    assert page["Sharpen"]()(page["image"][0]).shape == page["image"][0].shape
