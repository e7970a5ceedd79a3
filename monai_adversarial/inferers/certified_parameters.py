# SPDX-License-Identifier: Apache-2.0
"""Certificates against bias fields, gains, gammas and translations, instead of noise in every voxel."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from monai_adversarial.inferers.additive_changes import AdditiveChange, check_composes
from monai_adversarial.inferers.certified_segmentation import CertifiedSegmentation, CertifiedSegmentationInferer
from monai_adversarial.metrics.class_hierarchy import ClassHierarchy
from monai_adversarial.utils.validation import check_instance

__all__ = ["CertifiedParameterInferer"]


class CertifiedParameterInferer(CertifiedSegmentationInferer):
    """Certified segmentation by smoothing over the parameters of a change that composes additively.

    The copies that vote are changed with Gaussian parameters in place of noise. Of an attacked image ``apply(x, a)`` a
    copy with parameter b is ``apply(x, a + b)``. Its votes are therefore those of x with a Gaussian around a, and the
    argument of randomized smoothing holds in the space of the parameters. A certified voxel keeps its class under every
    change with an L2 norm of its parameters below ``sigma * Phi^-1(tau)``.

    The certificate covers this change alone, applied once or often, of the image as it was given: not clipped or
    rounded afterwards. A change that does not compose on the image at hand is refused. For elastic displacements no
    such certificate exists, since displacements do not add.

    Source: Li et al., "TSS: transformation-specific smoothing for robustness certification", CCS 2021 (resolvable
    transformations), of which only a summary was read; votes per voxel and the bias field are own.

    >>> import torch
    >>> from monai_adversarial.data.example import example_case
    >>> from monai_adversarial.inferers import BiasFieldChange, CertifiedParameterInferer
    >>> model, image, label = example_case(16)
    >>> gain = BiasFieldChange(degree=1, zero=-1000.0)
    >>> inferer = CertifiedParameterInferer(
    ...     gain, lambda hu, network: network(model.intensity(hu)), sigma=0.002, n=60, tau=0.6, copies_at_once=20
    ... )
    >>> found = inferer.certify(image, model.network)
    >>> f"{found.units} up to {found.radius:.5f}, {float(found.abstention_share):.0%} abstain"
    'log gain up to 0.00051, ...% abstain'

    Args:
        change: a ``BiasFieldChange``, ``ShiftChange``, ``GammaChange``, ``TranslationChange``, or one of your own.
        inferer: of each copy; see ``NoisyCopiesInferer``.
        sigma: standard deviation of each parameter, in the units of the change.
        n0: see ``CertifiedSegmentationInferer``, as all that follow.
        n: see above.
        tau: see above.
        alpha: see above.
        correction: see above.
        exclude_below: see above.
        region: see above.
        abstain_class: see above.
        copies_at_once: see above.
        denoiser: see above.
        activation: see above.
        output: see above.
        seed: see above.
        focus: see above.
        focus_margin: see above.
        focus_share: see above.
        looks: see above.
        hierarchy: see above.

    Raises:
        TypeError: for a change of another type.
        ValueError: for a bad argument; when called, for an image that the change does not fit, and for a change that
            does not compose.

    Survey entry: X16 (adapted).
    """

    def __init__(
        self,
        change: AdditiveChange,
        inferer: Callable[..., Any] | None = None,
        sigma: float = 0.1,
        n0: int = 10,
        n: int = 100,
        tau: float = 0.75,
        alpha: float = 0.001,
        correction: str = "holm",
        exclude_below: float | None = None,
        region: Callable[[torch.Tensor], torch.Tensor] | None = None,
        abstain_class: int | None = None,
        copies_at_once: int = 1,
        denoiser: Any = None,
        activation: str = "softmax",
        output: Any = None,
        seed: int = 0,
        focus: str | Callable[[torch.Tensor], torch.Tensor] | None = None,
        focus_margin: int = 0,
        focus_share: float = 1.0,
        looks: int | Sequence[int] | None = None,
        hierarchy: ClassHierarchy | None = None,
    ) -> None:
        check_instance("change", change, AdditiveChange, "BiasFieldChange(degree=3)")
        super().__init__(
            inferer,
            sigma,
            n0,
            n,
            tau,
            alpha,
            correction,
            exclude_below,
            region,
            abstain_class=abstain_class,
            copies_at_once=copies_at_once,
            denoiser=denoiser,
            activation=activation,
            output=output,
            seed=seed,
            focus=focus,
            focus_margin=focus_margin,
            focus_share=focus_share,
            looks=looks,
            hierarchy=hierarchy,
        )
        self.change = change
        self.units = change.units

    def certify(
        self, inputs: torch.Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> CertifiedSegmentation:
        """Segment and certify; see :py:meth:`CertifiedSegmentationInferer.certify`. ``radius`` is the L2 norm of the
        parameters.

        Raises:
            ValueError: as there, for an image that the change does not fit, and for a change that does not compose.
        """
        image = self.prepared(inputs)[1].detach()
        self.change.check(image)
        check_composes(self.change, image, self.sigma)
        return super().certify(inputs, network, *args, **kwargs)

    def changed(self, image: torch.Tensor, streams: Sequence[int], stream: int, copies: range) -> torch.Tensor:
        """Some changed copies of the image, (copy, batch, channel, spatial...)."""
        count = len(copies)
        copied = image.expand(count, *image.shape).flatten(0, 1)
        parameters = self._parameters(image.ndim - 2, streams, stream, copies, image.device)
        return self.change.apply(copied, parameters.to(image.dtype)).unflatten(0, (count, image.shape[0]))

    def moved_back(self, logits: torch.Tensor, streams: Sequence[int], stream: int, copies: range) -> torch.Tensor:
        """Logits of some copies where the voxels of the image are."""
        parameters = self._parameters(logits.ndim - 3, streams, stream, copies, logits.device)
        return self.change.moved_back(logits.flatten(0, 1), parameters).unflatten(0, logits.shape[:2])

    def _parameters(
        self, dimensions: int, streams: Sequence[int], stream: int, copies: range, device: torch.device
    ) -> torch.Tensor:
        # The CPU draws them: logits may lie on another device than the image, and the numbers must be the same.
        drawn = self.drawn((self.change.count(dimensions),), streams, stream, copies, torch.device("cpu"))
        return self.sigma * drawn.flatten(0, 1).to(device)
