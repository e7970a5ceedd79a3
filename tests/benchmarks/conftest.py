# SPDX-License-Identifier: Apache-2.0
"""Where the other libraries are installed, torchvision's operators need not fit this torch."""

from __future__ import annotations

from benchmarks.torchvision_stub import stub_torchvision

stub_torchvision()
