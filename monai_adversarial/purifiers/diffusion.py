# SPDX-License-Identifier: Apache-2.0
"""Purification by a diffusion model."""

from __future__ import annotations

import copy
import hashlib
import os
from collections.abc import Callable, Sequence
from typing import Any

import torch
from monai.inferers import sliding_window_inference
from monai.networks.schedulers import DDIMScheduler
from monai.utils import ensure_tuple_rep, issequenceiterable
from torch import nn
from torch.utils.checkpoint import checkpoint

from monai_adversarial.networks.diffusion_denoiser import PURIFICATION_SCHEDULE, DiffusionDenoiser
from monai_adversarial.purifiers.base import RandomPurifier
from monai_adversarial.purifiers.context import ImageContext
from monai_adversarial.purifiers.dictionary import dictionary_form
from monai_adversarial.purifiers.learned import LearnedPurifier
from monai_adversarial.utils.validation import check_count, check_instance, check_positive

__all__ = ["DiffusionPurification", "DiffusionPurificationD", "DiffusionPurificationDict", "DiffusionPurificationd"]


class DiffusionPurification(LearnedPurifier, RandomPurifier):
    """Diffusion purification: noise is added up to a time t*, and a diffusion model takes it away again.

    With MONAI's ``DiffusionModelUNet`` and ``DDIMScheduler``. t* is given by its noise in HU: ``x_t / sqrt(abar_t)`` is
    the image with Gaussian noise of that standard deviation. The bundle's ``purifier_diffusion.yaml`` trains
    :class:`~monai_adversarial.networks.diffusion_denoiser.DiffusionDenoiser` in minutes on noise levels up to 60 HU.

    Random. Differentiable: an attacker goes through it exactly, averaging over draws; with several steps each one is
    computed again in the backward pass (checkpointing), so that memory does not grow with their number.

    >>> import torch
    >>> from monai_adversarial.transforms import DiffusionPurification
    >>> class Untrained(torch.nn.Module):
    ...     def forward(self, noisy, timesteps):
    ...         return torch.zeros_like(noisy)  # the noise that it sees: none
    >>> purify = DiffusionPurification(network=Untrained(), noise=15.0, steps=4).set_random_state(0)
    >>> len(purify.times), bool(purify.times[0] > purify.times[-1])
    (4, True)
    >>> left = purify(torch.full((1, 32, 32), 40.0)) - 40.0
    >>> 13 < float(left.std()) < 17  # HU: nothing was taken away again
    True

    Args:
        weights: see :class:`LearnedPurifier`.
        noise: standard deviation at t*, in HU.
        steps: of the reverse process (DDIM, deterministic), at equal distances in time; the distances are whole time
            steps, hence there may be fewer steps than asked for where t* is small.
        patch_size: voxels of the patches of large volumes, which overlap by a quarter and are blended as in MONAI's
            sliding window; None for the whole volume at once.
        network: see :class:`LearnedPurifier`; called with the noisy image and time steps (batch,), returns the noise.
        scheduler: the network's noise schedule, which is copied; None for that of ``DiffusionDenoiser``.
        strength: see :class:`LearnedPurifier`.
        window: see :class:`LearnedPurifier`.
        precision: see :class:`LearnedPurifier`.
        intensity: see :class:`Purifier`.
        spacing: see :class:`Purifier`; not used.

    Attributes:
        times: time steps of the reverse process, from t* down.
        schedule_hash: tells one noise schedule from another.

    Raises:
        ValueError: for more noise than the schedule reaches; for patches that are not positive whole numbers of voxels
            or, when the purifier is used, have another number of axes than the image.

    Source: Nie et al. 2022 (DiffPure), with the DDIM sampler (Song et al. 2021) in place of the stochastic differential
    equation.

    Survey entry: P12 (adapted).
    """

    def __init__(
        self,
        weights: str | os.PathLike[str] | None = None,
        noise: float = 15.0,
        steps: int = 1,
        patch_size: int | Sequence[int] | None = None,
        network: nn.Module | None = None,
        scheduler: DDIMScheduler | None = None,
        strength: float = 1.0,
        window: Sequence[float] = (-160.0, 240.0),
        precision: str = "auto",
        intensity: Any = None,
        spacing: Any = None,
    ) -> None:
        super().__init__(weights, network, strength, window, precision, intensity, spacing)
        self.noise = check_positive("noise", noise)
        self.steps = check_count("steps", steps)
        self.patch_size = _check_patch_size(patch_size)
        if scheduler is not None:
            check_instance("scheduler", scheduler, DDIMScheduler, "DDIMScheduler(...)")
        own = scheduler or DDIMScheduler(**PURIFICATION_SCHEDULE, clip_sample=False)
        self._scheduler = copy.deepcopy(own)  # the number of its steps is set below
        self.schedule_hash = _schedule_hash(own)  # records of a study tell schedules apart
        alphas = self._scheduler.alphas_cumprod.double()
        levels = ((1 - alphas) / alphas).sqrt() / self._window.scale  # HU
        most = float(levels[-1])
        if self.noise > most:
            raise ValueError(f"noise must be at most {most:.0f} HU, where the schedule ends, got {self.noise:g}.")
        self._start = int((levels - self.noise).abs().argmin())
        total = self._scheduler.num_train_timesteps
        # The scheduler derives the distance between its steps from the number of steps over the whole schedule.
        self._scheduler.num_inference_steps = total // -(-(self._start + 1) // self.steps)
        stride = total // self._scheduler.num_inference_steps
        self.times = tuple(range(self._start, -1, -stride))

    @staticmethod
    def default_network() -> nn.Module:
        """A :class:`DiffusionDenoiser` for volumes."""
        return DiffusionDenoiser()

    def reconstruct(self, volume: torch.Tensor, context: ImageContext) -> torch.Tensor:
        """Forward to t*, then the reverse steps."""
        rank = volume.ndim - 2
        if isinstance(self.patch_size, tuple) and len(self.patch_size) != rank:
            raise ValueError(
                f"patch_size must be one integer or one per spatial dimension of the image ({rank}), got "
                f"{self.patch_size}."
            )
        generators = context.generators(volume.device, volume.shape[0])
        # float32 whatever the image's type: the same draw in every precision
        draws = [torch.randn(volume.shape[1:], generator=generator, device=volume.device) for generator in generators]
        noise = torch.stack(draws).to(volume.dtype)
        abar = self._scheduler.alphas_cumprod[self._start].to(volume.device, torch.float64)
        noisy = volume * abar.sqrt().to(volume.dtype) + noise * (1 - abar).sqrt().to(volume.dtype)
        noisy = noisy.reshape(-1, 1, *volume.shape[2:])
        network = self.network_on(volume)
        if self.patch_size is None:
            return self._reverse(noisy, network).reshape(volume.shape)
        purified: torch.Tensor = sliding_window_inference(  # type: ignore[assignment]
            noisy,
            ensure_tuple_rep(self.patch_size, rank),
            sw_batch_size=1,
            # the sliding window multiplies what it is given in place
            predictor=lambda patch: self._reverse(patch, network).clone(),
            overlap=0.25,
            mode="gaussian",
            padding_mode="replicate",
        )
        return purified.reshape(volume.shape)

    def _reverse(self, sample: torch.Tensor, network: Callable[..., torch.Tensor]) -> torch.Tensor:
        again = len(self.times) > 1 and torch.is_grad_enabled() and sample.requires_grad
        for time in self.times:
            if again:
                options: dict[str, Any] = {"use_reentrant": False, "preserve_rng_state": False}
                sample = checkpoint(self._step, sample, time, network, **options)  # type: ignore[assignment]
            else:
                sample = self._step(sample, time, network)
        return sample

    def _step(self, sample: torch.Tensor, time: int, network: Callable[..., torch.Tensor]) -> torch.Tensor:
        times = torch.full((sample.shape[0],), time, device=sample.device, dtype=torch.long)
        noise = network(sample, times).to(sample.dtype)
        return self._scheduler.step(noise, time, sample)[0]


def _check_patch_size(patch_size: int | Sequence[int] | None) -> int | tuple[int, ...] | None:
    """None, one positive integer or a tuple of them, else ValueError."""
    if patch_size is None:
        return None
    many = issequenceiterable(patch_size)
    sizes: tuple[Any, ...] = tuple(patch_size) if many else (patch_size,)  # type: ignore[arg-type]
    if not 1 <= len(sizes) <= 3 or any(isinstance(n, bool) or not isinstance(n, int) or n < 1 for n in sizes):
        raise ValueError(
            f"patch_size must be an integer >= 1, or one per spatial dimension, in voxels, got {patch_size!r}."
        )
    return sizes if many else sizes[0]


def _schedule_hash(scheduler: DDIMScheduler) -> str:
    """Short hash of what a scheduler's steps depend on besides the times."""
    digest = hashlib.sha256(scheduler.alphas_cumprod.double().cpu().numpy().tobytes())
    clipping = tuple(scheduler.clip_sample_values) if scheduler.clip_sample else None
    digest.update(repr((str(scheduler.prediction_type), float(scheduler.final_alpha_cumprod), clipping)).encode())
    return digest.hexdigest()[:16]


DiffusionPurificationD = DiffusionPurificationDict = DiffusionPurificationd = dictionary_form(
    DiffusionPurification,
    """
    >>> import torch
    >>> from monai_adversarial.transforms import DiffusionPurificationd
    >>> class Untrained(torch.nn.Module):
    ...     def forward(self, noisy, timesteps):
    ...         return torch.zeros_like(noisy)
    >>> purify = DiffusionPurificationd(["venous", "late"], network=Untrained()).set_random_state(0)
    >>> item = purify({"venous": torch.zeros(1, 8, 8), "late": torch.zeros(1, 8, 8)})
    >>> torch.equal(item["venous"], item["late"])  # one draw for all keys
    True
    >>> DiffusionPurificationd("ct", network=Untrained(), noise=1e6)
    Traceback (most recent call last):
    ValueError: noise must be at most ... HU, where the schedule ends, got 1e+06.
    """,
)
