# SPDX-License-Identifier: Apache-2.0
"""AdvChain: adversarial bias fields and deformations of 3D volumes, against the label. It has no L-infinity noise."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.nn import functional

if not hasattr(np, "Inf"):
    vars(np)["Inf"] = np.inf  # AdvChain is older than NumPy 2, which removed this name

from advchain.augmentor import AdvBias, AdvMorph, ComposeAdversarialTransformSolver

from benchmarks.peers.problem import PeerAttack, Problem

__all__ = ["ATTACKS"]

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


def _bias(problem: Problem, passes: int) -> torch.Tensor:
    side = problem.image.shape[-1]
    config = {
        "epsilon": 0.3,
        "control_point_spacing": [side // 2] * 3,
        "downscale": 2,
        "data_size": list(problem.image.shape),
        "interpolation_order": 3,
        "init_mode": "random",
        "space": "log",
    }
    return _run(problem, passes, AdvBias(config_dict=config, **_common(problem)))


def _morph(problem: Problem, passes: int) -> torch.Tensor:
    config = {
        "epsilon": 1.5,
        "data_size": list(problem.image.shape),
        "vector_size": [side // 16 for side in problem.image.shape[2:]],
        "forward_interp": "bilinear",
        "backward_interp": "bilinear",
    }
    return _run(problem, passes, AdvMorph(config_dict=config, **_common(problem)))


def _attack(name: str, run: Callable[[Problem, int], torch.Tensor], kind: str) -> PeerAttack:
    return PeerAttack(name, run, f"takes the label one-hot, divergence kl{NUMPY}", kind, differentiates_weights=True)


ATTACKS = (_attack("advchain bias field", _bias, "smooth"), _attack("advchain morph", _morph, "morph"))
