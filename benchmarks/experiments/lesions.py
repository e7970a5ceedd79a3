# SPDX-License-Identifier: Apache-2.0
"""Lesions that generators insert and remove, against classifiers of lesions (Zhou 2021), on phantoms."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from torch import nn

from benchmarks.claims import outcome, over_seeds
from benchmarks.experiments.subjects import trained_on
from monai_adversarial.generators import LesionInsertion, LesionRemoval, lesion_cubes
from monai_adversarial.metrics import detection_scores

__all__ = ["draw_lesions", "painted_lesions"]

#: voxels of a cube along each axis, and of its rim that is never painted
SIZE, MARGIN = 16, 3
WINDOW = (0.0, 120.0)
#: share of right answers that the study's generators flip
SHARE = 0.691


def scaled(cubes: torch.Tensor) -> torch.Tensor:
    """HU as what the generators and the classifiers see."""
    return ((cubes - WINDOW[0]) / (WINDOW[1] - WINDOW[0]) * 2 - 1).clamp(-1, 1)


def _cubes(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Healthy cubes and cubes with a lesion, of other textures, in HU."""
    return lesion_cubes(count, False, SIZE, seed), lesion_cubes(count, True, SIZE, seed + 500_000)


def detector(seed: int, count: int, epochs: int) -> nn.Module:
    """A classifier that says whether a cube has a lesion, trained on cubes of its own."""
    healthy, sick = _cubes(count, 1_000 * seed + 1)
    labels = torch.arange(2).repeat_interleave(count)
    torch.manual_seed(seed)
    network = nn.Sequential(
        nn.Conv3d(1, 8, 3, 2, 1), nn.ReLU(), nn.Conv3d(8, 16, 3, 2, 1), nn.ReLU(), nn.Flatten(),
        nn.Linear(16 * (SIZE // 4) ** 3, 2),
    )  # fmt: skip
    return trained_on(scaled(torch.cat([healthy, sick])), labels, seed, epochs, network)


def painters(
    network: nn.Module | None, seed: int, count: int, epochs: int
) -> dict[str, LesionInsertion | LesionRemoval]:
    """A generator that inserts lesions and one that removes them.

    Args:
        network: classifier that they are trained to deceive; None for likeness and realism alone.
        seed: of weights, order and cubes.
        count: of cubes for each.
        epochs: of the training.
    """
    healthy, sick = _cubes(count, 1_000 * seed + 700)
    made: dict[str, LesionInsertion | LesionRemoval] = {}
    for name, kind, cubes, says in (("inserted", LesionInsertion, sick, 1), ("removed", LesionRemoval, healthy, 0)):
        painter = kind(SIZE, MARGIN, WINDOW, (8, 16, 32), likeness=10.0, rate=2e-3, dropout=0.2, seed=seed)
        painter.fit(cubes, epochs, batch=8, task=None if network is None else _wanted(network, says))
        made[name] = painter
    return made


def _wanted(network: nn.Module, answer: int) -> Callable[[torch.Tensor], torch.Tensor]:
    def loss(cube: torch.Tensor) -> torch.Tensor:
        return nn.functional.cross_entropy(network(cube), torch.full((len(cube),), answer), reduction="none")

    return loss


def _probability(network: nn.Module, cubes: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return network(scaled(cubes)).softmax(dim=1)[:, 1]


def painted_lesions(
    seeds: Sequence[int] = (0, 1, 2), train: int = 60, epochs: int = 20, attacked: int = 40, detector_epochs: int = 8
) -> dict[str, Any]:
    """Right answers about lesions that painted cubes flip, of the classifier they were made against and of another.

    Source: Zhou et al. 2021, mammograms of 1,284 women, which are not public: 69.1 % of the right answers flipped, and
    an AUC of 0.94 for the flipped labels. The generators are those of CT-GAN (Mirsky 2019), trained here on phantoms.

    Survey entry: R08 (adapted).
    """
    rows: list[dict[str, Any]] = []
    for seed in seeds:
        known, other = (detector(2 * seed + place, 2 * train, detector_epochs) for place in (0, 1))
        # As its weights are frozen, the generators learn against it.
        for parameter in known.parameters():
            parameter.requires_grad_(False)
        scans = dict(zip(("inserted", "removed"), _cubes(attacked, 90_000 + 1_000 * seed), strict=True))
        for against in ("the classifier", "likeness alone"):
            made = painters(known if against == "the classifier" else None, seed, train, epochs)
            row: dict[str, Any] = {"seed": seed, "made against": against}
            said, truth = [], []
            for name, cubes in scans.items():
                painted = made[name](cubes, (SIZE // 2,) * 3).image
                before = name == "removed"
                for who, network in (("attacked", known), ("another", other)):
                    right = (_probability(network, cubes) > 0.5) == before
                    if not right.any():
                        raise ValueError(f"the classifier must answer some of {len(right)} cubes right, got none.")
                    flipped = ((_probability(network, painted) > 0.5) != before) & right
                    row[f"{name}, {who}"] = round(float(flipped.sum() / right.sum()), 4)
                    row[f"right before, {who}, {name}"] = round(float(right.float().mean()), 4)
                said.append(_probability(known, painted))
                truth += [not before] * len(cubes)
            scores = torch.cat(said)
            painted_in = torch.tensor(truth)
            found = detection_scores(scores[~painted_in], scores[painted_in])
            row["AUC with flipped labels"] = round(found["auroc"], 4)
            rows.append(row)
            print(row, flush=True)
    return _judged(rows, seeds, attacked)


def _judged(rows: Sequence[dict[str, Any]], seeds: Sequence[int], attacked: int) -> dict[str, Any]:
    aimed = [row for row in rows if row["made against"] == "the classifier"]
    alone = [row for row in rows if row["made against"] != "the classifier"]

    def shown(given: Sequence[dict[str, Any]]) -> str:
        return ", ".join(
            f"{name} {over_seeds(row[f'{name}, attacked'] for row in given)} (another classifier "
            f"{over_seeds(row[f'{name}, another'] for row in given)})"
            for name in ("inserted", "removed")
        )

    return outcome(
        f"lesions that generators insert and remove flip {SHARE:.1%} of right answers, and the flipped labels have an "
        "AUC of 0.94",
        "Zhou 2021 in the survey, there mammograms and a commercial classifier",
        [row[f"{name}, attacked"] >= SHARE for row in aimed for name in ("inserted", "removed")]
        + [row["AUC with flipped labels"] >= 0.94 for row in aimed],
        f"right before: {over_seeds(mean(_right(row)) for row in aimed)}; flipped: {shown(aimed)}; AUC of the flipped "
        f"labels {over_seeds(row['AUC with flipped labels'] for row in aimed)}; by generators that knew no classifier: "
        f"{shown(alone)}",
        f"phantom lesions in cubes of {SIZE} voxels, no patients; {attacked} attacked of each kind, {len(seeds)} "
        "seeds; no reader was asked",
        list(rows),
    )


def _right(row: dict[str, Any]) -> list[float]:
    return [value for name, value in row.items() if name.startswith("right before")]


def draw_lesions(file: Path, train: int = 60, epochs: int = 20, count: int = 3) -> None:
    """Middle slices before and after.

    Args:
        file: PNG.
        train, epochs: of the generators.
        count: of cubes of each kind.
    """
    from matplotlib.figure import Figure

    known = detector(0, 2 * train, 8)
    for parameter in known.parameters():
        parameter.requires_grad_(False)
    made = painters(known, 0, train, epochs)
    scans = dict(zip(("inserted", "removed"), _cubes(count, 90_000), strict=True))
    figure = Figure(figsize=(1.6 * 2 * count, 4.4), layout="constrained")
    panels = figure.subplots(2, 2 * count)
    column = 0
    for name, cubes in scans.items():
        painted = made[name](cubes, (SIZE // 2,) * 3).image
        for row in range(count):
            for line, one in enumerate((cubes[row : row + 1], painted[row : row + 1])):
                axes = panels[line, column]
                axes.imshow(one[0, 0, SIZE // 2], cmap="gray", vmin=0, vmax=100)
                says = float(_probability(known, one))
                axes.set(title=f"lesion {name}" if line else "before", xlabel=f"p = {says:.2f}", xticks=[], yticks=[])
            column += 1
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=110)
