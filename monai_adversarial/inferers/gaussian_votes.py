# SPDX-License-Identifier: Apache-2.0
"""Forward passes of a network on many noisy copies of an image, and the votes of their outputs."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from typing import Any, TypeVar

import torch
from monai.data.meta_tensor import MetaTensor
from monai.inferers import Inferer, SimpleInferer
from monai.utils import convert_to_dst_type
from torch import nn

from monai_adversarial.inferers.purified import PurifiedInferer
from monai_adversarial.purifiers.base import Purifier
from monai_adversarial.utils.draws import draw_seed, random_draw
from monai_adversarial.utils.intensity import as_one_map
from monai_adversarial.utils.plain import as_plain
from monai_adversarial.utils.scene import IMAGE_UNITS, UNITS, Scene, case_seeds
from monai_adversarial.utils.validation import check_choice, check_count, check_logits, check_positive

__all__ = ["NoisyCopiesInferer", "count_votes", "like_inputs", "vote", "vote_dtype", "winner"]

NoisyCopies = TypeVar("NoisyCopies", bound="NoisyCopiesInferer")
ACTIVATIONS = ("softmax", "sigmoid")
_COPIES_PER_STREAM = 2**24
# Odd, so that multiples of it stay distinct in the low 32 bits, which are all that a CPU generator looks at.
_SEED_STEP = 0x9E3779B97F4A7C15


class NoisyCopiesInferer(Inferer):
    """What inferers that vote over copies of the image with Gaussian noise have in common.

    The noise of a copy depends on ``seed``, the sample's voxels (those of the clean batch once :py:meth:`for_image`
    was called), the copy's number and, in an attack, the draw in force; not on the batch, its order, or
    ``copies_at_once``. No two copies of a sample share a draw.

    Args:
        inferer: inferer of each noisy copy, such as a ``SlidingWindowInferer``; None for
            :py:class:`monai.inferers.SimpleInferer`. Where this one stands decides what the noise is added to: around
            a ``ScannerSpaceInferer`` HU on the scanner's grid, inside one the network's values on the network's grid.
        sigma: standard deviation of the noise, in ``units``.
        units: ``"network"``, ``"HU"`` or ``"fraction"`` (of the intensity window).
        intensity: map from HU to the network's values (see ``as_intensity_map``), needed where ``units`` are not those
            of the image.
        image_units: ``"network"`` or ``"HU"``: what the image given to this inferer holds.
        copies_at_once: noisy copies of the batch in one forward pass.
        denoiser: applied to each noisy copy: a ``Purifier`` (or several), or a callable on batches (batch, channel,
            spatial...).
        activation: ``"softmax"`` (one class per voxel) or ``"sigmoid"`` (each channel says yes or no).
        output: index, key or callable that picks the logits, where the network returns several outputs.
        seed: of the noise.

    Raises:
        ValueError: for a bad argument, or units whose relation to the image is not known.
        TypeError: for a denoiser that cannot be called.
    """

    def __init__(
        self,
        inferer: Callable[..., Any] | None,
        sigma: float,
        units: str = "network",
        intensity: Any = None,
        image_units: str = "network",
        copies_at_once: int = 1,
        denoiser: Purifier | Sequence[Purifier] | Callable[[torch.Tensor], torch.Tensor] | None = None,
        activation: str = "softmax",
        output: Any = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.sigma = check_positive("sigma", sigma)
        self.units = check_choice("units", units, UNITS)
        self.image_units = check_choice("image_units", image_units, IMAGE_UNITS)
        self.intensity = as_one_map(intensity)
        scene = Scene(torch.empty(0), (), intensity=self.intensity, image_units=self.image_units)
        self.image_sigma = float(scene.in_image_units(self.sigma, self.units))
        self.copies_at_once = check_count("copies_at_once", copies_at_once)
        self.activation = check_choice("activation", activation, ACTIVATIONS)
        self.output = output
        self.seed = check_count("seed", seed, minimum=0)
        if isinstance(denoiser, Purifier) or (denoiser is not None and not callable(denoiser)):
            inferer, denoiser = PurifiedInferer(inferer, denoiser, seed), None  # type: ignore[arg-type]
        self.inferer = SimpleInferer() if inferer is None else inferer
        self.denoiser = denoiser
        self._seeds: tuple[int, ...] | None = None

    @property
    def random(self) -> bool:
        """True: it draws random numbers."""
        return True

    @property
    def is_bound(self) -> bool:
        """Whether it knows the batch that it will be given."""
        return self._seeds is not None

    @staticmethod
    def _check_mode(network: Any) -> None:
        """Votes of a network that still trains are those of a network that nobody deploys.

        Raises:
            ValueError: for a network in training mode.
        """
        if isinstance(network, nn.Module) and network.training:
            raise ValueError("network must be in evaluation mode for noisy copies: call network.eval() first.")

    def for_image(self: NoisyCopies, image: torch.Tensor) -> NoisyCopies:
        """A copy that takes plain tensors on the grid of ``image``, with the noise that belongs to its voxels.

        Args:
            image: clean batch (batch, channel, spatial...).
        """
        bound = copy.copy(self)
        bound._seeds = case_seeds(as_plain(image), self.seed)
        if hasattr(self.inferer, "for_image"):
            bound.inferer = self.inferer.for_image(image)
        return bound

    def for_samples(self: NoisyCopies, indices: Sequence[int]) -> NoisyCopies:
        """A copy that takes some samples of the batch it is bound to.

        Raises:
            ValueError: when it is not bound.
        """
        if self._seeds is None:
            raise ValueError("for_samples needs an inferer that knows the batch: call for_image first.")
        part = copy.copy(self)
        part._seeds = tuple(self._seeds[i] for i in indices)
        if hasattr(self.inferer, "for_samples"):
            part.inferer = self.inferer.for_samples(indices)
        return part

    @abstractmethod
    def __call__(self, inputs: torch.Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Logits (batch, class, spatial...) of the smoothed network."""

    def prepared(self: NoisyCopies, inputs: torch.Tensor) -> tuple[NoisyCopies, torch.Tensor]:
        """This inferer bound to ``inputs`` (unless it is bound already), and the plain floating point image.

        Raises:
            ValueError: when it is bound to a batch of another size.
        """
        bound = self if self.is_bound else self.for_image(inputs)
        image = as_plain(inputs)
        image = image if image.dtype in (torch.float32, torch.float64) else image.float()
        known = len(bound._seeds or ())
        if known != image.shape[0]:
            raise ValueError(
                f"inputs has {image.shape[0]} samples, but the inferer is bound to {known}: call for_image "
                "with this batch, or for_samples."
            )
        return bound, image

    def chunks(self, copies: int, first: int = 0) -> Iterator[range]:
        """Numbers of the copies from ``first`` to ``copies`` that share a forward pass."""
        # A random purifier inside draws once per forward pass, so that copies must not share one.
        size = 1 if _draws(self.inferer) else self.copies_at_once
        return (range(start, min(start + size, copies)) for start in range(first, copies, size))

    def case_streams(self) -> tuple[int, ...]:
        """Seeds of the bound samples under the draw in force."""
        assert self._seeds is not None
        return tuple(draw_seed(seed) for seed in self._seeds)

    def logits(
        self,
        image: torch.Tensor,
        streams: Sequence[int],
        stream: int,
        copies: range,
        network: Callable[..., Any],
        args: Sequence[Any] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> torch.Tensor:
        """Logits of some noisy copies in one forward pass.

        Args:
            image: plain tensor (batch, channel, spatial...).
            streams: from :py:meth:`case_streams`.
            stream: keeps apart what is drawn for different ends.
            copies: numbers of the copies.
            network: called by the inner inferer.
            args: passed on to the inner inferer.
            kwargs: passed on to the inner inferer.

        Returns:
            (copy, batch, class, spatial...).
        """
        count, batch = len(copies), image.shape[0]
        noisy = self.changed(image, streams, stream, copies).flatten(0, 1)
        inner = self.inferer
        if hasattr(inner, "for_samples"):
            inner = inner.for_samples(list(range(batch)) * count)
        with random_draw(stream, copies[0]) if _draws(inner) else nullcontext():
            if self.denoiser is not None:
                noisy = as_plain(self.denoiser(noisy))  # type: ignore[operator]
            raw: Any = inner(noisy, network, *args, **(kwargs or {}))
        if self.output is not None:
            raw = self.output(raw) if callable(self.output) else raw[self.output]
        elif isinstance(raw, (list, tuple)) and len(raw) == 1:
            raw = raw[0]
        check_logits(raw, noisy)
        return self.moved_back(as_plain(raw).unflatten(0, (count, batch)), streams, stream, copies)

    def changed(self, image: torch.Tensor, streams: Sequence[int], stream: int, copies: range) -> torch.Tensor:
        """Some copies of the image, each with noise of its own.

        Args:
            image: see :py:meth:`logits`, as all arguments.
            streams: see above.
            stream: see above.
            copies: see above.

        Returns:
            (copy, batch, channel, spatial...).
        """
        return image + self.image_sigma * self.drawn(tuple(image.shape[1:]), streams, stream, copies, image.device)

    def moved_back(self, logits: torch.Tensor, streams: Sequence[int], stream: int, copies: range) -> torch.Tensor:
        """Logits of some copies where the voxels of the image are; the same unless the noise moves voxels.

        Args:
            logits: (copy, batch, class, spatial...).
            streams: see :py:meth:`logits`, as what follows.
            stream: see above.
            copies: see above.
        """
        return logits

    @staticmethod
    def drawn(
        shape: Sequence[int], streams: Sequence[int], stream: int, copies: range, device: torch.device
    ) -> torch.Tensor:
        """Standard normal numbers of each copy and sample, (copy, batch, *shape), float32 on ``device``."""
        noise = torch.empty((len(copies), len(streams), *shape), dtype=torch.float32, device=device)
        generator = torch.Generator(device=device)
        for row, number in enumerate(copies):
            for sample, base in enumerate(streams):
                generator.manual_seed(
                    (base + (stream * _COPIES_PER_STREAM + number) * _SEED_STEP) & 0x7FFF_FFFF_FFFF_FFFF
                )
                # float32 whatever the image's type: the same draw in every precision
                torch.randn(tuple(shape), generator=generator, out=noise[row, sample], device=device)
        return noise

    def vote_counts(
        self,
        image: torch.Tensor,
        stream: int,
        copies: int,
        network: Callable[..., Any],
        args: Sequence[Any] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> torch.Tensor:
        """Votes of ``copies`` noisy copies, as integers on the device of the outputs.

        Args:
            image: see :py:meth:`logits`, as ``stream``, ``network``, ``args``, ``kwargs``.
            stream: see above.
            copies: how many copies vote.
            network: see above.
            args: see above.
            kwargs: see above.

        Returns:
            (batch, class, spatial...), int16 up to 32767 copies, else int32.
        """
        dtype = vote_dtype(copies)
        counts: torch.Tensor | None = None
        streams = self.case_streams()
        with torch.no_grad():
            for numbers in self.chunks(copies):
                for logits in self.logits(image, streams, stream, numbers, network, args, kwargs):
                    if counts is None:
                        counts = torch.zeros_like(logits, dtype=dtype)
                    count_votes(counts, logits, self.activation)
        assert counts is not None
        return counts


def vote_dtype(copies: int) -> torch.dtype:
    """The smallest type that counts ``copies`` votes."""
    return torch.int16 if copies <= torch.iinfo(torch.int16).max else torch.int32


def vote(logits: torch.Tensor, activation: str) -> torch.Tensor:
    """Classes that logits (batch, class, spatial...) stand for.

    Returns:
        int16 (batch, 1, spatial...) with the class (the lowest of several equal ones), or for ``"sigmoid"`` (batch,
        class, spatial...) with 1 for yes (logit above 0) and 0 for no.
    """
    if activation == "sigmoid":
        return (logits > 0).to(torch.int16)
    return _argmax(logits).to(torch.int16)


def _argmax(logits: torch.Tensor) -> torch.Tensor:
    """``logits.argmax(dim=1, keepdim=True)``, the lowest of several equal classes."""
    if logits.device.type != "cpu":
        return logits.argmax(dim=1, keepdim=True)
    # torch's own takes several times as long over a dimension that is not the last
    logits = logits.detach()
    highest = logits[:, :1].clone()
    classes = torch.zeros_like(highest, dtype=torch.int64)
    for index in range(1, logits.shape[1]):
        scores = logits[:, index : index + 1]
        classes.masked_fill_(scores > highest, index)
        torch.maximum(highest, scores, out=highest)
    return classes


def count_votes(counts: torch.Tensor, logits: torch.Tensor, activation: str) -> None:
    """Add the votes of one copy to ``counts`` (batch, class, spatial...), in place; for ``"sigmoid"`` those for yes."""
    if activation == "sigmoid":
        counts += logits > 0
    else:
        # one class per voxel: no collisions, so this is deterministic on a GPU, unlike scatter_add_
        classes = _argmax(logits)
        counts.scatter_(1, classes, counts.gather(1, classes) + 1)


def winner(counts: torch.Tensor, copies: int, activation: str) -> torch.Tensor:
    """Classes with most votes, in the form of :func:`vote`: of several equal ones the lowest, for ``"sigmoid"`` no."""
    if activation == "sigmoid":
        return (counts > copies // 2).to(torch.int16)
    return _argmax(counts).to(torch.int16)


def like_inputs(result: torch.Tensor, inputs: torch.Tensor) -> torch.Tensor:
    """``result`` as a ``MetaTensor`` with the metadata of ``inputs``, if that is one."""
    if not isinstance(inputs, MetaTensor):
        return result
    like = MetaTensor([]).copy_meta_from(inputs, copy_attr=False)
    converted: torch.Tensor = convert_to_dst_type(result, like, dtype=result.dtype, device=result.device)[0]
    return converted


def _draws(inferer: Any) -> bool:
    """Whether an inferer, or one inside it, draws random numbers."""
    while inferer is not None:
        if getattr(inferer, "random", False):
            return True
        inferer = getattr(inferer, "inferer", None)
    return False
