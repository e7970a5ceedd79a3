# SPDX-License-Identifier: Apache-2.0
"""The worst of several attacks, case by case."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from monai.engines import SupervisedEvaluator

from monai_adversarial.handlers.adversarial_evaluation import AdversarialEvaluation
from monai_adversarial.handlers.engine_model import told_argument
from monai_adversarial.handlers.evaluation_base import RobustEvaluation, attached_evaluations
from monai_adversarial.metrics.robust_dice import RobustDice

__all__ = ["WorstCaseEvaluation"]


# In these all evaluations must agree: arguments of an evaluation, and of the model that it was told.
OPTIONS = ("interval", "max_batches", "success_threshold", "acceptable_dice")
FACTS = ("class_names", "scored_classes", "ignore_index")


def _option(evaluation: AdversarialEvaluation, name: str) -> Any:
    value = getattr(evaluation, name) if name in OPTIONS else told_argument(evaluation.told, name)
    return list(value) if isinstance(value, (list, tuple)) else value


class WorstCaseEvaluation(RobustEvaluation):
    """Robust Dice under the worst of several attacks: per case the attack that leaves the lowest mean Dice.

    The mean over attacks says little, because an attacker takes the best one. The metrics are those of
    :class:`AdversarialEvaluation`; an organ's Dice is the one on the image that is worst as a whole::

        pgd = AdversarialEvaluation(PGD(8, units="HU"), "pgd", {"intensity": window})
        bias = AdversarialEvaluation(BiasFieldAttack(), "bias", {"intensity": window})
        SupervisedEvaluator(..., val_handlers=[WorstCaseEvaluation([pgd, bias], key_metric=True), saver])

    >>> from monai_adversarial.attacks import PGD, BiasFieldAttack
    >>> from monai_adversarial.data.example_engines import example_evaluator
    >>> from monai_adversarial.handlers import AdversarialEvaluation, WorstCaseEvaluation
    >>> pgd = AdversarialEvaluation(PGD(16, "HU", steps=2), "pgd")
    >>> bias = AdversarialEvaluation(BiasFieldAttack(0.02, steps=2), "bias")
    >>> evaluator = example_evaluator([WorstCaseEvaluation([pgd, bias])])
    >>> evaluator.run()
    >>> metrics = evaluator.state.metrics
    >>> metrics["worst_case_mean_dice"] == min(metrics["pgd_mean_dice"], metrics["bias_mean_dice"])
    True

    Args:
        evaluations: the evaluations, all with the same organs, interval, batches and thresholds. Those that are not
            attached when this handler is, are attached with it.
        name: first part of the metrics' names, an identifier.
        key_metric: make ``{name}_mean_dice`` the key metric of an evaluator that has none.

    Raises:
        TypeError: for something else than an :class:`AdversarialEvaluation` among them.
        ValueError: for no evaluation, or evaluations that do not score the same cases in the same way.
    """

    def __init__(
        self, evaluations: Sequence[AdversarialEvaluation], name: str = "worst_case", key_metric: bool = False
    ) -> None:
        super().__init__(name, key_metric)
        self.evaluations = tuple(evaluations)
        if not self.evaluations:
            raise ValueError("evaluations must hold at least one AdversarialEvaluation, got none.")
        for evaluation in self.evaluations:
            if not isinstance(evaluation, AdversarialEvaluation):
                raise TypeError(f"evaluations must be AdversarialEvaluation objects, got {type(evaluation).__name__}.")
            for option in OPTIONS + FACTS:
                values = [_option(one, option) for one in (self.evaluations[0], evaluation)]
                if values[0] != values[1]:
                    raise ValueError(
                        f"evaluations must agree in {option}, so that the worst case is taken over the same cases, got "
                        f"{values[0]!r} and {values[1]!r}."
                    )

    def _check(self, engine: SupervisedEvaluator) -> None:
        if self.key_metric and self.evaluations[0].interval > 1:
            raise ValueError(
                f"interval must be 1 for a key metric, got {self.evaluations[0].interval}: runs without attack would "
                "have nothing to compare (run the evaluator itself less often)."
            )
        present = attached_evaluations(engine).values()
        for evaluation in self.evaluations:
            if not any(evaluation is other for other in present):
                evaluation.attach(engine)

    def scores(self) -> RobustDice | None:
        """See :meth:`RobustEvaluation.scores`."""
        several = [scores for scores in (evaluation.scores() for evaluation in self.evaluations) if scores is not None]
        return RobustDice.worst(several) if several else None
