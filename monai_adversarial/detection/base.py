# SPDX-License-Identifier: Apache-2.0
"""What every detector of attacked images has in common: fit, score, calibrate, accept, save, load."""

from __future__ import annotations

import inspect
import math
import os
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import nn

from monai_adversarial.detection.files import read_state, write_state
from monai_adversarial.models.attacked_model import AttackedModel
from monai_adversarial.utils.calls import ShownAsCall, shown
from monai_adversarial.utils.hashing import weights_hash
from monai_adversarial.utils.modules import frozen, modules_of, unwrap
from monai_adversarial.utils.plain import detached
from monai_adversarial.utils.scene import case_seeds
from monai_adversarial.utils.validation import check_fraction, check_image

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Detector"]

#: what the calibration finds
NUMBERS = ("threshold", "false_positive_rate", "_spread", "_smooth_threshold")


class Detector(ShownAsCall, ABC):
    """One number per image: the higher, the more suspicious. What lies above a threshold is rejected.

    ``fit(clean)``, ``calibrate(other clean cases)``, then ``score(image)`` and ``accept(image)``. The threshold is that
    of split conformal prediction: of new clean cases like those of the calibration, at most ``false_positive_rate`` are
    rejected on average, whatever the distribution of the scores. Volumes are looked at as the model looks at them,
    window by window.

    A subclass defines :meth:`_suspicion`, and :meth:`_learn` where it has to be fitted.

    >>> from monai_adversarial.data.example import example_case
    >>> from monai_adversarial.detection import Detector
    >>> class Brightness(Detector):
    ...     needs_fit = False
    ...     def _suspicion(self, image, like, smooth):
    ...         return image.flatten(1).mean(dim=1)
    >>> model, image, _ = example_case(16)
    >>> detector = Brightness(model)
    >>> threshold = detector.calibrate((example_case(16, seed)[1] for seed in range(1, 12)), false_positive_rate=0.1)
    >>> detector.accept(image).tolist(), detector.accept(image + 10).tolist()
    ([True], [False])

    Args:
        model: an ``AttackedModel``, or a bare network; images come in its image units.

    Attributes:
        model: what is protected.
        threshold: the highest score that is accepted; None before the calibration.
        false_positive_rate: that was asked for; None before the calibration.

    Raises:
        ValueError: for a model with guidance channels.

    Source: the threshold is that of Vovk, Gammerman and Shafer, Algorithmic Learning in a Random World, 2005.
    """

    #: fit has something to learn
    needs_fit: ClassVar[bool] = True
    #: the score that is differentiated is a smooth stand-in for the one that decides
    has_stand_in: ClassVar[bool] = False
    _shows_defaults = True
    _kinds: ClassVar[dict[str, type[Detector]]] = {}

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        Detector._kinds[cls.__name__] = cls

    def __init__(self, model: Any) -> None:
        self.model = AttackedModel.wrap(model)
        if self.model.image_channels is not None:
            raise ValueError("a detector needs a model whose channels are all image, but it has image_channels.")
        self.threshold: float | None = None
        self.false_positive_rate: float | None = None
        self.state: dict[str, torch.Tensor] = {}
        self._spread: float = 1.0
        self._smooth_threshold: float | None = None
        self._fitted_on: frozenset[int] = frozenset()
        self._calibrated_on: frozenset[int] = frozenset()

    @property
    def networks(self) -> list[nn.Module]:
        """The modules that are asked."""
        return modules_of(unwrap(self.model.network))

    def fit(self, images: torch.Tensor | Iterable[torch.Tensor]) -> Self:
        """Learn what clean images look like.

        Args:
            images: one clean batch (batch, channel, spatial...) or an iterable of them, which may have different
                shapes; each is looked at once.

        Raises:
            TypeError, ValueError: for images that are none, NaN, or too few of them.
        """
        self.threshold = self.false_positive_rate = self._smooth_threshold = None
        seen: list[int] = []
        with self._asking():
            self._learn(_noted(batches_of(images), seen))
        self._fitted_on = frozenset(seen)
        self._check_fitted()
        return self

    def score(self, image: torch.Tensor) -> torch.Tensor:
        """Suspicion of each image, (batch,), float64.

        Args:
            image: (batch, channel, spatial...) in the model's image units.

        Raises:
            RuntimeError: before ``fit``.
            ValueError: for NaN, and for an image that does not fit the clean ones.
        """
        self._check_fitted()
        plain = _checked(image)
        with self._asking():
            return self._suspicion(plain, image, smooth=False).double()

    def calibrate(
        self, images: torch.Tensor | Iterable[torch.Tensor], false_positive_rate: float = 0.05
    ) -> torch.Tensor:
        """Choose the threshold on clean cases that ``fit`` has not seen.

        Args:
            images: as for ``fit``, other cases.
            false_positive_rate: the share of clean images that may be rejected, between 0 and 1.

        Returns:
            the scores of the cases, (case,).

        Raises:
            ValueError: for cases that ``fit`` has seen or that come twice, and for too few: the smallest rate that n
                cases allow is 1 / (n + 1).
        """
        rate = check_fraction("false_positive_rate", false_positive_rate)
        if not 0 < rate < 1:
            raise ValueError(f"false_positive_rate must be above 0 and below 1, got {rate:g}.")
        self._check_fitted()
        seen: list[int] = []
        scores, smooth = [], []
        for batch in _noted(batches_of(images), seen):
            again = self._fitted_on & set(seen)
            if again:
                raise ValueError(
                    f"images holds {len(again)} that fit has seen, whose scores are lower than those of new cases: "
                    "calibrate on others."
                )
            scores.append(self.score(batch))
            if self.has_stand_in:
                with self._asking():
                    smooth.append(self._suspicion(detached(batch), batch, smooth=True).double())
        if len(set(seen)) < len(seen):
            raise ValueError(
                f"images holds {len(seen) - len(set(seen))} cases more than once, and a case counts once: calibrate on "
                "different ones."
            )
        found = torch.cat(scores).cpu()
        rank = math.ceil((1 - rate) * (len(found) + 1) - 1e-9)
        if rank > len(found):
            least = math.ceil(1 / rate - 1 - 1e-9)
            raise ValueError(
                f"images must hold at least {least} clean cases for false_positive_rate={rate:g}, got {len(found)}."
            )
        self.threshold = float(found.sort().values[rank - 1])
        self.false_positive_rate = rate
        deciding = torch.cat(smooth).cpu() if smooth else found
        self._smooth_threshold = float(deciding.sort().values[rank - 1])
        # How far clean scores lie apart: the unit in which an attacker counts how suspicious it still is.
        width = float(deciding.quantile(0.9) - deciding.quantile(0.1))
        self._spread = max(width, 1e-6 * max(abs(self._smooth_threshold), 1e-6))
        self._calibrated_on = frozenset(seen)
        return found

    def accept(self, image: torch.Tensor) -> torch.Tensor:
        """Whether each image is let through, boolean (batch,).

        Raises:
            RuntimeError: before ``calibrate``.
        """
        return self.accepts(self.score(image))

    def accepts(self, scores: torch.Tensor) -> torch.Tensor:
        """Whether images of these scores are let through; NaN is not.

        Raises:
            RuntimeError: before ``calibrate``.
        """
        if self.threshold is None:
            raise RuntimeError(f"{type(self).__name__} has no threshold yet: call calibrate(clean cases) first.")
        return scores <= self.threshold

    @property
    def calibration_cases(self) -> int:
        """On how many cases the threshold was chosen; 0 before ``calibrate``."""
        return len(self._calibrated_on)

    def has_seen(self, image: torch.Tensor) -> torch.Tensor:
        """Whether ``fit`` or ``calibrate`` has seen the same voxels, boolean (batch,)."""
        known = self._fitted_on | self._calibrated_on
        return torch.tensor([seed in known for seed in case_seeds(detached(image), 0)])

    def excess(self, image: torch.Tensor, like: torch.Tensor | None = None) -> torch.Tensor:
        """How far each image is above the threshold, in widths of the clean scores, (batch,): differentiable.

        It is what an attacker who knows the detector brings below zero. Where the deciding score has no gradient, a
        smooth stand-in with a threshold of its own takes its place.

        Args:
            image: (batch, channel, spatial...), plain tensor; the gradient flows into it.
            like: the clean batch, where an inferer needs its affine; None for ``image``.

        Raises:
            RuntimeError: before ``calibrate``.
        """
        if self._smooth_threshold is None:
            raise RuntimeError(f"{type(self).__name__} has no threshold yet: call calibrate(clean cases) first.")
        found = self._suspicion(image, image if like is None else like, smooth=True)
        return (found - self._smooth_threshold) / self._spread

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write what was learned to one file (``.npz``: numbers and JSON, no pickle). Networks are not in it.

        Raises:
            RuntimeError: before ``fit``.
            OSError: where the file cannot be written.
        """
        self._check_fitted()
        write_state(path, self._header(), self.state)

    @classmethod
    def load(cls, path: str | os.PathLike[str], model: Any, **parts: Any) -> Self:
        """Read a detector.

        Args:
            path: what ``save`` has written.
            model: the model that it was fitted for; a network of other weights is warned of.
            parts: arguments that are no plain values, such as ``purifiers``: the same ones as before.

        Raises:
            ValueError: for a file of something else, another class, missing or other ``parts``.
        """
        header, state = read_state(path)
        kind = Detector._kinds.get(header.get("detector", ""))
        if kind is None or not issubclass(kind, cls):
            raise ValueError(f"{path} must hold a {cls.__name__}, got {header.get('detector')!r}.")
        told = header["arguments"]
        missing = [name for name in header["parts"] if name not in parts]
        if missing:
            raise ValueError(f"{path} needs {missing[0]}=, which was {header['parts'][missing[0]]}.")
        unknown = [name for name in parts if name not in header["parts"]]
        if unknown:
            raise ValueError(f"{path} says {unknown[0]} itself: leave it out.")
        for name, value in parts.items():
            if shown(value) != header["parts"][name]:
                raise ValueError(f"{name} must be {header['parts'][name]} as when it was saved, got {shown(value)}.")
        made = kind(model, **told, **parts)
        made.state = state
        for name in NUMBERS:
            setattr(made, name, header["numbers"][name])
        made._fitted_on, made._calibrated_on = (frozenset(header[name]) for name in ("fitted_on", "calibrated_on"))
        made._restored(header["more"])
        own = [weights_hash(network) for network in made.networks]
        if header.get("network", own) != own:
            warnings.warn(
                f"{path} was fitted and calibrated for a network of other weights: its threshold says nothing about "
                "this one, and what it rejects is no success; fit and calibrate it again.",
                stacklevel=2,
            )
        return made  # type: ignore[return-value]

    def _header(self) -> dict[str, Any]:
        args, options = self._given
        bound = inspect.signature(type(self).__init__).bind(self, *args, **options)
        bound.apply_defaults()
        arguments = dict(list(bound.arguments.items())[2:])  # without self and model
        plain = {name: value for name, value in arguments.items() if _is_plain(value)}
        return {
            "detector": type(self).__name__,
            "arguments": plain,
            "parts": {name: shown(value) for name, value in arguments.items() if name not in plain},
            "numbers": {name: getattr(self, name) for name in NUMBERS},
            "network": [weights_hash(network) for network in self.networks],
            "fitted_on": sorted(self._fitted_on),
            "calibrated_on": sorted(self._calibrated_on),
            "more": self._more(),
        }

    def _more(self) -> dict[str, Any]:
        """What a subclass has found besides ``state``: plain values."""
        return {}

    def _restored(self, more: dict[str, Any]) -> None:
        """Take back what ``_more`` gave."""

    @contextmanager
    def _asking(self) -> Iterator[None]:
        """Evaluation mode, constant weights and no gradients, for a while."""
        with torch.inference_mode(False), torch.no_grad(), frozen(self.networks):
            yield

    def _check_fitted(self) -> None:
        if self.needs_fit and not self.state:
            raise RuntimeError(f"{type(self).__name__} has learned nothing yet: call fit(clean cases) first.")

    def _learn(self, batches: Iterator[torch.Tensor]) -> None:
        """Fill ``state`` with tensors."""
        for _ in batches:
            pass

    @abstractmethod
    def _suspicion(self, image: torch.Tensor, like: torch.Tensor, smooth: bool) -> torch.Tensor:
        """The score of each image, (batch,).

        Args:
            image: (batch, channel, spatial...), plain tensor.
            like: the same or the clean batch, with metadata if there is any.
            smooth: it must be differentiable in ``image``.
        """


def batches_of(images: torch.Tensor | Iterable[torch.Tensor]) -> Iterator[torch.Tensor]:
    """Batches of a tensor (one) or of an iterable.

    Raises:
        TypeError: for something else.
    """
    if isinstance(images, torch.Tensor):
        yield images
        return
    if isinstance(images, (str, dict)) or not isinstance(images, Iterable):
        raise TypeError(f"images must be a batch or an iterable of batches, got {type(images).__name__}.")
    yield from images


def _noted(batches: Iterator[torch.Tensor], seen: list[int]) -> Iterator[torch.Tensor]:
    """The batches, checked, with a number per case from its voxels."""
    empty = True
    for batch in batches:
        seen.extend(case_seeds(_checked(batch), 0))
        empty = False
        yield batch
    if empty:
        raise ValueError("images must hold at least one batch, got none.")


def _checked(image: torch.Tensor) -> torch.Tensor:
    check_image(image)
    return detached(image)


def _is_plain(value: Any) -> bool:
    """Whether JSON holds it."""
    if isinstance(value, Sequence) and not isinstance(value, str):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, (bool, int, float, str))
