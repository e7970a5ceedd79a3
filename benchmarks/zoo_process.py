# SPDX-License-Identifier: Apache-2.0
"""The process of one row of ``model_zoo.py``: before MONAI looks for torchvision, it is made to import."""

from __future__ import annotations

import sys

from benchmarks.torchvision_stub import stub_torchvision

__all__: list[str] = []


if __name__ == "__main__":
    stub_torchvision()
    from benchmarks.model_zoo import main

    sys.exit(main())
