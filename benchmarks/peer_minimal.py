# SPDX-License-Identifier: Apache-2.0
"""Smallest changes beside other libraries at equal iterations: ``python -m benchmarks.peer_minimal``.

Attacks of classifiers work on one linear decision of a volume, ours on the same decision at each voxel; attacks of
segmentations on crops of phantoms and the CT bundle's network. Ours and theirs run in turn on the same case; what
counts is the norm of what they return, measured here.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks.torchvision_stub import stub_torchvision

stub_torchvision()  # before adv_lib looks for it

from benchmarks.doc_tables import RecordedTable  # noqa: E402
from benchmarks.peers.behind_window import BehindWindow  # noqa: E402
from benchmarks.query_cases import phantom_crops  # noqa: E402
from benchmarks.strength import bundle_network  # noqa: E402
from monai_adversarial.attacks import (  # noqa: E402
    DDN,
    FMN,
    ALMAProx,
    CarliniWagner,
    DeepFool,
    DenseAdversaryGeneration,
    EasiestMargin,
    SigmaZero,
)
from monai_adversarial.attacks.objectives.augmented_lagrangian import penalty  # noqa: E402
from monai_adversarial.attacks.perturbations.norms import norm_of  # noqa: E402
from monai_adversarial.models import AttackedModel  # noqa: E402

WINDOW = {"a_min": 0.0, "a_max": 1.0}
#: of the dense attacks: phantoms from this seed, voxels of a crop, share of voxels to change, largest change in a step
SEED, CROP, WRONG, DAG_STEP = 3000, (32, 32, 16), 0.25, 4 / 255
PAGE, TABLE, FILE = "minimal_norm.md", "peer_minimal", "benchmarks/peer_minimal.json"


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
        # With few steps each its check for progress comes at every step and ends nearly all searches at once.
        "foolbox C&W, abort_early=False": (
            "l2",
            through_foolbox(
                lambda s: foolbox.attacks.L2CarliniWagnerAttack(
                    binary_search_steps=9, steps=max(1, s // 9), abort_early=False
                )
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
    """Median norm of adv_lib's attacks of segmentations and ours, in turn: a quarter of the voxels shall change their
    class. Voxels that the window clips stay, for all."""
    from adv_lib.attacks.segmentation import alma_prox, dag

    network = bundle_network("cpu").requires_grad_(False)
    model = AttackedModel(network, intensity=WINDOW, precision="float32")
    goal = {"wrong_fraction": WRONG, "boundary_queries": 1}
    theirs: dict[str, tuple[Callable[..., torch.Tensor], Any]] = {
        "adv_lib ALMA-prox": (
            lambda n, x, y: alma_prox(n, x, y, num_steps=steps, adv_threshold=WRONG),
            ALMAProx(steps=steps, share=WRONG, **goal),
        ),
        # The derivative that adv_lib gives its penalty is not that of the penalty.
        "adv_lib ALMA-prox, exact derivative": (
            lambda n, x, y: alma_prox(n, x, y, num_steps=steps, adv_threshold=WRONG, penalty=penalty),
            ALMAProx(steps=steps, share=WRONG, **goal),
        ),
        "adv_lib DAG": (
            lambda n, x, y: dag(n, x, y, max_iter=steps, γ=DAG_STEP, adv_threshold=WRONG),
            DenseAdversaryGeneration(steps=steps, step=DAG_STEP, **goal),
        ),
    }
    rows = []
    for name, (run, ours) in theirs.items():
        norms: tuple[list[float], list[float]] = ([], [])
        for image, _ in phantom_crops(count, SEED, CROP):
            behind = BehindWindow(network, image)
            with torch.no_grad():
                clean = network(image).argmax(dim=1, keepdim=True)

            def enough(network: Any, found: torch.Tensor, clean: torch.Tensor = clean) -> bool:
                with torch.no_grad():
                    return float((network(found).argmax(dim=1, keepdim=True) != clean).float().mean()) >= WRONG

            for found, kept in zip(
                (ours(model, image, clean).adversarial, behind.seen(run(behind, image, clean[:, 0]))),
                norms,
                strict=True,
            ):
                kept.append(_norm(found, image, "linf", network, enough))
        mine, other = (median(one) for one in norms)
        rows.append({"attack": name, "norm": "linf", "steps": steps, "ours": mine, "theirs": other, "n": count})
    return rows


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Markdown: one row for each attack; a norm that was not reached in half of the cases says so."""
    lines = ["| attack | norm | iterations | cases | ours | theirs |", "|---|---|---:|---:|---:|---:|"]
    for row in rows:
        cells = ["no success" if row[who] is None else f"{row[who]:.4g}" for who in ("ours", "theirs")]
        lines.append(f"| {row['attack']} | {row['norm']} | {row['steps']} | {row['n']} | {' | '.join(cells)} |")
    return "\n".join(lines)


RECORDED = RecordedTable(PAGE, TABLE, FILE, table)
with_table = RECORDED.with_table


def main() -> None:
    """Measure, print and write the file, and renew the page where its own file was written."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--linear-cases", type=int, default=5)
    parser.add_argument("--linear-steps", type=int, default=90)
    parser.add_argument("--dense-cases", type=int, default=3)
    parser.add_argument("--dense-steps", type=int, default=100)
    parser.add_argument("--output", type=Path, default=RECORDED.path)
    arguments = parser.parse_args()
    rows = linear_rows(arguments.linear_cases, arguments.linear_steps)
    rows += dense_rows(arguments.dense_cases, arguments.dense_steps)
    versions = {name: metadata.version(name) for name in ("adv-lib", "foolbox", "torch")}
    for row in rows:
        print(
            " ".join(
                f"{key}={value:.4g}" if isinstance(value, float) else f"{key}={value}" for key, value in row.items()
            )
        )
    rows = [{key: None if value == math.inf else value for key, value in row.items()} for row in rows]
    RECORDED.write(arguments.output, rows, versions=versions)


if __name__ == "__main__":
    main()
