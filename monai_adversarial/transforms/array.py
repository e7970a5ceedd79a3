# SPDX-License-Identifier: Apache-2.0
"""Adversarial transforms of one image: MONAI's ``Rand*`` family with the worst parameters for a network instead of
random ones."""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from monai.config import NdarrayOrTensor
from monai.data import MetaTensor, get_track_meta
from monai.transforms import RandomizableTransform
from monai.utils import TransformBackends, convert_to_dst_type, convert_to_tensor

from monai_adversarial.attacks import PGD, AffineAttack, AttackResult, BiasFieldAttack, ElasticAttack
from monai_adversarial.attacks.attack import Attack
from monai_adversarial.models import AttackedModel
from monai_adversarial.utils.arrays import as_tensor
from monai_adversarial.utils.modules import modules_of
from monai_adversarial.utils.plain import as_plain

__all__ = ["AdvAffine", "AdvBiasField", "AdvElastic", "AdvNoise", "AdversarialTransform"]


_drawing = threading.Lock()


class _PerThread(threading.local):
    """One value for each thread; copies and pickles start empty."""

    value: Any = None

    def __reduce__(self) -> tuple[type, tuple[()]]:
        return type(self), ()


class AdversarialTransform(RandomizableTransform):
    """Runs an attack on one channel-first image.

    The network sees its current weights where the transform runs in the same process: without loader workers, in
    threads (``ThreadDataLoader``), or on the batch. In a worker process it sees the weights of the moment when the
    worker started, and a warning says so once. Calls in several threads at once do not touch each other.

    >>> from monai_adversarial.attacks import PGD
    >>> from monai_adversarial.transforms import AdversarialTransform
    >>> from monai_adversarial.data.example import example_case
    >>> model, image, label = example_case(16)
    >>> transform = AdversarialTransform(model, PGD(8, units="HU", steps=2))
    >>> adversarial, label = transform(image[0], label[0])
    >>> result = transform.last_result
    >>> bool(result.adversarial_score < 0.5 * result.clean_score)
    True

    Args:
        model: what is attacked: an ``AttackedModel``, or a bare network (any differentiable callable) from (batch,
            channel, spatial...) to logits (batch, class, spatial...).
        attack: any attack of the package.
        prob: probability of the attack; 1 by default, unlike ``Rand*``: an attack that is skipped looks like
            robustness. Drawn from the transform's random state (``set_random_state``); the attack's own random numbers
            depend on its ``seed`` and the voxels only, so that the number of workers and the order do not matter.
        spacing: mm along each axis for images without an affine.

    Raises:
        TypeError: for a model that cannot be called, or an attack that is something else.
    """

    backend = [TransformBackends.TORCH]

    def __init__(
        self, model: AttackedModel | Callable[..., Any], attack: Attack, prob: float = 1.0, spacing: Any = None
    ) -> None:
        RandomizableTransform.__init__(self, prob)
        if not isinstance(attack, Attack):
            raise TypeError(f"attack must be a monai_adversarial.attacks.Attack, got {type(attack).__name__}.")
        self.model, self.attack, self.spacing = AttackedModel.wrap(model), attack, spacing
        self._last = _PerThread()
        self._process = os.getpid()
        self._warned = False

    @property
    def last_result(self) -> AttackResult | None:
        """The :class:`AttackResult` of the last call in the calling thread that attacked; None before."""
        return self._last.value

    def draw(self, transform: RandomizableTransform | None = None) -> bool:
        """Draw whether to attack, from the random state of ``transform`` (this one by default), one thread at a
        time."""
        drawn = self if transform is None else transform
        with _drawing:
            drawn.randomize(None)
            return bool(drawn._do_transform)

    def network_device(self) -> torch.device | None:
        """Device of the network's weights, None for a callable without weights."""
        for module in modules_of(self.model.network):
            for weight in module.parameters():
                return weight.device
        return None

    def check_process(self) -> None:
        """Say early what does not work in a loader's worker process."""
        # Loader threads have worker information as well, in the process where this was made.
        if torch.utils.data.get_worker_info() is None or os.getpid() == self._process:
            return
        device = self.network_device()
        if device is not None and device.type == "cuda" and torch.cuda._is_in_bad_fork():
            raise RuntimeError(
                f"{type(self).__name__} holds a network on {device} but runs in a forked DataLoader worker, where "
                "CUDA cannot be used: set "
                "num_workers=0, use ThreadDataLoader, or attack the batch with PrepareBatchAdversarial."
            )
        if not self._warned:
            self._warned = True
            warnings.warn(
                f"{type(self).__name__} runs in a DataLoader worker process and attacks the weights that the network "
                "had when the worker started: for a network in training set num_workers=0, use ThreadDataLoader with "
                "num_workers=0 or use_thread_workers=True, or use PrepareBatchAdversarial.",
                stacklevel=3,
            )

    def run(self, img: torch.Tensor, label: torch.Tensor | None = None) -> AttackResult:
        """Attack one channel-first image on the network's device."""
        self.check_process()
        device = self.network_device() or img.device
        batch = as_batch(img, device)
        reference = None if label is None else as_plain(label)[None].to(device)
        result = self.attack(self.model, batch, reference, spacing=self.spacing)
        self._last.value = result
        return result

    def __call__(
        self, img: NdarrayOrTensor, label: NdarrayOrTensor | None = None, randomize: bool = True
    ) -> NdarrayOrTensor | tuple[NdarrayOrTensor, NdarrayOrTensor]:
        """Attack ``img``.

        Args:
            img: (channel, spatial...) of any real type; the adversarial image has the same.
            label: class map (1, spatial...) or one-hot (class, spatial...) that the network should predict; None: its
                own clean prediction.
            randomize: draw whether to attack.

        Returns:
            the adversarial image; with ``label`` the pair of image and label, moved where the attack moves anatomy.
        """
        image, tracked = as_image("img", img)
        reference = None if label is None else as_image("label", label)[0]
        if not (self.draw() if randomize else self._do_transform):
            return image if reference is None else (image, reference)
        result = self.run(tracked, reference)
        out = convert_to_dst_type(as_plain(result.adversarial)[0], dst=image)[0]
        if reference is None:
            return out
        return out, convert_to_dst_type(as_plain(result.label)[0], dst=reference)[0]


def as_image(name: str, given: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """What was given as MONAI's transforms hand it on, and as an attack should see it: the affine of 1 mm that MONAI
    invents for an array says nothing about it."""
    tensor = as_tensor(name, given)
    image: torch.Tensor = convert_to_tensor(tensor, track_meta=get_track_meta())
    return image, image if isinstance(given, MetaTensor) else as_plain(image)


def as_batch(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Batch of one on the device, with the affine."""
    plain = as_plain(tensor)[None].to(device)
    if not isinstance(tensor, MetaTensor):
        return plain
    known = {key: tensor.meta[key] for key in ("spatial_shape",) if key in tensor.meta}
    return MetaTensor(plain, affine=tensor.affine, meta=known)


class AdvNoise(AdversarialTransform):
    """Adversarial additive noise (PGD); the adversarial sibling of ``RandGaussianNoise``.

    >>> from monai_adversarial.transforms import AdvNoise
    >>> from monai_adversarial.data.example import example_case
    >>> model, image, _ = example_case(16)
    >>> adversarial = AdvNoise(model, epsilon=8, units="HU", steps=2)(image[0])
    >>> round(float((adversarial - image[0]).abs().max()), 3)
    8.0

    Args:
        model: see :class:`AdversarialTransform`.
        epsilon: radius of the budget, in ``units``.
        units: ``"HU"``, ``"network"`` or ``"fraction"`` of the intensity window.
        norm: ``"linf"``, ``"l2"`` or ``"rms"``.
        steps: gradient evaluations.
        step_size: of every step, in ``units``; None for steps that fall from ``2 * epsilon``.
        prob: see :class:`AdversarialTransform`.
        spacing: see :class:`AdversarialTransform`.
        options: further arguments of :class:`~monai_adversarial.attacks.Attack`, for example
            ``objective``, ``seed``.
    """

    def __init__(
        self,
        model: AttackedModel | Callable[..., Any],
        epsilon: float,
        units: str = "network",
        norm: str = "linf",
        steps: int = 10,
        step_size: float | None = None,
        prob: float = 1.0,
        spacing: Any = None,
        **options: Any,
    ) -> None:
        super().__init__(model, PGD(epsilon, units, norm, steps, step_size, **options), prob, spacing)


class AdvBiasField(AdversarialTransform):
    """Adversarial smooth bias field; the adversarial sibling of ``RandBiasField``.

    >>> from monai_adversarial.transforms import AdvBiasField
    >>> from monai_adversarial.data.example import example_case
    >>> model, image, label = example_case(16)
    >>> transform = AdvBiasField(model, degree=2, max_gain=0.3, steps=2)
    >>> shaded, _ = transform(image[0], label[0])
    >>> gain = shaded / image[0]  # the voxels are multiplied
    >>> bool(gain.min() > 0.699), bool(gain.max() < 1.301), bool(gain.min() < 0.85)
    (True, True, True)

    Args:
        model: see :class:`AdversarialTransform`.
        degree: of the Legendre products, as in ``RandBiasField``.
        max_gain: largest relative change of intensity, 0.3 for 30 %.
        domain: ``"image"`` multiplies the voxels as ``RandBiasField`` does; ``"window"`` and ``"attenuation"``: see
            :class:`~monai_adversarial.attacks.BiasFieldAttack`.
        steps: gradient evaluations.
        prob: see :class:`AdversarialTransform`.
        spacing: see :class:`AdversarialTransform`.
        options: further arguments of :class:`~monai_adversarial.attacks.BiasFieldAttack`.
    """

    def __init__(
        self,
        model: AttackedModel | Callable[..., Any],
        degree: int = 3,
        max_gain: float = 0.3,
        domain: str = "image",
        steps: int = 10,
        prob: float = 1.0,
        spacing: Any = None,
        **options: Any,
    ) -> None:
        attack = BiasFieldAttack(max_gain=max_gain, degree=degree, domain=domain, steps=steps, **options)
        super().__init__(model, attack, prob, spacing)


class AdvElastic(AdversarialTransform):
    """Adversarial elastic deformation in mm; the adversarial sibling of ``Rand2DElastic`` and ``Rand3DElastic``.

    >>> from monai_adversarial.transforms import AdvElastic
    >>> from monai_adversarial.data.example import example_case
    >>> model, image, label = example_case(16)
    >>> transform = AdvElastic(model, max_displacement=5.0, steps=1)
    >>> adversarial, moved = transform(image[0], label[0])
    >>> moved.unique().tolist(), bool((moved != label[0]).any())  # the label moves with the image
    ([0.0, 1.0, 2.0, 3.0], True)
    >>> found = transform.last_result.budgets["displacement_euclidean"]
    >>> found.units, found.limit, bool(found.values <= found.limit)
    ('mm', 5.0, True)

    Args:
        model: see :class:`AdversarialTransform`.
        max_displacement: in mm, one number or one per axis.
        control_spacing: distance of the control points in mm.
        diffeomorphic: never fold anatomy.
        steps: gradient evaluations.
        prob: see :class:`AdversarialTransform`.
        spacing: see :class:`AdversarialTransform`.
        options: further arguments of :class:`~monai_adversarial.attacks.ElasticAttack`.
    """

    def __init__(
        self,
        model: AttackedModel | Callable[..., Any],
        max_displacement: float | Sequence[float] = 5.0,
        control_spacing: float = 32.0,
        diffeomorphic: bool = True,
        steps: int = 10,
        prob: float = 1.0,
        spacing: Any = None,
        **options: Any,
    ) -> None:
        attack = ElasticAttack(
            max_displacement=max_displacement,
            control_spacing=control_spacing,
            diffeomorphic=diffeomorphic,
            steps=steps,
            **options,
        )
        super().__init__(model, attack, prob, spacing)


class AdvAffine(AdversarialTransform):
    """Adversarial affine transform in degrees and mm; the adversarial sibling of ``RandAffine``.

    >>> from monai_adversarial.transforms import AdvAffine
    >>> from monai_adversarial.data.example import example_case
    >>> model, image, label = example_case(16)
    >>> transform = AdvAffine(model, max_rotation=10.0, max_translation=12.0, steps=1)
    >>> adversarial, moved = transform(image[0], label[0])
    >>> [name for name, found in transform.last_result.budgets.items() if found.units == "degrees"]
    ['rotation_0', 'rotation_1', 'rotation_2']
    >>> bool(transform.last_result.adversarial_score < transform.last_result.clean_score)
    True

    Args:
        model: see :class:`AdversarialTransform`.
        max_rotation: degrees about each axis.
        max_translation: mm along each axis.
        max_scale: largest relative change of size.
        max_shear: largest shear.
        steps: gradient evaluations.
        prob: see :class:`AdversarialTransform`.
        spacing: see :class:`AdversarialTransform`.
        options: further arguments of :class:`~monai_adversarial.attacks.AffineAttack`.
    """

    def __init__(
        self,
        model: AttackedModel | Callable[..., Any],
        max_rotation: float = 10.0,
        max_translation: float = 10.0,
        max_scale: float = 0.1,
        max_shear: float = 0.0,
        steps: int = 10,
        prob: float = 1.0,
        spacing: Any = None,
        **options: Any,
    ) -> None:
        attack = AffineAttack(max_rotation, max_translation, max_scale, max_shear, steps, **options)
        super().__init__(model, attack, prob, spacing)
