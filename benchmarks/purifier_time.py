# SPDX-License-Identifier: Apache-2.0
"""Each purifier against the fastest CPU library that computes the same."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from scipy import fft, ndimage

from benchmarks.settings import Settings
from benchmarks.tables import Column, Table, judged
from benchmarks.timing import Job, run_rounds, timed
from monai_adversarial import transforms
from monai_adversarial.transforms import ImageContext

__all__ = ["purifier_jobs", "tables"]

SPACING = 2.0


def _volume(size: int) -> torch.Tensor:
    """Two tissues 60 HU apart with noise of 10 HU, (1, 1, size, size, size)."""
    generator = torch.Generator().manual_seed(0)
    image = 40.0 + 10.0 * torch.randn((1, 1, size, size, size), generator=generator)
    image[..., : size // 2] += 60.0
    return image.round()


def _itk(array: np.ndarray) -> Any:
    import itk

    return itk.image_view_from_array(array)


def _peers(array: np.ndarray) -> dict[str, tuple[str, str, Callable[[], Any]]]:
    """Purifier -> (library, what it runs, the run), on the same voxels with the same settings."""
    from skimage import restoration

    made = {name: cls() for name, cls in transforms.PURIFIERS.items() if name in PARAMETERS}

    def median() -> Any:
        footprint = ndimage.generate_binary_structure(3, 1)
        return ndimage.median_filter(array, footprint=footprint, mode="nearest")

    def bilateral() -> Any:
        import itk

        p = made["BilateralDenoise"]
        image = _itk(array)
        kind = itk.BilateralImageFilter[type(image), type(image)]
        sigma = p.sigma_space[0] / SPACING
        run = kind.New(image, DomainSigma=sigma, RangeSigma=p.sigma_intensity)
        run.SetRadius(max(1, round(p.truncate * sigma)))
        run.AutomaticKernelSizeOff()
        run.Update()
        return run.GetOutput()

    def diffusion() -> Any:
        import itk

        p = made["AnisotropicDiffusionDenoise"]
        image = _itk(array)
        run = itk.GradientAnisotropicDiffusionImageFilter[type(image), type(image)].New(image)
        run.SetNumberOfIterations(p.iterations)
        run.SetTimeStep(p.time_step)
        run.SetConductanceParameter(1.0)
        run.SetFixedAverageGradientMagnitude(p.conductance)
        run.Update()
        return run.GetOutput()

    def non_local_means() -> Any:
        p = made["NonLocalMeansDenoise"]
        return restoration.denoise_nl_means(
            array,
            patch_size=2 * p.patch_radius + 1,
            patch_distance=p.search_radius,
            h=p.strength * p.noise,
            sigma=p.noise,
            fast_mode=False,
        )

    def total_variation() -> Any:
        p = made["TotalVariationDenoise"]
        return restoration.denoise_tv_chambolle(array, weight=p.weight, eps=0, max_num_iter=p.iterations + 1)

    def wavelet() -> Any:
        p = made["WaveletDenoise"]
        return restoration.denoise_wavelet(
            array,
            sigma=p.noise,
            wavelet=p.wavelet,
            wavelet_levels=p.levels,
            mode=p.mode,
            method=p.method,
            rescale_sigma=False,
        )

    def gaussian() -> Any:
        return ndimage.gaussian_filter(array, made["GaussianDenoise"].sigma[0] / SPACING, mode="nearest")

    def bit_depth() -> Any:
        step = made["BitDepthReduction"].step
        return np.rint(array / step) * step

    def frequency() -> Any:
        blocks = array.reshape(*(n for size in array.shape for n in (size // 8, 8))).transpose(0, 2, 4, 1, 3, 5)
        low = fft.dctn(blocks, axes=(3, 4, 5), norm="ortho", workers=torch.get_num_threads())
        return fft.idctn(np.rint(low / 20.0) * 20.0, axes=(3, 4, 5), norm="ortho", workers=torch.get_num_threads())

    def jpeg() -> Any:
        from PIL import Image

        p = made["JPEGCompression"]
        low, high = p.window
        grey = np.clip((array - low) * (255.0 / (high - low)), 0, 255).round().astype(np.uint8)
        out = []
        for index in range(grey.shape[-1]):
            stream = io.BytesIO()
            Image.fromarray(grey[..., index]).save(stream, "JPEG", quality=p.quality)
            out.append(np.asarray(Image.open(stream)))
        return np.stack(out, axis=-1)

    def resize_shift() -> Any:
        return ndimage.affine_transform(array, np.full(3, 1.03), offset=1.7, order=1, mode="nearest")

    return {
        "BitDepthReduction": ("NumPy", "rint", bit_depth),
        "MedianDenoise": ("SciPy", "median_filter", median),
        "GaussianDenoise": ("SciPy", "gaussian_filter", gaussian),
        "BilateralDenoise": ("ITK", "BilateralImageFilter", bilateral),
        "NonLocalMeansDenoise": ("scikit-image", "denoise_nl_means", non_local_means),
        "TotalVariationDenoise": ("scikit-image", "denoise_tv_chambolle", total_variation),
        "AnisotropicDiffusionDenoise": ("ITK", "GradientAnisotropicDiffusion", diffusion),
        "WaveletDenoise": ("scikit-image", "denoise_wavelet", wavelet),
        "FrequencyRefinement": ("SciPy", "dctn and idctn of blocks", frequency),
        "JPEGCompression": ("Pillow", "JPEG, slice by slice", jpeg),
        "RandResizeShift": ("SciPy", "affine_transform", resize_shift),
    }


PARAMETERS = (
    "BitDepthReduction",
    "MedianDenoise",
    "GaussianDenoise",
    "BilateralDenoise",
    "NonLocalMeansDenoise",
    "TotalVariationDenoise",
    "AnisotropicDiffusionDenoise",
    "WaveletDenoise",
    "FrequencyRefinement",
    "JPEGCompression",
    "RandResizeShift",
)
# These run the library itself on a CPU where no gradient is needed.
LIBRARY_ON_CPU = ("GaussianDenoise", "WaveletDenoise")
# Without a library that computes the same (or with the library inside): their time alone.
ALONE = ("JPEG2000Compression", "PatchDictionaryDenoise", "BiasFieldCorrection", "N4BiasFieldCorrection")


def purifier_jobs(device: str, size: int) -> list[Job]:
    """Two jobs per purifier, the library first: forward on a volume of ``size`` along each axis, float32."""
    volume = _volume(size)
    array = np.ascontiguousarray(volume[0, 0].numpy())
    on_device = volume.to(device)
    context = ImageContext(torch.full((1, 3), SPACING, dtype=torch.float64), (1,))
    peers = _peers(array)
    jobs = []
    for name in (*PARAMETERS, *ALONE):
        purifier = transforms.PURIFIERS[name]()

        def run(purifier: Any = purifier) -> None:
            with torch.no_grad():
                purifier.purify(on_device, context)

        reference = name
        if name in peers:
            library, what, compute = peers[name]
            reference = f"{library} {what}"
            jobs.append(Job(reference, timed(compute), reference=reference))
        own = name in peers and not (device == "cpu" and name in LIBRARY_ON_CPU)
        jobs.append(Job(name, timed(run), 1.0 if own else None, reference))
    return jobs


def tables(settings: Settings, say: Callable[[str], None]) -> list[Table]:
    """One row per purifier, beside the library's time for the same."""
    jobs = purifier_jobs(settings.device, settings.purifier_size)
    run_rounds(jobs, settings.few_rounds, say)
    by_name = {job.name: job for job in jobs}
    table = Table(
        "purifiers",
        f"Purifiers, forward on {settings.purifier_size}^3 voxels, float32, default arguments; medians of "
        f"{settings.few_rounds} interleaved rounds.",
        (
            *(Column("purifier"), Column("fastest CPU library for the same"), Column("library's seconds", 3)),
            *(Column("seconds", 3), Column("ratio", 2), Column("target")),
        ),
    )
    for job in jobs:
        reference = by_name[job.reference]
        if job.name not in transforms.PURIFIERS:  # a library's own row
            continue
        if reference is job:
            table.add(job.name, "none", None, job.wall(), None, "")
            continue
        ratio = job.wall() / reference.wall()
        table.add(job.name, reference.name, reference.wall(), job.wall(), ratio, judged(ratio, job.target))
    return [table]
