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
from monai_adversarial.models.output_values import FinalActivation, log_odds, read_output_values
from monai_adversarial.utils.modules import modules_of, unwrap
from monai_adversarial.utils.plain import as_plain, detached
from monai_adversarial.utils.precision import Precision
from monai_adversarial.utils.validation import check_logits

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
        intensity: map from HU to the network's values for this batch; None where there is none.
        intensity_doubt: why there is none, where one was to be read from the pipeline.
        forwards: samples that went forward, all calls together.

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
        # What a compiled network calls cannot be seen, and looking would compile it again.
        self._is_compiled = hasattr(network, "_orig_mod")
        self._final.watch = model.found_output_values is None and not self._is_compiled
        # Around the network alone: an inferer's resampling stays in float32, and a backward pass that calls the network
        # again, window by window, does so in the same precision.
        self._network = self.precision.wrap(self._final)
        self._scored_network = self.scoring.wrap(self._final)
        self._whole = plain
        self.intensity, self.intensity_doubt = model.intensity_and_doubt(image)
        self._intensity = self.intensity
        self._arguments: tuple[tuple[Any, ...], dict[str, Any]] = (model.network_args, model.network_kwargs)
        self._rows: torch.Tensor | None = None
        # Found by an earlier batch of the same model.
        if model.found_output_values is not None:
            self._use_found()

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
        self._intensity = None if self.intensity is None else self.intensity.select(indices)

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
            # The answer as it is deployed, also where an earlier batch has shown that it ends in an activation.
            self._final.bypass = False
            raw = self._raw(image, self._scored_network if scored else self._network)
            self._learn(raw, image)
            return self._as_logits(raw, bypassed=False)

    def first_step(self, image: torch.Tensor) -> torch.Tensor:
        """As a call; for attacks without a clean pass, whose first step is the first that is seen of the network."""
        if self.model.found_output_values is not None:
            return self(image)
        raw = self._raw(image, self._network)
        self._learn(raw.detach() if isinstance(raw, torch.Tensor) else raw, image)
        if self._final.bypass:
            return self(image)
        return self._as_logits(raw, bypassed=False)

    def _learn(self, raw: Any, image: torch.Tensor) -> None:
        check_logits(raw, image)
        if not bool(torch.isfinite(raw).all()):
            raise ValueError(
                "the network returned NaN or infinite logits for the clean image: check its weights and the "
                "intensity map."
            )
        if self.model.found_output_values is None:
            final = self._final.activation(self.model.output)
            values = read_output_values(self.model, raw, final)
            self.model.found_final_activation = final if values == "probabilities" else None
            self.model.found_output_values = values
        self._use_found()

    def _use_found(self) -> None:
        found = self.model.found_final_activation is not None and not self._is_compiled
        self._final.bypass = self.model.found_output_values == "probabilities"
        self._final.logarithm = None if found else self.model.activation or self.model.found_activation
        self._final.watch = False

    def _raw(self, image: torch.Tensor, network: Callable[..., Any]) -> Any:
        self.forwards += image.shape[0]
        model = self.model
        # Guidance channels stay as they are: the map is for the image alone.
        seen = image if self._intensity is None or self.units != "HU" else self._intensity(image)
        if model.image_channels is not None:
            whole = self._whole if self._rows is None else self._whole.index_select(0, self._rows)
            seen = model.whole_image(seen, whole)
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
            return self._as_logits(raw, bypassed=self._left_out())
        finally:
            self._final.bypass = before

    def _left_out(self) -> bool:
        return self._final.bypass and self._final.activation(self.model.output) is not None

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
        return raw  # check_logits says what is wrong with it
    raw = as_plain(raw)
    return raw.to(image.dtype) if raw.is_floating_point() else raw
