# SPDX-License-Identifier: Apache-2.0
"""The bundle's purify config, and purifiers in its other configs by one override, through the real command line."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from monai_adversarial.data.phantom import write_ct_phantoms
from monai_adversarial.studies.reports.tables import read_rows
from tests.bundles.here import run_here

ROOT = Path(__file__).resolve().parents[2]
BUNDLE = ROOT / "bundles" / "ct_abdomen_unet"


def run(config: str | list[str], directory: Path, **overrides: Any) -> subprocess.CompletedProcess[str]:
    files = [str(BUNDLE / "configs" / file) for file in ([config] if isinstance(config, str) else config)]
    return run_here(files, BUNDLE, directory, {"MONAI_ADVERSARIAL_DATA": ""}, **overrides)


@pytest.fixture(scope="module")
def phantom(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("held_out")
    write_ct_phantoms(folder, 1, seed=1000, section="test", progress=False)
    return folder


def test_table_of_selected_purifiers_resumes(phantom: Path, tmp_path: Path) -> None:
    options = {"dataset_dir": str(phantom), "output_dir": str(tmp_path), "selected": "median,bit_depth"}
    options |= {f"attacks#{name}#steps": 1 for name in ("pgd", "bias_field", "elastic")}
    options["adaptive_steps"] = {"pgd": 2, "bias_field": 1, "elastic": 1}
    done = run("purify.yaml", tmp_path, **options)
    assert done.returncode == 0, done.stderr[-3000:]
    rows = read_rows(tmp_path / "purification.csv")
    assert {(row["defense"], row["attack"]) for row in rows} == {
        (defense, attack) for defense in ("median", "bit_depth") for attack in ("pgd", "bias_field", "elastic")
    }
    for row in rows:
        assert row["adaptive"] <= row["unaware"] + 1e-9
        assert row["clean"] > 0.8
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "records").rglob("*.json")}
    assert len(stamps) == 6
    again = run("purify.yaml", tmp_path, **options)
    assert again.returncode == 0, again.stderr[-3000:]
    assert stamps == {path: path.stat().st_mtime_ns for path in (tmp_path / "records").rglob("*.json")}
    assert "real_data_dir is not set" in again.stdout


def test_unknown_purifier_is_one_sentence(phantom: Path, tmp_path: Path) -> None:
    folders = {"dataset_dir": str(phantom), "output_dir": str(tmp_path / "out")}
    done = run("purify.yaml", tmp_path, selected="magic", **folders)
    assert done.returncode != 0
    assert "error: there is no defense 'magic'" in done.stderr
    assert not (tmp_path / "out").exists()


def test_inference_is_purified_by_one_override_or_one_overlay_key(phantom: Path, tmp_path: Path) -> None:
    purifier = {"_target_": "monai_adversarial.transforms.TotalVariationDenoise", "weight": 10}
    purifier["intensity"] = {"a_min": -160, "a_max": 240}
    inferer = {"_target_": "monai_adversarial.inferers.PurifiedInferer", "inferer": "@inferer", "purifier": purifier}
    overlay = tmp_path / "overlay.yaml"
    overlay.write_text(
        "+preprocessing#transforms:\n- {'_target_': 'monai_adversarial.transforms.TotalVariationDenoised', "
        "'keys': 'image', 'weight': 10, 'intensity': {'a_min': -160, 'a_max': 240}}\n"
    )
    found = {}
    for name, config, more in (
        ("plain", "inference.yaml", {}),
        ("inferer", "inference.yaml", {"evaluator#inferer": inferer}),
        ("transform", ["inference.yaml", str(overlay)], {}),
    ):
        output = tmp_path / name
        done = run(config, tmp_path, dataset_dir=str(phantom), output_dir=str(output), **more)
        assert done.returncode == 0, done.stderr[-3000:]
        found[name] = np.asarray(nib.load(next(output.glob("*_seg.nii.gz"))).dataobj)
    assert np.array_equal(found["inferer"], found["transform"])
    assert found["plain"].shape == found["inferer"].shape
    assert 0 < (found["plain"] != found["inferer"]).mean() < 0.03
