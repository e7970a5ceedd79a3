# SPDX-License-Identifier: Apache-2.0
"""The networks and cases of ``audit_examples.py``: real ones, and small ones made in seconds."""

from __future__ import annotations

import importlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

__all__ = ["abdomen_unet", "make_nnunet", "make_onnx", "make_phantoms", "make_zoo_bundle", "serve_onnx", "write_scan"]

REPOSITORY = Path(__file__).resolve().parent.parent
BUNDLE = REPOSITORY / "bundles" / "ct_abdomen_unet"
WINDOW_SIZE = (64, 64, 64)
SERVED_NAME = "abdomen"


def make_phantoms(folder: Path, count: int = 4, seed: int = 500) -> Path:
    """CT phantoms that the bundle's networks have not seen."""
    from monai_adversarial.data.phantom import main

    if not (folder / "datalist.json").is_file():
        main(["--output_dir", str(folder), "--count", str(count), "--seed", str(seed)])
    return folder


def write_scan(folder: Path, data: Path) -> Path:
    """The real labelled scan, cropped as the abdominal U-Net expects it, as two NIfTI files."""
    from monai.transforms import SaveImage

    from benchmarks.real_scan import load_scan

    if not (folder / "labels" / "scan.nii.gz").is_file():
        scan = load_scan(data)
        for name, volume, dtype in (("images", scan.image, "int16"), ("labels", scan.label, "uint8")):
            (folder / name).mkdir(parents=True, exist_ok=True)
            write = SaveImage(output_dir=folder / name, output_postfix="", output_dtype=dtype, separate_folder=False,
                              resample=False, print_log=False)  # fmt: skip
            write(volume[0], filename=str(folder / name / "scan"))
    return folder


def abdomen_unet() -> Any:
    """The abdominal U-Net (fold 2) on the scanner's voxels, for ``--python benchmarks.audit_example_targets:...``."""
    from benchmarks.real_scan import CLASSES, find_data, load_network
    from monai_adversarial.audit import AuditTarget
    from monai_adversarial.models import AttackedModel

    model = AttackedModel(load_network(find_data()), image_units="HU", class_names=list(CLASSES), activation="softmax")
    return AuditTarget.of_model(model, name="all-convolutional U-Net, TCIA Pancreas-CT, fold 2")


def make_nnunet(folder: Path) -> tuple[Path, Path]:
    """A results folder of three folds that nnU-Net's own trainer trained for seconds, and a folder of two cases."""
    import pytest

    made = importlib.import_module("tests.audit.targets.nnunet_parts")
    done = folder / "done.json"
    if not done.is_file():
        shutil.rmtree(folder, ignore_errors=True)
        cases = folder / "cases"
        cases.mkdir(parents=True)
        seen = [made.write_case(cases, seed) for seed in range(4)]
        with pytest.MonkeyPatch.context() as patch:
            results = made.trained_folder(
                folder, patch, made.plans_of(), made.dataset_of(), (0, 1, 2), seen[:2], steps=60
            )
        for image, label in seen[2:]:
            for kind, file in (("images", image), ("labels", label)):
                (folder / "unseen" / kind).mkdir(parents=True, exist_ok=True)
                shutil.copy(file, folder / "unseen" / kind / Path(image).name.replace("_image", ""))
        done.write_text(json.dumps(str(results)), encoding="utf-8")
    return Path(json.loads(done.read_text(encoding="utf-8"))), folder / "unseen"


def make_onnx(file: Path) -> Path:
    """The network of ``ct_abdomen_unet`` as ONNX: logits of windows of a fixed size, any number of them at once."""
    import torch
    from monai.bundle import ConfigParser

    if not file.is_file():
        parser = ConfigParser()
        parser.read_config(str(BUNDLE / "configs" / "inference.yaml"))
        network = parser.get_parsed_content("network_def")
        weights = torch.load(BUNDLE / "models" / "model.pt", map_location="cpu", weights_only=True)
        network.load_state_dict(weights.get("model", weights))
        torch.onnx.export(
            network.eval(),
            (torch.rand(2, 1, *WINDOW_SIZE),),
            str(file),
            input_names=["image"],
            output_names=["logits"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            dynamo=True,
            external_data=False,
            verbose=False,
        )
    return file


@contextmanager
def serve_onnx(file: Path) -> Iterator[Any]:
    """An HTTP server on the loopback address that answers for an ONNX file in KServe's protocol."""
    import onnxruntime

    made = importlib.import_module("tests.audit.targets.kserve_server")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = int(os.environ.get("OMP_NUM_THREADS", "2"))
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    served = made.Served(lambda image: session.run(None, {"image": image})[0], shape=(-1, 1, *WINDOW_SIZE))
    with made.serving(served, SERVED_NAME):
        yield served


def make_zoo_bundle(
    name: str, zoo: Path, folder: Path, items: Sequence[Mapping[str, Any]], config: str = "inference", steps: int = 80
) -> tuple[Path, Path, list[str]]:
    """An unmodified bundle of the Model Zoo, made-up data, and a network that is trained on them for seconds.

    Args:
        name: of the bundle.
        zoo: a checkout of the Model Zoo.
        folder: for bundle and data.
        items: images and labels, relative to the data; all are trained on.
        config: of the bundle that is read, as ``zoo_cases.py`` calls it.
        steps: of training, through what an audit reads of the bundle.

    Returns:
        the bundle's folder, a datalist, and ``ID=VALUE`` that make windows and networks small.
    """
    from benchmarks.audit_zoo import _make_weights, _overrides
    from benchmarks.zoo_cases import CASES

    case = next(one for one in CASES if one.bundle == name and one.config == config)
    root, data = folder / "bundles" / name, folder / "data" / name
    overrides, datalist = _overrides(case, data), data / "cases.json"
    if not datalist.is_file():
        for one in (root, data):
            shutil.rmtree(one, ignore_errors=True)
        shutil.copytree(zoo / "models" / name, root, ignore=shutil.ignore_patterns("*.pt", "*.ts"))
        _make_weights(root, case, {key: value for key, value in overrides.items() if "validate#" not in key})
        data.mkdir(parents=True)
        case.make_data(data)
        _make_masks(data)
        _train(root, data, items, overrides, case, steps)
        datalist.write_text(json.dumps({"test": list(items)}), encoding="utf-8")
    return root, datalist, [f"{key}={json.dumps(value)}" for key, value in overrides.items()]


def _make_masks(data: Path) -> None:
    """Class maps without loss beside labels that are stored as JPEG, and without a class that a network lacks."""
    import nibabel
    import numpy as np
    from PIL import Image

    for file in data.rglob("merged.nii.gz"):
        label: Any = nibabel.load(file)
        values = np.asarray(label.dataobj)
        nibabel.save(nibabel.Nifti1Image(np.where(values > 5, 0, values).astype(np.uint8), label.affine), file)

    for file in data.rglob("*_seg.jpg"):
        Image.fromarray((np.asarray(Image.open(file)) > 127).astype(np.uint8)).save(file.with_suffix(".png"))


def _train(
    root: Path, data: Path, items: Sequence[Mapping[str, Any]], overrides: Mapping[str, Any], case: Any, steps: int
) -> None:
    import torch
    from monai.losses import DiceCELoss, DiceLoss

    from monai_adversarial.audit import AuditTarget
    from monai_adversarial.audit.targets.bundle import read_bundle
    from monai_adversarial.utils.plain import as_plain

    files = None if case.config == "inference" else list(case.files)
    target = AuditTarget(read_bundle(root, device="cpu", overrides=dict(overrides), config_files=files))
    try:
        cases = [target.load({"case_id": str(number), **_absolute(item, data)}) for number, item in enumerate(items)]
        network: Any = target.model.network
        torch.manual_seed(0)
        optimizer = torch.optim.Adam(network.parameters(), lr=2e-3)
        network.train().requires_grad_(True)
        with torch.no_grad():  # the statistics of layers that normalize by batches, which then stay as they are
            for _ in range(10):
                for one in cases:
                    network(_padded(as_plain(one.image)))
        network.eval()
        for step in range(steps):
            one = cases[step % len(cases)]
            assert one.label is not None
            logits, label = network(_padded(as_plain(one.image))), _padded(as_plain(one.label).float())
            exclusive = label.shape[1] == 1 and logits.shape[1] > 1
            loss = DiceCELoss(to_onehot_y=True, softmax=True) if exclusive else DiceLoss(sigmoid=True)
            optimizer.zero_grad()
            loss(logits, label).backward()
            optimizer.step()
        torch.save({case.checkpoint_key: network.state_dict()}, root / case.checkpoint)
    finally:
        target.close()


def _padded(volume: Any) -> Any:
    """With zeros up to sizes that networks of five levels take."""
    import torch

    sizes = reversed(volume.shape[2:])
    return torch.nn.functional.pad(volume, [end for size in sizes for end in (0, -size % 32)])


def _absolute(item: Mapping[str, Any], data: Path) -> dict[str, Any]:
    return {
        key: [str(data / one) for one in value] if isinstance(value, list) else str(data / value)
        for key, value in item.items()
    }
