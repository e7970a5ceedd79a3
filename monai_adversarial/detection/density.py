# SPDX-License-Identifier: Apache-2.0
"""Detectors that know how dense clean images are among all features: what lies where none did is suspicious."""

from __future__ import annotations

import importlib
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from monai_adversarial.detection.base import Detector
from monai_adversarial.detection.features import Features, NetworkFeatures
from monai_adversarial.detection.organ_features import OrganFeatures
from monai_adversarial.utils.plain import detached
from monai_adversarial.utils.validation import check_choice

__all__ = ["POOLINGS", "FeatureDetector", "estimators"]

POOLINGS = ("image", "organs")

#: share of a feature's mean below which its spread over clean images is rounding
_CONSTANT = 1e-6


def estimators(name: str) -> Any:
    """A module of scikit-learn.

    Raises:
        ModuleNotFoundError: in one sentence, where it is not installed.
    """
    try:
        return importlib.import_module(f"sklearn.{name}")
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "detectors by density are fitted by scikit-learn: pip install 'monai-adversarial[detection]'.",
            name="sklearn",
        ) from error


class FeatureDetector(Detector):
    """A detector by standardized features.

    Features that do not vary among the clean images are left out. Estimators are fitted by scikit-learn; scores are
    computed in torch, so that they have a gradient.

    >>> from monai_adversarial.data.example import example_case
    >>> from monai_adversarial.detection import FeatureDetector, GaussianDensity
    >>> model, image, _ = example_case(16)
    >>> detector = GaussianDensity(model, layers=["smoothing"]).fit(example_case(16, seed)[1] for seed in range(1, 7))
    >>> isinstance(detector, FeatureDetector), bool(detector.score(image + 40) > detector.score(image))
    (True, True)

    Args:
        model: an ``AttackedModel``, or a bare network.
        layers: whose outputs are looked at; None for those that ``pooling`` says.
        pooling: ``"image"``, over the whole image, by default of encoder stages and bottleneck
            (:class:`NetworkFeatures`); ``"organs"``, over each predicted organ, by default of the end of the decoder
            (:class:`OrganFeatures`).

    Raises:
        ValueError: for fewer than 4 clean images, and for features that are the same for all of them.
    """

    least_cases = 4

    def __init__(self, model: Any, layers: Sequence[str] | None = None, pooling: str = "image") -> None:
        super().__init__(model)
        self.pooling = check_choice("pooling", pooling, POOLINGS)
        kind = OrganFeatures if pooling == "organs" else NetworkFeatures
        self.features: Features = kind(self.model, layers)

    @property
    def has_stand_in(self) -> bool:  # type: ignore[override]
        """As the features."""
        return self.features.has_stand_in

    def _learn(self, batches: Iterator[torch.Tensor]) -> None:
        found = self._table(batches)
        state, groups = self._standard(found)
        self.state = state | self._estimate(self._standardized(found, state), groups)

    def _table(self, batches: Iterator[torch.Tensor]) -> torch.Tensor:
        """Features of all cases, (case, number), float64 on the CPU."""
        found = [self.features(detached(batch), batch).double().cpu() for batch in batches]
        return torch.cat(found) if found else torch.zeros(0, 0, dtype=torch.float64)

    def _standard(self, found: torch.Tensor) -> tuple[dict[str, torch.Tensor], list[torch.Tensor]]:
        """How features are standardized, and places of the kept ones of each layer.

        Raises:
            ValueError: for too few cases, and features that are the same for all of them.
        """
        if len(found) < self.least_cases:
            raise ValueError(
                f"images must hold at least {self.least_cases} clean cases for {type(self).__name__}, got {len(found)}."
            )
        center, spread = found.mean(dim=0), found.std(dim=0)
        varies = (spread > _CONSTANT * center.abs()) & (spread > 0)
        if not bool(varies.any()):
            raise ValueError("images must differ: all features are the same for all of them.")
        kept = varies.nonzero()[:, 0]
        state = {"center": center[kept], "spread": spread[kept], "kept": kept, "width": torch.tensor(found.shape[1])}
        return state, self._groups(kept, found.shape[1])

    @staticmethod
    def _standardized(found: torch.Tensor, state: dict[str, torch.Tensor]) -> torch.Tensor:
        return (found[:, state["kept"]] - state["center"]) / state["spread"]

    def _suspicion(self, image: torch.Tensor, like: torch.Tensor, smooth: bool) -> torch.Tensor:
        found = self.features(image, like, smooth)
        if found.shape[1] != int(self.state["width"]):
            raise ValueError(
                f"{type(self).__name__} was fitted to {int(self.state['width'])} features, got {found.shape[1]}: it "
                "belongs to another network or to images with other channels."
            )
        state = {name: value.to(found.device) for name, value in self.state.items()}
        return self._distance(self._standardized(found, state), state)

    def _groups(self, kept: torch.Tensor, width: int) -> list[torch.Tensor]:
        """Places of the kept features of each layer."""
        groups = self.features.groups(width)
        places = [((kept >= group.start) & (kept < group.stop)).nonzero()[:, 0] for group in groups]
        return [place for place in places if len(place)]

    def _more(self) -> dict[str, Any]:
        features = self.features
        if not isinstance(features, NetworkFeatures):
            return {}
        return {"layers": list(features.layers or ()), "widths": features._widths}

    def _restored(self, more: dict[str, Any]) -> None:
        if isinstance(self.features, NetworkFeatures):
            self.features.layers, self.features._widths = tuple(more["layers"]), list(more["widths"])

    @abstractmethod
    def _estimate(self, features: torch.Tensor, groups: list[torch.Tensor]) -> dict[str, torch.Tensor]:
        """What is learned of standardized features.

        Args:
            features: (case, number), float64 on the CPU.
            groups: places of the numbers of each layer.
        """

    @abstractmethod
    def _distance(self, features: torch.Tensor, state: dict[str, torch.Tensor]) -> torch.Tensor:
        """Suspicion of standardized features (batch, number), (batch,); ``state`` is on their device."""
