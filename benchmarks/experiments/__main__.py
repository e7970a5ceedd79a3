# SPDX-License-Identifier: Apache-2.0
"""The experiments that the survey reports or names, with numbers and a verdict: docs/survey_experiments.md.

    python -m benchmarks.experiments docs/survey_experiments.json

Claims that the file has already are not tested again; ``--only NAME`` tests some. Everything is trained here, in
minutes on a CPU. Pictures are drawn where the experiment they belong to was run.
"""

from __future__ import annotations

import sys

from benchmarks.experiments.listed import main

if __name__ == "__main__":
    sys.exit(main(__doc__))
