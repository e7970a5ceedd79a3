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
