# SPDX-License-Identifier: Apache-2.0
"""``python -m monai_adversarial``: the audit, and bundles that shall be attacked."""

from __future__ import annotations

import sys

__all__ = ["main"]


def main() -> int:
    """``run`` as ``python -m monai.bundle run``; anything else is the audit's."""
    if sys.argv[1:2] == ["run"]:
        from monai_adversarial.studies.bundle_run import main as run

        return run(sys.argv[2:])
    from monai_adversarial.audit.command_line import main as audit

    return audit()


if __name__ == "__main__":
    sys.exit(main())
