# SPDX-License-Identifier: Apache-2.0
"""An object of known materials beside the organs: a cube or a cylinder of HU that exist."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from scipy import ndimage

from monai_adversarial.attacks.perturbations.base import BoundPerturbation, Measurement, Parameters, Perturbation
from monai_adversarial.utils.draws import current_draw, draw_seed
from monai_adversarial.utils.scene import Scene
from monai_adversarial.utils.slabs import count_true, largest
from monai_adversarial.utils.validation import check_choice, check_count, check_positive

__all__ = ["MATERIALS", "BoundLocalizedPatch", "LocalizedPatch"]

SHAPES = ("cube", "cylinder")
#: HU of what lies in, on or under patients, lowest and highest; our choice, in round numbers
MATERIALS: dict[str, tuple[float, float]] = {
    "air": (-1024.0, -900.0),
    "plastic": (-100.0, 200.0),
    "metal": (2000.0, 3071.0),
}


class LocalizedPatch(Perturbation):
    """An object replaces the voxels of a cube or cylinder; each of them has the HU of an admissible material.

    The object must lie inside the attack's region (``region=``, for example ``label == 0``: outside the organs), at its
    place and at every place where it may be moved to. During a search with ``ExpectationOverTransformation`` each draw
    sees it at another place, up to ``jitter`` mm away along each axis; what is handed back has it at its center.

    Args:
        size: mm along each axis, or one number for all; rounded to whole voxels, at least one.
        shape: ``"cube"``, or ``"cylinder"`` with its axis along the last axis of the image.
        center: voxel index of the center along each axis; None for the place nearest to what lies outside the region
            (the organs) that has room for the object and its movement.
        materials: name -> lowest and highest HU.
        jitter: largest movement along each axis, in mm.

    Raises:
        ValueError: for sizes, HU or a center that are none, an image that is not in HU or has no voxel size, and a
            place that leaves the image or the region.

    Example:
        >>> from monai_adversarial.attacks import Attack, LocalizedPatch
        >>> from monai_adversarial.data.example import example_case
        >>> model, image, label = example_case()
        >>> result = Attack(LocalizedPatch(12.0, jitter=0.0))(model, image, label, region=label == 0)
        >>> bool((result.adversarial == image)[label > 0].all())
        True

    Survey entry: A24 (adapted).
    Source: Eykholt and others, Robust Physical-World Attacks on Deep Learning Visual Classification, CVPR 2018, for a
    masked perturbation averaged over placements. Materials instead of printable colors, and 3D, are ours.
    """

    units = "HU"

    def __init__(
        self,
        size: float | Sequence[float],
        shape: str = "cube",
        center: Sequence[int] | None = None,
        materials: Mapping[str, tuple[float, float]] | None = None,
        jitter: float = 5.0,
    ) -> None:
        lengths = tuple(size) if isinstance(size, Sequence) else (size,)
        self.size = tuple(check_positive("size", length) for length in lengths)
        self.shape = check_choice("shape", shape, SHAPES)
        self.center = None if center is None else tuple(check_count("center", place, minimum=0) for place in center)
        self.materials = dict(MATERIALS if materials is None else materials)
        if not self.materials:
            raise ValueError("materials must name at least one material, got none.")
        for name, pair in self.materials.items():
            if len(pair) != 2 or not all(map(math.isfinite, pair)) or pair[0] > pair[1]:
                raise ValueError(f"materials must give the lowest and the highest HU of {name!r}, got {pair!r}.")
        self.jitter = check_positive("jitter", jitter, allow_zero=True)

    def bind(self, scene: Scene) -> BoundLocalizedPatch:
        """Find the place in each sample."""
        return BoundLocalizedPatch(self, scene)


class BoundLocalizedPatch(BoundPerturbation):
    """A patch on one batch; the parameter is what is added to the clean voxels of its box, (batch, channel, box...).

    >>> from monai_adversarial.attacks import PatchAttack
    >>> from monai_adversarial.data.example import example_case
    >>> model, image, label = example_case(16)
    >>> result = PatchAttack(18.0, steps=2)(model, image, label, region=label == 0)
    >>> tuple(result.bound.box), result.parameters[0].shape
    ((3, 3, 3), torch.Size([1, 1, 3, 3, 3]))

    Attributes:
        box: voxels of the box along each axis.
        reach: voxels that it may move along each axis, each way.
        corners: first voxel of the box in each sample.
    """

    def __init__(self, perturbation: LocalizedPatch, scene: Scene) -> None:
        super().__init__(scene)
        if scene.image_units != "HU":
            raise ValueError(
                "LocalizedPatch is of materials in HU: give the AttackedModel image_units='HU' and such images."
            )
        steps = self._steps(scene)
        sizes = perturbation.size if len(perturbation.size) > 1 else perturbation.size * len(steps)
        if len(sizes) != len(steps):
            raise ValueError(f"size must give {len(steps)} lengths in mm, one per axis, got {perturbation.size}.")
        self.box = tuple(max(1, round(size / step)) for size, step in zip(sizes, steps, strict=True))
        self.reach = tuple(int(perturbation.jitter / step + 1e-9) for step in steps)
        self.materials = perturbation.materials
        self.corners = tuple(self._corner(perturbation, sample, steps) for sample in range(scene.batch))
        self.inside = self._shape(perturbation.shape).to(scene.image.device)
        self.base = torch.stack([scene.image[n][(slice(None), *self._where(n))] for n in range(scene.batch)])

    @staticmethod
    def _steps(scene: Scene) -> list[float]:
        table = scene.require_spacing("the size of the patch")
        if not bool((table == table[:1]).all()):
            raise ValueError(
                f"spacing must be the same in all samples of a batch with LocalizedPatch, got {table.tolist()}."
            )
        return [float(step) for step in table[0]]

    def _corner(self, perturbation: LocalizedPatch, sample: int, steps: list[float]) -> tuple[int, ...]:
        """First voxel of the box in a sample."""
        scene = self.scene
        region = None if scene.region is None else scene.region[sample, 0].cpu().numpy()
        if perturbation.center is None:
            return self._nearest_place(region, sample, steps)
        if len(perturbation.center) != len(self.box):
            raise ValueError(f"center must give {len(self.box)} voxel indices, got {perturbation.center}.")
        corner = tuple(place - own // 2 for place, own in zip(perturbation.center, self.box, strict=True))
        around = [(first - by, first + own + by) for first, own, by in zip(corner, self.box, self.reach, strict=True)]
        if any(low < 0 or high > whole for (low, high), whole in zip(around, scene.spatial_shape, strict=True)):
            raise ValueError(
                f"center {perturbation.center} must leave room for {self.box} voxels and a movement of {self.reach} in "
                f"an image of {scene.spatial_shape}."
            )
        if region is not None and not region[tuple(slice(*edges) for edges in around)].all():
            raise ValueError(
                f"center {perturbation.center} must keep the patch inside the region at every place, but it leaves it "
                f"in sample {sample}."
            )
        return corner

    def _nearest_place(self, region: np.ndarray | None, sample: int, steps: list[float]) -> tuple[int, ...]:
        """The place inside the region that is nearest to what lies outside of it."""
        if region is None or region.all():
            raise ValueError("center= is missing: without a region that leaves organs out, no place is near to one.")
        needed = [own + 2 * by for own, by in zip(self.box, self.reach, strict=True)]
        if any(need > whole for need, whole in zip(needed, region.shape, strict=True)):
            raise ValueError(
                f"size must leave room for the patch in the image, but it needs {needed} of {region.shape}."
            )
        # An output voxel of the filter covers from need // 2 before it on.
        free = ndimage.minimum_filter(region.astype(np.uint8), size=needed, mode="constant", cval=0)
        if not free.any():
            raise ValueError(
                f"region must have room for a patch of {self.box} voxels that moves by {self.reach}, but that of "
                f"sample {sample} has none: choose a smaller size or jitter."
            )
        distance = np.where(free, ndimage.distance_transform_edt(region, sampling=steps), np.inf)
        place = np.unravel_index(int(distance.argmin()), region.shape)
        return tuple(int(p) - need // 2 + by for p, need, by in zip(place, needed, self.reach, strict=True))

    def _shape(self, shape: str) -> torch.Tensor:
        """Boolean (box...): the voxels of the object in its box."""
        made = torch.ones(self.box, dtype=torch.bool)
        if shape == "cylinder":
            if len(self.box) != 3:
                raise ValueError(f"shape='cylinder' needs an image of 3 axes, got {len(self.box)}.")
            across = [(torch.arange(own) - (own - 1) / 2) / (own / 2) for own in self.box[:2]]
            round_ = across[0][:, None].square() + across[1][None].square() <= 1
            made &= round_[..., None]
        return made

    def _where(self, sample: int, offset: Sequence[int] | None = None) -> tuple[slice, ...]:
        """The box in a sample, moved by some voxels."""
        moved = offset or (0,) * len(self.box)
        return tuple(
            slice(first + by, first + by + own)
            for first, by, own in zip(self.corners[sample], moved, self.box, strict=True)
        )

    def offsets(self, *stream: int) -> list[tuple[int, ...]]:
        """Random movements of each sample in voxels, of the draw in force and ``stream``."""
        found = []
        for seed in self.scene.seeds:
            generator = torch.Generator().manual_seed(draw_seed(seed, *stream))
            found.append(
                tuple(int(torch.randint(-by, by + 1, (1,), generator=generator)) if by else 0 for by in self.reach)
            )
        return found

    def placed(self, image: torch.Tensor, parameters: Parameters, offsets: Sequence[Sequence[int]]) -> torch.Tensor:
        """The image with the object at its place, moved by some voxels in each sample."""
        samples = []
        values = self.base + parameters[0]
        for number, sample in enumerate(image):
            where = (slice(None), *self._where(number, offsets[number]))
            made = sample.clone()
            made[where] = torch.where(self.inside, values[number], sample[where])
            samples.append(made)
        return torch.stack(samples)

    @property
    def _still(self) -> list[tuple[int, ...]]:
        return [(0,) * len(self.box)] * self.scene.batch

    def apply(self, image: torch.Tensor, parameters: Parameters) -> torch.Tensor:
        """The object where the draw in force puts it; at its center outside a search."""
        return self.placed(image, parameters, self.offsets() if current_draw() else self._still)

    @torch.no_grad()
    def finished(
        self, image: torch.Tensor, parameters: Parameters, offsets: Sequence[Sequence[int]] | None = None
    ) -> torch.Tensor:
        """The image that is handed back: the object at its center, or moved by ``offsets`` to see what that does."""
        changed = self.placed(image, parameters, self._still if offsets is None else offsets)
        if self.scene.stored is not None:
            changed = self._rounded(image, changed)
        return changed

    @property
    def radii(self) -> Parameters:
        """Half of the range from the lightest to the densest material."""
        pairs = list(self.materials.values())
        half = (max(high for _, high in pairs) - min(low for low, _ in pairs)) / 2
        return (torch.full((1,) * self.base.ndim, max(half, 1.0), dtype=self.base.dtype, device=self.base.device),)

    def zeros(self) -> Parameters:
        """The clean voxels, which need not be of any material: no object."""
        return (torch.zeros_like(self.base),)

    def random(self, generators: list[torch.Generator]) -> Parameters:
        """Every voxel of a random material, with any of its HU."""
        chosen = torch.empty_like(self.base)
        pairs = torch.tensor(list(self.materials.values()), dtype=self.base.dtype, device=self.base.device)
        for sample, generator in zip(chosen, generators, strict=True):
            kind = torch.randint(len(pairs), sample.shape, generator=generator, device=sample.device)
            share = torch.rand(sample.shape, generator=generator, dtype=sample.dtype, device=sample.device)
            sample.copy_(pairs[kind, 0] + share * (pairs[kind, 1] - pairs[kind, 0]))
        return self.project((chosen - self.base,))

    def random_control(self, generators: list[torch.Generator], parameters: Parameters) -> Parameters:
        """An object of random materials at the same place."""
        return self.random(generators)

    def _nearest_material(self, values: torch.Tensor) -> torch.Tensor:
        """The admissible HU nearest to each value."""
        best: torch.Tensor | None = None
        for low, high in self.materials.values():
            here = values.clamp(low, high)
            best = here if best is None else torch.where((here - values).abs() < (best - values).abs(), here, best)
        assert best is not None
        return best

    def project(self, parameters: Parameters) -> Parameters:
        """Each voxel of the object to the nearest admissible HU; nothing else."""
        values = self._nearest_material(self.base + parameters[0])
        return ((values - self.base) * self.inside,)

    @property
    def support(self) -> torch.Tensor | None:
        """All voxels that the object can reach."""
        found = torch.zeros(self.scene.batch, 1, *self.scene.spatial_shape, dtype=torch.bool, device=self.base.device)
        for number in range(self.scene.batch):
            where = self._where(number)
            edges = [slice(part.start - by, part.stop + by) for part, by in zip(where, self.reach, strict=True)]
            found[number, 0][tuple(edges)] = True
        return found

    def measure(
        self, image: torch.Tensor, adversarial: torch.Tensor, parameters: Parameters, rounding: float = 0.0
    ) -> dict[str, Measurement]:
        """Changes outside the object, and how far its changed voxels are from a material, in HU; its volume in ml."""
        own = torch.zeros(self.scene.batch, 1, *self.scene.spatial_shape, dtype=torch.bool, device=image.device)
        for number in range(self.scene.batch):
            own[number, 0][self._where(number)] = self.inside
        outside = largest(lambda a, c, m: (a.double() - c.double()).abs() * ~m, adversarial, image, own)
        changed = (adversarial != image) & own
        away = largest(lambda a, m: (a.double() - self._nearest_material(a.double())).abs() * m, adversarial, changed)
        spacing = 3.0e3 * 4 * torch.finfo(torch.float32).eps
        found = {
            "change_outside_patch": Measurement(outside, "HU", 0.0, tolerance=rounding),
            "distance_from_materials": Measurement(away, "HU", 0.0, tolerance=rounding + spacing),
        }
        table = self.scene.spacing
        if table is not None and table.shape[1] == 3:
            voxel = float(table[0].prod()) / 1000
            found["patch_volume"] = Measurement(count_true(own.flatten(1)).double() * voxel, "ml")
        return found
