# SPDX-License-Identifier: Apache-2.0
"""Pictures of the documentation show what there is, and their texts do not overprint each other."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure

from benchmarks import concept_picture
from monai_adversarial.studies.reports import overview, panel
from monai_adversarial.studies.reports.overview import save_overview


def test_the_picture_of_concepts_has_every_class() -> None:
    drawn = json.loads(concept_picture.STRUCTURE.read_text(encoding="utf-8"))
    assert drawn == concept_picture.structure(), "run: python -m benchmarks.concept_picture"
    assert {"PGD", "BiasFieldAttack"} <= set(drawn["recipes"]) and "AdditiveNoise" in drawn["Perturbation"]


def test_the_picture_of_concepts_can_be_read_on_a_phone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figures: list[Figure] = []
    save = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda figure, *a, **k: (figures.append(figure), save(figure, *a, **k)))
    monkeypatch.setattr(concept_picture, "PICTURE", tmp_path / "concepts.png")
    concept_picture.draw(json.loads(concept_picture.STRUCTURE.read_text(encoding="utf-8")))
    (figure,) = figures
    texts = figure.axes[0].texts
    shown = 360 / figure.bbox.width * figure.dpi / 72  # pixels of a point where the picture is 360 wide
    assert min(text.get_fontsize() for text in texts if text.get_text()) * shown >= 8
    boxes = [text.get_window_extent() for text in texts if text.get_text()]
    assert all(box.x0 > 0 and box.x1 < figure.bbox.x1 and box.y0 > 0 and box.y1 < figure.bbox.y1 for box in boxes)
    assert not any(box.overlaps(other) for place, box in enumerate(boxes) for other in boxes[place + 1 :])


def _entry(dice: float) -> dict[str, Any]:
    return {"mean": dice, "low": dice - 0.05, "high": dice + 0.05}


@pytest.mark.parametrize("attacks", [1, 2, 5])
def test_title_and_note_of_the_overview_stand_apart(
    attacks: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures: list[Figure] = []
    save = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda figure, *a, **k: (figures.append(figure), save(figure, *a, **k)))
    dice = {"clean": 0.9, "random": 0.88, "adversarial": 0.3}
    record = {"mean": {name: {"dice": value} for name, value in dice.items()}}
    found = {"geometric": False, **{f"{name}_dice": _entry(value) for name, value in dice.items()}}
    names = [f"attack_{place}" for place in range(attacks)]
    groups = {"label": {name: [record] * 3 for name in names}}
    save_overview(groups, {"attacks": {name: found for name in names}}, tmp_path / "overview.png")
    (figure,) = figures
    title, note = figure.texts
    assert title.get_text() == overview.TITLE and "3 cases" in note.get_text()
    boxes = [text.get_window_extent() for text in (title, note)]
    assert not boxes[0].overlaps(boxes[1])
    assert all(0 <= box.x0 and box.x1 <= figure.bbox.x1 and box.y1 <= figure.bbox.y1 for box in boxes)
    assert not any(box.overlaps(figure.axes[0].get_window_extent()) for box in boxes)


@pytest.mark.parametrize(("norm", "words"), [("linf", "L-infinity"), ("euclidean", "length"), (None, "at most 8)")])
def test_the_budget_line_names_the_norm(norm: str | None, words: str) -> None:
    measured = {"value": 7.9, "units": "HU", "limit": 8, "bound": "upper", "norm": norm}
    said = panel._budget({"measurements": {"noise_linf": measured}})
    assert words in said and said.startswith("noise linf 7.9 HU (at most 8")
