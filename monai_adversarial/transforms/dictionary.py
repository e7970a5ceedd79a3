# SPDX-License-Identifier: Apache-2.0
"""Dictionary forms of the adversarial transforms."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection, NdarrayOrTensor
from monai.data import MetaTensor, get_track_meta
from monai.transforms import InvertibleTransform, MapTransform, RandomizableTransform
from monai.utils import convert_to_dst_type, convert_to_tensor, ensure_tuple

from monai_adversarial.attacks import AttackResult
from monai_adversarial.transforms.array import (
    AdvAffine,
    AdvBiasField,
    AdvElastic,
    AdversarialTransform,
    AdvNoise,
)
from monai_adversarial.utils.plain import as_plain
from monai_adversarial.utils.scene import Scene, spacing_of

__all__ = [
    "AdvAffineD",
    "AdvAffineDict",
    "AdvAffined",
    "AdvBiasFieldD",
    "AdvBiasFieldDict",
    "AdvBiasFieldd",
    "AdvElasticD",
    "AdvElasticDict",
    "AdvElasticd",
    "AdvNoiseD",
    "AdvNoiseDict",
    "AdvNoised",
    "AdversarialTransformd",
]


class AdversarialTransformd(RandomizableTransform, MapTransform, InvertibleTransform):
    """Attacks the first of ``keys``; the other images get the same perturbation, labels and masks move with it.

    Each changed ``MetaTensor`` gets an entry in its ``applied_operations``. ``inverse`` (``Invertd``) brings what was
    made from a geometrically attacked image, such as a prediction, back to the anatomy of the clean image; after an
    attack on intensities it changes nothing.

    Args:
        keys: images, channel first.
        transform: the array form; its ``prob`` is ignored.
        label_key: class map or one-hot that the network should predict; None, or absent from the data: the network's
            clean prediction.
        moved_keys: further labels or masks that move with a geometric attack, by nearest neighbor.
        prob: probability of the attack.
        allow_missing_keys: do not raise when a key is missing.
    """

    backend = AdversarialTransform.backend

    def __init__(
        self,
        keys: KeysCollection,
        transform: AdversarialTransform,
        label_key: Hashable | None = None,
        moved_keys: KeysCollection = (),
        prob: float = 1.0,
        allow_missing_keys: bool = False,
    ) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        RandomizableTransform.__init__(self, prob)
        self.transform = transform
        self.label_key = label_key
        self.moved_keys = ensure_tuple(moved_keys)

    def set_random_state(
        self, seed: int | None = None, state: np.random.RandomState | None = None
    ) -> AdversarialTransformd:
        """Seed the draw of ``prob``."""
        super().set_random_state(seed, state)
        self.transform.set_random_state(seed, state)
        return self

    def __call__(self, data: Mapping[Hashable, NdarrayOrTensor]) -> dict[Hashable, NdarrayOrTensor]:
        """Attack one item of a data set."""
        d: dict[Hashable, Any] = dict(data)
        self.randomize(None)
        present = [key for key in self.key_iterator(d)]
        if not present:
            return d
        companions = [key for key in (self.label_key, *self.moved_keys) if key is not None and key in d]
        has_affine = isinstance(d[present[0]], MetaTensor)
        for key in (*present, *companions):
            d[key] = convert_to_tensor(d[key], track_meta=get_track_meta())
        if not self._do_transform:
            for key in (*present, *companions):
                self._record(d[key], None)
            return d
        first = present[0]
        label = d[self.label_key] if self.label_key in companions else None
        result = self.transform.run(d[first] if has_affine else as_plain(d[first]), label)
        for key in present:
            d[key] = self._perturbed(d[key], result, attacked=key == first)
            self._record(d[key], result)
        for key in companions:
            moved = result.bound.move_label(_batch_of_one(d[key]).to(result.image.device), result.parameters)
            d[key] = convert_to_dst_type(moved[0], dst=d[key])[0]
            self._record(d[key], result)
        return d

    def _perturbed(self, image: torch.Tensor, result: AttackResult, attacked: bool) -> torch.Tensor:
        if attacked:
            return convert_to_dst_type(as_plain(result.adversarial)[0], dst=image)[0]
        clean = _batch_of_one(image).to(result.image)
        scene = Scene(
            clean,
            result.bound.scene.seeds,
            result.bound.scene.spacing,
            None,
            self.transform.attack.intensity,
            self.transform.attack.image_units,
        )
        bound = self.transform.attack.perturbation.bind(scene)
        with torch.no_grad():
            return convert_to_dst_type(bound.apply(clean, bound.project(result.parameters))[0], dst=image)[0]

    def _record(self, image: Any, result: AttackResult | None) -> None:
        if not isinstance(image, MetaTensor):
            return
        info: dict[str, Any] = {"attacked": result is not None}
        if result is not None:
            info["attack"] = repr(self.transform.attack)
            info["measured"] = {name: float(found.values[0]) for name, found in result.budgets.items()}
            if result.bound.geometric:
                info["parameters"] = [parameter[0].cpu() for parameter in result.parameters]
        self.push_transform(image, extra_info=info)

    def inverse(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Undo the movement of anatomy; changes of intensity stay, as with MONAI's random intensity transforms."""
        d = dict(data)
        for key in self.key_iterator(d):
            info = self.pop_transform(d[key])["extra_info"]
            if "parameters" not in info:
                continue
            batch = _batch_of_one(d[key])
            volume = batch if batch.is_floating_point() else batch.float()
            spacing = spacing_of(MetaTensor(volume, affine=d[key].affine), self.transform.spacing)
            bound = self.transform.attack.perturbation.bind(Scene(volume, (0,), spacing))
            parameters = tuple(torch.as_tensor(p)[None].to(volume) for p in info["parameters"])
            mode = "linear" if batch.is_floating_point() else "nearest"
            d[key] = convert_to_dst_type(bound.pull_back(volume, parameters, mode)[0], dst=d[key])[0]
        return d


def _batch_of_one(tensor: torch.Tensor) -> torch.Tensor:
    return as_plain(tensor)[None]


class AdvNoised(AdversarialTransformd):
    """Dictionary form of :class:`~monai_adversarial.transforms.AdvNoise`.

    Args:
        keys: see :class:`AdversarialTransformd`.
        network: network to fool.
        epsilon: radius of the budget, in ``units``.
        label_key: see :class:`AdversarialTransformd`.
        moved_keys: see :class:`AdversarialTransformd`.
        prob: probability of the attack.
        allow_missing_keys: do not raise when a key is missing.
        options: further arguments of the array form.
    """

    def __init__(
        self,
        keys: KeysCollection,
        network: Callable[..., Any],
        epsilon: float,
        label_key: Hashable | None = None,
        moved_keys: KeysCollection = (),
        prob: float = 1.0,
        allow_missing_keys: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(keys, AdvNoise(network, epsilon, **options), label_key, moved_keys, prob, allow_missing_keys)


class AdvBiasFieldd(AdversarialTransformd):
    """Dictionary form of :class:`~monai_adversarial.transforms.AdvBiasField`: ``RandBiasFieldd`` with the worst
    coefficients.

    Args:
        keys: see :class:`AdversarialTransformd`.
        network: network to fool.
        degree: of the Legendre products.
        max_gain: largest relative change of intensity.
        label_key: see :class:`AdversarialTransformd`.
        moved_keys: see :class:`AdversarialTransformd`.
        prob: probability of the attack.
        allow_missing_keys: do not raise when a key is missing.
        options: further arguments of the array form.
    """

    def __init__(
        self,
        keys: KeysCollection,
        network: Callable[..., Any],
        degree: int = 3,
        max_gain: float = 0.3,
        label_key: Hashable | None = None,
        moved_keys: KeysCollection = (),
        prob: float = 1.0,
        allow_missing_keys: bool = False,
        **options: Any,
    ) -> None:
        transform = AdvBiasField(network, degree, max_gain, **options)
        super().__init__(keys, transform, label_key, moved_keys, prob, allow_missing_keys)


class AdvElasticd(AdversarialTransformd):
    """Dictionary form of :class:`~monai_adversarial.transforms.AdvElastic`.

    Args:
        keys: see :class:`AdversarialTransformd`.
        network: network to fool.
        max_displacement: in mm, one number or one per axis.
        label_key: see :class:`AdversarialTransformd`; it moves with the image.
        moved_keys: see :class:`AdversarialTransformd`.
        prob: probability of the attack.
        allow_missing_keys: do not raise when a key is missing.
        options: further arguments of the array form.
    """

    def __init__(
        self,
        keys: KeysCollection,
        network: Callable[..., Any],
        max_displacement: float | Sequence[float] = 5.0,
        label_key: Hashable | None = None,
        moved_keys: KeysCollection = (),
        prob: float = 1.0,
        allow_missing_keys: bool = False,
        **options: Any,
    ) -> None:
        transform = AdvElastic(network, max_displacement, **options)
        super().__init__(keys, transform, label_key, moved_keys, prob, allow_missing_keys)


class AdvAffined(AdversarialTransformd):
    """Dictionary form of :class:`~monai_adversarial.transforms.AdvAffine`.

    Args:
        keys: see :class:`AdversarialTransformd`.
        network: network to fool.
        max_rotation: degrees about each axis.
        max_translation: mm along each axis.
        label_key: see :class:`AdversarialTransformd`; it moves with the image.
        moved_keys: see :class:`AdversarialTransformd`.
        prob: probability of the attack.
        allow_missing_keys: do not raise when a key is missing.
        options: further arguments of the array form.
    """

    def __init__(
        self,
        keys: KeysCollection,
        network: Callable[..., Any],
        max_rotation: float = 10.0,
        max_translation: float = 10.0,
        label_key: Hashable | None = None,
        moved_keys: KeysCollection = (),
        prob: float = 1.0,
        allow_missing_keys: bool = False,
        **options: Any,
    ) -> None:
        transform = AdvAffine(network, max_rotation, max_translation, **options)
        super().__init__(keys, transform, label_key, moved_keys, prob, allow_missing_keys)


AdvNoiseD = AdvNoiseDict = AdvNoised
AdvBiasFieldD = AdvBiasFieldDict = AdvBiasFieldd
AdvElasticD = AdvElasticDict = AdvElasticd
AdvAffineD = AdvAffineDict = AdvAffined
