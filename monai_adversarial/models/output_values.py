# SPDX-License-Identifier: Apache-2.0
"""Logits or probabilities: what a network's output values are, and logits of a network that ends in an activation.

Cross-entropy of probabilities as if they were logits is a weak attack that looks like a robust network. A final
softmax or sigmoid is therefore left out of the attacked function: what went into it is the logits. Where it is not
found (inside a compiled network, or followed by another operation) the logarithm of the probabilities, or of their
odds, stands for them, which is exact but has no gradient where the activation is saturated.
"""

from __future__ import annotations

import copy
import math
import warnings
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

from monai_adversarial.utils.modules import AroundNetwork
from monai_adversarial.utils.plain import as_plain

if TYPE_CHECKING:
    from monai_adversarial.models.attacked_model import AttackedModel

__all__ = [
    "FinalActivation",
    "OutputReading",
    "OutputSummary",
    "log_odds",
    "note_output_values",
    "read_output_values",
]

# Probabilities are rounded to bfloat16 where the network ran in it, and stitched from windows.
SUM_TOLERANCE = 0.02
EXACT_SUM_TOLERANCE = 1e-4
# Logits of a class that is not there, by a sigmoid: a probability of 0.12.
SURELY_ABSENT = -2.0
# Probabilities of a segmentation come this near to 0 and to 1 somewhere in a batch.
NEAR_AN_END = 0.05
_SOFTMAX = {torch.softmax, F.softmax, torch.Tensor.softmax}
_SIGMOID = {torch.sigmoid, F.sigmoid, torch.Tensor.sigmoid}


@dataclass
class OutputSummary:
    """What tells logits from probabilities, gathered from pieces of an answer.

    Args:
        channels: output channels.
    """

    channels: int
    # Kept up to date in place: a list of small tensors that outlive the large ones beside them breaks up the heap.
    _ends: torch.Tensor | None = field(default=None, init=False)
    _deviation: torch.Tensor | None = field(default=None, init=False)
    _sums: torch.Tensor | None = field(default=None, init=False)
    _pieces: int = field(default=0, init=False)
    _voxels: int = field(default=0, init=False)

    @classmethod
    def of(cls, raw: torch.Tensor) -> OutputSummary:
        """Of a whole answer (batch, class, spatial...)."""
        made = cls(int(raw.shape[1]))
        made.add(raw)
        return made

    def add(self, piece: torch.Tensor) -> None:
        """Some voxels of the answer, (batch, class, spatial...). It does not wait for the device."""
        values = piece.detach()
        total = values.sum(dim=1)
        low, high = torch.aminmax(values)
        if self._ends is None or self._deviation is None or self._sums is None:
            self._ends = torch.stack([low, high])
            self._deviation = torch.zeros_like(low)
            self._sums = torch.zeros(3, dtype=torch.float64, device=values.device)
        self._ends[0] = torch.minimum(self._ends[0], low)
        self._ends[1] = torch.maximum(self._ends[1], high)
        self._deviation.copy_(torch.maximum(self._deviation, (total - 1).abs_().amax()))
        self._pieces += 1
        # Not of the sum over classes, which is the same number for some networks. Twice, with different weights of the
        # pieces: what two random passes share by chance they do not share.
        highest = values.amax(dim=1)
        absent, total = (highest < SURELY_ABSENT).sum(), highest.sum()
        self._sums += torch.stack([total, total * self._pieces, absent])
        self._voxels += highest.numel()

    @property
    def ends(self) -> tuple[float, float]:
        """Lowest and highest value; NaN where one is."""
        assert self._ends is not None
        low, high = self._ends.tolist()
        return low, high

    @property
    def is_finite(self) -> bool:
        """Whether no value is NaN or infinite."""
        return all(math.isfinite(end) for end in self.ends)

    @property
    def share_of_nothing(self) -> float:
        """Share of the voxels in which every channel says by a sigmoid that its class is not there."""
        assert self._sums is not None
        return float(self._sums[2]) / max(self._voxels, 1)

    @property
    def is_within_unit(self) -> bool:
        """Whether all values may be probabilities."""
        low, high = self.ends
        return low >= 0 and high <= 1 + SUM_TOLERANCE

    @property
    def sums_exactly_to_one(self) -> bool:
        """Whether the sums over the classes are 1 as far as float32 adds them up: a few numbers come near by chance."""
        assert self._deviation is not None
        return float(self._deviation) <= EXACT_SUM_TOLERANCE

    @property
    def looks_like(self) -> str:
        """``"softmax"`` or ``"sigmoid"`` for values that are probabilities, ``"logits"`` otherwise."""
        low, high = self.ends
        if not self.is_within_unit or low == high:
            return "logits"
        if self.channels == 1:
            return "sigmoid"
        assert self._deviation is not None
        return "softmax" if float(self._deviation) <= SUM_TOLERANCE else "sigmoid"

    def equals(self, other: OutputSummary) -> bool:
        """Whether another pass over the same pieces gave the same sums: the network is not random then."""
        assert self._sums is not None and other._sums is not None
        return torch.equal(self._sums, other._sums)


@dataclass(frozen=True)
class OutputReading:
    """What output values were taken for.

    Args:
        values: ``"logits"`` or ``"probabilities"``.
        activation: what probabilities come from; None for logits.
        doubt: a sentence where it is a guess.
    """

    values: str
    activation: str | None = None
    doubt: str | None = None


def read_output_values(model: AttackedModel, summary: OutputSummary, final: str | None = None) -> OutputReading:
    """Logits or probabilities, and of which activation; nothing is noted in the model.

    Certain are an activation that the answer was seen to come from, values outside 0 to 1, and values that sum to one.
    Values within 0 to 1 of which nothing else is known are taken for probabilities where they reach both ends, and for
    logits otherwise; a warning says so.

    Args:
        model: what is attacked; what it says of its output is checked.
        summary: of what its network returned for a clean batch.
        final: the activation that it was seen to come from, None where none was seen.

    Raises:
        ValueError: where the values contradict ``output_values`` or ``activation``.
    """
    kind = final if final is not None and summary.is_within_unit else summary.looks_like
    low, high = summary.ends
    if model.classifies and low == high and 0 < low < 1:
        kind = final or "sigmoid"  # one image, one value: nothing tells which it is
    if model.classifies and kind == "softmax" and final is None and not summary.sums_exactly_to_one:
        kind = "sigmoid"
    doubt = None
    seen = f"the network returned values from {low:.3g} to {high:.3g}"
    if kind == "logits":
        if model.output_values == "probabilities":
            raise ValueError(f"output_values is 'probabilities', but {seen}: they are logits; leave output_values out.")
        return OutputReading("logits")
    certain = final is not None or kind == "softmax"
    how = f"that come from a {final}" if final else "that sum to 1 over the classes"
    if model.output_values == "logits":
        if certain:
            raise ValueError(
                f"output_values is 'logits', but {seen} {how}: they are probabilities; leave output_values out."
            )
        return OutputReading("logits")
    if model.output_values is None and model.classifies and model.activation == "softmax" and not certain:
        return OutputReading("logits")
    if model.output_values is None and not certain:
        reaches_both_ends = low <= NEAR_AN_END and high >= 1 - NEAR_AN_END
        reaches_both_ends &= not model.classifies  # a few numbers reach them by chance
        taken, other = ("probabilities", "logits") if reaches_both_ends else ("logits", "probabilities")
        doubt = (
            f"{seen} and no final softmax or sigmoid was found: they are taken for {taken}; pass "
            f"output_values={other!r} if they are {other}, or {taken!r} to say that this is right."
        )
        if taken == "logits":
            return OutputReading("logits", doubt=doubt)
    if model.activation == "softmax" and kind == "sigmoid" and summary.channels > 1:
        raise ValueError(
            f"activation is 'softmax', but {seen} that do not sum to 1 over the classes: pass activation='sigmoid' for "
            "a network that ends in sigmoid, or output_values='logits'."
        )
    if model.activation == "sigmoid" and final == "softmax":
        raise ValueError(
            f"activation is 'sigmoid', but {seen} {how}: its classes exclude each other; leave activation out."
        )
    return OutputReading("probabilities", kind, doubt)


def note_output_values(model: AttackedModel, reading: OutputReading) -> None:
    """Keep in the model what its output values were taken for, and say where it is a guess."""
    if reading.doubt is not None:
        warnings.warn(reading.doubt, stacklevel=2)
    if reading.activation is not None and model.activation is None:
        model.found_activation = reading.activation
    model.found_output_values = reading.values


def log_odds(probabilities: torch.Tensor, activation: str) -> torch.Tensor:
    """Logits whose softmax or sigmoid are the given probabilities, finite also at 0 and 1."""
    tiny = torch.finfo(torch.float32).tiny
    if activation == "softmax":
        return probabilities.clamp_min(tiny).log()
    one = 1 - torch.finfo(torch.float32).eps
    inside = probabilities.clamp(tiny, one)
    return inside.log() - torch.log1p(-inside)


class _Activations(TorchFunctionMode):
    """Remembers what went into the latest softmaxes over channels and sigmoids."""

    def __init__(self) -> None:
        super().__init__()
        # More than any network has heads; gates inside it need not be kept.
        self.latest: deque[tuple[str, torch.Tensor, Any]] = deque(maxlen=16)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if func in _SIGMOID:
            self.latest.append(("sigmoid", args[0] if args else kwargs["input"], result))
        elif func in _SOFTMAX and _over_channels(args, kwargs):
            self.latest.append(("softmax", args[0] if args else kwargs["input"], result))
        return result

    def before(self, value: Any) -> tuple[str | None, Any]:
        """The activation that made ``value`` and what went into it; (None, ``value``) for what none has made."""
        for kind, given, result in self.latest:
            if value is result:
                return kind, as_plain(given)
            if _is_reshaped(value, result):
                return kind, as_plain(given).reshape(value.shape)
        return None, value


def _is_reshaped(value: Any, result: torch.Tensor) -> bool:
    """Whether a value is the whole of an answer with other axes, as ``squeeze`` and ``flatten`` give it."""
    return (
        isinstance(value, torch.Tensor)
        and value.numel() == result.numel() > 0
        and value.data_ptr() == result.data_ptr()
        and value.is_contiguous()
        and result.is_contiguous()
    )


def _over_channels(args: Any, kwargs: Any) -> bool:
    image = args[0] if args else kwargs["input"]
    dim = args[1] if len(args) > 1 else kwargs.get("dim")
    return dim in (1, 1 - image.ndim)


class FinalActivation(AroundNetwork):
    """A network, without the softmax or sigmoid that its answer comes from while ``bypass`` is set.

    Attributes:
        bypass: leave the activation out.
        logarithm: the activation that cannot be left out: its log odds stand for what goes into it, in each window.
        watch: look for it in the next calls.
    """

    def __init__(self, network: Callable[..., Any]) -> None:
        super().__init__(network)
        self.bypass = False
        self.watch = False
        self.logarithm: str | None = None
        # Like the latest answer: which activation each of its tensors came from.
        self._kinds: Any = None

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The network's answer."""
        before: Any
        if not (self.bypass or self.watch):
            return self.network(*args, **kwargs)
        if self.bypass and self.logarithm is not None:
            answer = self.network(*args, **kwargs)
            if not isinstance(answer, torch.Tensor):
                self._kinds = None  # which of several is not known here
                return answer
            self._kinds = self.logarithm
            return log_odds(as_plain(answer).to(torch.promote_types(answer.dtype, torch.float32)), self.logarithm)
        with _Activations() as seen:
            answer = self.network(*args, **kwargs)
        if isinstance(answer, (list, tuple)):
            parts = [seen.before(value) for value in answer]
            self._kinds, before = [kind for kind, _ in parts], [value for _, value in parts]
            if isinstance(answer, tuple):
                before = type(answer)(*before) if hasattr(answer, "_fields") else tuple(before)
        elif isinstance(answer, dict):
            entries = {key: seen.before(value) for key, value in answer.items()}
            self._kinds, before = {key: kind for key, (kind, _) in entries.items()}, copy.copy(answer)
            before.update({key: value for key, (_, value) in entries.items()})
        else:
            self._kinds, before = seen.before(answer)
        return before if self.bypass else answer

    def activation(self, output: Any = None) -> str | None:
        """The activation that the attacked tensor of the latest watched answer came from; None where there was none or
        it is not known which tensor is attacked.

        Args:
            output: index, key or callable that picks the attacked tensor; None where the answer has one.
        """
        kinds = self._kinds
        if not isinstance(kinds, (list, dict)):
            return kinds
        if output is not None:
            try:
                picked = output(kinds) if callable(output) else kinds[output]
                return picked if isinstance(picked, str) else None
            except Exception:  # a callable that computes with tensors
                pass
        different = set(kinds.values() if isinstance(kinds, dict) else kinds)
        return different.pop() if len(different) == 1 else None
