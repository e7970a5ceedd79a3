# SPDX-License-Identifier: Apache-2.0
"""What a study costs, counted without a clock: forward passes of the network, and pictures drawn."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

import monai_adversarial.studies.attack_unit as unit_module
import monai_adversarial.studies.reports.report as report_module
from monai_adversarial.attacks import FGSM, PGD, Attack, BiasFieldAttack, ElasticAttack
from monai_adversarial.attacks.scored_run import ScoredRun
from monai_adversarial.data.saving import read_back
from monai_adversarial.metrics import score_segmentation
from monai_adversarial.models import AttackedModel
from tests.helpers import tiny_segmentation_network
from tests.studies.test_attack_study import NAMES, SPACING, Threshold, make_study, record_of, write_case
from tests.studies.test_purification_study import study as purification_study


class Counting(torch.nn.Module):
    """Counts the forward passes of a network, one per sample."""

    def __init__(self, network: torch.nn.Module, dropout: float = 0.0) -> None:
        super().__init__()
        self.network, self.dropout, self.forwards = network, dropout, 0

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        self.forwards += image.shape[0]
        return torch.nn.functional.dropout(self.network(image), self.dropout, training=self.dropout > 0)


def one_budget() -> dict[str, Attack]:
    """Two attacks whose random controls are one image, and two with controls of their own."""
    return {
        "pgd": PGD(epsilon=20, units="HU", steps=2),
        "fgsm": FGSM(epsilon=20, units="HU"),
        "bias": BiasFieldAttack(max_gain=0.2, window=(-160.0, 240.0), steps=1),
        "elastic": ElasticAttack(3.0, steps=1),
    }


def run(folder: Path, chosen: dict[str, Attack], dropout: float = 0.0, **options: Any) -> tuple[int, int]:
    """Forward passes of a study, and how many of them were the attacks' own."""
    network = Counting(Threshold(), dropout)
    options.setdefault("panels", False)
    made = make_study(
        folder / "data", folder / "out", chosen, model=AttackedModel(network, image_units="HU"), **options
    )
    made.run()
    own = sum(record_of(folder / "out", name, "a")["cost"]["forwards"] for name in chosen)
    return network.forwards, own


def test_a_unit_adds_one_forward_pass_for_each_random_control(tmp_path: Path) -> None:
    """The clean image and the saved one were scored by the attack; attacks of one budget share their control."""
    write_case(tmp_path / "data", "a", 0)
    forwards, own = run(tmp_path, one_budget(), controls=2)
    assert forwards - own == 3 * 2
    forwards, _ = run(tmp_path, one_budget(), controls=2)
    assert forwards == 0  # all is done


def test_a_file_that_does_not_hold_the_attacked_image_is_predicted_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scores are those of the file, whatever the attack has scored."""
    write_case(tmp_path / "data", "a", 0)
    clean = read_back(tmp_path / "data" / "images" / "a.nii.gz")

    def read(path: Path) -> Any:
        return (read_back(path) + clean) / 2 if "adversarial" in str(path) else read_back(path)

    monkeypatch.setattr(unit_module, "read_back", read)
    forwards, own = run(tmp_path, {"pgd": PGD(epsilon=20, units="HU", steps=2)})
    assert forwards - own == 2
    image = read(tmp_path / "out" / "pgd" / "a_adversarial.nii.gz")[None].as_tensor()
    label = read_back(tmp_path / "data" / "labels" / "a.nii.gz")[0]
    expected = score_segmentation(Threshold()(image).argmax(1)[0], label, SPACING, NAMES)
    assert record_of(tmp_path / "out", "pgd", "a")["scores"]["adversarial"] == expected


def test_a_random_network_is_asked_again(tmp_path: Path) -> None:
    """The draw that an attack has chosen is not the one to score, and no cell depends on those before it."""
    write_case(tmp_path / "data", "a", 0)
    chosen = {name: one_budget()[name] for name in ("pgd", "fgsm")}
    with pytest.warns(UserWarning, match="draws random numbers"):
        forwards, own = run(tmp_path, chosen, dropout=0.1)
    assert forwards - own == 2 * 2


def test_results_do_not_depend_on_the_order_of_the_attacks(tmp_path: Path) -> None:
    write_case(tmp_path / "data", "a", 0)
    found = {}
    for name, chosen in (("there", one_budget()), ("back", dict(reversed(one_budget().items())))):
        out = tmp_path / name
        make_study(tmp_path / "data", out, chosen, panels=False).run()
        found[name] = {attack: record_of(out, attack, "a") for attack in chosen}
    for attack, record in found["there"].items():
        other = found["back"][attack]
        for key in ("scores", "mean", "measurements", "visibility", "random_visibility", "fingerprint"):
            assert record[key] == other[key]


def test_pictures_are_drawn_once_and_the_overview_at_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for seed, name in enumerate("ab"):
        write_case(tmp_path / "data", name, seed)
    drawn: Counter[str] = Counter()
    chosen = {name: one_budget()[name] for name in ("pgd", "fgsm")}

    def count(module: Any, function: str) -> None:
        original = getattr(module, function)
        monkeypatch.setattr(module, function, lambda *given: (drawn.update([function]), original(*given))[1])

    count(unit_module, "save_panel")
    count(report_module, "save_overview")
    with monkeypatch.context() as patch:
        search, ran = ScoredRun._search, []

        def interrupted(self: Any) -> None:
            ran.append(self)
            if len(ran) == 4:
                raise KeyboardInterrupt
            search(self)

        patch.setattr(ScoredRun, "_search", interrupted)
        with pytest.raises(KeyboardInterrupt):
            make_study(tmp_path / "data", tmp_path / "out", chosen).run()
    assert drawn == {"save_panel": 3, "save_overview": 1}
    make_study(tmp_path / "data", tmp_path / "out", chosen).run()
    assert drawn == {"save_panel": 4, "save_overview": 2}


def test_a_purification_study_predicts_only_what_no_attack_has_scored(tmp_path: Path) -> None:
    network = Counting(tiny_segmentation_network())
    made = purification_study(tmp_path, cases=1, model=AttackedModel(network, precision="float32"))
    found: list[int] = []
    call = Attack.__call__

    def counting(self: Attack, *args: Any, **options: Any) -> Any:
        result = call(self, *args, **options)
        found.append(result.forwards)
        return result

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PGD, "__call__", counting)
        made.run(selected="rounded")
        # without a defense, the same gone on, and with the defense; then the first one's image behind the defense
        assert len(found) == 3 and network.forwards == sum(found) + 1
        network.forwards, found[:] = 0, []
        made.run(selected="gain")
    # a random defense: clean, unaware and adaptive image under two draws each
    assert len(found) == 3 and network.forwards == sum(found) + 3 * 2
