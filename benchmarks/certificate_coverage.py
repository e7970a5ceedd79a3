# SPDX-License-Identifier: Apache-2.0
"""How often a certificate is wrong where the truth is known: a network whose votes have given probabilities.

    python -m benchmarks.certificate_coverage                      # measure and put the table into docs/certificates.md
    python -m benchmarks.certificate_coverage --repetitions 200    # fewer repetitions

A repetition is a sample with noise of its own. It is wrong if any voxel is certified as a class, or a group of classes,
whose probability under noise is not above tau. Most voxels lie exactly at tau, where a test errs most often.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from scipy.stats import binomtest, norm

from benchmarks.csv_rows import read_rows, write_rows
from benchmarks.doc_tables import DOCS, renew_table
from monai_adversarial.inferers import CertifiedSegmentationInferer
from monai_adversarial.metrics import ClassHierarchy

__all__ = ["METHODS", "TAU", "CoverageRow", "KnownVotes", "example_probabilities", "markdown_table", "measure"]

TAU = 0.6
ALPHA = 0.1
COPIES = 60
NAMES = ("background", "left kidney", "right kidney", "liver")
HIERARCHY = ClassHierarchy(NAMES, [{"kidney": ["left kidney", "right kidney"]}, {"organ": ["kidney", "liver"]}])
#: arguments of each variant
METHODS: Mapping[str, Mapping[str, Any]] = {
    "Bonferroni": {"correction": "bonferroni"},
    "Holm": {},
    "Holm, organs only": {"focus": "organs"},
    "Holm, 90 % of alpha for organs": {"focus": "organs", "focus_share": 0.9},
    "Holm, three looks": {"looks": (40, 50, 60)},
    "Holm, hierarchy": {"hierarchy": HIERARCHY},
    "all of them": {"focus": "organs", "focus_share": 0.9, "looks": (40, 50, 60), "hierarchy": HIERARCHY},
}
NAME = "certificate_coverage.csv"


class KnownVotes(torch.nn.Module):
    """A network of a row of voxels whose answer under standard normal noise has given probabilities.

    Args:
        probabilities: (voxel, class), rows that sum to 1.
    """

    def __init__(self, probabilities: torch.Tensor) -> None:
        super().__init__()
        self.probabilities = probabilities.double()
        edges = norm.ppf(self.probabilities.cumsum(dim=1)[:, :-1].clamp(0, 1).numpy())
        self.register_buffer("edges", torch.from_numpy(edges))
        self.eval()

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """One-hot answers (batch, class, voxel) of noise (batch, 1, voxel)."""
        classes = (image[:, 0, :, None].double() > self.edges).sum(dim=-1)
        return torch.nn.functional.one_hot(classes, self.probabilities.shape[1]).movedim(-1, 1).float()


def example_probabilities() -> torch.Tensor:
    """(voxel, class) of 24 voxels: certain ones, and ones whose class, kidney or organ is exactly at tau."""
    certain = [[0.99, 0.01, 0.0, 0.0]] * 4 + [[0.0, 0.99, 0.01, 0.0]] * 4
    class_at_tau = [[1 - TAU, 0.0, 0.0, TAU]] * 4 + [[0.01, TAU, 0.99 - TAU, 0.0]] * 6
    group_at_tau = [[1 - TAU, TAU - 0.1, 0.1, 0.0]] * 3 + [[1 - TAU, 0.2, 0.2, TAU - 0.4]] * 3
    return torch.tensor(certain + class_at_tau + group_at_tau, dtype=torch.float64)


@dataclass(frozen=True)
class CoverageRow:
    """A variant and how it did.

    Args:
        method: key of ``METHODS``.
        repetitions: samples.
        wrong: samples with any wrong certificate.
        certified: mean share of the voxels that are certified at some level.
        copies: mean number of noisy copies of a sample.
    """

    method: str
    repetitions: int
    wrong: int
    certified: float
    copies: float

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval of the probability of any wrong certificate (Clopper and Pearson)."""
        found = binomtest(self.wrong, self.repetitions).proportion_ci()
        return float(found.low), float(found.high)


def measure(
    method: str, repetitions: int, probabilities: torch.Tensor | None = None, alpha: float = ALPHA, seed: int = 0
) -> CoverageRow:
    """Certify samples of noise alone and count those with a wrong certificate.

    Args:
        method: key of ``METHODS``.
        repetitions: samples.
        probabilities: of :class:`KnownVotes`; None for :func:`example_probabilities`.
        alpha: level.
        seed: of the noise.
    """
    chances = example_probabilities() if probabilities is None else probabilities
    inferer = CertifiedSegmentationInferer(
        sigma=1.0, n0=9, n=COPIES, tau=TAU, alpha=alpha, copies_at_once=20, seed=seed, **METHODS[method]
    )
    shape = (repetitions, 1, len(chances))
    names = torch.rand(shape, generator=torch.Generator().manual_seed(seed))  # noise of its own for each
    found = inferer.for_image(names).certify(torch.zeros(shape), KnownVotes(chances))
    wrong = torch.zeros(shape, dtype=torch.bool)
    somewhere = ~found.abstained
    voxels = torch.arange(len(chances))
    for level in range(len(HIERARCHY) if found.hierarchy else 1):
        groups = HIERARCHY.groups(level)
        truth = torch.zeros(len(chances), int(groups.max()) + 1, dtype=torch.float64).index_add_(1, groups, chances)
        certified = found.at_level(level) if found.hierarchy else found.prediction
        named = certified >= 0
        wrong |= named & (truth[voxels, certified.clamp(min=0).long()] <= TAU + 1e-9)
        somewhere |= named
    return CoverageRow(
        method,
        repetitions,
        int(wrong.flatten(1).any(dim=1).sum()),
        float(somewhere.double().mean()),
        sum(found.cost.copies) / repetitions,
    )


def markdown_table(rows: list[CoverageRow]) -> str:
    """The rows as a table."""
    lines = [
        f"| variant | samples | wrong (at most {ALPHA:.0%}) | 95 % interval | certified voxels | copies |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        low, high = row.interval
        lines.append(
            f"| {row.method} | {row.repetitions} | {row.wrong / row.repetitions:.1%} | {low:.1%} to {high:.1%} | "
            f"{row.certified:.1%} | {row.copies:.1f} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Measure, write the rows and the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.certificate_coverage", description=__doc__)
    parser.add_argument("--repetitions", type=int, default=4000)
    repetitions = parser.parse_args().repetitions
    write_rows(DOCS / NAME, [measure(method, repetitions) for method in METHODS], CoverageRow)
    renew_table(DOCS / "certificates.md", NAME, markdown_table(read_rows(DOCS / NAME, CoverageRow)))


if __name__ == "__main__":
    main()
