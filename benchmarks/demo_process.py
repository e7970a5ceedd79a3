# SPDX-License-Identifier: Apache-2.0
"""One run of the demo's configs by the package that is on the path, its attacks timed.

    PYTHONPATH=TREE python benchmarks/demo_process.py TREE PHANTOMS OUTPUT FILE CASES

A script that stands alone: it imports nothing of ``benchmarks``, so that it runs with the code of an earlier commit.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from monai.bundle.scripts import run

import monai_adversarial
from monai_adversarial.attacks.attack import Attack
from monai_adversarial.studies import attack_unit


def main(tree: Path, phantoms: Path, output: Path, file: Path, cases: int) -> None:
    """Run the demo as ``./rundemo.sh`` does, on phantoms in a folder of its own, and write what each unit took.

    Args:
        tree: checkout whose package and bundle are run.
        phantoms: folder of the phantoms, written where it is missing.
        output: of the demo; must be new, because a study goes on with what is there.
        file: JSON that is written.
        cases: phantoms that are attacked, of the demo's three.
    """
    if Path(monai_adversarial.__file__).resolve().parent.parent != tree.resolve():
        raise SystemExit(f"PYTHONPATH must be {tree}, the package imported is {monai_adversarial.__file__}.")
    torch.set_num_threads(1)
    units: list[dict[str, Any]] = []
    attack_call, unit_run = Attack.__call__, attack_unit.Unit.run
    seconds: list[float] = []

    def timed_attack(self: Any, *args: Any, **options: Any) -> Any:
        began = time.process_time()
        result = attack_call(self, *args, **options)
        seconds.append(time.process_time() - began)
        return result

    def noted_unit(self: Any, *args: Any, **options: Any) -> Any:
        seconds.clear()
        began = time.process_time()
        record = unit_run(self, *args, **options)
        cost = record["cost"]
        units.append(
            {
                "attack": self.cell.attack,
                "case": self.cell.case,
                "attack_seconds": sum(seconds),
                "unit_seconds": time.process_time() - began,
                "clean": record["mean"]["clean"]["dice"],
                "dice": record["mean"]["adversarial"]["dice"],
                "passes": [cost["forwards"], cost["backwards"]],
            }
        )
        print(units[-1], flush=True)
        return record

    Attack.__call__ = timed_attack  # type: ignore[method-assign]
    attack_unit.Unit.run = noted_unit  # type: ignore[method-assign]
    bundle = tree / "bundles" / "ct_abdomen_unet"
    configs = [bundle / "configs" / name for name in ("attack.yaml", "demo.yaml")]  # an earlier commit has the first
    run(
        config_file=[str(config) for config in configs if config.exists()],
        bundle_root=str(bundle),
        default_dataset_dir=str(phantoms),
        output_dir=str(output),
        case_limit=cases,
    )
    file.write_text(json.dumps({"command": time.process_time(), "units": units}), encoding="utf-8")


if __name__ == "__main__":
    main(*(Path(one) for one in sys.argv[1:5]), cases=int(sys.argv[5]))
