# SPDX-License-Identifier: Apache-2.0
"""Smooth multiplicative shading of bounded gain."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from monai_adversarial.attacks.perturbations.base import Measurement, Parameters, Perturbation, per_sample
from monai_adversarial.attacks.perturbations.gain import DOMAINS, BoundGain, check_domain_window
from monai_adversarial.attacks.perturbations.geometric import shared_spacing
from monai_adversarial.utils.scene import Scene
from monai_adversarial.utils.smooth_basis import (
    bspline_fit,
    bspline_matrix,
    evaluate_separable,
    legendre_exponents,
    legendre_fit,
    legendre_matrix,
)
from monai_adversarial.utils.validation import check_choice, check_count, check_positive

__all__ = ["BiasField", "BoundBiasField"]

BASES = ("legendre", "bspline")
CLIPPINGS = 4


class BiasField(Perturbation):
    """Smooth multiplicative field ``exp(sum of coefficients * basis functions)``, as MONAI's ``RandBiasField`` but
    bounded.

    The gain of every voxel stays between ``1 / (1 + max_gain)`` and ``1 + max_gain``. Sources: Tian et al. 2021
    (adversarial bias field, polynomial basis) and Chen et al. 2020 (AdvBias, cubic B-splines); the meaning of the gain
    for CT is our reconstruction.

    >>> from monai_adversarial.attacks import Attack, BiasField
    >>> from monai_adversarial.data.example import example_case
    >>> result = Attack(BiasField(max_gain=0.1, degree=1, domain="attenuation"), steps=2)(*example_case(16))
    >>> result.parameters[0].shape, float(result.budgets["gain"].values) < 10.1
    (torch.Size([1, 4]), True)

    Args:
        max_gain: largest gain minus one, for example 0.3 for 30 %; 0 is the identity.
        degree: largest total degree of the Legendre polynomials; 0 is one global factor.
        basis: ``"legendre"`` or ``"bspline"`` (uniform cubic).
        control_spacing: distance of the B-spline's controls in mm.
        domain: what is multiplied. ``"window"``: the value within the network's intensity window, from 0 to 1, voxels
            outside the window do not change. ``"attenuation"``: the linear attenuation, HU + 1000, so that air stays
            air; needs an image in HU. ``"image"``: the image's own values, as ``RandBiasField`` (in HU that has no
            physical meaning).
        window: (low, high) in HU for ``domain="window"``; by default the window of the attack's intensity map. An image
            in network values of which no map is known is multiplied as it is.
        zero_mean: take the field's mean over the volume out, so that a change of overall brightness is not part of the
            attack.

    Raises:
        ValueError: for a negative gain or degree, an unknown basis or domain, or a window that is not low < high.
    """

    budget_attributes = ("max_gain",)

    def __init__(
        self,
        max_gain: float = 0.3,
        degree: int = 3,
        basis: str = "legendre",
        control_spacing: float = 64.0,
        domain: str = "window",
        window: Sequence[float] | None = None,
        zero_mean: bool = False,
    ) -> None:
        self.max_gain = check_positive("max_gain", max_gain, allow_zero=True)
        self.degree = check_count("degree", degree, minimum=0)
        self.basis = check_choice("basis", basis, BASES)
        self.control_spacing = check_positive("control_spacing", control_spacing)
        self.domain = check_choice("domain", domain, DOMAINS)
        self.window = check_domain_window(window)
        self.zero_mean = bool(zero_mean)
        if self.zero_mean and basis == "legendre" and degree == 0:
            raise ValueError(
                "degree must be at least 1 with zero_mean=True: a constant field without its mean is nothing."
            )

    @property
    def units(self) -> str | None:
        """``"HU"`` where the domain or its window only makes sense for images that come in HU."""
        return "HU" if self.domain == "attenuation" or self.window is not None else None

    @property
    def extremes_are(self) -> str | None:  # type: ignore[override]
        """One gain of all voxels is an end; a middle that darkens against its surroundings is a start, which
        polynomials do not have."""
        if not self.zero_mean:
            return "ends"
        return "starts" if self.basis == "bspline" else None

    def bind(self, scene: Scene) -> BoundBiasField:
        """Tie the field to a batch.

        Raises:
            ValueError: attenuation of an image that is not in HU, an unknown intensity window, or missing spacing for
            B-splines.
        """
        return BoundBiasField(self, scene)


class BoundBiasField(BoundGain):
    """Bias field of one batch.

    The parameter holds the coefficients of the logarithm of the gain, (batch, functions) for Legendre polynomials in
    the order of MONAI's ``RandBiasField``, (batch, controls along each axis) for B-splines.

    >>> from monai_adversarial.attacks import BiasFieldAttack
    >>> from monai_adversarial.data.example import example_case
    >>> result = BiasFieldAttack(max_gain=0.25, steps=1)(*example_case(16))
    >>> gain = result.bound.field(result.parameters).exp()
    >>> gain.shape, bool(gain.max() < 1.2501), bool(gain.min() > 0.7999)
    (torch.Size([1, 1, 16, 16, 16]), True, True)
    """

    def __init__(self, perturbation: BiasField, scene: Scene) -> None:
        largest = 1 + perturbation.max_gain
        super().__init__(scene, perturbation.domain, perturbation.window, 1 / largest, largest)
        self.max_gain, self.zero_mean = perturbation.max_gain, perturbation.zero_mean
        self.limit = math.log1p(perturbation.max_gain)
        image = scene.image
        shape = scene.spatial_shape
        if perturbation.basis == "legendre":
            matrices = [legendre_matrix(length, perturbation.degree) for length in shape]
            fits = [legendre_fit(perturbation.degree)] * len(shape)
            functions = [m.shape[1] for m in matrices]
            exponents = legendre_exponents(perturbation.degree, len(shape))
            self.parameter_shape: tuple[int, ...] = (len(exponents),)
            strides = [math.prod(functions[axis + 1 :]) for axis in range(len(shape))]
            places = [sum(e * s for e, s in zip(exponent, strides, strict=True)) for exponent in exponents]
            self.places: torch.Tensor | None = torch.tensor(places, device=image.device)
            constant = torch.zeros(functions, dtype=torch.float64)
            constant.view(-1)[0] = 1.0
        else:
            spacing = shared_spacing(scene, "control_spacing of a B-spline bias field")
            control_spacing = perturbation.control_spacing
            matrices = [bspline_matrix(n, s, control_spacing) for n, s in zip(shape, spacing, strict=True)]
            fits = [bspline_fit(n, s, control_spacing) for n, s in zip(shape, spacing, strict=True)]
            functions = [m.shape[1] for m in matrices]
            self.parameter_shape = tuple(functions)
            self.places = None
            constant = torch.ones(functions, dtype=torch.float64)
        means = torch.ones((), dtype=torch.float64)
        for matrix in matrices:
            means = means[..., None] * matrix.mean(dim=0)
        self.functions = functions
        self.matrices = [m.to(image) for m in matrices]
        self.nodes = [values.to(image) for values, _ in fits]
        self.back = [back.to(image) for _, back in fits]
        self.constant, self.means = constant.to(image), means.to(image)

    @property
    def radii(self) -> Parameters:
        """Length of the coefficients of a constant field at the largest gain."""
        length = self.limit * self.constant.flatten().norm()
        return (length.view(1, *[1] * len(self.parameter_shape)),)

    @property
    def norms(self) -> tuple[str, ...]:
        """Steps along the gradient. Signs would move all functions equally far, and every step would be scaled back
        to the same field."""
        return ("l2",)

    def zeros(self) -> Parameters:
        """A gain of one."""
        return (self.scene.image.new_zeros(self.scene.batch, *self.parameter_shape),)

    def _coefficients(self, parameters: Parameters) -> torch.Tensor:
        """Coefficients of the full tensor product, without the field's mean if asked for."""
        (coefficients,) = parameters
        if self.places is not None:
            full = coefficients.new_zeros(coefficients.shape[0], math.prod(self.functions))
            coefficients = full.index_copy(1, self.places, coefficients).view(-1, *self.functions)
        if self.zero_mean:
            mean = (coefficients * self.means).flatten(1).sum(dim=1)
            coefficients = coefficients - per_sample(mean, coefficients) * self.constant
        return coefficients

    def field(self, parameters: Parameters) -> torch.Tensor:
        """Logarithm of the gain, (batch, 1, spatial...)."""
        return evaluate_separable(self._coefficients(parameters), self.matrices).unsqueeze(1)

    def _largest(self, coefficients: torch.Tensor) -> torch.Tensor:
        field = evaluate_separable(coefficients, self.matrices).flatten(1)
        return torch.maximum(field.amax(dim=1), -field.amin(dim=1))

    def _stretched(self, parameters: Parameters, wanted: float | torch.Tensor) -> torch.Tensor:
        """Parameters with this largest logarithm of the gain, but for rounding."""
        (given,) = parameters
        found = self._largest(self._coefficients(parameters)).clamp_min(torch.finfo(given.dtype).tiny)
        return given * per_sample(wanted / found, given)

    def _as_parameters(self, coefficients: torch.Tensor) -> Parameters:
        return (coefficients if self.places is None else coefficients.flatten(1).index_select(1, self.places),)

    def random(self, generators: list[torch.Generator]) -> Parameters:
        """Uniform coefficients, scaled into the budget where they leave it."""
        (draw,) = self.zeros()
        for sample, generator in zip(draw, generators, strict=True):
            sample.uniform_(-self.limit, self.limit, generator=generator)
        return self._scale((draw,))

    def extremes(self) -> tuple[Parameters, ...]:
        """All dark and all bright; where the mean must stay, the middle dark or bright and the corners not.

        Between the two lies no way that a gradient would go. Polynomials cannot darken a body and brighten the air
        around it alone: with ``zero_mean`` random starts do more than these two fields of theirs (measured), and they
        have no extremes.
        """
        if not self.zero_mean:
            shape = self.constant
        elif self.places is None:
            axes = torch.meshgrid(*(torch.linspace(-1, 1, n).square() for n in self.functions), indexing="ij")
            shape = -sum(axes[1:], axes[0]).to(self.constant)
        else:
            return ()
        (zeros,) = self.zeros()
        farthest = self._stretched(self._as_parameters(shape[None]), self.limit)
        (inside,) = self._scale((farthest.expand_as(zeros),))  # rounding may have left it beyond
        return (-inside,), (inside,)

    def random_control(self, generators: list[torch.Generator], parameters: Parameters) -> Parameters:
        """Random coefficients with the same largest gain."""
        (draw,) = self.random(generators)
        wanted = self._largest(self._coefficients((parameters[0].detach(),)))
        return self._scale((self._stretched((draw,), wanted),))

    def project(self, parameters: Parameters) -> Parameters:
        """Clip a field that leaves the budget and fit the functions to what is left, a few times; then scale the
        coefficients so that no voxel of the volume exceeds the gain: exact, since the field is linear in them.

        Scaling alone would let one corner of the volume decide about the whole field.
        """
        (given,) = parameters
        coefficients = self._coefficients(parameters)
        outside = self._largest(coefficients) > self.limit * (1 + 1e-5)
        for _ in range(CLIPPINGS):
            field = evaluate_separable(coefficients, self.nodes)
            excess = field - field.clamp(-self.limit, self.limit)
            (fitted,) = self._as_parameters(coefficients - evaluate_separable(excess, self.back))
            coefficients = self._coefficients((fitted,))
        return self._scale((torch.where(per_sample(outside, given), fitted, given),))

    def _scale(self, parameters: Parameters) -> Parameters:
        coefficients = self._coefficients(parameters)
        largest = self._largest(coefficients).clamp_min(torch.finfo(coefficients.dtype).tiny)
        return self._as_parameters(coefficients * per_sample((self.limit / largest).clamp_max(1.0), coefficients))

    def apply(self, image: torch.Tensor, parameters: Parameters) -> torch.Tensor:
        """Multiply in the chosen domain."""
        return self.multiply(image, self.field(parameters).exp())

    def measure_parameters(self, parameters: Parameters) -> dict[str, Measurement]:
        """The largest gain of the parameters in percent."""
        with torch.no_grad():
            largest = self.field(parameters).double().abs().flatten(1).amax(dim=1)
        return {"gain_of_parameters": Measurement(100 * largest.expm1(), "percent", 100 * self.max_gain)}

    def measure(
        self, image: torch.Tensor, adversarial: torch.Tensor, parameters: Parameters, rounding: float = 0.0
    ) -> dict[str, Measurement]:
        """The gain in percent: the smallest that explains the finished image, voxel by voxel, and that of the
        parameters."""
        with torch.no_grad():
            expected = self.finished(image, parameters)
        lowest, highest = self.gains(image, adversarial, expected, rounding)
        # Of the gains that explain a voxel the one nearest to 1 counts.
        logarithm = torch.maximum(lowest.clamp_min(1.0).log(), -highest.clamp(0.0, 1.0).log())
        percent = 100 * self.max_gain
        return {
            "gain": Measurement(100 * logarithm.flatten(1).amax(dim=1).expm1(), "percent", percent),
            **self.measure_parameters(parameters),
            **self.measure_surroundings_of_gain(image, adversarial, expected, rounding),
        }
