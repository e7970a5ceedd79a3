# SPDX-License-Identifier: Apache-2.0
"""What an audit would do and cost, measured on one case, before it does it."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from monai_adversarial.attacks import PGD
from monai_adversarial.audit.first_case import check_first_case
from monai_adversarial.audit.plan import Plan, Row
from monai_adversarial.audit.target import AuditCase, AuditTarget

__all__ = ["dry_run", "passes_of"]


def passes_of(row: Row) -> tuple[int, int]:
    """Forward and backward passes of one case under a row, the deployed predictions of attack and control included."""
    if row.attack is None:
        return 1, 0
    attack = row.attack
    points, backwards = attack.gradient.passes(attack.steps) if attack.search.uses_gradients else (attack.steps, 0)
    # A clean pass, one for each point, one that scores the last, and the deployed answers to attack and control.
    runs = 1
    if (
        row.detector is not None
    ):  # from two starts for each weight, hiding and stepping orthogonally; its own not counted
        runs += 2 * (len(row.detector.weights) + 2)
    return runs * (points * attack.restarts + 2) + 2, runs * backwards * attack.restarts


def dry_run(target: AuditTarget, cases: Sequence[Mapping[str, Any]], plan: Plan) -> str:
    """What was read, what must be told, and what the plan costs.

    Args:
        target: to be audited.
        cases: of ``find_cases``.
        plan: of ``load_plan``.

    Returns:
        Text for the terminal. The price is measured on the first case: one deployed prediction, and one attack step
        where the target has gradients.
    """
    lines = [f"{target.kind} {target.name}", "", "read:"]
    if target.missing:
        lines += [f"  {fact}" for fact in target.facts()]
        lines += ["", "must be told:", *(f"  {one}" for one in target.missing)]
        return "\n".join(lines)
    started = time.perf_counter()
    found = check_first_case(target, cases[0], plan.by_gradients)
    checked = time.perf_counter() - started
    lines += [f"  {fact}" for fact in [*target.facts(), *found]]
    lines += ["", "must be told: nothing"]
    case = target.load(cases[0])
    target.deploy(case)
    forward = _seconds(lambda: target.deploy(case))
    around, step = forward, 0.0
    if target.differentiable and plan.by_gradients:
        around, step = _price_of_steps(target, case)
    labeled = sum(case.get("label") is not None for case in cases)
    lines += [
        "",
        f"{len(cases)} cases, {labeled} with a label"
        + ("" if labeled else ": stability against the network's own clean prediction"),
        f"plan {plan.name}, {len(plan.rows)} rows; measured on the first case: {forward:.2f} s a prediction"
        + (f", {step:.2f} s a step with gradient" if step else "")
        + f", check of the first case {checked:.1f} s, peak memory {_peak_gigabytes():.1f} GB",
        "",
        f"  {'row':44}{'forward':>9}{'backward':>10}{'seconds a case':>16}",
    ]
    total = 0.0
    for row in plan.rows:
        forwards, backwards = passes_of(row)
        seconds = around + backwards * step + 2 * forward if backwards else forwards * forward
        total += seconds
        lines.append(f"  {row.title[:43]:44}{forwards:>9}{backwards:>10}{seconds:>16.1f}")
    lines += ["", f"about {total * len(cases) / 60:.1f} minutes for all cases on this machine, in one process"]
    if plan.left_out:
        lines += ["", "not tested:", *(f"  {sentence}" for sentence in plan.left_out)]
    return "\n".join(lines)


def _price_of_steps(target: AuditTarget, case: AuditCase) -> tuple[float, float]:
    """Seconds of an attack without its steps, and of each of them."""
    model = target.model_for(case)
    units = "percentile" if model.image_units == "network" else "network"
    one, three = (
        _seconds(lambda steps=steps: PGD(0.01, units=units, steps=steps)(model, case.image, case.label))
        for steps in (1, 3)
    )
    step = max((three - one) / 2, 0.0)
    return max(one - step, 0.0), step


def _seconds(run: Any) -> float:
    started = time.perf_counter()
    run()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - started


def _peak_gigabytes() -> float:
    """The largest memory of the process so far; on CUDA that of the device."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 1e9
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024) / 1e9
