# SPDX-License-Identifier: Apache-2.0
"""Smallest changes beside other libraries at equal iterations: ``python -m benchmarks.peer_minimal``.

Attacks of classifiers work on one linear decision of a volume, ours on the same decision at each voxel. Ours and theirs
run in turn on the same case; what counts is the norm of what they return, measured here.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks.torchvision_stub import stub_torchvision

stub_torchvision()  # before adv_lib looks for it

from monai_adversarial.attacks import (  # noqa: E402  # noqa: E402
    DDN,
    FMN,
    CarliniWagner,
    DeepFool,
    EasiestMargin,
    SigmaZero,
)
from monai_adversarial.attacks.perturbations.norms import norm_of  # noqa: E402
from monai_adversarial.models import AttackedModel  # noqa: E402

WINDOW = {"a_min": 0.0, "a_max": 1.0}
FILE = Path(__file__).resolve().parent.parent / "docs" / "benchmarks" / "peer_minimal.json"


class Decision(torch.nn.Module):
    """Two logits of a linear score: for libraries of classifiers a class of the image, for ours a volume of one voxel
    decision, repeated.

    Args:
        weight: (1, spatial...).
        bias: one number.
        dense: answer at each voxel instead of once.
    """

    def __init__(self, weight: torch.Tensor, bias: float, dense: bool) -> None:
        super().__init__()
        self.weight, self.bias, self.dense = weight, bias, dense
        self.eval()

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """(batch, 2) or (batch, 2, spatial...)."""
        score = (image * self.weight).flatten(1).sum(dim=1) + self.bias
        logits = torch.stack([-score, score], dim=1)
        if not self.dense:
            return logits
        return logits.view(-1, 2, *[1] * (image.ndim - 2)).expand(-1, -1, *image.shape[2:])


def decisions(count: int) -> list[tuple[Decision, Decision, torch.Tensor]]:
    """A decision as a classifier, the same as a segmentation, and its image."""
    made = []
    for seed in range(count):
        generator = torch.Generator().manual_seed(seed)
        weight = torch.randn((1, 8, 8, 8), generator=generator)
        image = 0.3 + 0.4 * torch.rand((1, 1, 8, 8, 8), generator=generator)
        bias = 8.0 - float((image * weight).sum())
        made.append((Decision(weight, bias, False), Decision(weight, bias, True), image))
    return made


def _classifier_runs() -> dict[str, tuple[str, Callable[[Any, torch.Tensor, torch.Tensor, int], torch.Tensor]]]:
    """Name -> norm and run of a library's attack on a classifier."""
    import foolbox
    from adv_lib.attacks import carlini_wagner_l2, ddn, fmn, sigma_zero

    def through_foolbox(attack: Any) -> Callable[[Any, torch.Tensor, torch.Tensor, int], torch.Tensor]:
        def run(network: Any, image: torch.Tensor, label: torch.Tensor, steps: int) -> torch.Tensor:
            model = foolbox.PyTorchModel(network, bounds=(0, 1), device="cpu")
            return attack(steps)(model, image, label, epsilons=None)[0]

        return run

    return {
        "adv_lib DDN": ("l2", lambda n, x, y, s: ddn(n, x, y, steps=s, levels=None)),
        "adv_lib FMN l2": ("l2", lambda n, x, y, s: fmn(n, x, y, norm=2, steps=s)),
        "adv_lib FMN linf": ("linf", lambda n, x, y, s: fmn(n, x, y, norm=float("inf"), steps=s)),
        "adv_lib sigma-zero": ("l0", lambda n, x, y, s: sigma_zero(n, x, y, num_steps=s)),
        "adv_lib C&W": (
            "l2",
            lambda n, x, y, s: carlini_wagner_l2(n, x, y, binary_search_steps=9, max_iterations=max(1, s // 9)),
        ),
        "foolbox C&W": (
            "l2",
            through_foolbox(
                lambda s: foolbox.attacks.L2CarliniWagnerAttack(binary_search_steps=9, steps=max(1, s // 9))
            ),
        ),
        "foolbox DeepFool": (
            "l2",
            through_foolbox(lambda s: foolbox.attacks.L2DeepFoolAttack(steps=s, candidates=None)),
        ),
    }


def _ours(norm: str, theirs: str, steps: int) -> Any:
    """Ours of the same method, with the paper's margin, which the others use."""
    margin = {"objective": EasiestMargin(), "boundary_queries": 1}
    if "DDN" in theirs:
        return DDN(steps=steps, **margin)
    if "FMN" in theirs:
        return FMN(norm, steps=steps, **margin)
    if "sigma" in theirs:
        return SigmaZero(1, steps=steps, **margin)
    if "C&W" in theirs:
        return CarliniWagner("l2", steps=steps, **margin)
    return DeepFool("l2", steps=steps, **margin)


def _norm(found: torch.Tensor, image: torch.Tensor, norm: str, network: Any, success: Callable[..., bool]) -> float:
    return float(norm_of(found - image, norm)) if success(network, found) else float("inf")


def linear_rows(count: int, steps: int) -> list[dict[str, Any]]:
    """Median norm of each library's attack and ours on linear decisions, in turn."""
    rows = []
    for name, (norm, run) in _classifier_runs().items():
        theirs, mine = [], []
        for classifier, dense, image in decisions(count):
            flipped = lambda network, found: float(network(found)[0, 0].flatten()[0]) >= 0  # noqa: E731
            found = run(classifier, image, torch.ones(1, dtype=torch.long), steps).detach()
            theirs.append(_norm(found, image, norm, classifier, flipped))
            model = AttackedModel(dense, intensity=WINDOW)
            label = torch.ones_like(image, dtype=torch.long)
            ours = _ours(norm, name, steps)(model, image, label)
            mine.append(_norm(ours.adversarial, image, norm, dense, flipped))
        rows.append(
            {"attack": name, "norm": norm, "steps": steps, "ours": median(mine), "theirs": median(theirs), "n": count}
        )
    return rows


def main() -> None:
    """Measure, print and write the file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--linear-cases", type=int, default=5)
    parser.add_argument("--linear-steps", type=int, default=90)
    parser.add_argument("--output", type=Path, default=FILE)
    arguments = parser.parse_args()
    rows = linear_rows(arguments.linear_cases, arguments.linear_steps)
    versions = {name: metadata.version(name) for name in ("adv-lib", "foolbox", "torch")}
    for row in rows:
        print(
            " ".join(
                f"{key}={value:.4g}" if isinstance(value, float) else f"{key}={value}" for key, value in row.items()
            )
        )
    arguments.output.write_text(json.dumps({"versions": versions, "rows": rows}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
