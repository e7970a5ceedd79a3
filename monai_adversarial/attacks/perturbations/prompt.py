# SPDX-License-Identifier: Apache-2.0
"""Prompts of interactive networks that are a few mm off: clicks and box corners move, the image does not."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from monai_adversarial.attacks.perturbations.base import (
    REPEAT_TOLERANCE,
    BoundPerturbation,
    Measurement,
    Parameters,
    Perturbation,
    limit_length,
)
from monai_adversarial.utils.point_channel import read_points, write_points
from monai_adversarial.utils.scene import Scene
from monai_adversarial.utils.slabs import largest
from monai_adversarial.utils.validation import check_choice, check_positive

__all__ = ["PROMPTS", "PromptPerturbation"]

PROMPTS = ("clicks", "points")
#: share of a click map's height by which drawing its clicks again may miss it
DRAWING_TOLERANCE = 0.02


class PromptPerturbation(Perturbation):
    """Moves each click, point or box corner by at most ``max_displacement`` mm; the image stays as it is.

    The model's ``image_channels`` name the channels that hold the prompts, so that the others, the image among them,
    keep their bits. Prompts stay inside the volume. They move by whole voxels, inside the budget, as a user clicks
    them; gradients pass the rounding by as if it were the identity.

    Args:
        max_displacement: largest distance of a prompt from the clean one, Euclidean, in mm; 0 is the identity.
        prompts: ``"clicks"``: maps with a Gaussian around each click, scaled to 0..1, as ``AddGuidanceSignalDeepEditd``
            and ``AddGuidanceSignald`` of MONAI make them; clicks are found in the clean map. ``"points"``: coordinates
            in a channel of ``PointPromptedNetwork``, for networks that take points or box corners (VISTA3D, SAM).
        sigma: of the Gaussians in voxels: 3 is the default of DeepEdit, 2 that of DeepGrow.

    Raises:
        ValueError: for an argument out of range; when it is bound, without a spacing in mm, without any prompt, for a
            map that is not made of such Gaussians, and for a region.

    >>> import torch
    >>> from monai_adversarial.attacks import PromptPerturbation
    >>> from monai_adversarial.utils.scene import Scene
    >>> from monai_adversarial.utils.point_channel import read_points, write_points
    >>> channel = write_points(torch.zeros(1, 1, 8, 8, 8), torch.tensor([[[4.0, 4.0, 4.0]]]))
    >>> scene = Scene(channel, seeds=(0,), spacing=torch.ones(1, 3))
    >>> bound = PromptPerturbation(2.0, prompts="points").bind(scene)
    >>> (far,) = bound.project((torch.tensor([[[9.0], [0.0], [0.0]]]),))
    >>> read_points(bound.apply(channel, (far,)), 1)[0, 0].tolist()
    [6.0, 4.0, 4.0]

    Source: our own. Clicks are drawn as ``monai.apps.deepedit.transforms.AddGuidanceSignalDeepEditd`` draws them.
    """

    budget_attributes = ("max_displacement",)

    def __init__(self, max_displacement: float = 5.0, prompts: str = "clicks", sigma: float = 3.0) -> None:
        self.max_displacement = check_positive("max_displacement", max_displacement, allow_zero=True)
        self.prompts = check_choice("prompts", prompts, PROMPTS)
        self.sigma = check_positive("sigma", sigma)

    def bind(self, scene: Scene) -> BoundPrompts:
        """Find the prompts of a batch.

        Raises:
            ValueError: see the class.
        """
        if scene.region is not None:
            raise ValueError("region must be None: prompts are no voxels of the image that may change.")
        return BoundClicks(self, scene) if self.prompts == "clicks" else BoundPoints(self, scene)


class BoundPrompts(BoundPerturbation):
    """Prompts of one batch; the parameter is how far each moves in mm, (batch, axis, prompt).

    Attributes:
        places: clean prompts in voxels, (batch, prompt, axis); rows of NaN fill up.
        present: boolean (batch, prompt).
    """

    places: torch.Tensor
    present: torch.Tensor

    def __init__(self, perturbation: PromptPerturbation, scene: Scene) -> None:
        super().__init__(scene)
        self.limit = perturbation.max_displacement
        image = scene.image
        self.spacing = scene.require_spacing("a distance of prompts").to(image)
        self.last = torch.tensor(scene.spatial_shape, dtype=image.dtype, device=image.device) - 1

    def _use(self, places: list[torch.Tensor]) -> None:
        """Prompts of each sample, (prompt, axis)."""
        empty = [number for number, found in enumerate(places) if not len(found)]
        if empty:
            raise ValueError(
                f"the prompt channels must hold at least one prompt, got none in sample {empty[0]}: name them in the "
                "model's image_channels."
            )
        padded = torch.nn.utils.rnn.pad_sequence(places, batch_first=True, padding_value=torch.nan)
        self.present = padded.isfinite().all(dim=2)
        self.places = padded.nan_to_num(0.0).to(self.scene.image)

    @property
    def radii(self) -> Parameters:
        """The budget in mm, the same for each prompt."""
        return (self.scene.image.new_full((1, 1, 1), self.limit),)

    @property
    def norms(self) -> tuple[str, ...]:
        """A ball for each prompt."""
        return ("vector",)

    def zeros(self) -> Parameters:
        """Prompts where they are."""
        batch, prompts, axes = self.places.shape
        return (self.scene.image.new_zeros(batch, axes, prompts),)

    def project(self, parameters: Parameters) -> Parameters:
        """Within the distance, then inside the volume, which is nearer; what fills up stays at zero."""
        near = limit_length(parameters[0], self.limit)
        inside = self._moved((near,)).clamp(min=0).minimum(self.last)
        offset = (inside - self.places) * self.spacing[:, None]
        return ((offset * self.present.unsqueeze(2)).transpose(1, 2),)

    def _moved(self, parameters: Parameters) -> torch.Tensor:
        """Moved prompts in voxels, (batch, prompt, axis)."""
        return self.places + parameters[0].transpose(1, 2) / self.spacing[:, None]

    def _clicked(self, parameters: Parameters) -> torch.Tensor:
        """As a user can click them: the movement in whole voxels, the nearest ones where the budget allows it."""
        way = self._moved(parameters) - self.places
        near = way.round()
        fits = (near * self.spacing[:, None]).norm(dim=2, keepdim=True) <= self.limit
        places = self.places + near
        fits &= ((places >= 0) & (places <= self.last)).all(dim=2, keepdim=True)
        return self.places + torch.where(fits, near, way.trunc())

    def draw(self, places: torch.Tensor) -> torch.Tensor:
        """The prompt channels, (batch, channel, spatial...), of prompts (batch, prompt, axis) in voxels."""
        raise NotImplementedError

    def apply(self, image: torch.Tensor, parameters: Parameters) -> torch.Tensor:
        """The prompt channels of prompts that moved by whole voxels, so that a search compares what is handed back; of
        a sample that does not move the clean bits. The gradient is that of ``draw`` there, as if nothing were
        rounded."""
        moved = self._moved(parameters)
        with torch.no_grad():
            clicked = self._clicked(parameters)
            stays = (clicked == self.places).flatten(1).all(dim=1).view(-1, *[1] * (image.ndim - 1))
        drawn = self.draw(clicked + (moved - moved.detach()))
        return torch.where(stays, image + (drawn - drawn.detach()), drawn)

    @torch.no_grad()
    def finished(self, image: torch.Tensor, parameters: Parameters) -> torch.Tensor:
        """As applied: no file rounds the values of these channels."""
        return self.apply(image, parameters)

    def valid_range(self, image: torch.Tensor) -> tuple[None, None]:
        """Channels of prompts have no range of values."""
        return None, None

    def distances(self, parameters: Parameters) -> torch.Tensor:
        """How far each prompt is moved where it counts, (batch, prompt), in mm."""
        return ((self._clicked(parameters) - self.places) * self.spacing[:, None]).norm(dim=2) * self.present

    def measure(
        self, image: torch.Tensor, adversarial: torch.Tensor, parameters: Parameters, rounding: float = 0.0
    ) -> dict[str, Measurement]:
        """The longest way of a prompt in mm, and whether these prompts make the finished channels."""
        with torch.no_grad():
            longest = self.distances(parameters).amax(dim=1).double()
            expected = self.finished(image, parameters)
        difference = largest(lambda a, e: (a.double() - e.double()).abs(), adversarial, expected)
        room = rounding + REPEAT_TOLERANCE * float(image.max() - image.min())
        return {
            "prompt_displacement": Measurement(longest, "mm", self.limit),
            "unexplained_change": Measurement(difference, self.scene.image_units, 0.0, tolerance=room),
        }


class BoundClicks(BoundPrompts):
    """Clicks in maps of Gaussians, each in the channel that it was found in."""

    def __init__(self, perturbation: PromptPerturbation, scene: Scene) -> None:
        super().__init__(perturbation, scene)
        self.sigma = perturbation.sigma
        self.channels = torch.zeros(0)
        found, channels = zip(*[_peaks(sample) for sample in scene.image], strict=True)
        self._use(list(found))
        self.channels = torch.nn.utils.rnn.pad_sequence(list(channels), batch_first=True, padding_value=-1)
        with torch.no_grad():
            missed = largest(lambda a, b: (a.double() - b.double()).abs(), self.draw(self.places), scene.image)
        if bool((missed > DRAWING_TOLERANCE).any()):
            raise ValueError(
                f"the prompt channels must be Gaussians of sigma={self.sigma:g} voxels around clicks, scaled to 0..1, "
                f"but drawing the clicks that were found misses them by {float(missed.max()):.2g}: pass the sigma of "
                "the transform that made them, name prompt channels alone, and keep clicks more than sigma apart."
            )

    def draw(self, places: torch.Tensor) -> torch.Tensor:
        """A Gaussian around each click, averaged over each voxel, added up in its channel and scaled to 0..1."""
        image, scale = self.scene.image, math.sqrt(0.5) / self.sigma
        maps = image.new_ones(1)
        axes = places.shape[2]
        for axis, size in enumerate(self.scene.spatial_shape):
            line = torch.arange(size, dtype=image.dtype, device=image.device) - places[..., axis : axis + 1]
            profile = 0.5 * (torch.erf(scale * (line + 0.5)) - torch.erf(scale * (line - 0.5)))
            maps = maps * profile.view(*profile.shape[:2], *[1] * axis, size, *[1] * (axes - axis - 1))
        numbers = torch.arange(image.shape[1], device=image.device)
        owns = (self.channels.unsqueeze(1) == numbers.view(1, -1, 1)).to(image)  # (batch, channel, prompt)
        total = torch.einsum("bcp,bp...->bc...", owns, maps)
        flat = total.flatten(2)
        low, high = (edge.view(*edge.shape, *[1] * axes) for edge in (flat.amin(dim=2), flat.amax(dim=2)))
        tiny = torch.finfo(image.dtype).tiny
        return torch.where(high > low, (total - low) / (high - low).clamp_min(tiny), torch.zeros_like(total))


class BoundPoints(BoundPrompts):
    """Coordinates in the channel of a ``PointPromptedNetwork``."""

    def __init__(self, perturbation: PromptPerturbation, scene: Scene) -> None:
        super().__init__(perturbation, scene)
        if scene.image.shape[1] != 1:
            raise ValueError(
                f"prompts='points' needs the one channel that holds them, got {scene.image.shape[1]}: name it in the "
                "model's image_channels."
            )
        counts = scene.image.flatten(1)[:, 0].tolist()  # once, before the loop
        if any(count != int(count) or count < 0 for count in counts):
            raise ValueError(
                "the channel of prompts='points' must be made by write_points, whose first value is the number of "
                f"points, got {counts}."
            )
        self._use([read_points(sample[None], int(n))[0] for sample, n in zip(scene.image, counts, strict=True)])

    def draw(self, places: torch.Tensor) -> torch.Tensor:
        """The channel with these coordinates."""
        return write_points(self.scene.image, places, self.present)


def _peaks(maps: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Clicks of one sample's maps (channel, spatial...): voxels that are higher than all around them, (click, axis),
    and the channel of each, (click,)."""
    axes = maps.ndim - 1
    pool = (F.max_pool1d, F.max_pool2d, F.max_pool3d)[axes - 1]
    around = pool(maps[None], 3, stride=1, padding=1)[0]
    high = (maps == around) & (maps > 0.1 * maps.amax().clamp_min(torch.finfo(maps.dtype).tiny))
    found = high.nonzero()
    return found[:, 1:].to(maps.dtype), found[:, 0]
