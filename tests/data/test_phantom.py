# SPDX-License-Identifier: Apache-2.0
"""The CT phantom: determinism, HU, anatomy in patient coordinates, files and command line."""

from __future__ import annotations

import hashlib
import inspect
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from monai.data import MetaTensor, load_decathlon_datalist
from monai.transforms import Compose, EnsureChannelFirstd, LoadImaged, Orientationd
from scipy.ndimage import binary_erosion
from scipy.ndimage import label as connected_components

from monai_adversarial.data import phantom as phantom_module
from monai_adversarial.data.phantom import (
    CLASS_NAMES,
    ensure_ct_phantoms,
    generate_ct_phantom,
    main,
    write_ct_phantoms,
)
from monai_adversarial.data.phantom_anatomy import Anatomy
from monai_adversarial.data.phantom_dataset import CTPhantomDataset
from monai_adversarial.data.phantom_grid import draw_waves, evaluate_waves, world_coordinates

SMALL = (32, 32, 24)
DEFAULT = inspect.signature(generate_ct_phantom).parameters["size"].default
SEEDS = (0, 1, 7)
ORGANS = {name: index for index, name in enumerate(CLASS_NAMES)}


def centroid(label: np.ndarray, affine: np.ndarray, organ: str) -> np.ndarray:
    """Center of an organ in world coordinates (RAS+, mm)."""
    index = np.argwhere(label == ORGANS[organ]).mean(0)
    return affine[:3, :3] @ index + affine[:3, 3]


@pytest.fixture(scope="module")
def default_cases() -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    return [generate_ct_phantom(seed) for seed in SEEDS]


def test_same_seed_gives_the_same_voxels_bit_for_bit() -> None:
    first, second, other = (generate_ct_phantom(seed, SMALL) for seed in (3, 3, 4))
    for a, b in zip(first, second, strict=True):
        assert a.tobytes() == b.tobytes()
    assert not np.array_equal(first[0], other[0]) and not np.array_equal(first[1], other[1])


def test_voxels_do_not_depend_on_the_process_its_threads_or_the_global_generator() -> None:
    code = (
        "import numpy, hashlib; numpy.random.seed(5)\n"
        "from monai_adversarial.data.phantom import generate_ct_phantom as g\n"
        f"print(hashlib.sha256(b''.join(a.tobytes() for a in g(3, {SMALL}))).hexdigest())"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    there = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    np.random.seed(0)  # noqa: NPY002
    before: Any = np.random.get_state()  # noqa: NPY002
    here = hashlib.sha256(b"".join(array.tobytes() for array in generate_ct_phantom(3, SMALL))).hexdigest()
    assert there.stdout.strip() == here
    after: Any = np.random.get_state()  # noqa: NPY002
    np.testing.assert_array_equal(before[1], after[1])
    assert before[2] == after[2]


def test_types_shapes_and_range(default_cases: list) -> None:
    for image, label, affine in default_cases:
        assert image.shape == label.shape == DEFAULT
        assert image.dtype == np.int16 and label.dtype == np.uint8 and affine.shape == (4, 4)
        assert image.min() >= -1024 and image.max() <= 3071
        assert set(np.unique(label)) == set(range(len(CLASS_NAMES)))


def test_organs_have_the_hu_that_the_patient_was_drawn_with(default_cases: list) -> None:
    for seed, (image, label, _) in zip(SEEDS, default_cases, strict=True):
        drawn = Anatomy(np.random.default_rng(np.random.SeedSequence(seed).spawn(3)[1])).hu
        kidney = (drawn["medulla"], drawn["cortex"])
        expected = {
            "liver": (drawn["liver"],) * 2,
            "spleen": (drawn["spleen"],) * 2,
            "left kidney": kidney,
            "right kidney": kidney,
            "pancreas": (drawn["pancreas"],) * 2,
            "aorta": (drawn["aorta"],) * 2,
        }
        for organ, (low, high) in expected.items():
            # Without the rim, which the scanner blurs into what is beside it.
            inside = binary_erosion(label == ORGANS[organ], iterations=1)
            assert inside.any()
            assert low - 10 < image[inside].mean() < high + 10, (seed, organ)
        assert image[label == ORGANS["spine"]].mean() > 100 + drawn["muscle"]


def test_tissue_outside_the_organs_has_air_fat_muscle_gas_and_a_table(default_cases: list) -> None:
    for image, label, affine in default_cases:
        background = image[label == 0]
        # The air beside the patient, in the corner that is anterior.
        corner = image[:8, :8, 20:40] if affine[1, 1] < 0 else image[:8, -8:, 20:40]
        assert abs(corner.mean() + 1000) < 5
        assert (np.abs(background + 104) < 30).mean() > 0.1  # fat
        assert (np.abs(background - 54) < 25).mean() > 0.05  # muscle
        x, y, _ = world_coordinates(affine, image.shape)
        center = centroid(label, affine, "spine")
        inside = (np.abs(x - center[0]) < 100) & (y > center[1]) & (y < center[1] + 100)
        assert 0.005 < (image[inside] < -700).mean() < 0.6  # gas and lung bases inside the body
        behind = y < center[1] - 75
        assert (image[behind] > -700).any() and (image[behind] < -900).mean() > 0.5  # table with air around


def test_noise_has_the_requested_size_and_is_correlated() -> None:
    clean = generate_ct_phantom(2, (64, 64, 32), noise=0)[0].astype(float)
    noisy = generate_ct_phantom(2, (64, 64, 32), noise=12)[0].astype(float)
    inside = (clean > -1000 + 60) & (clean < 3000)
    noise = (noisy - clean)[inside]
    assert abs(noise.mean()) < 0.5 and abs(noise.std() - 12) < 0.5
    neighbors = np.corrcoef((noisy - clean)[:-1, :, :].ravel(), (noisy - clean)[1:, :, :].ravel())[0, 1]
    assert 0.1 < neighbors < 0.7


def test_every_organ_is_present_and_in_its_place_for_many_seeds() -> None:
    for seed in range(40):
        # Half the default resolution: the anatomy of a seed does not depend on the grid.
        _, label, affine = generate_ct_phantom(seed, (64, 64, 32))
        volume = np.bincount(label.ravel(), minlength=8) * abs(np.linalg.det(affine[:3, :3])) / 1000.0
        assert (volume[1:] > [450, 50, 70, 70, 35, 40, 280]).all(), (seed, volume)
        place = {organ: centroid(label, affine, organ) for organ in CLASS_NAMES[1:]}
        # World x grows to the patient's right, y to anterior, z to superior.
        assert place["left kidney"][0] < place["spine"][0] - 20 < place["spine"][0] + 20 < place["right kidney"][0]
        assert place["spleen"][0] < place["aorta"][0] < place["liver"][0]
        assert place["spine"][1] < place["aorta"][1] < place["pancreas"][1]
        assert place["right kidney"][2] < place["liver"][2]


def test_organs_are_in_one_piece(default_cases: list) -> None:
    for _, label, _ in default_cases:
        for index in range(1, 8):
            pieces, _ = connected_components(label == index)
            sizes = np.bincount(pieces.ravel())[1:]
            assert sizes.max() > 0.98 * sizes.sum(), CLASS_NAMES[index]


def test_anatomy_depends_on_the_seed_and_not_on_the_grid() -> None:
    coarse, fine = generate_ct_phantom(5, (48, 48, 32)), generate_ct_phantom(5, (96, 96, 64))
    for index, organ in enumerate(CLASS_NAMES[1:], start=1):
        volumes = [(c[1] == index).sum() * abs(np.linalg.det(c[2][:3, :3])) for c in (coarse, fine)]
        assert volumes[0] == pytest.approx(volumes[1], rel=0.15), organ
        np.testing.assert_allclose(centroid(*coarse[1:], organ), centroid(*fine[1:], organ), atol=4.0)


def test_spacing_varies_is_anisotropic_and_some_cases_are_oblique() -> None:
    affines = [generate_ct_phantom(seed, (16, 16, 16))[2] for seed in range(30)]
    view = 16 * np.array([np.linalg.norm(a[:3, :3], axis=0) for a in affines])
    assert (view[:, :2] > 317).all() and (view[:, :2] < 361).all()
    assert (view[:, 2] > 214).all() and (view[:, 2] < 261).all()
    assert np.ptp(view[:, 0]) > 20 and np.ptp(view[:, 2]) > 20
    assert (view[:, 2] / DEFAULT[2] > 1.1 * view[:, 0] / DEFAULT[0]).all()
    oblique = [np.count_nonzero(np.abs(a[:3, :3]) > 1e-6) > 3 for a in affines]
    assert 3 <= sum(oblique) <= 18
    assert len({"".join(nib.aff2axcodes(a)) for a in affines}) == 3


def test_given_spacing_and_obliqueness_are_obeyed() -> None:
    _, _, straight = generate_ct_phantom(0, (16, 16, 16), (2.0, 2.5, 5.0), oblique=False)
    np.testing.assert_allclose(np.abs(np.diag(straight)[:3]), [2.0, 2.5, 5.0])
    assert np.count_nonzero(straight[:3, :3]) == 3
    _, _, tilted = generate_ct_phantom(0, (16, 16, 16), (2.0, 2.5, 5.0), oblique=True)
    np.testing.assert_allclose(np.linalg.norm(tilted[:3, :3], axis=0), [2.0, 2.5, 5.0], rtol=1e-6)
    assert np.count_nonzero(np.abs(tilted[:3, :3]) > 1e-6) > 3


def test_a_field_of_view_without_organs_is_generated() -> None:
    image, label, _ = generate_ct_phantom(0, (16, 16, 16), (1.0, 1.0, 1.0))
    assert np.isfinite(image).all() and label.shape == (16, 16, 16)


def test_plane_waves_equal_their_definition() -> None:
    rng = np.random.default_rng(0)
    vectors, phase, amplitude = waves = draw_waves(rng, 12, 30.0, 60.0)
    lengths = 2 * np.pi / np.linalg.norm(vectors, axis=1)
    assert (lengths > 30).all() and (lengths < 60).all()
    size, affine = (7, 8, 9), np.array([[2.0, 0.3, 0, -9], [0, 3, 0.1, 4], [0.2, 0, -4, 7], [0, 0, 0, 1]])
    world = np.stack(world_coordinates(affine, size), -1)
    expected = (amplitude * np.cos(world @ vectors.T + phase)).sum(-1)
    np.testing.assert_allclose(evaluate_waves(waves, affine, size), expected, atol=2e-5)


def test_a_case_of_128_cubed_takes_about_a_second() -> None:
    start = time.process_time()
    generate_ct_phantom(0, (128, 128, 128))
    assert time.process_time() - start < 5  # 1.1 s alone on one core of the reference machine


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"seed": -1}, "seed must be a non-negative integer, got -1"),
        ({"seed": 1.5}, "seed must be a non-negative integer, got 1.5"),
        ({"size": (32, 32)}, "size must be three integers"),
        ({"size": (8, 32, 32)}, "of at least 16"),
        ({"spacing": (1, 1, 0)}, "spacing must be three positive lengths"),
        ({"noise": float("nan")}, "noise must be a non-negative"),
        ({"deformation": 50}, "deformation must be between 0 and 8 mm"),
        ({"variation": 2}, "variation must be between 0 and 1"),
    ],
)
def test_bad_arguments_are_named(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        generate_ct_phantom(**{"seed": 0, "size": SMALL, **arguments})


def test_dataset_gives_metatensors_that_pass_through_a_pipeline() -> None:
    plain = CTPhantomDataset(2, seed=10, size=SMALL)
    assert len(plain) == 2
    image, label, affine = generate_ct_phantom(11, SMALL)
    item = plain[1]
    assert isinstance(item["image"], MetaTensor) and isinstance(item["label"], MetaTensor)
    np.testing.assert_array_equal(item["image"][0].numpy(), image)
    np.testing.assert_array_equal(item["label"][0].numpy(), label)
    np.testing.assert_array_equal(item["image"].affine.numpy(), affine)
    transform = Compose(
        [EnsureChannelFirstd(("image", "label")), Orientationd(("image", "label"), axcodes="RAS", labels=None)]
    )
    oriented = CTPhantomDataset(2, seed=10, transform=transform, size=SMALL)[1]
    assert nib.aff2axcodes(oriented["image"].affine.numpy()) == ("R", "A", "S")
    assert oriented["label"].shape == (1, *SMALL)
    with pytest.raises(ValueError, match="count must be at least 1, got 0"):
        CTPhantomDataset(0)


def test_written_files_hold_what_was_generated(tmp_path: Path) -> None:
    path = write_ct_phantoms(tmp_path / "new", 3, seed=20, validation=1, progress=False, size=SMALL, oblique=True)
    datalist = json.loads(path.read_text())
    assert [entry["image"] for entry in datalist["training"]] == ["images/case_000.nii.gz", "images/case_001.nii.gz"]
    assert [entry["label"] for entry in datalist["validation"]] == ["labels/case_002.nii.gz"]
    assert datalist["labels"]["5"] == "pancreas"
    image, label, affine = generate_ct_phantom(22, SMALL, oblique=True)
    for folder, array in (("images", image), ("labels", label)):
        file: Any = nib.load(tmp_path / "new" / folder / "case_002.nii.gz")
        assert file.get_data_dtype() == array.dtype
        np.testing.assert_array_equal(np.asarray(file.dataobj), array)
        np.testing.assert_array_equal(file.affine, affine)
        np.testing.assert_allclose(file.header.get_zooms(), np.linalg.norm(affine[:3, :3], axis=0), rtol=1e-6)
        np.testing.assert_allclose(file.get_qform(), affine, atol=1e-3)
        assert file.header.get_xyzt_units()[0] == "mm"
    entries = load_decathlon_datalist(str(path), data_list_key="validation")
    loaded = LoadImaged(("image", "label"))(entries[0])
    np.testing.assert_array_equal(loaded["image"].numpy(), image)
    assert sorted(p.name for p in (tmp_path / "new").rglob("*") if p.name.startswith(".")) == []


def test_writing_continues_with_the_missing_cases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_ct_phantoms(tmp_path, 2, seed=0, progress=False, size=SMALL)
    kept = tmp_path / "images" / "case_000.nii.gz"
    before = kept.stat().st_mtime_ns
    (tmp_path / "labels" / "case_001.nii.gz").unlink()
    (tmp_path / "datalist.json").unlink()
    generated = []

    def counted(seed: int, *arguments: object, **options: object) -> tuple:
        generated.append(seed)
        return generate_ct_phantom(seed, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(phantom_module, "generate_ct_phantom", counted)
    ensure_ct_phantoms(tmp_path, 3, 0, progress=False, size=SMALL)
    assert generated == [1, 2] and kept.stat().st_mtime_ns == before
    assert len(json.loads((tmp_path / "datalist.json").read_text())["training"]) == 3
    ensure_ct_phantoms(tmp_path, 3, 0, progress=False, size=SMALL)
    assert generated == [1, 2]


def test_other_cases_are_neither_overwritten_nor_mixed_in(tmp_path: Path) -> None:
    write_ct_phantoms(tmp_path, 1, seed=0, progress=False, size=SMALL)
    with pytest.raises(ValueError, match="output_dir already has another images/case_000.nii.gz"):
        write_ct_phantoms(tmp_path, 1, seed=1, progress=False, size=SMALL)
    (tmp_path / "images" / "case_000.nii.gz").write_bytes(b"not a NIfTI")
    with pytest.raises(ValueError, match="output_dir has an unreadable file"):
        write_ct_phantoms(tmp_path, 1, seed=0, progress=False, size=SMALL)


def test_a_failed_write_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(image: object, name: str) -> None:
        Path(name).write_bytes(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(phantom_module.nib, "save", fail)
    with pytest.raises(OSError, match="No space left"):
        write_ct_phantoms(tmp_path, 1, progress=False, size=SMALL)
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == []


def test_command_line_writes_a_data_set(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "monai_adversarial.data.phantom", "--output_dir", str(tmp_path / "data")]
    done = subprocess.run(
        [*command, "--count", "2", "--seed", "4", "--size", "32", "32", "24"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "2/2" in done.stderr and "RuntimeWarning" not in done.stderr  # a progress bar, and no double import
    assert done.stdout.strip() == str(tmp_path / "data" / "datalist.json")
    written: Any = nib.load(tmp_path / "data" / "images" / "case_001.nii.gz")
    np.testing.assert_array_equal(np.asarray(written.dataobj), generate_ct_phantom(5, SMALL)[0])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["--count", "0"], "count must be at least 1"), (["--size", "4", "4", "4"], "size must be three integers")],
)
def test_command_line_explains_bad_input_in_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture, arguments: list[str], message: str
) -> None:
    assert main(["--output_dir", str(tmp_path), *arguments]) == 2
    assert message in capsys.readouterr().err
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == []
