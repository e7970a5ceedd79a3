# SPDX-License-Identifier: Apache-2.0
"""Logits or probabilities: what a network's output values are, and logits of a network that ends in an activation.

Cross-entropy of probabilities as if they were logits is a weak attack that looks like a robust network. A final
softmax or sigmoid is therefore left out of the attacked function: what went into it is the logits. Where it is not
found (inside a compiled network, or followed by another operation) the logarithm of the probabilities, or of their
odds, stands for them, which is exact but has no gradient where the activation is saturated.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

from monai_adversarial.utils.modules import AroundNetwork
from monai_adversarial.utils.plain import as_plain

if TYPE_CHECKING:
    from monai_adversarial.models.attacked_model import AttackedModel

__all__ = ["FinalActivation", "log_odds", "looks_like", "read_output_values"]

# Probabilities are rounded to bfloat16 where the network ran in it, and stitched from windows.
SUM_TOLERANCE = 0.02
# Logits of a network that has learned little, or of a crop of padding, may lie this close together within 0 to 1.
NARROW = 0.5
_SOFTMAX = {torch.softmax, F.softmax, torch.Tensor.softmax}
_SIGMOID = {torch.sigmoid, F.sigmoid, torch.Tensor.sigmoid}


def looks_like(raw: torch.Tensor) -> str:
    """``"softmax"`` or ``"sigmoid"`` for values that are probabilities, ``"logits"`` otherwise.

    Args:
        raw: what the network returned for a batch, (batch, class, spatial...).
    """
    values = raw.detach()
    low, high = (float(edge) for edge in torch.aminmax(values))
    if low < 0 or high > 1 + SUM_TOLERANCE or low == high:
        return "logits"
    if values.shape[1] == 1:
        return "sigmoid"
    total = values.sum(dim=1)
    return "softmax" if float((total - 1).abs().max()) <= SUM_TOLERANCE else "sigmoid"


def read_output_values(
    model: AttackedModel, raw: torch.Tensor, ends_in_activation: Callable[[], bool] | None = None
) -> str:
    """``"logits"`` or ``"probabilities"``; found ones are noted in the model.

    Args:
        model: what is attacked; what it says of its output is checked.
        raw: what its network returned for a clean batch.
        ends_in_activation: says whether the network was seen to end in a softmax or sigmoid; asked where the values
            alone could be logits that lie within 0 to 1 by chance. None: it was not.

    Raises:
        ValueError: where the values contradict ``output_values`` or ``activation``.
    """
    kind = looks_like(raw)
    low, high = (float(edge) for edge in torch.aminmax(raw))
    seen = f"the network returned values from {low:.3g} to {high:.3g}"
    if kind == "logits":
        if model.output_values == "probabilities":
            raise ValueError(f"output_values is 'probabilities', but {seen}: they are logits; leave output_values out.")
        return "logits"
    if kind == "sigmoid" and model.output_values is None and high - low < NARROW:
        if ends_in_activation is None or not ends_in_activation():
            return "logits"
    if model.output_values == "logits":
        # Small random networks may answer within 0..1 by chance: a claim of logits is then taken, unless sums are one.
        if kind == "softmax":
            raise ValueError(
                f"output_values is 'logits', but {seen} that sum to 1 over the classes: they are probabilities; leave "
                "output_values out."
            )
        return "logits"
    if model.activation == "softmax" and kind == "sigmoid" and raw.shape[1] > 1:
        raise ValueError(
            f"activation is 'softmax', but {seen} that do not sum to 1 over the classes: pass activation='sigmoid' for "
            "a network that ends in sigmoid, or output_values='logits'."
        )
    if model.activation is None:
        model.found_activation = kind
    return "probabilities"


def log_odds(probabilities: torch.Tensor, activation: str) -> torch.Tensor:
    """Logits whose softmax or sigmoid are the given probabilities, finite also at 0 and 1."""
    tiny = torch.finfo(torch.float32).tiny
    if activation == "softmax":
        return probabilities.clamp_min(tiny).log()
    one = 1 - torch.finfo(torch.float32).eps
    inside = probabilities.clamp(tiny, one)
    return inside.log() - torch.log1p(-inside)


class _LastActivation(TorchFunctionMode):
    """Remembers what went into the latest softmax over channels, or sigmoid."""

    def __init__(self) -> None:
        super().__init__()
        self.before: torch.Tensor | None = None
        self.after: torch.Tensor | None = None

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if func in _SIGMOID or (func in _SOFTMAX and _over_channels(args, kwargs)):
            self.before, self.after = args[0] if args else kwargs["input"], result
        return result


def _over_channels(args: Any, kwargs: Any) -> bool:
    image = args[0] if args else kwargs["input"]
    dim = args[1] if len(args) > 1 else kwargs.get("dim")
    return dim in (1, 1 - image.ndim)


class FinalActivation(AroundNetwork):
    """A network, without the softmax or sigmoid that its answer comes from while ``bypass`` is set.

    Attributes:
        bypass: leave the activation out.
        found: whether the latest call with ``bypass`` found one.
    """

    def __init__(self, network: Callable[..., Any]) -> None:
        super().__init__(network)
        self.bypass = False
        self.found = False

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The network's answer."""
        if not self.bypass:
            return self.network(*args, **kwargs)
        with _LastActivation() as seen:
            answer = self.network(*args, **kwargs)
        self.found = False

        def before(value: Any) -> Any:
            if value is not seen.after or seen.before is None:
                return value
            self.found = True
            return as_plain(seen.before)

        if isinstance(answer, (list, tuple)):
            return [before(value) for value in answer]
        if isinstance(answer, dict):
            return {key: before(value) for key, value in answer.items()}
        return before(answer)
