# SPDX-License-Identifier: Apache-2.0
"""Naive Bayes that knows what its adversary does."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from monai_adversarial.classical.camouflage import minimum_cost_camouflage
from monai_adversarial.classical.naive_bayes import NaiveBayes, check_table

__all__ = ["AdversaryAwareNaiveBayes"]

#: combinations of values that are gone through one by one
MOST_COMBINATIONS = 20_000


class AdversaryAwareNaiveBayes:
    """Classifies what is shown, not what is true: a sample is as likely positive as all positives that would show it.

    ``P'(x' | positive)`` is the sum of ``P(x | positive)`` over all x that the adversary of the plain classifier would
    turn into x'. Positives that camouflage themselves are therefore found among the few vectors that camouflage leads
    to. The adversary is that of the plain classifier: one move of the game, as in the paper.

    >>> from monai_adversarial.classical import AdversaryAwareNaiveBayes, NaiveBayes
    >>> plain = NaiveBayes().fit([[0, 0]] * 9 + [[0, 1], [1, 0]] + [[1, 1]] * 9, [0] * 10 + [1] * 10)
    >>> costs = [[[0, 1], [1, 0]], [[0, 9], [9, 0]]]
    >>> aware = AdversaryAwareNaiveBayes(plain, costs, gain=5.0)
    >>> plain.predict([[0, 1]]).tolist(), aware.predict([[0, 1]]).tolist()
    ([0], [1])

    Args:
        model: the plain classifier, fitted to samples without an adversary.
        costs, gain, resolution: see :func:`~monai_adversarial.classical.minimum_cost_camouflage`.

    Raises:
        ValueError: for more than 20,000 combinations of values.

    Survey entry: A26 (reconstruction).

    Source: Dalvi et al., Adversarial Classification, KDD 2004. The paper sums over the camouflages with shortcuts; here
    all combinations of values are gone through.
    """

    def __init__(self, model: NaiveBayes, costs: Sequence[Any], gain: float = math.inf, resolution: int = 200) -> None:
        count = math.prod(model.values)
        if count > MOST_COMBINATIONS:
            raise ValueError(f"the features must have at most {MOST_COMBINATIONS} combinations of values, got {count}.")
        self.model = model
        self.shown: dict[tuple[int, ...], float] = {}
        for values in itertools.product(*map(range, model.values)):
            probability = math.exp(sum(logs[v] for logs, v in zip(model.log_positive, values, strict=True)))
            seen = minimum_cost_camouflage(model, values, costs, gain, resolution).sample
            key = tuple(int(value) for value in seen)
            self.shown[key] = self.shown.get(key, 0.0) + probability

    def decision(self, samples: Any) -> np.ndarray:
        """Log odds of the positive class given what is shown, (sample,); minus infinity for what no positive shows."""
        found = []
        for row in check_table(samples):
            negative = sum(logs[v] for logs, v in zip(self.model.log_negative, row, strict=True))
            positive = self.shown.get(tuple(int(value) for value in row), 0.0)
            found.append(self.model.prior + (math.log(positive) if positive > 0 else -math.inf) - negative)
        return np.array(found)

    def predict(self, samples: Any) -> np.ndarray:
        """1 where the positive class is the likelier one."""
        return (self.decision(samples) > 0).astype(np.int64)
