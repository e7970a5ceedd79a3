# SPDX-License-Identifier: Apache-2.0
"""``python -m benchmarks``: what the attacks cost, as ratios from one run, in one Markdown table."""

from __future__ import annotations

import argparse
import os
import platform
import sys
from pathlib import Path

import torch

PARTS = ("steps", "windows", "memory", "strength", "purifiers", "training")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--rounds", type=int, default=7, help="interleaved rounds of the timings (default 7)")
    parser.add_argument("--size", type=int, default=96, help="voxels along each axis of the volume and of a window")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="CPU threads (default: all cores)")
    parser.add_argument("--cases", type=int, default=2, help="phantoms for the Dice after attack (default 2)")
    parser.add_argument("--steps", type=int, default=20, help="steps of the attack for the Dice (default 20)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--purifier-size", type=int, default=128, help="voxels along each axis for the purifiers")
    parser.add_argument("--training-size", type=int, default=48, help="voxels along each axis of a training patch")
    parser.add_argument("--no-compile", action="store_true", help="leave out torch.compile, which takes minutes")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="parts to run (default: all)")
    parser.add_argument("--output", type=Path, help="also write the table to this Markdown file")
    return parser.parse_args()


def _say(text: str) -> None:
    print(f"[benchmarks] {text}", file=sys.stderr, flush=True)


def _cell(value: float, target: float | None, digits: int = 2) -> tuple[str, str]:
    if target is None:
        return f"{value:.{digits}f}", ""
    return f"{value:.{digits}f}", f"<= {target:g}: {'met' if value <= target else 'MISSED'}"


def main() -> int:
    arguments = _arguments()
    torch.set_num_threads(arguments.threads)
    from monai_adversarial.utils.precision import Precision

    compiled = not arguments.no_compile
    lines: list[str] = []

    def report(*new: str) -> None:
        """Print at once: a later part that fails must not take the figures of an hour with it."""
        lines.extend(new)
        print("\n".join(new), flush=True)

    report(
        f"{platform.machine()} {arguments.device}, {arguments.threads} threads, torch {torch.__version__}, "
        f"default precision {Precision('auto', arguments.device)}, {arguments.size}^3 voxels, "
        f"medians of {arguments.rounds} interleaved rounds",
    )
    if "steps" in arguments.only or "windows" in arguments.only:
        report(
            "",
            "| what | ratio | ratio of fastest | ratio of CPU time | seconds | target |",
            "|---|---:|---:|---:|---:|---|",
        )
        from benchmarks.step_time import step_jobs, window_jobs
        from benchmarks.timing import run_rounds

        for part, jobs in (
            ("steps", lambda: step_jobs(arguments.device, arguments.size, compiled)),
            ("windows", lambda: window_jobs(arguments.device, arguments.size)),
        ):
            if part not in arguments.only:
                continue
            rows = jobs()
            run_rounds(rows, arguments.rounds if part == "steps" else max(2, arguments.rounds // 2), _say)
            by_name = {row.name: row for row in rows}
            for row in rows:
                reference = by_name[row.reference]
                ratio, verdict = _cell(row.wall() / reference.wall(), row.target)
                fastest, cpu = row.fastest() / reference.fastest(), row.cpu() / reference.cpu()
                report(f"| {row.name} | {ratio} | {fastest:.2f} | {cpu:.2f} | {row.wall():.3f} | {verdict} |")
    if "memory" in arguments.only:
        from benchmarks.window_memory import memory_rows

        _say("memory at 4 and 27 windows")
        report("", "| extra memory, MB | 4 windows | 27 windows | 27 / 4 | target |", "|---|---:|---:|---:|---|")
        for name, small, large, target in memory_rows(arguments.size):
            ratio, verdict = _cell(large / small, target)
            report(f"| {name} | {small:.0f} | {large:.0f} | {ratio} | {verdict} |")
    if "strength" in arguments.only:
        from benchmarks.strength import BUNDLE, strength_rows

        if (BUNDLE / "models" / "model.pt").is_file():
            _say("Dice after attack")
            rows_of_strength = strength_rows(arguments.device, arguments.cases, arguments.steps, compiled)
            reference_dice = rows_of_strength[1][1]
            report(
                "",
                f"| mean organ Dice, {arguments.cases} phantom(s), PGD-{arguments.steps} at 8 HU | Dice "
                "| difference to float32 | seconds | target |",
                "|---|---:|---:|---:|---|",
            )
            for name, dice, seconds in rows_of_strength:
                if name == "clean":
                    report(f"| clean | {dice:.3f} | | | |")
                    continue
                difference = dice - reference_dice
                verdict = "" if name == "float32" else f"+-0.02: {'met' if abs(difference) <= 0.02 else 'MISSED'}"
                report(f"| {name} | {dice:.3f} | {difference:+.3f} | {seconds:.1f} | {verdict} |")
        else:
            _say(f"no Dice after attack: {BUNDLE / 'models' / 'model.pt'} is missing")
    if "purifiers" in arguments.only:
        from benchmarks.purifier_time import purifier_jobs
        from benchmarks.timing import run_rounds
        from monai_adversarial.transforms import PURIFIERS

        rows = purifier_jobs(arguments.device, arguments.purifier_size)
        run_rounds(rows, max(2, arguments.rounds // 2), _say)
        by_name = {row.name: row for row in rows}
        size = arguments.purifier_size
        report(
            "",
            f"| purifier, forward on {size}^3 voxels, float32 | fastest CPU library for the same | library's seconds "
            "| seconds | ratio | target |",
            "|---|---|---:|---:|---:|---|",
        )
        for row in rows:
            if row.name not in PURIFIERS:  # a library's own row
                continue
            if row.reference == row.name:
                report(f"| {row.name} | none | | {row.wall():.3f} | | |")
                continue
            reference = by_name[row.reference]
            ratio, verdict = _cell(row.wall() / reference.wall(), row.target)
            seconds = f"{reference.wall():.3f} | {row.wall():.3f}"
            report(f"| {row.name} | {row.reference} | {seconds} | {ratio} | {verdict} |")
    if "training" in arguments.only:
        from benchmarks.timing import run_rounds
        from benchmarks.training_overhead import BATCH, training_rows

        training_jobs, rows_of_training = training_rows(arguments.device, arguments.training_size)
        run_rounds(training_jobs, arguments.rounds, _say)
        size = arguments.training_size
        report(
            "",
            f"| training iteration, {BATCH} patches of {size}^3 voxels | divided by | ratio | ratio of fastest "
            "| ratio of CPU time | seconds | target |",
            "|---|---|---:|---:|---:|---:|---|",
        )
        for job in training_jobs[: -len(rows_of_training)]:
            report(f"| {job.name} | | | | | {job.wall():.3f} | |")
        for one in rows_of_training:
            ratio, verdict = _cell(one.wall(), one.target)
            measured = f"{ratio} | {one.fastest():.2f} | {one.cpu():.2f} | {one.job.wall():.3f}"
            report(f"| {one.job.name} | {one.denominator} | {measured} | {verdict} |")
    text = "\n".join(lines)
    if arguments.output is not None:
        temporary = arguments.output.with_name(arguments.output.name + ".tmp")
        temporary.write_text(text + "\n")
        os.replace(temporary, arguments.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
