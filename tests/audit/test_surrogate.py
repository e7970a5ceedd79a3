# SPDX-License-Identifier: Apache-2.0
"""Transfer: the surrogate sees images that it knows, and the target is asked for its answer alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from monai_adversarial.audit import TargetError, audit
from monai_adversarial.audit.surrogate import surrogate_for
from monai_adversarial.models import AttackedModel
from monai_adversarial.utils.intensity_map import IntensityMap
from tests.audit.pipeline import PLAN, Threshold, target, write_cases

TRANSFER = {
    "name": "transfer",
    "rows": {
        "pgd": PLAN["rows"]["pgd"],
        "transfer": {
            "family": "transfer",
            "knowledge": "another network",
            "needs": "surrogate",
            "attack": {"_target_": "monai_adversarial.attacks.PGD", "steps": 3},
            "over": {"epsilon": {"HU": [40], "percentile": [0.05]}},
        },
    },
}


class WiderWindow(torch.nn.Module):
    """The same organs for images scaled from -1000..1000 HU, which are no images to the other network."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Threshold()
        self.eval()

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.inner((image * 2000 - 1000 + 160) / 500)


def test_a_surrogate_of_another_window_sees_what_it_knows(tmp_path: Path) -> None:
    wide = AttackedModel(WiderWindow(), intensity={"a_min": -1000, "a_max": 1000}, image_units="network")
    deployed = target()
    surrogate = surrogate_for(deployed, wide)
    case = deployed.load(write_cases(tmp_path / "data", 1)[0])
    own, other = deployed.model.network(case.image), surrogate.network(case.image)
    assert float((own.argmax(1) == other.argmax(1)).float().mean()) > 0.99
    assert float((wide.network(case.image).argmax(1) == own.argmax(1)).float().mean()) < 0.9


def test_transfer_is_scored_on_the_target(tmp_path: Path) -> None:
    deployed = target()
    calls = []
    deployed.model.network.register_forward_hook(lambda *_: calls.append(torch.is_grad_enabled()))
    cases = write_cases(tmp_path / "data", 1)
    wide = AttackedModel(WiderWindow(), intensity={"a_min": -1000, "a_max": 1000}, image_units="network")
    summary = audit(
        deployed, cases, TRANSFER, tmp_path / "out", rows="transfer", surrogate=surrogate_for(deployed, wide),
        progress=False,
    )  # fmt: skip
    (entry,) = [one for one in summary["results"] if one["row"] == "transfer_40"]
    attacked, random = (entry["mean"][image]["dice"]["mean"] for image in ("adversarial", "random"))
    assert attacked < random - 0.1
    assert not any(calls)  # the target never gave a gradient


def test_without_a_surrogate_the_row_is_named(tmp_path: Path) -> None:
    summary = audit(target(), write_cases(tmp_path / "data", 1), TRANSFER, tmp_path / "out", progress=False)
    assert "transfer: no other network was given to transfer from." in summary["not_tested"]


def test_maps_that_cannot_be_brought_together() -> None:
    with pytest.raises(TargetError, match="map from HU of the surrogate is not known"):
        surrogate_for(target(), AttackedModel(Threshold(), image_units="network"))
    same = AttackedModel(Threshold(), intensity=IntensityMap.from_window(-160, 340), image_units="network")
    assert surrogate_for(target(), same) is same
