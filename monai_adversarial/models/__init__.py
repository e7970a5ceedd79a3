# SPDX-License-Identifier: Apache-2.0
"""The model under attack: what is attacked, said once, for scripts, transforms, handlers, engines and studies."""

from __future__ import annotations

from monai_adversarial.models.attacked_model import AttackedModel
from monai_adversarial.models.explain_clean_score import CleanScore, explain_clean_score
from monai_adversarial.models.prediction import predict, predict_probabilities
from monai_adversarial.models.read_intensity import (
    ReadIntensity,
    UnknownIntensity,
    check_agrees,
    map_of_batch,
    read_intensity,
)
from monai_adversarial.models.recorded_intensity import install_recorders
from monai_adversarial.models.transfer_oracle import TransferOracle
from monai_adversarial.models.wrong_gradient import wrong_gradient_reason

__all__ = [
    "AttackedModel",
    "CleanScore",
    "ReadIntensity",
    "TransferOracle",
    "UnknownIntensity",
    "check_agrees",
    "explain_clean_score",
    "install_recorders",
    "map_of_batch",
    "predict",
    "predict_probabilities",
    "read_intensity",
    "wrong_gradient_reason",
]
