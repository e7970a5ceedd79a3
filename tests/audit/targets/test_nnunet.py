# SPDX-License-Identifier: Apache-2.0
"""A trained nnU-Net as an audit target: the segmentation of its own predictor, with gradients, or a sentence."""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import pickle
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import list_data_collate

pytest.importorskip("nnunetv2")

from monai_adversarial.attacks import PGD
from monai_adversarial.audit.facts import TargetError
from monai_adversarial.audit.parts import TargetParts
from monai_adversarial.audit.targets.nnunet import read_nnunet
from monai_adversarial.audit.targets.nnunet_network import NNUNetEnsemble
from monai_adversarial.models import AttackedModel
from monai_adversarial.utils.hashing import file_hash
from tests.audit.targets.nnunet_parts import CONFIGURATION, dataset_of, plans_of, trained_folder, write_case
from tests.helpers import random_image, tiny_segmentation_network

FILE = "checkpoint_final.pth"
Cases = list[tuple[str, str]]


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> Cases:
    folder = tmp_path_factory.mktemp("cases")
    return [write_case(folder, seed) for seed in range(4)]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, cases: Cases) -> Iterator[Path]:
    """Three folds, trained for seconds."""
    with pytest.MonkeyPatch.context() as patch:
        root = tmp_path_factory.mktemp("trained")
        yield trained_folder(root, patch, plans_of(), dataset_of(), (0, 1, 2), cases[:2], steps=60)


@pytest.fixture
def untrained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return trained_folder(tmp_path, monkeypatch, plans_of(), dataset_of())


@pytest.fixture(scope="module")
def parts(trained: Path) -> TargetParts:
    return read_nnunet(trained, device="cpu")


def deployed(parts: TargetParts, path: Any) -> Any:
    """The segmentation of the parts, through collation as in an audit."""
    assert parts.preprocessing is not None and parts.postprocessing is not None and parts.inferer is not None
    batch = list_data_collate([parts.preprocessing({"image": path})])
    with torch.no_grad():
        logits = parts.inferer(batch["image"], parts.network)
    return parts.postprocessing({"image": batch["image"][0], "pred": logits[0]})["pred"]


def edit(file: Path, **changes: Any) -> None:
    content = json.loads(file.read_text())
    content.update(changes)
    file.write_text(json.dumps(content))


def test_segmentation_is_that_of_the_predictor(parts: TargetParts, cases: Cases) -> None:
    assert parts.reference_prediction is not None
    for image, label in cases[2:]:
        found, expected = deployed(parts, image), parts.reference_prediction(image)
        assert expected.shape == nib.load(image).shape and set(expected.unique().tolist()) == {0, 1, 2}
        # The predictor adds logits in half precision: voxels at which two classes are equal may differ.
        assert float((found.as_tensor()[0] == expected).float().mean()) >= 0.9999
        assert np.allclose(found.affine.numpy(), nib.load(image).affine, atol=1e-4)
        truth = torch.as_tensor(np.asarray(nib.load(label).dataobj)) == 1
        dice = 2 * float((truth & (expected == 1)).sum()) / float(truth.sum() + (expected == 1).sum())
        assert dice > 0.5  # it is a network that has learned something, and not a comparison of noise


def test_predictor_is_the_one_of_nnunet(trained: Path, parts: TargetParts, cases: Cases, tmp_path: Path) -> None:
    """The reference is what nnU-Net itself does with the folder, from its files to a file."""
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    predictor = nnUNetPredictor(use_mirroring=False, device=torch.device("cpu"), allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(str(trained), (0, 1, 2))
    predictor.predict_from_files_sequential([[cases[2][0]]], [str(tmp_path / "saved")], overwrite=True)
    saved = nib.load(tmp_path / "saved.nii.gz")
    assert parts.reference_prediction is not None
    assert np.array_equal(np.asarray(saved.dataobj), parts.reference_prediction(cases[2][0]).numpy())


def test_mirroring_is_averaged(trained: Path, cases: Cases) -> None:
    mirrored = read_nnunet(trained, folds=(1,), mirroring=True, device="cpu")
    assert isinstance(mirrored.network, NNUNetEnsemble) and len(mirrored.network.flips) == 8
    assert mirrored.reference_prediction is not None
    found, expected = deployed(mirrored, cases[3][0]), mirrored.reference_prediction(cases[3][0])
    assert float((found.as_tensor()[0] == expected).float().mean()) >= 0.9999
    alone = read_nnunet(trained, folds="1", device="cpu")
    assert not torch.equal(expected, deployed(alone, cases[3][0]).as_tensor()[0])
    said = {fact.what: str(fact) for fact in mirrored.facts}["mirroring"]
    assert "[0, 1, 2]" in said and "told by mirroring" in said
    assert "off" in {fact.what: str(fact) for fact in alone.facts}["mirroring"]


def test_ensemble_is_the_mean_over_folds_and_flips() -> None:
    networks = [tiny_segmentation_network(seed=seed) for seed in range(2)]
    image = random_image((1, 1, 6, 7, 8)).requires_grad_()
    found = NNUNetEnsemble(networks, (0, 2))(image)
    flips: list[list[int]] = [[], [2], [4], [2, 4]]
    expected = torch.stack([n(image.flip(f)).flip(f) for n in networks for f in flips]).mean(dim=0)
    assert torch.allclose(found, expected, atol=1e-6)
    ours, theirs = (torch.autograd.grad(y.square().sum(), image)[0] for y in (found, expected))
    assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-5)


def test_what_was_read_is_said(trained: Path, parts: TargetParts) -> None:
    assert parts.kind == "nnU-Net" and parts.name == f"Dataset901_Phantom {CONFIGURATION}"
    assert parts.told["class_names"] == ["background", "organs", "spine"] and parts.told["activation"] == "softmax"
    assert parts.hashes["weights of fold_1"] == file_hash(trained / "fold_1" / FILE)
    assert parts.hashes["plans.json"] == file_hash(trained / "plans.json")
    assert not parts.missing
    model = AttackedModel.from_parts(
        parts.network, parts.inferer, parts.preprocessing, parts.postprocessing, **parts.told
    )
    assert model.intensity is not None and model.intensity.window == pytest.approx((-160.0, 240.0))
    assert any("preprocessing#1" in fact for fact in model.facts)
    # A window that was mistyped is found by the pipeline.
    with pytest.raises(ValueError, match="leave intensity out"):
        wrong = read_nnunet(trained, device="cpu", intensity={"a_min": -160, "a_max": 250})
        AttackedModel.from_parts(wrong.network, wrong.inferer, wrong.preprocessing, None, **wrong.told)


def test_an_attack_in_hounsfield_lowers_dice(parts: TargetParts, cases: Cases) -> None:
    assert parts.preprocessing is not None and parts.postprocessing is not None
    item = list_data_collate([parts.preprocessing({"image": cases[2][0], "label": cases[2][1]})])
    model = AttackedModel.from_parts(
        parts.network, parts.inferer, parts.preprocessing, parts.postprocessing, **parts.told
    )
    attack = PGD(20, units="HU", steps=5)
    result = attack(model, item["image"], item["label"])
    change = (result.adversarial - item["image"]).abs()
    assert float(change.max()) <= 20 / 70 + 1e-5
    clean, adversarial = float(result.clean_dice[0]), float(result.adversarial_dice[0])
    assert clean > 0.5 and adversarial < 0.7 * clean
    signs = torch.randint(0, 2, item["image"].shape, generator=torch.Generator().manual_seed(0)) * 2 - 1
    random = item["image"] + 20 / 70 * signs
    with torch.no_grad():
        seen = parts.inferer(random.as_tensor(), parts.network)
    truth = item["label"].as_tensor()[0, 0] == 1
    dices = []
    for logits in (seen, parts.inferer(result.adversarial, parts.network)):
        found = logits.argmax(1)[0] == 1
        dices.append(2 * float((found & truth).sum()) / float(found.sum() + truth.sum()))
    assert dices[1] < dices[0]


def test_deep_supervision_is_off(parts: TargetParts) -> None:
    answer = parts.network(torch.zeros(1, 1, 20, 16, 24))
    assert isinstance(answer, torch.Tensor) and answer.shape == (1, 3, 20, 16, 24)


def regions_of(folder: Path, **more: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    labels = {"background": 0, "body": [1, 2], "spine": 2, **more}
    return plans_of(), dataset_of(labels, regions_class_order=[1, 2])


def test_regions_are_masks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cases: Cases) -> None:
    folder = trained_folder(tmp_path, monkeypatch, *regions_of(tmp_path, ignore=3))
    parts = read_nnunet(folder, device="cpu")
    assert parts.told["activation"] == "sigmoid" and parts.told["class_names"] == ["body", "spine"]
    assert parts.told["ignore_index"] == 3
    assert parts.reference_prediction is not None and parts.preprocessing is not None
    found, expected = deployed(parts, cases[0][0]), parts.reference_prediction(cases[0][0])
    assert found.shape == expected.shape == (2, *nib.load(cases[0][0]).shape)
    assert float((found.as_tensor() == expected).float().mean()) >= 0.999  # an untrained network is close to 0
    assert bool((expected[1] <= expected[0]).all()) and 0 < float(expected.float().mean()) < 1
    assert parts.preprocesses_label
    label = parts.preprocessing({"image": cases[0][0], "label": cases[0][1]})["label"]
    assert label.shape[0] == 2 and bool((label[1] <= label[0]).all()) and bool(label[1].any())


def test_two_dimensional_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cases: Cases) -> None:
    folder = trained_folder(tmp_path, monkeypatch, plans_of(dimensions=2), dataset_of())
    parts = read_nnunet(folder, device="cpu")
    assert parts.reference_prediction is not None
    found, expected = deployed(parts, cases[0][0]), parts.reference_prediction(cases[0][0])
    assert len(expected.unique()) > 1
    assert float((found.as_tensor()[0] == expected).float().mean()) >= 0.999


def test_largest_component_is_read_from_words(trained: Path, cases: Cases, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(trained, tmp_path / "folder"))
    results = folder / "crossval_results_folds_0_1"
    results.mkdir()
    said = {
        "postprocessing_fns": ["remove_all_but_largest_component_from_segmentation"] * 2,
        "postprocessing_kwargs": [{"labels_or_regions": [1, 2]}, {"labels_or_regions": 1}],
    }
    (results / "postprocessing.json").write_text(json.dumps(said))
    (results / "postprocessing.pkl").write_bytes(pickle.dumps("what is not read"))
    # Found for these two folds, and not for three.
    assert "none" in {fact.what: fact.value for fact in read_nnunet(folder, device="cpu").facts}["postprocessing"]
    parts = read_nnunet(folder, folds=(0, 1), device="cpu")
    plain = read_nnunet(trained, folds=(0, 1), device="cpu")
    assert parts.reference_prediction is not None
    fact = {fact.what: fact for fact in parts.facts}["postprocessing"]
    assert fact.source == "crossval_results_folds_0_1/postprocessing.json" and "largest component" in fact.value
    found, expected = deployed(parts, cases[3][0]), parts.reference_prediction(cases[3][0])
    assert float((found.as_tensor()[0] == expected).float().mean()) >= 0.9999
    before = deployed(plain, cases[3][0]).as_tensor()[0]
    assert int((before > 0).sum()) > int((expected > 0).sum()) > 0


def test_pickled_postprocessing_needs_trust(untrained: Path) -> None:
    from nnunetv2.postprocessing.remove_connected_components import remove_all_but_largest_component_from_segmentation

    held = ([remove_all_but_largest_component_from_segmentation], [{"labels_or_regions": 1}])
    (untrained / "postprocessing.pkl").write_bytes(pickle.dumps(held))
    with pytest.raises(TargetError, match="--trust"):
        read_nnunet(untrained, device="cpu")
    parts = read_nnunet(untrained, device="cpu", trust=True)
    assert {fact.what: fact for fact in parts.facts}["postprocessing"].source == "postprocessing.pkl"


def test_numbers_of_numpy_in_the_log_are_read_without_trust(untrained: Path) -> None:
    """A checkpoint of nnU-Net's trainer holds them, so that torch alone refuses it."""
    with pytest.raises(pickle.UnpicklingError):
        torch.load(untrained / "fold_0" / FILE, weights_only=True)
    assert read_nnunet(untrained, device="cpu").kind == "nnU-Net"


def test_pickled_objects_in_a_checkpoint_need_trust(untrained: Path) -> None:
    file = untrained / "fold_0" / FILE
    content = torch.load(file, weights_only=False)
    torch.save({**content, "written": datetime.date(2026, 1, 1)}, file)
    with pytest.raises(TargetError, match="--trust"):
        read_nnunet(untrained, device="cpu")
    assert read_nnunet(untrained, device="cpu", trust=True).kind == "nnU-Net"


def test_classes_from_elsewhere_need_trust(untrained: Path) -> None:
    content = json.loads((untrained / "plans.json").read_text())
    architecture = content["configurations"][CONFIGURATION]["architecture"]
    architecture["network_class_name"] = "collections.OrderedDict"
    (untrained / "plans.json").write_text(json.dumps(content))
    with pytest.raises(TargetError, match="'collections.OrderedDict'.*--trust"):
        read_nnunet(untrained, device="cpu")


def test_folds(untrained: Path) -> None:
    shutil.copytree(untrained / "fold_0", untrained / "fold_all")
    shutil.copytree(untrained / "fold_0", untrained / "fold_3")

    def read(folds: Any) -> list[str]:
        names = read_nnunet(untrained, folds=folds, device="cpu").hashes
        return [name for name in names if name.startswith("weights of")]

    assert read(None) == ["weights of fold_0", "weights of fold_3"]
    assert read("all") == ["weights of fold_all"]
    assert read(3) == read(("3",)) == ["weights of fold_3"]
    for folds, error, words in (
        ((0, 7), TargetError, "no fold_7/checkpoint_final.pth .folds with this checkpoint: 0, 3"),
        ((0, 0), TargetError, "once"),
        ((), TargetError, "no fold_x"),
        ("none", TypeError, "folds must be"),
        ((True,), TypeError, "folds must be"),
    ):
        with pytest.raises(error, match=words):
            read(folds)
    with pytest.raises(TargetError, match="no fold_x/checkpoint_best.pth"):
        read_nnunet(untrained, checkpoint="checkpoint_best.pth", device="cpu")
    shutil.rmtree(untrained / "fold_0")
    shutil.rmtree(untrained / "fold_3")
    assert read(None) == ["weights of fold_all"]


def _other_weights(folder: Path) -> None:
    file = folder / "fold_0" / FILE
    content = torch.load(file, weights_only=False)
    first = next(iter(content["network_weights"]))
    content["network_weights"][first] = torch.zeros(2)
    torch.save(content, file)


def _nan_weights(folder: Path) -> None:
    file = folder / "fold_0" / FILE
    content = torch.load(file, weights_only=False)
    next(iter(content["network_weights"].values())).fill_(float("nan"))
    torch.save(content, file)


def _changed_plans(folder: Path, **changes: Any) -> None:
    content = json.loads((folder / "plans.json").read_text())
    content["configurations"][CONFIGURATION].update(changes)
    (folder / "plans.json").write_text(json.dumps(content))


BROKEN = {
    "no plans": (lambda f: (f / "plans.json").unlink(), "has no plans.json"),
    "no dataset": (lambda f: (f / "dataset.json").unlink(), "has no dataset.json"),
    "no JSON": (lambda f: (f / "plans.json").write_text("{"), "cannot be read as JSON"),
    "a list": (lambda f: (f / "plans.json").write_text("[]"), "must hold a JSON object, got a list"),
    "no labels": (lambda f: (f / "dataset.json").write_text("{}"), "must hold the mappings labels"),
    "cut checkpoint": (lambda f: (f / "fold_0" / FILE).write_bytes(b"PK"), "cannot be read as a checkpoint"),
    "empty checkpoint": (lambda f: torch.save({}, f / "fold_0" / FILE), "is no checkpoint of nnU-Net v2"),
    "a tensor": (lambda f: torch.save(torch.zeros(1), f / "fold_0" / FILE), "must hold a dictionary"),
    "other weights": (_other_weights, "do not fit the architecture"),
    "NaN weights": (_nan_weights, "NaN or infinite"),
    "no configuration": (lambda f: edit(f / "plans.json", configurations={}), "does not describe the configuration"),
    "cascade": (lambda f: _changed_plans(f, previous_stage="3d_lowres"), "second stage of a cascade"),
    "pictures": (lambda f: edit(f / "plans.json", image_reader_writer="NoSuchReader"), "does not describe"),
    "own preprocessing": (lambda f: _changed_plans(f, preprocessor_name="NoSuch"), "NoSuch, is not nnU-Net's own"),
    "gaps in labels": (
        lambda f: edit(f / "dataset.json", labels={"background": 0, "a": 1, "b": 4}),
        "must be consecutive",
    ),
    "too many channels": (
        lambda f: edit(f / "dataset.json", channel_names={"0": "CT", "1": "PET"}),
        "normalize 1 channels",
    ),
}


@pytest.mark.parametrize("what", BROKEN)
def test_broken_folders_are_one_sentence(untrained: Path, what: str) -> None:
    damage, words = BROKEN[what]
    damage(untrained)
    with pytest.raises(TargetError, match=words) as caught:
        read_nnunet(untrained, device="cpu")
    assert "\n" not in str(caught.value)


def test_folds_of_different_trainings_are_refused(untrained: Path) -> None:
    shutil.copytree(untrained / "fold_0", untrained / "fold_1")
    file = untrained / "fold_1" / FILE
    content = torch.load(file, weights_only=False)
    torch.save({**content, "trainer_name": "nnUNetTrainerNoMirroring"}, file)
    with pytest.raises(TargetError, match="trainer is 'nnUNetTrainer' in fold_0 and 'nnUNetTrainerNoMirroring'"):
        read_nnunet(untrained, device="cpu")


def test_other_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TargetError, match="there is no nnU-Net folder"):
        read_nnunet(tmp_path / "none")
    with pytest.raises(TargetError, match="has no plans.json"):
        read_nnunet(tmp_path)
    (tmp_path / "plans.pkl").touch()
    with pytest.raises(TargetError, match="nnU-Net v1"):
        read_nnunet(tmp_path)


def test_version_is_checked(untrained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "2.5.1")
    with pytest.raises(TargetError, match="nnunetv2 2.5.1 is installed"):
        read_nnunet(untrained)

    def absent(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", absent)
    with pytest.raises(TargetError, match=r"monai-adversarial\[nnunet\]"):
        read_nnunet(untrained)


@pytest.mark.parametrize("nested", [True, False])
def test_bundle_of_monai(
    nested: bool, trained: Path, parts: TargetParts, cases: Cases, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What MONAI's own converter makes of the folder, fold by fold, is read as the folder is."""
    from monai.apps.nnunet import convert_nnunet_to_monai_bundle

    results = tmp_path / "results"
    copied = Path(shutil.copytree(trained, results / trained.parent.name / trained.name))
    monkeypatch.setenv("nnUNet_results", str(results))
    bundle = tmp_path / "bundle"
    (bundle / "models").mkdir(parents=True)
    for fold in range(3):
        # It reads weights only, and there are numbers of NumPy beside them; and it wants a best checkpoint.
        content = torch.load(trained / f"fold_{fold}" / FILE, weights_only=False)
        plain = {key: value for key, value in content.items() if key not in ("logging", "_best_ema")}
        for name in (FILE, "checkpoint_best.pth"):
            torch.save(plain, copied / f"fold_{fold}" / name)
        convert_nnunet_to_monai_bundle({"dataset_name_or_id": "901"}, str(bundle), fold)
    read = read_nnunet(bundle if nested else bundle / "models", device="cpu")
    assert "weights of fold_2" in read.hashes and any(fact.what == "axes" for fact in read.facts)
    first, second = (part.network.state_dict() for part in (read, parts))
    assert all(torch.equal(first[key], second[key]) for key in second)
    assert read.reference_prediction is not None and parts.reference_prediction is not None
    if nested:
        assert torch.equal(read.reference_prediction(cases[2][0]), parts.reference_prediction(cases[2][0]))
        assert torch.equal(deployed(read, cases[2][0]).as_tensor(), deployed(parts, cases[2][0]).as_tensor())


def test_page_runs(trained: Path, cases: Cases, capsys: pytest.CaptureFixture[str]) -> None:
    page = Path(__file__).parents[3] / "docs" / "audit_targets_nnunet.md"
    (block,) = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    names: dict[str, Any] = {"results_dir": trained, "scan": cases[2][0], "label": cases[2][1]}
    exec(compile(block, str(page), "exec"), names)
    said = capsys.readouterr().out
    assert "-160..240 HU" in said and float(names["result"].adversarial_dice[0]) < float(names["result"].clean_dice[0])
