# SPDX-License-Identifier: Apache-2.0
"""``python -m monai_adversarial``: commands of the package."""

from __future__ import annotations

import sys

from monai_adversarial.audit.command_line import main

if __name__ == "__main__":
    sys.exit(main())
