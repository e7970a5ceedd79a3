# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import warnings

import pytest
import torch
from torch.nn import functional as F

from monai_adversarial.attacks.perturbations import warp
from monai_adversarial.attacks.perturbations.warp import warp_class_map, warp_linear, warp_nearest

SHAPES = [(6, 5), (5, 6, 7)]


def grid_sample(image: torch.Tensor, displacement: torch.Tensor, mode: str = "bilinear") -> torch.Tensor:
    """The oracle: torch's own resampling with border padding."""
    shape = image.shape[2:]
    points = torch.meshgrid(*[torch.arange(n, dtype=displacement.dtype) for n in shape], indexing="ij")
    scaled = [(p + displacement[:, i]) * 2 / (shape[i] - 1) - 1 for i, p in enumerate(points)]
    return F.grid_sample(image, torch.stack(scaled[::-1], dim=-1), mode=mode, padding_mode="border", align_corners=True)


def displacement_of(shape: tuple[int, ...], size: float = 2.0, batch: int = 2, dtype=torch.float64) -> torch.Tensor:
    return torch.randn(batch, len(shape), *shape, dtype=dtype) * size


@pytest.fixture(params=[32768, 20, 3], ids=lambda voxels: f"box{voxels}")
def box_voxels(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """The result must not depend on how the volume is cut into boxes."""
    monkeypatch.setattr(warp, "BOX_VOXELS", request.param)
    return request.param


@pytest.fixture(params=[True, False], ids=["only_soft_voxels", "all_voxels"])
def sparse(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Both ways of moving a class map: that of the CPU and that of a GPU."""
    monkeypatch.setattr(warp, "_counts_are_free", lambda device: request.param)
    return request.param


@pytest.mark.parametrize("shape", SHAPES)
def test_linear_warp_equals_grid_sample_with_its_gradients(shape: tuple[int, ...], box_voxels: int) -> None:
    image = torch.randn(2, 3, *shape, dtype=torch.float64, requires_grad=True)
    displacement = displacement_of(shape).requires_grad_()
    weight = torch.randn_like(image)
    moved, expected = warp_linear(image, displacement), grid_sample(image, displacement)
    torch.testing.assert_close(moved, expected)
    gradients = torch.autograd.grad((moved * weight).sum(), (image, displacement))
    wanted = torch.autograd.grad((expected * weight).sum(), (image, displacement))
    torch.testing.assert_close(gradients, wanted)


@pytest.mark.parametrize("shape", [(96, 7), (33, 20, 9), (5,), (1, 4, 4), (1, 1, 1)])
def test_zero_displacement_is_the_identity_to_the_bit(shape: tuple[int, ...], box_voxels: int) -> None:
    image = torch.randn(2, 2, *shape) * 1000
    displacement = torch.zeros(2, len(shape), *shape)
    assert torch.equal(warp_linear(image, displacement), image)
    assert torch.equal(warp_nearest(image, displacement), image)


def test_linear_warp_equals_monais_block() -> None:
    from monai.networks.blocks import Warp

    image = torch.rand(1, 2, 9, 8, 7)
    displacement = displacement_of((9, 8, 7), batch=1, dtype=torch.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        block = Warp()
    torch.testing.assert_close(warp_linear(image, displacement), block(image, displacement), atol=1e-5, rtol=0)
    zero = torch.zeros_like(displacement)
    torch.testing.assert_close(warp_linear(image, zero), block(image, zero), atol=1e-6, rtol=0)


def test_whole_displacements_pick_voxels() -> None:
    image = torch.rand(1, 1, 6, 7)
    displacement = torch.zeros(1, 2, 6, 7)
    displacement[:, 0], displacement[:, 1] = 2.0, -1.0
    moved = warp_linear(image, displacement)
    assert torch.equal(moved[..., :4, 1:], image[..., 2:, :-1])
    assert torch.equal(moved[..., 5, 1:], image[..., 5, :-1])  # the border's values continue


@pytest.mark.parametrize("shape", [(4,), (3, 4), (2, 3, 3)])
def test_linear_warp_passes_gradcheck(shape: tuple[int, ...]) -> None:
    image = torch.randn(1, 2, *shape, dtype=torch.float64, requires_grad=True)
    displacement = displacement_of(shape, 0.7, batch=1).requires_grad_()
    assert torch.autograd.gradcheck(warp_linear, (image, displacement))


def test_positions_outside_have_no_gradient() -> None:
    image = torch.randn(1, 1, 5, 5, dtype=torch.float64)
    displacement = torch.full((1, 2, 5, 5), 10.0, dtype=torch.float64, requires_grad=True)
    moved = warp_linear(image, displacement)
    assert torch.equal(moved.detach(), image[..., -1:, -1:].expand_as(image))
    assert not torch.autograd.grad(moved.sum(), displacement)[0].any()


def test_a_broken_displacement_gives_nan_not_a_crash() -> None:
    moved = warp_linear(torch.rand(1, 1, 4, 4), torch.full((1, 2, 4, 4), float("nan")))
    assert bool(moved.isnan().all())


@pytest.mark.parametrize("shape", SHAPES)
def test_class_map_equals_grid_sampling_its_one_hot(shape: tuple[int, ...], sparse: bool, box_voxels: int) -> None:
    classes = 4
    label = torch.randint(0, classes, (2, *shape))
    label[:, :3, :3] = 1  # some cells of one class
    one_hot = F.one_hot(label, classes).movedim(-1, 1).double()
    displacement = displacement_of(shape).requires_grad_()
    soft, expected = warp_class_map(label, classes, displacement), grid_sample(one_hot, displacement)
    torch.testing.assert_close(soft, expected, atol=1e-6, rtol=0)
    weight = torch.randn_like(soft)
    gradient = torch.autograd.grad((soft * weight).sum(), displacement)
    torch.testing.assert_close(gradient, torch.autograd.grad((expected * weight).sum(), displacement))


@pytest.mark.parametrize("shape", [(3, 4), (2, 3, 3)])
def test_class_map_passes_gradcheck(shape: tuple[int, ...], sparse: bool) -> None:
    label = torch.randint(0, 3, (1, *shape))
    displacement = displacement_of(shape, 0.7, batch=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda d: warp_class_map(label, 3, d), (displacement,))


def test_class_map_without_motion_is_its_one_hot(sparse: bool) -> None:
    label = torch.randint(0, 5, (2, 6, 5, 4))
    soft = warp_class_map(label, 5, torch.zeros(2, 3, 6, 5, 4))
    assert torch.equal(soft, F.one_hot(label, 5).movedim(-1, 1).float())


def test_class_map_of_one_class_has_no_gradient() -> None:
    label = torch.ones(1, 5, 5, dtype=torch.long)
    displacement = displacement_of((5, 5), batch=1).requires_grad_()
    soft = warp_class_map(label, 2, displacement)
    assert torch.equal(soft[:, 1].detach(), torch.ones(1, 5, 5, dtype=torch.float64))
    assert not torch.autograd.grad(soft.sum(), displacement)[0].any()


@pytest.mark.parametrize("shape", SHAPES)
def test_nearest_warp_rounds_as_grid_sample(shape: tuple[int, ...], box_voxels: int) -> None:
    label = torch.randint(0, 50, (2, 1, *shape))
    # Halves are where roundings differ.
    displacement = (displacement_of(shape) * 2).round() / 2
    moved = warp_nearest(label, displacement)
    assert moved.dtype == label.dtype
    # grid_sample sees halves only up to its scaling to [-1, 1]: in voxels the rule is half to even
    points = torch.meshgrid(*[torch.arange(n, dtype=torch.float64) for n in shape], indexing="ij")
    index = [(p + displacement[:, i]).clamp(0, shape[i] - 1).round().long() for i, p in enumerate(points)]
    expected = torch.stack([label[b, 0][tuple(i[b] for i in index)] for b in range(2)])
    assert torch.equal(moved[:, 0], expected)
    random = displacement_of(shape)
    assert torch.equal(warp_nearest(label, random).double(), grid_sample(label.double(), random, "nearest"))


def test_samples_do_not_touch_each_other() -> None:
    image, displacement = torch.rand(3, 1, 6, 6), displacement_of((6, 6), batch=3, dtype=torch.float32)
    together = warp_linear(image, displacement)
    alone = torch.cat([warp_linear(image[i : i + 1], displacement[i : i + 1]) for i in range(3)])
    assert torch.equal(together, alone)


def test_wrong_displacement_is_named() -> None:
    with pytest.raises(ValueError, match="displacement must have shape"):
        warp_linear(torch.rand(1, 1, 4, 4), torch.zeros(1, 3, 4, 4))


@pytest.mark.gpu
@pytest.mark.parametrize("shape", SHAPES)
def test_gpu_gives_the_cpus_result(shape: tuple[int, ...]) -> None:
    image, displacement = torch.rand(2, 2, *shape), displacement_of(shape, dtype=torch.float32)
    label = torch.randint(0, 4, (2, *shape))
    found = []
    for device in ("cpu", "cuda"):
        moved = displacement.to(device).requires_grad_()
        source = image.to(device).requires_grad_()
        loss = warp_linear(source, moved).square().sum() + warp_class_map(label.to(device), 4, moved).square().sum()
        found.append([g.cpu() for g in torch.autograd.grad(loss, (source, moved))])
    torch.testing.assert_close(found[0], found[1], atol=1e-4, rtol=1e-4)
