# SPDX-License-Identifier: Apache-2.0
"""Smallest changes beside other libraries at equal iterations: ``python -m benchmarks.peer_minimal``.

Dense attacks work on a crop of the CT phantom bundle's network and a rule of the literature on segmentation, a share of
wrong voxels. Attacks of classifiers work on one linear decision, whose exact distance is known. Ours and theirs run in
turn on the same case; what counts is the norm of what they return, measured here.
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
    ALMAProx,
    CarliniWagner,
    DeepFool,
    DenseAdversaryGeneration,
    EasiestMargin,
    SigmaZero,
)
from monai_adversarial.attacks.perturbations.norms import norm_of  # noqa: E402
from monai_adversarial.models import AttackedModel  # noqa: E402

WINDOW = {"a_min": 0.0, "a_max": 1.0}
FILE = Path(__file__).resolve().parent.parent / "docs" / "benchmarks" / "peer_minimal.json"
Run = Callable[[torch.nn.Module, torch.Tensor, torch.Tensor, int], torch.Tensor]


class Decision(torch.nn.Module):
    """Two logits of a linear score: for libraries of classifiers a class of the image, for ours a volume of one voxel
    decision, repeated.

    Args:
        weight: (1, spatial...).
        bias: one number.
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


def dense_rows(count: int, steps: int) -> list[dict[str, Any]]:
    """The same for attacks on segmentations, on a crop of the phantom bundle's network: the share of wrong voxels."""
    from adv_lib.attacks.segmentation import alma_prox, dag

    from benchmarks.strength import bundle_network, phantom_cases

    network, share = bundle_network("cpu").requires_grad_(False), 0.5
    # Its penalty is written for planes: the depth joins the height.
    found_by: dict[str, Run] = {
        "adv_lib ALMA-prox": lambda n, x, y, s: alma_prox(n, x, y, adv_threshold=share, num_steps=s),
        "adv_lib DAG": lambda n, x, y, s: dag(n, x, y, adv_threshold=share, max_iter=s, γ=0.5 / 255),  # noqa: RUF001
    }
    ours: dict[str, Callable[..., Any]] = {
        "adv_lib ALMA-prox": lambda **o: ALMAProx(share=share, **o),
        "adv_lib DAG": lambda **o: DenseAdversaryGeneration("linf", **o),
    }
    rows = []
    for name, run in found_by.items():
        theirs, mine = [], []
        for image, label in phantom_cases(count, "cpu", seed=5000):
            box = (slice(None), slice(None), slice(32, 80), slice(32, 80), slice(16, 48))
            image, label = image[box].contiguous(), label[box].contiguous()
            planes = Planes(network, tuple(image.shape[2:]))
            flat, flat_label = planes.flat(image), planes.flat(label)[:, 0]
            wrong = lambda found, y=flat_label, n=planes: float(  # noqa: E731
                (n(found).argmax(dim=1) != y).float().mean()
            )
            found = run(planes, flat, flat_label, steps).detach()
            theirs.append(float((found - flat).abs().max()) if wrong(found) >= share else float("inf"))
            attack = ours[name](steps=steps, wrong_fraction=share, boundary_queries=1)
            result = attack(AttackedModel(network, intensity=WINDOW), image, label)
            mine.append(float(result.boundary_distance))
        rows.append(
            {"attack": name, "norm": "linf", "steps": steps, "ours": median(mine), "theirs": median(theirs), "n": count}
        )
    return rows


class Planes(torch.nn.Module):
    """A network of volumes whose images come as planes of (depth * height, width).

    Args:
        network: what is called.
        shape: of a volume.
    """

    def __init__(self, network: torch.nn.Module, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.network, self.shape = network, shape
        self.eval()

    @staticmethod
    def flat(volume: torch.Tensor) -> torch.Tensor:
        """(batch, channel, depth * height, width)."""
        return volume.flatten(2, 3)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Logits as planes."""
        return self.flat(self.network(image.unflatten(2, self.shape[:2])))


def main() -> None:
    """Measure, print and write the file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--linear-cases", type=int, default=5)
    parser.add_argument("--linear-steps", type=int, default=90)
    parser.add_argument("--dense-cases", type=int, default=1)
    parser.add_argument("--dense-steps", type=int, default=40)
    parser.add_argument("--output", type=Path, default=FILE)
    arguments = parser.parse_args()
    rows = linear_rows(arguments.linear_cases, arguments.linear_steps)
    if arguments.dense_cases:
        rows += dense_rows(arguments.dense_cases, arguments.dense_steps)
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
