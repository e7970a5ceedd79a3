# SPDX-License-Identifier: Apache-2.0
"""Attacks that look for the smallest change which succeeds: dense noise."""

from __future__ import annotations

from typing import Any

from monai_adversarial.attacks.minimal_attack import MinimalNormAttack
from monai_adversarial.attacks.objectives import AugmentedLagrangian, EasiestMargin, Margin
from monai_adversarial.attacks.perturbations.minimal import MinimalNoise
from monai_adversarial.attacks.search import (
    ALMAProxSearch,
    CarliniWagnerLinfSearch,
    CarliniWagnerSearch,
    DAGSearch,
    DDNSearch,
    DeepFoolSearch,
    FABSearch,
    FMNSearch,
    LBFGSSearch,
    MinimalSearch,
    PrimalDualSearch,
)
from monai_adversarial.utils.validation import check_choice

# What lowers the Dice most for the least noise: margins, which papers on classifiers take, needed four to ten times as
# much on the one phantom measured (docs/minimal_norm.md).
STRONG = "annealed_dice"

__all__ = [
    "DDN",
    "FAB",
    "FMN",
    "PDPGD",
    "ALMAProx",
    "CarliniWagner",
    "DeepFool",
    "DenseAdversaryGeneration",
    "LBFGSAttack",
]


class CarliniWagner(MinimalNormAttack):
    """Carlini and Wagner's attack in L2 or L-infinity.

    >>> from monai_adversarial.attacks import CarliniWagner
    >>> from monai_adversarial.data.example import example_case
    >>> result = CarliniWagner("l2", units="HU", steps=27)(*example_case(16))
    >>> bool(result.success), result.norm
    (True, 'l2')

    Args:
        norm: ``"l2"`` or ``"linf"``.
        units: of the reported norm; see :class:`~monai_adversarial.attacks.PGD`.
        steps: of all weights together: 9 weights of 1000 iterations in the paper, 9 of 100 here.
        confidence: the paper's hinge of margins and its kappa, 0 there: the margin in logits up to which a wrong voxel
            is pushed on. None for the annealed Dice instead, which needs a fraction of the noise.
        epsilon: largest norm that is allowed, in ``units``; None for no limit.
        options: further arguments of :class:`~monai_adversarial.attacks.MinimalNormAttack`.

    Source: Carlini and Wagner, "Towards evaluating the robustness of neural networks", 2017. The hinge of a
    segmentation is that of the voxels that have to be wrong, added up.
    Survey entry: A05 (adapted).
    """

    fixed_arguments = ("perturbation", "search")

    def __init__(
        self,
        norm: str = "l2",
        units: str = "network",
        steps: int = 900,
        confidence: float | None = None,
        epsilon: float | None = None,
        **options: Any,
    ) -> None:
        check_choice("norm", norm, ("l2", "linf"))
        search: MinimalSearch = CarliniWagnerSearch() if norm == "l2" else CarliniWagnerLinfSearch()
        hinge = STRONG if confidence is None else EasiestMargin(confidence=confidence)
        super().__init__(
            MinimalNoise(norm, epsilon, units), search=search, steps=steps, **{"objective": hinge, **options}
        )


class DeepFool(MinimalNormAttack):
    """DeepFool: the nearest linearized boundary, again and again, in L2, L-infinity or L1.

    >>> from monai_adversarial.attacks import DeepFool
    >>> from monai_adversarial.data.example import example_case
    >>> bool(DeepFool(units="HU", steps=8)(*example_case(16)).success)
    True

    Args:
        norm: ``"l2"``, ``"linf"`` or ``"l1"``.
        units, epsilon, options: see :class:`CarliniWagner`.
        steps: 50 in common implementations.
        overshoot: 0.02 in the paper.

    Source: Moosavi-Dezfooli, Fawzi, Frossard, CVPR 2016. What is linearized is a mean over voxels: ours.
    Survey entry: A06 (adapted).
    """

    fixed_arguments = ("perturbation", "search")

    def __init__(
        self,
        norm: str = "l2",
        units: str = "network",
        steps: int = 50,
        overshoot: float = 0.02,
        epsilon: float | None = None,
        **options: Any,
    ) -> None:
        noise, search = MinimalNoise(norm, epsilon, units), DeepFoolSearch(overshoot)
        super().__init__(noise, search=search, steps=steps, **{"objective": STRONG, **options})


class LBFGSAttack(MinimalNormAttack):
    """The box-constrained L-BFGS attack, the first on neural networks, in L2.

    >>> from monai_adversarial.attacks import LBFGSAttack
    >>> from monai_adversarial.data.example import example_case
    >>> bool(LBFGSAttack(units="HU", steps=27)(*example_case(16)).success)
    True

    Args:
        units, epsilon, options: see :class:`CarliniWagner`.
        steps: of all weights together.

    Source: Szegedy et al., "Intriguing properties of neural networks", 2014, section 4.1; the printed search for the
    weight was not read, and its loss, ``objective="cross_entropy"``, needs twice the noise.
    Survey entry: A29 (reconstruction).
    """

    fixed_arguments = ("perturbation", "search")

    def __init__(self, units: str = "network", steps: int = 200, epsilon: float | None = None, **options: Any) -> None:
        noise, search = MinimalNoise("l2", epsilon, units), LBFGSSearch()
        super().__init__(noise, search=search, steps=steps, **{"objective": STRONG, **options})


class DDN(MinimalNormAttack):
    """Decoupled direction and norm, in L2.

    >>> from monai_adversarial.attacks import DDN
    >>> from monai_adversarial.data.example import example_case
    >>> bool(DDN(units="HU", steps=15)(*example_case(16)).success)
    True

    Args:
        units, epsilon, options: see :class:`CarliniWagner`.
        steps: 100, 300 or 1000 in the paper.
        gamma: relative change of the norm in a step, 0.05 in the paper.

    Source: Rony et al., CVPR 2019. The norm doubles until the first success: ours, for volumes.
    Survey entry: X07 (adapted).
    """

    fixed_arguments = ("perturbation", "search")

    def __init__(
        self,
        units: str = "network",
        steps: int = 100,
        gamma: float = 0.05,
        epsilon: float | None = None,
        **options: Any,
    ) -> None:
        noise, search = MinimalNoise("l2", epsilon, units), DDNSearch(gamma)
        super().__init__(noise, search=search, steps=steps, **{"objective": STRONG, **options})


class FMN(MinimalNormAttack):
    """Fast minimum norm, in L-infinity, L2, L1 or L0.

    >>> from monai_adversarial.attacks import FMN
    >>> from monai_adversarial.data.example import example_case
    >>> bool(FMN("linf", units="HU", steps=15)(*example_case(16)).success)
    True

    Args:
        norm: ``"linf"``, ``"l2"``, ``"l1"`` or ``"l0"``.
        units, epsilon, options: see :class:`CarliniWagner`.
        steps: 1000 in the paper, 100 in its fast setting.
        block: voxels along each axis of the blocks that L0 counts.

    Source: Pintor, Roli, Brendel, Biggio, NeurIPS 2021.
    Survey entry: X07 (adapted).
    """

    fixed_arguments = ("perturbation", "search")

    def __init__(
        self,
        norm: str = "linf",
        units: str = "network",
        steps: int = 100,
        epsilon: float | None = None,
        block: int = 1,
        **options: Any,
    ) -> None:
        noise, search = MinimalNoise(norm, epsilon, units, block), FMNSearch()
        super().__init__(noise, search=search, steps=steps, **{"objective": STRONG, **options})


class PDPGD(MinimalNormAttack):
    """Primal-dual proximal gradient descent, in L-infinity, L2, L1 or L0.

    >>> from monai_adversarial.attacks import PDPGD
    >>> from monai_adversarial.data.example import example_case
    >>> bool(PDPGD("linf", units="HU", steps=20)(*example_case(16)).success)
    True

    Args:
        norm: ``"linf"``, ``"l2"``, ``"l1"`` or ``"l0"``.
        units, epsilon, options: see :class:`CarliniWagner`.
        steps: 500 in adv_lib's form for segmentation.
        block: voxels along each axis of the blocks that L0 counts.

    Source: Matyasko and Chau, "PDPGD: primal-dual proximal gradient descent adversarial attack", 2021, which was not
    read: after adv_lib's implementation; see :class:`~monai_adversarial.attacks.PrimalDualSearch`.
    Survey entry: X05 (adapted).
    """

    fixed_arguments = ("perturbation", "search")

    def __init__(
        self,
        norm: str = "linf",
        units: str = "network",
        steps: int = 100,
        epsilon: float | None = None,
        block: int = 1,
        **options: Any,
    ) -> None:
        noise, search = MinimalNoise(norm, epsilon, units, block), PrimalDualSearch()
        super().__init__(noise, search=search, steps=steps, **{"objective": STRONG, **options})


class FAB(MinimalNormAttack):
    """Fast adaptive boundary, in L-infinity, L2 or L1.

    >>> from monai_adversarial.attacks import FAB
    >>> from monai_adversarial.data.example import example_case
    >>> bool(FAB("linf", units="HU", steps=15)(*example_case(16)).success)
    True

    Args:
        norm: ``"linf"``, ``"l2"`` or ``"l1"``.
        units, epsilon, options: see :class:`CarliniWagner`.
        steps: 100 in the paper.

    Source: Croce and Hein, ICML 2020; on segmentation as ROG's AutoAttack (Daza et al., MICCAI 2021), which linearizes
    the mean difference of logits.
    Survey entry: A22 (adapted), X06 (adapted).
    """

    fixed_arguments = ("perturbation", "search")

    def __init__(
        self,
        norm: str = "linf",
        units: str = "network",
        steps: int = 100,
        epsilon: float | None = None,
        **options: Any,
    ) -> None:
        noise, search = MinimalNoise(norm, epsilon, units), FABSearch()
        super().__init__(noise, search=search, steps=steps, **{"objective": STRONG, **options})


class ALMAProx(MinimalNormAttack):
    """Augmented Lagrangian with proximal steps, in L-infinity: a constraint for each voxel.

    >>> from monai_adversarial.attacks import ALMAProx
    >>> from monai_adversarial.data.example import example_case
    >>> bool(ALMAProx(units="HU", steps=40)(*example_case(16)).success)
    True

    Args:
        units, epsilon, options: see :class:`CarliniWagner`.
        steps: 500 in the paper.
        share: of the voxels whose constraints count at the end, 0.99 in the paper, with ``wrong_fraction=0.99``; None
            for two thirds of each organ, the Dice rule.

    Source: Rony, Pesquet, Ben Ayed, "Proximal splitting adversarial attack for semantic segmentation", CVPR 2023.
    Survey entry: X07 (published).
    """

    fixed_arguments = ("perturbation", "search")

    def __init__(
        self,
        units: str = "network",
        steps: int = 500,
        share: float | None = None,
        epsilon: float | None = None,
        **options: Any,
    ) -> None:
        noise, search = MinimalNoise("linf", epsilon, units), ALMAProxSearch()
        super().__init__(noise, search=search, steps=steps, **{"objective": AugmentedLagrangian(share), **options})


class DenseAdversaryGeneration(MinimalNormAttack):
    """Dense adversary generation (DAG): steps along the margins of the voxels that are still right.

    >>> from monai_adversarial.attacks import DenseAdversaryGeneration
    >>> from monai_adversarial.data.example import example_case
    >>> bool(DenseAdversaryGeneration(units="HU", steps=40)(*example_case(16)).success)
    True

    Args:
        norm: that is reported and halved at the end: ``"linf"`` or ``"l2"``; the steps are the same.
        units, epsilon, options: see :class:`CarliniWagner`.
        steps: 200 in the paper.
        step: largest change of a voxel in a step as a share of the window, 0.5/255 in the paper.

    Source: Xie et al., ICCV 2017, algorithm 1.
    Survey entry: X07 (published).
    """

    fixed_arguments = ("perturbation", "search")

    def __init__(
        self,
        norm: str = "linf",
        units: str = "network",
        steps: int = 200,
        step: float = 0.5 / 255,
        epsilon: float | None = None,
        **options: Any,
    ) -> None:
        noise, search = MinimalNoise(norm, epsilon, units), DAGSearch(step)
        super().__init__(noise, search=search, steps=steps, **{"objective": Margin(), **options})
