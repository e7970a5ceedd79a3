# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.inferers import SimpleInferer, SlidingWindowInferer
from monai.transforms import Compose, Invertd, Orientationd, ScaleIntensityRange, ScaleIntensityRanged, Spacingd

from monai_adversarial.inferers import ScannerSpaceInferer, memory_bounded

WINDOW = {"a_min": -160, "a_max": 240, "b_min": 0.0, "b_max": 1.0, "clip": True}
PIXDIM = (1.5, 1.2, 2.0)


def affine_of(spacing, order=(0, 1, 2), signs=(1, 1, 1), angles=(0.0, 0.0, 0.0), shear=0.0) -> np.ndarray:
    """Rotation by three angles (degrees) of permuted, signed axes scaled to ``spacing``; origin off zero."""
    axes = np.zeros((3, 3))
    for voxel_axis, (world_axis, sign) in enumerate(zip(order, signs, strict=True)):
        axes[world_axis, voxel_axis] = sign
    rotation = np.eye(3)
    for axis, angle in enumerate(angles):
        i, j = [k for k in range(3) if k != axis]
        turn = np.eye(3)
        c, s = math.cos(math.radians(angle)), math.sin(math.radians(angle))
        turn[i, i], turn[j, j], turn[i, j], turn[j, i] = c, c, -s, s
        rotation = rotation @ turn
    matrix = np.eye(4)
    matrix[:3, :3] = rotation @ axes @ np.diag(spacing)
    matrix[:3, 2] += shear * matrix[:3, 1]
    matrix[:3, 3] = (-31.0, 12.5, 80.0)
    return matrix


AFFINES = {
    "axis aligned": affine_of((0.8, 0.8, 3.0)),
    "flipped": affine_of((0.8, 0.8, 3.0), signs=(-1, -1, 1)),
    "permuted": affine_of((0.9, 3.1, 0.7), order=(1, 2, 0), signs=(-1, 1, -1)),
    "oblique": affine_of((0.8, 1.1, 2.7), signs=(-1, -1, 1), angles=(12.0, -7.0, 5.0)),
    "oblique permuted": affine_of((2.9, 0.8, 1.1), order=(2, 0, 1), signs=(1, -1, -1), angles=(-9.0, 4.0, 15.0)),
    "sheared": affine_of((0.8, 0.8, 3.0), signs=(-1, -1, 1), angles=(3.0, 0.0, 2.0), shear=0.4),
    "same spacing": affine_of((1.5, 1.2, 2.0), signs=(-1, 1, 1), angles=(6.0, 0.0, 0.0)),
    "one axis kept": affine_of((1.5, 0.7, 2.0), signs=(-1, 1, 1)),
}


def scan(affine: np.ndarray, shape=(13, 11, 9), seed: int = 0) -> MetaTensor:
    generator = torch.Generator().manual_seed(seed)
    data = torch.nn.functional.interpolate(
        torch.randn(1, 1, 5, 5, 5, generator=generator) * 300, size=shape, mode="trilinear"
    )
    data = data + torch.randn(data.shape, generator=generator) * 20
    return MetaTensor(data[0], affine=torch.as_tensor(affine))


@pytest.fixture(scope="module")
def network() -> torch.nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = [torch.nn.Conv3d(1, 3, 3, padding=1), torch.nn.Tanh(), torch.nn.Conv3d(3, 2, 3, padding=1)]
        return torch.nn.Sequential(*layers).eval()


def monai_reference(image: MetaTensor, network, pixdim=PIXDIM, axcodes="RAS") -> tuple[torch.Tensor, torch.Tensor]:
    """Network input and logits on the native grid, by MONAI's transforms and their inverse."""
    steps = [Orientationd("image", axcodes)]
    if pixdim is not None:
        steps.append(Spacingd("image", pixdim=pixdim))
    pipeline = Compose([*steps, ScaleIntensityRanged("image", **WINDOW)])
    data = pipeline({"image": image})
    with torch.no_grad():
        logits = network(data["image"].as_tensor()[None])[0]
    data["pred"] = MetaTensor(logits, meta=data["image"].meta)
    inverse = Invertd("pred", pipeline, orig_keys="image", nearest_interp=False, to_tensor=True)
    return data["image"].as_tensor()[None], inverse(data)["pred"].as_tensor()[None]


@pytest.mark.parametrize("axcodes", ["RAS", "LPS", "SRA"])
@pytest.mark.parametrize("name", AFFINES)
def test_equals_monai_orientation_spacing_and_inversion(name, axcodes, network):
    image = scan(AFFINES[name])
    before, logits = monai_reference(image, network, axcodes=axcodes)
    seen = []

    def spy(x):
        seen.append(x)
        return network(x)

    inferer = ScannerSpaceInferer(None, PIXDIM, axcodes, ScaleIntensityRange(**WINDOW))
    result = inferer(MetaTensor(image[None], meta=image.meta), spy)
    assert seen[0].shape == before.shape and type(seen[0]) is torch.Tensor
    torch.testing.assert_close(seen[0].detach(), before, atol=1e-4, rtol=0)
    assert result.shape == (1, 2, *image.shape[1:])
    torch.testing.assert_close(result.as_tensor().detach(), logits, atol=1e-4, rtol=0)
    np.testing.assert_allclose(np.asarray(result.affine), AFFINES[name])
    if name != "same spacing":
        assert before.shape[2:] != image.shape[1:]


@pytest.mark.parametrize("pixdim", [None, 2.0, (2.0, -1, 1.0), (0.8,)])
def test_other_spacings_equal_monai(pixdim, network):
    image = scan(AFFINES["oblique"])
    _, logits = monai_reference(image, network, pixdim=pixdim)
    result = ScannerSpaceInferer(None, pixdim, "RAS", ScaleIntensityRange(**WINDOW)).for_image(image)(
        image.as_tensor()[None], network
    )
    assert type(result) is torch.Tensor
    torch.testing.assert_close(result.detach(), logits, atol=1e-4, rtol=0)


def test_with_nothing_to_do_it_is_the_inner_inferer(network):
    image = scan(AFFINES["permuted"])[None].as_tensor()
    bound = ScannerSpaceInferer(axcodes=None).for_affine(AFFINES["permuted"])
    assert torch.equal(bound(image, network), network(image))


@pytest.mark.parametrize("name", ["oblique permuted", "sheared"])
@pytest.mark.parametrize("overlap", [0.25, 0.5])
def test_gradient_with_memory_bounded_windows_equals_naive_backpropagation(name, overlap, network):
    image = scan(AFFINES[name]).as_tensor()[None]
    inner = SlidingWindowInferer((8, 6, 7), 2, overlap, "gaussian")
    plain = ScannerSpaceInferer(inner, PIXDIM, "RAS", ScaleIntensityRange(**WINDOW))
    results = []
    for inferer in (plain, memory_bounded(plain)):
        leaf = image.clone().requires_grad_()
        output = inferer.for_affine(AFFINES[name])(leaf, network)
        results.append((output.detach(), torch.autograd.grad(output.pow(2).sum(), leaf)[0]))
    for ours, naive in zip(results[1], results[0], strict=True):
        assert ((ours - naive).norm() / naive.norm()).item() < 1e-5
    assert results[0][1].abs().max() > 0
    assert all(parameter.grad is None for parameter in network.parameters())


@pytest.mark.parametrize("name", ["oblique permuted", "sheared"])
def test_gradient_is_the_derivative(name):
    bound = ScannerSpaceInferer(None, (1.5, 1.2, 2.5)).for_affine(AFFINES[name])
    image = torch.randn(1, 1, 5, 4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert torch.autograd.gradcheck(lambda x: bound(x, torch.sin), image.requires_grad_(), fast_mode=True)


def test_samples_do_not_influence_each_other(network):
    names = ["oblique", "permuted"]
    images = [scan(AFFINES[name], seed=number) for number, name in enumerate(names)]
    inferer = ScannerSpaceInferer(None, PIXDIM, "RAS", ScaleIntensityRange(**WINDOW))
    alone = [inferer.for_image(image)(image.as_tensor()[None], network) for image in images]
    batch = torch.stack([image.as_tensor() for image in images])
    affines = np.stack([AFFINES[name] for name in names])
    together = inferer.for_affine(affines)(batch, network)
    assert torch.equal(together, torch.cat(alone))
    meta = MetaTensor(batch, affine=torch.as_tensor(affines))
    assert torch.equal(inferer(meta, network).as_tensor(), together)
    # some samples of the batch
    bound = inferer.for_affine(affines)
    assert torch.equal(bound.for_samples([1])(batch[1:], network), alone[1])
    assert torch.equal(bound.for_samples([1, 0])(batch.flip(0), network), together.flip(0))
    # one geometry for the whole batch: one call of the network
    calls = []
    inferer.for_affine(affines[:1].repeat(2, 0))(batch, lambda x: calls.append(len(x)) or network(x))
    assert calls == [2]


def test_collated_images_take_their_affines_from_the_loader(network):
    from monai.data import list_data_collate

    images = [scan(AFFINES[name], seed=number) for number, name in enumerate(["oblique", "permuted"])]
    batch = list_data_collate(images)
    inferer = ScannerSpaceInferer(None, PIXDIM, "RAS", ScaleIntensityRange(**WINDOW))
    expected = torch.cat([inferer.for_image(image)(image.as_tensor()[None], network) for image in images])
    result = inferer(batch, network)
    assert isinstance(result, MetaTensor) and torch.equal(result.as_tensor(), expected)
    assert torch.equal(inferer.for_image(batch)(batch.as_tensor(), network), expected)


def test_lps_affines_are_understood(network):
    image = scan(AFFINES["oblique"])
    lps = MetaTensor(image.as_tensor()[None], affine=torch.as_tensor(np.diag([-1.0, -1, 1, 1]) @ AFFINES["oblique"]))
    lps.meta["space"] = "LPS"
    inferer = ScannerSpaceInferer(None, PIXDIM)
    expected = inferer.for_image(image)(image.as_tensor()[None], network)
    torch.testing.assert_close(inferer.for_image(lps)(lps.as_tensor(), network), expected)


@pytest.mark.parametrize("kind", ["tuple", "dict"])
def test_several_outputs_come_back_to_the_native_grid(kind, network):
    image = scan(AFFINES["oblique"]).as_tensor()[None]
    bound = ScannerSpaceInferer(None, PIXDIM).for_affine(AFFINES["oblique"])
    expected = bound(image, network)

    def several(x):
        y = network(x)
        return (y, 2 * y) if kind == "tuple" else {"a": y, "b": 2 * y}

    outputs = bound(image, several)
    first, second = outputs.values() if kind == "dict" else outputs
    torch.testing.assert_close(first, expected)
    torch.testing.assert_close(second, 2 * expected)


def test_integer_and_half_inputs_are_computed_in_float32(network):
    bound = ScannerSpaceInferer(None, PIXDIM).for_affine(AFFINES["oblique"])
    image = scan(AFFINES["oblique"]).as_tensor()[None].round().clamp(-1000, 1000)
    expected = bound(image, network)
    assert torch.equal(bound(image.to(torch.int16), network), expected)
    assert torch.equal(bound(image.half(), network), expected)  # whole numbers up to 2048 are exact in half
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = bound(image, network)
    assert output.dtype == torch.float32
    assert ((output - expected).norm() / expected.norm()).item() < 0.02


def test_two_spatial_axes():
    affine = np.array([[0.0, -2.0, 5.0], [0.8, 0.0, 1.0], [0.0, 0.0, 1.0]])
    image = MetaTensor(torch.randn(1, 1, 12, 9), affine=torch.as_tensor(affine))
    seen = []
    bound = ScannerSpaceInferer(None, 1.6, "RA").for_affine(affine)
    result = bound(image.as_tensor(), lambda x: seen.append(x) or x)
    assert seen[0].shape == (1, 1, 11, 6) and result.shape == image.shape
    # by hand: R runs against the second voxel axis, A along the first; every second sample of A is exact
    torch.testing.assert_close(seen[0][0, 0, 0], image.as_tensor()[0, 0, ::2, -1])


def test_geometry_is_computed_once(network, monkeypatch):
    from monai_adversarial.inferers import scanner_space

    built = []
    original = scanner_space.NetworkGrid
    monkeypatch.setattr(scanner_space, "NetworkGrid", lambda *args: built.append(args) or original(*args))
    image = scan(AFFINES["oblique"])
    inferer = ScannerSpaceInferer(None, PIXDIM)
    bound = inferer.for_image(image)
    for _ in range(3):
        bound(image.as_tensor()[None], network)
    assert len(built) == 1
    for shift in range(20):
        inferer(MetaTensor(image.as_tensor()[None], affine=torch.as_tensor(AFFINES["oblique"] + shift)), network)
    assert len(inferer._grids) <= 8


def test_bad_input_is_refused_with_one_sentence(network):
    image = scan(AFFINES["oblique"])[None].as_tensor()
    inferer = ScannerSpaceInferer(SimpleInferer(), PIXDIM)
    with pytest.raises(ValueError, match="plain tensor without an affine"):
        inferer(image, network)
    with pytest.raises(ValueError, match="MetaTensor with an affine"):
        inferer.for_image(image)
    with pytest.raises(ValueError, match="for_samples needs"):
        inferer.for_samples([0])
    bound = inferer.for_affine(AFFINES["oblique"])
    assert bound.for_samples([0, 2])(image, network).shape == (1, 2, *image.shape[2:])
    assert bound.for_image(image) is bound
    with pytest.raises(ValueError, match="affine must be finite"):
        inferer.for_affine(np.eye(5))
    with pytest.raises(ValueError, match="affine must be finite"):
        inferer.for_affine(np.full((4, 4), np.nan))
    with pytest.raises(ValueError, match="invertible"):
        inferer.for_affine(np.diag([1.0, 0, 1, 1]))(image, network)
    with pytest.raises(ValueError, match="different affines"):
        inferer.for_affine(np.stack([AFFINES["oblique"], AFFINES["permuted"]]))(image, network)
    with pytest.raises(ValueError, match="spatial size"):
        inferer.for_affine(np.eye(4))(image, lambda x: x[..., ::2])
    with pytest.raises(ValueError, match="shape"):
        inferer.for_affine(np.eye(4))(image[0, 0], network)
    with pytest.raises(ValueError, match="mode"):
        ScannerSpaceInferer(mode="nearest")
    with pytest.raises(ValueError, match="pixdim"):
        ScannerSpaceInferer(pixdim=(1.0, float("nan")))
    for codes in ("RAX", "RRA", "R", ""):
        with pytest.raises(ValueError, match="axcodes"):
            ScannerSpaceInferer(axcodes=codes)
    with pytest.raises(ValueError, match="must name 3 axes"):
        ScannerSpaceInferer(axcodes="RA").for_affine(np.eye(4))(image, network)
