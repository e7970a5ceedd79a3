# SPDX-License-Identifier: Apache-2.0
"""Purifiers: image to image operations that are to remove what an attacker added."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from monai.config import NdarrayOrTensor
from monai.data import MetaTensor, get_track_meta
from monai.transforms import Randomizable, Transform
from monai.utils import TransformBackends, convert_to_dst_type, convert_to_tensor

from monai_adversarial.purifiers.checks import (
    check_channel_first,
    check_few_classes,
    check_is_image,
    check_units,
)
from monai_adversarial.purifiers.context import ImageContext
from monai_adversarial.utils.backward_pass import call_with_backward_pass
from monai_adversarial.utils.intensity import as_one_map
from monai_adversarial.utils.plain import as_plain
from monai_adversarial.utils.scene import check_spacing, spacing_of

__all__ = ["Purifier", "RandomPurifier"]


class Purifier(Transform):
    """A denoising defense: an array transform, an operation on batches, and the way it is to be attacked.

    Subclasses write :py:meth:`purify` on plain float tensors (batch, channel, spatial...), on the image's device,
    samples and channels independent of each other, and set ``gradient``.

    A purifier of one's own is one method:

    >>> from monai_adversarial.transforms import Purifier
    >>> from monai_adversarial.data.example import example_case
    >>> class Clip(Purifier):
    ...     def purify(self, image, context):
    ...         return image.clamp(0, 100)
    >>> _, image, _ = example_case()
    >>> bool(image.min() < 0), float(Clip()(image[0]).min()), Clip().gradient
    (True, 0.0, 'exact')

    Args:
        intensity: None for images in HU. For images in a network's values: the map from HU to those (an
            ``IntensityMap``, ``ScaleIntensityRange`` or its arguments as a mapping), so that arguments in HU keep
            their meaning.
        spacing: mm along each axis, for images without an affine, and for slices cut along another axis than the last
            (the affine's first axes count).

    Attributes:
        gradient: how it is to be attacked: ``"exact"`` (differentiable), ``"straight_through"`` (backward through the
            identity) or ``"surrogate"`` (backward through :py:meth:`surrogate`).
        geometric: it moves anatomy, and :py:meth:`pull_back` brings outputs back.
    """

    backend = [TransformBackends.TORCH]
    gradient: str = "exact"
    geometric: bool = False

    def __init__(self, intensity: Any = None, spacing: Any = None) -> None:
        self.intensity = as_one_map(intensity)
        if spacing is not None:
            check_spacing(spacing)
        self.spacing = spacing

    @property
    def random(self) -> bool:
        """Whether it draws random numbers."""
        return isinstance(self, RandomPurifier)

    @property
    def in_hounsfield(self) -> bool:
        """Whether it counts in HU, so that it has to know in which units an image is."""
        return True

    def hounsfield(self, amount: float) -> float:
        """A difference in HU, in the units of the image."""
        return amount if self.intensity is None else float(amount * self.intensity.scale)

    @abstractmethod
    def purify(self, image: torch.Tensor, context: ImageContext) -> torch.Tensor:
        """The operation itself.

        Args:
            image: plain tensor (batch, channel, 1 to 3 spatial dimensions), float32 or float64.
            context: spacing and seeds.

        Returns:
            a tensor of the same shape and type; differentiable in ``image`` where ``gradient`` is ``"exact"``. The
            argument is never changed in place.
        """

    def surrogate(self, image: torch.Tensor, context: ImageContext) -> torch.Tensor:
        """What stands in for the operation in a backward pass; the identity unless a subclass has something better."""
        return image

    def pull_back(self, output: torch.Tensor, context: ImageContext) -> torch.Tensor:
        """Bring what was computed from the purified image, such as logits, back to the anatomy of the image."""
        return output

    def apply(self, image: torch.Tensor, context: ImageContext) -> torch.Tensor:
        """:py:meth:`purify` with the backward pass that is in force (see ``BackwardPassSubstitute``)."""
        return call_with_backward_pass(
            lambda x: self.purify(x, context),
            image,
            self.gradient,
            lambda x: self.surrogate(x, context),
            type(self).__name__,
        )

    def context_of(self, image: torch.Tensor, seeds: tuple[int, ...] = ()) -> ImageContext:
        """Spacing of a batch from ``spacing`` or the image's affine, with ``seeds``."""
        return ImageContext(spacing_of(image, self.spacing), seeds)

    def __call__(self, img: NdarrayOrTensor) -> NdarrayOrTensor:
        """Purify one image.

        Args:
            img: (channel, 1 to 3 spatial dimensions), array, tensor or ``MetaTensor``; integers are computed in
                float32, except that purifiers that move anatomy take them for labels.

        Returns:
            the purified image: floating point (moved labels keep their type), of the same array type and device, with
            the same metadata.

        Raises:
            ValueError: for another number of dimensions, or NaN; for integers that cannot be a label.
        """
        return self.run(img, self.draw_seeds())

    def draw_seeds(self) -> tuple[int, ...]:
        """Seeds for one image; empty where nothing is random."""
        return ()

    def run(self, img: NdarrayOrTensor, seeds: tuple[int, ...], interpolation: str = "bilinear") -> NdarrayOrTensor:
        """Purify one image with given seeds; see :class:`ImageContext` for ``interpolation``."""
        check_is_image("img", img, f"{type(self).__name__}d(keys, ...)")
        has_affine = isinstance(img, MetaTensor)  # the conversion below would invent one of 1 mm
        tensor: torch.Tensor = convert_to_tensor(img, track_meta=get_track_meta())
        check_channel_first(tensor)
        plain = as_plain(tensor)
        label = self.geometric and not plain.is_floating_point()
        if label and interpolation != "nearest":
            check_few_classes(plain)
        if not label and plain.dtype not in (torch.float32, torch.float64):
            plain = plain.float()
        if not label and interpolation != "nearest":
            check_units(self, plain)
        batch = MetaTensor(plain[None], affine=img.affine) if has_affine else plain[None]  # type: ignore[union-attr]
        context = replace(self.context_of(batch, seeds), interpolation=interpolation)
        out = self.apply(plain[None], context)[0]
        return convert_to_dst_type(out, dst=tensor if has_affine else img, dtype=out.dtype)[0]

    def __repr__(self) -> str:
        shown = {k: v for k, v in vars(self).items() if not k.startswith("_") and k != "R" and v is not None}
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in shown.items())})"


class RandomPurifier(Purifier, Randomizable):
    """A purifier that draws random numbers.

    As a transform it draws from its random state (``set_random_state``, as all of MONAI's random transforms); inside an
    attack or an inferer the seeds come with the context.

    >>> import torch
    >>> from monai_adversarial.transforms import RandomPurifier
    >>> class AddNoise(RandomPurifier):
    ...     def purify(self, image, context):
    ...         draws = context.generators("cpu", len(image))  # one per sample, from its seed
    ...         return image + 5 * torch.stack([torch.randn(image.shape[1:], generator=draw) for draw in draws])
    >>> noisy = [AddNoise().set_random_state(seed)(torch.full((1, 8, 8), 50.0)) for seed in (1, 1, 2)]
    >>> torch.equal(noisy[0], noisy[1]), torch.equal(noisy[0], noisy[2])
    (True, False)
    """

    def draw_seeds(self) -> tuple[int, ...]:
        """One seed from the random state."""
        return (int(self.R.randint(np.iinfo(np.int32).max)),)
