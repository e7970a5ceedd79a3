# SPDX-License-Identifier: Apache-2.0
"""Attacks on frequencies and on the acquisition, on phantoms and the network of the CT bundle: tables and pictures.

python -m benchmarks.physics_docs frequency
python -m benchmarks.physics_docs acquisition

Each renews ``docs/NAME.json``, the table of ``docs/NAME.md`` that is made of it, and ``docs/images/NAME.png``.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import Orientation

from benchmarks.doc_tables import DOCS, replace_table
from benchmarks.strength import WINDOW, bundle_network
from monai_adversarial.attacks import (
    VAFA,
    AdvDrop,
    Attack,
    CTAcquisitionAttack,
    Cupping,
    DoseReduction,
    RandomSearch,
    ReconstructionKernel,
    RingArtifact,
    SliceThickness,
    SpeckleAttack,
    SpectralAttack,
    WindowShift,
)
from monai_adversarial.data.phantom import generate_ct_phantom
from monai_adversarial.metrics.structural_similarity import structural_similarity
from monai_adversarial.models import AttackedModel

__all__ = ["PAGES", "attacks", "measure", "phantom", "table", "with_table"]

SEEDS = (5000,)
LOW, HIGH = WINDOW["a_min"], WINDOW["a_max"]
SIZE, SPACING = (112, 96, 48), (3.2, 3.2, 4.0)
STEPS, QUERIES = 20, 10
PAGES = ("frequency", "acquisition")


def attacks(page: str) -> dict[str, Attack]:
    """What is measured, by the name that the page gives it."""
    if page == "frequency":
        return {
            "`VAFA()`": VAFA(),
            "`AdvDrop(steps=20, step_size=3)`": AdvDrop(steps=STEPS, step_size=3),
            "`SpectralAttack()`": SpectralAttack(),
            "`SpectralAttack(0.05, step_size=0.0125)`": SpectralAttack(0.05, step_size=0.0125),
            "`SpeckleAttack(0.1)`": SpeckleAttack(0.1),
        }
    blocks = [Cupping(), RingArtifact(), DoseReduction(), ReconstructionKernel(), SliceThickness(6.0), WindowShift()]
    made = {f"`{block!r}`": CTAcquisitionAttack([block], steps=6, restarts=1) for block in blocks}
    return {**made, "all of them": CTAcquisitionAttack(blocks, steps=6, restarts=1)}


def phantom(seed: int) -> tuple[MetaTensor, MetaTensor]:
    """Image in HU and label of a phantom on the grid of the bundle's network, (1, 1, spatial...)."""
    image, label, affine = generate_ct_phantom(seed, SIZE, SPACING, oblique=False)
    pair = (MetaTensor(torch.as_tensor(a.astype(np.float32))[None], affine=affine) for a in (image, label))
    first, second = (Orientation(axcodes="RAS", labels=None)(one)[None] for one in pair)
    return first, second


def model_of_bundle() -> AttackedModel:
    """The bundle's network, which sees HU through its window."""
    return AttackedModel(bundle_network("cpu"), intensity=WINDOW, image_units="HU")


def measure(page: str, seeds: tuple[int, ...] = SEEDS) -> tuple[list[dict[str, Any]], dict[str, np.ndarray]]:
    """One row for each attack, with means over the phantoms, and a slice of the first phantom under each."""
    model, cases = model_of_bundle(), [phantom(seed) for seed in seeds]
    untouched = CTAcquisitionAttack([WindowShift(0, 0)], steps=1)
    rows, slices = [], {"clean": slice_of(cases[0][0])}
    for name, attack in attacks(page).items():
        found: dict[str, list[float]] = {}
        for image, label in cases:
            result = attack(model, image, label)
            bound = result.bound
            control = bound.random_control(bound.scene.generators(1_000_000), result.parameters)
            random = untouched(model, bound.finished(bound.scene.image, control), label, spacing=SPACING)
            asked = Attack(attack.perturbation, search=RandomSearch(), steps=QUERIES)(model, image, label)
            shown = [((one.as_tensor() - LOW) / (HIGH - LOW)).clamp(0, 1) for one in (result.adversarial, image)]
            values = {
                "clean": result.clean_dice,
                "random": random.clean_dice,
                "queries": asked.adversarial_dice,
                "adversarial": result.adversarial_dice,
                "largest_change_hu": result.budgets["largest_change"].values,
                "rms_change_hu": result.budgets["rms_change"].values,
                "ssim": structural_similarity(*shown),
            }
            for key, value in values.items():
                found.setdefault(key, []).append(float(value))
            slices.setdefault(name, slice_of(result.adversarial))
        row = {"attack": name, "steps": attack.steps, "queries_asked": QUERIES, "phantoms": list(seeds)}
        rows.append(row | {key: float(np.mean(values)) for key, values in found.items()})
        print(rows[-1], flush=True)
    return rows, slices


def slice_of(volume: MetaTensor) -> np.ndarray:
    """The middle axial slice, front up."""
    return volume[0, 0, :, :, SIZE[2] // 2].as_tensor().numpy().T[::-1]


def table(rows: list[dict[str, Any]]) -> str:
    """The table of a page."""
    lines = [
        f"| attack | clean | random, same size | worst of {rows[0]['queries_asked']} draws | optimized | largest, RMS "
        "change in HU | SSIM |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        lines.append(
            f"| {row['attack']} | {row['clean']:.3f} | {row['random']:.3f} | {row['queries']:.3f} | "
            f"**{row['adversarial']:.3f}** | {row['largest_change_hu']:.0f}, {row['rms_change_hu']:.1f} | "
            f"{row['ssim']:.3f} |"
        )
    return "\n".join(lines)


def with_table(page: str, folder: Path = DOCS) -> str:
    """The page with its table made anew from its JSON file."""
    rows = json.loads((folder / f"{page}.json").read_text(encoding="utf-8"))
    return replace_table((folder / f"{page}.md").read_text(encoding="utf-8"), f"{page}.json", table(rows))


def picture(rows: list[dict[str, Any]], slices: dict[str, np.ndarray], file: Path) -> None:
    """A slice under each attack, and how it changed."""
    from matplotlib.figure import Figure

    clean, dice = slices["clean"], {row["attack"]: row["adversarial"] for row in rows}
    figure = Figure(figsize=(1.9 * len(slices), 4.6), layout="constrained")
    axes = figure.subplots(2, len(slices))
    for column, (name, changed) in enumerate(slices.items()):
        axes[0, column].imshow(changed, cmap="gray", vmin=LOW, vmax=HIGH)
        title = name.strip("`").split("(max")[0].split("(least")[0]
        axes[0, column].set_title(f"{title}\nDice {dice.get(name, rows[0]['clean']):.2f}", fontsize=8)
        shown = axes[1, column].imshow(changed - clean, cmap="RdBu_r", vmin=-60, vmax=60)
    axes[1, 0].set_visible(False)
    for axis in axes.flat:
        axis.set_xticks([])
        axis.set_yticks([])
    bar = figure.colorbar(shown, ax=axes[1, 1:], orientation="horizontal", shrink=0.4, aspect=40)
    bar.set_label("change in HU", fontsize=8)
    bar.ax.tick_params(labelsize=8)
    figure.savefig(file, dpi=70)


def main() -> int:
    """Measure, and renew the page."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.physics_docs", description=__doc__)
    parser.add_argument("page", choices=PAGES)
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default 1)")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    page = arguments.page
    rows, slices = measure(page)
    (DOCS / f"{page}.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    (DOCS / f"{page}.md").write_text(with_table(page), encoding="utf-8")
    picture(rows, slices, DOCS / "images" / f"{page}.png")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
