# SPDX-License-Identifier: Apache-2.0
"""The attacked function of one batch: a model in a chosen precision, with its weights frozen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn

from monai_adversarial.inferers.memory_bounded import memory_bounded
from monai_adversarial.models.attacked_model import AttackedModel
from monai_adversarial.models.first_batch import axes_sentence, check_answer, random_state
from monai_adversarial.models.output_values import FinalActivation, log_odds, read_output_values
from monai_adversarial.utils.modules import modules_of, unwrap
from monai_adversarial.utils.plain import as_plain, detached
from monai_adversarial.utils.precision import Precision

__all__ = ["Predictor"]

_compiled: WeakKeyDictionary[nn.Module, Any] = WeakKeyDictionary()


class Predictor:
    """The function ``image -> logits`` that an attack differentiates.

    Args:
        model: what is attacked.
        image: the clean batch with all its channels; a ``MetaTensor`` lets inferers with a ``for_image`` method read
            its affine.
        units: units in which ``image`` comes.

    Attributes:
        networks: the modules behind the model, to be frozen.
        precision: where the network computes in the attack's steps; logits come back in float32 (float64 for float64
            images).
        forwards: samples that went forward, all calls together.
        drew_random_numbers: whether the first pass took random numbers from torch's generators, as active dropout does.

    Raises:
        ValueError: when weights are in half precision or on another device than the image.
    """

    def __init__(self, model: AttackedModel, image: torch.Tensor, units: str = "network") -> None:
        self.model = model
        self.units = units
        network = unwrap(model.network)
        self.networks = modules_of(network)
        plain = detached(image)
        self.precision = Precision(model.precision, plain, fast_kernels=not model.compile_network)
        # Scores and references: torch's own kernels, in the arithmetic that the network is deployed in.
        self.scoring = Precision(model.scoring_precision, plain)
        self.forwards = 0
        self.drew_random_numbers = False
        inferer = model.inferer
        if inferer is not None:
            if hasattr(inferer, "for_image"):
                inferer = inferer.for_image(image)
            inferer = memory_bounded(inferer)
        self.inferer = self._inferer_of_all = inferer
        self._check_weights(image)
        if model.compile_network and isinstance(network, nn.Module):
            if network not in _compiled:
                # Not dynamic: torch 2.13 fails to compile this backward pass for a second shape that way.
                _compiled[network] = torch.compile(network, dynamic=False)
            network = _compiled[network]
        self._final = FinalActivation(network)
        # Around the network alone: an inferer's resampling stays in float32, and a backward pass that calls the network
        # again, window by window, does so in the same precision.
        self._network = self.precision.wrap(self._final)
        self._scored_network = self.scoring.wrap(self._final)
        self._whole = plain
        self._arguments: tuple[tuple[Any, ...], dict[str, Any]] = (model.network_args, model.network_kwargs)
        self._rows: torch.Tensor | None = None
        # Found by an earlier batch of the same model.
        if model.found_output_values is not None:
            self._use(model.found_output_values)

    def use_samples(self, indices: Sequence[int]) -> None:
        """Expect some samples of the clean batch only: an inferer may know each sample's affine, guidance channels and
        further inputs belong to samples."""
        for_samples = getattr(self._inferer_of_all, "for_samples", None)
        if for_samples is not None:
            self.inferer = for_samples(indices)
        batch = self._whole.shape[0]
        everyone = list(indices) == list(range(batch))
        rows = None if everyone else torch.as_tensor(list(indices), device=self._whole.device)
        self._rows = rows

        def chosen(value: Any) -> Any:
            belongs = isinstance(value, torch.Tensor) and value.ndim > 0 and value.shape[0] == batch
            return value.index_select(0, rows.to(value.device)) if belongs and rows is not None else value

        model = self.model
        self._arguments = (
            tuple(chosen(value) for value in model.network_args),
            {name: chosen(value) for name, value in model.network_kwargs.items()},
        )

    def _check_weights(self, image: torch.Tensor) -> None:
        for network in self.networks:
            for name, weight in network.named_parameters():
                if weight.dtype in (torch.float16, torch.bfloat16):
                    raise ValueError(
                        f"the network's weights must be float32, got {weight.dtype} for {name!r}: keep them in "
                        "float32 and choose "
                        "precision='bfloat16' or 'float16', which runs the network under autocast."
                    )
                if weight.device != image.device:
                    raise ValueError(
                        f"the image is on {image.device} but the network's weight {name!r} is on {weight.device}: "
                        "move one of them."
                    )
                break  # networks of mixed dtype are rare, and torch names them itself

    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        """Logits (batch, class, spatial...) of the image channels, in the precision of the attack's steps."""
        return self._logits(image, self._network)

    def score(self, image: torch.Tensor) -> torch.Tensor:
        """Logits as they are scored: in the scoring precision, and of a network that ends in an activation its own
        answer, stitched as it is deployed."""
        with torch.no_grad():
            return self._logits(image, self._scored_network, bypass=False)

    def read_clean(self, image: torch.Tensor, scored: bool = True) -> torch.Tensor:
        """Logits of the clean batch; finds out, or checks, what the output's values mean.

        Args:
            image: image channels of the clean batch.
            scored: in the scoring precision instead of that of the attack's steps.

        Raises:
            TypeError, ValueError: for an answer that is no segmentation, NaN, or values that contradict the model.
        """
        with torch.no_grad():
            raw = self._first(image, self._scored_network if scored else self._network)
            self._learn(raw, image)
            return self._as_logits(raw, bypassed=False)

    def first_step(self, image: torch.Tensor) -> torch.Tensor:
        """As a call; for attacks without a clean pass, whose first step is the first that is seen of the network."""
        if self.model.found_output_values is not None:
            return self(image)
        raw = self._first(image, self._network)
        self._learn(raw.detach() if isinstance(raw, torch.Tensor) else raw, image)
        if self._final.bypass:
            return self(image)
        return self._as_logits(raw, bypassed=False)

    def _first(self, image: torch.Tensor, network: Callable[..., Any]) -> Any:
        """The first pass of a batch: watched for random numbers, and explained where torch cannot run it."""
        before = random_state(image.device)
        try:
            raw = self._raw(image, network)
        except RuntimeError as error:
            sentence = axes_sentence(self.model, image)
            if sentence is None:
                raise
            raise ValueError(sentence) from error
        after = random_state(image.device)
        self.drew_random_numbers = not all(map(torch.equal, before, after))
        return raw

    def _learn(self, raw: Any, image: torch.Tensor) -> None:
        check_answer(self.model, raw, image)
        if not bool(torch.isfinite(raw).all()):
            raise ValueError(
                "the network returned NaN or infinite logits for the clean image: check its weights and the "
                "intensity map."
            )
        self._use(read_output_values(self.model, raw, lambda: self._ends_in_activation(image)))

    def _ends_in_activation(self, image: torch.Tensor) -> bool:
        """Whether the network's answer is seen to come out of a softmax or sigmoid; costs a forward pass."""
        self._final.bypass = True
        try:
            with torch.no_grad():
                self._raw(image, self._network)
            return self._final.found
        finally:
            self._final.bypass = False

    def _use(self, values: str) -> None:
        self.model.found_output_values = values
        self._final.bypass = values == "probabilities" and not self.model.compile_network

    def _raw(self, image: torch.Tensor, network: Callable[..., Any]) -> Any:
        self.forwards += image.shape[0]
        model = self.model
        if model.image_channels is not None:
            whole = self._whole if self._rows is None else self._whole.index_select(0, self._rows)
            image = model.whole_image(image, whole)
        seen = image if model.intensity is None or self.units != "HU" else model.intensity(image)
        args, kwargs = self._arguments
        if self.inferer is None:
            raw = network(seen, *args, **kwargs)
        else:
            raw = self.inferer(seen, network, *args, **kwargs)
        return _attacked_tensor(raw, model.output, image)

    def _logits(self, image: torch.Tensor, network: Callable[..., Any], bypass: bool = True) -> torch.Tensor:
        before = self._final.bypass
        self._final.bypass = before and bypass
        try:
            raw = self._raw(image, network)
            return self._as_logits(raw, bypassed=self._final.bypass and self._final.found)
        finally:
            self._final.bypass = before

    def _as_logits(self, raw: Any, bypassed: bool) -> Any:
        if isinstance(raw, torch.Tensor) and self.model.found_output_values == "probabilities" and not bypassed:
            return log_odds(raw, self.model.activation_of(raw.shape[1]))
        return raw


def _attacked_tensor(raw: Any, output: Any, image: torch.Tensor) -> Any:
    """The tensor that is attacked, among what the network returned."""
    if output is not None:
        raw = output(raw) if callable(output) else raw[output]
    elif isinstance(raw, (list, tuple)) and len(raw) == 1:
        raw = raw[0]
    if not isinstance(raw, torch.Tensor):
        return raw  # check_answer says what is wrong with it
    raw = as_plain(raw)
    return raw.to(image.dtype) if raw.is_floating_point() else raw
