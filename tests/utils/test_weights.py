# SPDX-License-Identifier: Apache-2.0
"""Weights that load, and one sentence for those that do not."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from monai_adversarial.studies import load_weights
from monai_adversarial.studies.defenses import check_purifier_name
from monai_adversarial.utils.hashing import network_hash
from monai_adversarial.utils.weights import save_weights
from tests.helpers import tiny_segmentation_network


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_state_dictionary_loads_plain_or_in_a_checkpoint(tmp_path: Path, wrapped: bool) -> None:
    source, target = tiny_segmentation_network(seed=1), tiny_segmentation_network(seed=2)
    state = source.state_dict()
    torch.save({"model": state, "epoch": 3} if wrapped else state, tmp_path / "model.pt")
    assert load_weights(target, tmp_path / "model.pt") is target
    assert network_hash(target) == network_hash(source)


def test_weights_that_do_not_fit_are_one_sentence(tmp_path: Path) -> None:
    network, path = tiny_segmentation_network(), tmp_path / "model.pt"
    before = network_hash(network)
    with pytest.raises(FileNotFoundError, match="there are no weights at .*model.pt"):
        load_weights(network, path)
    path.write_bytes(b"not a checkpoint")
    with pytest.raises(RuntimeError, match="cannot read .* as a checkpoint"):
        load_weights(network, path)
    torch.save(tiny_segmentation_network(out_channels=5).state_dict(), path)
    with pytest.raises(RuntimeError, match="belong to another network: 2 of 5 tensors") as caught:
        load_weights(network, path)
    assert "\n" not in str(caught.value)
    torch.save(torch.zeros(3), path)
    with pytest.raises(RuntimeError, match="expected a state dictionary"):
        load_weights(network, path)
    with pytest.raises(TypeError, match="weights must be the path of a checkpoint, got 0"):
        load_weights(network, 0)  # type: ignore[arg-type]
    assert network_hash(network) == before


def test_a_purifier_to_train_has_a_name() -> None:
    assert check_purifier_name("own") == "own"
    for name in (None, "", 5):
        with pytest.raises(ValueError, match=r"choose a purifier: add an overlay such as .*purifier_autoencoder\.yaml"):
            check_purifier_name(name)  # type: ignore[arg-type]


def test_equal_weights_are_equal_files(tmp_path: Path) -> None:
    network = tiny_segmentation_network()
    contents = []
    for name in ("first.pt", "second.pt"):
        save_weights(network, tmp_path / name)
        contents.append((tmp_path / name).read_bytes())
    assert contents[0] == contents[1]
