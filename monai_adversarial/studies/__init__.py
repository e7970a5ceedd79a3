# SPDX-License-Identifier: Apache-2.0
"""Studies over many cases: scores, files, pictures and tables, continued where they were interrupted."""

from __future__ import annotations

from monai_adversarial.data.cases import find_cases
from monai_adversarial.studies.attack_study import AttackStudy
from monai_adversarial.studies.command_line import show_errors_as_sentences
from monai_adversarial.studies.defenses import check_purifier_name, place_purifiers
from monai_adversarial.studies.displacement import displacement_in_mm
from monai_adversarial.studies.gain import gain_in_percent
from monai_adversarial.studies.measurement import measurement_record
from monai_adversarial.studies.purification_study import PurificationStudy
from monai_adversarial.studies.reader_study import ReaderResult, analyze_reader_study, export_reader_study
from monai_adversarial.studies.study import Cell, SettingsError, Study, StudyError
from monai_adversarial.studies.training_study import TrainingStudy
from monai_adversarial.utils.weights import load_weights

__all__ = [
    "AttackStudy",
    "Cell",
    "PurificationStudy",
    "ReaderResult",
    "SettingsError",
    "Study",
    "StudyError",
    "TrainingStudy",
    "analyze_reader_study",
    "check_purifier_name",
    "displacement_in_mm",
    "export_reader_study",
    "find_cases",
    "gain_in_percent",
    "load_weights",
    "measurement_record",
    "place_purifiers",
    "show_errors_as_sentences",
]
