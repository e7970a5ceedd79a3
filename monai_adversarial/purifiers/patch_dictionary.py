# SPDX-License-Identifier: Apache-2.0
"""Denoising by a dictionary of clean patches."""

from __future__ import annotations

import hashlib
import itertools
import os
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from monai.config import NdarrayOrTensor

from monai_adversarial.purifiers.base import Purifier
from monai_adversarial.purifiers.context import ImageContext
from monai_adversarial.purifiers.dictionary import dictionary_form
from monai_adversarial.purifiers.discrete_cosine import repeat_edges
from monai_adversarial.purifiers.window import SOFT_TISSUE, check_window, window_in_image, within_window
from monai_adversarial.utils.plain import as_plain
from monai_adversarial.utils.validation import check_choice, check_count, check_positive

__all__ = [
    "PatchDictionaryDenoise",
    "PatchDictionaryDenoiseD",
    "PatchDictionaryDenoiseDict",
    "PatchDictionaryDenoised",
]

#: components weaker than this many standard deviations of the noise are dropped
THRESHOLD = 2.5
#: patches that a dictionary is made from, and rounds of k-means
SAMPLES, ROUNDS = 50_000, 12
#: patches that are compared with the dictionary at once
CHUNK = 16_384


class PatchDictionaryDenoise(Purifier):
    """Replaces overlapping patches by what a dictionary of clean patches can say; the mean of each patch is kept.

    ``"components"``: a patch keeps those of its principal components that stand out of the noise; with coefficient c
    and threshold t = 2.5 ``noise`` each becomes ``c max(0, 1 - t^2 / c^2)`` (the nonnegative garrote). Without a
    dictionary the components are those of the image itself. ``"nearest"``: a patch becomes the nearest of some hundred
    patches (the means of k-means clusters of clean patches, and the flat patch).

    How it is attacked: ``"components"`` with a dictionary is differentiable. Without one the surrogate is the same
    operation with the components held fixed. That of ``"nearest"`` takes the mean of all patches of the dictionary
    instead, weighted by ``exp(-d^2 / (2 s^2))`` with their distance d from the patch and s = ``noise`` times a quarter
    of the root of a patch's voxels; PGD through it is stronger than through the identity.

    >>> import torch
    >>> from monai_adversarial.transforms import PatchDictionaryDenoise
    >>> from monai_adversarial.data.example import example_case
    >>> _, clean, _ = example_case(16, seed=1)
    >>> _, image, _ = example_case(16, seed=2)
    >>> denoise = PatchDictionaryDenoise("nearest").fit([clean[0]], patches=16)
    >>> denoise.save("patches.pt")
    >>> torch.equal(PatchDictionaryDenoise("nearest", dictionary="patches.pt")(image[0]), denoise(image[0]))
    True

    Args:
        method: ``"components"`` or ``"nearest"``.
        noise: standard deviation in HU of the noise to remove; for ``"components"``, and for the
            surrogate of ``"nearest"``.
        patch_size: voxels along each axis.
        stride: voxels between patches; divides ``patch_size``.
        dictionary: file written by :py:meth:`save`; None for none yet (see :py:meth:`fit`).
        window: HU that are denoised; voxels outside stay as they are and count as its ends.
        intensity: see :class:`Purifier`.
        spacing: see :class:`Purifier`.

    Attributes:
        dictionary_hash: of the dictionary's content, 16 characters; None without one. The same dictionary has the same
            hash whether it was fitted or read from a file.

    Source: quilting of Guo et al., "Countering adversarial images using input transformations", ICLR 2018 (nearest
    patches, without their seam cuts); Deledalle, Salmon, Dalalyan, "Image denoising with patch based PCA", BMVC 2011
    (components). Both in 3D with k-means or the garrote: reconstructions.

    Survey entry: P04 (reconstruction).
    """

    dictionary_hash: str | None = None

    def __init__(
        self,
        method: str = "components",
        noise: float = 10.0,
        patch_size: int = 4,
        stride: int = 2,
        dictionary: str | os.PathLike | None = None,
        window: Sequence[float] = SOFT_TISSUE,
        intensity: Any = None,
        spacing: Any = None,
    ) -> None:
        super().__init__(intensity, spacing)
        self.method = check_choice("method", method, ("components", "nearest"))
        self.noise = check_positive("noise", noise)
        self.patch_size = check_count("patch_size", patch_size, minimum=2)
        self.stride = check_count("stride", stride)
        if patch_size % stride:
            raise ValueError(f"stride must divide patch_size {patch_size}, got {stride}.")
        self.window = check_window(window)
        self._components: Any = None  # tensors (patches, voxels) in HU
        self._patches: Any = None
        self._rank = 0
        self.gradient = "surrogate"
        if dictionary is not None:
            if not isinstance(dictionary, (str, os.PathLike)):
                raise TypeError(f"dictionary must be the path of a file, got {type(dictionary).__name__}.")
            self._load(Path(dictionary))

    def fit(self, images: Iterable[NdarrayOrTensor], patches: int = 256, seed: int = 0) -> PatchDictionaryDenoise:
        """Make the dictionary from clean images.

        Args:
            images: (channel, spatial...), all with the same number of spatial dimensions, in the units of the images
                to come; a data set's generator will do, one image at a time is held.
            patches: size of the dictionary of ``"nearest"``.
            seed: of the choice of patches.

        Returns:
            itself.
        """
        check_count("patches", patches)
        if isinstance(images, str) or not isinstance(images, Iterable):
            raise TypeError(f"images must be several images (channel, spatial...), got {type(images).__name__}.")
        generator = torch.Generator().manual_seed(seed)
        pools: list[torch.Tensor] = []
        ranks: set[int] = set()
        low, high = window_in_image(self.window, self.intensity)
        for image in images:
            plain = as_plain(torch.as_tensor(image)).detach().float()
            if not 2 <= plain.ndim <= 4:
                raise ValueError(
                    f"images must have shape (channel, 1 to 3 spatial dimensions), got {tuple(plain.shape)}."
                )
            ranks.add(plain.ndim - 1)
            found = _split(plain.clamp(low, high), self.patch_size, self.stride).flatten(0, -2).cpu()
            found = found - found.mean(dim=1, keepdim=True)
            pools.append(found[torch.randperm(len(found), generator=generator)[:SAMPLES]])
        if len(ranks) != 1:
            raise ValueError(
                f"images must be one or more with the same number of spatial dimensions, got {sorted(ranks) or 'none'}."
            )
        self._rank = ranks.pop()
        pool = torch.cat(pools) / self.hounsfield(1.0)
        pool = pool[torch.randperm(len(pool), generator=generator)[:SAMPLES]]
        natural = _order(self.patch_size, self.stride, self._rank).argsort()
        self._components = _principal_components(pool)[:, natural]
        self._patches = _cluster(pool, patches, generator)[:, natural]
        self._declare()
        return self

    def save(self, file: str | os.PathLike) -> None:
        """Write the dictionary; in HU, whatever the units of the images were.

        Raises:
            RuntimeError: when there is none yet.
        """
        if self._components is None:
            raise RuntimeError("there is no dictionary to save: call fit first.")
        content = {
            "components": self._components,
            "patches": self._patches,
            "patch_size": self.patch_size,
            "rank": self._rank,
        }
        path = Path(file)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        os.close(handle)
        try:
            torch.save(content, temporary)
            os.replace(temporary, path)
        finally:
            Path(temporary).unlink(missing_ok=True)

    def _load(self, path: Path) -> None:
        if not path.is_file():
            raise FileNotFoundError(f"dictionary must be a file written by save, but {path} does not exist.")
        content = torch.load(path, weights_only=True)
        if not isinstance(content, dict) or {"components", "patches", "patch_size", "rank"} - set(content):
            raise ValueError(f"dictionary must be a file written by save, got {path} with other content.")
        if content["patch_size"] != self.patch_size:
            raise ValueError(
                f"patch_size must be that of the dictionary, {content['patch_size']}, got {self.patch_size}."
            )
        self._components, self._patches = content["components"], content["patches"]
        self._rank = content["rank"]
        self._declare()

    def _declare(self) -> None:
        self.gradient = "exact" if self.method == "components" else "surrogate"
        # Records of a study must not survive another dictionary, and they skip private attributes.
        digest = hashlib.sha256(f"{self.patch_size} {self._rank}".encode())
        for part in (self._components, self._patches):
            digest.update(f"{part.dtype} {tuple(part.shape)}".encode() + part.cpu().contiguous().numpy().tobytes())
        self.dictionary_hash = digest.hexdigest()[:16]

    def purify(self, image: torch.Tensor, context: ImageContext) -> torch.Tensor:
        """Denoise the patches and average them where they overlap."""
        return self._over_patches(image, self._kept if self.method == "components" else self._nearest)

    def surrogate(self, image: torch.Tensor, context: ImageContext) -> torch.Tensor:
        """Components held fixed, or a soft choice of the nearest patch."""
        return self._over_patches(image, self._kept if self.method == "components" else self._near)

    def _over_patches(
        self, image: torch.Tensor, operation: Callable[[torch.Tensor, torch.Tensor | None], torch.Tensor]
    ) -> torch.Tensor:
        rank, spatial = image.ndim - 2, image.shape[2:]
        dictionary = self._components if self.method == "components" else self._patches
        if dictionary is None and self.method == "nearest":
            raise RuntimeError("method='nearest' needs a dictionary: pass dictionary=FILE, or call fit first.")
        if dictionary is not None:
            if self._rank != rank:
                raise ValueError(f"dictionary holds patches of {self._rank} dimensions, but the image has {rank}.")
            dictionary = dictionary[:, _order(self.patch_size, self.stride, rank)].to(image)

        def denoised(clipped: torch.Tensor) -> torch.Tensor:
            patches = _split(clipped.flatten(0, 1), self.patch_size, self.stride)
            grid = patches.shape[1:-1]
            patches = patches.flatten(1, -2)
            mean = patches.mean(dim=-1, keepdim=True)
            # One volume after the other: memory, and no result depends on the size of the batch.
            out = torch.stack([operation(one, dictionary) for one in patches - mean]) + mean
            return _merge(out.unflatten(1, grid), spatial, self.patch_size, self.stride).unflatten(0, image.shape[:2])

        return within_window(denoised, image, *window_in_image(self.window, self.intensity))

    def _kept(self, patches: torch.Tensor, components: torch.Tensor | None) -> torch.Tensor:
        if components is None:
            components = _principal_components(patches.detach())
        coefficients = patches @ components.T
        threshold = THRESHOLD * self.hounsfield(self.noise)
        squares = coefficients.square().clamp_min(threshold**2)
        return (coefficients * (1.0 - threshold**2 / squares)) @ components

    def _nearest(self, patches: torch.Tensor, dictionary: torch.Tensor | None) -> torch.Tensor:
        assert dictionary is not None
        known = dictionary * self.hounsfield(1.0)
        return torch.cat([known[_closest(part, known)] for part in patches.split(CHUNK)])

    def _near(self, patches: torch.Tensor, dictionary: torch.Tensor | None) -> torch.Tensor:
        assert dictionary is not None
        known = dictionary * self.hounsfield(1.0)
        temperature = self.hounsfield(self.noise) ** 2 * known.shape[1] / 16.0
        return torch.cat(
            [
                torch.softmax(-_halved_distances(part, known) / temperature, dim=1) @ known
                for part in patches.split(CHUNK)
            ]
        )


def _split(image: torch.Tensor, size: int, stride: int) -> torch.Tensor:
    """Overlapping patches of (N, spatial...): (N, patches along each axis..., voxels); every voxel is in equally many.

    The voxels of a patch come in the order of :func:`_order`: a patch is made of blocks as long as the stride, so that
    all patches are a few shifted copies of one grid of blocks.
    """
    rank, shifts = image.ndim - 1, size // stride
    reach = size - stride
    image = repeat_edges(image, [reach] * rank, [reach + -length % stride for length in image.shape[1:]])
    grid = [length // stride for length in image.shape[1:]]
    blocks = image.reshape(len(image), *itertools.chain(*((g, stride) for g in grid)))
    blocks = blocks.permute(0, *range(1, 2 * rank, 2), *range(2, 2 * rank + 1, 2)).reshape(len(image), *grid, -1)
    parts = [blocks[_shifted(offset, grid, shifts)] for offset in itertools.product(range(shifts), repeat=rank)]
    return torch.cat(parts, dim=-1)


def _merge(patches: torch.Tensor, spatial: Sequence[int], size: int, stride: int) -> torch.Tensor:
    """The mean of overlapping patches: back from :func:`_split` to (N, spatial...)."""
    rank, shifts = len(spatial), size // stride
    grid = [windows + shifts - 1 for windows in patches.shape[1:-1]]
    blocks = patches.new_zeros(len(patches), *grid, stride**rank)
    offsets = itertools.product(range(shifts), repeat=rank)
    for offset, part in zip(offsets, patches.chunk(shifts**rank, dim=-1), strict=True):
        blocks[_shifted(offset, grid, shifts)] += part
    blocks = blocks.reshape(len(patches), *grid, *[stride] * rank) / shifts**rank
    order = itertools.chain(*((1 + axis, 1 + rank + axis) for axis in range(rank)))
    image = blocks.permute(0, *order).reshape(len(patches), *[length * stride for length in grid])
    reach = size - stride
    return image[(slice(None), *(slice(reach, reach + length) for length in spatial))]


def _shifted(offset: Sequence[int], grid: Sequence[int], shifts: int) -> tuple[slice, ...]:
    return (slice(None), *(slice(o, o + g - shifts + 1) for o, g in zip(offset, grid, strict=True)))


def _order(size: int, stride: int, rank: int) -> torch.Tensor:
    """Positions, in a flattened patch, of the voxels in the order that :func:`_split` gives them."""
    index = torch.arange(size**rank).reshape([size // stride, stride] * rank)
    return index.permute(*range(0, 2 * rank, 2), *range(1, 2 * rank, 2)).flatten()


def _principal_components(patches: torch.Tensor) -> torch.Tensor:
    """Orthonormal rows, of (patches, voxels) without their means."""
    covariance = (patches.T @ patches).double() / len(patches)
    return torch.linalg.eigh(covariance)[1].T.to(patches)


def _halved_distances(patches: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
    """Half the squared distances of rows, less half the squared length of each row of ``patches``."""
    return torch.addmm(known.square().sum(dim=1) / 2, patches, known.T, alpha=-1.0)


def _closest(patches: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
    """Index of the nearest of ``known`` (rows) for each row of ``patches``."""
    return _halved_distances(patches, known).argmin(dim=1)


def _cluster(pool: torch.Tensor, count: int, generator: torch.Generator) -> torch.Tensor:
    """Means of k-means clusters, and the flat patch first. Starts from patches with much in them: most are flat."""
    size = min(count, len(pool)) - 1
    flat = pool.new_zeros(1, pool.shape[1])
    if size < 1:
        return flat
    weight = pool.norm(dim=1) + 1e-6
    centers = torch.cat([flat, pool[torch.multinomial(weight, size, generator=generator)]])
    for _ in range(ROUNDS):
        nearest = torch.cat([_closest(part, centers) for part in pool.split(CHUNK)])
        sums = torch.zeros_like(centers).index_add_(0, nearest, pool)
        members = torch.bincount(nearest, minlength=len(centers))[:, None]
        centers = torch.where(members > 0, sums / members.clamp_min(1), centers)
        centers[0] = 0.0
    return centers


PatchDictionaryDenoiseD = PatchDictionaryDenoiseDict = PatchDictionaryDenoised = dictionary_form(
    PatchDictionaryDenoise,
    """
    >>> from monai_adversarial.transforms import PatchDictionaryDenoise, PatchDictionaryDenoised
    >>> from monai_adversarial.data.example import example_case
    >>> _, image, _ = example_case(16)
    >>> PatchDictionaryDenoise().fit([image[0]]).save("components.pt")
    >>> transform = PatchDictionaryDenoised("image", dictionary="components.pt", noise=10.0)
    >>> transform.purifier.gradient, bool(transform({"image": image[0]})["image"].std() < image.std())
    ('exact', True)
    """,
)
