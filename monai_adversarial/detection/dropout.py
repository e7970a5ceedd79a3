# SPDX-License-Identifier: Apache-2.0
"""How unsure a network is that drops some of its units at random."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.modules.dropout import _DropoutNd

from monai_adversarial.detection.base import Detector
from monai_adversarial.detection.windowed import Ask, Numbers, mean_over_windows, recomputed
from monai_adversarial.utils.validation import check_count

__all__ = ["DropoutUncertainty"]


class DropoutUncertainty(Detector):
    """Variance of the predicted probabilities over passes with active dropout, averaged over voxels and classes.

    The masks of a pass are the same for every window and image, so that a score depends on the image alone. An attacker
    knows them, and its gradient is exact.

    >>> import torch
    >>> from monai_adversarial.detection import DropoutUncertainty
    >>> network = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3, padding=1), torch.nn.Dropout(), torch.nn.Conv2d(4, 2, 1))
    >>> detector = DropoutUncertainty(network, passes=4)
    >>> image = torch.rand(1, 1, 8, 8)
    >>> bool(detector.score(image) > 0) and torch.equal(detector.score(image), detector.score(image))
    True

    Args:
        model: an ``AttackedModel``, or a bare network; with dropout layers whose share is above 0.
        passes: through the network.
        seed: of the masks.

    Raises:
        ValueError: for a network without dropout, and for fewer than 2 passes.

    Source: Feinman, Curtin, Shintre and Gardner, Detecting Adversarial Samples from Artifacts, 2017, as used by Ma et
    al., Pattern Recognition 2021, with 50 passes. The mean over voxels, and masks that all images share, are ours.

    Survey entry: T04 (adapted).
    """

    needs_fit = False

    def __init__(self, model: Any, passes: int = 20, seed: int = 0) -> None:
        super().__init__(model)
        self.passes, self.seed = check_count("passes", passes, minimum=2), int(seed)
        if not any(True for _ in _dropouts(self.networks)):
            raise ValueError("model must have dropout layers with a share above 0, but its network has none.")

    def _suspicion(self, image: torch.Tensor, like: torch.Tensor, smooth: bool) -> torch.Tensor:
        def look(ask: Ask, seen: torch.Tensor) -> Numbers:
            mean = square = None
            for number in range(self.passes):

                def probabilities(window: torch.Tensor, number: int = number) -> Numbers:
                    with _dropping(self.networks, 1_000_003 * self.seed + number, window.device):
                        logits = ask(window)
                    kind = self.model.activation_of(logits.shape[1])
                    return (logits.sigmoid() if kind == "sigmoid" else logits.softmax(dim=1),)

                (found,) = recomputed(probabilities, seen)
                mean = found if mean is None else mean + found
                square = found.square() if square is None else square + found.square()
            assert mean is not None and square is not None
            variance = square / self.passes - (mean / self.passes).square()
            return (variance.flatten(1).double().mean(dim=1),)

        return mean_over_windows(self.model, [image], like, look, one_by_one=True)[0]


def _dropouts(networks: Sequence[nn.Module]) -> Iterator[_DropoutNd]:
    for network in networks:
        for module in network.modules():
            if isinstance(module, _DropoutNd) and module.p > 0:
                yield module


@contextmanager
def _dropping(networks: Sequence[nn.Module], seed: int, device: torch.device) -> Iterator[None]:
    """Dropout is active and draws the masks of a seed; modes and random state are as before afterwards."""
    layers = [(layer, layer.training) for layer in _dropouts(networks)]
    on_gpu = device.type == "cuda"
    with torch.random.fork_rng([device] if on_gpu else []):
        torch.default_generator.manual_seed(seed)
        if on_gpu:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        try:
            for layer, _ in layers:
                layer.training = True
            yield
        finally:
            for layer, mode in layers:
                layer.training = mode
