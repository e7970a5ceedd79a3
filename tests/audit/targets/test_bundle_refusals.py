# SPDX-License-Identifier: Apache-2.0
"""Bundles that cannot be audited are refused in one sentence that says why and what to do."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from monai_adversarial.audit.facts import TargetError
from monai_adversarial.audit.targets.bundle import read_bundle
from monai_adversarial.audit.targets.bundle_process import BundleScripts
from tests.audit.targets.bundle_folder import SCRIPT, write_bundle
from tests.helpers import tiny_segmentation_network

OUTPUT = "network_data_format#outputs#pred"
PROMPTS = """
from monai.engines import SupervisedEvaluator


class Prompts(SupervisedEvaluator):
    def _iteration(self, engine, batchdata):
        return {}
"""


@pytest.fixture(autouse=True)
def nothing_installed() -> None:
    """Scripts of the bundle that was read last stay importable until the next one; no test begins with another's."""
    if BundleScripts.installed is not None:
        BundleScripts.installed.remove()


def refused(root: Path, sentence: str, **options: Any) -> str:
    path = list(sys.path)
    with pytest.raises(TargetError, match=sentence) as caught:
        read_bundle(root, **options)
    assert "\n" not in str(caught.value)
    assert sys.path == path and "scripts.parts" not in sys.modules
    return str(caught.value)


def test_folders_and_configs_that_are_not_there(tmp_path: Path) -> None:
    refused(tmp_path / "none", "there is no bundle at .*none")
    refused(tmp_path, "has no configs/inference.json or .yaml, and no evaluate: it has no configs")
    root = write_bundle(tmp_path / "bundle")
    refused(root, "has no config file typo.json: it has inference.json", config_files="typo.json")
    (root / "configs" / "inference.json").write_text("{ no json")
    refused(root, "inference.json cannot be read as a config")


def test_missing_weights_are_named(tmp_path: Path) -> None:
    root = write_bundle(tmp_path / "bundle", weights=None)
    refused(root, "there are no weights at .*models/model.pt: download")


@pytest.mark.parametrize("changes", [{"load_pretrain": False}, {"checkpointloader#_disabled_": True}])
def test_random_network_is_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    if "load_pretrain" not in changes:
        loader = {"_target_": "CheckpointLoader", "load_path": "x", "load_dict": {"model": "@network"}}
        changes = {"initialize": None, "handlers": [{**loader, "_disabled_": "$not os.path.exists('x')"}]}
    refused(write_bundle(tmp_path / "bundle", changes), "loads no weights before its evaluator runs.*is random")


def test_weights_of_another_network(tmp_path: Path) -> None:
    weights = {"model": tiny_segmentation_network(1, 5).state_dict()}
    refused(write_bundle(tmp_path / "bundle", weights=weights), "do not fit its network: size mismatch for 2.weight")


def test_pickled_objects_need_trust(tmp_path: Path) -> None:
    state = tiny_segmentation_network(1, 3).state_dict()
    weights = {"model": state, "about": SimpleNamespace(epoch=3)}
    root = write_bundle(tmp_path / "bundle", weights=weights)
    refused(root, r"model.pt does not load as weights alone .*pass --trust")
    # not even where the bundle's own config asks for it
    asked = {"initialize#1": "$@network.load_state_dict(torch.load('models/model.pt', weights_only=False)['model'])"}
    refused(write_bundle(tmp_path / "asks", asked, weights=weights), "pass --trust")
    parts = read_bundle(root, trust=True)
    assert torch.equal(parts.network.state_dict()["0.weight"], state["0.weight"])  # type: ignore[attr-defined]
    parts.resources.close()
    with pytest.raises(ValueError, match="trust must be True or False"):
        read_bundle(root, trust="no")  # type: ignore[arg-type]


def test_bundle_that_fails_by_itself_is_said_to(tmp_path: Path) -> None:
    root = write_bundle(tmp_path / "bundle", {"network_def#img_size": [96, 96, 96]})
    sentence = refused(root, r"the bundle bundle itself fails on MONAI 1\.6")
    assert "TypeError" in sentence and "img_size" in sentence
    mended = {"network_def": {"_target_": "scripts.parts.network", "classes": 3}}
    read_bundle(root, overrides=mended).resources.close()


def test_override_that_breaks_a_bundle_is_said_to(tmp_path: Path) -> None:
    root = write_bundle(tmp_path / "bundle")
    refused(root, "fails with the overrides that were given: TypeError", overrides={"network_def#img_size": 96})


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("infererr", "the config has no 'infererr' .did you mean 'inferer'"),
        ("inference#roi_size", "the config has no 'inference'"),
        ("preprocessing#transforms#9#keys", "the config has no 'preprocessing#transforms#9'"),
        ("evaluator#nothing#there", "the config has no 'evaluator#nothing'"),
    ],
)
def test_mistyped_overrides(tmp_path: Path, name: str, sentence: str) -> None:
    refused(write_bundle(tmp_path / "bundle"), sentence, overrides={name: 1})


@pytest.mark.parametrize(
    ("metadata", "sentence"),
    [
        ({f"{OUTPUT}#type": "probabilities", f"{OUTPUT}#format": "classes"}, "does not segment.*'probabilities'"),
        ({f"{OUTPUT}#type": "object", f"{OUTPUT}#format": "dict"}, "does not segment.*'object' of 'dict'"),
        ({f"{OUTPUT}#format": "labels", f"{OUTPUT}#spatial_shape": [1, 4]}, "does not segment"),
        ({"network_data_format#outputs": {"nuclei": {}, "types": {}}}, "not give one segmentation.*nuclei, types"),
    ],
)
def test_other_tasks(tmp_path: Path, metadata: dict[str, Any], sentence: str) -> None:
    refused(write_bundle(tmp_path / "bundle", metadata=metadata), sentence)


def test_detectors_are_refused_by_their_network(tmp_path: Path) -> None:
    script = SCRIPT + "\n\nclass Boxes(nn.Conv3d):\n    pass\n\n\n"
    script += "Boxes.__module__ = 'monai.apps.detection.networks.retinanet_network'\n"
    network = {"_target_": "scripts.parts.Boxes", "in_channels": 1, "out_channels": 3, "kernel_size": 3}
    weights = {"model": nn.Conv3d(1, 3, 3).state_dict()}
    root = write_bundle(tmp_path / "bundle", {"network_def": network}, script=script, weights=weights)
    refused(root, "cannot be audited: .*the detector Boxes, which returns boxes")


def test_engines_that_are_no_plain_evaluator(tmp_path: Path) -> None:
    prompts = write_bundle(
        tmp_path / "prompts", {"evaluator#_target_": "scripts.parts.Prompts"}, script=SCRIPT + PROMPTS
    )
    refused(prompts, "Prompts has an iteration of its own, with further inputs of the network")
    refused(write_bundle(tmp_path / "none", {"run": ["$print('nothing')"]}), "starts no engine")
    several = {"run": None, "one": ["$@evaluator.run()"], "two": ["$@evaluator.run()"]}
    root = write_bundle(tmp_path / "several", several)
    refused(root, r"several run lists \(one, two\): name one with run_id")
    read_bundle(root, run_id="two").resources.close()
    trains = write_bundle(tmp_path / "mode", {"evaluator#mode": "train"})
    refused(trains, "runs its network in training mode")


def test_clicks_and_further_files(tmp_path: Path) -> None:
    clicks = {"preprocessing#transforms#2": {"_target_": "AddClickSignalsd", "image": "image"}}
    refused(write_bundle(tmp_path / "clicks", clicks), "interactive: its AddClickSignalsd needs clicks")
    prior = {"preprocessing#transforms#0#keys": ["image", "prior"]}
    refused(write_bundle(tmp_path / "prior", prior), "loads prior beside image, which an audit does not have")


def test_datasets_that_cannot_be_replaced(tmp_path: Path) -> None:
    refused(
        write_bundle(tmp_path / "bundle", {"dataset": "$make_it(@datalist)"}),
        "config's dataset .* is not a component with a _target_: its data cannot be replaced",
    )
    refused(write_bundle(tmp_path / "plain", {"dataset#transform": None}), "has no transform")


def test_wrong_number_of_class_names(tmp_path: Path) -> None:
    one_hot = {"postprocessing#transforms#2": {"_target_": "AsDiscreted", "keys": "pred", "argmax": True}}
    one_hot["postprocessing#transforms#2"]["to_onehot"] = 3
    root = write_bundle(tmp_path / "bundle", one_hot)
    refused(root, "class_names has 2 names, but the network has 3 channels", class_names=["background", "spleen"])


def test_metadata_that_are_no_object(tmp_path: Path) -> None:
    root = write_bundle(tmp_path / "bundle")
    (root / "configs" / "metadata.json").write_text(json.dumps(["no", "object"]))
    refused(root, "metadata.json must hold an object, got list")
