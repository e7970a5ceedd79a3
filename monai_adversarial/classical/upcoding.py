# SPDX-License-Identifier: Apache-2.0
"""Upcoding on synthetic claims: billing codes that raise a payment and pass a check of plausibility."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from monai_adversarial.classical.camouflage import minimum_cost_camouflage
from monai_adversarial.classical.naive_bayes import NaiveBayes
from monai_adversarial.utils.validation import check_count, check_positive

__all__ = ["CODES", "Upcoded", "synthetic_claims", "upcode"]

#: invented codes: name, payment, share of the honest claims, share of the upcoded ones
CODES = (
    ("visit, basic", 40.0, 0.70, 0.15),
    ("visit, extended", 110.0, 0.25, 0.85),
    ("imaging", 180.0, 0.20, 0.45),
    ("second imaging", 180.0, 0.03, 0.30),
    ("complication", 400.0, 0.05, 0.60),
    ("comorbidity", 250.0, 0.15, 0.65),
    ("overnight stay", 600.0, 0.08, 0.25),
    ("follow-up", 60.0, 0.50, 0.40),
)


@dataclass(frozen=True)
class Upcoded:
    """One claim as it is filed.

    Args:
        claim: (code,), 0 or 1.
        payment: of this claim.
        wanted: payment of the claim that was wanted, and that the check would have found.
        kept: share of the wanted payment that is left.
    """

    claim: np.ndarray
    payment: float
    wanted: float
    kept: float


def synthetic_claims(count: int = 400, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Invented claims (claim, code) of 0 and 1, half of them upcoded, and labels, 1 for upcoded.

    >>> from monai_adversarial.classical import synthetic_claims
    >>> claims, labels = synthetic_claims(10)
    >>> claims.shape, int(labels.sum())
    ((10, 8), 5)
    """
    check_count("count", count, minimum=2)
    generator = np.random.default_rng(check_count("seed", seed, minimum=0))
    labels = np.arange(count) % 2
    shares = np.array([[code[2], code[3]] for code in CODES])[:, labels].T
    return (generator.random(shares.shape) < shares).astype(np.int64), labels


def upcode(check: NaiveBayes, wanted: Any, resolution: int = 500) -> Upcoded:
    """The claim nearest in payment to the wanted one that the check of plausibility lets pass.

    Each code that is dropped costs its payment, one that is added costs 1. No image is changed: this is the incentive
    behind attacks on medical classifiers, in its oldest form.

    >>> from monai_adversarial.classical import NaiveBayes, synthetic_claims, upcode
    >>> claims, labels = synthetic_claims()
    >>> check = NaiveBayes().fit(claims, labels)
    >>> filed = upcode(check, [0, 1, 1, 1, 1, 1, 1, 1])
    >>> check.predict([filed.claim]).tolist(), 0 < filed.kept < 1
    ([0], True)

    Args:
        check: fitted to claims, 1 for upcoded.
        wanted: (code,), the codes that would pay most.
        resolution: see :func:`~monai_adversarial.classical.minimum_cost_camouflage`.

    Survey entry: A27 (own).

    Source: the incentive is described in Finlayson et al., Adversarial attacks on medical machine learning, Science
    2019. Codes, payments and claims are invented.
    """
    payments = np.array([code[1] for code in CODES])
    costs = [np.array([[0.0, 1.0], [check_positive("payment", pay), 0.0]]) for pay in payments]
    values = np.asarray(wanted, dtype=np.int64)
    found = minimum_cost_camouflage(check, values, costs, math.inf, resolution)
    total, filed = float(payments @ values), float(payments @ found.sample)
    return Upcoded(found.sample, filed, total, filed / total if total else 1.0)
