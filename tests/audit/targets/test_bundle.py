# SPDX-License-Identifier: Apache-2.0
"""A MONAI bundle is read as it is deployed, and nothing is left behind in it or in the process."""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.data import list_data_collate

from monai_adversarial.audit.parts import TargetParts
from monai_adversarial.audit.targets.bundle import read_bundle
from monai_adversarial.audit.targets.bundle_process import listing
from monai_adversarial.models import AttackedModel
from monai_adversarial.utils.hashing import file_hash
from tests.audit.targets.bundle_folder import SCRIPT, scan, write_bundle
from tests.conftest import REPOSITORY
from tests.helpers import tiny_segmentation_network

CT_ABDOMEN = REPOSITORY / "bundles" / "ct_abdomen_unet"
LABEL_PAIR = {
    "preprocessing#transforms#0": {"_target_": "LoadImaged", "keys": ["image", "label"]},
    "preprocessing#transforms#1": {"_target_": "EnsureChannelFirstd", "keys": ["image", "label"]},
    "preprocessing#transforms#2": {
        "_target_": "Orientationd",
        "keys": ["image", "label"],
        "axcodes": "RAS",
        "labels": None,
    },
}


def fact(parts: TargetParts, what: str) -> str:
    return " | ".join(one.value for one in parts.facts if one.what == what)


@pytest.fixture
def read(tmp_path: Path) -> Iterator[Any]:
    """Reads a bundle that is written for it, and closes it."""
    opened: list[TargetParts] = []

    def write_and_read(
        changes: dict[str, Any] | None = None, told: dict[str, Any] | None = None, **written: Any
    ) -> TargetParts:
        folder = tmp_path / f"bundle_{len(opened)}"
        opened.append(read_bundle(write_bundle(folder, changes, **written), **(told or {})))
        return opened[-1]

    yield write_and_read
    for parts in opened:
        parts.resources.close()


def test_parts_are_those_of_the_live_evaluator(read: Any) -> None:
    parts = read()
    assert (parts.kind, parts.name) == ("MONAI bundle", "Two organs")
    assert parts.network is parts.engine.network and parts.inferer is parts.engine.inferer
    assert (parts.image_key, parts.label_key, parts.pred_key) == ("image", "label", "pred")
    assert parts.prepare_batch is None and not parts.preprocesses_label and parts.missing == []
    assert parts.told == {"class_names": ["background", "spleen", "liver"]}
    model = AttackedModel.from_engine(parts.engine, **parts.told)
    assert model.activation == "softmax" and model.intensity is not None
    assert "-57..164 HU -> 0..1" in " ".join(model.facts)


def test_weights_are_loaded_where_the_run_list_loads_them(read: Any) -> None:
    expected = tiny_segmentation_network(1, 3, seed=1).state_dict()
    by_initialize = read()
    by_handler = read(
        {
            "initialize": None,
            "handlers": [
                {
                    "_target_": "CheckpointLoader",
                    "load_path": "$@bundle_root + '/models/model.pt'",
                    "load_dict": {"model": "@network"},
                }
            ],
        }
    )
    for parts in (by_initialize, by_handler):
        for name, value in parts.network.state_dict().items():
            assert torch.equal(value, expected[name])
        assert not parts.network.training


def test_facts_say_what_was_run_replaced_and_left_out(read: Any) -> None:
    parts = read()
    assert fact(parts, "configs") == "inference.json"
    assert "@checkpointloader(@evaluator)" in fact(parts, "run list")
    assert fact(parts, "not run") == "$@evaluator.run()"
    for name in ("bundle_root", "output_dir", "dataset_dir", "dataset#data", "dataloader"):
        assert name in fact(parts, "replaced")
    assert fact(parts, "savers left out") == "SaveImaged"
    assert fact(parts, "weights") == "models/model.pt"
    assert "monai 1.0.0 (installed: 1.6" in fact(parts, "other versions than its own")


def test_hashes_are_those_of_the_files(tmp_path: Path) -> None:
    root = write_bundle(tmp_path / "bundle")
    parts = read_bundle(root)
    assert parts.hashes["weights"] == file_hash(root / "models" / "model.pt")
    assert parts.hashes["config inference.json"] == file_hash(root / "configs" / "inference.json")
    assert parts.hashes["script scripts/parts.py"] == file_hash(root / "scripts" / "parts.py")
    parts.resources.close()
    changed = (root / "configs" / "inference.json").read_text().replace("-57", "-58")
    (root / "configs" / "inference.json").write_text(changed)
    again = read_bundle(root)
    assert again.hashes["config"] != parts.hashes["config"]
    again.resources.close()


def test_nothing_is_left_behind(tmp_path: Path) -> None:
    changes = {"imports#0": "$import sys", "initialize#0": "$sys.path.append(@bundle_root + '/more')"}
    root = write_bundle(tmp_path / "bundle", changes)
    image = scan(tmp_path)
    path, modules, cwd, load = list(sys.path), set(sys.modules), os.getcwd(), torch.load
    flags = (torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic)
    before = listing(root)
    torch.manual_seed(7)
    random.seed(7)
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()  # noqa: NPY002
    parts = read_bundle(root)
    parts.reference_prediction(image)  # type: ignore[misc]
    assert os.getcwd() == cwd and torch.load is load
    assert (torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic) == flags
    assert torch.equal(torch.get_rng_state(), states[0]) and random.getstate() == states[1]
    assert str(np.random.get_state()) == str(states[2])  # noqa: NPY002
    assert listing(root) == before
    parts.resources.close()
    assert sys.path == path
    assert not [name for name in set(sys.modules) - modules if name.split(".")[0] == "scripts"]


def test_scripts_of_two_bundles_do_not_answer_for_each_other(read: Any, tmp_path: Path) -> None:
    other = SCRIPT.replace("features=4", "features=6")
    weights = {"model": tiny_segmentation_network(1, 3, features=6, seed=1).state_dict()}
    first, second = read(), read(script=other, weights=weights)
    assert (first.network[0].out_channels, second.network[0].out_channels) == (4, 6)
    # each builds its network from its own scripts again
    for parts in (first, second, first):
        assert parts.reference_prediction(scan(tmp_path)).shape == (14, 12, 10)


def test_bundle_that_writes_into_its_folder_is_named(read: Any) -> None:
    with pytest.warns(UserWarning, match="wrote into its folder: note.txt"):
        parts = read({"initialize#0": "$open('note.txt', 'w').close()"})
    assert fact(parts, "written into the bundle's folder") == "note.txt"


def test_overrides_and_device_reach_the_engine(read: Any) -> None:
    told = {"overrides": {"inferer#roi_size": [4, 4, 4], "inferer#mode": "gaussian"}, "device": "cpu"}
    parts = read({"device": "$torch.device('meta')"}, told=told)
    assert parts.inferer.roi_size == [4, 4, 4]
    assert parts.engine.state.device.type == "cpu"
    assert "inferer#mode = 'gaussian'" in fact(parts, "override")


def test_label_is_needed_by_an_evaluation(read: Any, tmp_path: Path) -> None:
    metric = {"val_mean_dice": {"_target_": "MeanDice", "output_transform": "$monai.handlers.from_engine(['pred'])"}}
    train = {"evaluator#key_val_metric": metric, **LABEL_PAIR}
    parts = read(train, name="evaluate")
    assert parts.preprocesses_label
    assert "evaluator#key_val_metric" in fact(parts, "replaced")
    assert parts.reference_prediction(scan(tmp_path)).shape == (14, 12, 10)


def test_engine_below_a_section_and_another_run_list(read: Any) -> None:
    below = {"validate": {"evaluator": "@evaluator"}, "run": None, "evaluating": ["$@validate#evaluator.run()"]}
    assert type(read(below).engine).__name__ == "SupervisedEvaluator"


def test_partly_loaded_weights_are_said(read: Any) -> None:
    state = tiny_segmentation_network(1, 3, seed=1).state_dict()
    del state["2.weight"]
    with pytest.warns(UserWarning, match="1 of 5 tensors of the network are in no checkpoint.*2.weight"):
        parts = read({"checkpointloader#strict": False}, weights={"model": state})
    assert "2.weight" in fact(parts, "weights that are not known")


def test_names_are_counted_against_the_channels(read: Any) -> None:
    classes = {"network_def": {"_target_": "UNet", "spatial_dims": 3, "in_channels": 1, "out_channels": 2}}
    classes["network_def"] |= {"channels": [4, 8], "strides": [2]}
    from monai.networks.nets import UNet

    weights = {"model": UNet(3, 1, 2, (4, 8), (2,)).state_dict()}
    parts = read(classes, weights=weights)
    assert "class_names" not in parts.told
    assert fact(parts, "classes") == "3 names for a network with 2 channels (network.out_channels): not used"
    told = read(classes, weights=weights, told={"class_names": ["background", "spleen"]})
    assert told.told["class_names"] == ["background", "spleen"]


def test_guidance_channels_without_clicks_are_zeros(read: Any, tmp_path: Path) -> None:
    names = {"spleen": 1, "background": 0}
    guidance = [
        {"_target_": "AddGuidanceFromPointsDeepEditd", "ref_image": "image", "label_names": names},
        {"_target_": "Resized", "keys": "image", "spatial_size": [8, 8, 8]},
        {"_target_": "ResizeGuidanceMultipleLabelDeepEditd", "guidance": "guidance", "ref_image": "image"},
        {"_target_": "AddGuidanceSignalDeepEditd", "keys": "image", "guidance": "guidance", "number_intensity_ch": 1},
    ]
    changes = {
        "deepedit": guidance,
        "plain": [
            {"_target_": "LoadImaged", "keys": "image"},
            {"_target_": "EnsureChannelFirstd", "keys": "image"},
            {"_target_": "Orientationd", "keys": "image", "axcodes": "RAS", "labels": None},
        ],
        "preprocessing#transforms": "$@plain + @deepedit",
        "inferer": {"_target_": "SimpleInferer"},
    }
    script = SCRIPT.replace("nn.Conv3d(1, ", "nn.Conv3d(3, ")
    weights = {"model": tiny_segmentation_network(3, 3, seed=1).state_dict()}
    parts = read(changes, script=script, weights=weights)
    assert AttackedModel.from_engine(parts.engine).image_channels == 1
    item = parts.preprocessing({"image": scan(tmp_path)})
    assert item["image"].shape == (3, 8, 8, 8) and not item["image"][1:].any()


def test_shipped_bundle_with_its_own_weights(tmp_path: Path) -> None:
    from monai_adversarial.data.phantom import ensure_ct_phantoms

    ensure_ct_phantoms(str(tmp_path / "data"), 1, 1000, section="test")
    (image,) = map(str, (tmp_path / "data" / "images").glob("*.nii.gz"))
    before = listing(CT_ABDOMEN)
    parts = read_bundle(CT_ABDOMEN)
    deployed = parts.reference_prediction(image)  # type: ignore[misc]
    batch = list_data_collate([parts.preprocessing({"image": image})])  # type: ignore[misc]
    with torch.no_grad():
        answer = parts.inferer(batch["image"], parts.network)  # type: ignore[misc]
    own = parts.postprocessing({"image": batch["image"][0], "pred": answer[0]})["pred"]  # type: ignore[misc]
    parts.resources.close()
    assert len(np.unique(deployed)) == 8
    assert np.array_equal(own[0].numpy(), deployed)
    assert parts.told["class_names"][1] == "liver" and listing(CT_ABDOMEN) == before
