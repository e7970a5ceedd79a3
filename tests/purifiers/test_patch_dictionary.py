# SPDX-License-Identifier: Apache-2.0
"""Denoising by a dictionary of patches."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from skimage.util import view_as_windows

from monai_adversarial.purifiers.context import ImageContext
from monai_adversarial.purifiers.patch_dictionary import THRESHOLD, PatchDictionaryDenoise, _merge, _split
from monai_adversarial.utils.hashing import describe
from tests.helpers import random_image

CONTEXT = ImageContext()


def scan_like(shape: tuple[int, ...], seed: int = 0, noise: float = 0.0) -> torch.Tensor:
    """Two tissues with a curved border, (channel, spatial...), in HU."""
    generator = torch.Generator().manual_seed(seed)
    grid = torch.meshgrid([torch.linspace(-1, 1, n) for n in shape], indexing="ij")
    radius = sum(axis.square() for axis in grid) + 0.2 * torch.sin(5 * grid[0] + seed)
    image = torch.where(radius < 0.5, 80.0, 20.0)
    return (image + noise * torch.randn(shape, generator=generator))[None]


def test_patches_are_all_windows_with_repeated_edges():
    image = random_image((2, 9, 7))
    patches = _split(image, 4, 1)
    expected = view_as_windows(np.pad(image.numpy(), ((0, 0), (3, 3), (3, 3)), mode="edge"), (1, 4, 4))[:, :, :, 0]
    assert np.array_equal(patches.numpy(), expected.reshape(2, 12, 10, 16))


@pytest.mark.parametrize(("size", "stride"), [(4, 2), (3, 3), (6, 2), (2, 1)])
@pytest.mark.parametrize("shape", [(11,), (8, 9), (7, 5, 6)])
def test_merging_gives_back_every_voxel(size, stride, shape):
    image = random_image((3, *shape), dtype=torch.float64)
    patches = _split(image, size, stride)
    assert patches.shape[-1] == size ** len(shape)
    assert torch.allclose(_merge(patches, shape, size, stride), image)
    # Every voxel is in equally many patches: the average is over as many numbers everywhere.
    noise = _merge(torch.ones_like(patches), shape, size, stride)
    assert torch.equal(noise, torch.ones_like(image))


def test_components_shrink_as_the_definition_says():
    image = scan_like((24, 24), noise=10).double()
    purifier = PatchDictionaryDenoise(stride=4).fit([image])
    ours = purifier.purify(image[None], CONTEXT)[0, 0].numpy()
    basis = purifier._components.double().numpy()
    expected = np.empty_like(ours)
    for row in range(0, 24, 4):
        for column in range(0, 24, 4):
            patch = image[0, row : row + 4, column : column + 4].reshape(-1).numpy()
            weights = basis @ (patch - patch.mean())
            kept = np.array([c * max(0.0, 1 - (THRESHOLD * 10 / c) ** 2) for c in weights])
            expected[row : row + 4, column : column + 4] = (basis.T @ kept + patch.mean()).reshape(4, 4)
    assert np.allclose(ours, expected, atol=1e-8)


def test_nearest_takes_the_nearest_patch_and_keeps_the_mean():
    image = scan_like((24, 24), noise=10).double()
    purifier = PatchDictionaryDenoise("nearest", stride=4).fit([scan_like((40, 40), seed) for seed in range(3)], 20)
    ours = purifier.purify(image[None], CONTEXT)[0, 0]
    known = purifier._patches.double()
    assert known.shape == (20, 16) and not known[0].any()
    for row in range(0, 24, 4):
        for column in range(0, 24, 4):
            patch = image[0, row : row + 4, column : column + 4].reshape(-1)
            best = known[(known - (patch - patch.mean())).square().sum(dim=1).argmin()] + patch.mean()
            assert torch.allclose(ours[row : row + 4, column : column + 4].reshape(-1), best)


@pytest.mark.parametrize("method", ["components", "nearest"])
@pytest.mark.parametrize("shape", [(60, 50), (20, 18, 16)])
def test_removes_noise(method, shape):
    clean, noisy = scan_like(shape), scan_like(shape, noise=10)
    purifier = PatchDictionaryDenoise(method).fit([scan_like(shape, seed) for seed in (1, 2)], 64)
    out = purifier.purify(noisy[None], CONTEXT)[0]
    assert float((out - clean).square().mean()) < 0.5 * float((noisy - clean).square().mean())


def test_needs_no_dictionary_for_components():
    clean, noisy = scan_like((20, 18, 16)), scan_like((20, 18, 16), noise=10)
    out = PatchDictionaryDenoise().purify(noisy[None], CONTEXT)[0]
    assert float((out - clean).square().mean()) < 0.5 * float((noisy - clean).square().mean())


@pytest.mark.parametrize("method", ["components", "nearest", "itself"])
def test_samples_and_channels_do_not_mix(method):
    image = torch.stack([scan_like((11, 10, 9), seed, 10) for seed in range(4)]).reshape(2, 2, 11, 10, 9)
    purifier = PatchDictionaryDenoise(method if method != "itself" else "components")
    if method != "itself":
        purifier.fit(image[0, :, None], 32)
    together = purifier.purify(image, CONTEXT)
    for sample in range(2):
        for channel in range(2):
            part = (slice(sample, sample + 1), slice(channel, channel + 1))
            assert torch.allclose(together[part], purifier.purify(image[part], CONTEXT), atol=1e-3)


def test_a_saved_dictionary_does_the_same_also_in_network_values_and_with_another_stride(tmp_path):
    image = scan_like((12, 12, 12), noise=10).double()
    window = {"a_min": -160, "a_max": 240}
    for method in ("components", "nearest"):
        made = PatchDictionaryDenoise(method, intensity=window).fit([(scan_like((12, 12, 12), 1) + 160) / 400], 32)
        made.save(tmp_path / "dictionary.pt")
        again = PatchDictionaryDenoise(method, dictionary=tmp_path / "dictionary.pt")
        assert again.gradient == made.gradient
        expected = (again.purify(image[None], CONTEXT) + 160) / 400
        assert torch.allclose(made.purify((image[None] + 160) / 400, CONTEXT), expected, atol=1e-6)
        one = PatchDictionaryDenoise(method, stride=1, dictionary=tmp_path / "dictionary.pt")
        close = (one.purify(image[None], CONTEXT) - again.purify(image[None], CONTEXT)).abs().mean()
        assert float(close) < 3.0  # a wrong order of voxels in the patches would be noise
    assert [file.name for file in tmp_path.iterdir()] == ["dictionary.pt"]


def test_fitting_repeats():
    images = [scan_like((20, 20), seed, 5) for seed in range(2)]
    one, other = (PatchDictionaryDenoise("nearest").fit(iter(images), 16, seed=3) for _ in range(2))
    assert torch.equal(one._patches, other._patches)
    assert not torch.equal(one._patches, PatchDictionaryDenoise("nearest").fit(images, 16, seed=4)._patches)


@pytest.mark.parametrize("method", ["components", "nearest"])
def test_the_hash_tells_dictionaries_apart_where_records_look(method, tmp_path):
    images = [scan_like((20, 20), seed, 5) for seed in range(2)]
    empty = PatchDictionaryDenoise(method)
    assert empty.dictionary_hash is None and "dictionary_hash" not in describe(empty)
    made, same, other = (PatchDictionaryDenoise(method).fit(given, 16) for given in (images, images, images[:1]))
    made.save(tmp_path / "made.pt")
    read = PatchDictionaryDenoise(method, dictionary=tmp_path / "made.pt")
    assert len(made.dictionary_hash) == 16
    assert describe(made) == describe(same) == describe(read)
    assert describe(made)["dictionary_hash"] == made.dictionary_hash != other.dictionary_hash
    before = made.dictionary_hash
    assert made.fit(images[:1], 16).dictionary_hash == other.dictionary_hash != before


def test_components_with_a_dictionary_are_differentiated_exactly():
    purifier = PatchDictionaryDenoise(noise=3.0).fit([scan_like((16, 16), noise=5)])
    image = scan_like((6, 7), noise=10).double()[None].requires_grad_()
    assert purifier.gradient == "exact"
    assert torch.autograd.gradcheck(lambda x: purifier.purify(x, CONTEXT), image)


def test_components_of_the_image_itself_are_held_fixed_in_the_surrogate():
    purifier, image = PatchDictionaryDenoise(), scan_like((12, 12), noise=10).double()[None].requires_grad_()
    assert purifier.gradient == "surrogate"
    (ours,) = torch.autograd.grad(purifier.surrogate(image, CONTEXT).square().sum(), image)
    given = PatchDictionaryDenoise().fit([image[0]])  # few patches: the same components
    given._components = given._components.double()
    (expected,) = torch.autograd.grad(given.purify(image, CONTEXT).square().sum(), image)
    assert torch.allclose(ours, expected, rtol=1e-2, atol=1e-2 * float(expected.abs().max()))


def test_the_surrogate_of_the_nearest_patch_is_a_soft_choice():
    image = scan_like((6, 7), noise=10).double()[None].requires_grad_()
    purifier = PatchDictionaryDenoise("nearest").fit([scan_like((40, 40), seed) for seed in range(3)], 20)
    assert torch.autograd.gradcheck(lambda x: purifier.surrogate(x, CONTEXT), image)
    purifier.noise = 1e-3
    assert torch.allclose(purifier.surrogate(image, CONTEXT), purifier.purify(image, CONTEXT))


def test_voxels_outside_the_window_stay():
    image = scan_like((16, 16), noise=10)[None]
    image[..., :5] = -1000
    out = PatchDictionaryDenoise().purify(image, CONTEXT)
    assert torch.equal(out[..., :5], image[..., :5]) and not torch.equal(out, image)


def test_bad_arguments_are_refused(tmp_path):
    image = torch.zeros(1, 1, 8, 8)
    fitted = PatchDictionaryDenoise("nearest").fit([scan_like((16, 16))], 8)
    fitted.save(tmp_path / "flat.pt")
    torch.save({"other": 1}, tmp_path / "other.pt")
    for error, message, make in (
        (ValueError, "method must be one of", lambda: PatchDictionaryDenoise("quilt")),
        (ValueError, "noise must be a finite number > 0", lambda: PatchDictionaryDenoise(noise=0)),
        (ValueError, "stride must divide patch_size 4", lambda: PatchDictionaryDenoise(stride=3)),
        (RuntimeError, "needs a dictionary", lambda: PatchDictionaryDenoise("nearest").purify(image, CONTEXT)),
        (RuntimeError, "call fit first", lambda: PatchDictionaryDenoise().save(tmp_path / "no.pt")),
        (FileNotFoundError, "does not exist", lambda: PatchDictionaryDenoise(dictionary=tmp_path / "no.pt")),
        (ValueError, "with other content", lambda: PatchDictionaryDenoise(dictionary=tmp_path / "other.pt")),
        (
            ValueError,
            "patch_size must be that of the dictionary, 4",
            lambda: PatchDictionaryDenoise(patch_size=2, dictionary=tmp_path / "flat.pt"),
        ),
        (TypeError, "dictionary must be the path of a file, got int", lambda: PatchDictionaryDenoise(dictionary=5)),
        (ValueError, "images must be one or more", lambda: PatchDictionaryDenoise().fit([])),
        (ValueError, "images must be one or more", lambda: PatchDictionaryDenoise().fit([image[0], image])),
        (ValueError, r"images must have shape .*, got \(\)", lambda: PatchDictionaryDenoise().fit([5.0])),
        (TypeError, "images must be several images", lambda: PatchDictionaryDenoise().fit(5)),
        (ValueError, "patches of 2 dimensions, but the image has 3", lambda: fitted.purify(image[None], CONTEXT)),
    ):
        with pytest.raises(error, match=message):
            make()
