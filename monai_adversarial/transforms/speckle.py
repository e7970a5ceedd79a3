# SPDX-License-Identifier: Apache-2.0
"""Random and adversarial speckle as transforms."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import Any

import numpy as np
from monai.config import KeysCollection, NdarrayOrTensor
from monai.data import get_track_meta
from monai.transforms import MapTransform, RandomizableTransform
from monai.utils import TransformBackends, convert_to_dst_type, convert_to_tensor
from scipy.ndimage import gaussian_filter

from monai_adversarial.attacks import SpeckleAttack
from monai_adversarial.models import AttackedModel
from monai_adversarial.transforms.array import AdversarialTransform
from monai_adversarial.transforms.dictionary import AdversarialTransformd
from monai_adversarial.utils.validation import check_choice, check_positive

__all__ = [
    "AdvSpeckle",
    "AdvSpeckleD",
    "AdvSpeckleDict",
    "AdvSpeckled",
    "RandSpeckleNoise",
    "RandSpeckleNoiseD",
    "RandSpeckleNoiseDict",
    "RandSpeckleNoised",
]

DISTRIBUTIONS = ("normal", "uniform", "gamma")


class RandSpeckleNoise(RandomizableTransform):
    """Multiplies each voxel by ``1 + n`` with random ``n``; MONAI has additive and Rician noise only.

    >>> import numpy as np
    >>> from monai_adversarial.transforms import RandSpeckleNoise
    >>> speckle = RandSpeckleNoise(prob=1.0, std=0.2).set_random_state(0)
    >>> noisy = speckle(np.array([[0.0] * 1000, [50.0] * 1000], dtype=np.float32))
    >>> float(noisy[0].abs().max()), 8 < float(noisy[1].std()) < 12  # no signal stays none, 50 varies by 10
    (0.0, True)

    Args:
        prob: probability of the noise.
        std: standard deviation of ``n``.
        distribution: ``"normal"``, ``"uniform"``, or ``"gamma"``: fully developed multi-look speckle of ``1 / std**2``
            looks. A gain below zero counts as zero.
        grain: standard deviation in voxels of a Gaussian that smooths the noise, which keeps its standard deviation; 0
            for none.
        zero: value of no signal, which stays as it is: 0, or -1000 for HU, so that linear attenuation is multiplied.

    Raises:
        ValueError: for a number out of range or an unknown distribution.

    Survey entry: A12 (adapted).

    Source: Lal et al. 2021, as attack and as augmentation; its variance could not be read.
    """

    backend = [TransformBackends.TORCH, TransformBackends.NUMPY]

    def __init__(
        self, prob: float = 0.1, std: float = 0.1, distribution: str = "normal", grain: float = 0.0, zero: float = 0.0
    ) -> None:
        RandomizableTransform.__init__(self, prob)
        self.std = check_positive("std", std, allow_zero=True)
        self.distribution = check_choice("distribution", distribution, DISTRIBUTIONS)
        self.grain = check_positive("grain", grain, allow_zero=True)
        self.zero = float(zero)
        self.noise: np.ndarray | None = None

    def randomize(self, data: NdarrayOrTensor) -> None:
        """Draw whether to act, and the noise of a channel-first image."""
        super().randomize(None)
        self.noise = None
        if not self._do_transform or self.std == 0:
            return
        shape = tuple(data.shape)
        if self.distribution == "normal":
            noise = self.R.normal(0.0, self.std, shape)
        elif self.distribution == "uniform":
            noise = self.R.uniform(-1.0, 1.0, shape) * (self.std * np.sqrt(3.0))
        else:
            looks = self.std**-2
            noise = self.R.gamma(looks, 1.0 / looks, shape) - 1.0
        if self.grain > 0:
            noise = gaussian_filter(noise, (0.0, *[self.grain] * (len(shape) - 1)), mode="nearest")
            noise *= self.std / max(float(noise.std()), float(np.finfo(noise.dtype).tiny))
        self.noise = noise

    def __call__(self, img: NdarrayOrTensor, randomize: bool = True) -> NdarrayOrTensor:
        """Multiply a channel-first image."""
        image = convert_to_tensor(img, track_meta=get_track_meta())
        if randomize:
            self.randomize(image)
        if not self._do_transform or self.noise is None:
            return image
        gain, *_ = convert_to_dst_type(np.maximum(1.0 + self.noise, 0.0), dst=image.float())
        return convert_to_dst_type((image.float() - self.zero) * gain + self.zero, dst=image)[0]


class RandSpeckleNoised(RandomizableTransform, MapTransform):
    """Dictionary form of :class:`RandSpeckleNoise`; all keys get the same noise, as with MONAI's noise transforms.

    >>> from monai_adversarial.transforms import RandSpeckleNoised
    >>> from monai_adversarial.data.example import example_case
    >>> _, image, _ = example_case(16)
    >>> speckle = RandSpeckleNoised(["image", "second"], prob=1.0, std=0.1, distribution="gamma").set_random_state(0)
    >>> item = speckle({"image": image[0], "second": 2 * image[0]})
    >>> gain = item["image"] / image[0]
    >>> bool((item["second"] - 2 * item["image"]).abs().max() < 0.01), 0.08 < float(gain[image[0] > 5].std()) < 0.12
    (True, True)

    Args:
        keys: images of one shape, channel first.
        prob: probability of the noise.
        std: see :class:`RandSpeckleNoise`.
        distribution: see :class:`RandSpeckleNoise`.
        grain: see :class:`RandSpeckleNoise`.
        zero: see :class:`RandSpeckleNoise`.
        allow_missing_keys: do not raise when a key is missing.
    """

    backend = RandSpeckleNoise.backend

    def __init__(
        self,
        keys: KeysCollection,
        prob: float = 0.1,
        std: float = 0.1,
        distribution: str = "normal",
        grain: float = 0.0,
        zero: float = 0.0,
        allow_missing_keys: bool = False,
    ) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        RandomizableTransform.__init__(self, prob)
        self.transform = RandSpeckleNoise(1.0, std, distribution, grain, zero)

    def set_random_state(
        self, seed: int | None = None, state: np.random.RandomState | None = None
    ) -> RandSpeckleNoised:
        """Seed the draws."""
        super().set_random_state(seed, state)
        self.transform.set_random_state(seed, state)
        return self

    def __call__(self, data: Mapping[Hashable, NdarrayOrTensor]) -> dict[Hashable, NdarrayOrTensor]:
        """Multiply the images of one item."""
        d = dict(data)
        self.randomize(None)
        first = self.first_key(d)
        if not self._do_transform or first == ():
            for key in self.key_iterator(d):
                d[key] = convert_to_tensor(d[key], track_meta=get_track_meta())
            return d
        self.transform.randomize(d[first])
        for key in self.key_iterator(d):
            d[key] = self.transform(d[key], randomize=False)
        return d


class AdvSpeckle(AdversarialTransform):
    """Adversarial speckle; the adversarial sibling of ``RandSpeckleNoise``.

    >>> from monai_adversarial.transforms import AdvSpeckle
    >>> from monai_adversarial.data.example import example_case
    >>> model, image, label = example_case(16)
    >>> transform = AdvSpeckle(model, rho=0.05, domain="attenuation", steps=2)  # of HU + 1000
    >>> speckled, _ = transform(image[0], label[0])
    >>> bool((speckled - image[0]).abs().max() <= 0.0501 * (1000 + image.max()))
    True
    >>> bool(transform.last_result.success)
    True

    Args:
        model: see :class:`AdversarialTransform`.
        rho: largest relative change of a value.
        grain: standard deviation in voxels of a Gaussian that smooths the noise, 0 for none.
        domain: ``"image"`` multiplies the voxels as ``RandSpeckleNoise`` does; ``"window"`` and ``"attenuation"``: see
            :class:`~monai_adversarial.attacks.SpeckleNoise`.
        steps: gradient evaluations.
        prob: see :class:`AdversarialTransform`.
        spacing: see :class:`AdversarialTransform`.
        options: further arguments of :class:`~monai_adversarial.attacks.SpeckleAttack`.

    Source: Lal et al. 2021, as :class:`~monai_adversarial.attacks.SpeckleAttack`.

    Survey entry: A12 (adapted).

    Source: see :class:`~monai_adversarial.attacks.SpeckleNoise`.
    """

    def __init__(
        self,
        model: AttackedModel | Callable[..., Any],
        rho: float = 0.1,
        grain: float = 0.0,
        domain: str = "image",
        steps: int = 10,
        prob: float = 1.0,
        spacing: Any = None,
        **options: Any,
    ) -> None:
        super().__init__(model, SpeckleAttack(rho, grain, domain=domain, steps=steps, **options), prob, spacing)


class AdvSpeckled(AdversarialTransformd):
    """Dictionary form of :class:`~monai_adversarial.transforms.AdvSpeckle`.

    >>> from monai_adversarial.transforms import AdvSpeckled
    >>> from monai_adversarial.data.example import example_case
    >>> model, image, label = example_case(16)
    >>> transform = AdvSpeckled("image", model, rho=0.05, domain="window", steps=2, label_key="label")
    >>> item = transform({"image": image[0], "label": label[0]})
    >>> change = (item["image"] - image[0]).abs() / (image[0] + 160)  # of the value above the window's low edge
    >>> round(float(change.max()), 3), transform.transform.last_result.success.tolist()
    (0.05, [True])

    Args:
        keys: see :class:`AdversarialTransformd`.
        model: what is attacked: an ``AttackedModel`` or a bare network.
        rho: largest relative change of a value.
        label_key: see :class:`AdversarialTransformd`.
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
        rho: float = 0.1,
        label_key: Hashable | None = None,
        moved_keys: KeysCollection = (),
        mode: Any = None,
        prob: float = 1.0,
        allow_missing_keys: bool = False,
        **options: Any,
    ) -> None:
        transform = AdvSpeckle(model, rho, **options)
        super().__init__(keys, transform, label_key, moved_keys, mode, prob, allow_missing_keys)


RandSpeckleNoiseD = RandSpeckleNoiseDict = RandSpeckleNoised
AdvSpeckleD = AdvSpeckleDict = AdvSpeckled
