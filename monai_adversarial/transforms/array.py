# SPDX-License-Identifier: Apache-2.0
"""Adversarial transforms of one image: MONAI's ``Rand*`` family with the worst parameters for a network instead of
random ones."""

from __future__ import annotations

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
from monai_adversarial.utils.modules import modules_of
from monai_adversarial.utils.plain import as_plain

__all__ = ["AdvAffine", "AdvBiasField", "AdvElastic", "AdvNoise", "AdversarialTransform"]


class AdversarialTransform(RandomizableTransform):
    """Runs an attack on one channel-first image.

    The network sees its current weights where the transform runs in the same process (no loader workers, thread
    workers, or on the batch). In a worker process it sees the weights of the moment when the worker started, and a
    warning says so once.

    Args:
        network: network (or differentiable callable) from (batch, channel, spatial...) to logits (batch, class,
            spatial...).
        attack: any attack of the package.
        inferer: MONAI inferer, for example ``SlidingWindowInferer``.
        prob: probability of the attack; 1 by default, unlike ``Rand*``: an attack that is skipped looks like
            robustness. Drawn from the transform's random state (``set_random_state``); the attack's own random numbers
            depend on its ``seed`` and the voxels only, so that the number of workers and the order do not matter.
        spacing: mm along each axis for images without an affine.

    Attributes:
        last_result: the :class:`AttackResult` of the last call that attacked.
    """

    backend = [TransformBackends.TORCH]

    def __init__(
        self,
        network: Callable[..., Any],
        attack: Attack,
        inferer: Callable[..., Any] | None = None,
        prob: float = 1.0,
        spacing: Any = None,
    ) -> None:
        RandomizableTransform.__init__(self, prob)
        if not callable(network):
            raise TypeError(f"network must be a torch.nn.Module or a callable, got {type(network).__name__}.")
        if not isinstance(attack, Attack):
            raise TypeError(f"attack must be a monai_adversarial.attacks.Attack, got {type(attack).__name__}.")
        self.network, self.attack, self.inferer, self.spacing = network, attack, inferer, spacing
        self.last_result: AttackResult | None = None
        self._warned = False

    def network_device(self) -> torch.device | None:
        """Device of the network's weights, None for a callable without weights."""
        for module in modules_of(self.network):
            for weight in module.parameters():
                return weight.device
        return None

    def check_process(self) -> None:
        """Say early what does not work in a loader's worker process."""
        if torch.utils.data.get_worker_info() is None:
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
                f"{type(self).__name__} runs in a DataLoader worker and attacks the weights that the network had "
                "when the worker started: for "
                "a network in training set num_workers=0 or use PrepareBatchAdversarial.",
                stacklevel=3,
            )

    def run(self, img: torch.Tensor, label: torch.Tensor | None = None) -> AttackResult:
        """Attack one channel-first image on the network's device."""
        self.check_process()
        device = self.network_device() or img.device
        batch = _as_batch(img, device)
        reference = None if label is None else _as_batch(label, device)
        self.last_result = self.attack(self.network, batch, reference, inferer=self.inferer, spacing=self.spacing)
        return self.last_result

    def __call__(
        self, img: NdarrayOrTensor, label: NdarrayOrTensor | None = None, randomize: bool = True
    ) -> NdarrayOrTensor | tuple[NdarrayOrTensor, NdarrayOrTensor]:
        """Attack ``img``.

        Args:
            img: (channel, spatial...).
            label: class map (1, spatial...) or one-hot (class, spatial...) that the network should predict; None: its
                own clean prediction.
            randomize: draw whether to attack.

        Returns:
            the adversarial image; with ``label`` the pair of image and label, moved where the attack moves anatomy.
        """
        has_affine = isinstance(img, MetaTensor)  # the conversion below would invent one of 1 mm
        image: torch.Tensor = convert_to_tensor(img, track_meta=get_track_meta())
        if randomize:
            self.randomize(None)
        if not self._do_transform:
            return image if label is None else (image, label)
        result = self.run(
            image if has_affine else as_plain(image),
            None if label is None else convert_to_tensor(label, track_meta=get_track_meta()),
        )
        out = convert_to_dst_type(as_plain(result.adversarial)[0], dst=image)[0]
        if label is None:
            return out
        return out, convert_to_dst_type(as_plain(result.label)[0], dst=label)[0]


def _as_batch(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Batch of one on the device, with the affine; integer images become float32."""
    plain = as_plain(tensor)[None].to(device)
    if not plain.is_floating_point() and not isinstance(tensor, MetaTensor):
        return plain
    return MetaTensor(plain, affine=tensor.affine) if isinstance(tensor, MetaTensor) else plain


class AdvNoise(AdversarialTransform):
    """Adversarial additive noise (PGD); the adversarial sibling of ``RandGaussianNoise``.

    Args:
        network: see :class:`AdversarialTransform`.
        epsilon: radius of the budget, in ``units``.
        units: ``"HU"``, ``"network"`` or ``"fraction"`` of the intensity window.
        norm: ``"linf"``, ``"l2"`` or ``"rms"``.
        steps: gradient evaluations.
        step_size: in ``units``; None for a quarter of ``epsilon``.
        inferer: see :class:`AdversarialTransform`.
        prob: see :class:`AdversarialTransform`.
        spacing: see :class:`AdversarialTransform`.
        options: further arguments of :class:`~monai_adversarial.attacks.Attack`, for example ``intensity``,
            ``objective``, ``seed``.
    """

    def __init__(
        self,
        network: Callable[..., Any],
        epsilon: float,
        units: str = "network",
        norm: str = "linf",
        steps: int = 10,
        step_size: float | None = None,
        inferer: Callable[..., Any] | None = None,
        prob: float = 1.0,
        spacing: Any = None,
        **options: Any,
    ) -> None:
        super().__init__(network, PGD(epsilon, units, norm, steps, step_size, **options), inferer, prob, spacing)


class AdvBiasField(AdversarialTransform):
    """Adversarial smooth bias field; the adversarial sibling of ``RandBiasField``.

    Args:
        network: see :class:`AdversarialTransform`.
        degree: of the Legendre products, as in ``RandBiasField``.
        max_gain: largest relative change of intensity, 0.3 for 30 %.
        domain: ``"image"`` multiplies the voxels as ``RandBiasField`` does; ``"window"`` and ``"attenuation"``: see
            :class:`~monai_adversarial.attacks.BiasFieldAttack`.
        steps: gradient evaluations.
        inferer: see :class:`AdversarialTransform`.
        prob: see :class:`AdversarialTransform`.
        spacing: see :class:`AdversarialTransform`.
        options: further arguments of :class:`~monai_adversarial.attacks.BiasFieldAttack`.
    """

    def __init__(
        self,
        network: Callable[..., Any],
        degree: int = 3,
        max_gain: float = 0.3,
        domain: str = "image",
        steps: int = 10,
        inferer: Callable[..., Any] | None = None,
        prob: float = 1.0,
        spacing: Any = None,
        **options: Any,
    ) -> None:
        attack = BiasFieldAttack(max_gain=max_gain, degree=degree, domain=domain, steps=steps, **options)
        super().__init__(network, attack, inferer, prob, spacing)


class AdvElastic(AdversarialTransform):
    """Adversarial elastic deformation in mm; the adversarial sibling of ``Rand2DElastic`` and ``Rand3DElastic``.

    Args:
        network: see :class:`AdversarialTransform`.
        max_displacement: in mm, one number or one per axis.
        control_spacing: distance of the control points in mm.
        diffeomorphic: never fold anatomy.
        steps: gradient evaluations.
        inferer: see :class:`AdversarialTransform`.
        prob: see :class:`AdversarialTransform`.
        spacing: see :class:`AdversarialTransform`.
        options: further arguments of :class:`~monai_adversarial.attacks.ElasticAttack`.
    """

    def __init__(
        self,
        network: Callable[..., Any],
        max_displacement: float | Sequence[float] = 5.0,
        control_spacing: float = 32.0,
        diffeomorphic: bool = True,
        steps: int = 10,
        inferer: Callable[..., Any] | None = None,
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
        super().__init__(network, attack, inferer, prob, spacing)


class AdvAffine(AdversarialTransform):
    """Adversarial affine transform in degrees and mm; the adversarial sibling of ``RandAffine``.

    Args:
        network: see :class:`AdversarialTransform`.
        max_rotation: degrees about each axis.
        max_translation: mm along each axis.
        max_scale: largest relative change of size.
        max_shear: largest shear.
        steps: gradient evaluations.
        inferer: see :class:`AdversarialTransform`.
        prob: see :class:`AdversarialTransform`.
        spacing: see :class:`AdversarialTransform`.
        options: further arguments of :class:`~monai_adversarial.attacks.AffineAttack`.
    """

    def __init__(
        self,
        network: Callable[..., Any],
        max_rotation: float = 10.0,
        max_translation: float = 10.0,
        max_scale: float = 0.1,
        max_shear: float = 0.0,
        steps: int = 10,
        inferer: Callable[..., Any] | None = None,
        prob: float = 1.0,
        spacing: Any = None,
        **options: Any,
    ) -> None:
        attack = AffineAttack(max_rotation, max_translation, max_scale, max_shear, steps, **options)
        super().__init__(network, attack, inferer, prob, spacing)
