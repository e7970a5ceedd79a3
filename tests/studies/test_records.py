# SPDX-License-Identifier: Apache-2.0
"""Descriptions, hashes and JSON records."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.inferers import SlidingWindowInferer

from monai_adversarial.attacks import PGD, ElasticAttack
from monai_adversarial.studies.records import read_json, read_record, safe_name, write_json, write_record
from monai_adversarial.transforms import AutoencoderDenoise
from monai_adversarial.utils.hashing import describe, fingerprint, network_hash
from tests.helpers import tiny_segmentation_network


@pytest.mark.parametrize(
    "change",
    [{"epsilon": 9.0}, {"steps": 11}, {"seed": 1}, {"objective": "cross_entropy"}, {"norm": "l2"}, {"targeted": True}],
)
def test_every_setting_of_an_attack_is_in_its_description(change: dict[str, object]) -> None:
    settings = {"epsilon": 8.0, "units": "HU"}
    first, again, changed = (describe(PGD(**s)) for s in (settings, settings, settings | change))
    assert first == again != changed
    json.dumps(first, allow_nan=False)


def test_descriptions_hold_no_addresses_and_survive_cycles() -> None:
    class Odd:
        def __init__(self) -> None:
            self.me, self.numbers, self.function, self._private = self, np.arange(3), math.sin, object()

    text = json.dumps([describe(Odd()), describe(ElasticAttack(5.0)), describe(SlidingWindowInferer((8, 8, 8), 2))])
    assert "0x" not in text and "_private" not in text and "math.sin" in text


def test_the_inferer_and_the_weights_change_the_fingerprint() -> None:
    first, second = (describe(SlidingWindowInferer((8, 8, 8), 2, overlap=overlap)) for overlap in (0.25, 0.5))
    assert fingerprint({"inferer": first}) != fingerprint({"inferer": second})
    network = tiny_segmentation_network()
    before = network_hash(network)
    assert before == network_hash(tiny_segmentation_network()) != network_hash(tiny_segmentation_network(seed=1))
    with torch.no_grad():
        network[0].bias[0] += 1e-6
    assert network_hash(network) != before


def test_records_are_strict_json_and_damaged_ones_are_none(tmp_path: Path) -> None:
    path = tmp_path / "unit.json"
    write_json(path, {"dice": float("nan"), "psnr": [math.inf, 1.5], "n": 3})
    assert read_json(path) == {"dice": None, "psnr": [None, 1.5], "n": 3}
    path.write_text('{"dice": ')
    assert read_json(path) is None and read_json(tmp_path / "none.json") is None


def test_a_record_vouches_for_its_own_content(tmp_path: Path) -> None:
    path = tmp_path / "cell.json"
    assert read_record(path) == (None, False)
    written = write_record(path, {"scores": {1: {"dice": 0.1 + 0.2, "hd95": float("nan")}}, "names": ("a", "é")})
    found, foreign = read_record(path)
    assert not foreign and found == {"scores": {"1": {"dice": 0.1 + 0.2, "hd95": None}}, "names": ["a", "é"]}
    assert {**found, "seal": written["seal"]} == written
    whole = path.read_text(encoding="utf-8")
    for content in (whole.replace("0.3", "0.4", 1), whole.replace('"seal"', '"sea"'), whole[:-20], "[]", "[" * 99_999):
        path.write_text(content, encoding="utf-8")
        assert read_record(path) == (None, True)
    path.unlink()
    path.mkdir()
    assert read_record(path) == (None, True)


def test_no_name_leaves_the_folder_or_meets_another() -> None:
    assert safe_name("PGD-50, L2 (8.5)") == "PGD-50, L2 (8.5)"
    names = ["../up", "a/b", "a_b", "a\\b", "", ".", "..", "a\nb", "a\x1b[31m", "$x$", " a", "a "]
    safe = [safe_name(name) for name in names]
    assert len(set(safe)) == len(names) and not any("/" in one or one in ("", ".", "..") for one in safe)


def test_path_of_weights_does_not_count_beside_their_content(tmp_path: Path) -> None:
    weights = torch.nn.Conv3d(1, 1, 1).state_dict()
    torch.save(weights, tmp_path / "here.pt")
    torch.save(weights, tmp_path / "there.pt")
    described = [
        describe(AutoencoderDenoise(tmp_path / name, network=torch.nn.Conv3d(1, 1, 1)))
        for name in ("here.pt", "there.pt")
    ]
    assert described[0] == described[1] and "weights_hash" in described[0]
    torch.save(torch.nn.Conv3d(1, 1, 1).state_dict(), tmp_path / "there.pt")
    other = describe(AutoencoderDenoise(tmp_path / "there.pt", network=torch.nn.Conv3d(1, 1, 1)))
    assert other != described[0]
