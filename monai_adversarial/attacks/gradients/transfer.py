# SPDX-License-Identifier: Apache-2.0
"""What makes gradients transfer to other networks: other views of the image, and gradients of its surroundings."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from monai.networks.layers import separable_filtering

from monai_adversarial.attacks.gradients.base import (
    Evaluation,
    GradientEstimator,
    InputView,
    ObjectiveFunction,
    WrappedEstimator,
)
from monai_adversarial.attacks.gradients.exact import ExactGradient
from monai_adversarial.attacks.perturbations.base import BoundPerturbation, Parameters, per_sample
from monai_adversarial.utils.validation import check_count, check_fraction, check_instance, check_positive

__all__ = [
    "InputDiversity",
    "NesterovLookahead",
    "ScaleInvariance",
    "TranslationInvariance",
    "VarianceTuning",
]

# Streams of random numbers: estimates by queries use three million and more.
TRANSFER_STREAM = 4_000_000


@dataclass(frozen=True)
class _Composed:
    """One view after another."""

    outer: InputView
    inner: InputView

    def image(self, image: torch.Tensor) -> torch.Tensor:
        return self.inner.image(self.outer.image(image))

    def logits(self, logits: torch.Tensor) -> torch.Tensor:
        return self.outer.logits(self.inner.logits(logits))


@dataclass(frozen=True)
class _Viewed:
    """An objective through a view."""

    function: ObjectiveFunction
    view: InputView

    def __call__(
        self, parameters: Parameters, view: InputView | None = None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        return self.function(parameters, self.view if view is None else _Composed(self.view, view))


class _Around(WrappedEstimator):
    """An estimator that asks an inner one more often, or about something else."""

    # Of a run, which ``begin`` makes a copy for.
    _bound: BoundPerturbation
    _generators: list[torch.Generator]
    _kept: dict[str, Parameters]
    _steps: int

    def __init__(self, estimator: GradientEstimator | None) -> None:
        self.estimator: GradientEstimator = (
            ExactGradient()
            if estimator is None
            else check_instance("estimator", estimator, GradientEstimator, "SurrogateGradient(network)")
        )
        if self.estimator.by_queries:
            raise ValueError("estimator must differentiate; queries ask about the image as it is.")

    def begin(self, bound: BoundPerturbation, steps: int, stream: int = 0) -> GradientEstimator:
        """A run with random numbers of its own."""
        begun = super().begin(bound, steps, stream)
        assert isinstance(begun, _Around)
        begun._bound, begun._steps = bound, steps
        begun._generators = bound.scene.generators(TRANSFER_STREAM + stream)
        begun._kept = {}
        return begun

    def select(self, rows: torch.Tensor, bound: BoundPerturbation) -> None:
        """Go on with some of the samples."""
        super().select(rows, bound)
        self._bound = bound
        self._generators = [self._generators[row] for row in rows.tolist()]
        self._kept = {name: tuple(p.index_select(0, rows) for p in parts) for name, parts in self._kept.items()}

    def passes(self, steps: int) -> tuple[int, int]:
        """Not more than the inner estimator's, times what is asked of it."""
        forwards, backwards = self.estimator.passes(steps)
        return forwards * self._times + steps * self._plain, backwards * self._times

    #: how often the inner estimator is asked in a step, and passes beside it
    _times: int = 1
    _plain: int = 0


def _with_plain_value(found: Evaluation, function: ObjectiveFunction, parameters: Parameters) -> Evaluation:
    """The gradient of a view with the value of the image itself, by which points are compared; one more forward pass.
    Inside another view its owner asks for that."""
    if isinstance(function, _Viewed):
        return found
    with torch.no_grad():
        values, ranks, logits = function(parameters)
    return replace(
        found, values=values, ranks=ranks, logits=None if logits is None else logits, forwards=found.forwards + 1
    )


class _Placed:
    """The image smaller and at another place, around it the lowest value; the answer on the image's own grid again.

    Args:
        scale: of each sample, (batch,), at most 1.
        shift: of each sample along each axis in halves of the size, (batch, axes).
    """

    def __init__(self, scale: torch.Tensor, shift: torch.Tensor) -> None:
        self.scale, self.shift = scale, shift

    def image(self, image: torch.Tensor) -> torch.Tensor:
        low = image.detach().flatten(1).amin(dim=1)
        low = per_sample(low, image)
        return low + _resampled(image - low, 1 / self.scale, -self.shift / self.scale[:, None], "zeros")

    def logits(self, logits: torch.Tensor) -> torch.Tensor:
        if logits.ndim - 2 != self.shift.shape[1]:  # one answer for the whole image is on no grid
            return logits
        return _resampled(logits, self.scale, self.shift, "border")


def _resampled(volume: torch.Tensor, scale: torch.Tensor, shift: torch.Tensor, padding: str) -> torch.Tensor:
    """The value at ``scale * place + shift`` for each place, -1 to 1 along each axis; linear."""
    rank = volume.ndim - 2
    matrix = torch.zeros(len(volume), rank, rank + 1, dtype=volume.dtype, device=volume.device)
    matrix[:, range(rank), range(rank)] = scale.to(volume)[:, None]
    matrix[:, :, rank] = shift.to(volume).flip(1)  # torch's last axis comes first
    grid = torch.nn.functional.affine_grid(matrix, list(volume.shape), align_corners=False)
    return torch.nn.functional.grid_sample(volume, grid, "bilinear", padding, align_corners=False)


class InputDiversity(_Around):
    """The gradient of the image at a random size and place (DI), so that it does not fit one network's grid too well.

    With probability ``probability`` the image is shrunk by a random factor, the same along all axes, and put at a
    random place within its grid; the network's answer is brought back before it is compared with the label. Points are
    compared by the image as it is, which costs one more forward pass. The mean over several draws is
    ``ExpectationOverTransformation(samples, InputDiversity())``.

    Source: Xie et al., "Improving transferability of adversarial examples with input diversity", CVPR 2019. In three
    dimensions, by linear resampling to any size instead of whole voxels, and with the answer moved back: ours.

    Survey entry: A04 (adapted).

    Args:
        probability: that an image is changed in a step.
        smallest: least size, as a share of the image's.
        estimator: computes the gradient; None for ``ExactGradient``.

    Example:
        >>> from monai_adversarial.attacks import InputDiversity, PGD
        >>> from monai_adversarial.data.example import example_case
        >>> result = PGD(16, units="HU", steps=3, gradient=InputDiversity())(*example_case())
        >>> bool(result.adversarial_dice < result.clean_dice)
        True
    """

    windowwise = False  # type: ignore[assignment]  # windows of a moved image are others
    _plain = 1

    def __init__(
        self, probability: float = 0.5, smallest: float = 0.9, estimator: GradientEstimator | None = None
    ) -> None:
        super().__init__(estimator)
        self.probability = check_fraction("probability", probability)
        self.smallest = check_fraction("smallest", smallest)

    def evaluate(self, function: ObjectiveFunction, parameters: Parameters, scale: float = 1.0) -> Evaluation:
        """The gradient of one draw, and the value of the image itself."""
        image = self._bound.scene.image
        rank = image.ndim - 2
        if rank not in (2, 3):
            raise ValueError(f"InputDiversity resamples images of 2 or 3 spatial dimensions, got {rank}.")
        drawn = torch.empty((len(image), 2 + rank), device=image.device, dtype=image.dtype)
        for row, generator in zip(drawn, self._generators, strict=True):
            row.uniform_(generator=generator)
        changed = drawn[:, 0] < self.probability
        size = torch.where(changed, self.smallest + (1 - self.smallest) * drawn[:, 1], 1.0)
        shift = (2 * drawn[:, 2:] - 1) * (1 - size)[:, None]
        found = self.estimator.evaluate(_Viewed(function, _Placed(size, shift)), parameters, scale)
        return _with_plain_value(found, function, parameters)


class TranslationInvariance(_Around):
    """The gradient smoothed by a Gaussian (TI), which stands for its mean over small movements of the image.

    Source: Dong, Pang, Su, Zhu, "Evading defenses to transferable adversarial examples by translation-invariant
    attacks", CVPR 2019 (equation 7). The kernel of 7 voxels along each axis is ours (15 in 2D there).

    Survey entry: A04 (adapted).

    Args:
        size: of the kernel along each axis, an odd number of voxels.
        sigma: standard deviation in voxels.
        estimator: computes the gradient; None for ``ExactGradient``.

    Raises:
        ValueError: for an even size; for parameters that are not on a grid.

    Example:
        >>> from monai_adversarial.attacks import PGD, TranslationInvariance
        >>> from monai_adversarial.data.example import example_case
        >>> result = PGD(16, units="HU", steps=3, gradient=TranslationInvariance())(*example_case())
        >>> bool(result.adversarial_dice < result.clean_dice)
        True
    """

    def __init__(self, size: int = 7, sigma: float = 1.5, estimator: GradientEstimator | None = None) -> None:
        super().__init__(estimator)
        self.size = check_count("size", size)
        if self.size % 2 == 0:
            raise ValueError(f"size must be odd, so that the kernel has a middle, got {size}.")
        self.sigma = check_positive("sigma", sigma)

    def evaluate(self, function: ObjectiveFunction, parameters: Parameters, scale: float = 1.0) -> Evaluation:
        """As the inner estimator, smoothed."""
        found = self.estimator.evaluate(function, parameters, scale)
        rank = self._bound.scene.image.ndim - 2
        smooth = []
        for gradient in found.gradients:
            if gradient.ndim != rank + 2:
                raise ValueError(
                    f"TranslationInvariance smooths noise of {rank} spatial dimensions, got parameters of shape "
                    f"{tuple(gradient.shape)}: use it with AdditiveNoise."
                )
            place = torch.arange(self.size, device=gradient.device, dtype=gradient.dtype) - self.size // 2
            kernel = torch.exp(-0.5 * (place / self.sigma) ** 2)
            smooth.append(separable_filtering(gradient, [kernel / kernel.sum()] * rank, mode="zeros"))
        return replace(found, gradients=tuple(smooth))


@dataclass(frozen=True)
class _Fainter:
    """Values nearer to the lowest one that the network sees."""

    factor: float
    low: float

    def image(self, image: torch.Tensor) -> torch.Tensor:
        return self.low + (image - self.low) * self.factor

    def logits(self, logits: torch.Tensor) -> torch.Tensor:
        return logits


class ScaleInvariance(_Around):
    """The mean gradient of the image and of fainter copies of it (SI).

    Copy i has the contrast 1 / 2^i above the lower end of the intensity window, above 0 where there is none. The value
    is that of the image itself.

    Source: Lin et al., "Nesterov accelerated gradient and scale invariance for adversarial attacks", ICLR 2020
    (equation 6). That CT is scaled above the lower end of its window is ours.

    Survey entry: A04 (adapted).

    Args:
        copies: the image itself included.
        estimator: computes the gradient; None for ``ExactGradient``.

    Example:
        >>> from monai_adversarial.attacks import PGD, ScaleInvariance
        >>> from monai_adversarial.data.example import example_case
        >>> result = PGD(16, units="HU", steps=3, gradient=ScaleInvariance(copies=2))(*example_case())
        >>> bool(result.adversarial_dice < result.clean_dice)
        True
    """

    windowwise = False  # type: ignore[assignment]  # sums over windows are those of one image from step to step

    def __init__(self, copies: int = 5, estimator: GradientEstimator | None = None) -> None:
        super().__init__(estimator)
        self.copies = check_count("copies", copies)

    @property
    def _times(self) -> int:  # type: ignore[override]
        return self.copies

    def evaluate(self, function: ObjectiveFunction, parameters: Parameters, scale: float = 1.0) -> Evaluation:
        """The mean gradient, and the value of the image itself."""
        scene = self._bound.scene
        low = 0.0
        if scene.intensity is not None and scene.image_units == "HU" and scene.intensity.window is not None:
            low = float(scene.intensity.window[0])
        found = self.estimator.evaluate(function, parameters, scale)
        total, forwards, backwards = found.gradients, found.forwards, found.backwards
        for copied in range(1, self.copies):
            fainter = _Fainter(0.5**copied, low)
            more = self.estimator.evaluate(_Viewed(function, fainter), parameters, scale)
            total = tuple(a + b for a, b in zip(total, more.gradients, strict=True))
            forwards, backwards = forwards + more.forwards, backwards + more.backwards
        return replace(found, gradients=tuple(g / self.copies for g in total), forwards=forwards, backwards=backwards)


class NesterovLookahead(_Around):
    """The gradient where the momentum is about to go (NI). For searches with the same momentum, such as ``MIFGSM``.

    The value is that of the point itself, which costs one more forward pass.

    Source: Lin et al., "Nesterov accelerated gradient and scale invariance for adversarial attacks", ICLR 2020
    (algorithm 1).

    Survey entry: A04 (adapted).

    Args:
        momentum: decay of the accumulated gradient, the search's own.
        relative_step: size of a step as a fraction of the budget's radius; None for 1 / steps, as ``MIFGSM`` goes.
        estimator: computes the gradient; None for ``ExactGradient``.

    Example:
        >>> from monai_adversarial.attacks import MIFGSM, NesterovLookahead
        >>> from monai_adversarial.data.example import example_case
        >>> result = MIFGSM(16, units="HU", steps=3, gradient=NesterovLookahead())(*example_case())
        >>> bool(result.adversarial_dice < result.clean_dice)
        True
    """

    _plain = 1

    def __init__(
        self, momentum: float = 1.0, relative_step: float | None = None, estimator: GradientEstimator | None = None
    ) -> None:
        super().__init__(estimator)
        self.momentum = check_positive("momentum", momentum, allow_zero=True)
        self.relative_step = None if relative_step is None else check_positive("relative_step", relative_step)

    def evaluate(self, function: ObjectiveFunction, parameters: Parameters, scale: float = 1.0) -> Evaluation:
        """The gradient ahead, the value here."""
        velocity = self._kept.get("velocity")
        step = self.relative_step or 1.0 / self._steps
        ahead = parameters
        if velocity is not None:
            ahead = self._bound.project(
                tuple(
                    parameter + step * self.momentum * radius * speed
                    for parameter, radius, speed in zip(parameters, self._bound.radii, velocity, strict=True)
                )
            )
        found = self.estimator.evaluate(function, tuple(p.detach() for p in ahead), scale)
        scaled = []
        for gradient in found.gradients:
            mean = gradient.flatten(1).abs().mean(dim=1).clamp_min(torch.finfo(gradient.dtype).tiny)
            scaled.append(gradient / per_sample(mean, gradient))
        if velocity is not None:
            scaled = [self.momentum * old + new for old, new in zip(velocity, scaled, strict=True)]
        self._kept["velocity"] = tuple(scaled)
        return found if velocity is None else _with_plain_value(found, function, parameters)


class VarianceTuning(_Around):
    """The gradient, corrected by how much those around the last point differed from it (VMI).

    Source: Wang, He, "Enhancing the transferability of adversarial attacks through variance tuning", CVPR 2021
    (algorithm 1).

    Survey entry: A04 (published).

    Args:
        samples: gradients around each point, the paper's N.
        radius: of the box they are drawn from, as a share of the budget's radius, the paper's beta.
        estimator: computes the gradient; None for ``ExactGradient``.

    Example:
        >>> from monai_adversarial.attacks import MIFGSM, VarianceTuning
        >>> from monai_adversarial.data.example import example_case
        >>> result = MIFGSM(16, units="HU", steps=3, gradient=VarianceTuning(samples=2))(*example_case())
        >>> bool(result.adversarial_dice < result.clean_dice)
        True
    """

    windowwise = False  # type: ignore[assignment]  # sums over windows are those of one point from step to step

    def __init__(self, samples: int = 5, radius: float = 1.5, estimator: GradientEstimator | None = None) -> None:
        super().__init__(estimator)
        self.samples = check_count("samples", samples)
        self.radius = check_positive("radius", radius)

    @property
    def _times(self) -> int:  # type: ignore[override]
        return 1 + self.samples

    def evaluate(self, function: ObjectiveFunction, parameters: Parameters, scale: float = 1.0) -> Evaluation:
        """Value and gradient of the point, corrected by the variance of the last one."""
        found = self.estimator.evaluate(function, parameters, scale)
        forwards, backwards = found.forwards, found.backwards
        around = tuple(torch.zeros_like(gradient) for gradient in found.gradients)
        for _ in range(self.samples):
            near = []
            for parameter, radius in zip(parameters, self._bound.radii, strict=True):
                drawn = torch.empty_like(parameter)
                for row, generator in zip(drawn, self._generators, strict=True):
                    row.uniform_(-1.0, 1.0, generator=generator)
                near.append((parameter + self.radius * radius * drawn).detach())
            more = self.estimator.evaluate(function, tuple(near), scale)
            around = tuple(a + b for a, b in zip(around, more.gradients, strict=True))
            forwards, backwards = forwards + more.forwards, backwards + more.backwards
        variance = tuple(a / self.samples - b for a, b in zip(around, found.gradients, strict=True))
        before = self._kept.get("variance")
        self._kept["variance"] = variance
        gradients = found.gradients
        if before is not None:
            gradients = tuple(a + b for a, b in zip(gradients, before, strict=True))
        return replace(found, gradients=gradients, forwards=forwards, backwards=backwards)
