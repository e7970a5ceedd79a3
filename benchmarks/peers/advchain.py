# SPDX-License-Identifier: Apache-2.0
"""AdvChain: adversarial bias fields and deformations of 3D volumes, against the label. It has no L-infinity noise."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch.nn import functional

if not hasattr(np, "Inf"):
    vars(np)["Inf"] = np.inf  # AdvChain is older than NumPy 2, which removed this name

from advchain.augmentor import AdvBias, AdvMorph, ComposeAdversarialTransformSolver

from benchmarks.peers.problem import PeerAttack, Problem

__all__ = ["ATTACKS", "bias_field", "morph"]

NUMPY = "" if np.lib.NumpyVersion(np.__version__) < "2.0.0" else "; the name numpy.Inf is given back to it"


def _run(problem: Problem, passes: int, transform: Any) -> torch.Tensor:
    solver = ComposeAdversarialTransformSolver(
        [transform], divergence_types=["kl"], divergence_weights=[1.0], use_gpu=problem.image.is_cuda, is_gt=True
    )
    with torch.no_grad():
        classes = problem.network(problem.image).shape[1]
    target = functional.one_hot(problem.label[:, 0], classes).movedim(-1, 1).float()
    return solver.get_adv_data(problem.image, problem.network, init_output=target, n_iter=passes)[0].detach()


def _common(problem: Problem) -> dict[str, Any]:
    return {"spatial_dims": 3, "use_gpu": problem.image.is_cuda, "device": problem.image.device}


def bias_field(problem: Problem, passes: int, gain: float, voxels: Sequence[int]) -> torch.Tensor:
    """The image under its adversarial bias field.

    Args:
        problem: network, image and label; its radius is not used.
        passes: forward + backward passes.
        gain: largest relative change of a value, 0.3 for 30 %.
        voxels: between two control points, along each axis.
    """
    config = {
        "epsilon": gain,
        "control_point_spacing": list(voxels),
        "downscale": 2,
        "data_size": list(problem.image.shape),
        "interpolation_order": 3,
        "init_mode": "random",
        "space": "log",
    }
    return _run(problem, passes, AdvBias(config_dict=config, **_common(problem)))


def _morphing(problem: Problem, controls: Sequence[int]) -> Any:
    config = {
        "epsilon": 1.5,
        "data_size": list(problem.image.shape),
        "vector_size": list(controls),
        "forward_interp": "bilinear",
        "backward_interp": "bilinear",
    }
    return AdvMorph(config_dict=config, image_padding_mode="border", **_common(problem))


def morph(
    problem: Problem, passes: int, controls: Sequence[int], spacing: Sequence[float], largest: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Image and label under its adversarial deformation, which has no budget in mm: its ``epsilon`` is made such that
    the random deformation that it begins with moves no voxel farther than ``largest``, and so is what it returns.

    Args:
        problem: network, image and label; its radius is not used.
        passes: forward + backward passes.
        controls: vectors of the velocity along each axis.
        spacing: mm of a voxel along each axis.
        largest: Euclidean length in mm that the longest displacement has.

    Returns:
        image and class map, moved.
    """
    transform = _morphing(problem, controls)
    # sample points of PyTorch's grids, last axis first
    scale = torch.tensor([(n - 1) / 2 * mm for n, mm in zip(problem.image.shape[2:], spacing, strict=True)]).flip(0)

    def farthest(epsilon: float) -> float:
        transform.epsilon = epsilon
        with torch.no_grad():
            moved = transform.get_deformation_displacement_field(duv=epsilon * transform.param)[1]
        return float((moved * scale.to(moved)).norm(dim=-1).max())

    def fit() -> None:
        # nearly proportional, so that few corrections end close below what is allowed
        for part in (1.0, 1.0, 0.999, 0.998):
            transform.epsilon *= part * largest / farthest(transform.epsilon)
        while farthest(transform.epsilon) > largest:
            transform.epsilon *= 0.98

    begin = transform.init_parameters

    def init_parameters() -> torch.Tensor:
        found = begin()
        fit()
        return found

    transform.init_parameters = init_parameters
    _run(problem, passes, transform)
    fit()
    with torch.no_grad():
        image = transform.forward(problem.image)
        label = transform.forward(problem.label.float(), interp="nearest")
    return image, label.round().long()


def _bias(problem: Problem, passes: int) -> torch.Tensor:
    return bias_field(problem, passes, 0.3, [problem.image.shape[-1] // 2] * 3)


def _morph(problem: Problem, passes: int) -> torch.Tensor:
    return _run(problem, passes, _morphing(problem, [side // 16 for side in problem.image.shape[2:]]))


def _attack(name: str, run: Callable[[Problem, int], torch.Tensor], kind: str) -> PeerAttack:
    return PeerAttack(name, run, f"takes the label one-hot, divergence kl{NUMPY}", kind, differentiates_weights=True)


ATTACKS = (_attack("advchain bias field", _bias, "smooth"), _attack("advchain morph", _morph, "morph"))
