# SPDX-License-Identifier: Apache-2.0
"""What an exported network shows of itself on a small image of noise."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from monai_adversarial.audit.facts import TargetError
from monai_adversarial.audit.targets.network_call import pick_output, shapes_of
from monai_adversarial.models.output_values import FinalActivation

__all__ = ["FirstLook", "Interface", "look_at"]

#: voxels along an axis that are tried where the network does not say: most networks halve theirs up to five times
SIZES = (32, 64, 96)
#: sums of probabilities over classes differ from 1 by rounding, in float16 as well
NEAR_ONE = 4e-3
#: share of the largest value by which a sample's answer may change with what stands beside it in a batch
SAME_ANSWER = 1e-3


@dataclass(frozen=True)
class Interface:
    """What is known of a network's input before it is called.

    Args:
        channels: of the image; None where nothing says it.
        spatial: voxels along each axis; None for an axis of any length.
        batch: samples that a call must have; None for any number.
        most: samples that a call may have at most; None for any number.
    """

    channels: int | None = None
    spatial: tuple[int | None, ...] = (None, None, None)
    batch: int | None = None
    most: int | None = None

    @property
    def fixed(self) -> tuple[int, ...] | None:
        """Voxels along each axis where all are fixed."""
        sizes = tuple(size for size in self.spatial if size is not None)
        return sizes if len(sizes) == len(self.spatial) else None

    def sizes(self, told: Sequence[int] | None = None) -> Iterator[tuple[int, ...]]:
        """Image sizes to try, the smallest first, what was told last."""
        tried = set()
        for size in SIZES:
            sizes = tuple(fixed or size for fixed in self.spatial)
            if sizes not in tried:
                yield sizes
            tried.add(sizes)
        if told is not None and len(told) == len(self.spatial) and tuple(told) not in tried:
            yield tuple(told)


@dataclass(frozen=True)
class FirstLook:
    """What a network has shown.

    Args:
        interface: completed by what it took.
        image: what it was shown, (1, channel, spatial...).
        answer: what it returned, (1, class, spatial...).
        output: index or name of the attacked output; None for a network with one.
        values: ``"logits"``, ``"probabilities"``, or None where noise does not tell them apart.
        activation: ``"softmax"`` where the answer's classes sum to 1, or the last operation; None where nothing tells.
        final: ``"softmax"`` or ``"sigmoid"`` where that was seen to be the last operation.
        differentiable: whether a gradient came back that is finite and not zero everywhere.
        why_not: the sentence part, where it is not.
        forwards: samples that went forward.
    """

    interface: Interface
    image: torch.Tensor
    answer: torch.Tensor
    output: int | str | None
    values: str | None
    activation: str | None
    final: str | None
    differentiable: bool
    why_not: str | None
    forwards: int

    @property
    def classes(self) -> int:
        """Number of output channels."""
        return int(self.answer.shape[1])


def look_at(
    network: Callable[..., Any],
    interface: Interface,
    name: str,
    *,
    told_size: Sequence[int] | None = None,
    told_channels: int | None = None,
    output: int | str | None = None,
    value_range: tuple[float, float] = (0.0, 1.0),
    device: torch.device | str = "cpu",
    gradients: bool = True,
) -> FirstLook:
    """Show a network noise, once forward, once backward and once two samples at a time.

    Args:
        network: from (batch, channel, spatial...) to one or several tensors.
        interface: what is known of its input.
        name: of the network, for sentences.
        told_size: voxels of its input as told, which are tried where smaller ones fail.
        told_channels: channels of the image as told.
        output: index or name of the attacked output as told.
        value_range: of the noise.
        device: where the network is.
        gradients: try a backward pass; False for networks that cannot have one.

    Raises:
        TargetError: for a network that takes no image that was tried, or whose answer is no segmentation by logits or
            probabilities.
    """
    if interface.channels is not None and told_channels not in (None, interface.channels):
        raise TargetError(f"in_channels is {told_channels}, but {name} takes {interface.channels}: leave it out.")
    channels = interface.channels or told_channels or 1
    watched = FinalActivation(network)
    watched.watch = True
    image, raw, forwards = _first_answer(watched, interface, name, channels, told_size, value_range, device)
    answer, picked = pick_output(raw, image, output)
    final = watched.activation(picked)
    _check(answer, image, name)
    plain = answer.detach().float()
    values, activation = ("probabilities", final) if final else _read_values(plain)
    differentiable, why_not = _try_backward(watched, image, picked) if gradients else (False, None)
    seen = replace(interface, channels=channels)
    if interface.batch is None and (interface.most is None or interface.most > 1):
        forwards += 2
        if not _samples_are_apart(network, image, plain, picked, value_range):
            seen = replace(seen, batch=1)
    return FirstLook(
        interface=seen,
        image=image,
        answer=plain,
        output=picked,
        values=values,
        activation=activation,
        final=final,
        differentiable=differentiable,
        why_not=why_not,
        forwards=forwards + int(gradients),
    )


def _noise(size: Sequence[int], value_range: tuple[float, float], device: Any, seed: int = 0) -> torch.Tensor:
    low, high = value_range
    noise = torch.rand(tuple(size), generator=torch.Generator().manual_seed(seed))
    return (noise * (high - low) + low).to(device)


def _first_answer(
    network: Callable[..., Any],
    interface: Interface,
    name: str,
    channels: int,
    told_size: Sequence[int] | None,
    value_range: tuple[float, float],
    device: Any,
) -> tuple[torch.Tensor, Any, int]:
    batch = interface.batch or 1
    error: Exception | None = None
    for number, spatial in enumerate(interface.sizes(told_size), start=1):
        image = _noise((1, channels, *spatial), value_range, device)
        image = image.expand(batch, *image.shape[1:]).contiguous()
        try:
            with torch.no_grad():
                raw = network(image)
        except TargetError:
            raise
        except Exception as problem:  # whatever an export raises over a size that it does not take
            error = error or problem
            continue
        return image, raw, number * batch
    tried = ", ".join(str((batch, channels, *sizes)) for sizes in interface.sizes(told_size))
    raise TargetError(
        f"{name} fails on images of noise of {tried} (batch, channel, spatial): {last_line(error)}. Tell its input "
        "with --in-channels and --roi-size or --whole-size."
    ) from error


def last_line(error: BaseException | None) -> str:
    """What an error says in the end, on one line: exports print their whole trace."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = (lines[-1] if lines else "no message")[:300]
    return f"{type(error).__name__}: {text}".rstrip(".")


def _check(answer: Any, image: torch.Tensor, name: str) -> None:
    """Refuse what cannot be attacked as a segmentation."""
    if isinstance(answer, np.ndarray):
        answer = torch.as_tensor(answer)
    if not isinstance(answer, torch.Tensor):
        raise TargetError(f"{name} returns {shapes_of(answer)}, expected a tensor (batch, class, spatial...).")
    given, made = tuple(image.shape), tuple(answer.shape)
    if not answer.is_floating_point():
        raise TargetError(
            f"{name} returns {answer.dtype} {made}, a finished segmentation: an audit needs the logits or "
            "probabilities that it is made of; export the network without its argmax or threshold."
        )
    if len(made) != len(given) or made[0] != given[0] or made[2:] != given[2:]:
        raise TargetError(
            f"{name} returns {made} for an image {given}: a segmentation has (batch, class, spatial...) on the "
            "image's grid."
        )
    if not bool(torch.isfinite(answer).all()):
        raise TargetError(f"{name} returns NaN or infinite values for an image of noise: check its weights.")
    if bool((answer == answer.round()).all()):
        raise TargetError(
            f"{name} returns whole numbers from {float(answer.min()):g} to {float(answer.max()):g}, a finished "
            "segmentation: an audit needs the logits or probabilities that it is made of; export the network without "
            "its argmax or threshold."
        )


def _read_values(answer: torch.Tensor) -> tuple[str | None, str | None]:
    if float(answer.min()) < -NEAR_ONE or float(answer.max()) > 1 + NEAR_ONE:
        return "logits", None
    if answer.shape[1] > 1 and bool(((answer.sum(dim=1) - 1).abs() <= NEAR_ONE).all()):
        return "probabilities", "softmax"
    return None, None


def _try_backward(network: FinalActivation, image: torch.Tensor, output: int | str | None) -> tuple[bool, str | None]:
    """Whether a gradient comes back, and why not. A last softmax or sigmoid is left out, as in an attack: a saturated
    one has none."""
    network.bypass = True
    with torch.enable_grad():
        entered = image.detach().clone().requires_grad_()
        try:
            answer, _ = pick_output(network(entered), entered, output)
            if not answer.requires_grad:
                return False, "its answer has no graph"
            # Not the sum: that of probabilities is constant.
            weights = _noise(answer.shape, (-1.0, 1.0), answer.device, seed=1)
            (gradient,) = torch.autograd.grad((answer * weights).sum(), entered, allow_unused=True)
        except Exception as error:  # operations without a derivative say so in many ways
            return False, last_line(error)
    if gradient is None:
        return False, "its answer does not depend on the image by operations with a derivative"
    if not bool(torch.isfinite(gradient).all()):
        return False, "its gradient is not finite"
    if not bool(gradient.any()):
        return False, "its gradient is zero everywhere"
    return True, None


def _samples_are_apart(
    network: Callable[..., Any],
    image: torch.Tensor,
    alone: torch.Tensor,
    output: int | str | None,
    value_range: tuple[float, float],
) -> bool:
    """Whether the network takes two samples, and answers for each as if it were alone."""
    other = _noise(image.shape, value_range, image.device, seed=2)
    try:
        with torch.no_grad():
            beside, _ = pick_output(network(torch.cat([image, other])), torch.cat([image, other]), output)
    except Exception:  # an export that fixes the batch
        return False
    if beside.shape != (2, *alone.shape[1:]):
        return False
    largest = float(alone.abs().max())
    return float((beside[:1].float() - alone).abs().max()) <= SAME_ANSWER * largest
