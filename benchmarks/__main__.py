# SPDX-License-Identifier: Apache-2.0
"""``python -m benchmarks``: speed, memory and strength of the attacks beside other libraries, ratios from one run."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import torch

from benchmarks.torchvision_stub import stub_torchvision

stub_torchvision()  # before MONAI looks for it

from benchmarks.doc_tables import DOCS  # noqa: E402
from benchmarks.machine import machine_line  # noqa: E402
from benchmarks.parts import PARTS, Record  # noqa: E402
from benchmarks.settings import Settings  # noqa: E402
from monai_adversarial.utils.files import replace_when_complete  # noqa: E402


def _parser() -> argparse.ArgumentParser:
    parts = "\n".join(f"  {part.name:<14} {part.what}" for part in PARTS)
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=f"{__doc__}\n\nparts:\n{parts}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    usual = Settings()
    parser.add_argument("--only", nargs="+", choices=[part.name for part in PARTS], help="parts to run (default: all)")
    parser.add_argument("--rounds", type=int, default=usual.rounds, help="interleaved rounds (default %(default)s)")
    parser.add_argument("--threads", type=int, default=usual.threads, help="CPU threads (default: all cores)")
    parser.add_argument("--device", default=usual.device)
    parser.add_argument("--size", type=int, default=usual.size, help="voxels along an axis of a step's volume")
    parser.add_argument("--volume", type=int, default=usual.volume, help="the same, where memory is counted in volumes")
    parser.add_argument("--layered", type=int, default=usual.layered, help="the same, where layers are computed again")
    parser.add_argument("--plane", type=int, default=usual.plane, help="pixels along an axis of a 2D image")
    parser.add_argument("--purifier-size", type=int, default=usual.purifier_size)
    parser.add_argument("--training-size", type=int, default=usual.training_size)
    parser.add_argument("--cases", type=int, default=usual.cases, help="phantoms for a Dice (default %(default)s)")
    parser.add_argument("--steps", type=int, default=usual.steps, help="steps where precision modes are compared")
    parser.add_argument("--passes", type=int, nargs="+", default=usual.passes, help="passes of attacks at equal cost")
    parser.add_argument("--no-compile", dest="compiled", action="store_false", help="leave out torch.compile")
    parser.add_argument("--output", type=Path, help="also write the tables to this Markdown file")
    parser.add_argument(
        "--save", type=Path, metavar="FOLDER", help="also write one JSON file per part into this folder"
    )
    parser.add_argument(
        "--docs",
        action="store_true",
        help="also renew docs/benchmarks/*.json, the tables of docs/benchmarks.md, and plot",
    )
    return parser


def _say(text: str) -> None:
    print(f"[benchmarks] {text}", file=sys.stderr, flush=True)


def main() -> int:
    """Run the parts that are asked for; a part that fails is named, the others go on."""
    arguments = vars(_parser().parse_args())
    only, output, folder, docs = (arguments.pop(name) for name in ("only", "output", "save", "docs"))
    settings = Settings(**{**arguments, "passes": tuple(arguments["passes"])})
    torch.set_num_threads(settings.threads)
    begin, failed = time.perf_counter(), []
    lines = [machine_line(settings)]
    print(lines[0], flush=True)
    for part in PARTS:
        if only and part.name not in only:
            continue
        _say(f"{part.name}: {part.what}")
        try:
            record: Record = part.run(settings, _say)
        except Exception as error:  # a part that fails must not take the figures of an hour with it
            failed.append(part.name)
            _say(f"{part.name} FAILED: {type(error).__name__}: {error}")
            continue
        for target in (folder, DOCS / "benchmarks" if docs else None):
            if target is not None and record.tables:
                record.save(target)
        new = ["", *(f"{table.markdown()}\n" for table in record.tables), f"{part.name} took {record.seconds:.0f} s."]
        print("\n".join(new), flush=True)  # at once, not at the end
        lines += new
    if output is not None:
        with replace_when_complete(output) as temporary:
            temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
    if docs:
        from benchmarks.benchmark_docs import renew

        renew(DOCS)
    _say(f"everything took {time.perf_counter() - begin:.0f} s{f'; FAILED: {failed}' if failed else ''}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
