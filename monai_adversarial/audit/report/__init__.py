# SPDX-License-Identifier: Apache-2.0
"""The report of an audit: HTML, JSON, CSV."""

from __future__ import annotations

from monai_adversarial.audit.report.findings import RULES, Finding, findings_of
from monai_adversarial.audit.report.write import write_report

__all__ = ["RULES", "Finding", "findings_of", "write_report"]
