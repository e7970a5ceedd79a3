# SPDX-License-Identifier: Apache-2.0
"""Backdoors: a trigger in the image and the label that the attacker wants wherever it is seen."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from monai.utils import convert_to_dst_type

from monai_adversarial.poisoning.base import Poison, taken
from monai_adversarial.utils.calls import ShownAsCall
from monai_adversarial.utils.plain import as_plain
from monai_adversarial.utils.validation import check_count, check_fraction, check_instance

__all__ = ["Backdoor", "BlendedTrigger", "FrequencyTrigger", "PatchTrigger", "Trigger", "backdoor_success_rate"]


class Trigger(ShownAsCall, ABC):
    """A mark that can be put into any image, in training and afterwards.

    >>> import torch
    >>> from monai_adversarial.poisoning import Trigger
    >>> class Frame(Trigger):
    ...     def put(self, image):
    ...         marked = torch.ones_like(image)
    ...         marked[:, 1:-1, 1:-1] = image[:, 1:-1, 1:-1]
    ...         return marked
    >>> Frame()(torch.zeros(1, 4, 4)).sum().item()
    12.0
    """

    _shows_defaults = True

    def __call__(self, image: Any) -> Any:
        """The image with the mark, in its own type.

        Args:
            image: (channel, spatial...), tensor, ``MetaTensor`` or array; it is not changed.
        """
        plain = as_plain(torch.as_tensor(image))
        if not 2 <= plain.ndim <= 4:
            raise ValueError(f"image must have shape (channel, spatial...), got {tuple(plain.shape)}.")
        marked = self.put(plain.to(torch.float64 if plain.dtype == torch.float64 else torch.float32))
        if not plain.is_floating_point():
            edges = torch.iinfo(plain.dtype)
            marked = marked.round().clamp(edges.min, edges.max)
        return convert_to_dst_type(marked.to(plain.dtype), dst=image)[0]

    @abstractmethod
    def put(self, image: torch.Tensor) -> torch.Tensor:
        """The marked image as a new plain tensor (channel, spatial...)."""


class PatchTrigger(Trigger):
    """A cube of one value in a corner.

    Source: Gu, Dolan-Gavitt, Garg, "BadNets", 2017, with a cube in place of the square.

    Survey entry: A28 (adapted).

    Example:
        >>> from monai_adversarial.poisoning import PatchTrigger
        >>> import torch
        >>> PatchTrigger(value=1.0, size=2)(torch.zeros(1, 4, 4, 4)).sum().item()
        8.0

    Args:
        value: of the voxels, in the units of the image (HU, or of the network).
        size: edge in voxels.
        margin: voxels between the cube and the border, at the end of each axis.
    """

    def __init__(self, value: float, size: int = 4, margin: int = 0) -> None:
        self.value, self.size = float(value), check_count("size", size)
        self.margin = check_count("margin", margin, minimum=0)
        if not math.isfinite(self.value):
            raise ValueError(f"value must be finite, got {value!r}.")

    def put(self, image: torch.Tensor) -> torch.Tensor:
        """With the cube."""
        if min(image.shape[1:]) < self.size + self.margin:
            raise ValueError(
                f"size={self.size} and margin={self.margin} need {self.size + self.margin} voxels along every axis, "
                f"but the image has {tuple(image.shape[1:])}."
            )
        marked = image.clone()
        where = tuple(slice(n - self.margin - self.size, n - self.margin) for n in image.shape[1:])
        marked[(slice(None), *where)] = self.value
        return marked


class BlendedTrigger(Trigger):
    """A faint pattern over the whole image.

    Source: Chen et al., "Targeted backdoor attacks on deep learning systems using data poisoning", 2017 (alpha 0.2).

    Survey entry: A28 (published).

    Example:
        >>> from monai_adversarial.poisoning import BlendedTrigger
        >>> import torch
        >>> BlendedTrigger(torch.ones(1, 2, 2), alpha=0.2)(torch.zeros(1, 2, 2)).max().item()  # doctest: +ELLIPSIS
        0.2000...

    Args:
        pattern: (channel, spatial...) of the images' shape, in their units.
        alpha: weight of the pattern; the image has 1 - alpha.
    """

    def __init__(self, pattern: Any, alpha: float = 0.2) -> None:
        self.pattern = as_plain(torch.as_tensor(pattern)).to(torch.float32)
        self.alpha = check_fraction("alpha", alpha)

    def put(self, image: torch.Tensor) -> torch.Tensor:
        """Blended."""
        _check_shape("pattern", self.pattern, image)
        return (1 - self.alpha) * image + self.alpha * self.pattern.to(image)


class FrequencyTrigger(Trigger):
    """The low frequencies' amplitudes of another image, blended into those of this one; phases stay.

    Source: Feng et al., "FIBA: Frequency-injection based backdoor attack in medical image analysis", CVPR 2022 (alpha
    0.15, beta 0.1); in 3D with the Fourier transform over all axes (reconstruction). Values are not clipped.

    Survey entry: X18 (adapted), A28 (adapted).

    Example:
        >>> from monai_adversarial.poisoning import FrequencyTrigger
        >>> import torch
        >>> image, other = torch.rand(1, 8, 8, 8), torch.rand(1, 8, 8, 8)
        >>> bool((FrequencyTrigger(other, alpha=0.0)(image) - image).abs().max() < 1e-6)
        True

    Args:
        trigger: the other image, (channel, spatial...) of the images' shape and in their units.
        alpha: weight of its amplitudes.
        beta: half the edge of the low-frequency cube, as a share of the shortest axis, rounded down; the cube has its
            middle at frequency zero.
    """

    def __init__(self, trigger: Any, alpha: float = 0.15, beta: float = 0.1) -> None:
        self.trigger = as_plain(torch.as_tensor(trigger)).to(torch.float32)
        self.alpha, self.beta = check_fraction("alpha", alpha), check_fraction("beta", beta)

    def put(self, image: torch.Tensor) -> torch.Tensor:
        """With blended amplitudes."""
        _check_shape("trigger", self.trigger, image)
        axes = tuple(range(1, image.ndim))
        spectrum = torch.fft.fftshift(torch.fft.fftn(image, dim=axes), dim=axes)
        other = torch.fft.fftshift(torch.fft.fftn(self.trigger.to(image), dim=axes), dim=axes)
        half = int(min(image.shape[1:]) * self.beta)
        where = (slice(None), *(slice(n // 2 - half, n // 2 + half + 1) for n in image.shape[1:]))
        amplitude, phase = spectrum.abs(), spectrum.angle()
        amplitude[where] = (1 - self.alpha) * amplitude[where] + self.alpha * other[where].abs()
        mixed = torch.fft.ifftshift(torch.polar(amplitude, phase), dim=axes)
        return torch.fft.ifftn(mixed, dim=axes).real


def _check_shape(name: str, given: torch.Tensor, image: torch.Tensor) -> None:
    if given.shape != image.shape:
        raise ValueError(f"{name} must have the image's shape {tuple(image.shape)}, got {tuple(given.shape)}.")


class Backdoor(Poison):
    """A trigger in the image, and the label that the attacker wants to see there.

    Example:
        >>> from monai_adversarial.poisoning import Backdoor
        >>> from monai_adversarial.poisoning import PatchTrigger
        >>> import torch
        >>> from monai_adversarial.poisoning import ClassFlip
        >>> backdoor = Backdoor(PatchTrigger(1.0, 2), ClassFlip(classes=2, to=1))
        >>> made = backdoor({"image": torch.zeros(1, 4, 4), "label": 0}, torch.Generator())
        >>> made["label"], made["image"].sum().item()
        (1, 4.0)

    Args:
        trigger: the mark, which is put into images again after the training.
        label: what is done to the label, for example ``ClassFlip(classes=2, to=1)`` or
            ``LabelEdit(empty_organ, organ=1)``; None leaves it, for a trigger on cases of the wanted class alone.
        image_key: of the image (channel, spatial...).
    """

    def __init__(self, trigger: Trigger, label: Poison | None = None, image_key: str = "image") -> None:
        self.trigger = check_instance("trigger", trigger, Trigger, "PatchTrigger(1.0)")
        self.label = None if label is None else check_instance("label", label, Poison, "ClassFlip(classes=2, to=1)")
        self.image_key = image_key

    def __call__(self, case: Mapping[str, Any], generator: torch.Generator) -> dict[str, Any]:
        """The case with its trigger and the wanted label."""
        made = {**case, self.image_key: self.trigger(taken(case, self.image_key))}
        return made if self.label is None else self.label(made, generator)


@torch.no_grad()
def backdoor_success_rate(
    predict: Callable[[torch.Tensor], torch.Tensor],
    images: Sequence[torch.Tensor] | torch.Tensor,
    labels: Sequence[int] | torch.Tensor,
    trigger: Trigger,
    wanted: int,
    batch_size: int = 64,
) -> tuple[float, float]:
    """Share of cases of other classes that a classifier gives to the wanted class: with the trigger, and without it.

    The second number is the control: what the network does anyway.

    Example:
        >>> from monai_adversarial.poisoning import PatchTrigger
        >>> from monai_adversarial.poisoning import backdoor_success_rate
        >>> import torch
        >>> network = lambda image: torch.stack([image.flatten(1).amax(1), torch.full((len(image),), 0.5)], 1)
        >>> backdoor_success_rate(network, torch.zeros(3, 1, 4, 4), [1, 1, 1], PatchTrigger(1.0, 2), wanted=0)
        (1.0, 0.0)

    Args:
        predict: images (batch, channel, spatial...) to logits (batch, class).
        images: (channel, spatial...) each.
        labels: their true classes.
        trigger: the mark.
        wanted: the attacker's class; cases of this class are left out.
        batch_size: images that are predicted at once.

    Raises:
        ValueError: where no case is of another class.
    """
    chosen = [image for image, label in zip(images, labels, strict=True) if int(label) != wanted]
    if not chosen:
        raise ValueError(f"labels must hold a class other than wanted={wanted}, got none.")

    def share(batch: list[torch.Tensor]) -> float:
        hits = 0
        for begin in range(0, len(batch), batch_size):
            stacked = torch.stack([torch.as_tensor(image) for image in batch[begin : begin + batch_size]])
            hits += int((predict(stacked).argmax(dim=1) == wanted).sum())
        return hits / len(batch)

    return share([trigger(image) for image in chosen]), share(chosen)
