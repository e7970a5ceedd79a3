# SPDX-License-Identifier: Apache-2.0
"""Metrics gather the cases of all processes. Run as a script by torchrun, it is one of two."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from monai_adversarial.metrics import OrganDrop, OrganPresence, SuccessRate, VolumeChange

NAMES = ["background", "liver", "spleen"]
# The cases of each process. The last metric has none on the second one, where MONAI's own would wait for ever.
SHARES = [[0, 1, 2], [3, 4]]


def _label(seed: int) -> torch.Tensor:
    return torch.randint(0, 3, (1, 1, 5, 5, 5), generator=torch.Generator().manual_seed(seed))


def metrics_of(cases: list[int]) -> dict[str, Any]:
    """What each metric says of some of the cases."""
    drop, presence, volume = OrganDrop(NAMES), OrganPresence(NAMES), VolumeChange(NAMES)
    success, first_only = SuccessRate(0.5), SuccessRate()
    for case in cases:
        attacked, clean, label = (_label(3 * case + shift) for shift in range(3))
        drop(attacked, label, clean=clean)
        presence(attacked, label)
        volume(attacked, clean, spacing=(1.0, 1.0, 5.0))
        success(torch.tensor([0.1 * case]), torch.tensor([0.9 - 0.1 * case]))
        if case in SHARES[0]:
            first_only(torch.tensor([0.1]), torch.tensor([0.2 + 0.1 * case]))
    return {str(place): one.aggregate() for place, one in enumerate((drop, presence, volume, success, first_only))}


@pytest.mark.slow
def test_two_processes_report_what_one_does(tmp_path: Path) -> None:
    from tests.handlers.trainers import run_two_processes  # not in the processes, which it would slow down

    run_two_processes(__file__, tmp_path)
    expected = json.loads(json.dumps(metrics_of(sum(SHARES, []))))
    for rank in (0, 1):
        found = json.loads((tmp_path / f"{rank}.json").read_text())
        assert found.keys() == expected.keys()
        for name, numbers in expected.items():
            assert found[name] == pytest.approx(numbers, abs=1e-12, nan_ok=True), name


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo")
    rank = torch.distributed.get_rank()
    reported = metrics_of(SHARES[rank])
    (Path(sys.argv[1]) / f"{rank}.json").write_text(json.dumps(reported))
    torch.distributed.barrier()  # nobody leaves while the other still talks
    torch.distributed.destroy_process_group()
