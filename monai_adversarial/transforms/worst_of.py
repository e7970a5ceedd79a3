# SPDX-License-Identifier: Apache-2.0
"""The worst of N random transforms as a transform."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

from monai.config import KeysCollection

from monai_adversarial.attacks import WorstOf
from monai_adversarial.models import AttackedModel
from monai_adversarial.transforms.array import AdversarialTransform
from monai_adversarial.transforms.dictionary import AdversarialTransformd

__all__ = ["AdvWorstOf", "AdvWorstOfD", "AdvWorstOfDict", "AdvWorstOfd"]


class AdvWorstOf(AdversarialTransform):
    """The draw of a random transform that is worst for a network; the adversarial sibling of any ``Rand*``.

    >>> from monai.transforms import RandGaussianNoise
    >>> from monai_adversarial.transforms import AdvWorstOf
    >>> from monai_adversarial.data.example import example_case
    >>> model, image, label = example_case(16)
    >>> transform = AdvWorstOf(model, RandGaussianNoise(prob=1.0, std=20.0), draws=4)
    >>> noisy, _ = transform(image[0], label[0])
    >>> transform.last_result.draw_dice.shape  # draws and samples
    torch.Size([4, 1])
    >>> bool(transform.last_result.adversarial_score == transform.last_result.draw_dice.min())
    True

    Args:
        model: see :class:`AdversarialTransform`.
        transform: random transform of MONAI or TorchIO, or a perturbation.
        draws: number of draws.
        prob: see :class:`AdversarialTransform`.
        spacing: see :class:`AdversarialTransform`.
        options: further arguments of :class:`~monai_adversarial.attacks.WorstOf`.
    """

    def __init__(
        self,
        model: AttackedModel | Callable[..., Any],
        transform: Any,
        draws: int = 16,
        prob: float = 1.0,
        spacing: Any = None,
        **options: Any,
    ) -> None:
        super().__init__(model, WorstOf(transform, draws, **options), prob, spacing)


class AdvWorstOfd(AdversarialTransformd):
    """Dictionary form of :class:`~monai_adversarial.transforms.AdvWorstOf`. ``inverse`` works for transforms of
    intensities and perturbations; other transforms that move anatomy cannot be undone.

    >>> from monai.transforms import RandAffine
    >>> from monai_adversarial.transforms import AdvWorstOfd
    >>> from monai_adversarial.data.example import example_case
    >>> model, image, label = example_case(16)
    >>> moves = RandAffine(prob=1.0, rotate_range=0.2, padding_mode="border")
    >>> transform = AdvWorstOfd("image", model, moves, draws=3, label_key="label")
    >>> item = transform({"image": image[0], "label": label[0]})
    >>> item["label"].unique().tolist(), bool((item["label"] != label[0]).any())  # the label moves with the image
    ([0.0, 1.0, 2.0, 3.0], True)

    Args:
        keys: see :class:`AdversarialTransformd`.
        model: what is attacked: an ``AttackedModel`` or a bare network.
        transform: random transform of MONAI or TorchIO, or a perturbation.
        draws: number of draws.
        label_key: see :class:`AdversarialTransformd`; it moves with the image.
        moved_keys: see :class:`AdversarialTransformd`.
        mode: see :class:`AdversarialTransformd`.
        prob: probability of the attack.
        allow_missing_keys: do not raise when a key is missing.
        options: further arguments of the array form.
    """

    def __init__(
        self,
        keys: KeysCollection,
        model: AttackedModel | Callable[..., Any],
        transform: Any,
        draws: int = 16,
        label_key: Hashable | None = None,
        moved_keys: KeysCollection = (),
        mode: Any = None,
        prob: float = 1.0,
        allow_missing_keys: bool = False,
        **options: Any,
    ) -> None:
        array = AdvWorstOf(model, transform, draws, **options)
        super().__init__(keys, array, label_key, moved_keys, mode, prob, allow_missing_keys)


AdvWorstOfD = AdvWorstOfDict = AdvWorstOfd
