# SPDX-License-Identifier: Apache-2.0
"""Audits: how robust a deployed network is, in one report."""

from __future__ import annotations

from monai_adversarial.audit.audit import audit
from monai_adversarial.audit.facts import Fact, Missing, TargetError
from monai_adversarial.audit.handler import RobustnessAudit
from monai_adversarial.audit.parts import TargetParts
from monai_adversarial.audit.plan import Plan, Row, load_plan, plan_names
from monai_adversarial.audit.study import AuditStudy
from monai_adversarial.audit.study_report import run_and_report
from monai_adversarial.audit.subgroups import read_subgroups
from monai_adversarial.audit.target import AuditCase, AuditTarget

__all__ = [
    "AuditCase",
    "AuditStudy",
    "AuditTarget",
    "Fact",
    "Missing",
    "Plan",
    "RobustnessAudit",
    "Row",
    "TargetError",
    "TargetParts",
    "audit",
    "load_plan",
    "plan_names",
    "read_subgroups",
    "run_and_report",
]
